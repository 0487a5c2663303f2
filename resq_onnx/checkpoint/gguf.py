"""Convert a .gguf file to a Hugging Face model directory, dequantised to float32."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np

from resq_onnx.checkpoint.licence import KEYS
from resq_onnx.checkpoint.quiet import quiet_libraries
from resq_onnx.errors import blaming
from resq_onnx.files.tensor_file import tensor_file

TEXT: Final = 8
SCALARS: Final = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Metadata types by their number in the file: text, and the sizes in bytes of the others."""

LONGEST_TEXT: Final = 1 << 16
"""Largest text to read, in bytes: the length field may be damaged."""


def unpack_gguf(file: Path, folder: Path) -> None:
    """Write config.json, model.safetensors and the tokenizer of `file` into `folder`.

    Args:
        file: The .gguf file; transformers must know its architecture.
        folder: An existing, empty folder.

    Raises:
        ResqError: The file is damaged, or transformers cannot read it.
    """
    with quiet_libraries():
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
        from transformers import modeling_gguf_pytorch_utils as conversion

        with blaming(file, "cannot be read as a GGUF model", "download it again"):
            described = conversion.load_gguf_checkpoint(str(file))
            config = AutoConfig.for_model(**described["config"])
            with torch.device("meta"):
                model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
            tokenizer = AutoTokenizer.from_pretrained(
                file.parent, gguf_file=file.name, tokenizer_type=_tokenizer_type(config)
            )
            _write_weights(file, folder / "model.safetensors", model, described)
        # The config may still say the weights are GGUF's; they are plain float32 from here on.
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        model.config.architectures = [type(model).__name__]
        model.config.save_pretrained(folder)
        model.generation_config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    _write_licence(file, folder)


def _tokenizer_type(config: Any) -> str | None:
    """The model type, if it has a tokenizer; AutoTokenizer would read the whole file to find it."""
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES

    return config.model_type if TOKENIZER_MAPPING_NAMES.get(config.model_type) else None


def _write_weights(file: Path, target: Path, model: Any, described: dict[str, Any]) -> None:
    """Dequantise the weights to float32, one at a time.

    Args:
        file: The .gguf file.
        target: The .safetensors file to write.
        model: The model without weights: the names and shapes of its parameters.
        described: The file's metadata, as transformers reads them.

    Raises:
        ValueError: A weight is missing, or has another shape.
    """
    from gguf import GGUFReader, dequantize
    from transformers import modeling_gguf_pytorch_utils as conversion

    shapes = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        shapes.pop("lm_head.weight", None)
    reader = GGUFReader(str(file))
    (architecture, *_) = conversion.read_field(reader, "general.architecture")
    kind: Any = conversion.TENSOR_PROCESSORS.get(architecture, conversion.TensorProcessor)
    processor = kind(config=described["config"])
    names = conversion.get_gguf_hf_weights_map(_WithoutChildren(model), processor)
    missing = set(shapes)
    tensors = {name: ("F32", shape) for name, shape in shapes.items()}
    with tensor_file(target, tensors, {"format": "pt"}) as output:
        for tensor in reader.tensors:
            found = processor.process(
                weights=dequantize(tensor.data, tensor.tensor_type),
                name=tensor.name,
                tensor_key_mapping=names,
                parsed_parameters=described,
            )
            name = names.get(found.name)
            if name not in shapes:
                continue
            if found.weights.shape != shapes[name]:
                raise ValueError(
                    f"tensor {tensor.name} has shape {found.weights.shape}, the model requires "
                    f"{shapes[name]}"
                )
            output.write(name, np.asarray(found.weights, np.float32))
            missing.discard(name)
    if missing:
        raise ValueError(f"it has no tensor for {min(missing)}")


class _WithoutChildren:
    """A model as one module, for the table of names.

    Its own parameters have all names; transformers would make a table for each child as well.
    """

    def __init__(self, model: Any) -> None:
        self.config = model.config
        self.state_dict = model.state_dict

    def named_children(self) -> tuple[()]:
        return ()


def _write_licence(file: Path, folder: Path) -> None:
    """Write the licence in the file's metadata to README.md, as in a model directory."""
    import yaml

    said = leading_texts(file)
    names = {key: f"general.{key.replace('_', '.')}" for key in KEYS}
    found = {key: said[name] for key, name in names.items() if name in said}
    if found:
        (folder / "README.md").write_text(f"---\n{yaml.safe_dump(found)}---\n")


def leading_texts(file: Path) -> dict[str, str]:
    """The texts among a file's metadata, up to the first list: name, licence and the like.

    The gguf package would also read the lists; the token list alone takes seconds.
    """
    found: dict[str, str] = {}
    with file.open("rb") as stream:
        stream.seek(16)  # after "GGUF", the version, and the number of tensors
        try:
            (count,) = struct.unpack("<Q", stream.read(8))
            for _ in range(count):
                name = _read_text(stream)
                (kind,) = struct.unpack("<I", stream.read(4))
                if kind == TEXT:
                    found[name] = _read_text(stream)
                elif kind in SCALARS:
                    stream.seek(SCALARS[kind], 1)
                else:
                    break
        except (struct.error, ValueError):
            pass  # reading the weights rejects a damaged file
    return found


def _read_text(stream: BinaryIO) -> str:
    (length,) = struct.unpack("<Q", stream.read(8))
    if length > LONGEST_TEXT:
        raise ValueError(f"a text of {length} bytes")
    text = stream.read(length)
    if len(text) < length:
        raise ValueError("the file ends in a text")
    return text.decode()
