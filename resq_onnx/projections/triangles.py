"""Symmetric matrices as their upper triangles: half the bytes in a file."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

TILE: Final = 256
"""Side of the squares that are transposed at a time, so that they stay in cache."""


def triangle_size(width: int) -> int:
    """Elements of the upper triangle of a matrix (width, width), its diagonal included."""
    return width * (width + 1) // 2


def pack(matrices: Array) -> NDArray[np.float32]:
    """The upper triangles of symmetric matrices (..., n, n) as (..., n (n + 1) / 2)."""
    size = matrices.shape[-1]
    packed = np.empty((*matrices.shape[:-2], triangle_size(size)), np.float32)
    for row, (start, end) in enumerate(_rows(size)):
        packed[..., start:end] = matrices[..., row, row:]
    return packed


def unpack(triangles: Array) -> NDArray[np.float32]:
    """The inverse of `pack`.

    Raises:
        ValueError: No triangle has that many elements.
    """
    elements = triangles.shape[-1]
    size = (int(np.sqrt(8 * elements + 1)) - 1) // 2
    if triangle_size(size) != elements:
        raise ValueError(f"a triangle cannot have {elements} elements")
    full = np.empty((*triangles.shape[:-1], size, size), np.float32)
    for row, (start, end) in enumerate(_rows(size)):
        full[..., row, row:] = triangles[..., start:end]
        inside = slice(row, row - row % TILE + TILE)
        full[..., inside, row] = full[..., row, inside]
    for start in range(0, size, TILE):
        rows = slice(start, start + TILE)
        for after in range(start + TILE, size, TILE):
            columns = slice(after, after + TILE)
            full[..., columns, rows] = np.swapaxes(full[..., rows, columns].copy(), -2, -1)
    return full


def _rows(size: int) -> list[tuple[int, int]]:
    """Where each row of the upper triangle begins and ends among its elements."""
    ends = np.cumsum(np.arange(size, 0, -1))
    return [(int(end) - size + row, int(end)) for row, end in enumerate(ends)]
