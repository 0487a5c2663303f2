"""Small programs, compiled for a test."""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path

import pytest

needs_x86 = pytest.mark.skipif(
    platform.machine() != "x86_64" or platform.libc_ver()[0] != "glibc" or not shutil.which("c++"),
    reason="the masked CPU is for x86-64 and glibc, and is compiled",
)


def compiled(source: str, target: Path, *flags: str) -> Path:
    """A C++ source, compiled."""
    file = target.with_suffix(".cpp")
    file.write_text(source)
    subprocess.run(["c++", "-O1", str(file), "-o", str(target), *flags], check=True)
    return target
