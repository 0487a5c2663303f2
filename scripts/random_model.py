"""Write a random model of a real model's shape, for tests of size and not of quality.

    python -m scripts.random_model Llama-3-8B FOLDER --tokenizer MODEL [--layers N]

The weights are bfloat16, in files of at most 2 GB, and written tensor by tensor. Their sizes are
those of an initialised model; a few channels are louder, as in trained ones. The tokenizer is that
of MODEL, whose vocabulary may be smaller.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import ml_dtypes
import numpy as np

from resq_onnx.checkpoint.source import ModelSource, open_model
from resq_onnx.families import layout_of
from resq_onnx.files import copy_file
from resq_onnx.files.tensor_file import tensor_file

LLAMA: Final[dict[str, Any]] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "max_position_embeddings": 8192,
    "vocab_size": 128256,
    "num_key_value_heads": 8,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
QWEN2: Final[dict[str, Any]] = LLAMA | {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "max_position_embeddings": 32768,
    "vocab_size": 151936,
}


def _shape(
    family: dict[str, Any],
    layers: int,
    hidden: int,
    intermediate: int,
    heads: int,
    kv_heads: int = 8,
    **others: Any,
) -> dict[str, Any]:
    return family | {
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        **others,
    }


SHAPES: Final = {
    "Llama-3.2-1B": _shape(LLAMA, 16, 2048, 8192, 32, tie_word_embeddings=True),
    "Llama-3.2-3B": _shape(LLAMA, 28, 3072, 8192, 24, tie_word_embeddings=True),
    "Llama-3-8B": _shape(LLAMA, 32, 4096, 14336, 32),
    "Llama-3-70B": _shape(LLAMA, 80, 8192, 28672, 64),
    "Qwen2.5-0.5B": _shape(QWEN2, 24, 896, 4864, 14, 2, tie_word_embeddings=True),
    "Qwen2.5-1.5B": _shape(QWEN2, 28, 1536, 8960, 12, 2, tie_word_embeddings=True),
    "Qwen2.5-3B": _shape(QWEN2, 36, 2048, 11008, 16, 2, tie_word_embeddings=True),
    "Qwen2.5-7B": _shape(QWEN2, 28, 3584, 18944, 28, 4, vocab_size=152064),
}
"""config.json of each shape, from the models' cards."""

FILE_BYTES: Final = 2_000_000_000

LOUD: Final = 64
"""One channel in so many has weights that write eight times as much to the residual stream."""

ROWS_AT_A_TIME: Final = 4096


def tensors_of(config: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of every tensor, in the order in which they are written."""
    layout = layout_of(config, "the shape")
    hidden, middle = layout.hidden_size, layout.intermediate_size
    queries, keys = (n * layout.head_dim for n in (layout.num_heads, layout.num_kv_heads))
    yield "model.embed_tokens.weight", (layout.vocab_size, hidden)
    for layer in range(layout.num_layers):
        at = f"model.layers.{layer}"
        for name, rows in (("q", queries), ("k", keys), ("v", keys)):
            yield f"{at}.self_attn.{name}_proj.weight", (rows, hidden)
            if config["model_type"] == "qwen2":
                yield f"{at}.self_attn.{name}_proj.bias", (rows,)
        yield f"{at}.self_attn.o_proj.weight", (hidden, queries)
        yield f"{at}.mlp.gate_proj.weight", (middle, hidden)
        yield f"{at}.mlp.up_proj.weight", (middle, hidden)
        yield f"{at}.mlp.down_proj.weight", (hidden, middle)
        yield f"{at}.input_layernorm.weight", (hidden,)
        yield f"{at}.post_attention_layernorm.weight", (hidden,)
    yield "model.norm.weight", (hidden,)
    if not layout.tied:
        yield "lm_head.weight", (layout.vocab_size, hidden)


def write_random_model(shape: str, folder: Path, source: ModelSource, layers: int | None) -> None:
    """Write the folder.

    Args:
        shape: A key of `SHAPES`.
        folder: Is made if it is not there.
        source: The model whose tokenizer it gets.
        layers: Number of layers, if not that of the shape.
    """
    config = SHAPES[shape] | ({} if layers is None else {"num_hidden_layers": layers})
    folder.mkdir(parents=True, exist_ok=True)
    ends = {name: source.config.get(name) for name in ("bos_token_id", "eos_token_id")}
    (folder / "config.json").write_text(json.dumps(config | ends, indent=2) + "\n")
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        if (source.folder / name).is_file():
            copy_file(source.folder / name, folder / name)
    rng, weight_map = np.random.default_rng(0), {}
    files = list(_files(list(tensors_of(config))))
    for number, group in enumerate(files, start=1):
        name = f"model-{number:05}-of-{len(files):05}.safetensors"
        described = {tensor: ("BF16", size) for tensor, size in group}
        with tensor_file(folder / name, described, {"format": "pt"}) as file:
            for tensor, size in group:
                weight_map[tensor] = name
                for start in range(0, size[0], ROWS_AT_A_TIME):
                    rows = _rows(tensor, size, slice(start, start + ROWS_AT_A_TIME), rng)
                    file.write(tensor, rows.view(np.int16), 2 * start * math.prod(size[1:]))
        print(f"{name}: {sum(2 * math.prod(size) for _, size in group) / 1e9:.2f} GB", flush=True)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def _files(
    tensors: list[tuple[str, tuple[int, ...]]],
) -> Iterator[list[tuple[str, tuple[int, ...]]]]:
    """Groups of tensors of at most `FILE_BYTES`, or of one tensor."""
    group: list[tuple[str, tuple[int, ...]]] = []
    size = 0
    for one in tensors:
        if group and size + 2 * math.prod(one[1]) > FILE_BYTES:
            yield group
            group, size = [], 0
        group.append(one)
        size += 2 * math.prod(one[1])
    yield group


def _rows(name: str, shape: tuple[int, ...], rows: slice, rng: np.random.Generator) -> Any:
    """Some rows of a tensor, bfloat16."""
    count = len(range(shape[0])[rows])
    if len(shape) == 1:
        offset = 1.0 if "norm" in name else 0.0
        return (offset + 0.02 * rng.standard_normal(count, np.float32)).astype(ml_dtypes.bfloat16)
    values = rng.standard_normal((count, shape[1]), np.float32)
    values *= 1.0 if "embed" in name else shape[1] ** -0.5
    if name.endswith(("o_proj.weight", "down_proj.weight")):
        values[np.arange(rows.start, rows.start + count) % LOUD == 0] *= 8.0
    return values.astype(ml_dtypes.bfloat16)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("shape", choices=list(SHAPES))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tokenizer", type=Path, required=True, metavar="MODEL")
    parser.add_argument("--layers", type=int, help="number of layers, if not all")
    options = parser.parse_args()
    with open_model(options.tokenizer) as source:
        write_random_model(options.shape, options.folder, source, options.layers)


if __name__ == "__main__":
    main()
