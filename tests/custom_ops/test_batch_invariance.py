"""What a token gets depends on nothing that is computed beside it: to the last bit.

Not on how many tokens and sequences there are, not on the number of threads, not on whether the
cache is a buffer, not on the run.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Final

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from resq_onnx.functions import AttentionForm
from tests.custom_ops import hadamard_cases, matmul_cases
from tests.custom_ops.attention_cases import (
    PAIRS,
    TOLERANCE,
    decoded,
    form_of,
    node_of,
    piece_of,
    with_pasts,
)
from tests.custom_ops.kernels import Node, assert_identical
from tests.functions.attention_cases import Shape

Array = NDArray[Any]

ROWS: Final = 67
PIECES: Final = (1, 2, 3, 4, 5, 7, 8, 16, 21)
"""Sizes of pieces that ROWS rows are cut into, in turn; their sum."""

THREADS: Final = (2, 3, 4)

BY_ROW: Final = {
    **{
        f"MixedPrecisionMatMul {name}": matmul_cases.node_of(
            matmul_cases.FORMS[name], ROWS, outputs=outputs
        )
        for name, outputs in {
            "odd widths": 33,
            "as SmolLM2's q/k/v": 160,
            "as SmolLM2's o": 96,
            "as SmolLM2's down": 70,
            "every option": 49,
            "eight bits in groups": 65,
            "high part alone": 130,
        }.items()
    },
    **{
        f"GatedHadamard {name}": hadamard_cases.node_of(name, ROWS)
        for name in ("both parts", "as SmolLM2", "an odd outer factor", "not rotated")
    },
}
"""Nodes whose rows are independent."""

ATTENTION: Final = {
    "plain": form_of(),
    "as SmolLM2": form_of(heads=9, shared=3, dim=64),
    "q/k norm, window": form_of(qk_norm=True, window=33),
    "head of 80": form_of(heads=8, shared=1, dim=80, high=10, rotary_dim=32),
    "eight bits": form_of(low_bits=8, high=0),
}


# Operators whose rows are independent


def rows_of(session: ort.InferenceSession, node: Node, rows: slice) -> Array:
    """What some of the rows give by themselves."""
    return np.asarray(session.run(None, {n: a[rows].copy() for n, a in node.feeds().items()})[0])


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("node", BY_ROW.values(), ids=BY_ROW)
def test_a_row_alone_and_among_others_is_the_same(node: Node, threads: int) -> None:
    session = node.open(threads=threads)
    whole = rows_of(session, node, slice(None))
    alone = [rows_of(session, node, slice(i, i + 1)) for i in range(ROWS)]
    assert_identical([np.concatenate(alone)], [whole])
    ends = np.cumsum(PIECES)
    assert ends[-1] == ROWS
    pieces = [rows_of(session, node, slice(e - n, e)) for e, n in zip(ends, PIECES, strict=True)]
    assert_identical([np.concatenate(pieces)], [whole])


@pytest.mark.parametrize("node", BY_ROW.values(), ids=BY_ROW)
def test_threads_and_repetition_change_no_row(node: Node) -> None:
    once = node.run()
    for threads in THREADS:
        session = node.open(threads=threads)
        for _ in range(3):
            assert_identical(session.run(None, node.feeds()), once)


@pytest.mark.parametrize("node", BY_ROW.values(), ids=BY_ROW)
def test_the_shape_in_front_of_the_rows_changes_nothing(node: Node) -> None:
    (y,) = node.with_arrays(**{n: a[:66] for n, a in node.feeds().items()}).run()
    shaped = {n: a[:66].reshape(3, 2, 11, -1) for n, a in node.feeds().items()}
    (y_shaped,) = node.with_arrays(**shaped).run()
    assert_identical([y_shaped.reshape(y.shape)], [y])


# Attention


def in_pieces(session: ort.InferenceSession, whole: Node, sizes: list[int]) -> list[Array]:
    """Y of all pieces of a first call, and the caches after them."""
    pasts, outputs, start = [whole.arrays[past] for past, _ in PAIRS], [], 0
    for size in sizes:
        piece = with_pasts(piece_of(whole, start, start + size), pasts)
        y, *pasts = session.run(None, piece.feeds())
        outputs.append(y)
        start += size
    return [np.concatenate(outputs, axis=1), *pasts]


def prompt(form: AttentionForm, batch: int = 1, tokens: int = 140) -> Node:
    """A first call."""
    return node_of(form, Shape(batch, tokens, tokens, 0), exact=False)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("form", ATTENTION.values(), ids=ATTENTION)
def test_a_prompt_at_once_in_pieces_and_token_by_token_are_the_same(
    form: AttentionForm, threads: int
) -> None:
    node = prompt(form)
    session = node.open(threads=threads)
    whole = list(session.run(None, node.feeds()))
    for sizes in ([1] * 140, [67, 1, 2, 5, 64, 1], [128, 12]):
        assert_identical(in_pieces(session, node, sizes), whole)


@pytest.mark.parametrize("form", ATTENTION.values(), ids=ATTENTION)
def test_threads_and_repetition_change_no_token(form: AttentionForm) -> None:
    for node in (prompt(form, 2), node_of(form, Shape(2, 1, 200, 199), exact=False)):
        once = node.run()
        for threads in THREADS:
            session = node.open(threads=threads)
            for _ in range(3):
                assert_identical(session.run(None, node.feeds()), once)


@pytest.mark.parametrize("batch", [2, 3, 4])
@pytest.mark.parametrize("form", ATTENTION.values(), ids=ATTENTION)
def test_a_sequence_alone_and_in_a_batch_is_the_same(form: AttentionForm, batch: int) -> None:
    for shape in (Shape(batch, 70, 70, 0), Shape(batch, 1, 131, 130), Shape(batch, 3, 66, 80)):
        node = node_of(form, shape, exact=False)
        whole = node.run(threads=2)
        for row in range(batch):
            alone = node.with_arrays(**{n: a[row : row + 1] for n, a in node.feeds().items()})
            assert_identical(alone.run(), [output[row : row + 1] for output in whole])


@pytest.mark.parametrize("form", ATTENTION.values(), ids=ATTENTION)
def test_padding_on_the_right_changes_nothing_before_it(form: AttentionForm) -> None:
    lengths = [70, 3, 131, 64]
    batch = prompt(form, len(lengths), max(lengths))
    kept = np.arange(max(lengths)) < np.array(lengths)[:, None]
    batch.arrays["attention_mask"][:] = kept
    y, *caches = batch.run(threads=2)
    for row, length in enumerate(lengths):
        rows = {n: a[row : row + 1] for n, a in batch.feeds().items()}
        alone = piece_of(batch.with_arrays(**rows), 0, length).run()
        assert_identical([y[row : row + 1, :length]], alone[:1])
        assert_identical([c[row : row + 1, :, :length] for c in caches], alone[1:])


@pytest.mark.parametrize("form", ATTENTION.values(), ids=ATTENTION)
def test_a_right_padded_batch_goes_on_as_if_each_sequence_were_alone(form: AttentionForm) -> None:
    """The padding of the shorter ones stays in their cache, hidden by the mask.

    So the sums run over other slots and differ in their last bits. A window counts hidden slots.
    """
    form = dataclasses.replace(form, window=-1)
    lengths, longest, steps = [3, 70, 64], 70, 5
    whole = node_of(form, Shape(len(lengths), longest + steps, longest + steps, 0), exact=False)
    slots = np.arange(longest + steps)
    kept = (slots < np.array(lengths)[:, None]) | (slots >= longest)
    whole.arrays["attention_mask"][:] = kept
    whole.arrays["position_ids"][:] = np.maximum(kept.cumsum(axis=1) - 1, 0)
    y = decoded(whole, longest, steps)
    for row, length in enumerate(lengths):
        alone = whole.with_arrays(
            QKV=whole.arrays["QKV"][row : row + 1, kept[row]],
            attention_mask=np.ones((1, length + steps), np.int64),
            position_ids=np.arange(length + steps)[None],
            **{past: whole.arrays[past][row : row + 1] for past, _ in PAIRS},
        )
        wanted = decoded(alone, length, steps)
        largest = np.abs(whole.arrays["QKV"]).max()
        np.testing.assert_allclose(y[row, kept[row]], wanted[0], rtol=0, atol=TOLERANCE * largest)


@pytest.mark.parametrize("form", ATTENTION.values(), ids=ATTENTION)
def test_what_lies_in_a_buffer_behind_the_tokens_changes_nothing(form: AttentionForm) -> None:
    node = node_of(form, Shape(2, 3, 70, 67), exact=False)
    y, *caches = node.run()
    rest = np.random.default_rng(1).integers(
        0, 256, (2, form.kv_num_heads, 61, form.layout.size), np.uint8
    )
    pasts = [np.concatenate([node.arrays[past], rest], axis=2) for past, _ in PAIRS]
    in_buffer, *buffers = with_pasts(node, pasts).run()
    assert_identical([in_buffer, *(b[:, :, :70] for b in buffers)], [y, *caches])
