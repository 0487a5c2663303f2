"""The inverses undo what `Projections` does, for every kind of basis."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from resq_onnx.projections.bases import compute_projections
from resq_onnx.projections.inverse import undo_down, undo_value
from resq_onnx.projections.sums import BasisSums
from resq_onnx.recipe import Recipe
from tests.projections import layouts

ROUNDING = 1e-12
"""Of elements of about 1: all products are in float64."""

# 196 = 49 * 4 and 28: neither factor is 1.
LAYOUT = dataclasses.replace(layouts.LAYOUT, intermediate_size=224)


@pytest.mark.parametrize(
    ("method", "down_high"),
    [("resq", 0.125), ("resq", 0), ("outlier", 0.125), ("quarot", 0)],
)
def test_there_and_back_is_the_identity(method: str, down_high: float) -> None:
    rng = np.random.default_rng(0)
    sums = BasisSums.zeros(LAYOUT, 100)
    sums.hidden += np.diag(rng.uniform(1, 2, LAYOUT.hidden_size))
    sums.down[:] = rng.uniform(0.1, 3.0, sums.down.shape)
    for place in np.ndindex(sums.value.shape[:2]):
        x = rng.standard_normal((100, LAYOUT.head_dim))
        sums.value[place] = sums.key[place] = x.T @ x
    recipe = Recipe(method=method, down_high=down_high)
    bases = compute_projections(recipe, LAYOUT, None, sums)
    heads = rng.standard_normal((3, LAYOUT.num_heads * LAYOUT.head_dim))
    inner = rng.standard_normal((3, LAYOUT.intermediate_size))
    for layer in range(LAYOUT.num_layers):
        there = bases.apply_value(layer, heads)
        np.testing.assert_allclose(undo_value(bases, layer, there), heads, atol=ROUNDING)
        moved = bases.apply_down(layer, inner)
        np.testing.assert_allclose(undo_down(bases, layer, moved), inner, atol=ROUNDING)
        assert np.abs(moved - inner).max() > 0.1
