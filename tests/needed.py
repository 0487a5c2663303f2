"""Programs that some tests need: without one they are skipped, and fail in CI."""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest


def skip_or_fail(reason: str) -> NoReturn:
    """Skip the test, or fail it in CI."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def program_of(package: str, *names: str) -> str:
    """The path of the first program of these names, or of a Debian package's own name."""
    for name in names or (package,):
        if found := shutil.which(name):
            return found
    skip_or_fail(f"no {package}: install Debian's package of that name")
