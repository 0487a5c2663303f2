"""No command replaces what it reads, by whatever name; and none begins to work first."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.command_line import contents, error_line, run
from tests.runtime import toy
from tests.tiny_models import write_tokenizer


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Nothing of it is read."""
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (folder / name).write_text(name)
    (tmp_path / "linked").symlink_to(folder, target_is_directory=True)
    (tmp_path / "projections.safetensors").write_text("projections")
    (tmp_path / "text.txt").write_text("text")
    return folder


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    folder = tmp_path / "exported"
    write_tokenizer(folder, 256)
    return toy.save_toy(folder / "model.onnx")


def assert_refused(tmp_path: Path, *arguments: object) -> None:
    before = contents(tmp_path)
    result = run(*arguments)
    assert result.exit_code == 1, result.stdout
    assert "what this command reads; name another file" in error_line(result.stderr)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("where", ["model", "linked", "model/../model"])
def test_calibrate_and_export_keep_the_weights(model: Path, tmp_path: Path, where: str) -> None:
    out = tmp_path / where / "model.safetensors"
    assert_refused(tmp_path, "calibrate", model, out)
    assert_refused(tmp_path, "export", model, out)
    assert_refused(tmp_path, "export", model, tmp_path / "a.onnx", "--save-rotated", out)


def test_export_keeps_projections_and_text(model: Path, tmp_path: Path) -> None:
    projections, text = tmp_path / "projections.safetensors", tmp_path / "text.txt"
    assert_refused(tmp_path, "export", model, projections, "--projections", projections)
    assert_refused(tmp_path, "export", model, text, "--calibration", text)
    assert_refused(tmp_path, "calibrate", model, text, "--calibration", text)


def test_export_keeps_a_gguf_file(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    assert_refused(tmp_path, "export", tmp_path / "model.gguf", tmp_path / "model.gguf")


def test_rewrite_keeps_the_graph_and_projections(
    model: Path, exported: Path, tmp_path: Path
) -> None:
    projections = tmp_path / "projections.safetensors"
    for out in (exported, projections, model / "model.safetensors"):
        options = ("--projections", projections, "--model", model)
        assert_refused(tmp_path, "rewrite", exported, out, *options)


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json", "resq.json"])
def test_report_keeps_the_model_and_what_lies_beside_it(
    exported: Path, tmp_path: Path, name: str
) -> None:
    assert_refused(tmp_path, "report", exported, "--out", exported.with_name(name))


def test_report_keeps_what_it_was_told(exported: Path, tmp_path: Path) -> None:
    told = tmp_path / "told.json"
    told.write_text("{}")
    for option in ("--evaluation", "--benchmark"):
        assert_refused(tmp_path, "report", exported, option, told, "--out", told)
