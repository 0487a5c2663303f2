"""Read an exported graph to change it in memory; its weights stay in their file."""

from __future__ import annotations

from pathlib import Path

import onnx

from resq_onnx.errors import ResqError
from resq_onnx.files import check_is_file


def read_proto(path: str | Path) -> onnx.ModelProto:
    """Read a file without the weights beside it, which are then named as behind their links.

    ONNX Runtime reads links for a graph in a file, but not for one in memory.

    Raises:
        ResqError: There is no such file, or it is not an ONNX model.
    """
    path = Path(path)
    check_is_file(path)
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's own, which has no public base class
        raise ResqError(f"{path}: not an ONNX model ({error}); export it again") from None
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location" and (beside := path.parent / entry.value).is_symlink():
                entry.value = beside.resolve().name
    return model
