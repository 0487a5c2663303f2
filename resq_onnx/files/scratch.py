"""Scratch folders among the system's temporary files; those of killed processes are removed."""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from resq_onnx.files.locking import folder_locked

NAME: Final = re.compile(r"resq-onnx-[a-z]+-[0-9a-f]{16}")

YOUNG_SECONDS: Final = 60.0
"""Age of a folder below which its process may not have locked it yet."""


@contextmanager
def scratch_folder(what: str) -> Iterator[Path]:
    """Make a folder, and remove it in the end.

    First remove what killed processes left: folders of this user that no process has locked.

    Args:
        what: What it is for, one word that becomes a part of its name.
    """
    parent = Path(tempfile.gettempdir())
    for left in parent.glob("resq-onnx-*"):
        _remove_if_stale(left)
    folder = parent / f"resq-onnx-{what}-{secrets.token_hex(8)}"
    try:
        folder.mkdir(mode=0o700)
        with folder_locked(folder):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_if_stale(folder: Path) -> None:
    if not NAME.fullmatch(folder.name):
        return
    with suppress(OSError):  # in use, already gone, no folder, or on a file system without locks
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            found = os.fstat(descriptor)
            if found.st_uid == os.getuid() and time.time() - found.st_mtime > YOUNG_SECONDS:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(descriptor)
