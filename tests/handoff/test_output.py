"""Outputs that would replace what is read are refused before any work."""

from __future__ import annotations

from pathlib import Path

import pytest

from resq_onnx.checkpoint.folder import files_of
from resq_onnx.errors import ResqError
from resq_onnx.handoff.output import check_output


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (folder / name).write_text(name)
    return folder


def refusal(model: Path, out: Path, rotated: Path | None = None) -> str:
    with pytest.raises(ResqError) as error:
        check_output(out, rotated, model, files_of(model))
    return str(error.value)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "merges.txt"])
def test_a_name_of_the_models_files_in_its_folder_is_refused(model: Path, name: str) -> None:
    for line in (
        refusal(model, model / name),
        refusal(model, model.parent / "out.onnx", rotated=model / name),
    ):
        assert line.startswith(f"{model / name}: is what this command reads")


def test_another_name_in_the_models_folder_will_do(model: Path) -> None:
    check_output(model / "model.onnx", model / "float.onnx", model, files_of(model))


@pytest.mark.parametrize("name", ["config.json", "README.md", "resq.json"])
def test_a_name_that_is_written_beside_every_model_is_refused(model: Path, name: str) -> None:
    line = refusal(model, model.parent / "out" / name)
    assert "is the name of a file that is written beside the model" in line


def test_a_folder_of_another_model_is_refused(model: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "model.safetensors").write_text("weights")
    line = refusal(model, tmp_path / "other" / "model.onnx")
    assert f"{tmp_path / 'other'} holds another model" in line


@pytest.mark.parametrize(
    ("out", "rotated"), [("a", "a"), ("a", "a.data"), ("a.data", "a"), ("a", "../out/a")]
)
def test_two_outputs_do_not_share_a_file(model: Path, out: str, rotated: str) -> None:
    folder = model.parent / "out"
    folder.mkdir()
    assert "is to hold both models" in refusal(model, folder / out, folder / rotated)
