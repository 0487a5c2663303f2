"""Finding a module's nodes, and refusing by name what is not written as expected."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from resq_onnx.graph.modules import (
    find_linear,
    find_weight,
    make_linear,
    module_of,
    new_initializer,
    nodes_of,
    only_consumer,
    only_node,
    producer_of,
    remove,
    tag,
)
from resq_onnx.graph.names import MODULE_KEY
from tests.functions.engines import empty_model
from tests.passes.cases import Case

NAME = "model.layers.3.proj"


def linear_model(*, bias: bool) -> ir.Model:
    model = empty_model()
    x = ir.Value(name="x", shape=ir.Shape(["n", 4]), type=ir.TensorType(ir.DataType.FLOAT))
    model.graph.inputs.append(x)
    weight = new_initializer(model, f"{NAME}.weight", ir.tensor(np.ones((3, 4), np.float32)))
    added = None
    if bias:
        added = new_initializer(model, f"{NAME}.bias", ir.tensor(np.ones(3, np.float32)))
    nodes, result = make_linear(NAME, x, weight, added)
    model.graph.extend(nodes)
    model.graph.outputs.append(result)
    return model


@pytest.mark.parametrize("bias", [False, True])
def test_a_linear_layer_is_found_as_it_was_made(bias: bool) -> None:
    model = linear_model(bias=bias)
    linear = find_linear(model, NAME)
    assert linear.module == NAME
    expected = ["Transpose", "MatMul", "Add"][: 3 if bias else 2]
    assert [node.op_type for node in linear.nodes] == expected
    assert linear.multiply.op_type == "MatMul"
    assert linear.source is model.graph.inputs[0]
    assert linear.result is model.graph.outputs[0]
    assert (linear.bias is not None) == bias
    assert linear.weight.name == f"{NAME}.weight"
    assert {module_of(node) for node in linear.nodes} == {NAME}


def test_every_linear_layer_of_a_traced_model_is_found(case: Case) -> None:
    for layer in range(case.layout.num_layers):
        for role in ("query", "key", "value", "attention_out", "gate", "up", "down"):
            module = case.layout.module(layer, role)
            linear = find_linear(case.traced, module)
            torch_module = case.model.get_submodule(module)
            assert (linear.bias is not None) == (torch_module.bias is not None)
            assert {module_of(node) for node in linear.nodes} == {module}


def without_weight(model: ir.Model) -> None:
    del model.graph.initializers[f"{NAME}.weight"]


def with_two_transposes(model: ir.Model) -> None:
    weight = model.graph.initializers[f"{NAME}.weight"]
    model.graph.append(ir.node("Transpose", [weight], {"perm": [1, 0]}))


def with_two_products(model: ir.Model) -> None:
    linear = find_linear(model, NAME)
    model.graph.append(ir.node("MatMul", list(linear.multiply.inputs)))


def with_another_operator(model: ir.Model) -> None:
    find_linear(model, NAME).multiply.op_type = "Gemm"


def with_a_bias_that_is_not_added(model: ir.Model) -> None:
    find_linear(model, NAME).nodes[-1].op_type = "Sub"


def with_another_bias(model: ir.Model) -> None:
    add = find_linear(model, NAME).nodes[-1]
    add.replace_input_with(1, model.graph.inputs[0])


@pytest.mark.parametrize(
    "change",
    [
        without_weight,
        with_two_transposes,
        with_two_products,
        with_another_operator,
        with_a_bias_that_is_not_added,
        with_another_bias,
    ],
)
def test_a_layer_written_otherwise_is_refused_by_name(change: Callable[[ir.Model], None]) -> None:
    model = linear_model(bias=True)
    change(model)
    with pytest.raises(ValueError, match=NAME):
        find_linear(model, NAME)


def test_nodes_of_a_module_are_not_those_of_its_submodules() -> None:
    model = linear_model(bias=False)
    assert len(nodes_of(model, NAME)) == 2
    assert nodes_of(model, "model.layers.3") == []
    assert nodes_of(model, NAME[:-1]) == []


def test_the_only_node_of_a_type_is_found_or_refused_by_name() -> None:
    model = linear_model(bias=False)
    assert only_node(model, NAME, "MatMul") is find_linear(model, NAME).multiply
    with pytest.raises(ValueError, match=f"{NAME}: 0 Add nodes, expected 1"):
        only_node(model, NAME, "Add")


def test_the_only_reader_is_found_or_refused_by_name() -> None:
    model = linear_model(bias=False)
    assert only_consumer(model.graph.inputs[0], NAME) is find_linear(model, NAME).multiply
    with pytest.raises(ValueError, match=f"{NAME}: .* is read by 0 nodes, expected 1"):
        only_consumer(model.graph.outputs[0], NAME)


def test_a_parameter_is_found_or_refused_by_name() -> None:
    model = linear_model(bias=True)
    assert find_weight(model, NAME, "bias") is model.graph.initializers[f"{NAME}.bias"]
    with pytest.raises(ValueError, match=f"{NAME}: the graph has no initializer {NAME}.inv_freq"):
        find_weight(model, NAME, "inv_freq")


def test_a_producer_counts_only_if_it_has_the_type() -> None:
    model = linear_model(bias=True)
    result = model.graph.outputs[0]
    assert producer_of(result, "Add") is result.producer()
    assert producer_of(result, "MatMul") is None
    assert producer_of(model.graph.inputs[0], "MatMul") is None


def test_a_tag_names_module_and_outputs() -> None:
    node = tag(ir.node("Split", [ir.Value(name="x")], num_outputs=2, name="parts"), NAME)
    assert node.metadata_props[MODULE_KEY] == NAME
    assert [value.name for value in node.outputs] == ["parts.out", "parts.out1"]
    assert {value.dtype for value in node.outputs} == {ir.DataType.FLOAT}


def test_two_initializers_of_one_name_are_refused() -> None:
    model = linear_model(bias=False)
    with pytest.raises(ValueError, match=f"already has an initializer {NAME}.weight"):
        new_initializer(model, f"{NAME}.weight", ir.tensor(np.zeros(1)))


def test_weights_that_nobody_reads_go_with_their_nodes() -> None:
    model = linear_model(bias=True)
    linear = find_linear(model, NAME)
    model.graph.outputs[0] = model.graph.inputs[0]
    shared = linear.nodes[0]
    model.graph.append(ir.node("Neg", [linear.weight]))
    remove(model, list(linear.nodes))
    assert shared not in list(model.graph)
    assert set(model.graph.initializers) == {f"{NAME}.weight"}


def test_nodes_whose_results_are_read_are_not_removed() -> None:
    model = linear_model(bias=True)
    with pytest.raises(ValueError, match="is still"):
        remove(model, list(find_linear(model, NAME).nodes[:1]))
