import numpy as np
import pytest
from numpy.typing import NDArray

from resq_onnx.errors import ResqError
from resq_onnx.recipe import BitSplit
from resq_onnx.weights import round_to_nearest
from resq_onnx.weights.scales import clip_search


def _weight(rows: int, columns: int, seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).standard_normal((rows, columns))


def _best_error(row: NDArray[np.float64], bits: int, importance: NDArray[np.float64]) -> float:
    """The slow twin of the clip search: a very fine grid of scales for one row."""
    smallest, largest = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    scales = np.abs(row).max() / largest * np.linspace(0.3, 1.1, 2000)
    q = np.clip(np.rint(row / scales[:, None]), smallest, largest)
    return float(((row - q * scales[:, None]) ** 2 @ importance).min())


def _error(row: NDArray[np.float64], scale: float, importance: NDArray[np.float64]) -> float:
    q = np.clip(np.rint(row / scale), -8, 7)
    return float((row - q * scale) ** 2 @ importance)


@pytest.mark.parametrize("split", [BitSplit(28, 4), BitSplit(32, 0), BitSplit(0, 32)], ids=str)
def test_an_integer_is_the_nearest_to_its_weight(split: BitSplit) -> None:
    weight = _weight(9, split.width)
    found = round_to_nearest(weight, split)
    assert found.low.shape == (9, split.low)
    assert found.high.shape == (9, split.high)
    assert found.low_scale.dtype == found.high_scale.dtype == np.float32
    assert (found.low >= -8).all()
    assert (found.low <= 7).all()
    assert (found.low_scale > 0).all()
    assert (found.high_scale > 0).all()
    scale = np.repeat([found.low_scale, found.high_scale], [split.low, split.high], axis=0).T
    clipped = np.concatenate([np.isin(found.low, (-8, 7)), np.isin(found.high, (-128, 127))], 1)
    off = np.abs(found.dequantise() - weight)
    half_a_step_and_rounding = scale * 0.5001
    assert (off <= half_a_step_and_rounding)[~clipped].all()


@pytest.mark.parametrize("weighted", [False, True])
def test_the_clip_search_is_within_two_percent_of_a_very_fine_grid(weighted: bool) -> None:
    weight = _weight(40, 96)
    importance = np.random.default_rng(1).uniform(0.01, 1, 96) ** 2 if weighted else np.ones(96)
    scales = clip_search(weight, 4, importance)
    found = sum(_error(row, float(s), importance) for row, s in zip(weight, scales, strict=True))
    best = sum(_best_error(row, 4, importance) for row in weight)
    assert found <= 1.02 * best


def test_clipping_pays_when_one_weight_stands_out() -> None:
    row = np.append(np.linspace(-1, 1, 200), 3.0)
    scale = float(clip_search(row[None], 4)[0])
    assert scale < 0.8 * 3.0 / 7
    assert _error(row, scale, np.ones(201)) < 0.9 * _error(row, 3.0 / 7, np.ones(201))


def test_importance_moves_the_scale_towards_the_columns_that_count() -> None:
    weight = np.concatenate([_weight(8, 32), 10 * _weight(8, 32, seed=1)], axis=1)
    small_counts = np.repeat([1.0, 0.0], 32)
    assert (clip_search(weight, 4, small_counts) < clip_search(weight, 4)).all()


def test_importance_of_nothing_is_the_same_as_no_importance() -> None:
    weight = _weight(8, 32)
    np.testing.assert_array_equal(clip_search(weight, 4, np.zeros(32)), clip_search(weight, 4))


def test_weights_on_a_grid_come_back_exactly() -> None:
    integers = np.random.default_rng(0).integers(-7, 8, (20, 64))
    integers[:, 0] = 7
    found = round_to_nearest(integers * 0.25, BitSplit(64, 0))
    np.testing.assert_array_equal(found.low, integers)
    np.testing.assert_array_equal(found.low_scale, np.full(20, 0.25, np.float32))


def test_rows_of_zeros_stay_zeros() -> None:
    weight = _weight(4, 32)
    weight[2] = 0.0
    found = round_to_nearest(weight, BitSplit(28, 4))
    np.testing.assert_array_equal(found.dequantise()[2], 0.0)
    assert found.low_scale[2] == found.high_scale[2] == 1.0


@pytest.mark.parametrize("size", [1e-44, 1e-38, 1e-30, 1e30])
def test_rows_of_any_size_give_finite_positive_scales(size: float) -> None:
    weight = _weight(4, 32) * size
    found = round_to_nearest(weight, BitSplit(28, 4))
    assert np.isfinite(found.low_scale).all()
    assert (found.low_scale > 0).all()
    assert np.isfinite(found.dequantise()).all()


@pytest.mark.parametrize("size", [2.0**-100, 2.0**100])
def test_scales_grow_with_the_weight(size: float) -> None:
    weight = _weight(16, 32)
    small, large = clip_search(weight, 4), clip_search(weight * size, 4)
    np.testing.assert_allclose(large, small * size, rtol=1e-6)


def test_rows_are_quantised_independently_of_their_neighbours() -> None:
    weight = _weight(300, 256)  # more than one chunk of rows
    whole = round_to_nearest(weight, BitSplit(224, 32))
    for row in (0, 127, 128, 299):
        alone = round_to_nearest(weight[row : row + 1], BitSplit(224, 32))
        np.testing.assert_array_equal(alone.low[0], whole.low[row])
        np.testing.assert_array_equal(alone.high[0], whole.high[row])


def test_more_bits_lose_less() -> None:
    weight = _weight(16, 64)
    errors = [
        np.abs(round_to_nearest(weight, split).dequantise() - weight).mean()
        for split in (BitSplit(64, 0), BitSplit(32, 32), BitSplit(64, 0, low_bits=8))
    ]
    assert errors[0] > errors[1] > errors[2]


def test_a_weight_of_another_width_is_refused() -> None:
    with pytest.raises(ResqError, match=r"shape \(3, 31\) cannot be split into 28 \+ 4"):
        round_to_nearest(_weight(3, 31), BitSplit(28, 4))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_weight_that_is_not_finite_is_refused_by_row(value: float) -> None:
    weight = _weight(5, 32)
    weight[3, 7] = value
    with pytest.raises(ResqError, match="row 3 of a weight has NaN or inf"):
        round_to_nearest(weight, BitSplit(28, 4))
