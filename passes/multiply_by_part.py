"""Concat of activations · Concat of weights · Gemm  →  a chain of Gemms, one for each part.

y = [x_low x_high] · [W_low W_high]ᵀ + b  becomes  y = x_high · W_highᵀ + (x_low · W_lowᵀ + b).

If a product reads a single DequantizeLinear, a runtime with kernels for it, such as OpenVINO, keeps
the weight in 4 or 8 bits. Two weights that are joined first become one float32 constant.

1. Both Concats must join the same number of parts, and the weights must come from DequantizeLinear.
2. The sums are the same, in another order.
3. Activations must not come from DequantizeLinear, so `spell_activations.py` runs first: ONNX
   Runtime fuses a product of two such inputs into an operator that rejects a scale per token.
"""

from __future__ import annotations

import onnx_ir as ir

from resq_onnx.graph.modules import producer_of
from resq_onnx.graph.replacing import put_in_place_of


class MultiplyByPart(ir.passes.InPlacePass):
    """Give each part of a mixed-precision product a Gemm of its own."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:  # noqa: D102
        products = [node for node in model.graph if node.op_type == "Gemm"]
        split = [_split(model, product) for product in products]
        return ir.passes.PassResult(model, modified=any(split))


def _split(model: ir.Model, product: ir.Node) -> bool:
    """Replace one Gemm; returns whether it was one of parts."""
    joins = [_join(value) for value in product.inputs[:2]]
    if None in joins:
        return False
    activations, weights = (join.inputs for join in joins if join is not None)
    if len(activations) != len(weights) or not all(map(_is_weight, weights)):
        return False
    so_far = list(product.inputs[2:])  # the bias, if there is one
    settings = list(product.attributes.values())
    nodes: list[ir.Node] = []
    for index, pair in enumerate(zip(activations, weights, strict=True)):
        name = f"{product.name}_part{index}"
        nodes.append(ir.Node("", "Gemm", [*pair, *so_far], settings, name=name))
        result = nodes[-1].outputs[0]
        result.name, result.type = name, ir.TensorType(ir.DataType.FLOAT)
        so_far = [result]
    model.graph.insert_before(product, nodes[:-1])
    put_in_place_of(model, [product], nodes[-1])
    model.graph.remove([join for join in joins if join and not join.outputs[0].uses()], safe=True)
    return True


def _join(value: ir.Value | None) -> ir.Node | None:
    return None if value is None else producer_of(value, "Concat")


def _is_weight(value: ir.Value | None) -> bool:
    """Whether a value is a dequantised initializer."""
    node = None if value is None else producer_of(value, "DequantizeLinear")
    return node is not None and node.inputs[0] is not None and node.inputs[0].is_initializer()
