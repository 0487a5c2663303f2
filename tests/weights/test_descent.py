"""Coordinate descent after GPTQ: it never loses, and ends where no single change would gain."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from resq_onnx.weights.descent import BLOCK, descend

Matrix = NDArray[np.float64]

ROUNDING = 1e-5
"""Of float32 errors, relative to the loss."""


def _hessian(width: int, seed: int = 0) -> Matrix:
    """Of correlated inputs with a falling spectrum, damped."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.standard_normal((width, width)))[0]
    x = (rng.standard_normal((8 * width, width)) * np.arange(1, width + 1) ** -0.5) @ basis.T
    moment = x.T @ x
    return np.asarray(moment + 0.1 * np.diagonal(moment).mean() * np.eye(width))


class Case:
    """A weight (K, N) of which each column is rounded to nearest, in 4 bits and then in 8."""

    def __init__(self, width: int, rows: int = 24) -> None:
        rng = np.random.default_rng(1)
        self.weight = torch.from_numpy(rng.standard_normal((width, rows))).float()
        self.hessian = torch.from_numpy(_hessian(width))
        four, eight = torch.full((rows,), 0.3), torch.full((rows,), 0.02)
        self.parts = [(four, 4)] * (width - 6) + [(eight, 8)] * 6
        self.scales = torch.stack([scale for scale, _ in self.parts])
        limits = torch.tensor([[2 ** (bits - 1)] for _, bits in self.parts])
        self.lowest, self.highest = -limits, limits - 1
        nearest = (self.weight / self.scales).round().clamp(self.lowest, self.highest)
        self.rounded = nearest.to(torch.int8)
        self.errors = self.weight - self.rounded * self.scales

    def losses(self, rounded: torch.Tensor) -> torch.Tensor:
        """What each row of the weight costs, (N,)."""
        errors = (self.weight - rounded * self.scales).double()
        return torch.einsum("kn,kj,jn->n", errors, self.hessian, errors)

    def descend(self, sweeps: int) -> None:
        descend(self.rounded, self.errors, self.hessian, self.parts, sweeps)


@pytest.mark.parametrize("width", [1, 7, BLOCK, BLOCK + 1, 2 * BLOCK + 37])
def test_no_row_loses_in_any_sweep(width: int) -> None:
    case = Case(max(width, 7))
    before = case.losses(case.rounded)
    for _ in range(3):
        case.descend(1)
        after = case.losses(case.rounded)
        assert bool((after <= before * (1 + ROUNDING)).all())
        before = after


def test_it_gains_what_nearest_integers_lack() -> None:
    case = Case(100)
    before = case.losses(case.rounded).sum()
    case.descend(3)
    assert case.losses(case.rounded).sum() < 0.6 * before


def test_at_its_end_no_change_of_one_integer_gains() -> None:
    case = Case(40)
    case.descend(60)
    least = case.losses(case.rounded)
    for column in range(40):
        for change in (-1, 1):
            other = case.rounded.clone()
            other[column] += change
            allowed = (other >= case.lowest) & (other <= case.highest)
            worse = case.losses(other) >= least * (1 - ROUNDING)
            assert bool((worse | ~allowed[column]).all())


def test_the_errors_are_those_of_the_integers() -> None:
    case = Case(BLOCK + 20)
    case.descend(2)
    errors = case.weight - case.rounded * case.scales
    torch.testing.assert_close(case.errors, errors, atol=1e-5, rtol=0)
    assert bool((case.rounded >= case.lowest).all() & (case.rounded <= case.highest).all())


def test_sweeps_are_alike_in_blocks_and_column_by_column() -> None:
    """The definition: the best value of each column, with the others as they are by then."""
    case, naive = Case(2 * BLOCK + 5), Case(2 * BLOCK + 5)
    case.descend(1)
    integers = naive.rounded.double()
    for j in range(len(integers)):
        errors = naive.weight - integers * naive.scales
        step = (naive.hessian[j] @ errors) / naive.hessian[j, j]
        best = (integers[j] + step / naive.scales[j]).round()
        integers[j] = best.clamp(naive.lowest[j], naive.highest[j])
    # float32 against float64: a value half way may fall to either side.
    assert float((case.rounded == integers).double().mean()) > 0.99


def test_integers_are_chosen_on_the_device_where_they_are() -> None:
    """On `meta`, PyTorch refuses operands of another device, as it does on a GPU."""
    width = BLOCK + 5
    hessian = torch.empty((width, width), dtype=torch.float64, device="meta")
    scale = torch.empty(3, device="meta")
    rounded = torch.empty((width, 3), dtype=torch.int8, device="meta")
    descend(rounded, torch.empty((width, 3), device="meta"), hessian, [(scale, 4)] * width)
