"""Read and write ONNX files: weights are read when they are used, and written one at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import onnx_ir as ir

from resq_onnx.errors import ResqError, blaming
from resq_onnx.files import check_is_file
from resq_onnx.graph.tensors import SameBytes, dims

DATA_ALIGNMENT: Final = 64
"""Every tensor starts on a cache line: kernels read weights where the file is mapped."""

AGAIN: Final = "export it again"
"""What to do with a damaged file."""

KEPT_IN_GRAPH: Final = 256
"""Bytes up to which a tensor stays in the .onnx file, where shape inference can read it."""


def read_graph(path: Path) -> ir.Model:
    """Read a file.

    Raises:
        ResqError: It cannot be read as an ONNX model, or its data is missing or cut off.
    """
    check_is_file(path)
    with blaming(path, "not an ONNX model", AGAIN):
        model = ir.load(path)
        if not model.graph.outputs:  # an empty file is a valid protobuf message
            raise ResqError(f"{path}: not an ONNX model: it has no outputs; {AGAIN}")
        _check_data(model.graph.initializers)
    return model


def _check_data(initializers: Mapping[str, ir.Value]) -> None:
    """Refuse tensors that lie outside of their file."""
    for name, value in initializers.items():
        tensor = value.const_value
        if not isinstance(tensor, ir.ExternalTensor):
            continue
        file = Path(tensor.path)
        size = file.stat().st_size if file.is_file() else None
        end = (tensor.offset or 0) + (tensor.length or tensor.nbytes)
        if size is None or end > size:
            found = "does not exist" if size is None else f"has {size} bytes"
            raise ResqError(
                f"{file}: tensor {name} ends at byte {end} and the file {found}; export it again"
            )


def save_model(
    graph: ir.Model, path: Path, progress: Callable[[int, int], None] | None = None
) -> None:
    """Write a model; weights are computed one at a time, and those that share bytes written once.

    Args:
        graph: Stays as it is.
        path: The .onnx file; its data lies beside it.
        progress: Called with the number of tensors written and of all.
    """

    def advance(_tensor: ir.TensorProtocol, info: ir.external_data.CallbackInfo) -> None:
        if progress is not None:
            progress(info.index + 1, info.total)

    initializers = graph.graph.initializers
    tensors = {value: value.const_value for value in initializers.values()}
    views = {
        value: tensor
        for value, tensor in tensors.items()
        if isinstance(tensor, SameBytes) and tensor.packed.name in initializers
    }
    try:
        for value in views:
            value.const_value = None  # so that nothing is written for it
        ir.external_data.unload_from_model(
            graph,
            path.parent,
            f"{path.name}.data",
            size_threshold_bytes=KEPT_IN_GRAPH,
            callback=advance,
            alignment=DATA_ALIGNMENT,
            align_threshold=0,
        )
        for value, view in views.items():
            assert view.packed.name is not None
            value.const_value = _at_the_place_of(initializers[view.packed.name].const_value, view)
        ir.save(graph, path)
    finally:
        for value, tensor in tensors.items():
            value.const_value = tensor


def _at_the_place_of(stored: ir.TensorProtocol | None, view: SameBytes) -> ir.TensorProtocol:
    """A view as a tensor whose bytes are those of another one, which was stored."""
    if not isinstance(stored, ir.ExternalTensor):  # too small for the data file
        return view
    assert view.name is not None
    return ir.ExternalTensor(
        stored.location,
        stored.offset,
        stored.length,
        view.dtype,
        shape=ir.Shape(dims(view)),
        name=view.name,
        base_dir=stored.base_dir,
    )
