"""What the tests of whole models share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.command_line import QUICK, run_successfully
from tests.tiny_models import write_model


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama of two layers, exported."""
    folder = tmp_path_factory.mktemp("tiny")
    write_model(folder / "model", "llama", tied=True)
    out = folder / "out" / "model.onnx"
    run_successfully("export", folder / "model", out, *QUICK)
    return out


@pytest.fixture(scope="session")
def smollm2_exported(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2 after the quickest export that quantises everything."""
    out = tmp_path_factory.mktemp("smollm2") / "model.onnx"
    quick = ("--samples", 1, "--sequence-length", 64, "--weights", "rtn")
    run_successfully("export", smollm2, out, *quick)
    return out
