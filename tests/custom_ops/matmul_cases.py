"""Inputs for MixedPrecisionMatMul nodes, and what the oracle makes of them."""

from __future__ import annotations

from typing import Any, Final

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from resq_onnx.functions import MatMulForm
from resq_onnx.recipe import BitSplit
from tests.custom_ops.kernels import EPSILON, Node
from tests.functions import oracle

Array = NDArray[Any]

ROWS: Final = (1, 2, 3, 5, 7, 8, 16, 17, 33, 130)
"""Around every tile a kernel may have, and both of its paths: few rows and many."""

OUTPUTS: Final = (1, 5, 15, 16, 17, 63, 64, 65, 100)

TOLERANCE: Final = 1e-6
"""Of `sizes_of`, which bounds every term of a result: integer sums are exact, and what follows is
two products and a sum in float32 for each part and group. The body, which sums in float32, stays
within it too. One activation that is off by one moves a result by 1e-5 at the widths tried."""

SMALLEST: Final = float(np.finfo(np.float32).tiny)
"""Stands in for the size of a result that is exactly 0; below it float32 loses digits."""

LONG: Final = 4096 + 544
"""Columns, more than 8 times the 544 after which sums of 16 bits overflow."""

FORMS: Final = {
    "both parts": MatMulForm(BitSplit(56, 8)),
    "odd widths": MatMulForm(BitSplit(37, 11)),
    "odd low, even high": MatMulForm(BitSplit(63, 2), bias=True),
    "one column each": MatMulForm(BitSplit(1, 1)),
    "low part alone": MatMulForm(BitSplit(64, 0), norm=True),
    "odd low part alone": MatMulForm(BitSplit(33, 0)),
    "high part alone": MatMulForm(BitSplit(0, 64), norm=True),
    "one high column": MatMulForm(BitSplit(0, 1)),
    "as SmolLM2's q/k/v": MatMulForm(BitSplit(504, 72), norm=True),
    "as SmolLM2's o": MatMulForm(BitSplit(504, 72), groups=9, residual=True),
    "as SmolLM2's down": MatMulForm(BitSplit(1344, 192), residual=True),
    "three odd groups": MatMulForm(BitSplit(21, 9), groups=3, bias=True, residual=True),
    "groups without high part": MatMulForm(BitSplit(48, 0), groups=3),
    "groups without low part": MatMulForm(BitSplit(0, 48), groups=3),
    "clipped": MatMulForm(BitSplit(504, 72), norm=True, low_clip=0.85),
    "clipped groups": MatMulForm(BitSplit(504, 72), groups=9, residual=True, low_clip=0.85),
    "every option": MatMulForm(BitSplit(112, 16), norm=True, bias=True, residual=True),
    "eight bits throughout": MatMulForm(BitSplit(51, 13, low_bits=8), norm=True),
    "eight bits in groups": MatMulForm(BitSplit(42, 6, low_bits=8), groups=3, residual=True),
    "eight bits without high part": MatMulForm(BitSplit(67, 0, low_bits=8), bias=True),
}


def tokens(*shape: int, seed: int = 1) -> Array:
    """Gaussian float32, every row of another size, from about 0.01 to 100."""
    rng = np.random.default_rng(seed)
    sizes = 10.0 ** rng.uniform(-2, 2, (*shape[:-1], 1))
    return (rng.standard_normal(shape) * sizes).astype(np.float32)


def weight(form: MatMulForm, part: str, outputs: int, rng: np.random.Generator) -> Array:
    """Integers of one part, each as likely as any other, (outputs, width)."""
    split = form.split
    width, bits = (split.low, split.low_bits) if part == "low" else (split.high, split.high_bits)
    integers = rng.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), (outputs, width))
    return integers.astype(ml_dtypes.int4 if bits == 4 else np.int8)


def arrays_for(form: MatMulForm, x: Array, outputs: int, seed: int = 0) -> dict[str, Array]:
    """X and random values for every other input of a form."""
    rng = np.random.default_rng(seed)
    arrays: dict[str, Array] = {"X": x}
    for part, width in (("low", form.split.low), ("high", form.split.high)):
        if width:
            arrays[f"W_{part}"] = weight(form, part, outputs, rng)
            arrays[f"S_{part}"] = rng.uniform(0.001, 0.01, outputs).astype(np.float32)
    if form.bias:
        arrays["bias"] = rng.standard_normal(outputs).astype(np.float32)
    if form.residual:
        arrays["residual"] = rng.standard_normal((*x.shape[:-1], outputs)).astype(np.float32)
    return arrays


def node_of(form: MatMulForm, *leading: int, outputs: int = 16, seed: int = 0) -> Node:
    """A node with random inputs, X of shape (*leading, K)."""
    x = tokens(*leading, form.split.width, seed=seed + 1)
    return Node.of(form, arrays_for(form, x, outputs, seed))


def extreme(form: MatMulForm, rows: int, outputs: int, level: float, lowest: bool) -> Node:
    """Every activation at the top of its range (or the bottom), all weights equal extremes."""
    node = Node.of(form, arrays_for(form, np.full((rows, form.split.width), level), outputs))
    for name in ("W_low", "W_high"):
        if name in node.arrays:
            limit = 8 if node.arrays[name].dtype == ml_dtypes.int4 else 128
            node.arrays[name][:] = -limit if lowest else limit - 1
    return node.with_arrays(X=node.arrays["X"].astype(np.float32))


def expected(form: MatMulForm, node: Node) -> Array:
    """The oracle's result, in the shape of the node's output: exact integer sums, then float64."""
    arrays = node.arrays
    x = arrays["X"].astype(np.float32)
    scale = arrays["S_low" if form.split.low else "S_high"]
    empty, ones = np.zeros((len(scale), 0), np.int8), np.ones_like(scale)
    y = oracle.matmul(
        x.reshape(-1, form.split.width),
        (arrays.get("W_low", empty), arrays.get("S_low", ones)),
        (arrays.get("W_high", empty), arrays.get("S_high", ones)),
        form.split,
        form.groups,
        EPSILON if form.norm else None,
        form.low_clip,
    ).reshape(*x.shape[:-1], len(scale))
    shifted: Array = y + arrays.get("bias", 0.0) + arrays.get("residual", 0.0)
    return shifted


def assert_close(actual: Array, wanted: Array, form: MatMulForm, node: Node) -> None:
    """Equal up to the rounding of a few float32 terms, see `TOLERANCE`."""
    assert actual.shape == wanted.shape
    sizes = sizes_of(form, node)
    np.testing.assert_allclose(actual / sizes, wanted / sizes, rtol=0, atol=TOLERANCE)


def sizes_of(form: MatMulForm, node: Node) -> Array:
    """A bound on everything that is summed up for each output: |x| |w| + |bias| + |residual|."""
    arrays = node.arrays
    x = arrays["X"].astype(np.float64)
    squares = sum(
        np.sum((arrays[f"W_{part}"].astype(np.float64) * arrays[f"S_{part}"][:, None]) ** 2, axis=1)
        for part in ("low", "high")
        if f"W_{part}" in arrays
    )
    lengths = np.sqrt(np.sum(x**2, axis=-1, keepdims=True))
    if form.norm:
        lengths /= np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + EPSILON)
    offsets = np.abs(arrays.get("bias", 0.0)) + np.abs(arrays.get("residual", 0.0))
    bound: Array = lengths * np.sqrt(squares) + offsets + SMALLEST
    return bound
