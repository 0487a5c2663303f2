"""Staging folders: publish a model, its data and companion files together or not at all.

The files are written to a hidden folder beside the target, and published so that no interruption,
not even a kill or a power cut, leaves a mixture of old and new files:

1. All files are on disk before anything is moved.
2. The folder is renamed so that other processes find it, `.NAME.publishing`: from here on the new
   files are complete, whatever happens.
3. The old target is moved away. Without it, the files beside it belong to no model.
4. The new files are moved into place, the target last.

Where the target is missing and `.NAME.publishing` is there, a publisher was killed between 3 and
the end of 4: the next process that reads or writes the target completes step 4
(`finish_publishing`). In all other states either the old files are complete or the new ones are.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from resq_onnx.errors import ResqError
from resq_onnx.files.locking import folder_locked, locked
from resq_onnx.files.writing import sync, writing_to

REPLACED: Final = ".replaced"
"""Folder for the old files, inside that of the new ones."""

PATIENCE_SECONDS: Final = 10.0
"""Seconds that a reader waits for a publisher, which moves a dozen files."""


@dataclass(frozen=True)
class Staging:
    """A folder beside the target to which the output is written.

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
            ResqError: A file cannot be moved; the old files have been restored.
        """
        finals = [self.target.parent / path.name for path in _staged_files(self.folder, self.model)]
        ready = _publishing(self.target)
        with writing_to(self.target):
            for final in finals:
                sync(self.folder / final.name)
            (self.folder / REPLACED).mkdir()
            sync(self.folder)
        try:
            with writing_to(self.target), folder_locked(self.target.parent):
                os.replace(self.folder, ready)
                _put_in_place(ready, self.target)
        except BaseException:  # Ctrl-C too
            _take_back(ready, finals, self.folder)
            raise
        _remove(ready, self.target)
        return finals


@contextmanager
def staged(target: str | Path) -> Iterator[Staging]:
    """Make a staging folder for `target`; it is always removed afterwards.

    Leftovers of killed processes for the same target are first published or removed.

    Raises:
        ResqError: The target's folder cannot be written, or another process writes the target.
    """
    target = Path(target)
    # Named before it is created, so that Ctrl-C in between cannot leave it behind.
    staging = Staging(_hidden(target), target)
    with ExitStack() as stack:
        with writing_to(target):
            if target.is_dir():
                raise ResqError(
                    f"{target}: is a directory; name the file to write, e.g. {target}/model.onnx"
                )
            stack.callback(_remove_empty, [one for one in target.parents if not one.exists()])
            target.parent.mkdir(parents=True, exist_ok=True)
            if stack.enter_context(locked(target)):
                _settle(target)
            stack.callback(shutil.rmtree, staging.folder, ignore_errors=True)
            staging.folder.mkdir(mode=0o700)
        yield staging


def finish_publishing(target: Path) -> None:
    """Finish publishing a model whose publisher was killed.

    Raises:
        ResqError: The model is incomplete, and cannot be completed now.
    """
    if target.exists() or not _publishing(target).is_dir():
        return
    try:
        with locked(target, PATIENCE_SECONDS) as held:
            if held:
                _settle(target)
    except OSError as error:
        raise ResqError(
            f"{target}: an export was killed while it put its files in place, and they cannot be "
            f"put there now: {error.strerror}; run `resq-onnx inspect {target}` as a user who may "
            "write into the folder, or export it again"
        ) from error


def unfinished(folder: Path) -> list[Path]:
    """The targets in a folder whose publisher was killed or is still running."""
    left = sorted(folder.glob(_publishing(Path("*")).name))
    return [folder / path.name.removeprefix(".").removesuffix(".publishing") for path in left]


def _publishing(target: Path) -> Path:
    return target.with_name(f".{target.name}.publishing")


def _staged_files(folder: Path, model: Path) -> list[Path]:
    """The files to publish, the model last."""
    files = [path for path in folder.iterdir() if path.name != REPLACED]
    return sorted(files, key=lambda path: (path.name == model.name, path.name))


def _put_in_place(ready: Path, target: Path) -> None:
    """Do steps 3 and 4, or complete them for a killed process."""
    folder, replaced = target.parent, ready / REPLACED
    with writing_to(target):
        if target.exists():
            os.replace(target, replaced / target.name)
            sync(folder)
    for path in _staged_files(ready, target):
        final = folder / path.name
        with writing_to(final):
            if path.name == target.name:
                sync(folder)
            elif final.is_file() or final.is_symlink():
                os.replace(final, replaced / final.name)
            os.replace(path, final)
    with writing_to(target):
        sync(folder)


def _take_back(ready: Path, finals: list[Path], folder: Path) -> None:
    """Undo `_put_in_place`: the target last, and only then the new files lose their name.

    If an old file cannot be restored, they keep the name, and publishing can still be finished.
    """
    with suppress(OSError):
        for final in finals:
            if not (ready / final.name).exists():
                os.replace(final, ready / final.name)
            if os.path.lexists(old := ready / REPLACED / final.name):
                os.replace(old, final)
        os.replace(ready, folder)


def _settle(target: Path) -> None:
    """Publish or remove leftovers of killed processes; the caller holds the lock."""
    ready = _publishing(target)
    if ready.is_dir():
        if not target.exists():
            _put_in_place(ready, target)
        _remove(ready, target)
    stale = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{16}}")
    for path in list(target.parent.iterdir()):
        if stale.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)


def _remove(ready: Path, target: Path) -> None:
    """Rename the folder, then remove it: a half-removed one must never pass for new files."""
    with suppress(OSError):
        os.replace(ready, other := _hidden(target))
        shutil.rmtree(other)


def _hidden(target: Path) -> Path:
    """A new name beside the target; the next process removes what a killed one leaves there."""
    return target.with_name(f".{target.name}.{secrets.token_hex(8)}")


def _remove_empty(folders: list[Path]) -> None:
    """Remove folders, the innermost first, in which nothing was published."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()
