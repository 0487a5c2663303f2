"""The cache record: the bytes of the key, or the value, of one token and one kv head.

Its sections in order; a section is present only if its part has coefficients:

| bytes              | what                                                                   |
|--------------------|------------------------------------------------------------------------|
| low / 2 (4 bits)   | low values, two per byte, the even element in the low nibble           |
| low (8 bits)       | low values, one per byte                                               |
| high               | high values                                                            |
| 2                  | scale of the low part, bfloat16, little endian, rounded up             |
| 1                  | zero point of the low part                                             |
| 2                  | scale of the high part, likewise                                       |
| 1                  | zero point of the high part                                            |
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from onnxscript import OpBuilder

from resq_onnx.functions._scale import levels, range_of_rows, scale_of_range, zero_point

MANTISSA: Final = 128.0
"""A bfloat16 has 7 bits of mantissa: bits = 128 * exponent field + 128 * fraction."""

POWERS: Final = np.array([0.0, *(2.0**e for e in range(-126, 128))], np.float32)
"""Value of a bfloat16 with fraction 0 by exponent field 0..254; subnormals never occur."""


@dataclass(frozen=True)
class Part:
    """One part of a record: `rank` coefficients of `bits` each."""

    name: str
    rank: int
    bits: int

    @property
    def value_bytes(self) -> int:
        """Bytes of the values."""
        return self.rank * self.bits // 8


@dataclass(frozen=True)
class RecordLayout:
    """Sizes and offsets of a record.

    Attributes:
        head_dim: Coefficients of a head, d.
        high_rank: Coefficients of the high part, h, always in 8 bits; they come last in a head.
        low_bits: Bits of the other d - h coefficients, 4 or 8.
    """

    head_dim: int
    high_rank: int
    low_bits: int = 4

    def __post_init__(self) -> None:
        if not 0 <= self.high_rank <= self.head_dim or self.low_bits not in (4, 8):
            raise ValueError(f"invalid layout of a cache record: {self}")
        if self.low_bits == 4 and self.low_rank % 2:
            raise ValueError(f"{self.low_rank} 4-bit values do not fill whole bytes: {self}")

    @property
    def low_rank(self) -> int:
        """Coefficients of the low part."""
        return self.head_dim - self.high_rank

    def parts(self) -> tuple[Part, ...]:
        """The parts that have coefficients, low before high."""
        both = (Part("low", self.low_rank, self.low_bits), Part("high", self.high_rank, 8))
        return tuple(part for part in both if part.rank)

    def sections(self) -> Iterator[tuple[str, int]]:
        """Name and size in bytes of every section, in order."""
        for part in self.parts():
            yield f"{part.name}_values", part.value_bytes
        for part in self.parts():
            yield f"{part.name}_scale", 2
            yield f"{part.name}_zero", 1

    def offset(self, section: str) -> int:
        """Offset of a section in bytes.

        Raises:
            KeyError: The record has no such section.
        """
        offset = 0
        for name, size in self.sections():
            if name == section:
                return offset
            offset += size
        raise KeyError(section)

    @property
    def size(self) -> int:
        """Bytes of one record, R."""
        return sum(size for _, size in self.sections())


def encode(op: OpBuilder, x: ir.Value, layout: RecordLayout) -> Any:
    """Quantise (batch, heads, tokens, d) into records (batch, heads, tokens, R) of UINT8."""
    values, ranges = [], []
    for part, columns in _parts_of(op, x, layout):
        least, greatest = range_of_rows(op, columns)
        unrounded = scale_of_range(op, least, greatest, part.bits)
        scale, low_byte, high_byte = _to_bfloat16(op, unrounded)
        zero = zero_point(op, least, scale)  # (batch, heads, tokens, 1)
        shifted = op.Add(op.Round(op.Div(columns, scale)), zero)
        integers = op.Clip(shifted, 0.0, levels(part.bits))
        values.append(_pack_nibbles(op, integers, part.rank) if part.bits == 4 else integers)
        ranges += [low_byte, high_byte, zero]
    return op.Cast(op.Concat(*values, *ranges, axis=-1), to=ir.DataType.UINT8)


def decode(op: OpBuilder, records: ir.Value, layout: RecordLayout) -> Any:
    """Dequantise records (batch, heads, tokens, R) to float32 (batch, heads, tokens, d)."""
    sizes = [size for _, size in layout.sections()]
    names = [name for name, _ in layout.sections()]
    found = op.Split(op.Cast(records, to=ir.DataType.FLOAT), sizes, axis=-1, _outputs=len(sizes))
    section = dict(zip(names, found, strict=True))
    columns = []
    for part in layout.parts():
        integers = section[f"{part.name}_values"]
        if part.bits == 4:
            integers = _unpack_nibbles(op, integers, part.rank)
        scale = _from_bfloat16(op, section[f"{part.name}_scale"])
        columns.append(op.Mul(op.Sub(integers, section[f"{part.name}_zero"]), scale))
    return op.Concat(*columns, axis=-1) if len(columns) > 1 else columns[0]


def _parts_of(op: OpBuilder, x: ir.Value, layout: RecordLayout) -> list[tuple[Part, Any]]:
    parts = layout.parts()
    if len(parts) == 1:
        return [(parts[0], x)]
    columns = op.Split(x, [part.rank for part in parts], axis=-1, _outputs=len(parts))
    return list(zip(parts, columns, strict=True))


def _to_bfloat16(op: OpBuilder, scale: ir.Value) -> tuple[Any, Any, Any]:
    """Round normal positive (..., 1) up to bfloat16: the rounded value, low byte, high byte.

    Opset 23 has no access to the bits of a float, so they are computed; every step is exact.
    """
    powers = op.Constant(value=ir.tensor(POWERS))
    reached = op.Cast(op.GreaterOrEqual(scale, powers), to=ir.DataType.FLOAT)  # (..., 255)
    exponent = op.Sub(op.ReduceSum(reached, [-1], keepdims=1), 1.0)  # POWERS[0] counts too.
    power = op.Gather(powers, op.Cast(exponent, to=ir.DataType.INT64))
    fraction = op.Ceil(op.Mul(op.Sub(op.Div(scale, power), 1.0), MANTISSA))  # 0..128
    # A fraction of 128 carries into the exponent, as intended.
    bits = op.Add(op.Mul(exponent, MANTISSA), fraction)
    rounded = op.Mul(power, op.Add(op.Div(fraction, MANTISSA), 1.0))
    high_byte = op.Floor(op.Div(bits, 256.0))
    return rounded, op.Sub(bits, op.Mul(high_byte, 256.0)), high_byte


def _from_bfloat16(op: OpBuilder, two_bytes: ir.Value) -> Any:
    """The value (..., 1) of the little-endian bytes (..., 2) of a bfloat16, as whole floats."""
    low_byte, high_byte = op.Split(two_bytes, axis=-1, num_outputs=2, _outputs=2)
    bits = op.Add(low_byte, op.Mul(high_byte, 256.0))
    exponent = op.Floor(op.Div(bits, MANTISSA))
    fraction = op.Sub(bits, op.Mul(exponent, MANTISSA))
    powers = op.Constant(value=ir.tensor(POWERS))
    power = op.Gather(powers, op.Cast(exponent, to=ir.DataType.INT64))
    return op.Mul(power, op.Add(op.Div(fraction, MANTISSA), 1.0))


def _pack_nibbles(op: OpBuilder, integers: ir.Value, rank: int) -> Any:
    """Pair up whole floats (batch, heads, tokens, rank): (..., rank / 2) of even + 16 * odd."""
    pairs = op.Reshape(integers, [0, 0, 0, rank // 2, 2])
    return op.ReduceSum(op.Mul(pairs, [1.0, 16.0]), [-1], keepdims=0)


def _unpack_nibbles(op: OpBuilder, packed: ir.Value, rank: int) -> Any:
    """The inverse of `_pack_nibbles`."""
    odd = op.Floor(op.Div(packed, 16.0))
    even = op.Sub(packed, op.Mul(odd, 16.0))
    pairs = op.Concat(op.Unsqueeze(even, [-1]), op.Unsqueeze(odd, [-1]), axis=-1)
    return op.Reshape(pairs, [0, 0, 0, rank])
