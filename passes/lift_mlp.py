"""act(gate_proj(x)) * up_proj(x)  →  Concat(gate, up) · GatedHadamard, not yet rotated."""

from __future__ import annotations

import onnx_ir as ir

from resq_onnx.families import ModelLayout
from resq_onnx.functions import HadamardForm, add_call
from resq_onnx.graph.modules import find_linear, tag
from resq_onnx.recipe import BitSplit


class LiftMlp(ir.passes.InPlacePass):
    """Replace the traced gate of every layer's MLP by one node."""

    def __init__(self, layout: ModelLayout) -> None:
        """Take sizes and names from `layout`."""
        self._layout = layout
        split = BitSplit(layout.intermediate_size, 0)
        self._form = HadamardForm(split, rotates=False, activation=layout.activation)

    def call(self, model: ir.Model) -> ir.passes.PassResult:  # noqa: D102
        for layer in range(self._layout.num_layers):
            gate, up, down = (
                find_linear(model, self._layout.module(layer, role))
                for role in ("gate", "up", "down")
            )
            module = down.module.rpartition(".")[0]
            joined = ir.node(
                "Concat", [gate.result, up.result], {"axis": -1}, name=f"{module}.gate_up"
            )
            gated = add_call(
                model,
                self._form,
                [tag(joined, module).outputs[0]],
                {},
                f"{module}.gated",
                [f"{module}.gated.out"],
            )
            model.graph.insert_before(down.nodes[0], [joined, tag(gated, module)])
            down.multiply.replace_input_with(0, gated.outputs[0])
        return ir.passes.PassResult(model, modified=True)
