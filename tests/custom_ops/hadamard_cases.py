"""Inputs for GatedHadamard nodes, and what the oracle makes of them."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from resq_onnx.functions import HadamardForm
from resq_onnx.projections import hadamard
from resq_onnx.recipe import BitSplit
from tests.custom_ops.kernels import Node
from tests.functions import oracle

Array = NDArray[Any]
Sizes = tuple[int, int]
"""Orders m and n of the outer and the inner factor; the part is m·n wide."""

FACTORS: Final[dict[str, tuple[Sizes | None, Sizes | None]]] = {
    "both parts": ((3, 4), (1, 4)),
    "as SmolLM2": ((84, 16), (12, 16)),
    "low part alone": ((12, 8), None),
    "high part alone": (None, (20, 2)),
    "outer factor of one": ((1, 64), (1, 8)),
    "inner factor of one": ((12, 1), (2, 1)),
    "an odd outer factor": ((7, 8), (1, 1)),
    "a wide inner factor": ((1, 512), (4, 32)),
    "not rotated": (None, None),
}
"""Factors of the low and the high part."""

UNROTATED: Final = BitSplit(13, 3)

TOLERANCE: Final = 2e-6
"""Of the length of a row: sums of float32 products, of up to 84 and then 16 or 512 terms."""


def form_of(factors: tuple[Sizes | None, Sizes | None], activation: str = "silu") -> HadamardForm:
    """The form of these factors."""
    if factors == (None, None):
        return HadamardForm(UNROTATED, rotates=False, activation=activation)
    split = BitSplit(*(m * n for m, n in (sizes or (0, 0) for sizes in factors)))
    return HadamardForm(split, activation=activation)


def node_of(name: str, *leading: int, seed: int = 0, activation: str = "silu") -> Node:
    """A node with the factors of this name; gate_up of shape (*leading, 2I)."""
    factors, rng = FACTORS[name], np.random.default_rng(seed)
    form = form_of(factors, activation)
    arrays = {}
    for part, sizes in zip(("low", "high"), factors, strict=True):
        if sizes:
            arrays[f"{part}_outer"] = orthogonal(sizes[0], rng)
            arrays[f"{part}_inner"] = orthogonal(sizes[1], rng)
    scales = 10.0 ** rng.uniform(-2, 1, (*leading, 1))
    arrays["gate_up"] = rng.standard_normal((*leading, 2 * form.split.width)) * scales
    return Node.of(form, {name: array.astype(np.float32) for name, array in arrays.items()})


def orthogonal(order: int, rng: np.random.Generator) -> Array:
    """A Hadamard matrix made orthonormal, or a random rotation where none is known."""
    if hadamard.has_hadamard(order):
        return np.asarray(hadamard.hadamard(order) / np.sqrt(order))
    return hadamard.random_orthogonal(order, rng)


def expected(node: Node) -> Array:
    """The oracle's result."""
    matrices = [
        np.kron(*(node.arrays[f"{part}_{side}"].astype(np.float64) for side in ("outer", "inner")))
        if f"{part}_outer" in node.arrays
        else None
        for part in ("low", "high")
    ]
    return oracle.gated_hadamard(node.arrays["gate_up"], *matrices, activation=activation_of(node))


def activation_of(node: Node) -> str:
    """The node's activation."""
    return str(node.attributes["activation"])


def assert_close(actual: Array, wanted: Array, node: Node) -> None:
    """Equal up to the rounding of float32 sums, see `TOLERANCE`."""
    assert actual.shape == wanted.shape
    hidden = oracle.gated_hadamard(
        node.arrays["gate_up"], None, None, activation=activation_of(node)
    )
    sizes = np.sqrt(np.sum(hidden**2, axis=-1, keepdims=True)) + np.finfo(np.float32).tiny
    for part in ("low", "high"):
        for side in ("outer", "inner"):
            sizes = sizes * max(np.linalg.norm(node.arrays.get(f"{part}_{side}", np.eye(1)), 2), 1)
    np.testing.assert_allclose(actual / sizes, wanted / sizes, rtol=0, atol=TOLERANCE)
