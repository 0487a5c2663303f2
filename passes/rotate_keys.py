"""RotaryAttention(...)  →  RotaryAttention(..., key_projection = U_C).

At run time, queries and keys are multiplied by U_C after RoPE. Their products stay the same, and
keys enter the cache in the basis in which they can be quantised.
"""

from __future__ import annotations

import onnx_ir as ir

from resq_onnx.families import ModelLayout
from resq_onnx.functions import add_call
from resq_onnx.graph.modules import new_initializer, tag
from resq_onnx.graph.replacing import KEY_PROJECTION, find_attention, put_in_place_of
from resq_onnx.passes.lift_attention import attention_attributes, rotary_form
from resq_onnx.projections import Projections


class RotateKeys(ir.passes.InPlacePass):
    """Give every attention node its U_C, (kv heads, d, d)."""

    def __init__(self, layout: ModelLayout, projections: Projections) -> None:
        """Take sizes and names from `layout` and U_C from `projections`."""
        self._layout = layout
        self._projections = projections

    def call(self, model: ir.Model) -> ir.passes.PassResult:  # noqa: D102
        if not self._projections.rotates_keys:
            return ir.passes.PassResult(model, modified=False)
        for layer in range(self._layout.num_layers):
            module = self._layout.module(layer, "attention")
            old = find_attention(model, module)
            basis = new_initializer(
                model,
                f"{module}.key_projection",
                ir.tensor(self._projections.key[layer].astype("float32")),
            )
            new = add_call(
                model,
                rotary_form(self._layout, layer, rotates_keys=True),
                [*old.inputs[:KEY_PROJECTION], basis, *old.inputs[KEY_PROJECTION + 1 :]],
                attention_attributes(old),
                f"{module}.attention",
                [f"{output.name}.rotated" for output in old.outputs],
            )
            put_in_place_of(model, [old], tag(new, module))
        return ir.passes.PassResult(model, modified=True)
