"""GatedHadamard  →  the standard operators of its function, in one product for both parts.

1. blockdiag(kron(A, C), kron(B, C)) = kron(blockdiag(A, B), C): if both parts have the same inner
   factor, their coefficients form one matrix and their outer factors one block-diagonal matrix.
2. Otherwise, or if the gate is not SiLU, the node is left to be inlined.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from resq_onnx.graph.modules import module_of, new_initializer, tag
from resq_onnx.graph.replacing import put_in_place_of


class JoinHadamards(ir.passes.InPlacePass):
    """Rotate both parts of down_proj's input at once."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:  # noqa: D102
        joined = [node for node in model.graph if _is_joinable(node)]
        for node in joined:
            _join(model, node)
        return ir.passes.PassResult(model, modified=bool(joined))


def _is_joinable(node: ir.Node) -> bool:
    if node.op_type != "GatedHadamard" or len(node.inputs) < 5:
        return False
    if node.attributes.get_string("activation") != "silu":
        return False
    _, low_outer, low_inner, high_outer, high_inner = node.inputs
    return low_inner is high_inner and low_outer is not None and high_outer is not None


def _join(model: ir.Model, old: ir.Node) -> None:
    gate_up, low_outer, inner, high_outer, _ = old.inputs
    outer = _block_diagonal(_values(low_outer), _values(high_outer)).T
    name = f"hadamard.outer{len(outer)}"
    whole = np.array([0, 0, -1])
    square = np.array([0, 0, len(outer), len(_values(inner))])
    matrix = _shared(model, f"{name}.transposed", np.ascontiguousarray(outer))
    to_square = _shared(model, f"{name}.square", square)
    to_whole = _shared(model, f"{name}.whole", whole)
    nodes: list[ir.Node] = []

    def add(op_type: str, *inputs: ir.Value | None) -> ir.Value:
        nodes.append(ir.node(op_type, inputs, name=f"{old.name}.{op_type.lower()}{len(nodes)}"))
        return tag(nodes[-1], module_of(old)).outputs[0]

    split = ir.node(
        "Split", [gate_up], {"axis": -1, "num_outputs": 2}, num_outputs=2, name=f"{old.name}.split"
    )
    gate, up = tag(split, module_of(old)).outputs
    hidden = add("Mul", add("Mul", gate, add("Sigmoid", gate)), up)  # (B, S, I)
    mixed = add("MatMul", add("Reshape", hidden, to_square), inner)  # (B, S, m, n)
    add("Reshape", add("MatMul", matrix, mixed), to_whole)
    *first, last = nodes
    model.graph.insert_before(old, [split, *first])
    put_in_place_of(model, [old], last)


def _block_diagonal(low: NDArray[Any], high: NDArray[Any]) -> NDArray[Any]:
    joined = np.zeros((len(low) + len(high),) * 2, low.dtype)
    joined[: len(low), : len(low)] = low
    joined[len(low) :, len(low) :] = high
    return joined


def _values(factor: ir.Value | None) -> NDArray[Any]:
    assert factor is not None
    assert factor.const_value is not None
    return factor.const_value.numpy()


def _shared(model: ir.Model, name: str, values: NDArray[Any]) -> ir.Value:
    """An initializer shared by all layers of these sizes."""
    known = model.graph.initializers
    return known[name] if name in known else new_initializer(model, name, ir.tensor(values))
