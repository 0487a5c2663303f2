"""Add · RMSNormalization  →  SkipSimplifiedLayerNormalization of ONNX Runtime.

1. Its first output is the norm of the sum, its last one the sum itself, which the residual stream
   goes on with.
2. A norm without such an Add before it stays.
"""

from __future__ import annotations

import onnx_ir as ir

from resq_onnx.graph.modules import module_of, producer_of, tag
from resq_onnx.graph.names import CONTRIB_DOMAIN, CONTRIB_VERSION

OUTPUTS = 4
"""Of the new node: norm, mean and deviation (which nobody wants), sum."""


class ContribNorms(ir.passes.InPlacePass):
    """Let ONNX Runtime's own operator add and normalise."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:  # noqa: D102
        norms = [node for node in model.graph if node.op_type == "RMSNormalization"]
        for norm in norms:
            assert norm.inputs[0] is not None
            addition = producer_of(norm.inputs[0], "Add")
            if addition is not None:
                _fuse(model, addition, norm)
        model.graph.opset_imports[CONTRIB_DOMAIN] = CONTRIB_VERSION
        return ir.passes.PassResult(model, modified=True)


def _fuse(model: ir.Model, addition: ir.Node, norm: ir.Node) -> None:
    fused = ir.node(
        "SkipSimplifiedLayerNormalization",
        [*addition.inputs, norm.inputs[1]],
        {"epsilon": norm.attributes.get_float("epsilon")},
        domain=CONTRIB_DOMAIN,
        num_outputs=OUTPUTS,
        name=norm.name,
    )
    normed, *_, total = fused.outputs
    total.name = addition.outputs[0].name
    model.graph.insert_before(norm, tag(fused, module_of(norm)))
    addition.outputs[0].replace_all_uses_with(total)
    norm.outputs[0].replace_all_uses_with(normed)
    model.graph.remove([norm, addition], safe=True)
