"""Where the residual stream is, on graphs whose answer one can see."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from resq_onnx.errors import ResqError
from resq_onnx.runtime.residual_stream import residual_stream

LAYER = (
    "Mul({0}, model.layers.{2}.norm.weight) -> {2}.normed",
    "MatMul({2}.normed, model.layers.{2}.up.weight) -> {2}.up",
    "MatMul({2}.up, model.layers.{2}.down.weight) -> {2}.down",
    "Add({0}, {2}.down) -> {1}",
)
"""One layer from a value to another: a norm, two matrices, and the residual."""

EMBEDDING = ("Gather(model.embed.weight, input_ids) -> rows", "Mul(rows, factor) -> x0")
HEAD = ("Mul(x2, model.norm.weight) -> normed", "MatMul(normed, head.weight) -> logits")


def layer(number: int, source: str, target: str) -> tuple[str, ...]:
    return tuple(line.format(source, target, number) for line in LAYER)


def graph_of(*lines: str) -> onnx.GraphProto:
    """A graph from lines such as `Add(a, b) -> c`; what nothing makes is a weight."""
    nodes = []
    for line in lines:
        call, _, outputs = line.partition(" -> ")
        operator, _, inputs = call.removesuffix(")").partition("(")
        nodes.append(helper.make_node(operator, inputs.split(", "), outputs.split(", ")))
    made = {name for node in nodes for name in node.output} | {"input_ids"}
    weights = sorted({name for node in nodes for name in node.input} - made)
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "new"])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)
    tensors = [numpy_helper.from_array(np.zeros(1, np.float32), name) for name in weights]
    return helper.make_graph(nodes, "graph", [ids], [logits], tensors)


def test_the_stream_is_the_embedding_and_what_each_layer_hands_on() -> None:
    graph = graph_of(*EMBEDDING, *layer(0, "x0", "x1"), *layer(1, "x1", "x2"), *HEAD)
    assert residual_stream(graph) == ["x0", "x1", "x2"]


def test_weights_may_be_prepared_long_before_they_are_used() -> None:
    early = "Transpose(model.layers.1.up.stored) -> up"
    second = [line.replace("model.layers.1.up.weight", "up") for line in layer(1, "x1", "x2")]
    graph = graph_of(early, *EMBEDDING, *layer(0, "x0", "x1"), *second, *HEAD)
    assert residual_stream(graph) == ["x0", "x1", "x2"]


def test_a_shape_that_is_read_from_the_stream_is_no_way_around() -> None:
    shape = ("Shape(x0) -> shape", "Reshape(x1, shape) -> x1b")
    graph = graph_of(*EMBEDDING, *layer(0, "x0", "x1"), *shape, *layer(1, "x1b", "x2"), *HEAD)
    assert residual_stream(graph) == ["x0", "x1", "x2"]


def test_a_cache_that_is_written_is_no_way_around_either() -> None:
    cache = "Identity(0.up) -> present.0.key"
    graph = graph_of(*EMBEDDING, *layer(0, "x0", "x1"), cache, *layer(1, "x1", "x2"), *HEAD)
    assert residual_stream(graph) == ["x0", "x1", "x2"]


def test_a_way_around_a_layer_is_an_error_that_names_it() -> None:
    around = "Add(x1, x0) -> both"
    graph = graph_of(
        *EMBEDDING, *layer(0, "x0", "x1"), *layer(1, "x1", "late"), around, "Add(late, both) -> x2",
        *HEAD,
    )  # fmt: skip
    with pytest.raises(
        ResqError, match="no one value through which everything passes behind layer 0"
    ):
        residual_stream(graph)


def test_layers_that_are_not_numbered_one_by_one_are_an_error() -> None:
    graph = graph_of(*EMBEDDING, *layer(0, "x0", "x1"), *layer(7, "x1", "x2"), *HEAD)
    with pytest.raises(ResqError, match=r"no weights named model\.layers\.0\."):
        residual_stream(graph)


def test_a_graph_without_layers_is_an_error() -> None:
    with pytest.raises(ResqError, match="give a file that resq-onnx export wrote"):
        residual_stream(graph_of("Mul(input_ids, a) -> x2", *HEAD))


def test_a_sum_that_comes_with_its_norm_is_where_a_layer_ends() -> None:
    """The norm's gain is the next layer's, and the last sum is read by nobody."""
    fused = "SkipSimplifiedLayerNormalization({0}, {2}.down, {3}) -> {1}.normed, , , {1}"
    layers = [
        line
        for number, gain in enumerate(("model.layers.1.norm.weight", "model.norm.weight"))
        for line in (
            f"MatMul({{0}}.normed, model.layers.{number}.up.weight) -> {{2}}.up",
            f"MatMul({{2}}.up, model.layers.{number}.down.weight) -> {{2}}.down",
            fused,
        )
        for line in [line.format(f"x{number}", f"x{number + 1}", number, gain)]
    ]
    first = "Mul(x0, model.layers.0.norm.weight) -> x0.normed"
    graph = graph_of(*EMBEDDING, first, *layers, "MatMul(x2.normed, head.weight) -> logits")
    assert residual_stream(graph) == ["x0", "x1", "x2"]
