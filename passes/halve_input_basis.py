"""norm · MatMul by U_A  →  norm · MatMul by U_A in FLOAT16, if `turn_inputs` inserted it.

The matrix is stored once for all layers, with a Cast that a runtime folds. The product is computed
in float, because its result is quantised and its input should not be.
"""

from __future__ import annotations

import onnx_ir as ir

from resq_onnx.graph.modules import INPUT_BASIS, read_halved


class HalveInputBasis(ir.passes.InPlacePass):
    """Store U_A in 16 bits if it is applied at run time."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:  # noqa: D102
        matrix = model.graph.initializers.get(f"{INPUT_BASIS}.matrix")
        if matrix is not None:
            read_halved(model, matrix, f"{INPUT_BASIS}.cast")
        return ir.passes.PassResult(model, modified=matrix is not None)
