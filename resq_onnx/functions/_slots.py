"""Slots of a key/value cache: where new tokens are written, and which slots a query may see.

Of `total` = attention_mask.shape[1] tokens the last S are new, and token j is in slot j. If past
has total - S slots, the cache grows by concatenation. If past is a buffer of at least `total`
slots, the slots of the new tokens are overwritten and all others kept. `_ragged_slots.py` has the
texts of unequal lengths.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from onnxscript import OpBuilder

END: Final = int(np.iinfo(np.int64).max)
"""Slice to the end."""


@dataclass(frozen=True)
class Slots:
    """Numbers of slots, each INT64 of shape (1,).

    Attributes:
        new: New tokens, S.
        total: Old and new tokens.
        past: Old tokens, total - S.
    """

    new: Any
    total: Any
    past: Any

    def write(self, op: OpBuilder, past: ir.Value, new: ir.Value) -> Any:
        """Past (B, G, P, width) with the new slots written: (B, G, max(P, total), width)."""
        before = op.Slice(past, [0], self.past, [2])
        after = op.Slice(past, self.total, [END], [2])
        return op.Concat(before, new, after, axis=2)

    def in_use(self, op: OpBuilder, present: ir.Value) -> Any:
        """The slots that hold tokens: (B, G, total, width)."""
        return op.Slice(present, [0], self.total, [2])

    def positions(self, op: OpBuilder, qkv: ir.Value) -> Any:
        """Default positions (B, S): the slots of the new tokens."""
        return op.Expand(self._own(op), op.Shape(qkv, end=2))

    def visible(self, op: OpBuilder, mask: ir.Value, window: int) -> Any:
        """Mask of the slots that each query may see, BOOL (B, 1, S, total).

        Args:
            op: Records the nodes.
            mask: attention_mask INT64 (B, total); 0 hides a slot.
            window: Number of slots a query sees, including its own; -1 for all.
        """
        slot = op.Range(0, op.Squeeze(self.total, [0]), 1)  # (total,)
        allowed = within(op, slot, op.Unsqueeze(self._own(op), [1]), window)  # (S, total)
        return op.And(allowed, op.Unsqueeze(op.Cast(mask, to=ir.DataType.BOOL), [1, 2]))

    def _own(self, op: OpBuilder) -> Any:
        """The slot of each new token, INT64 (S,)."""
        return op.Add(op.Range(0, op.Squeeze(self.new, [0]), 1), self.past)


def slots_of(op: OpBuilder, qkv: ir.Value, mask: ir.Value) -> Slots:
    """Count the slots from QKV (B, S, ...) and attention_mask (B, total)."""
    new, total = op.Shape(qkv, start=1, end=2), op.Shape(mask, start=1, end=2)
    return Slots(new, total, op.Sub(total, new))


def within(op: OpBuilder, slot: Any, own: Any, window: int) -> Any:
    """Whether queries with `own` slots (..., 1) look at slots (total,): BOOL (..., total)."""
    allowed = op.LessOrEqual(slot, own)
    if window > 0:
        allowed = op.And(allowed, op.Greater(slot, op.Sub(own, window)))
    return allowed
