import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from resq_onnx.families import ModelLayout
from resq_onnx.projections import linalg
from resq_onnx.projections.bases import Projections, compute_projections
from resq_onnx.projections.hessians import attention_out_hessian, down_hessian, hidden_hessian
from resq_onnx.projections.sums import BasisSums
from resq_onnx.recipe import Recipe
from tests.projections import layouts

ROUNDING = 1e-12
"""Of the largest element: all products are in float64."""

# 196 = 49 * 4 and 28: neither factor is 1.
LAYOUT = dataclasses.replace(layouts.LAYOUT, intermediate_size=224)
METHODS = ("resq", "quarot", "outlier", "rtn")

Matrix = NDArray[np.float64]


def _moment(width: int, seed: int) -> Matrix:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((2 * width, width)) * rng.uniform(0.05, 3.0, width)
    return np.asarray(x.T @ x)


def _bases(method: str, layout: ModelLayout = LAYOUT) -> Projections:
    sums = BasisSums.zeros(layout, 100)
    sums.hidden += _moment(layout.hidden_size, 1)
    for place in np.ndindex(sums.value.shape[:2]):
        sums.value[place] = sums.key[place] = _moment(layout.head_dim, 2 + sum(place))
    sums.down[:] = np.random.default_rng(0).uniform(0.1, 3.0, sums.down.shape)
    high = 0.125 if method == "resq" else 0.0
    recipe = Recipe(method=method, high_fraction=high, down_high=high)
    return compute_projections(recipe, layout, None, sums)


def _value_matrix(bases: Projections) -> Matrix:
    """U_B of every head in one matrix, its columns in the order of o_proj's."""
    return bases.attention_out_columns(1, bases.apply_value(1, np.eye(96)))


CASES: list[tuple[str, int, Callable[[Projections], Matrix], Callable[..., torch.Tensor]]] = [
    ("hidden", 48, lambda bases: bases.hidden, hidden_hessian),
    (
        "attention_out",
        96,
        _value_matrix,
        lambda bases, moment: attention_out_hessian(bases, 1, moment),
    ),
    (
        "down",
        224,
        lambda bases: bases.down_matrix(1),
        lambda bases, moment: down_hessian(bases, 1, moment),
    ),
]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("site", "width", "basis", "hessian"), CASES, ids=lambda x: str(x)[:13])
def test_a_hessian_is_that_of_dense_products(
    method: str,
    site: str,
    width: int,
    basis: Callable[[Projections], Matrix],
    hessian: Callable[..., torch.Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # 15 rows at a time: several blocks, the last of which is smaller.
    monkeypatch.setattr(linalg, "ELEMENTS_AT_A_TIME", 15 * width)
    bases, moment = _bases(method), _moment(width, 7)
    dense = basis(bases)
    expected = dense.T @ moment @ dense
    given = torch.from_numpy(moment)
    found = hessian(bases, given)
    assert found.data_ptr() == given.data_ptr(), f"{site}: a second matrix was made"
    np.testing.assert_allclose(found.numpy(), expected, atol=ROUNDING * np.abs(expected).max())


def test_an_odd_width_works_where_nothing_is_split() -> None:
    layout = dataclasses.replace(
        LAYOUT, hidden_size=45, head_dim=5, intermediate_size=27, num_heads=3
    )
    bases, moment = _bases("quarot", layout), _moment(27, 7)
    dense = bases.down_matrix(0)
    expected = dense.T @ moment @ dense
    found = down_hessian(bases, 0, torch.from_numpy(moment.copy())).numpy()
    np.testing.assert_allclose(found, expected, atol=ROUNDING * np.abs(expected).max())


@pytest.mark.parametrize(("site", "width", "basis", "hessian"), CASES, ids=lambda x: str(x)[:13])
def test_everything_is_computed_on_the_device_of_the_moment(
    site: str, width: int, basis: object, hessian: Callable[..., torch.Tensor]
) -> None:
    """On `meta`, PyTorch refuses operands of another device, as it does on a GPU."""
    moment = torch.empty((width, width), dtype=torch.float64, device="meta")
    assert hessian(_bases("resq"), moment).shape == (width, width), site
