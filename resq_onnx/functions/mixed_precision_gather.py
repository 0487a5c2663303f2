"""MixedPrecisionGather: dequantised rows of a table, for an embedding.

It reads the parts of a table as MixedPrecisionMatMul does, so that both can read the same bytes. A
4-bit part is passed as the bytes in which it is stored, since no runtime gathers rows of INT4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import onnx_ir as ir
from onnxscript import OpBuilder

from resq_onnx.functions._form import AttributeValue, Form, Parameter
from resq_onnx.recipe import BitSplit


@dataclass(frozen=True)
class GatherForm(Form):
    """A form of MixedPrecisionGather.

    Inputs: indices INT64 (...), below N · W_low INT8 (N, K_low), or for 4 bits UINT8
    (N, K_low / 2) of two's complement numbers, the even column in the low nibble ·
    S_low (N,) · W_high INT8 (N, K_high) · S_high (N,). A part of width 0 has neither W nor S.
    Output: Y (..., K).

    Attributes:
        split: Widths of both parts of K; a low part of 4 bits has an even width.
    """

    op_type: ClassVar[str] = "MixedPrecisionGather"

    split: BitSplit

    def __post_init__(self) -> None:
        if self.split.low_bits == 4 and self.split.low % 2:
            raise ValueError(
                f"MixedPrecisionGather: {self.split.low} columns of 4 bits do not fill whole bytes"
            )

    @property
    def overload(self) -> str:  # noqa: D102
        split = self.split
        return f"low{split.low}x{split.low_bits}_high{split.high}x{split.high_bits}"

    def inputs(self) -> tuple[Parameter, ...]:  # noqa: D102
        split, float32 = self.split, ir.DataType.FLOAT
        has_low, has_high = split.low > 0, split.high > 0
        low = ir.DataType.UINT8 if split.low_bits == 4 else ir.DataType.INT8
        return (
            Parameter("indices", ir.DataType.INT64),
            Parameter("W_low", low, has_low),
            Parameter("S_low", float32, has_low),
            Parameter("W_high", ir.DataType.INT8, has_high),
            Parameter("S_high", float32, has_high),
        )

    def outputs(self) -> tuple[Parameter, ...]:  # noqa: D102
        return (Parameter("Y", ir.DataType.FLOAT),)

    def attributes(self) -> dict[str, AttributeValue]:  # noqa: D102
        return {"low_bits": self.split.low_bits, "high_bits": self.split.high_bits}

    def body(self, op: OpBuilder, *inputs: ir.Value) -> Sequence[ir.Value]:
        """Gather the rows and their scales, and dequantise only these rows."""
        indices, low, low_scale, high, high_scale = inputs
        split = self.split
        flat = op.Reshape(indices, [-1])  # (n,)
        columns = []
        for weight, scale, width, bits in (
            (low, low_scale, split.low, split.low_bits),
            (high, high_scale, split.high, split.high_bits),
        ):
            if width == 0:
                continue
            rows, scales = op.Gather(weight, flat, axis=0), op.Gather(scale, flat, axis=0)
            if bits == 4:
                columns.append(op.Mul(_signed_nibbles(op, rows, width), op.Unsqueeze(scales, [1])))
            else:
                columns.append(op.DequantizeLinear(rows, scales, axis=0))  # (n, width)
        joined = op.Concat(*columns, axis=1) if len(columns) > 1 else columns[0]
        return [op.Reshape(joined, op.Concat(op.Shape(indices), [split.width], axis=0))]


def _signed_nibbles(op: OpBuilder, packed: ir.Value, width: int) -> Any:
    """The numbers -8 to 7 in bytes (n, width / 2), as whole floats (n, width)."""
    pairs = op.Cast(packed, to=ir.DataType.FLOAT)
    odd = op.Floor(op.Div(pairs, 16.0))
    even = op.Sub(pairs, op.Mul(odd, 16.0))
    both = op.Concat(op.Unsqueeze(even, [2]), op.Unsqueeze(odd, [2]), axis=2)  # 0 to 15
    negative = op.Floor(op.Div(both, 8.0))  # the sign bit
    return op.Reshape(op.Sub(both, op.Mul(negative, 16.0)), [-1, width])
