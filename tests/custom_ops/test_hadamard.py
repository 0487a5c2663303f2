"""GatedHadamard: the kernel against a dense matrix in float64, and against the function body."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.custom_ops.hadamard_cases import (
    FACTORS,
    Sizes,
    assert_close,
    expected,
    form_of,
    node_of,
    orthogonal,
)
from tests.custom_ops.kernels import Node, assert_identical, by_body

Array = NDArray[Any]

ROWS: Final = (1, 2, 3, 5, 8, 17, 33)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("name", FACTORS)
def test_every_form_agrees_with_a_dense_matrix_and_with_its_body(name: str, rows: int) -> None:
    node = node_of(name, rows)
    (y,) = node.run()
    assert_close(y, expected(node), node)
    assert_close(y, by_body(form_of(FACTORS[name]), node.arrays)[0], node)


@pytest.mark.parametrize("rows", [1, 8, 33])
@pytest.mark.parametrize("name", ["both parts", "as SmolLM2", "not rotated"])
def test_a_gate_activated_by_gelu_agrees_likewise(name: str, rows: int) -> None:
    node = node_of(name, rows, activation="gelu_tanh")
    (y,) = node.run()
    assert_close(y, expected(node), node)
    assert_close(y, by_body(form_of(FACTORS[name], "gelu_tanh"), node.arrays)[0], node)
    assert np.abs(y - node_of(name, rows).run()[0]).max() > 1e-3 * np.abs(y).max()


@pytest.mark.parametrize("leading", [(), (1,), (2, 3), (2, 1, 3)], ids=str)
@pytest.mark.parametrize("name", ["both parts", "not rotated"])
def test_leading_dimensions_are_kept(name: str, leading: tuple[int, ...]) -> None:
    node = node_of(name, *leading)
    (y,) = node.run()
    assert_close(y, expected(node), node)


@pytest.mark.parametrize("leading", [(0,), (2, 0)], ids=str)
def test_no_rows_give_no_rows(leading: tuple[int, ...]) -> None:
    (y,) = node_of("both parts", *leading).run()
    assert y.shape == (*leading, 16)


@pytest.mark.parametrize("rows", [1, 7])
def test_factors_may_be_any_matrices_and_are_not_taken_for_hadamard(rows: int) -> None:
    rng = np.random.default_rng(3)
    node = node_of("both parts", rows)
    others = {
        name: rng.standard_normal(array.shape).astype(np.float32)
        for name, array in node.arrays.items()
        if name != "gate_up"
    }
    node = node.with_arrays(**others)
    (y,) = node.run()
    assert_close(y, expected(node), node)


def test_large_gates_neither_overflow_nor_vanish() -> None:
    node = node_of("not rotated", 1)
    gates = np.zeros(node.arrays["gate_up"].shape, np.float32)
    width = node.arrays["gate_up"].shape[-1] // 2
    gates[..., :9] = [100.0, -100.0, 0.0, 1e30, -1e30, 88.8, -88.8, 1e-30, -104.0]
    gates[..., width:] = 1.0
    node = node.with_arrays(gate_up=gates)
    (y,) = node.run()
    with np.errstate(over="ignore"):
        wanted = expected(node)
    # A sigmoid below the smallest normal number may be 0 or that number.
    smallest = np.abs(gates[..., :width].astype(np.float64)) * np.finfo(np.float32).tiny
    assert np.all(np.abs(y - wanted) <= 1e-6 * np.abs(wanted) + smallest)


def test_zeros_stay_zeros() -> None:
    node = node_of("both parts", 3)
    node.arrays["gate_up"][1] = 0.0
    (y,) = node.run()
    assert np.all(y[1] == 0.0)
    assert np.all(np.any(y[[0, 2]] != 0.0, axis=-1))


@pytest.mark.parametrize("rows", [1, 9])
@pytest.mark.parametrize("name", ["both parts", "as SmolLM2", "not rotated"])
def test_float16_is_float32_rounded_at_the_end(name: str, rows: int) -> None:
    half = node_of(name, rows).in_half()
    wide = half.with_arrays(gate_up=half.arrays["gate_up"].astype(np.float32))
    assert_identical(half.run(), [y.astype(np.float16) for y in wide.run()])


@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_factors_agree_with_a_dense_matrix(data: st.DataObject) -> None:
    orders = st.one_of(st.none(), st.tuples(st.integers(1, 28), st.sampled_from([1, 2, 4, 8, 16])))
    low: Sizes | None = data.draw(orders, "low")
    high: Sizes | None = data.draw(orders if low else orders.filter(bool), "high")
    rng = np.random.default_rng(data.draw(st.integers(0, 99), "seed"))
    arrays = {}
    for part, sizes in (("low", low), ("high", high)):
        if sizes:
            arrays[f"{part}_outer"] = rng.standard_normal((sizes[0], sizes[0]))
            arrays[f"{part}_inner"] = orthogonal(sizes[1], rng)
    width = sum(m * n for m, n in (sizes for sizes in (low, high) if sizes))
    rows = data.draw(st.integers(1, 20), "rows")
    arrays["gate_up"] = rng.standard_normal((rows, 2 * width))
    node = Node.of(
        form_of((low, high)), {name: array.astype(np.float32) for name, array in arrays.items()}
    )
    (y,) = node.run(threads=data.draw(st.integers(1, 3), "threads"))
    assert_close(y, expected(node), node)
