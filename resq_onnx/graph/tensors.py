"""Weights as recipes: a tensor that is computed when the file is written, and not kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray


class FoldedTensor(ir.LazyTensor):
    """A float32 tensor given by a function; folds compose in float64 and round once.

    Holding a recipe instead of values keeps the memory of an export at one tensor,
    however large the model.
    """

    def __init__(
        self, compute: Callable[[], NDArray[Any]], shape: Sequence[int], name: str | None
    ) -> None:
        """Describe a tensor of `shape` that `compute()` returns, in any float type."""
        super().__init__(self._rounded, ir.DataType.FLOAT, ir.Shape(shape), name=name)
        self.compute = compute

    def _rounded(self) -> ir.TensorProtocol:
        return ir.Tensor(np.ascontiguousarray(self.compute(), dtype=np.float32), name=self.name)


class SameBytes(ir.LazyTensor):
    """The bytes of another tensor as UINT8 of another shape, to be stored once for both.

    `save_model` points both to one place, if the graph has both.
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

    The even element is in the low nibble, as ONNX packs.
    """

    def __init__(self, packed: ir.TensorProtocol) -> None:
        """Describe the bytes of a tensor whose last dimension is even."""
        *rest, last = dims(packed)
        super().__init__(packed, (*rest, last // 2))


def dims(tensor: ir.TensorProtocol) -> tuple[int, ...]:
    """The sizes of a tensor, which are always known."""
    return tuple(dim for dim in tensor.shape if isinstance(dim, int))


def read_float64(tensor: ir.TensorProtocol | None) -> NDArray[np.float64]:
    """The values of a weight; a FoldedTensor's are not rounded to float32 on the way."""
    assert tensor is not None, "a weight without values"
    if isinstance(tensor, FoldedTensor):
        return np.asarray(tensor.compute(), dtype=np.float64)
    values = np.array(tensor.numpy(), dtype=np.float64)
    if isinstance(tensor, ir.ExternalTensor):
        tensor.release()  # the copy is ours; the file need not stay mapped
    return values


def rows_of(tensor: ir.TensorProtocol | None, begin: int, end: int) -> ir.TensorProtocol:
    """Some rows of a weight, read from where it is."""
    assert tensor is not None, "a weight without values"
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
    whole = tensor.compute if isinstance(tensor, FoldedTensor) else tensor.numpy
    return FoldedTensor(lambda: whole()[begin:end], shape, tensor.name)


def fold(
    value: ir.Value,
    function: Callable[[NDArray[np.float64]], NDArray[np.float64]],
) -> None:
    """Replace a weight W by function(W), computed later; the shape stays."""
    before = value.const_value
    assert before is not None, f"{value.name} has no values"
    value.const_value = FoldedTensor(
        lambda: function(read_float64(before)), dims(before), value.name
    )


class Shared:
    """One computation behind several tensors: done once, dropped when each part was taken.

    A quantised matrix is four tensors of the file, written one after the other.
    """

    def __init__(self, compute: Callable[[], tuple[NDArray[Any], ...]]) -> None:
        """Describe a computation whose result has a fixed number of parts."""
        self._compute = compute
        self._parts: dict[int, NDArray[Any]] = {}

    def part(self, index: int) -> NDArray[Any]:
        """Part `index`; computes everything if this part is not at hand."""
        if index not in self._parts:
            self._parts = dict(enumerate(self._compute()))
        return self._parts.pop(index)
