"""A recipe file on the command line: the default of every option, and given options over it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from resq_onnx import pipeline
from resq_onnx.recipe import Recipe
from tests.command_line import error_line, run

FILED = Recipe(
    method="quarot",
    tuning_steps=0,
    samples=7,
    high_fraction=0.25,
    format="qdq",
    logits="last",
    seed=5,
)


class Asked(Exception):  # noqa: N818
    """Thrown by what stands in for the pipeline."""


@pytest.fixture
def resq_json(tmp_path: Path) -> Path:
    return write(tmp_path, FILED)


def write(folder: Path, recipe: Recipe, target: str = "portable") -> Path:
    path = folder / "resq.json"
    path.write_text(json.dumps({"target": target, "recipe": recipe.to_json()}))
    return path


def asked(monkeypatch: pytest.MonkeyPatch, command: str, *options: object) -> dict[str, Any]:
    """With which target and recipe a command calls the pipeline."""

    def stand_in(*given: Any, **named: Any) -> None:
        (recipe,) = (one for one in given if isinstance(one, Recipe))
        raise Asked({"recipe": recipe, "target": named.get("target")})

    monkeypatch.setattr(pipeline, command, stand_in)
    needed = ("--projections", "p.safetensors") if command == "rewrite" else ()
    result = run("--verbose", command, "model", "out.onnx", *needed, *options)
    error = result.exc_info[1] if result.exc_info else None
    context = error.__context__ if error else None
    assert isinstance(context, Asked), result.stderr
    (found,) = context.args
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("command", ["export", "rewrite"])
def test_the_file_is_the_default_of_every_option(
    command: str, resq_json: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = asked(monkeypatch, command, "--recipe", resq_json)
    assert found == {"recipe": FILED, "target": "portable"}


def test_calibration_takes_what_it_has_no_option_for_too(
    resq_json: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = asked(monkeypatch, "calibrate", "--recipe", resq_json, "--samples", 9)
    assert found["recipe"] == replace(FILED, samples=9)


def test_an_option_that_is_given_wins_though_it_be_the_default(
    resq_json: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ("--method", "resq", "--samples", 32, "--no-bos", "--target", "ort")
    found = asked(monkeypatch, "export", "--recipe", resq_json.parent, *given)
    expected = replace(FILED, method="resq", samples=32, bos=False, tuning_steps=None)
    assert found["recipe"] == expected
    assert found["target"] == "ort"


def test_a_part_of_a_recipe_leaves_the_rest_to_the_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mine.json"
    path.write_text('{"samples": 3}')
    found = asked(monkeypatch, "export", "--recipe", path, "--target", "portable")
    assert found["recipe"] == Recipe(samples=3, format="qdq")


def test_a_text_of_which_the_file_has_only_the_name_must_be_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, replace(FILED, calibration="mine.txt"))
    for command in ("export", "calibrate"):
        refused = error_line(run(command, "model", "out.onnx", "--recipe", path).stderr)
        assert "has only the name of its calibration text, mine.txt" in refused
        assert "--calibration FILE" in refused
    found = asked(monkeypatch, "export", "--recipe", path, "--calibration", "there/mine.txt")
    assert found["recipe"].calibration == "there/mine.txt"
    found = asked(monkeypatch, "export", "--recipe", path, "--projections", "p.safetensors")
    assert found["recipe"].calibration == "mine.txt"
    assert asked(monkeypatch, "rewrite", "--recipe", path)
    assert asked(monkeypatch, "export", "--recipe", path, "--weights", "rtn")


def test_what_the_file_and_the_options_together_ask_for_is_refused_with_both_named(
    resq_json: Path,
) -> None:
    result = run("export", "model", "out.onnx", "--recipe", resq_json, "--target-bits", 5)
    assert result.exit_code == 1
    line = error_line(result.stderr)
    assert line.startswith(f"Error: the recipe of {resq_json} with the options given: target_bits")
    write(resq_json.parent, FILED, target="ark")
    line = error_line(run("export", "model", "out.onnx", "--recipe", resq_json).stderr)
    assert "target is 'ark'; it must be one of" in line


@pytest.mark.parametrize("command", ["export", "calibrate"])
def test_the_file_is_not_replaced(command: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text("{}")
    result = run(command, "model", path, "--recipe", path)
    assert "name another file" in error_line(result.stderr)
    assert path.read_text() == "{}"


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    result = run("export", "model", "out.onnx", "--recipe", tmp_path / "absent.json")
    assert result.exit_code == 1
    assert f"{tmp_path / 'absent.json'}: cannot be read: no such file" in error_line(result.stderr)


def test_minutes_or_steps_of_training_ask_for_trained_rotations(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    by_minutes = asked(monkeypatch, "export", "--train", 5)["recipe"]
    assert by_minutes == Recipe(rotations="trained", training_minutes=5)
    by_steps = asked(monkeypatch, "export", "--training-steps", 7)["recipe"]
    assert by_steps == Recipe(rotations="trained", training_steps=7)
    spinquant = asked(monkeypatch, "export", "--method", "spinquant", "--train", 5)["recipe"]
    assert spinquant == Recipe(method="spinquant", training_minutes=5)


def test_minutes_on_the_command_line_win_over_the_steps_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, Recipe(rotations="trained", training_steps=300), "ort")
    repeated = asked(monkeypatch, "export", "--recipe", path)["recipe"]
    assert repeated.training_steps == 300
    longer = asked(monkeypatch, "export", "--recipe", path, "--train", 60)["recipe"]
    assert longer == Recipe(rotations="trained", training_minutes=60, tuning_steps=0)


def test_minutes_of_tuning_win_over_the_steps_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, Recipe(tuning_minutes=5, tuning_steps=70), "ort")
    repeated = asked(monkeypatch, "export", "--recipe", path)["recipe"]
    assert repeated.tuning_steps == 70
    longer = asked(monkeypatch, "export", "--recipe", path, "--tune", 60)["recipe"]
    assert longer == Recipe(tuning_minutes=60)
    without = asked(monkeypatch, "export", "--recipe", path, "--tune", 0)["recipe"]
    assert without == Recipe(tuning_steps=0)
    fewer = asked(monkeypatch, "export", "--recipe", path, "--tune", 60, "--tuning-steps", 3)
    assert fewer["recipe"] == Recipe(tuning_minutes=60, tuning_steps=3)


def test_steps_of_a_file_are_for_its_method_and_for_rounded_activations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, Recipe(tuning_steps=70), "ort")
    kept = asked(monkeypatch, "export", "--recipe", path, "--head-bits", 4)["recipe"]
    assert kept == Recipe(tuning_steps=70, head_bits=4)
    for options in (
        ("--method", "quarot"),
        ("--format", "contrib"),
        ("--method", "none"),
        ("--activations", "float", "--cache", "float"),
    ):
        other = asked(monkeypatch, "export", "--recipe", path, *options)["recipe"]
        assert (other.tuning_steps, other.tunes) == (None, False)
    given = asked(monkeypatch, "export", "--recipe", path, "--method", "quarot", "--tune", 5)
    assert given["recipe"] == Recipe(method="quarot", tuning_minutes=5)
    rewritten = asked(monkeypatch, "rewrite", "--recipe", path)["recipe"]
    assert rewritten == Recipe(tuning_steps=0)
    path = write(tmp_path, Recipe(method="quarot", tuning_steps=0), "ort")
    other = asked(monkeypatch, "export", "--recipe", path, "--method", "resq")["recipe"]
    assert other == Recipe()
    ported = ("--recipe", path, "--target", "portable", "--format", "qdq")
    for_another_target = asked(monkeypatch, "export", *ported)["recipe"]
    assert for_another_target == Recipe(method="quarot", tuning_steps=0, format="qdq")
    path.write_text('{"tuning_steps": 70}')
    kept = asked(monkeypatch, "export", "--recipe", path, "--method", "resq")["recipe"]
    assert kept == Recipe(tuning_steps=70)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--tune", "-1"), "tuning_minutes is -1.0; it must be above 0"),
        (("--tune", "0", "--tuning-steps", "3"), "tuning_minutes is 0.0; it must be above 0"),
        (("--tune", "5", "--format", "contrib"), "format contrib); use --tune 0"),
        (("--tune", "5", "--method", "none"), "method none, format custom); use --tune 0"),
        (("--rotations", "random", "--train", "5"), "--rotations random is not trained"),
        (("--method", "quarot", "--train", "5"), "rotations of method quarot cannot be trained"),
        (("--train", "0"), "training_minutes is 0.0; it must be above 0"),
    ],
)
def test_training_that_cannot_be_is_refused(options: tuple[str, ...], words: str) -> None:
    result = run("export", "model", "out.onnx", *options)
    assert result.exit_code == 1
    assert words in error_line(result.stderr)
