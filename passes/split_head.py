"""final norm · lm_head on the embedding's weight  →  final norm · lm_head.input · lm_head.

Gains and rotations fold into a weight that has one reader. The embedding's has two, so what
lm_head alone needs goes into a square linear layer before it.

1. The new layer's weight is the identity, (D, D), and the logits stay as they were.
2. The folds that follow make it W = U_Aᵀ · diag(g) · U_A, and the table E · U_A: of a residual
   stream x · U_A, divided by its root mean square, lm_head makes x · diag(g) · Eᵀ.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from resq_onnx.families import ModelLayout
from resq_onnx.graph.modules import find_head, head_input, make_linear, new_initializer
from resq_onnx.graph.tensors import FoldedTensor


class SplitHead(ir.passes.InPlacePass):
    """Put a linear layer that computes nothing yet between the final norm and lm_head."""

    def __init__(self, layout: ModelLayout) -> None:
        """Take names and sizes from `layout`, that of a tied model."""
        self._layout = layout

    def call(self, model: ir.Model) -> ir.passes.PassResult:  # noqa: D102
        width, name = self._layout.hidden_size, head_input(self._layout)
        head = find_head(model, self._layout, shared=True)
        identity = FoldedTensor(lambda: np.eye(width), (width, width), f"{name}.weight")
        weight = new_initializer(model, f"{name}.weight", identity)
        nodes, result = make_linear(name, head.source, weight, None)
        result.shape = head.source.shape
        model.graph.insert_before(head.nodes[0], nodes)
        head.multiply.replace_input_with(0, result)
        return ir.passes.PassResult(model, modified=True)
