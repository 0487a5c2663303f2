"""Add · RMSNormalization  →  SkipSimplifiedLayerNormalization of ONNX Runtime.

1. The first output is the normalised sum, the last one the sum itself: the new residual stream.
2. A norm that does not follow an Add is left unchanged.
"""

from __future__ import annotations

import onnx_ir as ir

from resq_onnx.graph.modules import module_of, producer_of, tag
from resq_onnx.graph.names import CONTRIB_DOMAIN, CONTRIB_VERSION

OUTPUTS = 4
"""Outputs of the new node: norm, mean, inverse deviation, sum. The middle two are unused."""


class ContribNorms(ir.passes.InPlacePass):
    """Fuse a residual Add with the RMSNormalization that reads it."""

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
