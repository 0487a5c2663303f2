"""Files that appear complete or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
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
            ResqError: A file cannot be moved.
        """
        staged = sorted(self.folder.iterdir(), key=lambda path: (path == self.model, path.name))
        published = []
        for path in staged:
            final = self.target.parent / path.name
            try:
                os.replace(path, final)
            except OSError as error:
                raise _cannot_write(final, error) from error
            published.append(final)
        return published


@contextmanager
def staged(target: str | Path) -> Iterator[Staging]:
    """Make a staging folder for `target`; whatever happens, it is gone afterwards.

    Raises:
        ResqError: The target's folder cannot be written, or writing fails later (a full
            disk, a quota): the target is then untouched.
    """
    target = Path(target)
    if target.is_dir():
        raise ResqError(
            f"{target}: is a directory; name the file to write, e.g. {target}/model.onnx"
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise _cannot_write(target, error) from error
    try:
        yield Staging(folder, target)
    except OSError as error:
        raise _cannot_write(target, error) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _cannot_write(path: Path, error: OSError) -> ResqError:
    reason = error.strerror or str(error)
    return ResqError(
        f"{path}: cannot be written: {reason}; choose another place or make room, "
        "nothing was changed"
    )
