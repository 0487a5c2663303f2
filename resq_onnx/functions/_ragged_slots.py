"""Slots of a ragged batch: each text has its own length, and its own row of a shared cache.

Text b has filled the slots before cached[b] of row cache_rows[b], and its new tokens go into the
next S. The cache is a buffer, which does not grow, and may have more rows than there are texts.
A row may come several times, with other slots: then a text is given in parts, each of which sees
those before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
from onnxscript import OpBuilder

from resq_onnx.functions._slots import within


@dataclass(frozen=True)
class RaggedSlots:
    """Numbers of slots and rows.

    Attributes:
        own: The slot of each new token, INT64 (B, S).
        rows: The row of each text, INT64 (B,).
        total: Columns of attention_mask, INT64 (1,): no text has more tokens.
    """

    own: Any
    rows: Any
    total: Any

    def write(self, op: OpBuilder, past: ir.Value, new: ir.Value) -> Any:
        """Past (N, G, P, width) with the slots of new tokens (B, G, S, width) written."""
        rows = op.Expand(op.Unsqueeze(self.rows, [1]), op.Shape(self.own))
        places = op.Concat(op.Unsqueeze(rows, [2]), op.Unsqueeze(self.own, [2]), axis=2)
        by_slot = op.Transpose(past, perm=[0, 2, 1, 3])  # (N, P, G, width)
        new = op.Transpose(new, perm=[0, 2, 1, 3])  # (B, S, G, width), places (B, S, 2)
        return op.Transpose(op.ScatterND(by_slot, places, new), perm=[0, 2, 1, 3])

    def in_use(self, op: OpBuilder, present: ir.Value) -> Any:
        """The slots that may hold tokens of the texts: (B, G, total, width)."""
        return op.Slice(op.Gather(present, self.rows, axis=0), [0], self.total, [2])

    def positions(self, op: OpBuilder, qkv: ir.Value) -> Any:
        """Default positions (B, S): the slots of the new tokens."""
        del op, qkv
        return self.own

    def visible(self, op: OpBuilder, mask: ir.Value, window: int) -> Any:
        """As `Slots.visible`: BOOL (B, 1, S, total)."""
        slot = op.Range(0, op.Squeeze(self.total, [0]), 1)  # (total,)
        allowed = within(op, slot, op.Unsqueeze(self.own, [2]), window)  # (B, S, total)
        shown = op.Unsqueeze(op.Cast(mask, to=ir.DataType.BOOL), [1])  # (B, 1, total)
        return op.Unsqueeze(op.And(allowed, shown), [1])


def ragged_slots_of(
    op: OpBuilder, qkv: ir.Value, mask: ir.Value, cached: ir.Value, rows: ir.Value
) -> RaggedSlots:
    """Find the slots from QKV (B, S, ...), attention_mask (B, total), cached and cache_rows."""
    new = op.Squeeze(op.Shape(qkv, start=1, end=2), [0])
    own = op.Add(op.Unsqueeze(cached, [1]), op.Range(0, new, 1))  # (B, S)
    return RaggedSlots(own, rows, op.Shape(mask, start=1, end=2))
