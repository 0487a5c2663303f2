"""final norm · lm_head  →  Slice of the last position · final norm · lm_head.

Only the next token is predicted: one row of logits instead of one for each token of a prompt,
which with a large vocabulary is most of a prompt's memory and a good part of its time.

1. The slice comes before the norm, so that a head that absorbs the norm still finds it there.
2. The logits become (batch, 1, vocabulary).
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from resq_onnx.families import ModelLayout
from resq_onnx.passes.modules import new_initializer, only_node, tag

END = int(np.iinfo(np.int64).max)


class KeepLastLogits(ir.passes.InPlacePass):
    """Compute logits for the last position alone."""

    def __init__(self, layout: ModelLayout) -> None:
        """Take the names from `layout`."""
        self._family = layout.family

    def call(self, model: ir.Model) -> ir.passes.PassResult:  # noqa: D102
        module = self._family.final_norm
        norm = only_node(model, module, "RMSNormalization")
        bounds = [
            new_initializer(model, f"{module}.last_{name}", ir.tensor(np.array([value], np.int64)))
            for name, value in {"start": -1, "end": END, "axis": 1}.items()
        ]
        last = tag(ir.node("Slice", [norm.inputs[0], *bounds], name=f"{module}.last"), module)
        model.graph.insert_before(norm, last)
        norm.replace_input_with(0, last.outputs[0])
        logits = model.graph.outputs[0]
        if logits.shape is not None:
            logits.shape = ir.Shape([logits.shape[0], 1, logits.shape[2]])
        return ir.passes.PassResult(model, modified=True)
