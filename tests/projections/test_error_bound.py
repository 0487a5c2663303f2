"""ResQ's theorem: PCA's subspace has the least error bound, and errors follow the bound."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from resq_onnx.projections.bases import ascending_eigenvectors
from resq_onnx.projections.error_bound import error_bound, largest_square, part_bound
from resq_onnx.projections.hadamard import random_orthogonal
from resq_onnx.recipe import BitSplit
from tests.functions.oracle import quantise, scale_of
from tests.tiny_models import SIZES, write_model

Matrix = NDArray[Any]

ROUNDING: Final = 1e-9
"""Relative: energies are sums of tens of float64 products."""

SHARES: Final = (0.1, 0.25)
"""Of the bound that a measured error is: 0.12 to 0.2 in these cases. A third, because rounding
errors are uniform and not all half a step, and less because the range of a part is less than
twice the largest magnitude that its width allows."""

CORRELATION: Final = 0.98
"""Of bound and measured error over the subspaces: 0.985 or more, the rest being the luck of one
rotation inside the parts."""

TOKENS: Final = 400

NEARNESS: Final = (0.0, 0.1, 0.2, 0.3, 0.45, 0.6, 0.8, 1.0)
"""From PCA's subspace, 0, to a random one, 1."""


def split_of(width: int, high: int) -> BitSplit:
    return BitSplit(width - high, high)


def bound_of(moment: Matrix, basis: Matrix, split: BitSplit) -> float:
    """The bound of a basis whose last columns span the high part."""
    energies = np.einsum("ij,ij->j", basis, moment @ basis)
    low, high = energies[: split.low], energies[split.low :]
    return error_bound(split, float(low.sum()), float(high.sum()))


@st.composite
def problems(draw: st.DrawFn) -> tuple[Matrix, BitSplit, np.random.Generator]:
    """A second moment of any spectrum, a rank, and a source of subspaces."""
    width = draw(st.integers(2, 24))
    exponents = draw(st.lists(st.floats(-6, 6), min_size=width, max_size=width))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    axes = random_orthogonal(width, rng)
    moment = axes @ np.diag(10.0 ** np.array(exponents)) @ axes.T
    return (moment + moment.T) / 2, split_of(width, draw(st.integers(0, width))), rng


@settings(deadline=None)  # a busy machine is no failure
@given(problems())
def test_no_subspace_of_equal_rank_has_a_lower_bound_than_pca(
    problem: tuple[Matrix, BitSplit, np.random.Generator],
) -> None:
    moment, split, rng = problem
    vectors = ascending_eigenvectors(moment)
    least = bound_of(moment, vectors, split) * (1 - ROUNDING)
    for _ in range(5):
        assert bound_of(moment, random_orthogonal(split.width, rng), split) >= least
    # Neither has one that is near to PCA's, or that is spanned by other eigenvectors.
    nudged = np.linalg.qr(vectors + 1e-3 * rng.standard_normal(vectors.shape))[0]
    assert bound_of(moment, nudged, split) >= least
    assert bound_of(moment, rng.permutation(vectors, axis=1), split) >= least


@settings(deadline=None)
@given(problems())
def test_a_rotation_inside_the_parts_leaves_the_bound_as_it_is(
    problem: tuple[Matrix, BitSplit, np.random.Generator],
) -> None:
    moment, split, rng = problem
    vectors = ascending_eigenvectors(moment)
    turned = rotated_inside(vectors, split, rng)
    expected = bound_of(moment, vectors, split)
    assert bound_of(moment, turned, split) == pytest.approx(expected, rel=1e-6)


def rotated_inside(basis: Matrix, split: BitSplit, rng: np.random.Generator) -> Matrix:
    parts = (basis[:, : split.low], basis[:, split.low :])
    turned = [part @ random_orthogonal(part.shape[1], rng) for part in parts]
    return np.concatenate(turned, axis=1)


def test_fewer_bits_more_energy_and_wider_parts_raise_the_bound() -> None:
    base = error_bound(BitSplit(48, 16), 3.0, 5.0)
    assert base == pytest.approx(
        2 * (np.log(96) + 1) / 15**2 * 3.0 + 2 * (np.log(32) + 1) / 255**2 * 5.0
    )
    assert error_bound(BitSplit(48, 16, 8, 8), 3.0, 5.0) < base
    assert error_bound(BitSplit(48, 16), 3.5, 5.0) > base
    assert error_bound(BitSplit(64, 16), 3.0, 5.0) > base
    assert error_bound(BitSplit(64, 0), 8.0, 0.0) == part_bound([(64, 8.0)], 4)
    assert error_bound(BitSplit(0, 64), 0.0, 8.0) == part_bound([(64, 8.0)], 8)


