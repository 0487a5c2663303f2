"""Pieces of a float decoder graph that can be run alone: the embedding, one layer, the head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import onnx_ir as ir

from resq_onnx.families import ModelLayout
from resq_onnx.graph.modules import only_node

STREAM: Final = "stream"
"""Name of a piece's input: the residual stream before it, (B, S, D)."""


def embedding_piece(model: ir.Model, layout: ModelLayout) -> ir.Model:
    """From `input_ids` to the residual stream before the first layer."""
    return _piece(model, None, [_before_layer(model, layout, 0)])


def layer_piece(model: ir.Model, layout: ModelLayout, layer: int) -> ir.Model:
    """One layer, from `STREAM` to the stream behind its attention and behind it."""
    middle = _normed(model, layout.module(layer, "mlp_norm"))
    results = [middle, _before_layer(model, layout, layer + 1)]
    return _piece(model, _before_layer(model, layout, layer), results)


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
