"""Pieces of a float decoder graph that can be run alone: the embedding, one layer, the head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import onnx_ir as ir

from resq_onnx.families import ModelLayout
from resq_onnx.graph.modules import find_linear, only_node

STREAM: Final = "stream"
"""Name of a piece's input: the residual stream before it, (B, S, D)."""

HALVES: Final = {"attention_out": ("query", "key", "value"), "down": ("gate", "up")}
"""The halves of a layer: the role of the last linear layer of each, and those of the first ones."""


def embedding_piece(model: ir.Model, layout: ModelLayout) -> ir.Model:
    """From `input_ids` to the residual stream before the first layer."""
    return _piece(model, None, [_before_layer(model, layout, 0)])


def layer_piece(
    model: ir.Model, layout: ModelLayout, layer: int, inner: Sequence[ir.Value] = ()
) -> ir.Model:
    """One layer, from `STREAM` to the stream behind its attention, behind it, and inner values."""
    middle = _normed(model, layout.module(layer, "mlp_norm"))
    results = [middle, _before_layer(model, layout, layer + 1), *inner]
    return _piece(model, _before_layer(model, layout, layer), results)


def half_values(model: ir.Model, layout: ModelLayout, layer: int, out: str) -> list[ir.Value]:
    """Values inside a half of a layer, in the order in which they are computed.

    Args:
        model: Lifted.
        layout: Its layout.
        layer: Which layer.
        out: The role of the half's last linear layer, a key of `HALVES`.

    Returns:
        The outputs of the first linear layers side by side, the input of the last one, and its
        output.
    """
    last = find_linear(model, layout.module(layer, out))
    node = last.source.producer()
    joined = None if node is None else node.inputs[0]
    assert joined is not None, "a lifted half has one node between its linear layers"
    return [joined, last.source, last.result]


def head_piece(model: ir.Model, layout: ModelLayout) -> ir.Model:
    """From `STREAM`, behind the last layer, to `logits`."""
    logits = next(value for value in model.graph.outputs if value.name == "logits")
    return _piece(model, _before_layer(model, layout, layout.num_layers), [logits])


def _before_layer(model: ir.Model, layout: ModelLayout, layer: int) -> ir.Value:
    """The residual stream before a layer, or before the final norm, (B, S, D)."""
    if layer == layout.num_layers:
        return _normed(model, layout.family.final_norm)
    return _normed(model, layout.module(layer, "attention_norm"))


def _normed(model: ir.Model, norm: str) -> ir.Value:
    """What a norm reads."""
    value = only_node(model, norm, "RMSNormalization").inputs[0]
    assert value is not None, "a norm has an input"
    return value


def _piece(model: ir.Model, source: ir.Value | None, results: Sequence[ir.Value]) -> ir.Model:
    """The nodes between a value and others; weights are shared with the whole graph."""
    bounds = [*model.graph.inputs, *([] if source is None else [source])]
    graph = ir.convenience.extract(model.graph, bounds, results)
    for value in list(graph.inputs):
        if source is not None and value.name == source.name:
            value.name, value.type = STREAM, ir.TensorType(ir.DataType.FLOAT)
            value.shape = ir.Shape(["batch", "sequence", None])
        elif not value.uses():
            graph.inputs.remove(value)
    for value in graph.outputs:
        value.type = ir.TensorType(ir.DataType.FLOAT)
    functions = list(model.functions.values())
    return ir.Model(graph, ir_version=model.ir_version, functions=functions)
