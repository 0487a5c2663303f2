"""MixedPrecisionMatMul: y = (RMS-normalise?) x · Wᵀ + bias + residual.

X is quantised per token, its low part to `low_bits` and its high part to `high_bits`, and
multiplied by weights that are already integers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import onnx_ir as ir
from onnxscript import OpBuilder

from resq_onnx.functions._form import AttributeValue, Form, Parameter, attribute_value
from resq_onnx.functions._scale import range_of_rows, scale_of_range, zero_point
from resq_onnx.recipe import BitSplit

SIGNED = {4: ir.DataType.INT4, 8: ir.DataType.INT8}
UNSIGNED = {4: ir.DataType.UINT4, 8: ir.DataType.UINT8}


@dataclass(frozen=True)
class MatMulForm(Form):
    """A form of MixedPrecisionMatMul.

    Inputs: X (..., K) · W_low (N, K_low) · S_low (N,) · W_high (N, K_high) · S_high (N,) ·
    bias (N,)? · residual (..., N)?. A part of width 0 has neither W nor S.
    Output: Y (..., N). Attribute set by each node: `norm_epsilon`, if `norm`.

    Attributes:
        split: Widths of both parts of K, summed over all groups.
        groups: Number of groups that are quantised separately. Columns of X are [low | high] in
            each group; columns of W_low and W_high are those of all groups in order.
        norm: Whether X is divided by its root mean square.
        bias: Whether there is a bias.
        residual: Whether there is a residual.
        low_clip: Share of an activation's range, above 0, that the integers of the low part
            span; values outside are clipped to it.
    """

    op_type: ClassVar[str] = "MixedPrecisionMatMul"

    split: BitSplit
    groups: int = 1
    norm: bool = False
    bias: bool = False
    residual: bool = False
    low_clip: float = 1.0

    def __post_init__(self) -> None:
        if self.split.low % self.groups or self.split.high % self.groups or not self.split.width:
            raise ValueError(
                f"MixedPrecisionMatMul: parts of {self.split.low} and {self.split.high} columns "
                f"do not divide into {self.groups} groups"
            )
        if self.norm and self.groups > 1:
            raise ValueError("MixedPrecisionMatMul: a norm runs over all columns, not over groups")
        if not 0.0 < self.low_clip <= 1.0:
            raise ValueError(
                f"MixedPrecisionMatMul: low_clip is {self.low_clip}; it must be above 0 and at "
                "most 1"
            )

    @property
    def overload(self) -> str:  # noqa: D102
        split = self.split
        name = f"low{split.low}x{split.low_bits}_high{split.high}x{split.high_bits}"
        name += f"_groups{self.groups}" if self.groups > 1 else ""
        name += f"_clip{self.low_clip:g}" if self.low_clip < 1.0 else ""
        options = {"norm": self.norm, "bias": self.bias, "residual": self.residual}
        return "_".join([name, *(option for option, chosen in options.items() if chosen)])

    def inputs(self) -> tuple[Parameter, ...]:  # noqa: D102
        split, float32 = self.split, ir.DataType.FLOAT
        has_low, has_high = split.low > 0, split.high > 0
        return (
            Parameter("X", float32),
            Parameter("W_low", SIGNED[split.low_bits], has_low),
            Parameter("S_low", float32, has_low),
            Parameter("W_high", SIGNED[split.high_bits], has_high),
            Parameter("S_high", float32, has_high),
            Parameter("bias", float32, self.bias),
            Parameter("residual", float32, self.residual),
        )

    def outputs(self) -> tuple[Parameter, ...]:  # noqa: D102
        return (Parameter("Y", ir.DataType.FLOAT),)

    def attributes(self) -> dict[str, AttributeValue]:  # noqa: D102
        return {
            "num_groups": self.groups,
            "low_bits": self.split.low_bits,
            "high_bits": self.split.high_bits,
            "low_clip": self.low_clip,
        }

    def free_attributes(self) -> dict[str, float | None]:  # noqa: D102
        return {"norm_epsilon": None} if self.norm else {}

    def body(self, op: OpBuilder, *inputs: ir.Value) -> Sequence[ir.Value]:
        """Quantise and dequantise both parts of both operands, then multiply once.

        With one product per part, ONNX Runtime would fuse the 8-bit one into an integer product
        that rejects a scale per token, and the session would fail when run.
        """
        x, low_weight, low_scale, high_weight, high_scale, bias, residual = inputs
        split, groups = self.split, self.groups
        rows = op.Reshape(x, [-1, split.width // groups])  # (tokens * groups, low + high)
        inverse_rms = _inverse_rms(op, rows) if self.norm else None
        columns = _split_columns(op, rows, split.low // groups, split.high // groups)
        parts = [
            (columns[0], split.low, split.low_bits, self.low_clip, low_weight, low_scale),
            (columns[1], split.high, split.high_bits, 1.0, high_weight, high_scale),
        ]
        activations, weights = [], []
        for part, width, bits, clip, weight, scale in parts:
            if width == 0:
                continue
            read = _quantised(op, part, width // groups, bits, clip, inverse_rms)
            activations.append(op.Reshape(read, [-1, width]) if groups > 1 else read)
            weights.append(op.DequantizeLinear(weight, scale, axis=0))  # (N, width)
        operands = [_concat_columns(op, activations), _concat_columns(op, weights)]
        if self.bias:
            operands.append(bias)
        product = op.Gemm(*operands, transB=1)  # (tokens, N)
        scale = high_scale if split.high else low_scale
        shape = op.Concat(op.Shape(x, end=-1), op.Shape(scale), axis=0)
        y = op.Reshape(product, shape)
        return [op.Add(y, residual) if self.residual else y]


def _split_columns(op: OpBuilder, rows: ir.Value, low: int, high: int) -> tuple[Any, Any]:
    """Both parts of (rows, low + high); an empty part is None."""
    if not low:
        return None, rows
    if not high:
        return rows, None
    first, last = op.Split(rows, [low, high], axis=1, _outputs=2)
    return first, last


def _concat_columns(op: OpBuilder, parts: Sequence[ir.Value]) -> Any:
    return op.Concat(*parts, axis=1) if len(parts) > 1 else parts[0]


def _inverse_rms(op: OpBuilder, rows: ir.Value) -> Any:
    """1 / sqrt(mean(x²) + epsilon) of (rows, width): (rows, 1)."""
    mean_square = op.ReduceMean(op.Mul(rows, rows), [-1], keepdims=1)
    return op.Reciprocal(op.Sqrt(op.Add(mean_square, attribute_value(op, "norm_epsilon"))))


def _quantised(
    op: OpBuilder, rows: Any, width: int, bits: int, clip: float, inverse_rms: Any | None
) -> Any:
    """Quantise and dequantise (rows, width), and multiply by the inverse RMS if there is one.

    A norm does not change the integers, only the scale with which they are dequantised.
    """
    least, greatest = range_of_rows(op, rows)
    if clip < 1.0:
        least, greatest = op.Mul(least, clip), op.Mul(greatest, clip)
    scale = scale_of_range(op, least, greatest, bits)  # (rows, 1)
    zero = op.Cast(zero_point(op, least, scale), to=UNSIGNED[bits])
    # One block as wide as the part gives one scale per row without reshaping 4-bit tensors,
    # which ONNX Runtime does not support.
    integers = op.QuantizeLinear(rows, scale, zero, axis=1, block_size=width)
    read_scale = scale if inverse_rms is None else op.Mul(scale, inverse_rms)
    return op.DequantizeLinear(integers, read_scale, zero, axis=1, block_size=width)
