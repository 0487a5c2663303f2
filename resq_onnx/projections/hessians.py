"""GPTQ's Hessians: second moments in the bases of the quantised columns, in place, on any device.

Each function takes M (n, n) in float64, replaces it by Uᵀ M U, and returns it.
"""

from __future__ import annotations

import numpy as np
import torch

from resq_onnx.projections.bases import Projections, high_last_order
from resq_onnx.projections.hadamard import KroneckerFactors
from resq_onnx.projections.linalg import float64_on, turn_both_sides


def hidden_hessian(bases: Projections, moment: torch.Tensor) -> torch.Tensor:
    """A HIDDEN moment, (D, D), by U_A."""
    basis = float64_on(moment.device, bases.hidden, own=False)
    return turn_both_sides(moment, lambda rows: rows @ basis)


def attention_out_hessian(bases: Projections, layer: int, moment: torch.Tensor) -> torch.Tensor:
    """The ATTENTION OUT moment, (H*d, H*d), by U_B, in the order of o_proj's quantised columns."""
    kv_heads, head_dim = bases.value.shape[1:3]
    heads = len(moment) // head_dim
    of_query_head = np.repeat(bases.value[layer], heads // kv_heads, axis=0)
    turns = float64_on(moment.device, of_query_head)  # (H, d, d)
    order = torch.from_numpy(high_last_order(heads, bases.splits.attention_out[layer]))
    order = order.to(moment.device)

    def turn(rows: torch.Tensor) -> torch.Tensor:
        by_head = rows.unflatten(1, (heads, head_dim)).transpose(0, 1)
        turned: torch.Tensor = (by_head @ turns).transpose(0, 1).flatten(1)
        return turned[:, order]

    return turn_both_sides(moment, turn)


def down_hessian(bases: Projections, layer: int, moment: torch.Tensor) -> torch.Tensor:
    """The DOWN moment, (I, I), by U_D."""
    transform, split = bases.down[layer], bases.splits.down[layer]
    order = torch.tensor(transform.order, device=moment.device)
    signs = float64_on(moment.device, transform.signs)
    widths = [width for width in (split.low, split.high) if width]
    factors = [bases.down_low[split.low]] if split.low else []
    factors += [bases.down_high[split.high]] if split.high else []
    turns = [_factors_on(moment.device, one) for one in factors]

    def turn(rows: torch.Tensor) -> torch.Tensor:
        moved = rows[:, order] * signs
        if not bases.rotates_down:
            return moved
        parts = zip(moved.split(widths, dim=1), turns, strict=True)
        return torch.cat([_kronecker(part, *pair) for part, pair in parts], dim=1)

    return turn_both_sides(moment, turn)


def _factors_on(
    device: torch.device, factors: KroneckerFactors
) -> tuple[torch.Tensor, torch.Tensor]:
    return float64_on(device, factors.outer), float64_on(device, factors.inner)


def _kronecker(rows: torch.Tensor, outer: torch.Tensor, inner: torch.Tensor) -> torch.Tensor:
    """Compute rows @ kron(outer, inner): outerᵀ X inner of each row as a matrix X (m, 2^p)."""
    mixed: torch.Tensor = rows.unflatten(1, (len(outer), len(inner))) @ inner
    return (mixed.mT @ outer).mT.flatten(1)
