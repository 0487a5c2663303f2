"""Quantised weights in the block layout of ONNX Runtime's MatMulNBits and GatherBlockQuantized.

W (N, K) as integers with a scale per row, S (N,)  →  bytes (N, blocks, block · bits / 8) and scales
(N, blocks). Integers are stored unsigned, q + 2^(bits - 1), with the even column in the low nibble.
All blocks of a row share its scale. The last block is padded with integers 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from resq_onnx.graph.tensors import dims

BLOCK_SIZES: Final = (128, 64, 32, 16)
"""Allowed block sizes: powers of two from 16. Sizes above 128 are not faster."""

SCALE_BYTES: Final = 4

BITS: Final = {ir.DataType.INT4: 4, ir.DataType.INT8: 8}
"""Number of bits by integer type of a part."""


@dataclass(frozen=True)
class Blocks:
    """One part of a quantised matrix in blocks.

    Attributes:
        rows: N.
        columns: K, without padding.
        bits: 4 or 8.
        size: Columns per block.
        weight: The bytes, UINT8 (N, blocks, size · bits / 8).
        scale: FLOAT (N, blocks).
    """

    rows: int
    columns: int
    bits: int
    size: int
    weight: ir.Value
    scale: ir.Value

    @property
    def name(self) -> str:
        """Name of the initializer that holds the bytes."""
        assert self.weight.name is not None
        return self.weight.name

    @property
    def padded(self) -> int:
        """Number of columns including the padding of the last block."""
        return -(-self.columns // self.size) * self.size


def block_size(columns: int, bits: int) -> int:
    """The block size that minimises the bytes of a row; the largest one on a tie."""

    def row_bytes(size: int) -> int:
        return -(-columns // size) * (size * bits // 8 + SCALE_BYTES)

    return min(BLOCK_SIZES, key=row_bytes)


def in_blocks(weight: ir.Value, scale: ir.Value) -> Blocks:
    """Store a part of a quantised matrix in blocks, under its existing names.

    Args:
        weight: An initializer, INT4 or INT8, (N, K).
        scale: An initializer, FLOAT, (N,).
    """
    stored, scales = weight.const_value, scale.const_value
    assert stored is not None
    assert scales is not None
    rows, columns = dims(stored)
    bits = BITS[stored.dtype]
    size = block_size(columns, bits)
    count = -(-columns // size)

    def packed() -> ir.TensorProtocol:
        filled = np.zeros((rows, count * size), np.int8)
        filled[:, :columns] = stored.numpy().astype(np.int8)
        return ir.Tensor(pack(filled, bits).reshape(rows, count, -1))

    def repeated() -> ir.TensorProtocol:
        return ir.Tensor(np.repeat(scales.numpy()[:, None], count, axis=1))

    _store(weight, packed, ir.DataType.UINT8, (rows, count, size * bits // 8))
    _store(scale, repeated, ir.DataType.FLOAT, (rows, count))
    return Blocks(rows, columns, bits, size, weight, scale)


def _store(
    value: ir.Value,
    compute: Callable[[], ir.TensorProtocol],
    dtype: ir.DataType,
    shape: tuple[int, ...],
) -> None:
    value.const_value = ir.LazyTensor(compute, dtype, ir.Shape(shape), name=value.name)
    value.type, value.shape = ir.TensorType(dtype), ir.Shape(shape)


def pack(integers: NDArray[np.int8], bits: int) -> NDArray[np.uint8]:
    """Signed integers (N, K) of 4 or 8 bits as unsigned bytes (N, K · bits / 8)."""
    unsigned = (integers.astype(np.int16) + (1 << (bits - 1))).astype(np.uint8)
    if bits == 8:
        return unsigned
    return np.asarray(unsigned[:, ::2] | (unsigned[:, 1::2] << 4), np.uint8)
