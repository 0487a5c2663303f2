import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from resq_onnx.errors import ResqError
from resq_onnx.recipe import BitSplit
from resq_onnx.weights import QuantisedMatrix, gptq, round_to_nearest
from resq_onnx.weights.gptq import (
    BLOCK,
    DAMPING,
    _round_with_feedback,
    factorise,
    gptq_in_parts,
)

Matrix = NDArray[np.float64]

SPLITS = [BitSplit(42, 6), BitSplit(48, 0), BitSplit(0, 48), BitSplit(42, 6, low_bits=8)]


def _hessian(width: int, seed: int = 0) -> Matrix:
    """Of correlated inputs whose spectrum falls as fast as a language model's, about 1/i."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.standard_normal((width, width)))[0]
    x = rng.standard_normal((8 * width, width)) * np.arange(1, width + 1) ** -0.5
    x = x @ basis.T
    return np.asarray(x.T @ x)


def _weight(rows: int, columns: int, seed: int = 1) -> Matrix:
    return np.random.default_rng(seed).standard_normal((rows, columns))


def _of_the_paper(weight: Matrix, hessian: Matrix, split: BitSplit) -> QuantisedMatrix:
    """GPTQ without the descent that follows it."""
    parts = ((split.low, split.low_bits), (split.high, split.high_bits))
    (low, low_scale), (high, high_scale) = gptq_in_parts(
        weight, torch.from_numpy(hessian.copy()), parts, sweeps=0
    )
    return QuantisedMatrix(low=low, low_scale=low_scale, high=high, high_scale=high_scale)


def _loss(weight: Matrix, found: QuantisedMatrix, hessian: Matrix) -> float:
    """tr(E H Eᵀ): the squared error of the layer's outputs on the calibration text."""
    error = weight - found.dequantise()
    return float(np.trace(error @ hessian @ error.T))


