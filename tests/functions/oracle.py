"""The ai.resq operators in plain numpy: loops over tokens and heads, and bits looked at as bits.

Written from the definition of the operators, not from their bodies. Every choice of an integer is
made in float32, step by step as the definition says; everything after is float64.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resq_onnx.functions import RecordLayout
from resq_onnx.recipe import BitSplit

Array = NDArray[Any]
F32 = np.float32
WHOLE = np.float32(1)
"""A clip that leaves the whole range."""


def quantise(
    row: Array, bits: int, scale: np.float32, clip: np.float32 = WHOLE
) -> tuple[Array, int]:
    """Integers and zero point of one row by a given scale."""
    levels = 2**bits - 1
    zero = int(np.rint(-min(row.min(), F32(0)) * clip / scale))
    return np.clip(np.rint(row / scale).astype(np.int64) + zero, 0, levels), zero


def scale_of(row: Array, bits: int, clip: np.float32 = WHOLE) -> np.float32:
    """(max - min) / levels with min <= 0 <= max, and the smallest normal number at least."""
    extent = max(row.max(), F32(0)) * clip - min(row.min(), F32(0)) * clip
    return max(F32(extent / F32(2**bits - 1)), np.finfo(F32).tiny)


def matmul(
    x: Array,
    low: tuple[Array, Array],
    high: tuple[Array, Array],
    split: BitSplit,
    groups: int = 1,
    epsilon: float | None = None,
    low_clip: float = 1.0,
) -> Array:
    """y = s_a s_w (sum q_a q_w - z_a sum q_w) of both parts and all groups, (tokens, N)."""
    y = np.zeros((len(x), len(low[0])))
    low_width, high_width = split.low // groups, split.high // groups
    for t, token in enumerate(x):
        inverse_rms = 1.0
        if epsilon is not None:
            inverse_rms = 1 / np.sqrt(np.mean(token.astype(np.float64) ** 2) + epsilon)
        for g in range(groups):
            columns = token[g * (low_width + high_width) :][: low_width + high_width]
            for part, width, bits, clip, (weight, weight_scale) in (
                (columns[:low_width], low_width, split.low_bits, F32(low_clip), low),
                (columns[low_width:], high_width, split.high_bits, F32(1), high),
            ):
                if width == 0:
                    continue
                scale = scale_of(part, bits, clip)
                integers, zero = quantise(part, bits, scale, clip)
                block = weight[:, g * width : (g + 1) * width].astype(np.int64)
                total = block @ integers - zero * block.sum(axis=1)
                y[t] += float(scale) * inverse_rms * weight_scale.astype(np.float64) * total
    return y


def round_up_to_bfloat16(value: np.float32) -> bytes:
    """The two bytes, little endian, of the least bfloat16 that is not below a positive value."""
    (bits,) = struct.unpack("<I", struct.pack("<f", value))
    return struct.pack("<H", (bits >> 16) + (1 if bits & 0xFFFF else 0))


def bfloat16(two_bytes: bytes) -> np.float32:
    """The value of two little-endian bytes."""
    return F32(struct.unpack("<f", b"\0\0" + two_bytes)[0])


def encode_record(row: Array, layout: RecordLayout) -> bytes:
    """The record of one key or value (d,)."""
    low, high = row[: layout.head_dim - layout.high_rank], row[layout.head_dim - layout.high_rank :]
    values, ranges = b"", b""
    for part, bits in ((low, layout.low_bits), (high, 8)):
        if len(part) == 0:
            continue
        stored = round_up_to_bfloat16(scale_of(part, bits))
        integers, zero = quantise(part, bits, bfloat16(stored))
        if bits == 4:
            values += bytes(int(a) | int(b) << 4 for a, b in integers.reshape(-1, 2))
        else:
            values += bytes(int(a) for a in integers)
        ranges += stored + bytes([zero])
    return values + ranges


def decode_record(record: bytes, layout: RecordLayout) -> Array:
    """The key or value (d,), float64, that a record holds."""
    low_rank = layout.head_dim - layout.high_rank
    low_bytes = low_rank * layout.low_bits // 8
    low, high = record[:low_bytes], record[low_bytes : low_bytes + layout.high_rank]
    ranges = record[low_bytes + layout.high_rank :]
    row: list[float] = []
    if low_rank:
        integers = [n for b in low for n in (b & 15, b >> 4)] if layout.low_bits == 4 else [*low]
        row += [(n - ranges[2]) * float(bfloat16(ranges[:2])) for n in integers]
        ranges = ranges[3:]
    if layout.high_rank:
        row += [(n - ranges[2]) * float(bfloat16(ranges[:2])) for n in high]
    return np.array(row)


def encode(x: Array, layout: RecordLayout) -> Array:
    """Records (..., R) of (..., d)."""
    flat = [np.frombuffer(encode_record(row, layout), np.uint8) for row in _rows(x)]
    return np.array(flat, np.uint8).reshape(*x.shape[:-1], layout.size)


def decode(records: Array, layout: RecordLayout) -> Array:
    """Keys or values (..., d) of records (..., R)."""
    flat = [decode_record(row.tobytes(), layout) for row in _rows(records)]
    return np.array(flat).reshape(*records.shape[:-1], layout.head_dim)


def _rows(x: Array) -> Array:
    return np.ascontiguousarray(x).reshape(-1, x.shape[-1])


@dataclass(frozen=True)
class Attention:
    """Sizes and parameters of an attention node."""

    num_heads: int
    kv_num_heads: int
    head_dim: int
    rotary_dim: int
    cos: Array
    sin: Array
    projection: Array | None = None  # (G, d, d)
    q_norm: Array | None = None
    k_norm: Array | None = None
    epsilon: float = 0.0
    window: int = -1
    softcap: float = 0.0

    def heads(self, qkv: Array, positions: Array) -> tuple[Array, Array, Array]:
        """Queries (B, H, S, d), keys and values (B, G, S, d), turned and projected, float32."""
        batch, tokens, _ = qkv.shape
        heads, shared = self.num_heads, self.kv_num_heads
        split = qkv.reshape(batch, tokens, heads + 2 * shared, self.head_dim).copy()
        for b in range(batch):
            for t in range(tokens):
                for n in range(heads + shared):
                    gain = self.q_norm if n < heads else self.k_norm
                    kv_head = n // (heads // shared) if n < heads else n - heads
                    split[b, t, n] = self._prepared(split[b, t, n], gain, positions[b, t], kv_head)
        query, key, value = np.split(split.transpose(0, 2, 1, 3), [heads, heads + shared], axis=1)
        return query, key, value

    def _prepared(self, x: Array, gain: Array | None, position: int, kv_head: int) -> Array:
        if gain is not None:
            x = (x / np.sqrt(np.mean(x.astype(np.float64) ** 2) + self.epsilon) * gain).astype(F32)
        half = self.rotary_dim // 2
        first, second, rest = x[:half], x[half : 2 * half], x[2 * half :]
        cos, sin = self.cos[position], self.sin[position]
        x = np.concatenate([first * cos - second * sin, second * cos + first * sin, rest])
        return x if self.projection is None else x @ self.projection[kv_head]

    def attend(self, query: Array, keys: Array, values: Array, mask: Array) -> Array:
        """Y (B, S, H*d) of queries (B, H, S, d) over slots (B, G, total, d)."""
        batch, heads, tokens, dim = query.shape
        total = mask.shape[1]
        y = np.zeros((batch, tokens, heads, dim))
        for b, h, i in np.ndindex(batch, heads, tokens):
            own, g = total - tokens + i, h // (heads // self.kv_num_heads)
            seen = [
                j
                for j in range(total)
                if mask[b, j] != 0 and j <= own and (self.window < 0 or j > own - self.window)
            ]
            scores = keys[b, g, seen] @ query[b, h, i].astype(np.float64) * dim**-0.5
            if self.softcap:
                scores = self.softcap * np.tanh(scores / self.softcap)
            weights = np.exp(scores - scores.max())
            y[b, i, h] = weights @ values[b, g, seen] / weights.sum()
        return y.reshape(batch, tokens, -1)


def put(past: Array, new: Array, total: int) -> Array:
    """The cache after the new tokens: slots total - S to total overwritten or appended."""
    batch, heads, capacity, width = past.shape
    present = np.zeros((batch, heads, max(capacity, total), width), past.dtype)
    present[:, :, :capacity] = past
    present[:, :, total - new.shape[2] : total] = new
    return present


def gated_hadamard(
    gate_up: Array, low: Array | None, high: Array | None, *, activation: str = "silu"
) -> Array:
    """(act(gate) * up) · blockdiag(low, high), (..., I); None: not multiplied."""
    gate, up = np.split(gate_up.astype(np.float64), 2, axis=-1)
    hidden: Array = activated(gate, activation) * up
    parts = [m for m in (low, high) if m is not None]
    if not parts:
        return hidden
    matrix = np.zeros((hidden.shape[-1],) * 2)
    start = 0
    for part in parts:
        matrix[start : start + len(part), start : start + len(part)] = part
        start += len(part)
    rotated: Array = hidden @ matrix
    return rotated


def activated(x: Array, activation: str) -> Array:
    """SiLU, or GELU by its approximation with a tanh."""
    if activation == "silu":
        return np.asarray(x / (1 + np.exp(-x)))
    return np.asarray(0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))))
