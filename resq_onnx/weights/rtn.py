"""Round to nearest: the quantiser that uses only the weight, not a Hessian."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from resq_onnx.recipe import BitSplit
from resq_onnx.weights.quantised import QuantisedMatrix, check_weight, integer_range
from resq_onnx.weights.scales import clip_search


def round_to_nearest(weight: NDArray[Any], split: BitSplit) -> QuantisedMatrix:
    """Quantise a weight (N, K), its low columns first, each part with its own scales.

    Raises:
        ResqError: The weight is not (N, split.width) or not finite.
    """
    check_weight(weight, split)
    low, high = weight[:, : split.low], weight[:, split.low :]
    low_scale = clip_search(low, split.low_bits)
    high_scale = clip_search(high, split.high_bits)
    return QuantisedMatrix(
        low=nearest(low, low_scale, split.low_bits),
        low_scale=low_scale,
        high=nearest(high, high_scale, split.high_bits),
        high_scale=high_scale,
    )


__all__ = ["QuantisedMatrix", "nearest", "round_to_nearest"]


def nearest(weight: NDArray[Any], scale: NDArray[np.float32], bits: int) -> NDArray[np.int8]:
    """The integers nearest to weight / scale, rows (N, K) by scales (N,), clipped."""
    smallest, largest = integer_range(bits)
    return np.clip(np.rint(weight / scale[:, None]), smallest, largest).astype(np.int8)
