"""One tensor read by the embedding and by lm_head  →  one tensor for each.

They differ as soon as a gain or a rotation is folded into one of them.
"""

from __future__ import annotations

import onnx_ir as ir

from resq_onnx.families import ModelLayout
from resq_onnx.graph.modules import find_weight, module_of, new_initializer
from resq_onnx.graph.tensors import FoldedTensor, dims, read_float64, read_rows


class UntieEmbedding(ir.passes.InPlacePass):
    """Give lm_head its own weight; its values are still read from the same bytes."""

    def __init__(self, layout: ModelLayout) -> None:
        """Take the names from `layout`."""
        self._family = layout.family

    def call(self, model: ir.Model) -> ir.passes.PassResult:  # noqa: D102
        name = f"{self._family.head}.weight"
        if name in model.graph.initializers:
            return ir.passes.PassResult(model, modified=False)
        shared = find_weight(model, self._family.embedding)
        tensor = shared.const_value
        assert tensor is not None
        copy = FoldedTensor(
            lambda: read_float64(tensor),
            dims(tensor),
            name,
            lambda rows: read_rows(tensor, rows),
        )
        own = new_initializer(model, name, copy)
        for node, index in shared.uses():
            if module_of(node) == self._family.head:
                node.replace_input_with(index, own)
        return ir.passes.PassResult(model, modified=True)
