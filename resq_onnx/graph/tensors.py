"""Lazy weights: tensors that are computed when the file is written, and not kept in memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

Rows = NDArray[np.int64] | slice
"""Which rows of a matrix: their numbers, or a range."""

ELEMENTS_AT_A_TIME: Final = 1 << 22
"""Elements that are computed in float64 at a time, where rows can be computed separately."""


class FoldedTensor(ir.LazyTensor):
    """A float32 tensor given by a function; folds compose in float64 and round once.

    Storing a function instead of values limits the memory of an export to one tensor, however
    large the model is.

    Attributes:
        compute: Computes the whole tensor.
        rows: Computes some rows of it; None if they cannot be computed alone.
    """

    def __init__(
        self,
        compute: Callable[[], NDArray[Any]],
        shape: Sequence[int],
        name: str | None,
        rows: Callable[[Rows], NDArray[Any]] | None = None,
    ) -> None:
        """Describe a tensor of `shape`, computed by `compute()` in any float type."""
        super().__init__(self._rounded, ir.DataType.FLOAT, ir.Shape(shape), name=name)
        self.compute = compute
        self.rows = rows

    def _rounded(self) -> ir.TensorProtocol:
        blocks = [] if self.rows is None else row_blocks(dims(self))
        if len(blocks) < 2:
            return ir.Tensor(np.ascontiguousarray(self.compute(), dtype=np.float32), name=self.name)
        assert self.rows is not None
        values = np.empty(dims(self), np.float32)
        for block in blocks:
            values[block] = self.rows(block)
        return ir.Tensor(values, name=self.name)


def row_blocks(shape: Sequence[int]) -> list[slice]:
    """Ranges that cover the rows of a matrix, each of at most `ELEMENTS_AT_A_TIME` elements."""
    count, width = shape[0], math.prod(shape[1:])
    step = max(1, ELEMENTS_AT_A_TIME // max(width, 1))
    return [slice(start, min(start + step, count)) for start in range(0, count, step)]


class SameBytes(ir.LazyTensor):
    """The bytes of another tensor as UINT8 with another shape, stored once for both.

    `save_model` points both tensors to the same bytes if the graph has both.
    """

    def __init__(self, packed: ir.TensorProtocol, shape: Sequence[int]) -> None:
        """Describe the bytes of a tensor, as many as `shape` has elements."""
        super().__init__(
            lambda: ir.Tensor(np.frombuffer(packed.tobytes(), np.uint8).reshape(shape)),
            ir.DataType.UINT8,
            ir.Shape(shape),
        )
        self.packed = packed


class PackedBytes(SameBytes):
    """The bytes of a 4-bit tensor (..., n) as UINT8 (..., n / 2).

    The even element is in the low nibble, as in ONNX.
    """

    def __init__(self, packed: ir.TensorProtocol) -> None:
        """Describe the bytes of a tensor whose last dimension is even."""
        *rest, last = dims(packed)
        super().__init__(packed, (*rest, last // 2))


def dims(tensor: ir.TensorProtocol) -> tuple[int, ...]:
    """The sizes of a tensor; all of them are known."""
    return tuple(dim for dim in tensor.shape if isinstance(dim, int))


def read_float64(tensor: ir.TensorProtocol | None) -> NDArray[np.float64]:
    """The values of a weight; a FoldedTensor's are not rounded to float32 on the way."""
    assert tensor is not None, "the weight has no values"
    if isinstance(tensor, FoldedTensor):
        return np.asarray(tensor.compute(), dtype=np.float64)
    values = np.array(tensor.numpy(), dtype=np.float64)
    if isinstance(tensor, ir.ExternalTensor):
        tensor.release()  # values are copied, so the file need not stay mapped
    return values


def read_rows(tensor: ir.TensorProtocol | None, rows: Rows) -> NDArray[np.float64]:
    """Some rows of a weight, as `read_float64` gives them; no others if that is possible."""
    assert tensor is not None, "the weight has no values"
    if isinstance(tensor, FoldedTensor):
        found = tensor.compute()[rows] if tensor.rows is None else tensor.rows(rows)
        return np.asarray(found, dtype=np.float64)
    values = np.array(tensor.numpy()[rows], dtype=np.float64)
    if isinstance(tensor, ir.ExternalTensor):
        tensor.release()
    return values


def rows_of(tensor: ir.TensorProtocol | None, begin: int, end: int) -> ir.TensorProtocol:
    """A range of rows of a weight; rows of a file are not loaded."""
    assert tensor is not None, "the weight has no values"
    rows, *rest = dims(tensor)
    shape = (end - begin, *rest)
    if isinstance(tensor, ir.ExternalTensor):
        row = tensor.nbytes // rows
        return ir.ExternalTensor(
            tensor.location,
            (tensor.offset or 0) + begin * row,
            (end - begin) * row,
            tensor.dtype,
            shape=ir.Shape(shape),
            name=tensor.name or "",
            base_dir=tensor.base_dir,
        )
    return FoldedTensor(lambda: read_rows(tensor, slice(begin, end)), shape, tensor.name)


def fold(
    value: ir.Value,
    function: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    *,
    by_rows: bool = False,
) -> None:
    """Replace a weight W by function(W), computed later; the shape stays the same.

    Args:
        value: The weight.
        function: Of the weight.
        by_rows: Whether it computes each row from the same row alone.
    """
    before = value.const_value
    assert before is not None, f"{value.name} has no values"

    def rows(some: Rows) -> NDArray[np.float64]:
        return function(read_rows(before, some))

    value.const_value = FoldedTensor(
        lambda: function(read_float64(before)),
        dims(before),
        value.name,
        rows if by_rows else None,
    )


class Shared:
    """One computation shared by several tensors: done once, dropped when all parts are taken.

    A quantised matrix is four tensors in the file, written one after the other.
    """

    def __init__(self, compute: Callable[[], tuple[NDArray[Any], ...]]) -> None:
        """Describe a computation whose result has a fixed number of parts."""
        self._compute = compute
        self._parts: dict[int, NDArray[Any]] = {}

    def part(self, index: int) -> NDArray[Any]:
        """Return part `index`; computes all parts if this one is not available."""
        if index not in self._parts:
            self._parts = dict(enumerate(self._compute()))
        return self._parts.pop(index)
