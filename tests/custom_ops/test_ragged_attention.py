"""Texts of unequal lengths in one call: each gets what it gets alone, to the last bit."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from resq_onnx.functions import AttentionForm
from tests.custom_ops.attention_cases import PAIRS, TOLERANCE, form_of, ragged_node_of, reference
from tests.custom_ops.kernels import Node, assert_identical, by_body
from tests.custom_ops.test_shared_buffer import run_bound
from tests.functions import ragged_cases
from tests.functions.oracle import decode
from tests.functions.ragged_cases import SHAPES, Ragged

Array = NDArray[Any]

FORMS: Final = {
    "plain": form_of(ragged=True),
    "as SmolLM2": form_of(heads=9, shared=3, dim=64, ragged=True),
    "window": form_of(window=33, ragged=True),
    "window of one": form_of(window=1, ragged=True),
    "positions not given": form_of(position_ids=False, ragged=True),
    "eight bits, capped scores": form_of(low_bits=8, high=0, caps_scores=True, ragged=True),
    "one kv head": form_of(heads=8, shared=1, ragged=True),
}

LENGTHS: Final = (0, 200, 63, 64, 65, 127, 128, 1, 129, 3)
"""Around every size of a block of slots."""

ROWS: Final = (3, 0, 11, 7, 1, 2, 10, 4, 9, 5)

LONG: Final = {
    "one token": Ragged(LENGTHS, ROWS, 1, 201, 12),
    "several tokens": Ragged(LENGTHS[:4], ROWS[:4], 5, 210, 12, spare=4),
    "many tokens": Ragged(LENGTHS[1:3], ROWS[1:3], 40, 250, 12),
}
"""The first and the second have their slots divided among the threads, with few kv heads."""


PARTS: Final = {
    "one token each": Ragged((200, 130, 201, 202, 0, 131), (3, 0, 3, 3, 1, 0), 1, 210, 6),
    "several tokens each": Ragged((60, 130, 65, 70, 0, 135), (3, 0, 3, 3, 1, 0), 5, 210, 6),
}
"""Rows that come several times: parts of one text."""

EACH: Final = ("QKV", "attention_mask", "position_ids", "cached", "cache_rows")
"""Inputs with a row for each text."""


def alone(node: Node, text: int) -> Node:
    """The node with one of its texts, and a cache of that text alone."""
    arrays = ragged_cases.alone(node.arrays, text)
    gone: dict[str, None] = {"cached": None, "cache_rows": None}
    return node.with_arrays(**{**arrays, **gone})


def each_alone(node: Node) -> list[Array]:
    """What the call has to give, by a call for each of its texts."""
    texts = range(len(node.arrays["cached"]))
    return ragged_cases.together(node.arrays, [alone(node, text).run() for text in texts])


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("shape", LONG.values(), ids=LONG)
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_text_gets_the_bits_that_it_gets_alone(
    form: AttentionForm, shape: Ragged, threads: int
) -> None:
    node = ragged_node_of(form, shape, exact=False)
    assert_identical(node.run(threads=threads), each_alone(node))
    half = node.in_half()
    assert_identical(half.run(threads=threads), each_alone(half))


@pytest.mark.parametrize("shape", (SHAPES | LONG | PARTS).values(), ids=SHAPES | LONG | PARTS)
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_form_agrees_with_its_body(form: AttentionForm, shape: Ragged) -> None:
    node = ragged_node_of(form, shape)
    y, *caches = node.run()
    wanted, *wanted_caches = by_body(form, node.arrays)
    assert_identical(caches, wanted_caches)
    largest = np.abs(decode(caches[1], form.layout)).max()
    np.testing.assert_allclose(y, wanted, rtol=0, atol=TOLERANCE * largest)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("shape", PARTS.values(), ids=PARTS)
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_parts_of_a_text_in_one_call_get_the_bits_that_they_get_one_after_another(
    form: AttentionForm, shape: Ragged, threads: int
) -> None:
    node = ragged_node_of(form, shape, exact=False)
    y, *caches = node.run(threads=threads)
    wanted = {past: node.arrays[past] for past, _ in PAIRS}
    for part in np.argsort(shape.cached):
        arrays = {name: node.arrays[name][part : part + 1] for name in EACH if name in node.arrays}
        one, *presents = node.with_arrays(**arrays, **wanted).run(threads=threads)
        assert_identical([y[part : part + 1]], [one])
        wanted = dict(zip(wanted, presents, strict=True))
    assert_identical(caches, list(wanted.values()))


def test_the_oracle_says_the_same() -> None:
    form, shape = FORMS["plain"], LONG["several tokens"]
    node = ragged_node_of(form, shape)
    y, *caches = node.run()
    for text, (cached, row) in enumerate(zip(shape.cached, shape.cache_rows, strict=True)):
        one, total = alone(node, text), cached + shape.new
        query, *_ = reference(form, one).heads(one.arrays["QKV"], one.arrays["position_ids"])
        keys, values = (decode(cache[row : row + 1, :, :total], form.layout) for cache in caches)
        expected = reference(form, one).attend(query, keys, values, one.arrays["attention_mask"])
        largest = np.abs(values).max()
        np.testing.assert_allclose(y[text : text + 1], expected, rtol=0, atol=TOLERANCE * largest)


def test_hidden_slots_and_slots_behind_a_text_may_hold_anything() -> None:
    """Records of all ones decode to no number at all."""
    shape = LONG["several tokens"]
    node = ragged_node_of(FORMS["plain"], shape, exact=False)
    node.arrays["attention_mask"][1, [5, 70]] = 0
    y, *_ = node.run()
    for past, _ in PAIRS:
        cache = node.arrays[past]
        for cached, row in zip(shape.cached, shape.cache_rows, strict=True):
            cache[row, :, cached:] = 255
        cache[shape.cache_rows[1], :, [5, 70]] = 255
    assert_identical(node.run()[:1], [y])


@pytest.mark.parametrize("aliased", [(True, True), (True, False), (False, False)])
def test_a_buffer_bound_as_past_and_present_is_written_in_place(
    aliased: tuple[bool, bool],
) -> None:
    node = ragged_node_of(FORMS["plain"], LONG["one token"])
    apart = node.run()
    copies = {past: node.arrays[past].copy() for past, _ in PAIRS}
    assert_identical(run_bound(node.open(), node.with_arrays(**copies), aliased), apart)


def test_a_batch_of_no_texts_gives_nothing_and_keeps_the_cache() -> None:
    node = ragged_node_of(FORMS["plain"], SHAPES["nothing cached"])
    empty = {name: node.arrays[name][:0] for name in ("QKV", "attention_mask", "position_ids")}
    empty |= {name: node.arrays[name][:0] for name in ("cached", "cache_rows")}
    y, *caches = node.with_arrays(**empty).run()
    assert y.size == 0
    assert_identical(caches, [node.arrays[past] for past, _ in PAIRS])


@pytest.mark.parametrize("missing", ["cached", "cache_rows"])
def test_one_of_the_two_inputs_alone_is_refused(missing: str) -> None:
    node = ragged_node_of(FORMS["plain"], SHAPES["nothing cached"])
    with pytest.raises(Exception, match="only one of cached and cache_rows is given"):
        node.with_arrays(**{missing: None}).open()


def test_the_inputs_may_be_constants_of_the_graph() -> None:
    node = ragged_node_of(FORMS["plain"], SHAPES["rows of others between"])
    fixed = Node(**{**vars(node), "fed": node.fed - {"cached", "cache_rows"}})
    assert len(onnx.ModelProto.FromString(fixed.model()).graph.initializer) >= 2
    assert_identical(fixed.run(), node.run())


def test_the_node_of_the_refusals_is_accepted() -> None:
    assert np.all(np.isfinite(refusable().run()[0]))


@pytest.mark.parametrize(
    ("change", "fragments"),
    [
        ({"cached": [7]}, ("cached", "1", "2")),
        ({"cache_rows": [[1], [2]]}, ("cache_rows", "(2, 1)", "(2)")),
        ({"cached": [-1, 0]}, ("cached", "-1", "0 to 8")),
        ({"cached": [7, 9]}, ("cached", "9", "0 to 8", "attention_mask")),
        ({"cached": [2**62, 0]}, ("cached", str(2**62), "0 to 8")),
        ({"cache_rows": [1, 3]}, ("cache_rows", "3", "0 to 2", "past_key")),
        ({"cache_rows": [-1, 1]}, ("cache_rows", "-1", "0 to 2")),
        ({"cache_rows": [2, 2], "cached": [2, 0]}, ("cache_rows", "2", "twice", "each slot once")),
        ({"attention_mask": np.ones((2, 13))}, ("past_key", "12", "13", "cached")),
    ],
)
def test_a_mistake_is_refused_by_name(change: dict[str, Any], fragments: tuple[str, ...]) -> None:
    arrays = {name: np.array(value, np.int64) for name, value in change.items()}
    node = refusable().with_arrays(**arrays)
    with pytest.raises(Exception, match=node.name) as refusal:
        node.run()
    for fragment in fragments:
        assert fragment in str(refusal.value)


def test_a_text_without_positions_may_not_outgrow_the_tables() -> None:
    node = ragged_node_of(FORMS["positions not given"], Ragged((7,), (0,), 3, 12, 1))
    short = {name: node.arrays[name][:9] for name in ("cos_cache", "sin_cache")}
    with pytest.raises(Exception, match="cached is 7, expected 0 to 6"):
        node.with_arrays(**short).run()


def refusable() -> Node:
    """Texts of 7 and 0 tokens in rows 1 and 2 of 3; S = 3, P = 12, 11 columns of the mask."""
    return ragged_node_of(FORMS["plain"], Ragged((7, 0), (1, 2), 3, 12, 3, spare=1))
