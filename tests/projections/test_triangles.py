import numpy as np
import pytest

from resq_onnx.projections.triangles import TILE, pack, unpack


@pytest.mark.parametrize("size", [1, 7, TILE, TILE + 1, 2 * TILE + 5])
@pytest.mark.parametrize("batch", [(), (2, 3)])
def test_a_symmetric_matrix_comes_back_from_its_triangle(size: int, batch: tuple[int, ...]) -> None:
    half = np.random.default_rng(size).standard_normal((*batch, size, size)).astype(np.float32)
    whole = half + np.swapaxes(half, -1, -2)
    packed = pack(whole)
    assert packed.shape == (*batch, size * (size + 1) // 2)
    np.testing.assert_array_equal(unpack(packed), whole)


def test_a_number_of_elements_that_no_triangle_has_is_refused() -> None:
    with pytest.raises(ValueError, match="a triangle cannot have 5 elements"):
        unpack(np.zeros(5, np.float32))