def _frantar(
    weight: Matrix, hessian: Matrix, split: BitSplit, found: QuantisedMatrix
) -> NDArray[np.int64]:
    """The paper's algorithm as it stands: Cholesky of the inverse, no blocks.

    The scales are those of `found`; the order inside a part is by descending energy.
    """
    energies = np.diagonal(hessian)
    low = np.argsort(-energies[: split.low], kind="stable")
    high = np.argsort(-energies[split.low :], kind="stable") + split.low
    places = np.concatenate([low, high])
    damped = hessian + DAMPING[0] * energies.mean() * np.eye(split.width)
    inverse = np.linalg.inv(damped[np.ix_(places, places)])
    upper = np.linalg.cholesky(inverse).T
    left, integers = weight[:, places].copy(), np.zeros(weight.shape, np.int64)
    for j, place in enumerate(places):
        is_low = j < split.low
        scale = (found.low_scale if is_low else found.high_scale).astype(np.float64)
        bits = split.low_bits if is_low else split.high_bits
        q = np.clip(np.rint(left[:, j] / scale), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        integers[:, place] = q
        error = (left[:, j] - q * scale) / upper[j, j]
        left[:, j:] -= error[:, None] * upper[j, j:]
    return integers


def _factors(hessian: Matrix) -> tuple[Matrix, Matrix]:
    """I + A and D of the module's description, (K, K) and (K,)."""
    reversed_ = torch.tensor(hessian[::-1, ::-1].copy())
    factorise(reversed_)
    upper = reversed_.tril().flip(0, 1).numpy()
    pivots = np.diagonal(upper)
    return upper / pivots, pivots**2


@pytest.mark.parametrize("split", SPLITS, ids=str)
def test_the_integers_are_those_of_the_papers_own_algorithm(split: BitSplit) -> None:
    weight, hessian = _weight(32, split.width), _hessian(split.width)
    found = _of_the_paper(weight, hessian, split)
    expected = _frantar(weight, hessian, split, found)
    integers = np.concatenate([found.low, found.high], axis=1)
    # float32 against float64: a value half way may fall to either side, and what follows it
    # in its row then differs too.
    same_rows = (integers == expected).all(axis=1).mean()
    assert same_rows >= 0.9


@pytest.mark.parametrize("split", SPLITS, ids=str)
def test_it_loses_less_than_rounding_to_nearest(split: BitSplit) -> None:
    weight, hessian = _weight(32, split.width), _hessian(split.width)
    rounded = round_to_nearest(weight, split)
    found = gptq(weight, hessian, split)
    assert _loss(weight, found, hessian) < 0.75 * _loss(weight, rounded, hessian)


def test_it_spans_blocks_that_do_not_divide_the_width() -> None:
    split = BitSplit(2 * BLOCK - 20, 60)
    weight, hessian = _weight(16, split.width), _hessian(split.width)
    found = _of_the_paper(weight, hessian, split)
    rounded = round_to_nearest(weight, split)
    assert _loss(weight, found, hessian) < 0.75 * _loss(weight, rounded, hessian)
    expected = _frantar(weight, hessian, split, found)
    integers = np.concatenate([found.low, found.high], axis=1)
    assert (integers == expected).mean() >= 0.9


@pytest.mark.parametrize("split", SPLITS, ids=str)
def test_it_loses_less_than_the_papers_own_algorithm(split: BitSplit) -> None:
    weight, hessian = _weight(32, split.width), _hessian(split.width)
    of_paper = _of_the_paper(weight, hessian, split)
    damped = hessian + DAMPING[0] * np.diagonal(hessian).mean() * np.eye(split.width)
    assert _loss(weight, gptq(weight, hessian, split), damped) < 0.99 * _loss(
        weight, of_paper, damped
    )


def test_uncorrelated_inputs_of_one_size_give_the_nearest_integers() -> None:
    weight, split = _weight(16, 48), BitSplit(42, 6)
    found, rounded = gptq(weight, np.eye(48), split), round_to_nearest(weight, split)
    np.testing.assert_array_equal(found.low, rounded.low)
    np.testing.assert_array_equal(found.high, rounded.high)


def test_the_factors_give_the_damped_hessian_back() -> None:
    hessian = _hessian(40)
    feedback, weights = _factors(hessian)
    damped = hessian + DAMPING[0] * np.diagonal(hessian).mean() * np.eye(40)
    np.testing.assert_array_equal(feedback, np.triu(feedback))
    np.testing.assert_array_equal(np.diagonal(feedback), 1.0)
    rounding = 1e-12
    np.testing.assert_allclose(
        feedback * weights @ feedback.T, damped, atol=rounding * np.abs(damped).max()
    )


def test_the_loss_is_the_weighted_sum_the_module_says_it_is() -> None:
    hessian, errors = _hessian(40), _weight(8, 40)
    feedback, weights = _factors(hessian)
    damped = hessian + DAMPING[0] * np.diagonal(hessian).mean() * np.eye(40)
    total = float((((errors @ feedback) ** 2) @ weights).sum())
    np.testing.assert_allclose(total, np.trace(errors @ damped @ errors.T), rtol=1e-12)


def test_columns_that_never_had_an_input_are_rounded_to_nearest() -> None:
    split = BitSplit(42, 6)
    weight, hessian = _weight(16, 48), _hessian(48)
    dead = [3, 17, 44]
    hessian[dead], hessian[:, dead] = 0.0, 0.0
    found = gptq(weight, hessian, split)
    nearest = np.clip(np.rint(weight[:, [3, 17]] / found.low_scale[:, None]), -8, 7)
    np.testing.assert_array_equal(found.low[:, [3, 17]], nearest)
    assert _loss(weight, found, hessian) < _loss(weight, round_to_nearest(weight, split), hessian)


def test_a_layer_that_never_had_an_input_is_rounded_to_nearest() -> None:
    weight, split = _weight(16, 48), BitSplit(42, 6)
    found, rounded = gptq(weight, np.zeros((48, 48)), split), round_to_nearest(weight, split)
    np.testing.assert_array_equal(found.low, rounded.low)
    np.testing.assert_array_equal(found.high, rounded.high)


def test_a_hessian_of_fewer_tokens_than_columns_works() -> None:
    x = np.random.default_rng(0).standard_normal((5, 48))
    weight, split = _weight(16, 48), BitSplit(42, 6)
    found = gptq(weight, x.T @ x, split)
    rounded = round_to_nearest(weight, split)
    assert _loss(weight, found, x.T @ x) < 0.25 * _loss(weight, rounded, x.T @ x)


def test_more_damping_saves_a_hessian_that_is_slightly_indefinite() -> None:
    hessian = _hessian(48)
    lowest, vectors = np.linalg.eigh(hessian)
    mean = np.diagonal(hessian).mean()
    hessian -= (lowest[0] + 2 * DAMPING[0] * mean) * np.outer(vectors[:, 0], vectors[:, 0])
    assert np.linalg.eigvalsh(hessian)[0] < -DAMPING[0] * mean
    found = gptq(_weight(16, 48), hessian, BitSplit(42, 6))
    assert np.isfinite(found.dequantise()).all()


def test_a_hessian_that_is_far_from_positive_is_refused() -> None:
    hessian = np.eye(48)
    hessian[0, 1] = hessian[1, 0] = 5.0
    with pytest.raises(ResqError, match="not positive semidefinite"):
        gptq(_weight(16, 48), hessian, BitSplit(42, 6))


def test_rows_of_zeros_stay_zeros() -> None:
    weight = _weight(4, 48)
    weight[2] = 0.0
    found = gptq(weight, _hessian(48), BitSplit(42, 6))
    np.testing.assert_array_equal(found.dequantise()[2], 0.0)


def test_neither_argument_is_changed() -> None:
    weight, hessian = _weight(4, 48), _hessian(48)
    weight_before, hessian_before = weight.copy(), hessian.copy()
    gptq(weight, hessian, BitSplit(42, 6))
    np.testing.assert_array_equal(weight, weight_before)
    np.testing.assert_array_equal(hessian, hessian_before)


def test_a_hessian_that_may_be_overwritten_gives_the_same_and_is_not_copied() -> None:
    weight, hessian, split = _weight(4, 48), _hessian(48), BitSplit(42, 6)
    expected, working = gptq(weight, hessian, split), torch.from_numpy(hessian.copy())
    found = gptq(weight, working, split, overwrite_hessian=True)
    for name in ("low", "low_scale", "high", "high_scale"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    assert not np.array_equal(working.numpy(), hessian)


def test_float16_weights_and_read_only_ones_are_read() -> None:
    weight, hessian, split = _weight(4, 48).astype(np.float16), _hessian(48), BitSplit(42, 6)
    expected = gptq(weight.astype(np.float64), hessian, split)
    weight.flags.writeable = False
    np.testing.assert_array_equal(gptq(weight, hessian, split).low, expected.low)


def test_columns_are_rounded_on_the_device_where_they_are() -> None:
    """On `meta`, PyTorch refuses operands of another device, as it does on a GPU."""
    factor = torch.empty((BLOCK + 5, BLOCK + 5), dtype=torch.float64, device="meta")
    columns, scale = (torch.empty(shape, device="meta") for shape in ((BLOCK + 5, 3), (3,)))
    found = _round_with_feedback(columns, factor, [(scale, 4)] * (BLOCK + 5))
    assert (found.shape, found.dtype, found.device) == (columns.shape, torch.int8, factor.device)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_hessian_that_is_not_finite_is_refused(value: float) -> None:
    hessian = _hessian(48)
    hessian[4, 4] = value
    with pytest.raises(ResqError, match="Hessian is not finite"):
        gptq(_weight(4, 48), hessian, BitSplit(42, 6))


def test_a_hessian_of_another_size_is_refused() -> None:
    with pytest.raises(ResqError, match=r"shape \(40, 40\) does not fit a weight of 48"):
        gptq(_weight(4, 48), _hessian(40), BitSplit(42, 6))


def test_a_weight_that_is_not_finite_is_refused() -> None:
    weight = _weight(4, 48)
    weight[1, 1] = np.nan
    with pytest.raises(ResqError, match="row 1 of a weight"):
        gptq(weight, _hessian(48), BitSplit(42, 6))
