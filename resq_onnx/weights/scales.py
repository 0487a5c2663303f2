"""Clip search for the scale of each output channel."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from resq_onnx.projections.linalg import float32_on, one_thread
from resq_onnx.weights.quantised import integer_range

SHRINK_FACTORS: Final = {
    2: np.linspace(1.0, 0.4, 16, dtype=np.float32),
    4: np.linspace(1.0, 0.4, 16, dtype=np.float32),
    8: np.linspace(1.0, 0.85, 4, dtype=np.float32),
}
"""Shares of the largest magnitude to clip at that are tried, by number of bits.

With 255 levels clipping hardly ever pays off, so few factors are tried.
"""

ELEMENTS_PER_CHUNK: Final = {"cpu": 1 << 16, "cuda": 1 << 24}
"""Rows are searched a few at a time: on a CPU, so that the work arrays (256 kB each) stay in cache;
on a GPU, so that they take 64 MB each."""


def clip_search(
    weight: NDArray[Any],
    bits: int,
    importance: NDArray[Any] | None = None,
    device: str = "cpu",
) -> NDArray[np.float32]:
    """The scale per row that minimises the error when the row is rounded to nearest.

    Minimises sum_j importance_j (w_j - s q_j)² over a grid of scales, then once more over s
    for the integers found, which has a closed form: s = Σ c w q / Σ c q².

    Args:
        weight: (N, K); K may be 0.
        bits: 2, 4 or 8.
        importance: (K,), not negative; None weights all columns equally.
        device: Where PyTorch computes.

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
    on_device = float32_on(device, weighing)
    step = max(1, ELEMENTS_PER_CHUNK[on_device.device.type] // columns)
    with one_thread():
        for start in range(0, rows, step):
            part = slice(start, start + step)
            found = _search_rows(float32_on(device, weight[part]), bits, on_device)
            scales[part] = found.cpu().numpy()
    return scales


def _search_rows(weight: torch.Tensor, bits: int, importance: torch.Tensor) -> torch.Tensor:
    """`clip_search` for a few rows, (n, K) -> (n,), float32."""
    smallest, largest = integer_range(bits)
    widest = weight.abs().amax(dim=1) / largest
    # A row of zeros, or one so small that its scale underflows, is exact with any scale.
    widest = torch.where(widest < torch.finfo(torch.float32).tiny, 1.0, widest)
    unit = weight / widest[:, None]  # in steps of the widest scale: no square can overflow
    best = torch.ones_like(widest)
    most_explained = torch.full_like(widest, -torch.inf)
    weighed_unit = unit * importance
    q, product = torch.empty_like(unit), torch.empty_like(unit)
    for factor in SHRINK_FACTORS[bits]:
        torch.mul(unit, float(np.float32(1.0) / factor), out=q)
        q.round_().clamp_(smallest, largest)
        # For fixed q, Σ c (w - s q)² has its minimum Σ c w² - a²/b at s = a/b.
        a = torch.mul(weighed_unit, q, out=product).sum(dim=1)
        b = torch.mul(q, q, out=product).mul_(importance).sum(dim=1)
        fitted = torch.where(b > 0, a / b, float(factor))
        explained = fitted * a
        better = explained > most_explained
        best = torch.where(better, fitted, best)
        most_explained = torch.where(better, explained, most_explained)
    return widest * best
