"""Files that appear complete or not at all, and checks of files that are read."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from resq_onnx.errors import ResqError


@dataclass(frozen=True)
class Staging:
    """A folder beside the target in which the output is made.

    Attributes:
        folder: Where to write; on the same file system as the target, so that publishing is
            a rename.
        target: The file the user asked for.
    """

    folder: Path
    target: Path

    @property
    def model(self) -> Path:
        """Where to write the model, under the name it will have."""
        return self.folder / self.target.name

    def publish(self) -> list[Path]:
        """Move everything into place, the model itself last; returns the final paths.

        Raises:
            ResqError: A file cannot be moved; those that it was to replace are back then.
        """
        staged = sorted(self.folder.iterdir(), key=lambda path: (path == self.model, path.name))
        finals = [self.target.parent / path.name for path in staged]
        replaced = Path(tempfile.mkdtemp(dir=self.folder))
        try:
            for path, final in zip(staged, finals, strict=True):
                with writing_to(final):
                    if final.is_file():
                        os.replace(final, replaced / final.name)
                    os.replace(path, final)
        except BaseException:  # Ctrl-C too: a model must not be left with another one's data
            for path, final in zip(staged, finals, strict=True):
                _take_back(path, final, replaced / final.name)
            raise
        return finals


@contextmanager
def staged(target: str | Path) -> Iterator[Staging]:
    """Make a staging folder for `target`; whatever happens, it is gone afterwards.

    Raises:
        ResqError: The target's folder cannot be written, or writing fails later (a full
            disk, a quota): the target is then untouched.
    """
    target = Path(target)
    with writing_to(target):
        if target.is_dir():
            raise ResqError(
                f"{target}: is a directory; name the file to write, e.g. {target}/model.onnx"
            )
        new_folders = [folder for folder in target.parents if not folder.exists()]
    # Named before it is made: Ctrl-C between the two must not leave it behind.
    staging = Staging(target.parent / f".{target.name}.{secrets.token_hex(8)}", target)
    try:
        with writing_to(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            staging.folder.mkdir(mode=0o700)
            yield staging
    finally:
        shutil.rmtree(staging.folder, ignore_errors=True)
        for folder in new_folders:  # the innermost first
            with suppress(OSError):
                folder.rmdir()  # refuses, as it should, where something was published


def check_is_file(path: Path) -> None:
    """Refuse a model that is not there.

    Raises:
        ResqError: `path` is no file.
    """
    if not path.is_file():
        raise ResqError(f"{path}: no such file; give the .onnx file that resq-onnx export wrote")


def model_files(folder: Path) -> list[Path]:
    """The .onnx files of a folder that may be meant by its name: model.onnx alone, or all."""
    usual = folder / "model.onnx"
    return [usual] if usual.is_file() else sorted(folder.glob("*.onnx"))


def holds_original(path: Path) -> bool:
    """Whether a path is a model to export: a .gguf file, or a folder with safetensors' weights."""
    names = ("model.safetensors", "model.safetensors.index.json")
    return path.suffix == ".gguf" or any((path / name).is_file() for name in names)


def find_model(path: Path) -> Path:
    """The exported model that a path names: the file itself, or the one that a folder holds.

    Raises:
        ResqError: There is none, or one among several would have to be chosen.
    """
    found = model_files(path) if path.is_dir() else [path]
    if len(found) > 1:
        names = ", ".join(one.name for one in found)
        raise ResqError(f"{path}: holds several .onnx files ({names}); name one of them")
    if holds_original(found[0] if found else path):
        raise ResqError(
            f"{path}: is an original model, no exported one; export it first: "
            f"resq-onnx export {path} OUT/model.onnx"
        )
    if not found:
        raise ResqError(f"{path}: holds no .onnx file; give the folder that resq-onnx export wrote")
    check_is_file(found[0])
    return found[0]


@contextmanager
def writing_to(path: Path) -> Iterator[None]:
    """Say which file it was that could not be written.

    Raises:
        ResqError: In place of an OSError.
    """
    try:
        yield
    except OSError as error:
        # A write that stops half way, as on a full disk, has no error number in numpy.
        reason = error.strerror or f"no room for all of it ({error})"
        raise ResqError(
            f"{path}: cannot be written: {reason}; choose another place or make room, "
            "nothing was changed"
        ) from error


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Where to write one file that then takes the target's place; nothing is left of a failure.

    Raises:
        OSError: It cannot be put there.
    """
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    try:
        yield temporary
        os.replace(temporary, target)
    finally:
        with suppress(OSError):
            temporary.unlink()


def _take_back(staged: Path, final: Path, old: Path) -> None:
    """Undo what was done of moving `staged` to `final`, and before that `final` to `old`."""
    with suppress(OSError):
        if not staged.exists():
            os.replace(final, staged)
        if old.exists():
            os.replace(old, final)
