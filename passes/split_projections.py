"""A fused linear layer of a checkpoint  →  one linear layer per projection.

1. qkv_proj → q_proj, k_proj, v_proj; gate_up_proj → gate_proj, up_proj, if a family fuses them.
   Each gets a range of the stored rows, which for float32 is a range of bytes of the file.
2. Readers of the fused layer are not changed: the lifting passes that follow replace them.

The passes in between change each projection differently; `merge_projections` joins them again.
"""

from __future__ import annotations

import onnx_ir as ir

from resq_onnx.families import ModelLayout
from resq_onnx.graph.modules import find_linear, make_linear, new_initializer
from resq_onnx.graph.tensors import rows_of


class SplitProjections(ir.passes.InPlacePass):
    """Give every projection of a decoder layer its own linear layer."""

    def __init__(self, layout: ModelLayout) -> None:
        """Take sizes and names from `layout`."""
        self._layout = layout

    def call(self, model: ir.Model) -> ir.passes.PassResult:  # noqa: D102
        fused = self._layout.family.fused
        for layer in range(self._layout.num_layers):
            for name, roles in fused.items():
                self._split(model, layer, name, roles)
        return ir.passes.PassResult(model, modified=bool(fused))

    def _split(self, model: ir.Model, layer: int, name: str, roles: tuple[str, ...]) -> None:
        whole = find_linear(model, f"{self._layout.family.layer.format(layer)}.{name}")
        begin = 0
        for role in roles:
            module, end = self._layout.module(layer, role), begin + self._layout.outputs_of(role)
            values: list[ir.Value | None] = [
                None
                if value is None
                else new_initializer(
                    model, f"{module}.{parameter}", rows_of(value.const_value, begin, end)
                )
                for parameter, value in (("weight", whole.weight), ("bias", whole.bias))
            ]
            weight, bias = values
            assert weight is not None
            nodes, _ = make_linear(module, whole.source, weight, bias)
            model.graph.insert_before(whole.nodes[0], nodes)
            begin = end
