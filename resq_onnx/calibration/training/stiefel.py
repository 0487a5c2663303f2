"""Gradient descent on rotations, by Cayley transforms.

Li, Fuxin, Todorovic, "Efficient Riemannian Optimization on the Stiefel Manifold via the Cayley
Transform" (arXiv 2002.01113), for square matrices and without momentum. Seen from a rotation R, a
gradient G along the rotations is the skew-symmetric matrix W = (Rᵀ G - Gᵀ R) / 2, and

    R <- R (I + a/2 W)⁻¹ (I - a/2 W)

is orthogonal for every step length a. The paper approximates the inverse by a fixed-point
iteration. Solving the system costs little compared with a pass over the model, and keeps R
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
        if matrix.grad is None:
            raise ValueError("descend: a matrix has no gradient; call backward() first")
        with torch.no_grad():
            skew = skew_part(matrix.double().mT @ matrix.grad.double())
            norm = torch.linalg.matrix_norm(skew, keepdim=True).clamp(min=1e-30)
            length = (1.0 / norm).clamp(max=learning_rate)
            matrix.copy_(matrix.double() @ cayley(-length * skew))
        matrix.grad = None


def skew_part(matrix: torch.Tensor) -> torch.Tensor:
    """The skew-symmetric part of (..., n, n)."""
    return (matrix - matrix.mT) / 2


def cayley(skew: torch.Tensor) -> torch.Tensor:
    """The Cayley transform of skew-symmetric matrices A (..., n, n), near I + A for small ones."""
    identity = torch.eye(skew.shape[-1], dtype=skew.dtype, device=skew.device)
    turned: torch.Tensor = torch.linalg.solve(identity - skew / 2, identity + skew / 2)
    return turned


def nearest_orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """The orthogonal matrices nearest to (..., n, n), by the polar decomposition."""
    left, _, right = torch.linalg.svd(matrix)
    nearest: torch.Tensor = left @ right
    return nearest
