"""MixedPrecisionAttention: bytes of the cache and what is attended to, in every engine."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from resq_onnx.functions import AttentionForm, RecordLayout
from tests.functions import oracle
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
from tests.functions.engines import ENGINES, assert_close

TOLERANCE = 3e-6
"""Of the largest result: float32 softmax and sums of at most 9 slots against float64."""

FLIPPED = 1e-3
"""Share of the cache's bytes that a last bit in RoPE, norm or projection may change by one step:
2 bytes of this test's 2432. Between two engines, 7 of 1,505,088 bytes did."""

BASE = AttentionForm(
    num_heads=HEADS,
    kv_num_heads=SHARED,
    head_dim=DIM,
    rotary_dim=DIM,
    layout=RecordLayout(DIM, 4),
)
FORMS = {
    "projected": BASE,
    "not projected": dataclasses.replace(BASE, rotates_keys=False),
    "partly rotary, window": dataclasses.replace(BASE, rotary_dim=6, window=3),
    "capped": dataclasses.replace(BASE, caps_scores=True),
    "window of one": dataclasses.replace(BASE, window=1),
    "without high part": dataclasses.replace(BASE, layout=RecordLayout(DIM, 0)),
    "high part alone": dataclasses.replace(BASE, layout=RecordLayout(DIM, DIM)),
    "eight bits": dataclasses.replace(BASE, layout=RecordLayout(DIM, 4, low_bits=8)),
    "positions not given": dataclasses.replace(BASE, position_ids=False),
    "one kv head": dataclasses.replace(BASE, kv_num_heads=1),
    "as many kv heads as heads": dataclasses.replace(BASE, num_heads=2),
}


def inputs(form: AttentionForm, shape: Shape, *, exact: bool = True) -> dict[str, Array]:
    """All inputs of a call."""
    return {**parameters(form, exact=exact), **calls(form, shape, exact=exact)}


def check(form: AttentionForm, arrays: dict[str, Array], positions: Array, engine: str) -> None:
    """Caches byte for byte, and Y."""
    y, *caches = node(form, arrays, engine)
    query, *expected = presents(form, arrays, positions)
    for actual, wanted in zip(caches, expected, strict=True):
        np.testing.assert_array_equal(actual, wanted)
    assert_close(y, attended(form, arrays, query, (caches[0], caches[1])), TOLERANCE)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_form_writes_the_oracles_bytes_in_every_engine(
    form: AttentionForm, engine: str
) -> None:
    shape = SHAPES["several tokens on a past"]
    check(form, inputs(form, shape), counted(shape), engine)


@pytest.mark.parametrize("engine", ["onnxruntime", "reference"])
@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_of_cache_works(name: str, engine: str) -> None:
    check(BASE, inputs(BASE, SHAPES[name]), counted(SHAPES[name]), engine)


@pytest.mark.parametrize("engine", ENGINES)
def test_rounding_before_the_cache_flips_few_integers_by_one(engine: str) -> None:
    form = dataclasses.replace(BASE, qk_norm=True, layout=RecordLayout(DIM, DIM))
    shape = Shape(4, 16, 16, 0)
    arrays = inputs(form, shape, exact=False)
    y, *caches = node(form, arrays, engine)
    query, *expected = presents(form, arrays, counted(shape))
    for actual, wanted in zip(caches, expected, strict=True):
        off = np.abs(actual.astype(int) - wanted.astype(int))
        assert off.max() <= 1
        assert np.mean(off != 0) <= FLIPPED
    assert_close(y, attended(form, arrays, query, (caches[0], caches[1])), TOLERANCE)


