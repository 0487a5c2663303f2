"""RotaryAttention with a float cache  →  MixedPrecisionAttention with UINT8 records.

1. The graph's cache inputs and outputs change their type and last dimension accordingly.
2. U_C is stored as FLOAT16, at half the size, with a Cast that a runtime folds when it loads the
   file. Its rounding error, 2⁻¹¹, is far below a step of the 4-bit quantiser that follows.
"""

from __future__ import annotations

import dataclasses

import onnx_ir as ir

from resq_onnx.families import ModelLayout
from resq_onnx.functions import AttentionForm, RecordLayout, add_call
from resq_onnx.graph.modules import read_halved, tag
from resq_onnx.graph.names import cache_names
from resq_onnx.graph.replacing import KEY_PROJECTION, find_attention, put_in_place_of
from resq_onnx.passes.lift_attention import attention_attributes, rotary_form
from resq_onnx.projections import Projections


class QuantiseCache(ir.passes.InPlacePass):
    """Store keys and values as cache records, one for each token and kv head."""

    def __init__(self, layout: ModelLayout, projections: Projections) -> None:
        """Take sizes and names from `layout` and the split of a head from `projections`."""
        self._layout = layout
        split = projections.splits.record
        self._record = RecordLayout(layout.head_dim, split.high, split.low_bits)
        self._rotates_keys = projections.rotates_keys

    def _form(self, layer: int) -> AttentionForm:
        floats = rotary_form(self._layout, layer, rotates_keys=self._rotates_keys)
        return AttentionForm(**dataclasses.asdict(floats), layout=self._record)

    def call(self, model: ir.Model) -> ir.passes.PassResult:  # noqa: D102
        for layer in range(self._layout.num_layers):
            module = self._layout.module(layer, "attention")
            old = find_attention(model, module)
            projection = old.inputs[KEY_PROJECTION] if self._rotates_keys else None
            if projection is not None:
                read_halved(model, projection, f"{old.name}.key_projection")
            new = add_call(
                model,
                self._form(layer),
                old.inputs,
                attention_attributes(old),
                f"{module}.mixed_precision",
                [f"{output.name}.quantised" for output in old.outputs],
            )
            put_in_place_of(model, [old], tag(new, module))
        self._retype_cache(model)
        return ir.passes.PassResult(model, modified=True)

    def _retype_cache(self, model: ir.Model) -> None:
        past, present = cache_names(self._layout.num_layers)
        for value in (*model.graph.inputs, *model.graph.outputs):
            if value.name in past or value.name in present:
                tokens = "past" if value.name in past else "present"
                value.type = ir.TensorType(ir.DataType.UINT8)
                value.shape = ir.Shape(
                    ["batch", self._layout.num_kv_heads, tokens, self._record.size]
                )
