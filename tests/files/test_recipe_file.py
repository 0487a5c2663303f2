from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import resq_onnx
from resq_onnx.errors import ResqError
from resq_onnx.files.recipe_file import read_recipe, read_recipe_file
from resq_onnx.recipe import Recipe
from tests.usual_tuning import tuning_by_default

RECIPE = Recipe(
    method="outlier", high_fraction=0.25, format="qdq", bos=True, seed=3, tuning_steps=0
)


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


def summary(folder: Path, **more: Any) -> Path:
    content = {"format_version": 2, "target": "portable", "recipe": RECIPE.to_json(), **more}
    return write(folder / "resq.json", content)


def test_a_recipe_survives_the_file_that_an_export_writes(tmp_path: Path) -> None:
    path = summary(tmp_path)
    assert read_recipe(path) == read_recipe(tmp_path) == resq_onnx.read_recipe(path) == RECIPE
    said = read_recipe_file(path)
    assert (said.target, said.is_summary, said.path) == ("portable", True, path)
    assert list(said.fields) == list(Recipe().to_json())


def test_fields_alone_are_a_recipe_too_and_the_others_have_their_defaults(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.json", {"samples": 7, "high_fraction": 0, "down_high": None})
    assert read_recipe(path) == Recipe(samples=7, high_fraction=0)
    assert not read_recipe_file(path).is_summary


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"smaples": 7, "warp": 1}, "no recipe that this version knows has 'smaples', 'warp'"),
        ({"samples": "7"}, "samples is '7'; it must be a whole number"),
        ({"samples": True}, "samples is True; it must be a whole number"),
        ({"samples": 7.5}, "samples is 7.5; it must be a whole number"),
        ({"high_fraction": [1]}, "high_fraction is [1]; it must be a number"),
        ({"down_high": "0"}, "down_high is '0'; it must be a number or null"),
        ({"calibration": None}, "calibration is None; it must be a text"),
        ({"bos": "yes"}, "bos is 'yes'; it must be true or false or null"),
        ({"method": "gptq"}, "method is 'gptq'; it must be one of resq,"),
        ({"cache": ["int8"]}, "cache is ['int8']; it must be one of"),
        ({"samples": 0}, "samples is 0; it must be at least 1"),
        ({"recipe": 3}, "its recipe or its target is damaged"),
        ({"recipe": {}, "target": ["ort"]}, "its recipe or its target is damaged"),
        ([1], "must hold a JSON object; give the resq.json"),
    ],
)
def test_what_no_recipe_has_is_refused_with_file_and_field(
    tmp_path: Path, fields: Any, words: str
) -> None:
    path = write(tmp_path / "resq.json", fields)
    with pytest.raises(ResqError) as error:
        read_recipe(path)
    assert str(error.value).startswith(f"{path}: ")
    assert words in str(error.value)


def test_what_is_no_file_of_a_recipe_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.json").write_text("no JSON")
    for path in (tmp_path, tmp_path / "absent.json", tmp_path / "text.json"):
        with pytest.raises(ResqError, match=r"cannot be read.*give the resq\.json"):
            read_recipe(path)


def test_an_export_that_says_nothing_of_tuning_had_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Older versions could not, and recorded null."""
    tuning_by_default(monkeypatch)
    path = tmp_path / "resq.json"
    for recipe in (Recipe(), Recipe(tuning_minutes=5), Recipe(tuning_steps=3)):
        write(path, {"recipe": recipe.to_json()})
        assert read_recipe(path).tunes == recipe.must_tune
