"""Tiny models, exported; their files are not to be changed."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from tests.end_to_end.tiny import Exported
from tests.end_to_end.tiny_text import TEXT
from tests.tiny_exports import TinyExports

KINDS: Final = {"llama": True, "qwen2": False}
"""By kind, whether the embedding is tied: between them with and without biases, tied and not."""


@pytest.fixture(scope="session", params=KINDS)
def exported(request: pytest.FixtureRequest, tiny_exports: TinyExports) -> Exported:
    """Exported together with the float model."""
    return Exported.of(tiny_exports.model(request.param, tied=KINDS[request.param]))


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path
