"""RMSNorm, traced as Pow · ReduceMean · Sqrt · ... · Mul  →  RMSNormalization.

1. The input is that of the module's Pow.
2. The output is that of the module's last Mul, by the gain; a conversion from float32 to float32
   may follow.
3. If a checkpoint stores the gain minus 1, the 1 is added when the gain is read.
"""

from __future__ import annotations

from typing import Final

import onnx_ir as ir

from resq_onnx.families import ModelLayout
from resq_onnx.graph.modules import find_weight, module_of, nodes_of, only_consumer, tag
from resq_onnx.graph.tensors import fold

IDLE: Final = ("Cast", "CastLike", "Identity")
"""Operators that a conversion from float32 to float32 is traced as."""


class LiftNorms(ir.passes.InPlacePass):
    """Replace the traced nodes of every RMSNorm by one node."""

    def __init__(self, layout: ModelLayout) -> None:
        """Take the names of the norms from `layout`."""
        self._layout = layout
        self._modules = [
            layout.module(layer, role)
            for layer in range(layout.num_layers)
            for role in ("attention_norm", "mlp_norm", *layout.post_norms)
        ] + [layout.family.final_norm]

    def call(self, model: ir.Model) -> ir.passes.PassResult:  # noqa: D102
        for module in self._modules:
            self._lift(model, module)
        return ir.passes.PassResult(model, modified=True)

    def _lift(self, model: ir.Model, module: str) -> None:
        nodes = nodes_of(model, module)
        squares = [node for node in nodes if node.op_type == "Pow"]
        read = model.graph.initializers.get(f"{module}.weight")
        if len(squares) != 1 or read is None:
            raise ValueError(f"{module}: not traced as an RMSNorm with a gain")
        if self._layout.family.offset_gains:
            read = only_consumer(read, module).outputs[0]
        scaled = [node for node in read.consumers() if node.op_type == "Mul"]
        if len(scaled) != 1:
            raise ValueError(f"{module}: its gain is read by {len(scaled)} Mul nodes, expected 1")
        gain = stored_gain(model, self._layout, module)
        norm = ir.node(
            "RMSNormalization",
            [squares[0].inputs[0], gain],
            {"axis": -1, "epsilon": self._layout.norm_epsilon, "stash_type": 1},
            name=f"{module}.norm",
        )
        model.graph.insert_before(squares[0], tag(norm, module))
        result = scaled[0].outputs[0]
        behind = result.consumers()
        if len(behind) == 1 and module_of(behind[0]) == module and behind[0].op_type in IDLE:
            result = behind[0].outputs[0]
        # The traced nodes stay, because other modules may read their constants; a sweep follows.
        result.replace_all_uses_with(norm.outputs[0])


def stored_gain(model: ir.Model, layout: ModelLayout, module: str) -> ir.Value:
    """The gain of a norm; from here on its initializer holds the whole gain, not gain - 1."""
    gain = find_weight(model, module)
    if layout.family.offset_gains:
        fold(gain, lambda stored: 1.0 + stored)
    return gain
