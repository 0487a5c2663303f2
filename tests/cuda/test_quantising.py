"""Quantising in PyTorch on a GPU, against the CPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from resq_onnx.projections.bases import ascending_eigenvectors
from resq_onnx.projections.hadamard import random_orthogonal
from resq_onnx.recipe import BitSplit
from resq_onnx.weights import QuantisedMatrix, gptq
from resq_onnx.weights.scales import clip_search

WIDTH = 700  # more than a panel of the factorisation


@pytest.fixture
def device(provider: str) -> str:
    if provider == "cuda" and not torch.cuda.is_available():
        pytest.skip("this PyTorch has no CUDA")
    return provider


def _hessian() -> NDArray[np.float64]:
    rows = np.random.default_rng(0).standard_normal((2 * WIDTH, WIDTH))
    rows = rows @ np.random.default_rng(1).standard_normal((WIDTH, WIDTH))
    return np.asarray(rows.T @ rows)


def test_gptq_loses_as_little_as_on_the_cpu(device: str) -> None:
    weight, hessian = np.random.default_rng(2).standard_normal((48, WIDTH)), _hessian()
    split = BitSplit(600, 100)

    def loss(found: QuantisedMatrix) -> float:
        error = weight - found.dequantise()
        return float(np.einsum("ij,jk,ik->", error, hessian, error, optimize=True))

    expected, found = (gptq(weight, hessian, split, one) for one in ("cpu", device))
    assert loss(found) == pytest.approx(loss(expected), rel=0.01)
    again = gptq(weight, hessian, split, device)
    np.testing.assert_array_equal(again.low, found.low)
    np.testing.assert_array_equal(again.high, found.high)


def test_the_clip_search_finds_the_same_scales(device: str) -> None:
    weight = np.random.default_rng(2).standard_normal((300, WIDTH))
    found, expected = clip_search(weight, 4, device=device), clip_search(weight, 4)
    # Two factors may be equally good up to rounding.
    assert np.isclose(found, expected, rtol=1e-5).mean() > 0.99


def test_bases_are_those_of_the_cpu(device: str) -> None:
    hessian = _hessian()
    found, expected = ascending_eigenvectors(hessian, device), ascending_eigenvectors(hessian)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    turns = [random_orthogonal(64, np.random.default_rng(5), one) for one in (device, "cpu")]
    np.testing.assert_allclose(turns[0], turns[1], atol=1e-12)
