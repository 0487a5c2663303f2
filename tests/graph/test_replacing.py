"""One node in the place of others."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from resq_onnx.graph.replacing import put_in_place_of
from tests.functions.engines import empty_model

FLOAT = ir.TensorType(ir.DataType.FLOAT)


def chain() -> tuple[ir.Model, list[ir.Node]]:
    """x → Neg → Abs → Exp, y = the result of Abs, and Exp's."""
    model = empty_model()
    x = ir.Value(name="x", shape=ir.Shape(["n"]), type=FLOAT)
    model.graph.inputs.append(x)
    nodes, value = [], x
    for op_type in ("Neg", "Abs", "Exp"):
        node = ir.node(op_type, [value], name=op_type)
        value = node.outputs[0]
        value.name, value.type, value.shape = op_type.lower(), FLOAT, x.shape
        nodes.append(node)
    model.graph.extend(nodes)
    model.graph.outputs.extend([nodes[1].outputs[0], nodes[2].outputs[0]])
    return model, nodes


def test_readers_outputs_names_and_shapes_pass_over_to_the_new_node() -> None:
    model, (first, second, third) = chain()
    new = ir.node("Relu", [model.graph.inputs[0]], name="new")
    put_in_place_of(model, [first, second], new)
    assert [node.op_type for node in model.graph] == ["Relu", "Exp"]
    assert third.inputs[0] is new.outputs[0]
    assert model.graph.outputs[0] is new.outputs[0]
    assert [value.name for value in model.graph.outputs] == ["abs", "exp"]
    assert new.outputs[0].shape == ir.Shape(["n"])


def test_a_shape_that_the_new_node_knows_is_kept_where_the_old_had_none() -> None:
    model, (_, second, _) = chain()
    second.outputs[0].shape = None
    new = ir.node("Relu", list(second.inputs), name="new")
    new.outputs[0].shape = ir.Shape([5])
    put_in_place_of(model, [second], new)
    assert model.graph.outputs[0].shape == ir.Shape([5])


def test_results_of_inner_nodes_must_not_be_read_elsewhere() -> None:
    model, (first, second, _) = chain()
    model.graph.append(ir.node("Sin", [first.outputs[0]]))
    new = ir.node("Relu", [model.graph.inputs[0]], name="new")
    with pytest.raises(ValueError, match="is still"):
        put_in_place_of(model, [first, second], new)


def test_the_new_node_must_have_as_many_outputs() -> None:
    model, (_, second, _) = chain()
    new = ir.node("Split", list(second.inputs), num_outputs=2)
    with pytest.raises(ValueError, match="zip"):
        put_in_place_of(model, [second], new)
