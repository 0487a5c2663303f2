import numpy as np
import pytest

from resq_onnx.projections.hadamard import (
    LARGEST_INNER_ORDER,
    hadamard,
    identity_factors,
    kronecker_factors,
    random_orthogonal,
    random_signs,
    randomised_hadamard,
)

ROUNDING = 1e-10
"""Far above float64 rounding of sums over a few thousand terms, far below any real error."""

# 92 is the smallest order that needs more than Sylvester, Paley and products (Williamson).
BEYOND_PALEY = {92, 116, 156, 172, 184, 188}
ORDERS = [1, 2, *(order for order in range(4, 201, 4) if order not in BEYOND_PALEY)]


def _rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("order", ORDERS)
def test_rows_of_a_hadamard_matrix_are_orthogonal_signs(order: int) -> None:
    matrix = hadamard(order)
    np.testing.assert_array_equal(np.abs(matrix), np.ones((order, order)))
    np.testing.assert_array_equal(matrix @ matrix.T, order * np.eye(order))


@pytest.mark.parametrize("order", [52, 100, 244])
def test_squares_of_primes_give_paley_matrices(order: int) -> None:
    matrix = hadamard(order)
    np.testing.assert_array_equal(matrix @ matrix.T, order * np.eye(order))


@pytest.mark.parametrize("order", [-4, 0, 3, 6, 50, 92])
def test_an_order_without_a_known_matrix_is_refused(order: int) -> None:
    with pytest.raises(ValueError, match=f"order {order} is known"):
        hadamard(order)


@pytest.mark.parametrize(
    ("width", "outer", "inner"),
    [
        (64, 1, 64),
        (1344, 84, 16),
        (192, 12, 16),
        (12544, 196, 64),
        (1792, 28, 64),
        (576, 36, 16),
        (18944, 148, 128),
        (2 * LARGEST_INNER_ORDER, 2, LARGEST_INNER_ORDER),
    ],
)
def test_a_width_splits_into_the_smallest_hadamard_order_and_a_power_of_two(
    width: int, outer: int, inner: int
) -> None:
    factors = kronecker_factors(width, _rng())
    assert factors.outer.shape == (outer, outer)
    assert factors.inner.shape == (inner, inner)
    np.testing.assert_allclose(np.abs(factors.outer), outer**-0.5, rtol=ROUNDING)


@pytest.mark.parametrize("width", [1, 5, 6, 14, 43 * 4, 301 * 32])
def test_a_width_without_a_hadamard_order_gets_an_orthogonal_block_of_its_odd_part(
    width: int,
) -> None:
    factors = kronecker_factors(width, _rng())
    odd = width // (width & -width)
    assert factors.outer.shape == (odd, odd)
    np.testing.assert_allclose(factors.outer @ factors.outer.T, np.eye(odd), atol=ROUNDING)


@pytest.mark.parametrize("width", [1, 2, 7, 12, 24, 30, 96, 192])
@pytest.mark.parametrize("leading", [(), (3,), (2, 0), (2, 3)])
def test_applying_the_factors_equals_the_dense_product(
    width: int, leading: tuple[int, ...]
) -> None:
    factors = kronecker_factors(width, _rng())
    dense = factors.matrix()
    x = _rng(1).standard_normal((*leading, width))
    assert factors.width == width
    np.testing.assert_allclose(dense @ dense.T, np.eye(width), atol=ROUNDING)
    np.testing.assert_allclose(factors.apply(x), x @ dense, atol=ROUNDING)


def test_applying_keeps_the_precision_of_its_input() -> None:
    x = np.ones((2, 24), np.float32)
    assert kronecker_factors(24, _rng()).apply(x).dtype == np.float32


@pytest.mark.parametrize("width", [1, 7, 24, 4096])
def test_identity_factors_change_nothing(width: int) -> None:
    x = _rng().standard_normal((2, width))
    np.testing.assert_array_equal(identity_factors(width).apply(x), x)


@pytest.mark.parametrize("order", [0, 1, 2, 17, 64])
def test_a_random_orthogonal_matrix_is_orthogonal(order: int) -> None:
    matrix = random_orthogonal(order, _rng())
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(order), atol=ROUNDING)


def test_random_rotations_follow_their_seed() -> None:
    for make in (random_orthogonal, randomised_hadamard, random_signs):
        np.testing.assert_array_equal(make(24, _rng(3)), make(24, _rng(3)))
        assert not np.array_equal(make(24, _rng(3)), make(24, _rng(4)))


@pytest.mark.parametrize("width", [6, 24, 64])
def test_a_randomised_hadamard_matrix_spreads_one_outlier_over_all_coefficients(
    width: int,
) -> None:
    matrix = randomised_hadamard(width, _rng())
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(width), atol=ROUNDING)
    spread = np.abs(matrix[width // 3])  # where a single 1 at that place goes
    if width != 6:  # 6 has no Hadamard matrix, so its spread is not even
        np.testing.assert_allclose(spread, width**-0.5, rtol=ROUNDING)
    assert np.all(spread > 0)
