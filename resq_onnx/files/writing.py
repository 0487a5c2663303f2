"""Write files atomically; errors name the file."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from resq_onnx.errors import ResqError

ONLY_WRITING: Final = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}
"""Errors that only writing can cause: disk full, quota exceeded, read-only file system, file too
large."""


@contextmanager
def writing_to(path: Path) -> Iterator[None]:
    """Name the file that could not be written, or read while writing it.

    Args:
        path: The file or folder to write. Files beside it whose names begin with `.NAME.` count as
            part of it.

    Raises:
        ResqError: Replaces an OSError.
    """
    try:
        yield
    except OSError as error:
        other = _other_file(error, path)
        if other is not None:
            raise ResqError(
                f"{other}: cannot be read: {error.strerror}; nothing was changed"
            ) from error
        # A write that stops half way, as on a full disk, has no error number in numpy.
        reason = error.strerror or f"no room for all of it ({error})"
        raise ResqError(
            f"{path}: cannot be written: {reason}; choose another place or make room, "
            "nothing was changed"
        ) from error


def _other_file(error: OSError, path: Path) -> str | None:
    """The file that an error names, if it is not part of the output."""
    name = error.filename
    if not isinstance(name, str | os.PathLike) or error.errno in ONLY_WRITING:
        return None
    if error.filename2 is not None:  # a file is moved, which is part of writing
        return None
    named, target = Path(os.path.abspath(name)), Path(os.path.abspath(path))
    if target.is_relative_to(named):  # itself, or a folder on the way to it
        return None
    if named.is_relative_to(target.parent):
        first = named.relative_to(target.parent).parts[0]
        if first == target.name or first.startswith(f".{target.name}."):
            return None
    return os.fspath(name)


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A temporary path, which replaces the target on success and is removed on failure.

    The file gets the mode that the user's umask gives to new files, whatever writes it.

    Raises:
        OSError: It cannot be moved there.
    """
    if target.is_dir():  # "/" has no name, and the others would fail at the very end
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode & 0o777
        yield temporary
        os.chmod(temporary, mode)
        sync(temporary)
        os.replace(temporary, target)
    finally:
        with suppress(OSError):
            temporary.unlink()


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, would survive a power cut.

    Raises:
        OSError: A file cannot be stored. A file system that cannot sync folders is accepted.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        if not path.is_dir():
            raise
    finally:
        os.close(descriptor)