def test_the_largest_square_of_blocks_lies_between_that_of_even_and_of_uneven_energy() -> None:
    even = largest_square([(48, 48.0), (16, 16.0)])
    assert even == pytest.approx(largest_square([(64, 64.0)]))
    uneven = largest_square([(48, 24.0), (16, 40.0)])
    assert even < largest_square([(16, 40.0)]) < uneven < 2.5 * even
    # Coefficients so small that they are never the largest.
    assert largest_square([(48, 1e-6), (16, 40.0)]) == pytest.approx(largest_square([(16, 40.0)]))
    assert largest_square([(48, 0.0), (0, 0.0)][2:]) == part_bound([(48, 0.0), (0, 0.0)], 4) == 0.0


def test_the_largest_square_of_gaussian_blocks_is_below_its_bound() -> None:
    rng = np.random.default_rng(7)
    for blocks in ([(64, 64.0)], [(48, 12.0), (16, 40.0)], [(1, 1.0)], [(2, 1.0), (30, 40.0)]):
        scales = np.concatenate([np.full(n, (energy / n) ** 0.5) for n, energy in blocks])
        squares = (rng.standard_normal((4000, len(scales))) * scales) ** 2
        found, bound = squares.max(axis=1).mean(), largest_square(blocks)
        assert bound / 3.5 < found < bound


def gaussian(width: int) -> Matrix:
    """Tokens whose energy falls steeply over the directions, as activations' does."""
    rng = np.random.default_rng(3)
    spectrum = np.arange(1, width + 1) ** -1.5
    return (rng.standard_normal((TOKENS, width)) * spectrum**0.5) @ random_orthogonal(width, rng)


def heavy_tailed(width: int) -> Matrix:
    """The same, but one token is ten times another."""
    return gaussian(width) * np.exp(np.random.default_rng(4).standard_normal((TOKENS, 1)))


@pytest.fixture(scope="module")
def of_a_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Matrix]:
    """What the second layer's q/k/v of a tiny model read."""
    model = write_model(tmp_path_factory.mktemp("model"), "llama", tied=True)
    kept: list[Matrix] = []
    layer: Any = model.get_submodule("model.layers.1.self_attn.q_proj")
    handle = layer.register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0].numpy()))
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(SIZES["vocab_size"], (8, TOKENS // 8), generator=generator)
    with torch.inference_mode():
        model(input_ids=ids)
    handle.remove()
    return lambda width: kept[0].reshape(TOKENS, width).astype(np.float64)


def subspaces(moment: Matrix, split: BitSplit) -> list[Matrix]:
    """Bases from PCA's to a random one, each rotated inside its parts."""
    rng = np.random.default_rng(5)
    pca, other = ascending_eigenvectors(moment), random_orthogonal(split.width, rng)
    bases = [np.linalg.qr((1 - share) * pca + share * other)[0] for share in NEARNESS]
    return [rotated_inside(basis, split, rng) for basis in bases]


def measured_error(x: Matrix, basis: Matrix, split: BitSplit) -> float:
    """Mean over tokens of |x - Q(x)|², by the oracle of the operators."""
    total = 0.0
    for row in (x @ basis).astype(np.float32):
        parts = ((row[: split.low], split.low_bits), (row[split.low :], split.high_bits))
        for part, bits in parts:
            if len(part):
                scale = scale_of(part, bits)
                integers, zero = quantise(part, bits, scale)
                values = (integers - zero) * np.float64(scale)
                total += float(((part - values) ** 2).sum())
    return total / len(x)


SOURCES = ["gaussian", "heavy_tailed", "of_a_model"]


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("high", [4, 8, 16])
def test_measured_errors_are_below_the_bound_and_follow_it(
    source: str, high: int, request: pytest.FixtureRequest
) -> None:
    makers = {"gaussian": gaussian, "heavy_tailed": heavy_tailed}
    width = SIZES["hidden_size"]
    x = (makers.get(source) or request.getfixturevalue(source))(width)
    moment, split = x.T @ x / len(x), split_of(width, high)
    bases = subspaces(moment, split)
    bounds = np.array([bound_of(moment, basis, split) for basis in bases])
    errors = np.array([measured_error(x, basis, split) for basis in bases])
    assert (errors > SHARES[0] * bounds).all()
    assert (errors < SHARES[1] * bounds).all()
    assert bounds.argmin() == errors.argmin() == 0  # PCA's
    assert np.corrcoef(bounds, errors)[0, 1] > CORRELATION


@pytest.mark.parametrize("source", ["gaussian", "of_a_model"])
def test_a_higher_rank_lowers_bound_and_error_alike(
    source: str, request: pytest.FixtureRequest
) -> None:
    width = SIZES["hidden_size"]
    x = gaussian(width) if source == "gaussian" else request.getfixturevalue(source)(width)
    moment, rng = x.T @ x / len(x), np.random.default_rng(6)
    bounds, errors = [], []
    for high in (0, 4, 8, 16, 32, 48):
        split = split_of(width, high)
        basis = rotated_inside(ascending_eigenvectors(moment), split, rng)
        bounds.append(bound_of(moment, basis, split))
        errors.append(measured_error(x, basis, split))
    assert bounds == sorted(bounds, reverse=True)
    assert errors == sorted(errors, reverse=True)
