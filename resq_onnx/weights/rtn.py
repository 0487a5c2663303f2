"""Round to nearest: the quantiser that uses only the weight, not a Hessian."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from resq_onnx.recipe import BitSplit
from resq_onnx.weights.quantised import QuantisedMatrix, check_weight, integer_range
from resq_onnx.weights.scales import clip_search

ELEMENTS_AT_A_TIME: Final = 1 << 20


def round_to_nearest(weight: NDArray[Any], split: BitSplit, device: str = "cpu") -> QuantisedMatrix:
    """Quantise a weight (N, K), its low columns first, each part with its own scales.

    PyTorch searches the scales on the device.

    Raises:
        ResqError: The weight is not (N, split.width) or not finite.
    """
    check_weight(weight, split)
    low, high = weight[:, : split.low], weight[:, split.low :]
    low_scale = clip_search(low, split.low_bits, device=device)
    high_scale = clip_search(high, split.high_bits, device=device)
    return QuantisedMatrix(
        low=nearest(low, low_scale, split.low_bits),
        low_scale=low_scale,
        high=nearest(high, high_scale, split.high_bits),
        high_scale=high_scale,
    )


__all__ = ["QuantisedMatrix", "nearest", "round_to_nearest"]


def nearest(weight: NDArray[Any], scale: NDArray[np.float32], bits: int) -> NDArray[np.int8]:
    """The integers nearest to weight / scale, rows (N, K) by scales (N,), clipped.

    Some rows at a time: of a table of 262,144 rows each copy in float64 takes more than a gigabyte.
    """
    smallest, largest = integer_range(bits)
    rounded = np.empty(weight.shape, np.int8)
    step = max(1, ELEMENTS_AT_A_TIME // max(weight.shape[1], 1))
    for start in range(0, len(weight), step):
        rows = slice(start, start + step)
        rounded[rows] = np.clip(np.rint(weight[rows] / scale[rows, None]), smallest, largest)
    return rounded
