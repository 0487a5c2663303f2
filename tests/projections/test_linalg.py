import numpy as np
import pytest
import torch

from resq_onnx.projections import linalg
from resq_onnx.projections.linalg import (
    cholesky,
    exact_products,
    float64_on,
    is_finite,
    one_thread,
    restore,
)

WIDTHS = (1, 5, 16, 37)
"""Less than a panel of the tests, whole panels, and a last one that is smaller."""


@pytest.fixture(autouse=True)
def small_panels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linalg, "PANEL", 8)
    monkeypatch.setattr(linalg, "ELEMENTS_AT_A_TIME", 40)


def _positive(width: int) -> torch.Tensor:
    rows = torch.from_numpy(np.random.default_rng(width).standard_normal((2 * width, width)))
    return rows.T @ rows


@pytest.mark.parametrize("width", WIDTHS)
def test_the_factor_is_lapacks_and_what_is_above_the_diagonal_stays(width: int) -> None:
    matrix = _positive(width)
    found = matrix.clone()
    assert cholesky(found)
    torch.testing.assert_close(found.tril(), torch.linalg.cholesky(matrix))
    assert torch.equal(found.triu(1), matrix.triu(1))


@pytest.mark.parametrize("wrong", [0, 7, 8, 20, 36])
def test_a_matrix_that_is_not_positive_can_be_restored(wrong: int) -> None:
    matrix = _positive(37)
    matrix[wrong, wrong] = -1.0
    found = matrix.clone()
    assert not cholesky(found)
    restore(found)
    found.diagonal().copy_(matrix.diagonal())
    assert torch.equal(found, matrix)


@pytest.mark.parametrize("place", [(0, 0), (36, 0), (36, 36)])
@pytest.mark.parametrize("value", [torch.nan, -torch.inf])
def test_one_element_that_is_not_finite_is_found_wherever_it_is(
    place: tuple[int, int], value: float
) -> None:
    matrix = _positive(37)
    assert is_finite(matrix)
    matrix[place] = value
    assert not is_finite(matrix)


def test_an_own_tensor_never_shares_memory() -> None:
    array = np.ones((3, 3))
    float64_on("cpu", array).zero_()
    assert array.all()
    float64_on("cpu", array, own=False).zero_()
    assert not array.any()


def test_a_read_only_array_is_not_written() -> None:
    array = np.ones((3, 3))
    array.flags.writeable = False
    float64_on("cpu", array, own=False).zero_()
    assert array.all()


def test_products_are_exact_for_a_while_only() -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with exact_products():
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


def test_there_is_one_thread_for_a_while_only() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
