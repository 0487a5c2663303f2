"""GPTQ: round column by column, and let later columns compensate for earlier errors.

Frantar et al., arXiv 2210.17323, in the form that Chee et al. prove equal to it (LDLQ, arXiv
2307.13304, theorem 6). With H = (I + A) D (I + A)ᵀ, A strictly upper triangular, an error
matrix E = W - Ŵ costs tr(E H Eᵀ) = Σ_j D_j |E_j + Σ_{i<j} E_i A_ij|². Rounding
w_j + Σ_{i<j} E_i A_ij in order of j minimises each term. GPTQ reaches the same integers
through the Cholesky factor of H⁻¹; this form needs no inverse.

The Hessian is reversed, so that the upper factor (I + A) D^½ is the lower one of an ordinary
Cholesky decomposition, which takes the place of the Hessian. Columns are rounded from the last to
the first, and their errors take the place of the columns. `descent` then improves them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from resq_onnx.errors import ResqError
from resq_onnx.projections.linalg import (
    cholesky,
    exact_products,
    float32_on,
    float64_on,
    is_finite,
    one_thread,
    restore,
    turn_both_sides,
)
from resq_onnx.recipe import BitSplit
from resq_onnx.weights.descent import SWEEPS, descend
from resq_onnx.weights.quantised import QuantisedMatrix, check_weight, integer_range
from resq_onnx.weights.scales import clip_search

Array = NDArray[Any]
ScaleFinder = Callable[[Array, int, Array], NDArray[np.float32]]

BLOCK: Final = 128
"""Columns whose feedback is computed one by one; feedback of earlier blocks is one product."""

ROWS_AT_A_TIME: Final = 256
"""Rows of the weight that are converted at a time."""

DAMPING: Final = (0.1, 0.3, 1.0)
"""Added to the Hessian's diagonal, relative to its mean; the next is tried if the
factorisation fails. The usual 0.01 fits the calibration text better, and other text worse
(docs/quality.md)."""


def gptq(
    weight: Array,
    hessian: Array | torch.Tensor,
    split: BitSplit,
    device: str = "cpu",
    *,
    overwrite_hessian: bool = False,
) -> QuantisedMatrix:
    """Quantise a weight so that its outputs change least on the calibration text.

    The low columns are rounded first, then the high ones, in more bits. Within each part the
    columns of largest activation come first.

    Args:
        weight: (N, K), its low columns first.
        hessian: (K, K), the second moment of the layer's input in the basis of the columns.
        split: Low and high columns.
        device: Where PyTorch computes.
        overwrite_hessian: Whether a float64 Hessian on this device may be used as working memory,
            so that no copy of it is made.

    Raises:
        ResqError: The weight is not (N, split.width) or not finite; the Hessian has another
            size, is not finite, or is far from positive semidefinite.
    """
    check_weight(weight, split)
    if tuple(hessian.shape) != (split.width, split.width):
        raise ResqError(
            f"a Hessian of shape {tuple(hessian.shape)} does not fit a weight of {split.width} "
            "columns"
        )
    matrix = float64_on(device, hessian, own=not overwrite_hessian)
    if not is_finite(matrix):
        raise ResqError(
            "a Hessian is not finite: the model computed inf or NaN on the calibration text; "
            "check its weights"
        )
    parts = ((split.low, split.low_bits), (split.high, split.high_bits))

    def find_scales(columns: Array, bits: int, importance: Array) -> NDArray[np.float32]:
        return clip_search(columns, bits, importance, device)

    (low, low_scale), (high, high_scale) = gptq_in_parts(weight, matrix, parts, find_scales)
    return QuantisedMatrix(low=low, low_scale=low_scale, high=high, high_scale=high_scale)


def gptq_in_parts(
    weight: Array,
    hessian: torch.Tensor,
    parts: Sequence[tuple[int, int]],
    find_scales: ScaleFinder = clip_search,
    sweeps: int = SWEEPS,
    dampings: Sequence[float] = DAMPING,
) -> list[tuple[NDArray[np.int8], NDArray[np.float32]]]:
    """Round a weight (N, K) whose columns have several bit widths, part after part.

    Args:
        weight: The columns of the parts, in order.
        hessian: (K, K), float64; overwritten. PyTorch computes on its device.
        parts: (columns, bits) of each part; a part may have no columns.
        find_scales: Returns the scale of each row from a part's columns, bits and importance.
        sweeps: Of coordinate descent; 0 gives GPTQ's own integers.
        dampings: As `DAMPING`.

    Returns:
        For each part the integers (N, columns) and the scales (N,).

    Raises:
        ResqError: The Hessian is too far from positive semidefinite.
    """
    device, ends = str(hessian.device), np.cumsum([columns for columns, _ in parts])
    order = _processing_order(hessian.diagonal().cpu().numpy(), ends)[::-1].copy()
    places = torch.from_numpy(order).to(device)
    turn_both_sides(hessian, lambda rows: rows[:, places])
    damped = factorise(hessian, dampings)
    importance = np.empty(len(order))
    importance[order] = hessian.diagonal().square().cpu().numpy()
    slices = [slice(end - count, end) for end, (count, _) in zip(ends, parts, strict=True)]
    scales = [
        find_scales(weight[:, some], bits, importance[some])
        for some, (_, bits) in zip(slices, parts, strict=True)
    ]
    of_columns = [
        (torch.from_numpy(scale).to(device), bits)
        for scale, (count, bits) in reversed(list(zip(scales, parts, strict=True)))
        for _ in range(count)
    ]
    columns = _columns(weight, places)
    with exact_products():
        rounded = _round_with_feedback(columns, hessian, of_columns)
        restore(hessian)
        hessian.diagonal().copy_(damped)
        descend(rounded, columns, hessian, of_columns, sweeps)
    inverse = places.argsort()
    return [
        (rounded[inverse[some]].T.contiguous().cpu().numpy(), scale)
        for some, scale in zip(slices, scales, strict=True)
    ]


def factorise(hessian: torch.Tensor, dampings: Sequence[float] = DAMPING) -> torch.Tensor:
    """Replace the lower triangle of H (K, K) by L of the damped H = L Lᵀ, in place.

    Returns:
        The diagonal of the damped H, (K,).

    Raises:
        ResqError: The Hessian is too far from positive semidefinite.
    """
    diagonal = hessian.diagonal().clone()
    mean = float(diagonal.mean())
    if mean <= 0:  # all inputs of the layer were zero: no rounding is better than the nearest
        hessian.zero_().fill_diagonal_(1.0)
        return torch.ones_like(diagonal)
    for damping in dampings:
        damped = diagonal + damping * mean
        hessian.diagonal().copy_(damped)
        if cholesky(hessian):
            return damped
        restore(hessian)
    raise ResqError(
        "a Hessian is not positive semidefinite even with its diagonal doubled: the second "
        "moments are damaged; calibrate again"
    )


def _columns(weight: Array, places: torch.Tensor) -> torch.Tensor:
    """A weight (N, K) as (K, N) float32: a column, one after another in order, is contiguous."""
    columns = torch.empty((len(places), len(weight)), device=places.device)
    for start in range(0, len(weight), ROWS_AT_A_TIME):
        rows = slice(start, start + ROWS_AT_A_TIME)
        columns[:, rows] = float32_on(str(places.device), weight[rows])[:, places].mT
    return columns


def _round_with_feedback(
    columns: torch.Tensor, factor: torch.Tensor, parts: list[tuple[torch.Tensor, int]]
) -> torch.Tensor:
    """Integers (K, N) of columns (K, N), each with the (scales (N,), bits) of its part.

    Columns that are rounded first come last. L (K, K) is the lower triangle of `factor`; the
    feedback from column i to j is L_ij / L_jj. The columns are overwritten by their errors.
    """
    rounded = torch.empty_like(columns, dtype=torch.int8)
    pivots = factor.diagonal()
    for end in range(len(columns), 0, -BLOCK):
        start = max(end - BLOCK, 0)
        feedback = (factor[start:, start:end] / pivots[start:end]).mT.float()  # to column, from
        targets = columns[start:end] + feedback[:, end - start :] @ columns[end:]
        errors, integers = columns[start:end], rounded[start:end]
        # An operation on one column takes microseconds, and picking that column another one.
        each = zip(
            parts[start:end],
            targets.unbind(),
            feedback[:, : end - start].contiguous().unbind(),
            errors.unbind(),
            integers.unbind(),
            strict=True,
        )
        with one_thread():
            for j, ((scale, bits), target, within, error, found) in reversed([*enumerate(each, 1)]):
                target.addmv_(errors[j:].mT, within[j:])
                found.copy_(target.div_(scale).round_().clamp_(*integer_range(bits)))
                error.sub_(target.mul_(scale))
    return rounded


def _processing_order(energies: Array, ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """Columns of each part by descending energy: those rounded early are corrected most."""
    starts = [0, *ends[:-1]]
    return np.concatenate(
        [
            start + np.argsort(-energies[start:end], kind="stable")
            for start, end in zip(starts, ends, strict=True)
        ]
    )
