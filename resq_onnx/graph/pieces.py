"""Pieces of a float decoder graph that can be run alone: the embedding, one layer, the head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import onnx_ir as ir

from resq_onnx.families import ModelLayout
from resq_onnx.graph.modules import only_node

STREAM: Final = "stream"
"""Name of a piece's input: the residual stream before it, (B, S, D)."""

NORM: Final = "RMSNormalization"


def stream_values(model: ir.Model, layout: ModelLayout) -> list[ir.Value]:
    """The residual stream before the first layer, behind its attention, behind it, and so on.

    Returns:
        2 layers + 1 values, each (B, S, D).

    Raises:
        ValueError: A norm that reads one is not there.
    """
    modules = [
        layout.module(layer, norm)
        for layer in range(layout.num_layers)
        for norm in ("attention_norm", "mlp_norm")
    ]
    norms = [only_node(model, name, NORM) for name in (*modules, layout.family.final_norm)]
    values = [norm.inputs[0] for norm in norms]
    return [value for value in values if value is not None]


def embedding_piece(model: ir.Model, layout: ModelLayout) -> ir.Model:
    """From `input_ids` to the residual stream before the first layer."""
    return _piece(model, None, stream_values(model, layout)[:1])


def layer_piece(model: ir.Model, layout: ModelLayout, layer: int) -> ir.Model:
    """One layer, from `STREAM` to the stream behind its attention and behind it."""
    values = stream_values(model, layout)[2 * layer : 2 * layer + 3]
    return _piece(model, values[0], values[1:])


def head_piece(model: ir.Model, layout: ModelLayout) -> ir.Model:
    """From `STREAM`, behind the last layer, to `logits`."""
    logits = next(value for value in model.graph.outputs if value.name == "logits")
    return _piece(model, stream_values(model, layout)[-1], [logits])


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
