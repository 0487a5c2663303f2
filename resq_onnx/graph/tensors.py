"""Lazy weights: tensors that are computed when the file is written, and not kept in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray


class FoldedTensor(ir.LazyTensor):
    """A float32 tensor given by a function; folds compose in float64 and round once.

    Storing a function instead of values limits the memory of an export to one tensor, however
    large the model is.
    """

    def __init__(
        self, compute: Callable[[], NDArray[Any]], shape: Sequence[int], name: str | None
    ) -> None:
        """Describe a tensor of `shape`, computed by `compute()` in any float type."""
        super().__init__(self._rounded, ir.DataType.FLOAT, ir.Shape(shape), name=name)
        self.compute = compute

    def _rounded(self) -> ir.TensorProtocol:
        return ir.Tensor(np.ascontiguousarray(self.compute(), dtype=np.float32), name=self.name)


class WidenedTensor(FoldedTensor):
    """A tensor in a file, of another float type, as float32; its rows can be read alone."""

    def __init__(self, stored: ir.ExternalTensor) -> None:
        """Describe the values of a tensor, which stays in its file."""
        super().__init__(self._widened, dims(stored), stored.name)
        self.stored = stored

    def _widened(self) -> NDArray[np.float32]:
        values = np.array(self.stored.numpy(), np.float32)
        self.stored.release()
        return values


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


def reads_rows(tensor: ir.TensorProtocol) -> bool:
    """Whether `rows_of` reads the rows of this weight alone; others are computed as a whole."""
    return isinstance(tensor, ir.ExternalTensor | WidenedTensor)


def rows_of(tensor: ir.TensorProtocol | None, begin: int, end: int) -> ir.TensorProtocol:
    """A range of rows of a weight; rows of a file are not loaded."""
    assert tensor is not None, "the weight has no values"
    if isinstance(tensor, WidenedTensor):
        return WidenedTensor(_stored_rows(tensor.stored, begin, end))
    if isinstance(tensor, ir.ExternalTensor):
        return _stored_rows(tensor, begin, end)
    shape = (end - begin, *dims(tensor)[1:])
    whole = tensor.compute if isinstance(tensor, FoldedTensor) else tensor.numpy
    return FoldedTensor(lambda: whole()[begin:end], shape, tensor.name)


def _stored_rows(tensor: ir.ExternalTensor, begin: int, end: int) -> ir.ExternalTensor:
    rows, *rest = dims(tensor)
    row = tensor.nbytes // rows
    return ir.ExternalTensor(
        tensor.location,
        (tensor.offset or 0) + begin * row,
        (end - begin) * row,
        tensor.dtype,
        shape=ir.Shape((end - begin, *rest)),
        name=tensor.name or "",
        base_dir=tensor.base_dir,
    )


def fold(
    value: ir.Value,
    function: Callable[[NDArray[np.float64]], NDArray[np.float64]],
) -> None:
    """Replace a weight W by function(W), computed later; the shape stays the same."""
    before = value.const_value
    assert before is not None, f"{value.name} has no values"
    value.const_value = FoldedTensor(
        lambda: function(read_float64(before)), dims(before), value.name
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
