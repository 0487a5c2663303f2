"""MixedPrecisionAttention: RoPE, U_C, cache write and read, causal grouped-query attention.

This is RotaryAttention with a cache of packed records; see `cache_record`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import onnx_ir as ir
from onnxscript import OpBuilder

from resq_onnx.functions import cache_record
from resq_onnx.functions._form import AttributeValue
from resq_onnx.functions.cache_record import RecordLayout
from resq_onnx.functions.rotary_attention import RotaryForm


@dataclass(frozen=True, kw_only=True)
class AttentionForm(RotaryForm):
    """A form of MixedPrecisionAttention.

    Inputs, outputs and attributes are those of RotaryAttention, except that the caches are UINT8
    (B, G, P, R) and (B, G, max(P, total), R), or both (N, G, P, R) if ragged, with one record for
    each token and kv head.

    Attributes:
        layout: Layout of the record; its `head_dim` must be that of the form.
    """

    op_type: ClassVar[str] = "MixedPrecisionAttention"

    layout: RecordLayout

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layout.head_dim != self.head_dim:
            raise ValueError(f"{self.op_type}: the record has another head size: {self}")

    @property
    def overload(self) -> str:  # noqa: D102
        return f"{super().overload}_high{self.layout.high_rank}_low{self.layout.low_bits}bits"

    @property
    def cache_dtype(self) -> ir.DataType:  # noqa: D102
        return ir.DataType.UINT8

    def attributes(self) -> dict[str, AttributeValue]:  # noqa: D102
        record = {"high_rank": self.layout.high_rank, "low_bits": self.layout.low_bits}
        return {**super().attributes(), **record}

    def to_cache(self, op: OpBuilder, x: ir.Value) -> Any:  # noqa: D102
        return cache_record.encode(op, x, self.layout)

    def from_cache(self, op: OpBuilder, stored: ir.Value) -> Any:  # noqa: D102
        return cache_record.decode(op, stored, self.layout)
