"""Quantised weight matrices: the result of both quantisers, which the exporter stores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resq_onnx.errors import ResqError
from resq_onnx.recipe import BitSplit


@dataclass(frozen=True)
class QuantisedMatrix:
    """Symmetric integers with one scale per output channel and part: w = scale * q.

    Attributes:
        low: (N, K_low), within the signed range of the low bits; K_low may be 0.
        low_scale: (N,), positive.
        high: (N, K_high), within the signed range of the high bits; K_high may be 0.
        high_scale: (N,), positive.
    """

    low: NDArray[np.int8]
    low_scale: NDArray[np.float32]
    high: NDArray[np.int8]
    high_scale: NDArray[np.float32]

    def dequantise(self) -> NDArray[np.float32]:
        """The dequantised matrix, (N, K)."""
        low = self.low * self.low_scale[:, None]
        return np.concatenate([low, self.high * self.high_scale[:, None]], axis=1)


def stacked(parts: Sequence[QuantisedMatrix]) -> QuantisedMatrix:
    """The rows of several matrices of one split, one below the other."""
    names = [field.name for field in fields(QuantisedMatrix)]
    return QuantisedMatrix(
        **{name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    )


def integer_range(bits: int) -> tuple[int, int]:
    """Smallest and largest signed integer of this width: (-8, 7) for 4 bits."""
    return -(1 << (bits - 1)), (1 << (bits - 1)) - 1


def check_weight(weight: NDArray[Any], split: BitSplit) -> None:
    """Refuse a weight that cannot be quantised.

    Raises:
        ResqError: It is not a matrix, not as wide as the split, or not finite.
    """
    if weight.ndim != 2 or weight.shape[1] != split.width:
        raise ResqError(
            f"a weight of shape {weight.shape} cannot be split into {split.low} + {split.high} "
            f"columns: it must be (outputs, {split.width})"
        )
    if not np.isfinite(weight).all():
        row = int(np.flatnonzero(~np.isfinite(weight).all(axis=1))[0])
        raise ResqError(f"row {row} of a weight has NaN or inf: check the model's files")
