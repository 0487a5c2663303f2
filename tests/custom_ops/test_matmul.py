"""MixedPrecisionMatMul: the kernel against exact integer sums, and against the function body."""

from __future__ import annotations

from itertools import product
from typing import Any, Final

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from resq_onnx.functions import MatMulForm
from resq_onnx.recipe import BitSplit
from tests.custom_ops.kernels import Node, assert_identical, by_body
from tests.custom_ops.matmul_cases import (
    FORMS,
    LONG,
    OUTPUTS,
    ROWS,
    arrays_for,
    assert_close,
    expected,
    extreme,
    node_of,
    tokens,
)

Array = NDArray[Any]

MOST_COLUMNS: Final = 65_536
"""As many as a kernel takes: sums of 255 * 128 still are int32."""


def check(form: MatMulForm, node: Node) -> None:
    """The kernel's result is the oracle's."""
    (y,) = node.run()
    assert_close(y, expected(form, node), form, node)


@pytest.mark.parametrize("rows", [1, 4, 21])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_form_agrees_with_integer_sums_and_with_its_body(form: MatMulForm, rows: int) -> None:
    node = node_of(form, rows, outputs=35)
    (y,) = node.run()
    assert_close(y, expected(form, node), form, node)
    (by_function,) = by_body(form, node.arrays)
    assert_close(y, by_function, form, node)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("name", ["both parts", "odd widths", "three odd groups"])
def test_any_number_of_rows_and_outputs(name: str, rows: int) -> None:
    for outputs in OUTPUTS:
        check(FORMS[name], node_of(FORMS[name], rows, outputs=outputs, seed=outputs))


@pytest.mark.parametrize("leading", [(), (1,), (2, 3), (2, 1, 3), (1, 1, 1, 2)], ids=str)
@pytest.mark.parametrize("name", ["every option", "eight bits in groups"])
def test_leading_dimensions_are_kept(name: str, leading: tuple[int, ...]) -> None:
    check(FORMS[name], node_of(FORMS[name], *leading))


@pytest.mark.parametrize("leading", [(0,), (2, 0), (0, 3)], ids=str)
@pytest.mark.parametrize("name", ["every option", "three odd groups"])
def test_no_rows_give_no_rows(name: str, leading: tuple[int, ...]) -> None:
    (y,) = node_of(FORMS[name], *leading).run()
    assert y.shape == (*leading, 16)


@pytest.mark.parametrize("name", ["both parts", "every option", "three odd groups"])
def test_a_row_of_zeros_gives_bias_and_residual_exactly(name: str) -> None:
    form = FORMS[name]
    node = node_of(form, 5)
    node.arrays["X"][3] = 0.0
    (y,) = node.run()
    assert_close(y, expected(form, node), form, node)
    offset = node.arrays.get("bias", np.float32(0)) + node.arrays.get("residual", np.zeros((5, 1)))
    np.testing.assert_array_equal(y[3], np.broadcast_to(offset[3], y[3].shape))


@pytest.mark.parametrize("value", [3.0, -0.25, 1e-38, -1e-42, 1e-45, 1e30, -1e30])
@pytest.mark.parametrize("rows", [1, 9])
def test_a_constant_row_of_any_size(value: float, rows: int) -> None:
    form = FORMS["both parts"]
    x = np.full((rows, form.split.width), value, np.float32)
    check(form, Node.of(form, arrays_for(form, x, 5)))


def test_one_huge_outlier_leaves_the_others_at_zero() -> None:
    form = FORMS["both parts"]
    x = tokens(6, form.split.width)
    x[:, 3] = 1e20
    check(form, Node.of(form, arrays_for(form, x, 5)))


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("together", [True, False])
def test_ties_are_rounded_to_even_after_a_division(sign: int, together: bool) -> None:
    """Every x / s is a whole number and a half, with another odd s in each row."""
    form = MatMulForm(BitSplit(16, 256))
    scales = np.arange(1, 400, 6)[:, None]
    low, high = (
        sign * scales * np.concatenate([[0, levels], np.arange(levels - 1) + 0.5])
        for levels in (15, 255)
    )
    x = np.concatenate([low, high], axis=1).astype(np.float32)
    reciprocals = np.float32(1) / scales.astype(np.float32)
    assert np.any(np.rint(x * reciprocals) != np.rint(x / scales))  # multiplying would not do
    for rows in [x] if together else x[::8, None]:
        check(form, Node.of(form, arrays_for(form, rows, 7)))


