import numpy as np
import pytest
import torch

from resq_onnx.calibration.training.quantisers import Part, fake_quantise, parts_of
from resq_onnx.recipe import BitSplit
from tests.functions import oracle

FLOAT32 = 1e-6
"""A few roundings of float32, relative to the largest value of a row."""


@pytest.mark.parametrize("clip", [1.0, 0.85])
@pytest.mark.parametrize("split", [BitSplit(14, 2), BitSplit(16, 0), BitSplit(12, 4, low_bits=8)])
def test_rows_are_rounded_as_the_operator_rounds_them(split: BitSplit, clip: float) -> None:
    x = np.random.default_rng(0).standard_normal((5, split.width)).astype(np.float32) * 3
    low_clip = clip if split.low_bits == 4 else 1.0
    # A weight that picks one column after the other makes the product show what was read.
    picks = np.eye(split.width)
    ones = np.ones(split.width, np.float32)
    expected = oracle.matmul(
        x, (picks[:, : split.low], ones), (picks[:, split.low :], ones), split, low_clip=low_clip
    )
    found = fake_quantise(torch.from_numpy(x), parts_of(split, low_clip)).numpy()
    np.testing.assert_allclose(found, expected, rtol=FLOAT32, atol=FLOAT32 * np.abs(x).max())


def test_zeros_stay_zeros() -> None:
    found = fake_quantise(torch.zeros(2, 8), parts_of(BitSplit(6, 2)))
    assert torch.equal(found, torch.zeros(2, 8))


def test_without_parts_nothing_is_rounded() -> None:
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    assert fake_quantise(x, ()) is x


def test_the_gradient_passes_straight_through() -> None:
    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    weights = torch.arange(24.0).reshape(3, 8)
    (fake_quantise(x, [Part(6, 4, 0.5), Part(2, 8)]) * weights).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, weights)
