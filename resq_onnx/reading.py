"""ONNX files as graphs, whose weights stay where they are until somebody reads them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx_ir as ir

from resq_onnx.errors import ResqError
from resq_onnx.runtime.session import check_is_file


def read_graph(path: Path) -> ir.Model:
    """Read a file.

    Raises:
        ResqError: It cannot be read as an ONNX model, or its data is missing or cut off.
    """
    check_is_file(path)
    try:
        model = ir.load(path)
    except Exception as error:  # protobuf's own, which has no public base class
        raise ResqError(f"{path}: not an ONNX model ({error})") from error
    if not model.graph.outputs:  # an empty file is a valid protobuf message
        raise ResqError(f"{path}: not an ONNX model (it has no outputs); export it again")
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
