"""Lock files: only one process at a time writes to a target.

The lock is the kernel's (`flock`) and ends with the process, even if that is killed. Its holder
removes the file; a file that was left behind is not locked and blocks nobody.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from resq_onnx.errors import ResqError

POLL_SECONDS: Final = 0.02


@contextmanager
def locked(target: Path, seconds: float = 0.0) -> Iterator[bool]:
    """Hold the lock of a target.

    Args:
        target: The file that is to be written; its folder exists.
        seconds: How long to wait for another process.

    Yields:
        Whether it is held: some network file systems have no locks, and every process may then
        write.

    Raises:
        ResqError: Another process holds the lock.
        OSError: The lock file cannot be created.
    """
    path, descriptor = target.with_name(f".{target.name}.lock"), None
    try:
        descriptor, held = _acquire(path, target, time.monotonic() + seconds)
        yield held
    finally:
        if descriptor is not None:
            os.close(descriptor)
        _remove_if_free(path)


def _acquire(path: Path, target: Path, deadline: float) -> tuple[int, bool]:
    """Open and lock the file; returns its descriptor, and whether it is locked."""
    while True:
        descriptor = _open(path)
        try:
            held = _lock(descriptor)
            if not held or _is_still(descriptor, path):
                if held:
                    _write_holder(descriptor)
                return descriptor, held
        except BlockingIOError:
            if time.monotonic() >= deadline:
                holder = os.pread(descriptor, 20, 0).decode("ascii", "replace") or "another one"
                os.close(descriptor)
                raise ResqError(
                    f"{target}: is being written by process {holder}; wait until that has ended, "
                    "or name another file"
                ) from None
            time.sleep(POLL_SECONDS)
        except BaseException:  # Ctrl-C too
            os.close(descriptor)
            raise
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Lock an open file; return False if the file system has no locks.

    Raises:
        BlockingIOError: Another process has locked it.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return False
    return True


def _write_holder(descriptor: int) -> None:
    with suppress(OSError):  # only for messages
        os.truncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())


def _remove_if_free(path: Path) -> None:
    """Remove the lock file, unless another process now holds it."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            _lock(descriptor)
            if _is_still(descriptor, path):
                path.unlink()
        finally:
            os.close(descriptor)


def _open(path: Path) -> int:
    """Open the lock file; another user's can be locked, but not written."""
    flags = os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(path, flags | os.O_RDWR, 0o666)
    except PermissionError:
        return os.open(path, flags | os.O_RDONLY, 0o666)


def _is_still(descriptor: int, path: Path) -> bool:
    """Whether a path still refers to an open file: the last holder may have removed it."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False


@contextmanager
def folder_locked(folder: Path) -> Iterator[None]:
    """Wait until no other process moves files into a folder, whose models share companion files."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):  # the file system has no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
