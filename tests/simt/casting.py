"""A node in 16 bits, in a model that takes and gives float32: numpy has no bfloat16 to feed."""

from __future__ import annotations

from typing import Any, Final

import ml_dtypes
import numpy as np
import onnx
import onnx.helper as oh
from numpy.typing import NDArray
from onnx import TensorProto

from tests.custom_ops.kernels import HALVED, Node, open_session

Array = NDArray[Any]

ELEMENT_TYPES: Final = {"float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}

NUMPY_TYPES: Final[dict[str, Any]] = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}

UNIT_ROUNDOFF: Final = {"float16": 2.0**-11, "bfloat16": 2.0**-8}
"""Half of what a significand of 11, or 8, bits leaves out."""


def rounded(array: Array, dtype: str) -> Array:
    """To 16 bits and back."""
    result: Array = array.astype(NUMPY_TYPES[dtype]).astype(np.float32)
    return result


def with_rounded(node: Node, dtype: str) -> Node:
    """The node with activations that 16 bits hold exactly, in float32."""
    names = [name for name in HALVED if name in node.arrays]
    return node.with_arrays(**{name: rounded(node.arrays[name], dtype) for name in names})


def model_in(node: Node, dtype: str) -> bytes:
    """A model of the node with T of 16 bits."""
    model = onnx.load_from_string(node.model())
    graph = model.graph
    (operator,) = graph.node
    casts = []
    for i, name in enumerate(operator.input):
        if name in HALVED:
            casts.append(oh.make_node("Cast", [name], [f"{name}_16"], to=ELEMENT_TYPES[dtype]))
            operator.input[i] = f"{name}_16"
    output = operator.output[0]
    operator.output[0] = f"{output}_16"
    back = oh.make_node("Cast", [f"{output}_16"], [output], to=TensorProto.FLOAT)
    nodes = [*casts, operator, back]
    del graph.node[:]
    graph.node.extend(nodes)
    return bytes(model.SerializeToString())


def run_in(node: Node, dtype: str) -> list[Array]:
    """The outputs of the node with T of 16 bits, the first as float32."""
    return list(open_session(model_in(node, dtype)).run(None, node.feeds()))
