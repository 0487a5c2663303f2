"""Embedding and lm_head in ONNX Runtime's own operators.

1. MixedPrecisionGather  →  GatherBlockQuantized for each part, and Concat of their columns.
2. lm_head on dequantised parts  →  MatMulNBits, as in `contrib_linears.py`.
3. If both read one table, its bytes are stored once: a row of blocks is a row of bytes. The
   padding of the last block of a row is sliced off after GatherBlockQuantized.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from resq_onnx.families import ModelLayout
from resq_onnx.graph.modules import new_initializer, only_node, tag
from resq_onnx.graph.names import CONTRIB_DOMAIN, CONTRIB_VERSION
from resq_onnx.graph.replacing import put_in_place_of
from resq_onnx.graph.tensors import SameBytes
from resq_onnx.passes.blocks import Blocks, in_blocks
from resq_onnx.passes.contrib_linears import ACCURACY_LEVEL, find_dequantised, multiply_blocks


class ContribEmbedding(ir.passes.InPlacePass):
    """Use ONNX Runtime's own operators for embedding and lm_head."""

    def __init__(self, layout: ModelLayout, accuracy_level: int = ACCURACY_LEVEL) -> None:
        """Take the names from `layout`; the accuracy level is for lm_head's MatMulNBits nodes."""
        self._family = layout.family
        self._level = accuracy_level

    def call(self, model: ir.Model) -> ir.passes.PassResult:  # noqa: D102
        head = find_dequantised(model, self._family.head)
        in_head = [in_blocks(*part) for part in head.parts]
        multiply_blocks(model, head, in_head, self._level)
        table = in_head
        if in_head[0].name.startswith(f"{self._family.head}."):
            table = [in_blocks(*part) for part in self._own_parts(model)]
        self._gather(model, table)
        model.graph.opset_imports[CONTRIB_DOMAIN] = CONTRIB_VERSION
        return ir.passes.PassResult(model, modified=True)

    def _own_parts(self, model: ir.Model) -> list[tuple[ir.Value, ir.Value]]:
        """The table's parts as stored; the embedding's node reads a 4-bit part as bytes."""
        known = model.graph.initializers
        names = [
            [f"{self._family.embedding}.{kind}_{part}" for kind in ("weight", "scale")]
            for part in ("low", "high")
        ]
        return [(known[weight], known[scale]) for weight, scale in names if weight in known]

    def _gather(self, model: ir.Model, table: list[Blocks]) -> None:
        module = self._family.embedding
        old = only_node(model, module, "MixedPrecisionGather")
        nodes, columns = [], []
        for part in table:
            made = _rows(model, old.inputs[0], part)
            nodes += made
            columns.append(made[-1].outputs[0])
        if len(columns) > 1:
            nodes.append(ir.node("Concat", columns, {"axis": -1}, name=f"{module}.columns"))
        *first, last = nodes
        model.graph.insert_before(old, [tag(node, module) for node in first])
        put_in_place_of(model, [old], tag(last, module))
        model.graph.initializers.pop(f"{module}.packed_low", None)


def _rows(model: ir.Model, indices: ir.Value | None, part: Blocks) -> list[ir.Node]:
    """The nodes that read rows of one part."""
    weight, name = part.weight, part.name
    assert weight.const_value is not None
    row_bytes = part.padded * part.bits // 8
    view = SameBytes(weight.const_value, (part.rows, row_bytes))
    gather = ir.node(
        "GatherBlockQuantized",
        [new_initializer(model, f"{name}_rows", view), indices, part.scale],
        {"bits": part.bits, "block_size": part.size, "gather_axis": 0, "quantize_axis": 1},
        domain=CONTRIB_DOMAIN,
        name=f"{name}.rows",
    )
    if part.padded == part.columns:
        return [gather]
    bounds = [
        new_initializer(model, f"{name}.{end}", ir.tensor(np.array([value], np.int64)))
        for end, value in {"start": 0, "end": part.columns, "axis": -1}.items()
    ]
    return [gather, ir.node("Slice", [gather.outputs[0], *bounds], name=f"{name}.cut")]