# Sums at their largest


@pytest.mark.parametrize("rows", [1, 2, 8, 37])
@pytest.mark.parametrize(
    "split",
    [BitSplit(LONG, 0), BitSplit(0, LONG), BitSplit(LONG, 520), BitSplit(LONG, 33, low_bits=8)],
    ids=str,
)
def test_the_largest_sums_do_not_overflow(split: BitSplit, rows: int) -> None:
    form = MatMulForm(split)
    for level, lowest in product((1.0, -1.0), (True, False)):
        check(form, extreme(form, rows, 19, level, lowest))


@pytest.mark.parametrize("rows", [1, 12])
def test_extremes_of_both_signs_do_not_overflow(rows: int) -> None:
    form, rng = MatMulForm(BitSplit(LONG, 1030)), np.random.default_rng(4)
    node = Node.of(form, arrays_for(form, rng.choice([0.0, 1.0], (rows, form.split.width)), 33))
    node.arrays["W_low"][:] = rng.choice([-8, 7], node.arrays["W_low"].shape)
    node.arrays["W_high"][:] = rng.choice([-128, 127], node.arrays["W_high"].shape)
    check(form, node.with_arrays(X=node.arrays["X"].astype(np.float32)))


@pytest.mark.parametrize("rows", [1, 5])
def test_sums_reach_the_end_of_int32(rows: int) -> None:
    form = MatMulForm(BitSplit(0, MOST_COLUMNS))
    check(form, extreme(form, rows, 2, 1.0, lowest=True))


def test_more_columns_are_refused() -> None:
    form = MatMulForm(BitSplit(8, MOST_COLUMNS - 7))
    with pytest.raises(Exception, match=rf"layers.7/node.*{MOST_COLUMNS + 1}.*{MOST_COLUMNS}"):
        node_of(form, 1, outputs=2).open()


# Types


@pytest.mark.parametrize("rows", [1, 6, 40])
@pytest.mark.parametrize("name", ["every option", "as SmolLM2's o", "odd widths"])
def test_float16_is_float32_rounded_at_the_end(name: str, rows: int) -> None:
    half = node_of(FORMS[name], rows).in_half()
    widened = {
        name: array.astype(np.float32) if array.dtype == np.float16 else array
        for name, array in half.arrays.items()
    }
    (y,) = half.with_arrays(**widened).run()
    with np.errstate(over="ignore"):
        assert_identical(half.run(), [y.astype(np.float16)])


# Any sizes


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_sizes_and_options_agree_with_integer_sums(data: st.DataObject) -> None:
    groups = data.draw(st.sampled_from([1, 1, 2, 3, 9]), "groups")
    low = data.draw(st.integers(0, 150 // groups), "low") * groups
    high = data.draw(st.integers(0 if low else 1, 70 // groups), "high") * groups
    form = MatMulForm(
        BitSplit(low, high, data.draw(st.sampled_from([4, 8]), "low_bits")),
        groups=groups,
        norm=groups == 1 and data.draw(st.booleans(), "norm"),
        bias=data.draw(st.booleans(), "bias"),
        residual=data.draw(st.booleans(), "residual"),
    )
    rows, outputs = data.draw(st.integers(1, 40), "rows"), data.draw(st.integers(1, 70), "outputs")
    node = node_of(form, rows, outputs=outputs, seed=data.draw(st.integers(0, 99), "seed"))
    (y,) = node.run(threads=data.draw(st.integers(1, 3), "threads"))
    assert_close(y, expected(form, node), form, node)
