"""Work folder: finished parts of a long computation, which survive a kill and are gone on with.

A part is a safetensors file that appears by an atomic rename once it is on disk, or an array mapped
to memory whose writer says when it is complete. `work.json` says what the parts belong to: parts
of another model, of other settings or of another version of this package are never used.
"""

from __future__ import annotations

import json
import mmap
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

from resq_onnx import __version__
from resq_onnx.errors import ResqError, blaming
from resq_onnx.files.contents import read_json
from resq_onnx.files.locking import locked
from resq_onnx.files.writing import replacing, sync, writing_to

IDENTITY: Final = "work.json"
FORMAT: Final = 5
"""Of the parts' names and contents, which may change between two releases."""

REMEDY: Final = "remove the folder, or use --fresh"


@dataclass(frozen=True)
class WorkFolder:
    """Where the finished parts are.

    Attributes:
        folder: It exists.
    """

    folder: Path

    def has(self, name: str) -> bool:
        """Whether a part is finished."""
        return self.file(name).is_file()

    @property
    def holds_parts(self) -> bool:
        """Whether any part is finished."""
        return any(self.folder.glob("*.safetensors"))

    def names(self, pattern: str) -> list[str]:
        """The finished parts whose names match a pattern with `*`."""
        return [file.stem for file in self.folder.glob(f"{pattern}.safetensors")]

    def save(self, name: str, tensors: Mapping[str, NDArray[Any]] | None = None) -> None:
        """Finish a part; it is on disk when this returns.

        Raises:
            ResqError: It cannot be written.
        """
        arrays = {key: np.ascontiguousarray(tensor) for key, tensor in (tensors or {}).items()}
        with writing_to(self.file(name)):
            with replacing(self.file(name)) as temporary:
                save_file(arrays, temporary)
            sync(self.folder)

    def load(self, name: str, *wanted: str) -> dict[str, NDArray[Any]]:
        """The tensors of a finished part; all of them, or those that are named.

        Raises:
            ResqError: It cannot be read.
        """
        path = self.file(name)
        with (
            blaming(path, "a finished part that cannot be read", REMEDY),
            safe_open(path, framework="numpy") as file,
        ):
            return {key: file.get_tensor(key) for key in wanted or file.keys()}

    def array(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """A float32 array in a file, mapped to memory; a new one has zeros.

        Its room is taken at once: on a full disk, a write to mapped memory would end the process.

        Raises:
            ResqError: There is no room for it.
        """
        path, size = self.folder / f"{name}.f32", 4 * int(np.prod(shape))
        with writing_to(path):
            with path.open("ab") as file:
                if size:
                    os.posix_fallocate(file.fileno(), 0, size)
            return np.memmap(path, np.float32, "r+", shape=shape) if size else np.zeros(shape, "f4")

    def discard(self, name: str) -> None:
        """Remove an array, if it is there."""
        (self.folder / f"{name}.f32").unlink(missing_ok=True)

    def remove_part(self, name: str) -> None:
        """Remove a part, if it is there."""
        self.file(name).unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the folder and all parts."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def file(self, name: str) -> Path:
        """The file of a part."""
        return self.folder / f"{name}.safetensors"


def flush(array: NDArray[Any]) -> None:
    """Wait until an array of a work folder is on disk; its pages leave this process's memory."""
    if isinstance(array, np.memmap):
        array.flush()
        mapping = getattr(array, "_mmap", None)  # NumPy has no public name for it
        if mapping is not None and hasattr(mmap, "MADV_DONTNEED"):
            mapping.madvise(mmap.MADV_DONTNEED)


def usual_folder(target: Path) -> Path:
    """The work folder of a target, beside it."""
    return target.with_name(f".{target.name}.work")


@contextmanager
def working(
    target: Path, identity: Mapping[str, Any], folder: Path | None = None, *, fresh: bool = False
) -> Iterator[tuple[WorkFolder, list[str]]]:
    """Open the work folder of a target; it is removed on success, and if it holds no part.

    Args:
        target: The file that is being made.
        identity: What the parts depend on, as JSON has it, beside this package's version.
        folder: Where it is, if not beside the target.
        fresh: Whether finished parts are removed first.

    Yields:
        The folder, and which entries of the identity had changed, so that parts were removed.

    Raises:
        ResqError: It cannot be written, is something else, or another process works in it.
    """
    folder = usual_folder(target) if folder is None else folder
    work = WorkFolder(folder)
    whole = json.loads(json.dumps({"format": FORMAT, "version": __version__, **identity}))
    with writing_to(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        _refuse_other(folder)
    with locked(folder):
        changed = _changes(folder, whole)
        if fresh or changed:
            work.remove()
        with writing_to(folder):
            folder.mkdir(mode=0o700, exist_ok=True)
            with replacing(folder / IDENTITY) as temporary:
                temporary.write_text(json.dumps(whole, indent=2) + "\n")
        try:
            yield work, changed
        except BaseException:
            if not work.holds_parts:
                work.remove()
            raise
        work.remove()


def _refuse_other(folder: Path) -> None:
    """Refuse a folder that is not a work folder: all in it would be removed."""
    if folder.is_dir() and not any(folder.iterdir()):
        return
    if os.path.lexists(folder) and not (folder / IDENTITY).is_file():
        raise ResqError(
            f"{folder}: is there already, and is not a work folder; name another one with --work"
        )


def _changes(folder: Path, whole: Mapping[str, Any]) -> list[str]:
    """Entries that differ from those of the parts in a folder; empty if it is new."""
    if not (folder / IDENTITY).is_file():
        return []
    try:
        found = read_json(folder / IDENTITY, REMEDY)
    except ResqError:  # cut off when the machine went down
        return [IDENTITY]
    return sorted(name for name in {*found, *whole} if found.get(name) != whole.get(name))