def test_the_first_token_attends_to_its_own_value_as_stored() -> None:
    arrays = inputs(BASE, SHAPES["first token"], exact=False)
    y, _, present_value = node(BASE, arrays)
    value = oracle.decode(present_value, BASE.layout)[0, :, 0]  # (G, d)
    by_head = np.repeat(value, HEADS // SHARED, axis=0)
    np.testing.assert_array_equal(y.reshape(HEADS, DIM), by_head.astype(np.float32))
    assert not np.array_equal(value, arrays["QKV"].reshape(-1, DIM)[-SHARED:])


@pytest.mark.parametrize("steps", [[1] * 6, [3, 1, 2]], ids=str)
@pytest.mark.parametrize("name", ["projected", "partly rotary, window", "positions not given"])
def test_a_prompt_at_once_and_in_pieces_leave_the_same_bytes(name: str, steps: list[int]) -> None:
    # Exact inputs: ONNX Runtime sums a projection of one row in another order than of several.
    form = FORMS[name]
    arrays = inputs(form, Shape(2, 6, 6, 0))
    y, *caches = node(form, arrays)
    y_in_steps, *caches_in_steps = run_in_steps(form, arrays, steps)
    for actual, wanted in zip(caches_in_steps, caches, strict=True):
        np.testing.assert_array_equal(actual, wanted)
    assert_close(y_in_steps, y, TOLERANCE)


def test_a_buffer_and_concatenation_agree_and_other_slots_are_kept() -> None:
    shape, capacity = Shape(2, 3, 7, 4), 12
    arrays = inputs(BASE, shape)
    y, *caches = node(BASE, arrays)
    rest = np.random.default_rng(5).integers(
        0, 256, (2, SHARED, capacity - shape.capacity, BASE.layout.size), np.uint8
    )
    buffers = {
        name: np.concatenate([arrays[name], rest], axis=2) for name in ("past_key", "past_value")
    }
    y_in_buffer, *after = node(BASE, {**arrays, **buffers})
    for buffer, cache in zip(after, caches, strict=True):
        np.testing.assert_array_equal(buffer[:, :, : shape.total], cache)
        unused = rest[:, :, shape.total - shape.capacity :]
        np.testing.assert_array_equal(buffer[:, :, shape.total :], unused)
    np.testing.assert_array_equal(y_in_buffer, y)


def test_a_right_padded_prompt_goes_on_as_if_it_were_alone() -> None:
    lengths, longest = [3, 5], 5
    batch = inputs(BASE, Shape(2, longest + 1, longest + 1, 0))
    kept = np.array([[slot < n or slot == longest for slot in range(longest + 1)] for n in lengths])
    batch["attention_mask"] = kept.astype(np.int64)
    batch["position_ids"] = np.minimum(np.arange(longest + 1), np.array(lengths)[:, None])
    y, *_ = run_in_steps(BASE, batch, [longest, 1])
    for row, length in enumerate(lengths):
        alone = inputs(BASE, Shape(1, length + 1, length + 1, 0))
        alone["QKV"] = batch["QKV"][row : row + 1, kept[row]]
        y_alone, *_ = run_in_steps(BASE, alone, [length, 1])
        assert_close(y[row : row + 1, kept[row]], y_alone, TOLERANCE)


def test_masked_slots_are_not_seen_at_all() -> None:
    shape = SHAPES["several tokens on a past"]
    arrays = inputs(BASE, shape)
    arrays["attention_mask"][0, [0, 3]] = 0
    arrays["attention_mask"][2, :4] = 0
    check(BASE, arrays, counted(shape), "onnxruntime")
    y, *_ = node(BASE, arrays)
    arrays["past_value"][0, :, [0, 3]] ^= 7
    np.testing.assert_array_equal(node(BASE, arrays)[0], y)


@pytest.mark.parametrize("engine", ["onnxruntime", "reference"])
def test_a_query_that_sees_nothing_gives_finite_numbers(engine: str) -> None:
    arrays = inputs(BASE, SHAPES["prefill"])
    arrays["attention_mask"][0, :2] = 0
    arrays["attention_mask"][1] = 0
    y, *_ = node(BASE, arrays, engine)
    assert np.all(np.isfinite(y))


def test_zeros_stay_zeros() -> None:
    arrays = inputs(BASE, SHAPES["prefill"])
    arrays["QKV"][:] = 0
    y, *_ = node(BASE, arrays)
    assert np.all(y == 0)


def test_a_record_of_another_head_size_is_refused() -> None:
    with pytest.raises(ValueError, match="head size"):
        dataclasses.replace(BASE, layout=RecordLayout(32, 4))
