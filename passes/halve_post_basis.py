"""MatMul by U_A behind the norms that end a block  →  the same by U_A in FLOAT16.

1. The matrix is stored once for all layers, behind a Cast that a runtime folds.
2. What it multiplies stays in float, and so does the product. Behind its gains a norm of such a
   family gives a few channels a hundred times the size of the others, and the next norm's gains
   take that back: 8 bits of either factor would leave nothing of what is small.
"""

from __future__ import annotations

import onnx_ir as ir

from resq_onnx.families import ModelLayout
from resq_onnx.graph.modules import POST_BASIS, find_weight, read_halved


class HalvePostBasis(ir.passes.InPlacePass):
    """Store the change of basis behind the norms that end a block in 16 bits."""

    def __init__(self, layout: ModelLayout) -> None:
        """Learn from `layout` whether there are such norms."""
        self._has_post_norms = bool(layout.post_norms)

    def call(self, model: ir.Model) -> ir.passes.PassResult:  # noqa: D102
        if self._has_post_norms:
            matrix = find_weight(model, POST_BASIS, "matrix")
            read_halved(model, matrix, f"{POST_BASIS}.cast")
        return ir.passes.PassResult(model, modified=self._has_post_norms)
