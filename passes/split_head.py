"""final norm · lm_head on the embedding's weight  →  final norm · lm_head.input · lm_head.

Gains and rotations can be folded into a weight with one reader. The embedding's weight has two, so
the part that only lm_head needs goes into a square linear layer before it.

1. The new layer's weight is the identity, (D, D), and the logits stay the same.
2. The folds that follow turn it into W = U_Aᵀ · diag(g) · U_A, and the table E into E · U_A. From
   a residual stream x · U_A, divided by its root mean square, lm_head computes x · diag(g) · Eᵀ.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from resq_onnx.families import ModelLayout
from resq_onnx.graph.modules import find_head, head_input, make_linear, new_initializer
from resq_onnx.graph.tensors import FoldedTensor


class SplitHead(ir.passes.InPlacePass):
    """Insert an identity linear layer between the final norm and lm_head."""

    def __init__(self, layout: ModelLayout) -> None:
        """Take names and sizes from `layout`; the model must be tied."""
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
