"""Concat of linear layers with a common input  →  one linear layer with all their rows.

1. q_proj, k_proj, v_proj → qkv_proj; gate_proj, up_proj → gate_up_proj.
2. Biases are joined too; a layer without one counts as a bias of zeros.

The activation is then quantised once, and one kernel call replaces two or three.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from resq_onnx.families import ModelLayout
from resq_onnx.graph.modules import (
    Linear,
    find_linear,
    make_linear,
    new_initializer,
    only_consumer,
    remove,
)
from resq_onnx.graph.tensors import FoldedTensor, dims, read_float64

MERGED = {
    "attention_norm": (("query", "key", "value"), "qkv_proj"),
    "mlp_norm": (("gate", "up"), "gate_up_proj"),
}


def merged_module(layout: ModelLayout, layer: int, first_role: str) -> str:
    """Full name of the merged layer that holds `query` or `gate`."""
    name = next(name for roles, name in MERGED.values() if roles[0] == first_role)
    return f"{layout.module(layer, first_role).rpartition('.')[0]}.{name}"


class MergeProjections(ir.passes.InPlacePass):
    """Merge q/k/v, and gate/up, of every layer."""

    def __init__(self, layout: ModelLayout) -> None:
        """Take the names from `layout`."""
        self._layout = layout

    def call(self, model: ir.Model) -> ir.passes.PassResult:  # noqa: D102
        for layer in range(self._layout.num_layers):
            for roles, _ in MERGED.values():
                linears = [find_linear(model, self._layout.module(layer, role)) for role in roles]
                self._merge(model, linears, merged_module(self._layout, layer, roles[0]))
        return ir.passes.PassResult(model, modified=True)

    def _merge(self, model: ir.Model, linears: Sequence[Linear], module: str) -> None:
        concat = only_consumer(linears[0].result, module)
        joined = [linear.result for linear in linears]
        if concat.op_type != "Concat" or list(concat.inputs) != joined:
            raise ValueError(f"{module}: its parts are not joined by one Concat")
        weight = _stack(model, f"{module}.weight", [linear.weight for linear in linears])
        bias = None
        if any(linear.bias is not None for linear in linears):
            bias = _stack(
                model,
                f"{module}.bias",
                [linear.bias for linear in linears],
                [_rows(linear.weight) for linear in linears],
            )
        nodes, result = make_linear(module, linears[0].source, weight, bias)
        model.graph.insert_before(concat, nodes)
        concat.outputs[0].replace_all_uses_with(result)
        remove(model, [node for linear in linears for node in linear.nodes] + [concat])


def _rows(weight: ir.Value) -> int:
    assert weight.const_value is not None
    return dims(weight.const_value)[0]


def _stack(
    model: ir.Model,
    name: str,
    values: Sequence[ir.Value | None],
    missing_rows: Sequence[int] = (),
) -> ir.Value:
    """One initializer with the rows of all values; a missing value counts as zeros."""
    tensors = [None if value is None else value.const_value for value in values]
    shapes = [None if tensor is None else dims(tensor) for tensor in tensors]
    rows = [
        missing_rows[index] if shape is None else shape[0] for index, shape in enumerate(shapes)
    ]
    tail = next(shape[1:] for shape in shapes if shape is not None)

    def compute() -> NDArray[Any]:
        return np.concatenate(
            [
                np.zeros((count, *tail)) if tensor is None else read_float64(tensor)
                for tensor, count in zip(tensors, rows, strict=True)
            ]
        )

    return new_initializer(model, name, FoldedTensor(compute, [sum(rows), *tail], name))
