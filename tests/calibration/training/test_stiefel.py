import pytest
import torch

from resq_onnx.calibration.training.stiefel import cayley_step, descend

ORTHOGONAL = 1e-12
"""float64, after a hundred steps of order 8."""


def _orthogonal(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    q: torch.Tensor = torch.linalg.qr(
        torch.randn(*shape, dtype=torch.float64, generator=generator)
    )[0]
    return q


def test_a_step_of_any_length_stays_orthogonal() -> None:
    x = _orthogonal(3, 8, 8)
    gradient = torch.randn(3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for step in range(100):
        x = cayley_step(x, gradient * (step - 50), learning_rate=10.0 ** (step % 5))
    torch.testing.assert_close(
        x @ x.mT, torch.eye(8).double().expand(3, 8, 8), rtol=0, atol=ORTHOGONAL
    )


def test_no_gradient_along_the_manifold_means_no_step() -> None:
    x = _orthogonal(8, 8)
    symmetric = torch.ones(8, 8, dtype=torch.float64)
    moved = cayley_step(x, symmetric @ x, learning_rate=1.0)
    torch.testing.assert_close(moved, x, rtol=0, atol=ORTHOGONAL)


def test_descent_finds_the_rotation_that_a_loss_asks_for() -> None:
    target = _orthogonal(6, 6)
    if torch.linalg.det(target) < 0:  # a descent cannot leave the rotations for the reflections
        target[0] *= -1
    x = torch.eye(6, dtype=torch.float64, requires_grad=True)
    losses = []
    for _ in range(200):
        loss = (x - target).square().sum()
        loss.backward()
        losses.append(float(loss.detach()))
        descend([x], learning_rate=0.2)
    assert losses[-1] < 1e-6 * losses[0]


def test_a_step_along_the_gradient_is_first_order_the_negative_gradient() -> None:
    x, length = _orthogonal(5, 5), 1e-6
    gradient = torch.randn(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    moved = cayley_step(x, gradient, learning_rate=length)
    towards = gradient @ x.mT
    expected = -length * (towards - towards.mT) / 2 @ x
    torch.testing.assert_close(moved - x, expected, rtol=1e-4, atol=length * 1e-4)


def test_a_matrix_without_a_gradient_is_refused() -> None:
    with pytest.raises(ValueError, match="no gradient"):
        descend([torch.eye(2, requires_grad=True)], 0.1)
