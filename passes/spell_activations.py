"""QuantizeLinear · DequantizeLinear of an activation  →  Div · Round · Add · Clip · Sub · Mul.

The integers are the same, held as whole float32 numbers. Runtimes support both operators for
weights, which are constants. For activations, OpenVINO's frontend rejects a blocked scale per token
with a variable number of tokens, and few runtimes have tensors of 4-bit activations.

1. The steps are those by which ONNX defines the two operators, so the numbers stay the same.
2. The zero point is a whole float32 number before it is cast to an integer; the Cast is removed.
3. DequantizeLinear of a weight stays.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from resq_onnx.graph.modules import new_initializer, producer_of

LEVELS = {ir.DataType.UINT4: 15.0, ir.DataType.UINT8: 255.0}
"""Largest integer by type."""


class SpellActivations(ir.passes.InPlacePass):
    """Write the quantisation of activations as arithmetic, in a graph without functions."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:  # noqa: D102
        bounds: dict[float, ir.Value] = {}
        pairs = [
            (quantise, dequantise)
            for dequantise in model.graph
            if dequantise.op_type == "DequantizeLinear"
            and (quantise := producer_of(_input(dequantise, 0), "QuantizeLinear")) is not None
        ]
        for quantise, dequantise in pairs:
            _spell(model, quantise, dequantise, bounds)
        return ir.passes.PassResult(model, modified=bool(pairs))


def _spell(
    model: ir.Model, quantise: ir.Node, dequantise: ir.Node, bounds: dict[float, ir.Value]
) -> None:
    """Replace one pair; `bounds` holds the scalars that the graph already has."""
    x, scale, zero = (_input(quantise, place) for place in range(3))
    cast = producer_of(zero, "Cast")
    if cast is None or zero is not _input(dequantise, 2):
        raise ValueError(f"{quantise.name}: its zero point is not a Cast that both nodes read")
    shift = _input(cast, 0)
    greatest = LEVELS[ir.DataType(cast.attributes["to"].as_int())]
    clip = [_scalar(model, bound, bounds) for bound in (0.0, greatest)]
    value, nodes = x, []
    for op_type, operands in (
        ("Div", [scale]),
        ("Round", []),
        ("Add", [shift]),
        ("Clip", clip),
        ("Sub", [shift]),
        ("Mul", [_input(dequantise, 1)]),
    ):
        node = ir.node(op_type, [value, *operands], name=f"{dequantise.name}_{op_type}")
        value = node.outputs[0]
        value.name, value.type = node.name, ir.TensorType(ir.DataType.FLOAT)
        nodes.append(node)
    value.shape = dequantise.outputs[0].shape
    model.graph.insert_before(dequantise, nodes)
    dequantise.outputs[0].replace_all_uses_with(value, replace_graph_outputs=True)
    for old in (dequantise, quantise, cast):
        if not any(output.uses() for output in old.outputs):
            model.graph.remove(old, safe=True)


def _scalar(model: ir.Model, value: float, known: dict[float, ir.Value]) -> ir.Value:
    if value not in known:
        tensor = ir.tensor(np.array(value, np.float32))
        known[value] = new_initializer(model, f"integers.bound_{value:g}", tensor)
    return known[value]


def _input(node: ir.Node, place: int) -> ir.Value:
    value = node.inputs[place]
    assert value is not None
    return value
