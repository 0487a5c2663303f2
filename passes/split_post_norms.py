"""o_proj · norm · residual Add  →  o_proj · norm · square layer · residual Add; so for down_proj.

A gain between what a layer computes and the residual stream commutes with no rotation of the
stream, and there is no weight behind it to fold it into.

1. The new layer's weight is the identity, (D, D), and the logits stay as they were.
2. The folds that follow make it W = U_Aᵀ · diag(g) · U_A: what it reads is o_proj's output in the
   basis of the stream, divided by its root mean square, which no rotation changes.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from resq_onnx.families import ModelLayout
from resq_onnx.graph.modules import make_linear, new_initializer, only_node, post_layer
from resq_onnx.graph.tensors import FoldedTensor


class SplitPostNorms(ir.passes.InPlacePass):
    """Put a linear layer that computes nothing yet behind the norms that end a block."""

    def __init__(self, layout: ModelLayout) -> None:
        """Take names and sizes from `layout`."""
        self._layout = layout

    def call(self, model: ir.Model) -> ir.passes.PassResult:  # noqa: D102
        roles = self._layout.post_norms
        for layer in range(self._layout.num_layers):
            for role in roles:
                self._split(model, layer, role)
        return ir.passes.PassResult(model, modified=bool(roles))

    def _split(self, model: ir.Model, layer: int, role: str) -> None:
        width, name = self._layout.hidden_size, post_layer(self._layout, layer, role)
        norm = only_node(model, self._layout.module(layer, role), "RMSNormalization")
        readers = list(norm.outputs[0].uses())
        identity = FoldedTensor(lambda: np.eye(width), (width, width), f"{name}.weight")
        weight = new_initializer(model, f"{name}.weight", identity)
        nodes, result = make_linear(name, norm.outputs[0], weight, None)
        model.graph.insert_after(norm, nodes)
        for node, place in readers:
            node.replace_input_with(place, result)
