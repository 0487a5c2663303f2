"""A model that can be exported, and a folder that holds an older export.

Every export of these tests has an older one to overwrite, and every test looks at all its files.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.bad_input.refusals import OLD_EXPORT
from tests.tiny_models import write_model


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that can be exported: not to be changed."""
    folder = tmp_path_factory.mktemp("models") / "good"
    write_model(folder, "llama", tied=True, num_hidden_layers=1)
    return folder


@pytest.fixture
def damaged(model: Path, tmp_path: Path) -> Path:
    """A copy of the model, to be damaged."""
    return shutil.copytree(model, tmp_path / "model")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Where to export to; there is an export already."""
    folder = tmp_path / "out"
    folder.mkdir()
    for name, old in OLD_EXPORT.items():
        (folder / name).write_bytes(old)
    return folder / "out.onnx"
