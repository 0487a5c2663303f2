"""Gradient descent on orthogonal matrices, by Cayley transforms.

Li, Fuxin, Todorovic, "Efficient Riemannian Optimization on the Stiefel Manifold via the Cayley
Transform" (arXiv 2002.01113), for square matrices and without momentum. The gradient's part along
the manifold is W X with W = (G Xᵀ - X Gᵀ) / 2 skew-symmetric, and

    X <- (I + a/2 W)⁻¹ (I - a/2 W) X

is orthogonal for every step length a. The paper approximates the inverse by a fixed-point
iteration. Solving the system costs little compared with a pass over the model, and keeps X
orthogonal to the last bits.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch


def descend(matrices: Sequence[torch.Tensor], learning_rate: float) -> None:
    """Move orthogonal matrices (..., n, n) against their gradients, in place.

    Args:
        matrices: Leaves with a gradient, which is cleared.
        learning_rate: Step length a, limited for each matrix to a |W| <= 1, as in the paper's
            algorithm 1.
    """
    for matrix in matrices:
        gradient = matrix.grad
        if gradient is None:
            raise ValueError("descend: a matrix has no gradient; call backward() first")
        moved = cayley_step(matrix.detach().double(), gradient.double(), learning_rate)
        with torch.no_grad():
            matrix.copy_(moved)
        matrix.grad = None


def cayley_step(x: torch.Tensor, gradient: torch.Tensor, learning_rate: float) -> torch.Tensor:
    """One step from orthogonal matrices x (..., n, n) against a gradient of the same shape."""
    towards = gradient @ x.mT
    skew = (towards - towards.mT) / 2
    norm = torch.linalg.matrix_norm(skew, keepdim=True)
    half = (1.0 / norm.clamp(min=1e-30)).clamp(max=learning_rate) / 2 * skew
    identity = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    moved: torch.Tensor = torch.linalg.solve(identity + half, (identity - half) @ x)
    return moved
