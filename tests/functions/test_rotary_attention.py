"""RotaryAttention: the float twin keeps the same slots and stores what it is given."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from resq_onnx.functions import RotaryForm
from tests.functions.attention_cases import (
    DIM,
    HEADS,
    SHAPES,
    SHARED,
    Array,
    Shape,
    attended,
    calls,
    counted,
    node,
    parameters,
    presents,
    run_in_steps,
)
from tests.functions.engines import ENGINES, assert_close, run

TOLERANCE = 3e-6
"""Of the largest result: float32 rotations, softmax and short sums against float64."""

BASE = RotaryForm(num_heads=HEADS, kv_num_heads=SHARED, head_dim=DIM, rotary_dim=DIM)
FORMS = {
    "projected": BASE,
    "not projected": dataclasses.replace(BASE, rotates_keys=False),
    "normed, partly rotary": dataclasses.replace(BASE, qk_norm=True, rotary_dim=10),
    "capped": dataclasses.replace(BASE, caps_scores=True),
    "window": dataclasses.replace(BASE, window=2),
    "positions not given": dataclasses.replace(BASE, position_ids=False),
}


def inputs(form: RotaryForm, shape: Shape) -> dict[str, Array]:
    """All inputs of a call."""
    return {**parameters(form, exact=False), **calls(form, shape, exact=False)}


def check(form: RotaryForm, shape: Shape, engine: str) -> None:
    """Caches and Y."""
    arrays = inputs(form, shape)
    y, *caches = node(form, arrays, engine)
    query, *expected = presents(form, arrays, counted(shape))
    for actual, wanted in zip(caches, expected, strict=True):
        assert_close(actual, wanted, TOLERANCE)
    assert_close(y, attended(form, arrays, query, (expected[0], expected[1])), TOLERANCE)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_form_agrees_with_the_oracle_in_every_engine(form: RotaryForm, engine: str) -> None:
    check(form, SHAPES["several tokens on a past"], engine)


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_of_cache_works(name: str) -> None:
    check(BASE, SHAPES[name], "onnxruntime")


@pytest.mark.parametrize("name", FORMS)
def test_a_prompt_at_once_and_token_by_token_agree(name: str) -> None:
    form = FORMS[name]
    arrays = inputs(form, Shape(2, 5, 5, 0))
    for actual, wanted in zip(run_in_steps(form, arrays, [1] * 5), node(form, arrays), strict=True):
        assert_close(actual, wanted, TOLERANCE)


def test_an_orthogonal_projection_of_queries_and_keys_cancels() -> None:
    plain = FORMS["not projected"]
    arrays = inputs(BASE, Shape(2, 5, 5, 0))
    assert_close(node(BASE, arrays)[0], node(plain, _without_projection(arrays))[0], TOLERANCE)


def _without_projection(arrays: dict[str, Array]) -> dict[str, Array]:
    return {name: array for name, array in arrays.items() if name != "key_projection"}


def test_the_scale_of_the_scores_is_the_nodes() -> None:
    arrays = inputs(BASE, SHAPES["prefill"])
    same = run("onnxruntime", BASE, arrays, {"scale": DIM**-0.5})
    np.testing.assert_array_equal(same[0], node(BASE, arrays)[0])
    # With scale 0 every visible slot weighs the same: the mean of the values so far.
    y, _, values = run("onnxruntime", BASE, arrays, {"scale": 0.0})
    counts = np.arange(1, values.shape[2] + 1)[:, None]
    means = np.repeat(np.cumsum(values, axis=2) / counts, HEADS // SHARED, axis=1)
    assert_close(y, means.transpose(0, 2, 1, 3).reshape(y.shape), TOLERANCE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_heads": 3}, "divide"),
        ({"rotary_dim": 7}, "rotary_dim"),
        ({"rotary_dim": DIM + 2}, "rotary_dim"),
        ({"window": 0}, "window"),
    ],
)
def test_a_form_that_cannot_be_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(BASE, **change)
