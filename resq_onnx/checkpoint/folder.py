"""Files of a model directory: names that are read or copied, and checks of their links."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from resq_onnx.checkpoint.licence import FILES as LICENCE_FILES
from resq_onnx.errors import ResqError
from resq_onnx.files.checks import check_stays_inside

COMPANION_FILES: Final = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)
"""Files of a model directory that belong beside the exported model."""

WEIGHTS: Final = ("model.safetensors", "model.safetensors.index.json")
"""File names under which a folder's weights are found, even beside other .safetensors files."""


def check_folder(folder: Path) -> None:
    """Reject pipes in place of files, and links that would copy files from elsewhere.

    Copied files must belong to the folder or its Hugging Face cache. Weights are not copied, so
    links to them may lead anywhere.

    Raises:
        ResqError: Names the file.
    """
    for path in _entries(folder):
        if _is_copied(path.name):
            check_stays_inside(path)
        if not _is_read(path.name):
            continue
        if path.is_symlink() and not path.exists():
            raise ResqError(f"{path}: is a link to nothing; download the model again")
        if not path.is_file() and not path.is_dir():
            raise ResqError(f"{path}: is not a regular file; is this a model directory?")


def files_of(model: str | Path) -> list[Path]:
    """The files that a model is read from, including optional ones that are missing.

    Args:
        model: A model directory or a .gguf file, which may be missing.
    """
    model = Path(model)
    if not model.is_dir():
        return [model]
    there = [path for path in _entries(model) if _is_read(path.name) and path.is_file()]
    return sorted({*there, *(model / name for name in (*COMPANION_FILES, *WEIGHTS))})


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ResqError(f"{folder}: cannot be read: {error.strerror}") from error


def _is_copied(name: str) -> bool:
    return name in COMPANION_FILES or LICENCE_FILES.fullmatch(name) is not None


def _is_read(name: str) -> bool:
    """Whether we or transformers may open a file of this name."""
    return _is_copied(name) or name in ("README.md", *WEIGHTS) or name.endswith(".safetensors")
