"""What the tests of targets share: tiny models, exported for them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.command_line import QUICK, run_successfully
from tests.tiny_models import write_model

LICENCE = "---\nlicense: other\nlicense_name: tiny-licence\nlicense_link: LICENSE.md\n---\n# Tiny\n"


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama that says many different tokens, with a README.md that states its licence."""
    folder = tmp_path_factory.mktemp("tiny") / "model"
    write_model(folder, "llama", tied=False, seed=1)
    (folder / "README.md").write_text(LICENCE)
    return folder


@pytest.fixture(scope="session")
def projections(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its calibration, by a text of its own."""
    folder = tmp_path_factory.mktemp("calibration")
    text, file = folder / "text.txt", folder / "projections.safetensors"
    text.write_text("A compound statement contains other statements; they affect it. " * 200)
    run_successfully("calibrate", tiny_model, file, "--hessians", "--calibration", text, *QUICK)
    return file


@pytest.fixture(scope="session")
def for_genai(
    tiny_model: Path, projections: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The .onnx file in a folder for onnxruntime-genai."""
    out = tmp_path_factory.mktemp("genai") / "model.onnx"
    options = ("--target", "genai", "--projections", projections)
    run_successfully("export", tiny_model, out, *options)
    return out
