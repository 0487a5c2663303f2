"""What the tests of whole models share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.tiny_exports import TinyExports


@pytest.fixture(scope="session")
def tiny(tiny_exports: TinyExports) -> Path:
    """A tiny Llama of two layers, exported."""
    return tiny_exports.model("llama", tied=True).export()
