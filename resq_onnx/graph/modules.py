"""Find and create the nodes of a module in a traced graph, by the module's name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx_ir as ir

from resq_onnx.families import ModelLayout
from resq_onnx.graph.names import MODULE_KEY
from resq_onnx.graph.tensors import dims, read_float64

INPUT_BASIS: Final = "input_basis"
"""Pseudo-module that owns the weight shared by the changes of basis behind all norms."""


@dataclass(frozen=True)
class Linear:
    """y = x · Wᵀ (+ b), as the tracer writes it: Transpose, MatMul and, with a bias, Add.

    Attributes:
        module: Full name of the Hugging Face module.
        nodes: All nodes in order; the first is the Transpose of the weight.
        source: x, (..., K).
        weight: W, (N, K).
        bias: b, (N,), or None.
        result: y, (..., N).
    """

    module: str
    nodes: tuple[ir.Node, ...]
    source: ir.Value
    weight: ir.Value
    bias: ir.Value | None
    result: ir.Value

    @property
    def rows(self) -> int:
        """Number of outputs, N."""
        assert self.weight.const_value is not None
        return dims(self.weight.const_value)[0]

    @property
    def multiply(self) -> ir.Node:
        """The MatMul."""
        return self.nodes[1]


def module_of(node: ir.Node) -> str:
    """Full name of the module of a node; empty outside all modules."""
    return node.metadata_props.get(MODULE_KEY, "")


def nodes_of(model: ir.Model, module: str) -> list[ir.Node]:
    """The nodes of one module without its submodules, in graph order."""
    return [node for node in model.graph if module_of(node) == module]


def only_node(model: ir.Model, module: str, op_type: str) -> ir.Node:
    """The only node of this type in a module, not counting submodules.

    Raises:
        ValueError: The module has none, or several.
    """
    found = [node for node in nodes_of(model, module) if node.op_type == op_type]
    if len(found) != 1:
        raise ValueError(f"{module}: {len(found)} {op_type} nodes, expected 1")
    return found[0]


def only_consumer(value: ir.Value, module: str) -> ir.Node:
    """The only node that reads a value.

    Raises:
        ValueError: No node reads it, or several; the message names `module`.
    """
    consumers = value.consumers()
    if len(consumers) != 1:
        raise ValueError(f"{module}: {value.name} is read by {len(consumers)} nodes, expected 1")
    return consumers[0]


def find_weight(model: ir.Model, module: str, parameter: str = "weight") -> ir.Value:
    """The initializer of a module's parameter.

    Raises:
        ValueError: The graph has no such initializer.
    """
    name = f"{module}.{parameter}"
    if name not in model.graph.initializers:
        raise ValueError(f"{module}: the graph has no initializer {name}")
    return model.graph.initializers[name]


def find_linear(model: ir.Model, module: str, owner: str | None = None) -> Linear:
    """The nodes of a linear layer, found from its weight.

    Args:
        model: The model.
        module: Full name of the layer.
        owner: The module whose weight it reads, if it does not have its own.

    Raises:
        ValueError: The graph has no such layer, or it is not written as expected.
    """
    name = f"{owner or module}.weight"
    if name not in model.graph.initializers:
        raise ValueError(f"{module}: the graph has no initializer {name}")
    weight = model.graph.initializers[name]
    transposes = [use for use in weight.consumers() if use.op_type == "Transpose"]
    if len(transposes) != 1:
        raise ValueError(f"{module}: its weight is read by {len(transposes)} Transpose nodes")
    multiply = only_consumer(transposes[0].outputs[0], module)
    source = multiply.inputs[0]
    if multiply.op_type != "MatMul" or source is None:
        raise ValueError(f"{module}: expected a MatMul, found {multiply.op_type}")
    bias = model.graph.initializers.get(f"{module}.bias")
    if bias is None:
        nodes: tuple[ir.Node, ...] = (transposes[0], multiply)
    else:
        add = only_consumer(multiply.outputs[0], module)
        if add.op_type != "Add" or bias not in add.inputs:
            raise ValueError(f"{module}: expected an Add of its bias, found {add.op_type}")
        nodes = (transposes[0], multiply, add)
    return Linear(module, nodes, source, weight, bias, nodes[-1].outputs[0])


def find_head(model: ir.Model, layout: ModelLayout, *, shared: bool) -> Linear:
    """lm_head, which reads its own weight, or that of the embedding if `shared`.

    Raises:
        ValueError: As for `find_linear`.
    """
    family = layout.family
    return find_linear(model, family.head, family.embedding if shared else None)


def head_input(layout: ModelLayout) -> str:
    """Name of the square linear layer before an lm_head that shares the embedding's table."""
    return f"{layout.family.head}.input"


