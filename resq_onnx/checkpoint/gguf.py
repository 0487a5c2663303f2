"""Convert a .gguf file to a Hugging Face model directory, dequantised to float32."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO, Final

from resq_onnx.checkpoint.licence import KEYS
from resq_onnx.checkpoint.quiet import quiet_libraries
from resq_onnx.errors import blaming

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
        from safetensors.torch import save_file
        from transformers import AutoModelForCausalLM, AutoTokenizer

        with blaming(file, "cannot be read as a GGUF model", "download it again"):
            model = AutoModelForCausalLM.from_pretrained(
                file.parent, gguf_file=file.name, dtype=torch.float32
            )
            tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        state = model.state_dict()
        if model.config.tie_word_embeddings:
            state.pop("lm_head.weight", None)
        # The config still says the weights are GGUF's; they are plain float32 from here on.
        del model.config.quantization_config
        save_file(
            {name: tensor.contiguous() for name, tensor in state.items()},
            folder / "model.safetensors",
            metadata={"format": "pt"},
        )
        model.config.architectures = [type(model).__name__]
        model.config.save_pretrained(folder)
        model.generation_config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    _write_licence(file, folder)


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
