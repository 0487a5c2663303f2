"""Recipes, calibration texts and projections that do not fit the model, or cannot be read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.bad_input.refusals import refusal
from tests.command_line import QUICK, run
from tests.tiny_models import write_model


@pytest.mark.parametrize(
    ("sizes", "option", "site", "remedies"),
    [
        ({"head_dim": 8}, "--high-fraction", "the head size 8 is 1 ", "1/2 (0.5), 1/4 (0.25), 0"),
        (
            {"hidden_size": 72},
            "--high-fraction",
            "the hidden size 72 is 9 ",
            "1/2 (0.5), 1/3 (0.333333), 1/4 (0.25), 1/6 (0.166667), 1/9 (0.111111)",
        ),
        ({"intermediate_size": 36}, "--down-high", "the intermediate size 36 is 4.5 ", "1/3 "),
        ({"intermediate_size": 41}, "--down-high", "the intermediate size 41 is 5.125", "only 0"),
    ],
)
def test_a_width_that_cannot_be_split_names_the_possible_fractions(
    damaged: Path, out: Path, sizes: dict[str, Any], option: str, site: str, remedies: str
) -> None:
    write_model(damaged, "llama", tied=True, num_hidden_layers=1, **sizes)
    line = refusal(out, damaged)
    assert f"{option} 0.125 of {site}" in line
    assert remedies in line.split("possible fractions: ")[1]


def test_a_fraction_that_was_named_does(tmp_path: Path) -> None:
    write_model(tmp_path / "model", "llama", tied=True, num_hidden_layers=1, head_dim=8)
    target = tmp_path / "projections.safetensors"
    result = run("calibrate", tmp_path / "model", target, *QUICK, "--high-fraction", "0.25")
    assert result.exit_code == 0, result.stderr
    assert target.is_file()


def test_rotations_of_capped_attention_are_refused_before_anything_is_run(
    damaged: Path, out: Path
) -> None:
    write_model(damaged, "gemma2", tied=True)
    for options in (("--train", 1), ("--method", "spinquant"), ("--tune", 1)):
        result = run("export", damaged, out, *QUICK, *options)
        assert "neither rotations nor weights can be trained for Gemma 2" in result.stderr
        assert "Calibrating" not in result.stderr


def test_a_calibration_text_shorter_than_one_sequence(
    model: Path, tmp_path: Path, out: Path
) -> None:
    text = tmp_path / "short.txt"
    text.write_text("Too short.")
    line = refusal(out, model, "--calibration", text)
    assert f"calibration text {text} has " in line
    assert "less than one sequence of 512" in line


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("absent.txt", None, "no such file"),
        ("latin1.txt", "Größe".encode("latin1"), "not UTF-8 text"),
        ("broken.jsonl", b'{"text": "a"}\n{"tex', "line 2: cannot be read: not JSON"),
        ("table.csv", b"a,b\n1,2", 'no column "text"'),
    ],
)
def test_a_calibration_text_that_cannot_be_read(
    model: Path, tmp_path: Path, out: Path, name: str, content: bytes | None, words: str
) -> None:
    text = tmp_path / name
    if content is not None:
        text.write_bytes(content)
    line = refusal(out, model, "--calibration", text)
    assert str(text) in line
    assert words in line


# The projections


@pytest.fixture(scope="module")
def projections(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("projections") / "projections.safetensors"
    result = run("calibrate", model, file, *QUICK)
    assert result.exit_code == 0, result.stderr
    return file


def test_projections_of_another_model(tmp_path: Path, out: Path, projections: Path) -> None:
    other = tmp_path / "other"
    write_model(other, "llama", tied=True, num_hidden_layers=1, seed=1)
    line = refusal(out, other, "--projections", projections)
    assert f"{projections}: made for another model" in line
    assert f"resq-onnx calibrate {other}" in line


@pytest.mark.parametrize("kept", [0, 100, -1], ids=["all", "header", "a byte"])
def test_projections_that_are_cut_off(
    model: Path, tmp_path: Path, out: Path, projections: Path, kept: int
) -> None:
    file = tmp_path / "projections.safetensors"
    file.write_bytes(projections.read_bytes()[:kept])
    line = refusal(out, model, "--projections", file)
    assert f"{file}: not a readable projections file" in line


def test_projections_that_are_none(model: Path, out: Path) -> None:
    line = refusal(out, model, "--projections", model / "model.safetensors")
    assert "make the file anew with `resq-onnx calibrate`" in line


def test_projections_that_are_not_there(model: Path, tmp_path: Path, out: Path) -> None:
    line = refusal(out, model, "--projections", tmp_path / "absent.safetensors")
    assert f"{tmp_path / 'absent.safetensors'}: no such file" in line
