import dataclasses

import numpy as np
import pytest
from numpy.typing import NDArray

from resq_onnx.errors import ResqError
from resq_onnx.families import FAMILIES, ModelLayout
from resq_onnx.projections.bases import (
    ascending_eigenvectors,
    compute_projections,
    energies_of,
    high_last_order,
)
from resq_onnx.projections.moments import SITES, Moments, moment_shapes
from resq_onnx.projections.sums import sums_of
from resq_onnx.recipe import BitSplit, Recipe
from tests.projections.layouts import LAYOUT

ROUNDING = 1e-9
"""Far above float64 rounding at these sizes, far below any real error."""

METHODS: tuple[str, ...] = ("resq", "spinquant", "quarot", "outlier", "rtn", "none")


def _samples(width: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Correlated features of unequal size, (tokens, width)."""
    mixing = rng.standard_normal((width, width))
    return rng.standard_normal((5 * width, width)) @ mixing * rng.uniform(0.05, 3.0, width)


def _moments(layout: ModelLayout = LAYOUT, seed: int = 0) -> Moments:
    rng = np.random.default_rng(seed)
    moments = Moments.zeros(layout)
    for site, shape in moment_shapes(layout).items():
        for index in np.ndindex(shape[:-2]):
            x = _samples(shape[-1], rng)
            getattr(moments, site)[index] = x.T @ x
    moments.tokens = 100
    return moments


def _assert_orthogonal(matrix: NDArray[np.float64]) -> None:
    np.testing.assert_allclose(matrix.T @ matrix, np.eye(len(matrix)), atol=ROUNDING)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("down_high", [0.0, 0.125])
def test_every_basis_is_orthogonal(method: str, down_high: float) -> None:
    recipe = Recipe(method=method, down_high=down_high)
    found = compute_projections(recipe, LAYOUT, _moments())
    _assert_orthogonal(found.hidden)
    for layer in range(LAYOUT.num_layers):
        _assert_orthogonal(found.down_matrix(layer))
        for head in range(LAYOUT.num_kv_heads):
            _assert_orthogonal(found.value[layer, head])
            _assert_orthogonal(found.key[layer, head])
    assert found.hidden_split.width == LAYOUT.hidden_size
    assert found.head_split.width == LAYOUT.head_dim
    assert set(found.down_high) == {found.down_split.high} - {0}


def test_the_high_part_of_resq_holds_as_much_energy_as_any_subspace_of_its_rank_can() -> None:
    """Ky Fan: no orthonormal set of h vectors beats the h largest eigenvalues."""
    moments = _moments()
    found = compute_projections(Recipe(), LAYOUT, moments)
    hidden = moments.hidden_attention.sum(axis=0) + moments.hidden_mlp.sum(axis=0)
    cases = [(hidden, found.hidden, found.hidden_split)]
    cases += [(moments.value[1, 2], found.value[1, 2], found.head_split)]
    cases += [(moments.key[0, 1], found.key[0, 1], found.head_split)]
    for moment, basis, split in cases:
        high = basis[:, split.low :]
        largest = np.linalg.eigvalsh(moment)[split.low :].sum()
        np.testing.assert_allclose(np.trace(high.T @ moment @ high), largest, rtol=ROUNDING)


def test_with_a_target_every_rank_holds_as_much_energy_as_it_can() -> None:
    """Bases are nested: rotated inside blocks, whose edges are all the ranks there are."""
    moments = _moments()
    eigenvalues = np.linspace(0.1, 2.0, 48)
    moments.hidden_mlp[:] = 0.0
    for layer, steep in enumerate((1.0, 8.0)):
        moments.hidden_attention[layer] = np.diag(eigenvalues**steep)
    found = compute_projections(Recipe(target_bits=4.7), LAYOUT, moments)
    assert found.splits.mean_bits(LAYOUT) <= 4.7
    hidden = moments.hidden_attention.sum(axis=0)
    for split in (*found.splits.attention, *found.splits.mlp):
        high = found.hidden[:, split.low :]
        largest = np.linalg.eigvalsh(hidden)[split.low :].sum()
        np.testing.assert_allclose(np.trace(high.T @ hidden @ high), largest, rtol=ROUNDING)
    for layer, head in np.ndindex(2, 3):
        moment, basis = moments.value[layer, head], found.value[layer, head]
        for split in (found.splits.record, found.splits.attention_out[layer]):
            high = basis[:, split.low :]
            largest = np.linalg.eigvalsh(moment)[split.low :].sum()
            np.testing.assert_allclose(np.trace(high.T @ moment @ high), largest, rtol=ROUNDING)


def test_with_a_target_layers_differ_and_every_basis_is_orthogonal() -> None:
    moments = _moments()
    moments.down[0] = np.diag(np.arange(1.0, 97.0) ** 3)  # steeper than the other layer's
    found = compute_projections(Recipe(target_bits=4.6), LAYOUT, moments)
    first, second = found.splits.down
    assert first != second
    assert set(found.down_low) == {first.low, second.low}
    assert set(found.down_high) == {first.high, second.high} - {0}
    _assert_orthogonal(found.hidden)
    for layer, split in enumerate(found.splits.down):
        _assert_orthogonal(found.down_matrix(layer))
        energies = np.diagonal(moments.down[layer])[found.down[layer].order]
        assert not split.high or energies[: split.low].max() <= energies[split.low :].min()


def test_energies_are_those_of_the_bases_coefficients() -> None:
    moments = _moments()
    found = energies_of(LAYOUT, moments, sums_of(LAYOUT, moments))
    hidden = ascending_eigenvectors(moments.hidden_attention.sum(0) + moments.hidden_mlp.sum(0))
    assert found.mlp.shape == (2, 48)
    np.testing.assert_allclose(
        found.mlp[1], np.diagonal(hidden.T @ moments.hidden_mlp[1] @ hidden) / 100
    )
    assert found.attention_out.shape == (2, 6, 16)
    basis = ascending_eigenvectors(moments.value[1, 2])
    own = moments.attention_out[1][80:96, 80:96]  # of the last head, which reads kv head 2
    np.testing.assert_allclose(found.attention_out[1, 5], np.diagonal(basis.T @ own @ basis) / 100)
    np.testing.assert_allclose(found.down[0], np.sort(np.diagonal(moments.down[0])) / 100)


def test_the_parts_of_resq_are_uncorrelated() -> None:
    moments = _moments()
    found = compute_projections(Recipe(), LAYOUT, moments)
    hidden = moments.hidden_attention.sum(axis=0) + moments.hidden_mlp.sum(axis=0)
    rotated, low = found.hidden.T @ hidden @ found.hidden, found.hidden_split.low
    np.testing.assert_allclose(rotated[:low, low:] / np.trace(hidden), 0.0, atol=ROUNDING)


def test_the_low_part_of_resq_is_not_left_in_the_order_of_the_eigenvectors() -> None:
    """Random rotation inside a part: energies are far closer together than eigenvalues."""
    moments = _moments()
    found = compute_projections(Recipe(), LAYOUT, moments)
    hidden = moments.hidden_attention.sum(axis=0) + moments.hidden_mlp.sum(axis=0)
    low = found.hidden_split.low
    energies = np.diagonal(found.hidden.T @ hidden @ found.hidden)[:low]
    eigenvalues = np.linalg.eigvalsh(hidden)[:low]
    assert energies.max() / energies.min() < 0.1 * eigenvalues.max() / eigenvalues.min()


@pytest.mark.parametrize("method", ["resq", "outlier"])
def test_the_high_part_before_down_holds_the_channels_of_largest_energy(method: str) -> None:
    moments = _moments()
    found = compute_projections(Recipe(method=method), LAYOUT, moments)
    for layer, transform in enumerate(found.down):
        energies = np.diagonal(moments.down[layer])[transform.order]
        low = found.down_split.low
        assert energies[:low].max() <= energies[low:].min()


def test_down_channels_keep_their_order_where_there_is_no_high_part() -> None:
    found = compute_projections(Recipe(down_high=0.0), LAYOUT, _moments())
    for transform in found.down:
        np.testing.assert_array_equal(transform.order, np.arange(LAYOUT.intermediate_size))
        assert set(transform.signs) == {-1.0, 1.0}


def test_outlier_only_permutes() -> None:
    moments = _moments()
    found = compute_projections(Recipe(method="outlier"), LAYOUT, moments)
    for matrix in (found.hidden, found.value[0, 0], found.key[1, 1], found.down_matrix(1)):
        np.testing.assert_array_equal(np.sort(matrix, axis=0)[-1], 1.0)
        assert np.count_nonzero(matrix) == len(matrix)
    energies = np.diagonal(found.value[0, 0].T @ moments.value[0, 0] @ found.value[0, 0])
    assert energies[: found.head_split.low].max() <= energies[found.head_split.low :].min()
    assert found.rotates_keys
    assert not found.rotates_down


@pytest.mark.parametrize("method", ["rtn", "none"])
def test_methods_without_rotation_leave_everything_alone(method: str) -> None:
    found = compute_projections(Recipe(method=method), LAYOUT, None)
    np.testing.assert_array_equal(found.hidden, np.eye(LAYOUT.hidden_size))
    np.testing.assert_array_equal(found.down_matrix(0), np.eye(LAYOUT.intermediate_size))
    np.testing.assert_array_equal(found.value[1, 1], np.eye(LAYOUT.head_dim))
    assert not found.rotates_keys
    assert not found.rotates_down
    assert found.hidden_split.high == 0


def test_quarot_needs_no_moments_and_spreads_every_coefficient_evenly() -> None:
    found = compute_projections(Recipe(method="quarot"), LAYOUT, None)
    np.testing.assert_allclose(np.abs(found.hidden), LAYOUT.hidden_size**-0.5, rtol=ROUNDING)
    np.testing.assert_allclose(np.abs(found.down_matrix(1)), 96**-0.5, rtol=ROUNDING)
    assert found.hidden_split == BitSplit(LAYOUT.hidden_size, 0)
    assert not found.down_high


@pytest.mark.parametrize("method", METHODS)
def test_folding_u_d_into_both_sides_changes_no_product(method: str) -> None:
    found = compute_projections(Recipe(method=method), LAYOUT, _moments())
    rng = np.random.default_rng(1)
    x, weight = rng.standard_normal((7, 96)), rng.standard_normal((48, 96))
    folded = found.apply_down(1, x) @ found.apply_down(1, weight).T
    np.testing.assert_allclose(folded, x @ weight.T, atol=ROUNDING)


def test_u_d_is_order_then_signs_then_the_two_rotations() -> None:
    found = compute_projections(Recipe(), LAYOUT, _moments())
    rotation = np.zeros((96, 96))
    low = found.down_split.low
    rotation[:low, :low] = found.down_low[low].matrix()
    rotation[low:, low:] = found.down_high[96 - low].matrix()
    x = np.random.default_rng(1).standard_normal((5, 96))
    expected = (x[:, found.down[1].order] * found.down[1].signs) @ rotation
    np.testing.assert_allclose(found.apply_down(1, x), expected, atol=ROUNDING)


def test_heads_use_the_basis_of_the_kv_head_they_read() -> None:
    found = compute_projections(Recipe(), LAYOUT, _moments())
    x = np.random.default_rng(1).standard_normal((2, 5, 6 * 16))
    turned = found.apply_value(1, x)
    for head in range(LAYOUT.num_heads):
        columns = slice(16 * head, 16 * head + 16)
        expected = x[..., columns] @ found.value[1, head // LAYOUT.heads_per_kv_head]
        np.testing.assert_allclose(turned[..., columns], expected, atol=ROUNDING)


def test_high_columns_of_all_heads_come_after_the_low_columns_of_all_heads() -> None:
    order = high_last_order(2, BitSplit(3, 2))
    np.testing.assert_array_equal(order, [0, 1, 2, 5, 6, 7, 3, 4, 8, 9])


def test_the_same_seed_gives_the_same_bases_and_another_seed_others() -> None:
    first, again, other = (
        compute_projections(Recipe(seed=seed), LAYOUT, _moments()) for seed in (5, 5, 6)
    )
    for name in ("hidden", "value", "key"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
        assert not np.allclose(getattr(first, name), getattr(other, name))
    np.testing.assert_array_equal(first.down_matrix(1), again.down_matrix(1))
    assert not np.allclose(first.down_matrix(1), other.down_matrix(1))


def test_a_site_is_rotated_alike_whatever_the_other_sites_are() -> None:
    moments, more = _moments(), _moments(seed=1)
    more.value[0, 1] = moments.value[0, 1]
    first = compute_projections(Recipe(), LAYOUT, moments)
    second = compute_projections(Recipe(down_high=0.0), LAYOUT, more)
    np.testing.assert_array_equal(first.value[0, 1], second.value[0, 1])
    assert not np.allclose(first.value[0, 0], second.value[0, 0])


def test_layers_and_heads_are_rotated_independently() -> None:
    moments = _moments()
    moments.value[:] = moments.value[0, 0]
    found = compute_projections(Recipe(), LAYOUT, moments)
    rest = found.value.reshape(-1, 16, 16)
    assert all(not np.allclose(rest[0], basis) for basis in rest[1:])
    assert not np.array_equal(found.down[0].signs, found.down[1].signs)


def test_odd_widths_work_where_nothing_is_split() -> None:
    layout = dataclasses.replace(
        LAYOUT, hidden_size=45, head_dim=5, intermediate_size=27, num_heads=3
    )
    moments = _moments(layout)
    for method in METHODS:
        recipe = Recipe(method=method, high_fraction=0.0, down_high=0.0)
        found = compute_projections(recipe, layout, moments)
        _assert_orthogonal(found.hidden)
        _assert_orthogonal(found.down_matrix(0))


def test_float32_moments_are_as_good() -> None:
    moments = _moments()
    for site in SITES:
        setattr(moments, site, getattr(moments, site).astype(np.float32))
    found = compute_projections(Recipe(), LAYOUT, moments)
    assert found.hidden.dtype == np.float64
    _assert_orthogonal(found.hidden)


@pytest.mark.parametrize("method", ["resq", "outlier"])
def test_missing_moments_are_refused(method: str) -> None:
    with pytest.raises(ResqError, match=f"method {method} needs the second moments"):
        compute_projections(Recipe(method=method), LAYOUT, None)


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_moments_that_are_not_finite_are_refused_by_site_and_layer(site: str, value: float) -> None:
    moments = _moments()
    getattr(moments, site)[1].flat[3] = value
    with pytest.raises(ResqError, match=f"layer 1: the second moments at {site} are not finite"):
        compute_projections(Recipe(), LAYOUT, moments)


def test_moments_of_another_model_are_refused() -> None:
    other = dataclasses.replace(LAYOUT, intermediate_size=80)
    with pytest.raises(ResqError, match=r"at down have shape \(80, 80\).*\(96, 96\)"):
        compute_projections(Recipe(), LAYOUT, _moments(other))


def test_behind_gains_every_layer_counts_alike_for_the_basis_of_all() -> None:
    gemma = dataclasses.replace(LAYOUT, family=FAMILIES["Gemma2ForCausalLM"])
    moments, louder = _moments(), _moments()
    louder.hidden_attention[1] *= 1000.0
    quiet, loud = (compute_projections(Recipe(), gemma, one).hidden for one in (moments, louder))
    np.testing.assert_allclose(quiet, loud, atol=ROUNDING)
