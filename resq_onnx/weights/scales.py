"""Clip search for the scale of each output channel."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from resq_onnx.weights.quantised import integer_range

SHRINK_FACTORS: Final = {
    2: np.linspace(1.0, 0.4, 16),
    4: np.linspace(1.0, 0.4, 16),
    8: np.linspace(1.0, 0.85, 4),
}
"""Shares of the largest magnitude to clip at that are tried, by number of bits.

With 255 levels clipping hardly ever pays off, so few factors are tried.
"""

ELEMENTS_PER_CHUNK: Final = 1 << 15
"""Rows are searched a few at a time, so that the work arrays (128 kB each) stay in cache."""


def clip_search(
    weight: NDArray[Any], bits: int, importance: NDArray[Any] | None = None
) -> NDArray[np.float32]:
    """The scale per row that minimises the error when the row is rounded to nearest.

    Minimises sum_j importance_j (w_j - s q_j)² over a grid of scales, then once more over s
    for the integers found, which has a closed form: s = Σ c w q / Σ c q².

    Args:
        weight: (N, K); K may be 0.
        bits: 2, 4 or 8.
        importance: (K,), not negative; None weights all columns equally.

    Returns:
        (N,), positive; 1 for a row of zeros.
    """
    rows, columns = weight.shape
    scales = np.ones(rows, np.float32)
    if columns == 0:
        return scales
    weighing = np.ones(columns, np.float32)
    if importance is not None and importance.max() > 0:
        weighing = (importance / importance.max()).astype(np.float32)
    step = max(1, ELEMENTS_PER_CHUNK // columns)
    for start in range(0, rows, step):
        part = slice(start, start + step)
        scales[part] = _search_rows(weight[part].astype(np.float32), bits, weighing)
    return scales


def _search_rows(
    weight: NDArray[np.float32], bits: int, importance: NDArray[np.float32]
) -> NDArray[np.float32]:
    """`clip_search` for a few rows, (n, K) -> (n,)."""
    smallest, largest = integer_range(bits)
    widest = np.abs(weight).max(axis=1) / np.float32(largest)
    # A row of zeros, or one so small that its scale underflows, is exact with any scale.
    widest = np.where(widest < np.finfo(np.float32).tiny, np.float32(1.0), widest)
    unit = weight / widest[:, None]  # in steps of the widest scale: no square can overflow
    best = np.ones_like(widest)
    most_explained = np.full_like(widest, -np.inf)
    for factor in SHRINK_FACTORS[bits].astype(np.float32):
        q = unit * (np.float32(1.0) / factor)
        np.rint(q, out=q)
        np.clip(q, smallest, largest, out=q)
        weighed = q * importance
        # For fixed q, Σ c (w - s q)² has its minimum Σ c w² - a²/b at s = a/b.
        a = np.einsum("ij,ij->i", weighed, unit)
        b = np.einsum("ij,ij->i", weighed, q)
        fitted = np.divide(a, b, out=np.full_like(a, factor), where=b > 0)
        explained = fitted * a
        better = explained > most_explained
        best = np.where(better, fitted, best)
        most_explained = np.where(better, explained, most_explained)
    return np.asarray(widest * best, np.float32)
