"""Scale and zero point of an asymmetric quantiser, for activations and for the cache."""

from __future__ import annotations

from typing import Any, Final

import onnx_ir as ir
from onnxscript import OpBuilder

SMALLEST_SCALE: Final = 2.0**-126
"""Smallest normal float32: replaces the scale 0 of a row of zeros, which stays zeros."""


def levels(bits: int) -> float:
    """The largest unsigned integer of this width."""
    return float(2**bits - 1)


def range_of_rows(op: OpBuilder, rows: ir.Value) -> tuple[Any, Any]:
    """Smallest and largest value of each row, widened to include 0.

    Args:
        op: Records the nodes.
        rows: (..., width), width at least 1.

    Returns:
        Two values (..., 1): the first at most 0, the second at least 0.
    """
    least = op.Min(op.ReduceMin(rows, [-1], keepdims=1), 0.0)
    greatest = op.Max(op.ReduceMax(rows, [-1], keepdims=1), 0.0)
    return least, greatest


def scale_of_range(op: OpBuilder, least: ir.Value, greatest: ir.Value, bits: int) -> Any:
    """The scale s = (max - min) / levels, at least `SMALLEST_SCALE`; shapes as given."""
    return op.Max(op.Div(op.Sub(greatest, least), levels(bits)), SMALLEST_SCALE)


def zero_point(op: OpBuilder, least: ir.Value, scale: ir.Value) -> Any:
    """The zero point z = round(-min / s), a whole float32 in [0, levels]; shapes as given."""
    return op.Round(op.Div(op.Neg(least), scale))
