"""onnxruntime-genai: genai_config.json, and our operator library inside the folder.

onnxruntime-genai (tried: 0.18) is told of a model by genai_config.json. It loads one library of
custom operators, from the model's own folder. The cache it takes as it finds it: of type UINT8,
and its last dimension is what `head_size` says, for us the bytes of a record.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from resq_onnx.errors import ResqError
from resq_onnx.files.contents import read_json
from resq_onnx.handoff.target import Target
from resq_onnx.methods import FORMATS
from resq_onnx.recipe import Recipe
from resq_onnx.runtime.library import CPU_DTYPES, CUDA_LIBRARY_NAME, LIBRARY_NAME, library_path

if TYPE_CHECKING:
    from resq_onnx.families import ModelLayout

CONFIG_NAME: Final = "genai_config.json"

REMEDY: Final = "put the original model's file there"
"""What to do where a file of the model's configuration is damaged."""

MODEL_TYPE: Final = "decoder"
"""What onnxruntime-genai calls any decoder of text. Names of families would add special cases
that are about its own builder's graphs, and it refuses names that it does not know."""

MAX_LENGTH: Final = 4096
"""Tokens of prompt and answer unless a program asks for others: a shared cache of this length is
allocated and cleared for each generator, and a model's context may be many times longer."""

SAMPLING: Final[Mapping[str, Any]] = {
    "do_sample": False,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "repetition_penalty": 1.0,
}
"""What a model's generation_config.json may say, and what it means where it says nothing."""


def genai_config(model: Path) -> dict[str, Any]:
    """What onnxruntime-genai has to know of a written model, but for the library.

    Args:
        model: The .onnx file; its tokenizer and configuration lie beside it.
    """
    from resq_onnx.families import layout_of
    from resq_onnx.runtime.tokenizer import Tokenizer

    said = [
        read_json(model.with_name(f"{name}.json"), REMEDY, optional=True)
        for name in ("config", "generation_config")
    ]
    layout = layout_of(said[0], str(model))
    stops = sorted(Tokenizer.load(model.parent).stop_ids)
    tokens = {
        name: next((one[name] for one in said if one.get(name) is not None), otherwise)
        for name, otherwise in {"bos_token_id": None, "pad_token_id": next(iter(stops), 0)}.items()
    }
    sampling = {name: value for name, value in said[1].items() if name in SAMPLING and value}
    return {
        "model": {
            "type": MODEL_TYPE,
            "vocab_size": layout.vocab_size,
            "context_length": layout.max_positions,
            **{name: token for name, token in tokens.items() if token is not None},
            "eos_token_id": stops,
            "decoder": _decoder(model, layout),
        },
        "search": {
            **SAMPLING,
            **sampling,
            "max_length": min(layout.max_positions, MAX_LENGTH),
            "past_present_share_buffer": True,
        },
    }


def _decoder(model: Path, layout: ModelLayout) -> dict[str, Any]:
    """Of the graph: its file, sizes, inputs and outputs."""
    import onnx_ir as ir

    inputs = {value.name: value.shape for value in ir.load(model).graph.inputs}
    plain = [name for name in ("input_ids", "attention_mask", "position_ids") if name in inputs]
    cache = inputs["past_key_values.0.key"]
    assert cache is not None
    return {
        "filename": model.name,
        "session_options": {"provider_options": []},
        "hidden_size": layout.hidden_size,
        "head_size": cache[3],
        "num_attention_heads": layout.num_heads,
        "num_key_value_heads": cache[1],
        "num_hidden_layers": layout.num_layers,
        "inputs": {
            **{name: name for name in plain},
            "past_key_names": "past_key_values.%d.key",
            "past_value_names": "past_key_values.%d.value",
        },
        "outputs": {
            "logits": "logits",
            "present_key_names": "present.%d.key",
            "present_value_names": "present.%d.value",
        },
    }


def _has_our_operators(recipe: Recipe) -> bool:
    return recipe.form.keeps_functions


def _check(recipe: Recipe) -> None:
    if recipe.dtype not in CPU_DTYPES:
        raise ResqError(
            f"target genai runs a model by our operators for CPUs, which have no kernels for dtype "
            f"{recipe.dtype}; use --dtype {' or '.join(CPU_DTYPES)}, or --target ort"
        )
    if _has_our_operators(recipe):
        library_path()  # it says what to do where nothing was compiled


def _write(model: Path, recipe: Recipe) -> None:
    config = genai_config(model)
    if _has_our_operators(recipe):
        library = library_path()
        shutil.copyfile(library, model.with_name(library.name))
        beside = library.with_name(f"{CUDA_LIBRARY_NAME}{library.suffix}")
        if beside.is_file():  # the first loads it by itself
            shutil.copyfile(beside, model.with_name(beside.name))
        config["model"]["decoder"]["session_options"]["custom_ops_library"] = library.name
    model.with_name(CONFIG_NAME).write_text(json.dumps(config, indent=2) + "\n")


GENAI: Final = Target(
    name="genai",
    about="onnxruntime-genai",
    formats=tuple(FORMATS),
    usage="""\
```console
$ pip install onnxruntime-genai
```

```python
import json

import onnxruntime_genai as og

model = og.Model(".")  # this folder
tokenizer = og.Tokenizer(model)
{% if chat %}
messages = json.dumps([{"role": "user", "content": "Tell me about the sea."}])
prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
{% else %}
prompt = "Once upon a time"
{% endif %}
ids = tokenizer.encode(prompt)
params = og.GeneratorParams(model)
params.set_search_options(max_length=len(ids) + 60)
generator = og.Generator(model, params)
generator.append_tokens(ids)
stream = tokenizer.create_stream()
while not generator.is_done():
    generator.generate_next_token()
    print(stream.decode(generator.get_next_tokens()[0]), end="", flush=True)
```
{% if recipe.format == "custom" %}

The folder holds all that is needed, and may be moved. Its library of operators is compiled for
{{ platform }}; on another system, export the model there, or with `--target portable`.
{% endif %}
""",
    files={
        CONFIG_NAME: "what onnxruntime-genai has to know of the model",
        f"{LIBRARY_NAME}.*": "the operators, compiled; part of resq-onnx, Apache-2.0",
    },
    defaults={"logits": "last"},
    check=_check,
    write=_write,
)
