"""Read and write ONNX files: weights are read when they are used, and written one at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import onnx_ir as ir

from resq_onnx.errors import ResqError, blaming
from resq_onnx.files import check_is_file
from resq_onnx.files.checks import check_stays_inside
from resq_onnx.graph.data_file import check_data, seal
from resq_onnx.graph.names import DATA_KEY
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
        ResqError: It cannot be read as an ONNX model, or its data is missing, cut off or another
            file's.
    """
    model = _load(path)
    check_data(path)
    with blaming(path, "not an ONNX model", AGAIN):
        if not model.graph.outputs:  # an empty file is a valid protobuf message
            raise ResqError(f"{path}: not an ONNX model: it has no outputs; {AGAIN}")
        _check_data(model.graph.initializers)
    return model


def data_files(path: Path) -> list[Path]:
    """The files in which a graph has its tensors, by what it says.

    Raises:
        ResqError: It cannot be read as an ONNX model.
    """
    tensors = (value.const_value for value in _load(path).graph.initializers.values())
    return sorted({Path(one.path) for one in tensors if isinstance(one, ir.ExternalTensor)})


def _load(path: Path) -> ir.Model:
    check_is_file(path)
    with blaming(path, "not an ONNX model", AGAIN):
        return ir.load(path)


def _check_data(initializers: Mapping[str, ir.Value]) -> None:
    """Refuse tensors that lie outside of their file, and files outside of the graph's folder.

    The tensors are then read by whole paths: onnx_ir refuses the links of a Hugging Face cache, and
    a file of several names.
    """
    for name, value in initializers.items():
        tensor = value.const_value
        if not isinstance(tensor, ir.ExternalTensor):
            continue
        file = Path(tensor.path)
        if Path(tensor.location).is_absolute() or ".." in Path(tensor.location).parts:
            raise ResqError(f"{file}: tensor {name} lies outside of the graph's folder")
        check_stays_inside(file)
        size = file.stat().st_size if file.is_file() else None
        end = (tensor.offset or 0) + (tensor.length or tensor.nbytes)
        if size is None or end > size:
            found = "does not exist" if size is None else f"has {size} bytes"
            raise ResqError(
                f"{file}: tensor {name} ends at byte {end} and the file {found}; export it again"
            )
        value.const_value = ir.ExternalTensor(
            file.resolve(),
            tensor.offset,
            tensor.length,
            tensor.dtype,
            shape=ir.Shape(dims(tensor)),
            name=tensor.name,
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
    properties = dict(graph.metadata_props)
    graph.metadata_props.pop(DATA_KEY, None)
    data = path.with_name(f"{path.name}.data")
    try:
        for value in views:
            value.const_value = None  # so that nothing is written for it
        ir.external_data.unload_from_model(
            graph,
            path.parent,
            data.name,
            size_threshold_bytes=KEPT_IN_GRAPH,
            callback=advance,
            alignment=DATA_ALIGNMENT,
            align_threshold=0,
        )
        for value, view in views.items():
            assert view.packed.name is not None
            value.const_value = _at_the_place_of(initializers[view.packed.name].const_value, view)
        if any(isinstance(value.const_value, ir.ExternalTensor) for value in tensors):
            graph.metadata_props[DATA_KEY] = seal(data)
        ir.save(graph, path)
    finally:
        graph.metadata_props.clear()
        graph.metadata_props.update(properties)
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
