"""MixedPrecisionAttention: bytes of the cache and what is attended to, by the kernel."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from resq_onnx.functions import AttentionForm
from tests.custom_ops.attention_cases import (
    FLIPPED,
    FORMS,
    NORMED,
    POSITIONS,
    TOLERANCE,
    assert_attended,
    assert_within_a_step,
    expected_caches,
    form_of,
    node_of,
)
from tests.custom_ops.kernels import Node, assert_identical, by_body
from tests.functions.attention_cases import SHAPES, Shape, read, stored
from tests.functions.oracle import decode

Array = NDArray[Any]

TOTALS: Final = (63, 64, 65, 127, 128, 129, 200, 300)
"""Contexts around every size of a block of slots that a kernel may have."""


def check(form: AttentionForm, node: Node) -> None:
    """The caches byte for byte, and Y."""
    y, *caches = node.run()
    assert_identical(caches, list(expected_caches(form, node)))
    assert_attended(form, node, y, caches)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_form_writes_the_bytes_of_the_definition(form: AttentionForm, name: str) -> None:
    check(form, node_of(form, SHAPES[name]))


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_form_agrees_with_its_body(form: AttentionForm) -> None:
    node = node_of(form, SHAPES["several tokens on a past"])
    y, *caches = node.run()
    wanted, *wanted_caches = by_body(form, node.arrays)
    assert_identical(caches, wanted_caches)
    largest = np.abs(decode(caches[1], form.layout)).max()
    np.testing.assert_allclose(y, wanted, rtol=0, atol=TOLERANCE * largest)


@pytest.mark.parametrize("new", [1, 3, None], ids=["one token", "three tokens", "all at once"])
@pytest.mark.parametrize("total", TOTALS)
def test_contexts_of_any_length(total: int, new: int | None) -> None:
    chosen = form_of(heads=6, shared=2, dim=32)
    new = new or total
    check(chosen, node_of(chosen, Shape(1, new, total, total - new)))


@pytest.mark.parametrize("total", [65, 200])
def test_a_window_within_a_long_context(total: int) -> None:
    for window in (1, 63, 64, 65, 150):
        chosen = form_of(window=window)
        check(chosen, node_of(chosen, Shape(1, 70 if total > 70 else 1, total, total)))


@pytest.mark.parametrize("form", [*FORMS.values(), *NORMED.values()], ids=[*FORMS, *NORMED])
def test_rounding_before_the_cache_moves_no_number_by_two_steps(form: AttentionForm) -> None:
    node = node_of(form, Shape(2, 70, 70, 0), exact=False)
    y, *caches = node.run()
    for cache, wanted in zip(caches, by_body(form, node.arrays)[1:], strict=True):
        assert_within_a_step(form, cache, wanted)
    assert_attended(form, node, y, caches)


def test_rounding_before_the_cache_changes_few_bytes() -> None:
    """Over all forms: a scale that a last bit moves changes a whole record, once in some 20,000."""
    changed = total = 0
    for form in (FORMS | NORMED).values():
        node = node_of(form, Shape(4, 70, 70, 0), exact=False)
        cache, wanted = node.run()[1], by_body(form, node.arrays)[1]
        changed, total = changed + int(np.sum(cache != wanted)), total + cache.size
    print(f"{changed} of {total} bytes differ: {1e6 * changed / total:.0f} in a million")
    assert changed <= FLIPPED * total


@pytest.mark.parametrize("missing", ["q_norm", "k_norm"])
def test_queries_or_keys_alone_may_be_normalised(missing: str) -> None:
    chosen = NORMED["q/k norm"]
    node = node_of(chosen, Shape(2, 5, 12, 7), exact=False).with_arrays(**{missing: None})
    y, *caches = node.run()
    for cache, wanted in zip(caches, expected_caches(chosen, node), strict=True):
        assert_within_a_step(chosen, cache, wanted)
    assert_attended(chosen, node, y, caches)


def test_values_are_stored_without_any_flip() -> None:
    """Nothing is computed with a value before it is quantised."""
    chosen = form_of(heads=9, shared=3, dim=64, qk_norm=True)
    node = node_of(chosen, Shape(2, 70, 70, 0), exact=False)
    assert_identical(node.run()[2:], list(expected_caches(chosen, node)[1:]))


# Masks


@pytest.mark.parametrize("total", [7, 70, 140])
def test_slots_hidden_by_the_mask_are_not_seen_at_all(total: int) -> None:
    chosen = form_of()
    node = node_of(chosen, Shape(3, 2, total, total - 2))
    mask = node.arrays["attention_mask"]
    mask[:] = np.random.default_rng(3).integers(0, 2, mask.shape)
    mask[:, 0] = mask[:, -1] = 1
    mask[2, 1:-2] = 0
    check(chosen, node)
    y, *_ = node.run()
    for name in ("past_key", "past_value"):
        node.arrays[name][
            np.broadcast_to(mask[:, None, :-2, None] == 0, node.arrays[name].shape)
        ] ^= 7
    assert_identical(node.run()[:1], [y])


@pytest.mark.parametrize("total", [8, 70, 200])
def test_hidden_slots_may_hold_anything(total: int) -> None:
    """Records of all ones decode to no number at all."""
    node = node_of(form_of(), Shape(batch=2, new=2, total=total, capacity=total), exact=False)
    mask = np.ones((2, total), np.int64)
    mask[:, 1:5] = 0
    hidden = node.with_arrays(attention_mask=mask)
    pasts = {name: hidden.arrays[name].copy() for name in ("past_key", "past_value")}
    for past in pasts.values():
        past[:, :, 1:5] = 255
    assert_identical(hidden.with_arrays(**pasts).run()[:1], hidden.run()[:1])


def test_any_number_but_zero_in_the_mask_shows_a_slot() -> None:
    chosen = form_of()
    node = node_of(chosen, SHAPES["several tokens on a past"])
    node.arrays["attention_mask"][:, :5] = [1, 0, 1, 0, 1]
    y, *_ = node.run()
    node.arrays["attention_mask"][:, :5] = [-1, 0, 2**40, 0, 2**32]
    assert_identical(node.run()[:1], [y])


@pytest.mark.parametrize("total", [5, 70])
def test_a_query_that_sees_nothing_gives_zeros(total: int) -> None:
    chosen = form_of()
    node = node_of(chosen, Shape(2, total, total, 0))
    node.arrays["attention_mask"][0, :2] = 0
    node.arrays["attention_mask"][1] = 0
    y, *caches = node.run()
    assert np.all(y[0, :2] == 0)
    assert np.all(y[1] == 0)
    assert np.any(y[0, 2:] != 0)
    assert_identical(caches, list(expected_caches(chosen, node)))


def test_zeros_stay_zeros() -> None:
    chosen = form_of()
    node = node_of(chosen, SHAPES["prefill"])
    node.arrays["QKV"][:] = 0
    y, *caches = node.run()
    assert np.all(y == 0)
    assert_identical(caches, list(expected_caches(chosen, node)))


@pytest.mark.parametrize("size", [1e-42, 1e-30, 1e15])
def test_tiny_and_huge_inputs_are_stored_as_defined(size: float) -> None:
    chosen = form_of(rotates_keys=False)
    node = node_of(chosen, SHAPES["prefill"])
    node = node.with_arrays(QKV=(node.arrays["QKV"] * np.float64(size)).astype(np.float32))
    y, *caches = node.run()
    assert_identical(caches[1:], list(expected_caches(chosen, node)[1:]))
    assert np.all(np.isfinite(y))


@pytest.mark.parametrize("part", ["keys", "values"])
@pytest.mark.parametrize("new", [1, 70], ids=["one token", "a prompt"])
def test_keys_and_values_up_to_1e36_are_attended_to(part: str, new: int) -> None:
    """Floats end at 3e38."""
    chosen = form_of(rotates_keys=False)
    node = node_of(chosen, Shape(1, new, new, 0))
    ends = [heads * chosen.head_dim for heads in (chosen.num_heads, chosen.kv_num_heads)]
    queries, keys, values = np.split(node.arrays["QKV"], np.cumsum(ends), axis=2)
    (keys if part == "keys" else values)[:] *= np.float32(2.0**120)
    if part == "keys":
        queries[:] *= np.float32(2.0**-120)
    y, *caches = node.run()
    assert np.abs(read(chosen, caches[part == "values"])).max() > 1e36
    assert_identical(caches, list(expected_caches(chosen, node)))
    assert_attended(chosen, node, y, caches)


@pytest.mark.parametrize("dim", [64, 256, 512])
@pytest.mark.parametrize("low_bits", [4, 8])
@pytest.mark.parametrize("new", [1, 70], ids=["one token", "a prompt"])
def test_sums_of_the_largest_integers_fit(dim: int, low_bits: int, new: int) -> None:
    """Every number is the largest of its part, so every integer is, too, with a zero point that is
    furthest from it: sums over a head, or over a chunk of slots, come closest to 2**31."""
    form = form_of(heads=2, shared=1, dim=dim, low_bits=low_bits, rotates_keys=False)
    node = node_of(form, Shape(1, new, 128, 128))
    node.arrays["cos_cache"][:], node.arrays["sin_cache"][:] = 1, 0
    node.arrays["QKV"][:] = dim**-0.25
    alike = np.full((1, 1, 128, dim), dim**-0.25, np.float32)
    opposite = alike * np.where(np.arange(128) % 2, 1, -1)[:, None].astype(np.float32)
    for values in (alike, opposite):  # the largest sums of values, and values that tell keys apart
        filled = node.with_arrays(past_key=stored(form, opposite), past_value=stored(form, values))
        y, *caches = filled.run()
        assert_attended(form, filled, y, caches)


# Attributes and types


@pytest.mark.parametrize("scale", [1e-30, 0.01, 1.0])
def test_the_scale_of_a_node_counts(scale: float) -> None:
    chosen = form_of()
    node = node_of(chosen, SHAPES["several tokens on a past"])
    usual, *_ = node.run()
    y, *_ = node.with_attributes(scale=scale).run()
    wanted, *caches = by_body(chosen, node.arrays, scale=scale)
    largest = np.abs(decode(caches[1], chosen.layout)).max()
    np.testing.assert_allclose(y, wanted, rtol=0, atol=4 * TOLERANCE * largest)
    assert not np.allclose(y, usual, atol=1e-3)


def test_a_scale_of_nothing_weighs_all_slots_alike() -> None:
    form = form_of()
    node = node_of(form, SHAPES["decode"], exact=False).with_attributes(scale=0.0)
    y, _, values = node.run()
    mean = read(form, values)[:, :, : SHAPES["decode"].total].mean(axis=2)  # (B, G, d)
    heads = form.num_heads // form.kv_num_heads
    expected = np.repeat(mean, heads, axis=1).reshape(y.shape)
    np.testing.assert_allclose(y, expected, rtol=0, atol=TOLERANCE * np.abs(expected).max())


@pytest.mark.parametrize("name", ["plain", "positions not given"])
def test_positions_count_from_the_first_slot_where_none_are_given(name: str) -> None:
    given, counted = (
        node_of(FORMS["plain"], Shape(1, 3, 9, 6)),
        node_of(FORMS[name], Shape(1, 3, 9, 6)),
    )
    assert_identical(counted.run(), given.run())


def test_positions_may_jump_repeat_and_reach_the_end_of_the_tables() -> None:
    chosen = form_of()
    node = node_of(chosen, Shape(2, 4, 9, 5))
    node.arrays["position_ids"][:] = [[POSITIONS - 1, 0, 0, 7], [5, 4, 3, POSITIONS - 1]]
    check(chosen, node)


@pytest.mark.parametrize("name", ["plain", "q/k norm", "head of 80"])
@pytest.mark.parametrize("shape", ["prefill", "decode", "buffer, decode"])
def test_float16_is_float32_rounded_at_the_end(name: str, shape: str) -> None:
    half = node_of({**FORMS, **NORMED}[name], SHAPES[shape], exact=False).in_half()
    wide = half.with_arrays(QKV=half.arrays["QKV"].astype(np.float32))
    y, *caches = wide.run()
    assert_identical(half.run(), [y.astype(np.float16), *caches])


# Any sizes


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_sizes_and_masks_agree_with_the_definition(data: st.DataObject) -> None:
    shared = data.draw(st.integers(1, 3), "kv_num_heads")
    dim = data.draw(st.sampled_from([2, 6, 8, 16, 24, 80]), "head_dim")
    low_bits = data.draw(st.sampled_from([4, 8]), "low_bits")
    high = data.draw(st.integers(0, dim // 2), "half of high_rank") * 2
    if low_bits == 8 and high:
        high -= data.draw(st.integers(0, 1), "an odd high_rank")
    chosen = form_of(
        heads=shared * data.draw(st.sampled_from([1, 2, 3, 8]), "heads for each kv head"),
        shared=shared,
        dim=dim,
        high=high,
        low_bits=low_bits,
        rotary_dim=2 * data.draw(st.integers(1, dim // 2), "half of rotary_dim"),
        rotates_keys=data.draw(st.booleans(), "projected"),
        window=data.draw(st.sampled_from([-1, 1, 2, 5, 40]), "window"),
        position_ids=data.draw(st.booleans(), "positions"),
    )
    new, past = data.draw(st.integers(1, 20), "new"), data.draw(st.integers(0, 70), "past")
    room = data.draw(st.sampled_from([0, new, new + 5]), "slots beyond the past")
    shape = Shape(data.draw(st.integers(1, 3), "batch"), new, past + new, past + room)
    node = node_of(chosen, shape, seed=data.draw(st.integers(0, 99), "seed"))
    mask = node.arrays["attention_mask"]
    hidden = data.draw(st.sampled_from([0.0, 0.3]), "share of hidden slots")
    mask[np.random.default_rng(0).random(mask.shape) < hidden] = 0
    mask[:, past:] = 1  # A query that sees nothing has no defined result to compare with.
    y, *caches = node.run(threads=data.draw(st.integers(1, 3), "threads"))
    assert_identical(caches, list(expected_caches(chosen, node)))
    assert_attended(chosen, node, y, caches)
