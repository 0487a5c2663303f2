"""GatedHadamard: y = (act(gate) * up) · blockdiag(low, high), the input of down_proj."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import onnx_ir as ir
from onnxscript import OpBuilder

from resq_onnx.functions._form import AttributeValue, Form, Parameter
from resq_onnx.recipe import BitSplit

CUBIC: Final = 0.044715
SLOPE: Final = 1.5957691216057308  # 2 sqrt(2/pi)
"""GELU approximated by tanh (Hendrycks and Gimpel, arXiv 1606.08415): x (1 + tanh(t / 2)) / 2
= x sigmoid(t) with t = SLOPE (x + CUBIC x³)."""


@dataclass(frozen=True)
class HadamardForm(Form):
    """A form of GatedHadamard.

    Inputs: gate_up (..., 2I), columns [gate | up] · low_outer (m, m) · low_inner (n, n) ·
    high_outer · high_inner. The matrix of a part is kron(outer, inner), of order m·n. A part of
    width 0 has no factors, and neither part has any without rotation.
    Output: Y (..., I).

    Attributes:
        split: Widths of both parts of I.
        rotates: Whether the parts are multiplied by their matrices.
        activation: act, `silu` or `gelu_tanh`.
    """

    op_type: ClassVar[str] = "GatedHadamard"

    split: BitSplit
    rotates: bool = True
    activation: str = "silu"

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"{self.op_type}: unknown activation {self.activation!r}: {self}")

    @property
    def overload(self) -> str:  # noqa: D102
        rotation = "" if self.rotates else "_unrotated"
        activation = "" if self.activation == "silu" else f"_{self.activation}"
        return f"low{self.split.low}_high{self.split.high}{rotation}{activation}"

    def inputs(self) -> tuple[Parameter, ...]:  # noqa: D102
        float32 = ir.DataType.FLOAT
        has_low, has_high = (self.rotates and n > 0 for n in (self.split.low, self.split.high))
        return (
            Parameter("gate_up", float32),
            Parameter("low_outer", float32, has_low),
            Parameter("low_inner", float32, has_low),
            Parameter("high_outer", float32, has_high),
            Parameter("high_inner", float32, has_high),
        )

    def outputs(self) -> tuple[Parameter, ...]:  # noqa: D102
        return (Parameter("Y", ir.DataType.FLOAT),)

    def attributes(self) -> dict[str, AttributeValue]:  # noqa: D102
        return {"activation": self.activation, "high_rank": self.split.high}

    def body(self, op: OpBuilder, *inputs: ir.Value) -> Sequence[ir.Value]:  # noqa: D102
        gate_up, low_outer, low_inner, high_outer, high_inner = inputs
        gate, up = op.Split(gate_up, axis=-1, num_outputs=2, _outputs=2)
        hidden = op.Mul(op.Mul(gate, ACTIVATIONS[self.activation](op, gate)), up)  # (..., I)
        if not self.rotates:
            return [hidden]
        if not self.split.high:
            return [_rotated(op, hidden, low_outer, low_inner)]
        if not self.split.low:
            return [_rotated(op, hidden, high_outer, high_inner)]
        low, high = op.Split(hidden, [self.split.low, self.split.high], axis=-1, _outputs=2)
        parts = [
            _rotated(op, low, low_outer, low_inner),
            _rotated(op, high, high_outer, high_inner),
        ]
        return [op.Concat(*parts, axis=-1)]


def _silu_factor(op: OpBuilder, gate: ir.Value) -> Any:
    """silu(gate) / gate."""
    return op.Sigmoid(gate)


def _gelu_factor(op: OpBuilder, gate: ir.Value) -> Any:
    """gelu_tanh(gate) / gate."""
    cube = op.Mul(op.Mul(gate, gate), gate)
    return op.Sigmoid(op.Mul(op.Add(gate, op.Mul(cube, CUBIC)), SLOPE))


ACTIVATIONS: Final = {"silu": _silu_factor, "gelu_tanh": _gelu_factor}
"""Factor that activates a gate, activation(gate) / gate, by name."""


def _rotated(op: OpBuilder, x: ir.Value, outer: ir.Value, inner: ir.Value) -> Any:
    """Multiply x (..., m·n) by kron(outer, inner): outerᵀ · X · inner on X (rows, m, n)."""
    sizes = op.Concat([-1], op.Shape(outer, end=1), op.Shape(inner, end=1), axis=0)
    squares = op.Reshape(x, sizes)  # (rows, m, n)
    outer_transposed = op.Transpose(outer, perm=[1, 0])
    rotated = op.MatMul(outer_transposed, op.MatMul(squares, inner))
    return op.Reshape(rotated, op.Shape(x))
