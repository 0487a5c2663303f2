"""RotaryAttention with a float cache  →  MixedPrecisionAttention with UINT8 records.

1. The graph's cache inputs and outputs change type and last dimension with it.
2. U_C is stored as FLOAT16, behind a Cast that a runtime folds when it loads the file: its
   rounding, 2⁻¹¹, is far below a step of the 4 bits that follow, and it is then half as large.
"""

from __future__ import annotations

from typing import Final

import onnx_ir as ir

from resq_onnx.families import ModelLayout
from resq_onnx.functions import AttentionForm, RecordLayout, add_call
from resq_onnx.graph import cache_names
from resq_onnx.passes.modules import read_halved, tag
from resq_onnx.passes.replacing import find_attention, put_in_place_of
from resq_onnx.projections import Projections

KEY_PROJECTION: Final = 7
"""Place of U_C among the inputs of an attention node."""


class QuantiseCache(ir.passes.InPlacePass):
    """Store keys and values as cache records, one for each token and kv head."""

    def __init__(self, layout: ModelLayout, projections: Projections) -> None:
        """Take sizes and names from `layout`, the split of a head from `projections`."""
        self._layout = layout
        split = projections.splits.record
        self._record = RecordLayout(layout.head_dim, split.high, split.low_bits)
        self._form = AttentionForm(
            num_heads=layout.num_heads,
            kv_num_heads=layout.num_kv_heads,
            head_dim=layout.head_dim,
            rotary_dim=layout.head_dim,
            rotates_keys=projections.rotates_keys,
            layout=self._record,
        )

    def call(self, model: ir.Model) -> ir.passes.PassResult:  # noqa: D102
        for layer in range(self._layout.num_layers):
            module = self._layout.module(layer, "attention")
            old = find_attention(model, module)
            if self._form.rotates_keys:
                read_halved(model, old, KEY_PROJECTION, f"{old.name}.key_projection")
            new = add_call(
                model,
                self._form,
                old.inputs,
                {"scale": old.attributes.get_float("scale")},
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
