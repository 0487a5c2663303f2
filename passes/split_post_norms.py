"""o_proj · norm · residual Add → o_proj · norm · change of basis · residual Add; so for down_proj.

A gain between what a layer computes and the residual stream commutes with no rotation of the
stream, and there is no weight behind it to fold it into. So the layer keeps its own channels, the
norm keeps its gains, and the stream's basis begins behind both:

1. All such places share one new matrix, the identity, (D, D), and the logits stay as they were.
2. `fold_hidden_basis` makes it U_A.

That leaves o_proj's and down_proj's rounding errors in the channels they belong to, where the gains
scale error and value alike.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from resq_onnx.families import ModelLayout
from resq_onnx.graph.modules import POST_BASIS, new_initializer, only_node, post_layer, tag
from resq_onnx.graph.tensors import FoldedTensor


class SplitPostNorms(ir.passes.InPlacePass):
    """Put a change of basis that does nothing yet behind the norms that end a block."""

    def __init__(self, layout: ModelLayout) -> None:
        """Take names and sizes from `layout`."""
        self._layout = layout

    def call(self, model: ir.Model) -> ir.passes.PassResult:  # noqa: D102
        layout, width = self._layout, self._layout.hidden_size
        places = [(layer, role) for layer in range(layout.num_layers) for role in layout.post_norms]
        if not places:
            return ir.passes.PassResult(model, modified=False)
        name = f"{POST_BASIS}.matrix"
        identity = FoldedTensor(lambda: np.eye(width), (width, width), name)
        matrix = new_initializer(model, name, identity)
        for layer, role in places:
            norm = only_node(model, layout.module(layer, role), "RMSNormalization")
            _read_through(model, norm, matrix, post_layer(layout, layer, role))
        return ir.passes.PassResult(model, modified=True)


def _read_through(model: ir.Model, norm: ir.Node, matrix: ir.Value, module: str) -> None:
    """Let whoever reads a norm read its product with a matrix instead."""
    readers = list(norm.outputs[0].uses())
    multiply = ir.node("MatMul", [norm.outputs[0], matrix], name=f"{module}.matmul")
    model.graph.insert_after(norm, tag(multiply, module))
    for node, place in readers:
        node.replace_input_with(place, multiply.outputs[0])
