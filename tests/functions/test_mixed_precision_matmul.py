"""MixedPrecisionMatMul: its body in every engine against integer sums in numpy."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from resq_onnx.functions import MatMulForm
from resq_onnx.recipe import BitSplit
from tests.functions import oracle
from tests.functions.engines import ENGINES, assert_close, run

Array = NDArray[Any]

OUTPUTS = 5
EPSILON = 1e-5
TOLERANCE = 2e-6
"""Of the largest result: float32 sums of dequantised numbers against exact integer sums."""

FORMS = {
    "both parts": MatMulForm(BitSplit(14, 2)),
    "normalised": MatMulForm(BitSplit(14, 2), norm=True),
    "with bias and residual": MatMulForm(BitSplit(13, 3), bias=True, residual=True),
    "normalised with all options": MatMulForm(BitSplit(13, 3), norm=True, bias=True, residual=True),
    "clipped": MatMulForm(BitSplit(14, 2), norm=True, low_clip=0.85),
    "clipped groups": MatMulForm(BitSplit(21, 6), groups=3, low_clip=0.5),
    "groups": MatMulForm(BitSplit(21, 6), groups=3, residual=True),
    "groups without high part": MatMulForm(BitSplit(8, 0), groups=2),
    "low part alone": MatMulForm(BitSplit(16, 0), norm=True),
    "high part alone": MatMulForm(BitSplit(0, 17), norm=True),
    "one column each": MatMulForm(BitSplit(1, 1)),
    "eight bits throughout": MatMulForm(BitSplit(7, 5, low_bits=8)),
    "eight bits without high part": MatMulForm(BitSplit(7, 0, low_bits=8), bias=True),
}


def arrays_for(form: MatMulForm, x: Array, seed: int = 0) -> dict[str, Array]:
    """X and random values for every other input of a form."""
    rng, split = np.random.default_rng(seed), form.split
    arrays: dict[str, Array] = {"X": x}
    for name, width, bits in (
        ("low", split.low, split.low_bits),
        ("high", split.high, split.high_bits),
    ):
        if width:
            dtype = ml_dtypes.int4 if bits == 4 else np.int8
            integers = rng.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), (OUTPUTS, width))
            arrays[f"W_{name}"] = integers.astype(dtype)
            arrays[f"S_{name}"] = rng.uniform(0.001, 0.01, OUTPUTS).astype(np.float32)
    if form.bias:
        arrays["bias"] = rng.standard_normal(OUTPUTS).astype(np.float32)
    if form.residual:
        arrays["residual"] = rng.standard_normal((*x.shape[:-1], OUTPUTS)).astype(np.float32)
    return arrays


def expected(form: MatMulForm, arrays: dict[str, Array]) -> Array:
    """The oracle's result, in the shape of the node's output."""
    x, empty = arrays["X"], np.zeros((OUTPUTS, 0), np.int8)
    scale = np.ones(OUTPUTS, np.float32)
    y = oracle.matmul(
        x.reshape(-1, form.split.width),
        (arrays.get("W_low", empty), arrays.get("S_low", scale)),
        (arrays.get("W_high", empty), arrays.get("S_high", scale)),
        form.split,
        form.groups,
        EPSILON if form.norm else None,
        form.low_clip,
    ).reshape(*x.shape[:-1], OUTPUTS)
    shifted: Array = y + arrays.get("bias", 0.0) + arrays.get("residual", 0.0)
    return shifted


def result(engine: str, form: MatMulForm, arrays: dict[str, Array]) -> Array:
    """The node's output."""
    (y,) = run(engine, form, arrays, {"norm_epsilon": EPSILON} if form.norm else {})
    return y


