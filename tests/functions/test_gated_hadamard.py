"""GatedHadamard: its body in every engine against a dense matrix in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from resq_onnx.functions import HadamardForm
from resq_onnx.recipe import BitSplit
from tests.functions import oracle
from tests.functions.engines import ENGINES, assert_close, run

Array = NDArray[Any]
Sizes = tuple[int, int]

TOLERANCE = 2e-6
"""Of the largest result: float32 sums of up to 24 products."""

FACTORS: dict[str, tuple[Sizes | None, Sizes | None]] = {
    "both parts": ((3, 4), (2, 2)),
    "low part alone": ((6, 4), None),
    "high part alone": (None, (5, 2)),
    "outer factor of one": ((1, 8), (1, 2)),
    "inner factor of one": ((3, 1), (2, 1)),
}


def arrays_for(
    low: Sizes | None, high: Sizes | None, *leading: int, seed: int = 0
) -> dict[str, Array]:
    """Gaussian inputs; the factors are no Hadamard matrices, so a transposed one is noticed."""
    rng = np.random.default_rng(seed)
    width = sum(m * n for m, n in (sizes for sizes in (low, high) if sizes))
    arrays = {"gate_up": rng.standard_normal((*leading, 2 * width))}
    for name, sizes in (("low", low), ("high", high)):
        if sizes:
            for factor, size in zip(("outer", "inner"), sizes, strict=True):
                arrays[f"{name}_{factor}"] = rng.standard_normal((size, size))
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def form_for(low: Sizes | None, high: Sizes | None) -> HadamardForm:
    """The form of these factors."""
    return HadamardForm(BitSplit(*(m * n for m, n in (low or (0, 0), high or (0, 0)))))


def expected(arrays: dict[str, Array]) -> Array:
    """The oracle's result."""
    matrices = [
        np.kron(*(arrays[f"{part}_{f}"].astype(np.float64) for f in ("outer", "inner")))
        if f"{part}_outer" in arrays
        else None
        for part in ("low", "high")
    ]
    return oracle.gated_hadamard(arrays["gate_up"], *matrices)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("factors", FACTORS.values(), ids=FACTORS)
def test_every_form_agrees_with_a_dense_matrix(
    factors: tuple[Sizes | None, Sizes | None], engine: str
) -> None:
    arrays = arrays_for(*factors, 2, 3)
    (y,) = run(engine, form_for(*factors), arrays)
    assert_close(y, expected(arrays), TOLERANCE)


@pytest.mark.parametrize("leading", [(1,), (1, 1), (2, 1, 3), ()], ids=str)
def test_leading_dimensions_are_kept(leading: tuple[int, ...]) -> None:
    factors = FACTORS["both parts"]
    arrays = arrays_for(*factors, *leading)
    (y,) = run("onnxruntime", form_for(*factors), arrays)
    assert_close(y, expected(arrays), TOLERANCE)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("high", [0, 3])
def test_without_rotation_only_the_gate_is_applied(engine: str, high: int) -> None:
    form = HadamardForm(BitSplit(9 - high, high), rotates=False)
    gate_up = np.random.default_rng(1).standard_normal((2, 18)).astype(np.float32)
    (y,) = run(engine, form, {"gate_up": gate_up})
    assert_close(y, oracle.gated_hadamard(gate_up, None, None), TOLERANCE)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_gate_may_be_activated_by_gelu(engine: str) -> None:
    arrays = arrays_for((3, 4), (2, 2), 2, 3)
    (y,) = run(engine, HadamardForm(BitSplit(12, 4), activation="gelu_tanh"), arrays)
    matrices = [
        np.kron(arrays[f"{part}_outer"], arrays[f"{part}_inner"]) for part in ("low", "high")
    ]
    wanted = oracle.gated_hadamard(arrays["gate_up"], *matrices, activation="gelu_tanh")
    assert_close(y, wanted, TOLERANCE)
    assert np.abs(y - expected(arrays)).max() > 100 * TOLERANCE * np.abs(y).max()


def test_gelu_is_that_of_pytorch() -> None:
    x = np.linspace(-12, 12, 1001)
    wanted = torch.nn.functional.gelu(torch.from_numpy(x), approximate="tanh").numpy()
    np.testing.assert_allclose(oracle.activated(x, "gelu_tanh"), wanted, rtol=0, atol=1e-12)


def test_another_activation_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="unknown activation 'relu'"):
        HadamardForm(BitSplit(3, 0), activation="relu")


@pytest.mark.parametrize("activation", ["silu", "gelu_tanh"])
def test_large_gates_neither_overflow_nor_vanish(activation: str) -> None:
    gate_up = np.array([[100.0, -100.0, 0.0, 1.0, 1.0, 1.0]], np.float32)
    form = HadamardForm(BitSplit(3, 0), rotates=False, activation=activation)
    (y,) = run("onnxruntime", form, {"gate_up": gate_up})
    np.testing.assert_allclose(y, [[100.0, 0.0, 0.0]], atol=1e-30)
