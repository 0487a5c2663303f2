"""norm · MatMul by U_A  →  norm · MatMul by U_A in FLOAT16, where `turn_inputs` has put it.

The matrix is stored once for all layers, behind a Cast that a runtime folds; the product is one of
floats, for what it gives is rounded, and what it reads should not have been before.
"""

from __future__ import annotations

import onnx_ir as ir

from resq_onnx.families import ModelLayout
from resq_onnx.graph.modules import INPUT_BASIS, find_weight, read_halved


class HalveInputBasis(ir.passes.InPlacePass):
    """Store U_A in 16 bits where it runs."""

    def __init__(self, layout: ModelLayout) -> None:
        """Learn from `layout` whether it runs."""
        self._runs = layout.turns_inputs

    def call(self, model: ir.Model) -> ir.passes.PassResult:  # noqa: D102
        if self._runs:
            read_halved(model, find_weight(model, INPUT_BASIS, "matrix"), f"{INPUT_BASIS}.cast")
        return ir.passes.PassResult(model, modified=self._runs)