def tokens(*shape: int, seed: int = 1) -> Array:
    """Gaussian float32."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_form_agrees_with_integer_sums_in_every_engine(form: MatMulForm, engine: str) -> None:
    arrays = arrays_for(form, tokens(2, 3, form.split.width))
    assert_close(result(engine, form, arrays), expected(form, arrays), TOLERANCE)


@pytest.mark.parametrize("shape", [(1,), (1, 1), (2, 1, 3), ()], ids=str)
@pytest.mark.parametrize("form", [FORMS["normalised with all options"], FORMS["groups"]])
def test_leading_dimensions_are_kept(form: MatMulForm, shape: tuple[int, ...]) -> None:
    arrays = arrays_for(form, tokens(*shape, form.split.width))
    assert_close(result("onnxruntime", form, arrays), expected(form, arrays), TOLERANCE)


@pytest.mark.parametrize("engine", ["onnxruntime", "reference"])
@pytest.mark.parametrize("name", ["normalised", "groups", "high part alone"])
def test_a_row_of_zeros_gives_zeros(name: str, engine: str) -> None:
    form = FORMS[name]
    x = tokens(3, form.split.width)
    x[1] = 0.0
    arrays = {**arrays_for(form, x)}
    if form.residual:
        arrays["residual"][1] = 0.0
    y = result(engine, form, arrays)
    assert np.all(y[1] == 0.0)
    assert_close(y, expected(form, arrays), TOLERANCE)


@pytest.mark.parametrize("value", [3.0, -0.25, 1e-38, -1e-42, 1e30])
def test_a_constant_row_is_quantised_without_error_beyond_a_step(value: float) -> None:
    form = FORMS["both parts"]
    arrays = arrays_for(form, np.full((1, form.split.width), value, np.float32))
    assert_close(result("onnxruntime", form, arrays), expected(form, arrays), TOLERANCE)


def test_a_norm_changes_the_scale_and_not_the_integers() -> None:
    normed, plain = FORMS["normalised"], FORMS["both parts"]
    arrays = arrays_for(plain, tokens(4, plain.split.width))
    x = arrays["X"].astype(np.float64)
    inverse_rms = 1 / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + EPSILON)
    scaled = result("onnxruntime", plain, arrays) * inverse_rms
    assert_close(result("onnxruntime", normed, arrays), scaled, TOLERANCE)


def test_groups_are_quantised_apart() -> None:
    form = MatMulForm(BitSplit(8, 0), groups=2)
    x = np.concatenate([tokens(1, 4), 1000 * tokens(1, 4, seed=2)], axis=1)
    arrays = arrays_for(form, x)
    weight = arrays["W_low"].astype(np.float64) * arrays["S_low"][:, None]
    arrays["W_low"][:, 4:] = 0
    weight[:, 4:] = 0
    exact = x @ weight.T
    # 15 levels over a range of about 3: a shared scale would lose the first group altogether.
    assert_close(result("onnxruntime", form, arrays), exact, 0.2)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    low=st.integers(0, 40),
    high=st.integers(0, 9),
    groups=st.integers(1, 3),
    rows=st.integers(1, 6),
    bits=st.sampled_from([4, 8]),
    seed=st.integers(0, 99),
)
def test_any_widths_agree_with_integer_sums(
    low: int, high: int, groups: int, rows: int, bits: int, seed: int
) -> None:
    if low + high == 0:
        low = 1
    form = MatMulForm(BitSplit(low * groups, high * groups, bits), groups=groups)
    arrays = arrays_for(form, tokens(rows, form.split.width, seed=seed), seed)
    assert_close(result("onnxruntime", form, arrays), expected(form, arrays), TOLERANCE)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": BitSplit(7, 2), "groups": 2}, "divide"),
        ({"split": BitSplit(0, 0)}, "divide"),
        ({"split": BitSplit(8, 2), "groups": 2, "norm": True}, "norm"),
        ({"split": BitSplit(8, 2), "low_clip": 0.0}, "low_clip"),
        ({"split": BitSplit(8, 2), "low_clip": 1.5}, "low_clip"),
    ],
)
def test_a_form_that_cannot_be_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MatMulForm(**arguments)
