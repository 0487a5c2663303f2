"""One node as a model, run in every way a body can be run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Final

import numpy as np
import onnx
import onnx.inliner
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from onnx_ir.passes.common import InlinePass

from resq_onnx.functions import Form, add_call

Array = NDArray[Any]
IR_VERSION: Final = 10
PER_CALL: Final = {
    *("X", "residual", "gate_up", "QKV", "past_key", "past_value"),
    *("attention_mask", "position_ids", "cached", "cache_rows", "indices"),
}
"""Inputs of an operator that change with every call; the others are initializers of the model."""


def empty_model() -> ir.Model:
    """A model without nodes that imports opset 23."""
    graph = ir.Graph([], [], nodes=[], opset_imports={"": 23}, name="test")
    return ir.Model(graph, ir_version=IR_VERSION)


@cache
def _function(form: Form) -> onnx.FunctionProto:
    """The form's function, traced once for all tests."""
    return ir.serde.serialize_function(form.function())


def add_node(
    model: ir.Model,
    form: Form,
    arrays: Mapping[str, Array],
    attributes: Mapping[str, float] | None = None,
    prefix: str = "",
) -> ir.Node:
    """Append a node whose inputs are graph inputs or initializers named as the operator's."""
    inputs: list[ir.Value | None] = []
    for parameter in form.inputs():
        if parameter.name not in arrays:
            inputs.append(None)
            continue
        array, name = arrays[parameter.name], prefix + parameter.name
        value = ir.Value(name=name, type=ir.TensorType(parameter.dtype))
        if parameter.name in PER_CALL:
            value.shape = ir.Shape([f"{name}_{i}" for i in range(array.ndim)])
            model.graph.inputs.append(value)
        else:
            value.const_value = ir.tensor(array, name=name)
            value.shape = ir.Shape(array.shape)
            model.graph.register_initializer(value)
        inputs.append(value)
    names = [prefix + output.name for output in form.outputs()]
    function = ir.serde.deserialize_function(_function(form))
    model.functions[function.identifier()] = function
    node = add_call(model, form, inputs, attributes or {}, f"{prefix}node", names)
    first, *caches = node.outputs
    rank = arrays[form.inputs()[0].name].ndim
    first.shape = ir.Shape([f"{first.name}_{i}" for i in range(rank)])
    for value in caches:
        value.shape = ir.Shape([f"{value.name}_{i}" for i in range(4)])
    model.graph.append(node)
    model.graph.outputs.extend(node.outputs)
    return node


def model_of(
    form: Form, arrays: Mapping[str, Array], attributes: Mapping[str, float] | None = None
) -> ir.Model:
    """A model of one node."""
    model = empty_model()
    add_node(model, form, arrays, attributes)
    return model


def session(
    proto: onnx.ModelProto, *, optimised: bool = True, folded: bool = False
) -> ort.InferenceSession:
    """An ONNX Runtime session without our library.

    Args:
        proto: The model.
        optimised: All graph optimisations, or none.
        folded: Whether weights may be dequantised once, when the session is made.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimised else level.ORT_DISABLE_ALL
    options.add_session_config_entry("session.disable_quant_qdq", str(int(folded)))
    return ort.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _in_onnxruntime(**options: bool) -> Callable[[ir.Model, dict[str, Array]], list[Array]]:
    def run(model: ir.Model, feeds: dict[str, Array]) -> list[Array]:
        return list(session(ir.to_proto(model), **options).run(None, feeds))

    return run


def _in_reference(model: ir.Model, feeds: dict[str, Array]) -> list[Array]:
    return list(ReferenceEvaluator(ir.to_proto(model)).run(None, feeds))


def _inlined_by_onnx_ir(model: ir.Model, feeds: dict[str, Array]) -> list[Array]:
    copy = ir.from_proto(ir.to_proto(model))
    InlinePass()(copy)
    assert not copy.functions
    return list(session(ir.to_proto(copy)).run(None, feeds))


def _inlined_by_onnx(model: ir.Model, feeds: dict[str, Array]) -> list[Array]:
    proto = onnx.inliner.inline_local_functions(ir.to_proto(model))
    assert not proto.functions
    return list(ReferenceEvaluator(proto).run(None, feeds))


ENGINES: Final[dict[str, Callable[[ir.Model, dict[str, Array]], list[Array]]]] = {
    "onnxruntime": _in_onnxruntime(),
    "onnxruntime unoptimised": _in_onnxruntime(optimised=False),
    "onnxruntime folded": _in_onnxruntime(folded=True),
    "reference": _in_reference,
    "inlined by onnx_ir": _inlined_by_onnx_ir,
    "inlined by onnx": _inlined_by_onnx,
}


def run(
    engine: str,
    form: Form,
    arrays: Mapping[str, Array],
    attributes: Mapping[str, float] | None = None,
) -> list[Array]:
    """The outputs of one node.

    Args:
        engine: A key of `ENGINES`.
        form: The node's form.
        arrays: By name, every input the form has.
        attributes: What the form leaves to the node.
    """
    return ENGINES[engine](model_of(form, arrays, attributes), feeds_of(arrays))


def feeds_of(arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Those of an operator's inputs that are inputs of its model."""
    return {name: array for name, array in arrays.items() if name in PER_CALL}


def assert_close(actual: Array, expected: Array, relative: float) -> None:
    """Equal to within `relative` of the largest expected magnitude."""
    assert actual.shape == expected.shape
    largest = float(np.abs(expected).max(initial=0.0))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=relative * max(largest, 1e-30))
