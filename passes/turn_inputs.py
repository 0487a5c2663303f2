"""norm · q/k/v  →  norm · MatMul by U_A · q/k/v, if gains cannot be fused; also for gate and up.

It replaces `fuse_norm_gains` and `fold_hidden_basis` in families whose inputs are rotated after
the gains (`ModelLayout.turns_inputs`):

1. The norms keep their gains, and the residual stream keeps its channels.
2. The inputs of q, k, v, gate and up are multiplied at run time by U_A, (D, D), stored once.
3. Their weights: W ← W · U_A.

Nothing changes if U_A is the identity.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from resq_onnx.families import ModelLayout
from resq_onnx.graph.modules import (
    INPUT_BASIS,
    find_linear,
    new_initializer,
    only_node,
    tag,
    turned_input,
)
from resq_onnx.graph.tensors import FoldedTensor, fold
from resq_onnx.passes.fuse_norm_gains import READERS
from resq_onnx.projections.bases import Projections


class TurnInputs(ir.passes.InPlacePass):
    """Express the inputs of the linear layers after each norm in the basis U_A."""

    def __init__(self, layout: ModelLayout, projections: Projections) -> None:
        """Take the names from `layout` and U_A (D, D) from `projections`."""
        self._layout = layout
        self._basis: NDArray[np.float64] = projections.hidden
        self._turns = projections.turns_hidden

    def call(self, model: ir.Model) -> ir.passes.PassResult:  # noqa: D102
        if not self._turns:
            return ir.passes.PassResult(model, modified=False)
        layout, basis = self._layout, self._basis
        name = f"{INPUT_BASIS}.matrix"
        matrix = new_initializer(model, name, FoldedTensor(lambda: basis, basis.shape, name))
        for layer in range(layout.num_layers):
            for norm, readers in READERS.items():
                module = turned_input(layout, layer, norm)
                _turn(model, only_node(model, layout.module(layer, norm), "RMSNormalization"),
                      matrix, module)  # fmt: skip
                for role in readers:
                    fold(find_linear(model, layout.module(layer, role)).weight, lambda w: w @ basis)
        return ir.passes.PassResult(model, modified=True)


def _turn(model: ir.Model, norm: ir.Node, matrix: ir.Value, module: str) -> None:
    """Multiply the output of a norm by a matrix, for all its readers."""
    readers = list(norm.outputs[0].uses())
    multiply = ir.node("MatMul", [norm.outputs[0], matrix], name=f"{module}.matmul")
    model.graph.insert_after(norm, tag(multiply, module))
    for node, place in readers:
        node.replace_input_with(place, multiply.outputs[0])