def turned_input(layout: ModelLayout, layer: int, norm: str) -> str:
    """Name of the change of basis that follows a norm, in families that need one there."""
    return f"{layout.module(layer, norm)}.basis"


def read_halved(model: ir.Model, value: ir.Value, name: str) -> None:
    """Store an initializer in FLOAT16, with a Cast that a runtime folds when it loads the file.

    Args:
        model: The model to change.
        value: The initializer; all its readers are changed to read the Cast.
        name: Name of the Cast.
    """
    assert value.const_value is not None
    tensor, half = value.const_value, ir.DataType.FLOAT16

    def rounded() -> ir.TensorProtocol:
        return ir.Tensor(np.ascontiguousarray(read_float64(tensor), np.float16))

    first = next(node for node in model.graph if value in node.inputs)
    value.const_value = ir.LazyTensor(rounded, half, ir.Shape(dims(tensor)), name=value.name)
    value.type = ir.TensorType(half)
    cast = ir.node("Cast", [value], {"to": ir.DataType.FLOAT}, name=name)
    value.replace_all_uses_with(tag(cast, module_of(first)).outputs[0])
    cast.replace_input_with(0, value)
    model.graph.insert_before(first, cast)


def make_linear(
    module: str, source: ir.Value, weight: ir.Value, bias: ir.Value | None
) -> tuple[list[ir.Node], ir.Value]:
    """Create the nodes of y = x · Wᵀ (+ b) as the tracer does; returns them in order, and y."""
    transpose = ir.node("Transpose", [weight], {"perm": [1, 0]}, name=f"{module}.transpose")
    nodes = [transpose, ir.node("MatMul", [source, transpose.outputs[0]], name=f"{module}.matmul")]
    if bias is not None:
        nodes.append(ir.node("Add", [nodes[-1].outputs[0], bias], name=f"{module}.add"))
    for node in nodes:
        tag(node, module)
    return nodes, nodes[-1].outputs[0]


def tag(node: ir.Node, module: str) -> ir.Node:
    """Tag a node with its module, and name its unnamed outputs after the node."""
    node.metadata_props[MODULE_KEY] = module
    for index, value in enumerate(node.outputs):
        if value.name is None:
            value.name = f"{node.name}.out{index}" if index else f"{node.name}.out"
        value.type = value.type or ir.TensorType(ir.DataType.FLOAT)
    return node


def producer_of(value: ir.Value, op_type: str) -> ir.Node | None:
    """The node that computes a value, if it has this type; otherwise None."""
    node = value.producer()
    return node if node is not None and node.op_type == op_type else None


def new_initializer(model: ir.Model, name: str, tensor: ir.TensorProtocol) -> ir.Value:
    """Register a tensor as an initializer of the graph.

    Raises:
        ValueError: The graph already has an initializer of this name.
    """
    if name in model.graph.initializers:
        raise ValueError(f"the graph already has an initializer {name}")
    tensor.name = name
    value = ir.Value(
        name=name,
        shape=ir.Shape(dims(tensor)),
        type=ir.TensorType(tensor.dtype),
        const_value=tensor,
    )
    model.graph.register_initializer(value)
    return value


def remove(model: ir.Model, nodes: Sequence[ir.Node]) -> None:
    """Remove nodes with unused results, and then the initializers that only they read."""
    read = [value for node in nodes for value in node.inputs if value is not None]
    model.graph.remove(list(nodes), safe=True)
    for value in read:
        if value.is_initializer() and not value.uses() and value.name is not None:
            model.graph.initializers.pop(value.name, None)
