"""RotaryAttention: RoPE, a key/value cache in float32, causal grouped-query attention.

The float twin of MixedPrecisionAttention: the same steps, with an unquantised cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np
import onnx_ir as ir
from onnxscript import OpBuilder

from resq_onnx.functions._form import AttributeValue, Form, Parameter, attribute_value
from resq_onnx.functions._ragged_slots import ragged_slots_of
from resq_onnx.functions._slots import slots_of

LOWEST: Final = float(np.finfo(np.float32).min)
"""Score of a hidden slot: finite, so that a query that sees no slot does not yield NaN."""


@dataclass(frozen=True, kw_only=True)
class RotaryForm(Form):
    """A form of RotaryAttention.

    Inputs: QKV (B, S, (H+2G)·d) · past_key, past_value (B, G, P, d) · attention_mask INT64
    (B, total) · position_ids INT64 (B, S)? · cos_cache, sin_cache (positions, rotary_dim/2) ·
    key_projection (G, d, d)? · q_norm (d,)? · k_norm (d,)? · cached INT64 (B,)? ·
    cache_rows INT64 (B,)?.
    Outputs: Y (B, S, H·d) · present_key, present_value (B, G, max(P, total), d).
    Query i sees slot j if attention_mask[b, j] is not 0 and j <= total - S + i and, with a
    window, j > total - S + i - window. A query that sees no slot gives finite numbers.
    With cached and cache_rows, text b is in row cache_rows[b], its first new token in slot
    cached[b], and query i of it sees slot j <= cached[b] + i. The caches then are buffers
    (N, G, P, d) before and after, and cached[b] + S <= total <= P. No two texts write the same slot
    of a row.
    Attributes set by each node: `scale` (1/sqrt(d)); `norm_epsilon`, if `qk_norm`; `softcap`,
    if `caps_scores`.

    Attributes:
        num_heads: Query heads, H.
        kv_num_heads: Key/value heads, G; divides H.
        head_dim: Size of a head, d.
        rotary_dim: Leading coefficients of a head that RoPE rotates, in halves as in Llama.
        rotates_keys: Whether queries and keys are multiplied by key_projection after RoPE.
        qk_norm: Whether queries and keys are RMS-normalised before RoPE.
        window: Number of slots a query sees, including its own; -1 for all.
        position_ids: Whether the input is given; otherwise query i is at position total - S + i.
        caps_scores: Whether a score s becomes softcap · tanh(s / softcap).
        ragged: Whether cached and cache_rows are given: texts of unequal lengths in a shared cache.
    """

    op_type: ClassVar[str] = "RotaryAttention"

    num_heads: int
    kv_num_heads: int
    head_dim: int
    rotary_dim: int
    rotates_keys: bool = True
    qk_norm: bool = False
    window: int = -1
    position_ids: bool = True
    caps_scores: bool = False
    ragged: bool = False

    def __post_init__(self) -> None:
        if self.num_heads % self.kv_num_heads:
            raise ValueError(f"{self.op_type}: kv_num_heads does not divide num_heads: {self}")
        if self.rotary_dim % 2 or not 0 < self.rotary_dim <= self.head_dim:
            raise ValueError(
                f"{self.op_type}: rotary_dim must be even and at most head_dim: {self}"
            )
        if self.window == 0 or self.window < -1:
            raise ValueError(f"{self.op_type}: window must be positive, or -1 for none: {self}")

    @property
    def overload(self) -> str:  # noqa: D102
        name = f"heads{self.num_heads}_kv{self.kv_num_heads}_dim{self.head_dim}"
        name += f"_rotary{self.rotary_dim}" if self.rotary_dim != self.head_dim else ""
        name += f"_window{self.window}" if self.window > 0 else ""
        options = {
            "projected": self.rotates_keys,
            "normed": self.qk_norm,
            "counted": not self.position_ids,
            "capped": self.caps_scores,
            "ragged": self.ragged,
        }
        return "_".join([name, *(option for option, chosen in options.items() if chosen)])

    @property
    def cache_dtype(self) -> ir.DataType:
        """Element type of the cache."""
        return ir.DataType.FLOAT

    def inputs(self) -> tuple[Parameter, ...]:  # noqa: D102
        float32, int64 = ir.DataType.FLOAT, ir.DataType.INT64
        return (
            Parameter("QKV", float32),
            Parameter("past_key", self.cache_dtype),
            Parameter("past_value", self.cache_dtype),
            Parameter("attention_mask", int64),
            Parameter("position_ids", int64, self.position_ids),
            Parameter("cos_cache", float32),
            Parameter("sin_cache", float32),
            Parameter("key_projection", float32, self.rotates_keys),
            Parameter("q_norm", float32, self.qk_norm),
            Parameter("k_norm", float32, self.qk_norm),
            Parameter("cached", int64, self.ragged),
            Parameter("cache_rows", int64, self.ragged),
        )

    def outputs(self) -> tuple[Parameter, ...]:  # noqa: D102
        return (
            Parameter("Y", ir.DataType.FLOAT),
            Parameter("present_key", self.cache_dtype),
            Parameter("present_value", self.cache_dtype),
        )

    def attributes(self) -> dict[str, AttributeValue]:  # noqa: D102
        return {
            "num_heads": self.num_heads,
            "kv_num_heads": self.kv_num_heads,
            "rotary_dim": self.rotary_dim,
            "local_window": self.window,
        }

    def free_attributes(self) -> dict[str, float | None]:  # noqa: D102
        norm: dict[str, float | None] = {"norm_epsilon": None} if self.qk_norm else {}
        cap: dict[str, float | None] = {"softcap": None} if self.caps_scores else {}
        return {"scale": self.head_dim**-0.5, **norm, **cap}

    def to_cache(self, op: OpBuilder, x: ir.Value) -> Any:
        """Encode keys or values (B, G, S, d) for the cache."""
        del op
        return x

    def from_cache(self, op: OpBuilder, stored: ir.Value) -> Any:
        """Decode cache entries that `to_cache` encoded: (B, G, T, d)."""
        del op
        return stored

    def body(self, op: OpBuilder, *inputs: ir.Value) -> Sequence[ir.Value]:  # noqa: D102
        qkv, past_key, past_value, mask, position_ids, cos, sin, projection, *others = inputs
        *gains, cached, rows = others
        slots = (
            ragged_slots_of(op, qkv, mask, cached, rows) if self.ragged else slots_of(op, qkv, mask)
        )
        query, key, value = self._heads(op, qkv)
        if self.qk_norm:
            query, key = (_normed(op, x, gain) for x, gain in zip((query, key), gains, strict=True))
        positions = position_ids if self.position_ids else slots.positions(op, qkv)
        query, key = (self._turned(op, x, cos, sin, positions) for x in (query, key))
        # Stack the queries of each kv head, since they share its keys and values.
        query = op.Reshape(query, [0, self.kv_num_heads, -1, self.head_dim])  # (B, G, H/G*S, d)
        if self.rotates_keys:
            query, key = op.MatMul(query, projection), op.MatMul(key, projection)
        present_key = slots.write(op, past_key, self.to_cache(op, key))
        present_value = slots.write(op, past_value, self.to_cache(op, value))
        # New tokens are also read back as stored, because later tokens will see them like this.
        keys = self.from_cache(op, slots.in_use(op, present_key))  # (B, G, total, d)
        values = self.from_cache(op, slots.in_use(op, present_value))
        seen = slots.visible(op, mask, self.window)
        return [self._attended(op, query, keys, values, seen), present_key, present_value]

    def _heads(self, op: OpBuilder, qkv: ir.Value) -> tuple[Any, Any, Any]:
        """(B, S, (H+2G)·d) to queries (B, H, S, d) and keys and values (B, G, S, d)."""
        queries, shared = self.num_heads, self.kv_num_heads
        heads = op.Reshape(qkv, [0, 0, queries + 2 * shared, self.head_dim])
        heads = op.Transpose(heads, perm=[0, 2, 1, 3])  # (B, H+2G, S, d)
        query, key, value = op.Split(heads, [queries, shared, shared], axis=1, _outputs=3)
        return query, key, value

    def _turned(
        self, op: OpBuilder, x: ir.Value, cos: ir.Value, sin: ir.Value, positions: ir.Value
    ) -> Any:
        """RoPE on (B, heads, S, d)."""
        partial = (
            {} if self.rotary_dim == self.head_dim else {"rotary_embedding_dim": self.rotary_dim}
        )
        return op.RotaryEmbedding(x, cos, sin, positions, **partial)

    def _attended(self, op: OpBuilder, query: Any, keys: Any, values: Any, seen: Any) -> Any:
        """Softmax attention of (B, G, H/G*S, d) over (B, G, total, d): (B, S, H·d)."""
        query = op.Mul(query, attribute_value(op, "scale"))
        grouped = op.MatMul(query, op.Transpose(keys, perm=[0, 1, 3, 2]))  # (B, G, H/G*S, total)
        if self.caps_scores:
            cap = attribute_value(op, "softcap")
            grouped = op.Mul(op.Tanh(op.Div(grouped, cap)), cap)
        by_head = op.Concat([0, self.num_heads], op.Shape(seen, start=2), axis=0)
        scores = op.Where(seen, op.Reshape(grouped, by_head), LOWEST)  # (B, H, S, total)
        weights = op.Reshape(op.Softmax(scores, axis=-1), op.Shape(grouped))
        y = op.Reshape(op.MatMul(weights, values), [0, self.num_heads, -1, self.head_dim])
        y = op.Transpose(y, perm=[0, 2, 1, 3])  # (B, S, H, d)
        return op.Reshape(y, [0, 0, self.num_heads * self.head_dim])


def _normed(op: OpBuilder, heads: ir.Value, gain: ir.Value) -> Any:
    """RMS-normalise each head of (B, heads, S, d)."""
    epsilon = ir.Attr("epsilon", ir.AttributeType.FLOAT, None, ref_attr_name="norm_epsilon")
    return op.RMSNormalization(heads, gain, axis=-1, epsilon=epsilon)
