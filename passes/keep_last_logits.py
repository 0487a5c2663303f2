"""final norm · lm_head  →  the last token of each sequence · final norm · lm_head.

Generation needs one row of logits, not one per prompt token. With a large vocabulary, the others
take most of the memory of a prompt and a good part of its time.

1. The token is selected before the norm, so that a head that absorbs the norm still finds it.
2. The last token is the last one that attention_mask does not mark as padding: sequences of unequal
   length may be padded on either side. In a sequence of padding alone it is the last position.
3. The logits become (batch, 1, vocabulary).
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from resq_onnx.families import ModelLayout
from resq_onnx.graph.modules import new_initializer, only_node, tag

END = int(np.iinfo(np.int64).max)


class KeepLastLogits(ir.passes.InPlacePass):
    """Compute logits for the last token of each sequence only."""

    def __init__(self, layout: ModelLayout) -> None:
        """Take the names from `layout`."""
        self._family = layout.family

    def call(self, model: ir.Model) -> ir.passes.PassResult:  # noqa: D102
        module = self._family.final_norm
        norm = only_node(model, module, "RMSNormalization")
        stream = norm.inputs[0]  # (B, S, D)
        mask = next(value for value in model.graph.inputs if value.name == "attention_mask")
        end, columns, depth = (
            new_initializer(model, f"{module}.last_{name}", ir.tensor(np.array([value], np.int64)))
            for name, value in {"end": END, "axis": 1, "depth": -1}.items()
        )
        nodes: list[ir.Node] = []

        def add(operator: str, inputs: list[ir.Value | None], name: str, **attributes: int) -> None:
            node = ir.node(operator, inputs, attributes, name=f"{module}.{name}")
            nodes.append(tag(node, module))
            if name != "last":
                node.outputs[0].type = ir.TensorType(ir.DataType.INT64)

        add("Shape", [stream], "new", start=1, end=2)
        add("Neg", [nodes[-1].outputs[0]], "start")
        add("Slice", [mask, nodes[-1].outputs[0], end, columns], "new_mask")  # (B, S)
        add("ArgMax", [nodes[-1].outputs[0]], "place", axis=1, keepdims=1, select_last_index=1)
        add("Unsqueeze", [nodes[-1].outputs[0], depth], "index")  # (B, 1, 1)
        add("GatherND", [stream, nodes[-1].outputs[0]], "last", batch_dims=1)  # (B, 1, D)
        model.graph.insert_before(norm, nodes)
        norm.replace_input_with(0, nodes[-1].outputs[0])
        logits = model.graph.outputs[0]
        if logits.shape is not None:
            logits.shape = ir.Shape([logits.shape[0], 1, logits.shape[2]])
        return ir.passes.PassResult(model, modified=True)
