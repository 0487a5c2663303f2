"""final norm · Slice of the positions to keep · lm_head  →  final norm · lm_head.

The tracer writes a slice that keeps every position. Here lm_head reads the norm directly.
"""

from __future__ import annotations

import onnx_ir as ir

from resq_onnx.families import ModelLayout
from resq_onnx.graph.modules import only_node


class LiftHead(ir.passes.InPlacePass):
    """Connect lm_head to the output of the final norm."""

    def __init__(self, layout: ModelLayout) -> None:
        """Take the names from `layout`."""
        self._family = layout.family

    def call(self, model: ir.Model) -> ir.passes.PassResult:  # noqa: D102
        norm = only_node(model, self._family.final_norm, "RMSNormalization")
        multiply = only_node(model, self._family.head, "MatMul")
        multiply.replace_input_with(0, norm.outputs[0])
        return ir.passes.PassResult(model, modified=True)
