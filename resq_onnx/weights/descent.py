"""Coordinate descent on GPTQ's loss: each column once more, with all others as they are by now.

GPTQ rounds a column when later ones are still exact. Afterwards every column can be chosen again:
for errors E = W - Ŵ that cost tr(E H Eᵀ), the best value of column j, its own error included, is
ŵ_j + (E H)_j / H_jj, rounded. No step makes the loss larger. Behdin et al., "QuantEase" (arXiv
2309.01885), quantise by such steps alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch

from resq_onnx.projections.linalg import one_thread
from resq_onnx.weights.quantised import integer_range

SWEEPS: Final = 3
"""Over all columns: each one more lowers the loss less (docs/quality.md)."""

BLOCK: Final = 128
"""Columns whose gradients are computed together."""


def descend(
    rounded: torch.Tensor,
    errors: torch.Tensor,
    hessian: torch.Tensor,
    parts: Sequence[tuple[torch.Tensor, int]],
    sweeps: int = SWEEPS,
) -> None:
    """Improve integers (K, N), in place.

    Args:
        rounded: The integers, a column of the weight (K, N) in each row.
        errors: W - Ŵ (K, N), float32; changed with the integers.
        hessian: H (K, K), symmetric, its diagonal positive.
        parts: The scales (N,) and bits of each column.
        sweeps: How often each column is chosen again.
    """
    for start in [*range(0, len(rounded), BLOCK)] * sweeps:
        some = slice(start, start + BLOCK)
        rows = hessian[some].float()
        gradients, within = rows @ errors, rows[:, some].contiguous()
        with one_thread():
            _choose_again(rounded[some], errors[some], gradients, within, parts[some])


def _choose_again(
    rounded: torch.Tensor,
    errors: torch.Tensor,
    gradients: torch.Tensor,
    within: torch.Tensor,
    parts: Sequence[tuple[torch.Tensor, int]],
) -> None:
    """One sweep over a block of k columns: integers, errors and H E (k, N), and their H (k, k)."""
    changes = torch.zeros_like(errors)
    each = zip(parts, rounded, errors, gradients, within, changes, strict=True)
    for j, ((scale, bits), integers, error, target, weights, change) in enumerate(each):
        target.addmv_(changes[:j].mT, weights[:j], alpha=-1).div_(weights[j])
        before = integers.float()
        target.div_(scale).add_(before).round_().clamp_(*integer_range(bits))
        torch.sub(target, before, out=change)
        change.mul_(scale)
        error.sub_(change)
        integers.copy_(target)
