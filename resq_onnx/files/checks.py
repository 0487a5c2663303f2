"""Checks of input files: they exist, are regular files, and belong to their folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from resq_onnx.errors import ResqError
from resq_onnx.files.staging import finish_publishing, unfinished


def check_is_file(path: Path) -> None:
    """Reject a missing model; first finish publishing one whose export was killed.

    Raises:
        ResqError: `path` is not a file.
    """
    if not path.is_file():
        finish_publishing(path)
    if not path.is_file():
        raise ResqError(f"{path}: no such file; give the .onnx file that resq-onnx export wrote")


def model_files(folder: Path) -> list[Path]:
    """The .onnx files that a folder's name may stand for: only model.onnx if it exists, or all."""
    for target in unfinished(folder):
        finish_publishing(target)
    usual = folder / "model.onnx"
    return [usual] if usual.is_file() else sorted(folder.glob("*.onnx"))


def holds_original(path: Path) -> bool:
    """Whether a path is a model to export: a .gguf file, or a folder with .safetensors weights."""
    names = ("model.safetensors", "model.safetensors.index.json")
    return path.suffix == ".gguf" or any((path / name).is_file() for name in names)


def find_model(path: Path) -> Path:
    """The exported model that a path names: the file itself, or the one that a folder holds.

    Raises:
        ResqError: There is no model, or several to choose from.
    """
    found = model_files(path) if path.is_dir() else [path]
    if len(found) > 1:
        names = ", ".join(one.name for one in found)
        raise ResqError(f"{path}: holds several .onnx files ({names}); name one of them")
    if holds_original(found[0] if found else path):
        raise ResqError(
            f"{path}: is an original model, not an exported one; export it first: "
            f"resq-onnx export {path} OUT/model.onnx"
        )
    if not found:
        raise ResqError(f"{path}: holds no .onnx file; give the folder that resq-onnx export wrote")
    check_is_file(found[0])
    return found[0]


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Name the file in reading errors; reject a pipe instead of waiting for it.

    Raises:
        ResqError: Replaces an OSError; or `path` exists and is not a file.
    """
    if path.exists() and not path.is_file():
        raise ResqError(f"{path}: is not a regular file; put a file there, or remove it")
    try:
        yield
    except OSError as error:
        raise ResqError(f"{path}: cannot be read: {error.strerror or error}") from error


def copy_file(source: Path, target: Path) -> None:
    """Copy the contents of a file.

    Raises:
        ResqError: The source cannot be opened.
        OSError: The target cannot be written.
    """
    with reading(source):
        stream = source.open("rb")
    with stream, target.open("wb") as copy:
        shutil.copyfileobj(stream, copy, 1 << 20)


def check_stays_inside(path: Path) -> None:
    """Reject a link out of its folder: its target does not belong to the model.

    Links within a Hugging Face cache are allowed: `snapshots/REVISION/NAME` leads to
    `blobs/DIGEST`.

    Raises:
        ResqError: The link leads elsewhere.
    """
    if not path.is_symlink():
        return
    folder, found = path.parent.resolve(), Path(os.path.realpath(path))
    own = [folder]
    if folder.parent.name == "snapshots":
        own.append(folder.parent.parent / "blobs")
    if not any(found.is_relative_to(one) for one in own):
        raise ResqError(
            f"{path}: is a link to {found}, outside of the model's folder; if that is the model's, "
            "put a copy of the file in place of the link"
        )
