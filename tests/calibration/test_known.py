"""The text of a calibration that is read once more."""

from __future__ import annotations

import dataclasses

import pytest

from resq_onnx.calibration.known import check_text
from resq_onnx.errors import ResqError
from resq_onnx.recipe import Recipe

MADE = Recipe(calibration="a/text.txt").to_json()


def _check(recipe: Recipe, made: dict[str, object]) -> None:
    check_text(recipe, made, "tuning", "--tune 0")


def test_a_file_may_have_moved_and_a_model_may_not_have_written() -> None:
    _check(Recipe(calibration="b/text.txt"), MADE)
    _check(Recipe(calibration="auto"), Recipe(calibration="bundled").to_json())


def test_a_projections_file_of_another_text_is_refused() -> None:
    other = dataclasses.replace(Recipe(), samples=8)
    with pytest.raises(ResqError, match=r"another calibration, samples; tuning reads .*--tune 0"):
        _check(other, MADE)
    with pytest.raises(ResqError, match="another calibration; tuning reads"):
        _check(Recipe(calibration="auto"), MADE)
