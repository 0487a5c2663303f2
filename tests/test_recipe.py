"""What a user may choose, and how a width is divided by it."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resq_onnx.errors import ResqError
from resq_onnx.projections.splits import least_down_split, split_of
from resq_onnx.recipe import BitSplit, Recipe
from tests.usual_tuning import tuning_by_default

BAD_CHOICES: list[tuple[str, Any, str]] = [
    ("method", "gptq", "resq, spinquant, quarot, outlier, rtn, none"),
    ("weights", "resq", "gptq, rtn"),
    ("format", "onnx", "custom, qdq, contrib, web"),
    ("activations", "int8", "quantised, float"),
    ("cache", "int4", "quantised, int8, float16, float"),
    ("dtype", "int8", "float32, float16, bfloat16"),
    ("dtype_compute", "float16", "float32, bfloat16"),
    ("low_bits", 3, "4, 8"),
    ("high_bits", 16, "8"),
    ("high_fraction", -0.1, "at least 0 and less than 1"),
    ("high_fraction", 1.0, "at least 0 and less than 1"),
    ("high_fraction", float("nan"), "at least 0 and less than 1"),
    ("down_high", 1.5, "at least 0 and less than 1"),
    ("samples", 0, "at least 1"),
    ("sequence_length", -1, "at least 1"),
    ("seed", -1, "0 or more"),
]


@pytest.mark.parametrize(("name", "value", "remedy"), BAD_CHOICES)
def test_a_choice_that_is_none_is_refused_with_those_that_are(
    name: str, value: object, remedy: str
) -> None:
    with pytest.raises(ResqError) as error:
        Recipe(**{name: value})  # type: ignore[arg-type]
    assert str(error.value).startswith(f"{name} is {value!r}; it must be ")
    assert remedy in str(error.value)


def test_every_default_is_allowed_and_survives_json() -> None:
    recipe = Recipe(method="outlier", high_fraction=0.25, seed=2**70, format="qdq")
    assert Recipe(**recipe.to_json()) == recipe
    assert Recipe().to_json().keys() == {field.name for field in dataclasses.fields(Recipe)}


@pytest.mark.parametrize(
    ("method", "weights", "high_part", "calibration"),
    [
        ("resq", "gptq", True, True),
        ("resq", "rtn", True, True),
        ("outlier", "rtn", True, True),
        ("quarot", "gptq", False, True),
        ("quarot", "rtn", False, False),
        ("spinquant", "gptq", False, True),
        ("spinquant", "rtn", False, True),
        ("rtn", "gptq", False, True),
        ("rtn", "rtn", False, False),
        ("none", "gptq", False, False),
    ],
)
def test_the_method_decides_on_the_high_part_and_on_calibration(
    method: Any, weights: Any, high_part: bool, calibration: bool
) -> None:
    recipe = Recipe(method=method, weights=weights)
    assert recipe.how.has_high_part == high_part
    assert recipe.needs_calibration == calibration
    assert (split_of(recipe, 64, "the width").high > 0) == high_part


def test_an_eighth_of_a_width_is_its_high_part() -> None:
    split = split_of(Recipe(), 576, "the hidden size")
    assert split == BitSplit(504, 72, 4, 8)
    assert split.width == 576
    assert split.mean_bits == 4.5


def test_down_proj_has_a_fraction_of_its_own() -> None:
    recipe = Recipe(high_fraction=0.25, down_high=0.0)
    assert least_down_split(recipe, 192) == BitSplit(192, 0)
    assert split_of(recipe, 64, "the width") == BitSplit(48, 16)
    assert least_down_split(Recipe(down_high=0.5), 192) == BitSplit(96, 96)
    assert least_down_split(Recipe(high_fraction=0.25), 192) == BitSplit(168, 24)


def test_bits_pass_on_to_the_split() -> None:
    assert split_of(Recipe(low_bits=8), 64, "the width") == BitSplit(56, 8, 8, 8)
    assert split_of(Recipe(low_bits=8, method="rtn"), 64, "the width") == BitSplit(64, 0, 8, 8)


@pytest.mark.parametrize("width", [63, 65, 7])
def test_an_odd_width_is_undivided_without_a_high_part_and_refused_with_one(width: int) -> None:
    assert split_of(Recipe(high_fraction=0.0), width, "the width") == BitSplit(width, 0)
    with pytest.raises(ResqError, match="only 0, because the size is odd"):
        split_of(Recipe(), width, "the width")


def test_a_refusal_names_the_width_and_the_possible_fractions() -> None:
    with pytest.raises(ResqError) as error:
        split_of(Recipe(), 36, "the head size")
    assert str(error.value) == (
        "--high-fraction 0.125 of the head size 36 is 4.5 coefficients, but both parts must be "
        "whole even numbers; possible fractions: 1/2 (0.5), 1/3 (0.333333), 1/6 (0.166667), "
        "1/9 (0.111111), 1/18 (0.0555556), 0"
    )
    with pytest.raises(ResqError, match=r"--down-high 0\.125 of the intermediate size 36"):
        least_down_split(Recipe(), 36)


@settings(deadline=None)  # a busy machine is no failure
@given(st.integers(1, 60_000), st.sampled_from([1 / 8, 1 / 16, 1 / 4, 1 / 3, 0.1, 0.3]))
def test_both_parts_are_even_or_every_fraction_that_is_named_would_do(
    width: int, fraction: float
) -> None:
    recipe = Recipe(high_fraction=fraction)
    try:
        split = split_of(recipe, width, "the width")
    except ResqError as error:
        named = [float(number) for number in re.findall(r"\((0\.\d+)\)", str(error))]
        for other in named:
            split = split_of(Recipe(high_fraction=other), width, "the width")
            assert split.high > 0
            assert_even(split, width)
        return
    assert_even(split, width)


def assert_even(split: BitSplit, width: int) -> None:
    assert split.width == width
    assert split.low % 2 == 0
    assert split.high % 2 == 0


@settings(deadline=None)
@given(st.integers(1, 900), st.integers(2, 32))
def test_a_fraction_may_be_given_in_six_digits(evens: int, denominator: int) -> None:
    width = evens * 2 * denominator
    exact = split_of(Recipe(high_fraction=1 / denominator), width, "the width")
    rounded = split_of(Recipe(high_fraction=float(f"{1 / denominator:.6g}")), width, "the width")
    assert rounded == exact
    assert exact.high == width // denominator


def test_resq_tunes_weights_unless_told_otherwise_and_the_others_if_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tuning_by_default(monkeypatch)
    assert Recipe().tunes
    assert not Recipe().must_tune
    for asked in (Recipe(tuning_steps=2), Recipe(method="quarot", tuning_minutes=0.5)):
        assert asked.tunes
        assert asked.must_tune
    nothing_rounded = Recipe(activations="float", cache="float")
    for other in (
        Recipe(tuning_steps=0),
        Recipe(tuning_minutes=5, tuning_steps=0),
        Recipe(method="quarot"),
        Recipe(format="contrib"),
        nothing_rounded,
    ):
        assert not other.tunes
    with pytest.raises(ResqError, match="tuning_steps is -1; it must be at least 0"):
        Recipe(tuning_steps=-1)


def test_spinquant_trains_and_resq_may() -> None:
    assert Recipe(method="spinquant").trains
    assert Recipe(rotations="trained").trains
    assert not Recipe().trains
    assert all(r.fits for r in (Recipe(method="spinquant"), Recipe(rotations="trained"), Recipe()))
    with pytest.raises(ResqError, match="rotations of method outlier cannot be trained"):
        Recipe(method="outlier", rotations="trained")


@pytest.mark.parametrize(
    ("recipe", "remedy"),
    [
        ({"rotations": "trained", "format": "contrib"}, "--rotations random"),
        ({"method": "spinquant", "format": "web"}, "--method quarot"),
        ({"rotations": "trained", "activations": "float", "cache": "float"}, "--rotations random"),
    ],
)
def test_rotations_are_not_trained_where_nothing_is_rounded(
    recipe: dict[str, Any], remedy: str
) -> None:
    with pytest.raises(ResqError, match=f"neither is rounded .*; use {remedy}"):
        Recipe(**recipe)


@pytest.mark.parametrize("format", ["contrib", "web"])
def test_onnx_runtimes_own_operators_leave_activations_and_cache_in_float(format: Any) -> None:
    recipe = Recipe(format=format)
    assert recipe.form.uses_contrib
    assert (recipe.activations, recipe.cache) == ("float", "float")
    assert Recipe(**recipe.to_json()) == recipe
    with pytest.raises(ResqError, match="method none has none; use format custom or qdq"):
        Recipe(format=format, method="none")


def test_an_int8_cache_is_for_contrib_and_needs_a_calibration() -> None:
    recipe = Recipe(format="contrib", cache="int8", method="quarot", weights="rtn")
    assert recipe.cache == "int8"
    assert recipe.needs_calibration
    assert not replace(recipe, cache="float").needs_calibration
    with pytest.raises(ResqError, match="format custom has quantised or float"):
        Recipe(cache="int8")
    with pytest.raises(ResqError, match="format web has float"):
        Recipe(format="web", cache="int8")
    assert Recipe(format="contrib", cache="float16").cache == "float16"
    with pytest.raises(ResqError, match="cache float16 is for format contrib"):
        Recipe(format="qdq", cache="float16")


@pytest.mark.parametrize(
    ("choices", "said", "remedy"),
    [
        ({"format": "qdq"}, "format qdq", "--format custom"),
        ({"format": "contrib"}, "format contrib", "--format custom"),
        ({"format": "web"}, "format web", "--format custom"),
        ({"activations": "float"}, "activations float", "--activations quantised"),
        ({"method": "none"}, "method none", "--method resq"),
    ],
)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_dtype_is_refused_where_nothing_is_written_in_it(
    dtype: Any, choices: dict[str, Any], said: str, remedy: str
) -> None:
    with pytest.raises(ResqError) as error:
        Recipe(dtype=dtype, **choices)
    assert str(error.value) == (
        f"dtype {dtype} is for format custom with quantised activations, and {said} is written in "
        f"float32; omit --dtype, or use {remedy}"
    )
    assert Recipe(dtype="float32", **choices).dtype == "float32"
    assert Recipe(dtype=dtype, cache="float").dtype == dtype
