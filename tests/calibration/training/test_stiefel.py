import pytest
import torch

from resq_onnx.calibration.training.stiefel import cayley, descend, nearest_orthogonal, skew_part

ORTHOGONAL = 1e-12
"""float64, after two hundred steps of order 6."""


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _rotation(size: int) -> torch.Tensor:
    found: torch.Tensor = torch.linalg.qr(_random(size, size))[0]
    if torch.linalg.det(found) < 0:  # a descent cannot leave the rotations for the reflections
        found[0] *= -1
    return found


@pytest.mark.parametrize("length", [1e-3, 1.0, 1e4])
def test_cayley_transforms_are_orthogonal(length: float) -> None:
    turned = cayley(length * skew_part(_random(3, 8, 8)))
    eye = torch.eye(8).double().expand(3, 8, 8)
    torch.testing.assert_close(turned @ turned.mT, eye, rtol=0, atol=ORTHOGONAL)


def test_cayley_transforms_turn_by_the_angle() -> None:
    angle = 1e-3
    turned = cayley(torch.tensor([[0.0, angle], [-angle, 0.0]], dtype=torch.float64))
    assert float(turned[0, 1]) == pytest.approx(angle, rel=1e-5)


def test_descent_finds_the_rotation_that_a_loss_asks_for() -> None:
    x, target = torch.eye(6, dtype=torch.float64, requires_grad=True), _rotation(6)
    losses = []
    for _ in range(200):
        loss = (x - target).square().sum()
        loss.backward()
        losses.append(float(loss.detach()))
        descend([x], learning_rate=0.2)
    assert losses[-1] < 1e-6 * losses[0]
    torch.testing.assert_close(x @ x.mT, torch.eye(6).double(), rtol=0, atol=ORTHOGONAL)


def test_a_short_step_is_first_order_the_negative_gradient() -> None:
    x, length = _rotation(5).requires_grad_(), 1e-6
    x.grad = _random(5, 5, seed=2)
    start, towards = x.detach().clone(), x.grad @ x.detach().mT
    descend([x], learning_rate=length)
    expected = -length * (towards - towards.mT) / 2 @ start
    torch.testing.assert_close(x.detach() - start, expected, rtol=1e-4, atol=length * 1e-4)


def test_no_gradient_along_the_rotations_means_no_step() -> None:
    x = _rotation(8).requires_grad_()
    start = x.detach().clone()
    x.grad = torch.ones(8, 8, dtype=torch.float64) @ start
    descend([x], learning_rate=1.0)
    torch.testing.assert_close(x.detach(), start, rtol=0, atol=ORTHOGONAL)


def test_the_nearest_orthogonal_matrix_of_a_nearly_orthogonal_one_is_near() -> None:
    exact = _rotation(6)
    found = nearest_orthogonal(exact + 1e-5 * _random(6, 6, seed=1))
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-4)
    torch.testing.assert_close(found @ found.mT, torch.eye(6).double(), rtol=0, atol=ORTHOGONAL)


def test_a_matrix_without_a_gradient_is_refused() -> None:
    with pytest.raises(ValueError, match="no gradient"):
        descend([torch.eye(2, requires_grad=True)], 0.1)
