"""MixedPrecisionAttention where past and present are one buffer of fixed length, by IO binding."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from resq_onnx.functions import AttentionForm
from tests.custom_ops.attention_cases import (
    PAIRS,
    expected_caches,
    form_of,
    node_of,
    piece_of,
    with_pasts,
)
from tests.custom_ops.kernels import Node, assert_identical
from tests.functions.attention_cases import Shape

Array = NDArray[Any]

FORMS: Final = {
    "plain": form_of(),
    "wide": form_of(heads=9, shared=3, dim=64),
    "window": form_of(window=5),
    "positions not given": form_of(position_ids=False),
}


def run_bound(session: ort.InferenceSession, node: Node, aliased: tuple[bool, bool]) -> list[Array]:
    """Y, and the caches after the call.

    Args:
        session: Of the node.
        node: Its pasts are changed in place where they are aliased.
        aliased: Whether past and present are the same memory, for keys and for values;
            otherwise present is a buffer of its own, of the same shape.
    """
    binding = session.io_binding()
    for name, array in node.feeds().items():
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array))
    binding.bind_output("Y")
    presents = []
    for (past, present), same in zip(PAIRS, aliased, strict=True):
        array = node.arrays[past]
        presents.append(array if same else np.full_like(array, 0xAB))
        value = ort.OrtValue.ortvalue_from_numpy(presents[-1])
        assert value.data_ptr() == presents[-1].ctypes.data  # memory of this process, not a copy
        binding.bind_ortvalue_output(present, value)
    session.run_with_iobinding(binding)
    return [binding.copy_outputs_to_cpu()[0], *presents]


def copied(node: Node) -> Node:
    """The node with pasts that may be written to."""
    return node.with_arrays(**{past: node.arrays[past].copy() for past, _ in PAIRS})


@pytest.mark.parametrize(
    "shape",
    [Shape(1, 1, 1, 9), Shape(2, 5, 5, 8), Shape(1, 1, 8, 8), Shape(3, 2, 70, 133)],
    ids=["first token", "prefill", "last slot", "several tokens"],
)
@pytest.mark.parametrize("aliased", [(True, True), (True, False), (False, True), (False, False)])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_buffer_gets_the_new_slots_and_keeps_all_others(
    form: AttentionForm, aliased: tuple[bool, bool], shape: Shape
) -> None:
    node = node_of(form, shape)
    apart = node.run()
    bound = run_bound(node.open(), copied(node), aliased)
    assert_identical(bound, apart)
    assert_identical(bound[1:], list(expected_caches(form, node)))


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_decode_in_one_buffer_equals_decode_by_concatenation(form: AttentionForm) -> None:
    prompt, steps, capacity = 6, 70, 90
    whole = node_of(form, Shape(2, prompt + steps, prompt + steps, 0), exact=False)
    records = (2, form.kv_num_heads, capacity, form.layout.size)
    garbage = np.random.default_rng(0).integers(0, 256, (2, *records), np.uint8)
    session, pasts = whole.open(), [whole.arrays[past] for past, _ in PAIRS]
    buffers = [garbage[0].copy(), garbage[1].copy()]
    for start, stop in [(0, prompt), *((i, i + 1) for i in range(prompt, prompt + steps))]:
        piece = piece_of(whole, start, stop)
        y, *pasts = session.run(None, with_pasts(piece, pasts).feeds())
        in_buffer, *_ = run_bound(session, with_pasts(piece, buffers), (True, True))
        assert_identical([in_buffer], [y])
        assert_identical([b[:, :, :stop] for b in buffers], pasts)
    for buffer, before in zip(buffers, garbage, strict=True):
        np.testing.assert_array_equal(buffer[:, :, stop:], before[:, :, stop:])


def test_a_buffer_that_cannot_hold_the_present_is_refused() -> None:
    """Nothing may be written behind it."""
    node = node_of(form_of(), Shape(1, 2, 7, 5))
    with pytest.raises(Exception, match=r"(?s)present_key|[Ss]hape|size"):
        run_bound(node.open(), node, (True, True))
