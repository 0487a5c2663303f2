"""GPTQ: round column by column, and let later columns compensate for earlier errors.

Frantar et al., arXiv 2210.17323, in the form that Chee et al. prove equal to it (LDLQ, arXiv
2307.13304, theorem 6). With H = (I + A) D (I + A)ᵀ, A strictly upper triangular, an error
matrix E = W - Ŵ costs tr(E H Eᵀ) = Σ_j D_j |E_j + Σ_{i<j} E_i A_ij|². Rounding
w_j + Σ_{i<j} E_i A_ij in order of j minimises each term. GPTQ reaches the same integers
through the Cholesky factor of H⁻¹; this form needs no inverse.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from resq_onnx.errors import ResqError
from resq_onnx.recipe import BitSplit
from resq_onnx.weights.quantised import QuantisedMatrix, check_weight, integer_range
from resq_onnx.weights.scales import clip_search

ScaleFinder = Callable[[NDArray[Any], int, NDArray[Any]], NDArray[np.float32]]

BLOCK: Final = 128
"""Columns whose feedback is computed one by one; feedback of earlier blocks is one product."""

DAMPING: Final = (0.01, 0.1, 1.0)
"""Added to the Hessian's diagonal, relative to its mean; the next is tried if the
factorisation fails."""


def gptq(weight: NDArray[Any], hessian: NDArray[Any], split: BitSplit) -> QuantisedMatrix:
    """Quantise a weight so that its outputs change least on the calibration text.

    The low columns are rounded first, then the high ones, in more bits. Within each part the
    columns of largest activation come first.

    Args:
        weight: (N, K), its low columns first.
        hessian: (K, K), the second moment of the layer's input in the basis of the columns.
        split: Low and high columns.

    Raises:
        ResqError: The weight is not (N, split.width) or not finite; the Hessian has another
            size, is not finite, or is far from positive semidefinite.
    """
    check_weight(weight, split)
    _check_hessian(hessian, split)
    parts = ((split.low, split.low_bits), (split.high, split.high_bits))
    (low, low_scale), (high, high_scale) = gptq_in_parts(weight, hessian, parts)
    return QuantisedMatrix(low=low, low_scale=low_scale, high=high, high_scale=high_scale)


def gptq_in_parts(
    weight: NDArray[Any],
    hessian: NDArray[Any],
    parts: Sequence[tuple[int, int]],
    find_scales: ScaleFinder = clip_search,
) -> list[tuple[NDArray[np.int8], NDArray[np.float32]]]:
    """Round a weight (N, K) whose columns have several bit widths, part after part.

    Args:
        weight: The columns of the parts, in order.
        hessian: (K, K).
        parts: (columns, bits) of each part; a part may have no columns.
        find_scales: Returns the scale of each row from a part's columns, bits and importance.

    Returns:
        For each part the integers (N, columns) and the scales (N,).
    """
    ends = np.cumsum([columns for columns, _ in parts])
    places = _processing_order(np.diagonal(hessian), ends)
    feedback, importance = feedback_factors(hessian[np.ix_(places, places)])
    columns = weight.T[places].astype(np.float32)  # (K, N): a column is contiguous
    slices = [slice(end - count, end) for end, (count, _) in zip(ends, parts, strict=True)]
    scales = [
        find_scales(columns[some].T, bits, importance[some])
        for some, (_, bits) in zip(slices, parts, strict=True)
    ]
    of_columns = [
        (scale, bits)
        for scale, (count, bits) in zip(scales, parts, strict=True)
        for _ in range(count)
    ]
    rounded = np.empty((len(places), weight.shape[0]), np.int8)
    rounded[places] = _round_with_feedback(columns, feedback, of_columns)
    return [
        (np.ascontiguousarray(rounded[some].T), scale)
        for some, scale in zip(slices, scales, strict=True)
    ]


def feedback_factors(hessian: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """A with a unit diagonal and D of the damped H = (I + A) D (I + A)ᵀ, (K, K) and (K,).

    Raises:
        ResqError: The Hessian is too far from positive semidefinite.
    """
    matrix = np.array(hessian, dtype=np.float64)
    mean = float(np.diagonal(matrix).mean())
    if mean <= 0:  # all inputs of the layer were zero: no rounding is better than the nearest
        return np.eye(len(matrix), dtype=np.float32), np.ones(len(matrix))
    added = 0.0
    for damping in DAMPING:
        matrix[np.diag_indices_from(matrix)] += (damping - added) * mean
        added = damping
        try:
            # Reversing rows and columns turns the lower factor into the upper one.
            upper = np.linalg.cholesky(matrix[::-1, ::-1])[::-1, ::-1]
        except np.linalg.LinAlgError:
            continue
        diagonal = np.diagonal(upper)
        return (upper / diagonal).astype(np.float32), diagonal**2
    raise ResqError(
        "a Hessian is not positive semidefinite even with its diagonal doubled: the second "
        "moments are damaged; calibrate again"
    )


def _round_with_feedback(
    columns: NDArray[np.float32],
    feedback: NDArray[np.float32],
    parts: list[tuple[NDArray[np.float32], int]],
) -> NDArray[np.int8]:
    """Integers (K, N) of columns (K, N), each with the (scales (N,), bits) of its part."""
    rounded = np.empty(columns.shape, np.int8)
    errors = np.empty_like(columns)
    for start in range(0, len(columns), BLOCK):
        end = min(start + BLOCK, len(columns))
        targets = columns[start:end] + feedback[:start, start:end].T @ errors[:start]
        for j in range(start, end):
            scale, bits = parts[j]
            target = targets[j - start] + feedback[start:j, j] @ errors[start:j]
            q = np.clip(np.rint(target / scale), *integer_range(bits))
            rounded[j] = q
            errors[j] = columns[j] - q * scale
    return rounded


def _processing_order(energies: NDArray[Any], ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """Columns of each part by descending energy: those rounded early are corrected most."""
    starts = [0, *ends[:-1]]
    return np.concatenate(
        [
            start + np.argsort(-energies[start:end], kind="stable")
            for start, end in zip(starts, ends, strict=True)
        ]
    )


def _check_hessian(hessian: NDArray[Any], split: BitSplit) -> None:
    if hessian.shape != (split.width, split.width):
        raise ResqError(
            f"a Hessian of shape {hessian.shape} does not fit a weight of {split.width} columns"
        )
    if not np.isfinite(hessian).all():
        raise ResqError(
            "a Hessian is not finite: the model computed inf or NaN on the calibration text; "
            "check its weights"
        )
