"""Attention with cached and cache_rows: each text gets what it would get alone, in every engine."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from resq_onnx.functions import AttentionForm, RecordLayout, RotaryForm
from tests.functions import ragged_cases
from tests.functions.attention_cases import Array, attended, counted, node, parameters, presents
from tests.functions.attention_cases import Shape as Even
from tests.functions.engines import ENGINES, assert_close
from tests.functions.ragged_cases import SHAPES, Ragged

TOLERANCE = 3e-6
"""Of the largest result: float32 softmax and sums of at most 9 slots against float64."""

SIZES: dict[str, Any] = {
    "num_heads": 4,
    "kv_num_heads": 2,
    "head_dim": 16,
    "rotary_dim": 16,
    "ragged": True,
}
BASE = AttentionForm(**SIZES, layout=RecordLayout(16, 4))
FORMS: dict[str, RotaryForm] = {
    "projected": BASE,
    "window": dataclasses.replace(BASE, window=3),
    "positions not given": dataclasses.replace(BASE, position_ids=False),
    "q/k norm": dataclasses.replace(BASE, qk_norm=True, rotates_keys=False),
    "cache of floats": RotaryForm(**SIZES),
}


def inputs(form: RotaryForm, shape: Ragged) -> dict[str, Array]:
    return {
        **parameters(form, exact=True),
        **ragged_cases.calls(form, shape, exact=True),
    }


def by_oracle(form: RotaryForm, arrays: dict[str, Array], text: int) -> list[Array]:
    """Y, and the caches after the call, of one text by itself."""
    one = ragged_cases.alone(arrays, text)
    total, new = one["attention_mask"].shape[1], one["QKV"].shape[1]
    query, keys, values = presents(form, one, counted(Even(1, new, total, 0)))
    return [attended(form, one, query, (keys, values)), keys, values]


def check(form: RotaryForm, shape: Ragged, engine: str) -> None:
    """Y, and the caches: byte for byte, unless a norm is summed in another order."""
    arrays = inputs(form, shape)
    alone = [by_oracle(form, arrays, text) for text in range(len(shape.cached))]
    wanted, *wanted_caches = ragged_cases.together(arrays, alone)
    y, *caches = node(form, arrays, engine)
    assert_close(y, wanted, TOLERANCE)
    for cache, expected in zip(caches, wanted_caches, strict=True):
        if form.qk_norm:
            assert np.all(np.abs(cache.astype(int) - expected.astype(int)) <= 1)
        else:
            np.testing.assert_array_equal(cache, expected)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_text_gets_what_it_gets_alone(form: RotaryForm, engine: str) -> None:
    check(form, SHAPES["rows of others between"], engine)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_every_shape_of_batch_works(shape: Ragged) -> None:
    check(BASE, shape, "onnxruntime")


def test_what_the_mask_hides_and_what_lies_behind_a_text_is_not_seen() -> None:
    shape = SHAPES["a mask wider than any text"]
    arrays = inputs(BASE, shape)
    arrays["attention_mask"][0, [1, 4]] = 0
    y, *_ = node(BASE, arrays)
    arrays["past_value"][1, :, [1, 4]] ^= 7  # hidden
    arrays["past_value"][2, :, 3:] ^= 7  # behind the second text
    arrays["past_value"][0] ^= 7  # nobody's row
    np.testing.assert_array_equal(node(BASE, arrays)[0], y)
