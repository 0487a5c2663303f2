"""The residual stream x  →  x · U_A, folded into every weight that reads or writes it.

1. What reads the stream: W ← W · U_A (q, k, v, gate, up, lm_head).
2. What writes it: W ← U_Aᵀ · W and b ← U_Aᵀ · b (o, down); the embedding's rows E ← E · U_A.
3. Where lm_head reads the embedding's table too, the layer before it both reads and writes what is
   in this basis: W ← U_Aᵀ · W · U_A.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from resq_onnx.families import ModelLayout
from resq_onnx.graph.modules import find_linear, find_weight, head_input
from resq_onnx.graph.tensors import fold
from resq_onnx.projections import Projections

READERS: Final = ("query", "key", "value", "gate", "up")
WRITERS: Final = ("attention_out", "down")


class FoldHiddenBasis(ir.passes.InPlacePass):
    """Express the residual stream in the basis U_A; norm gains must have been fused."""

    def __init__(
        self, layout: ModelLayout, projections: Projections, *, shares_table: bool = False
    ) -> None:
        """Take the names from `layout` and U_A (D, D) from `projections`.

        A head that shares the embedding's table was split before.
        """
        self._layout = layout
        self._shares_table = shares_table
        self._basis: NDArray[np.float64] = projections.hidden

    def call(self, model: ir.Model) -> ir.passes.PassResult:  # noqa: D102
        layout, basis = self._layout, self._basis
        fold(find_weight(model, layout.family.embedding), lambda w: w @ basis, by_rows=True)
        if self._shares_table:
            fold(find_linear(model, head_input(layout)).weight, lambda w: basis.T @ w @ basis)
        else:
            head = find_linear(model, layout.family.head).weight
            fold(head, lambda w: w @ basis, by_rows=True)
        for layer in range(layout.num_layers):
            for role in READERS:
                fold(find_linear(model, layout.module(layer, role)).weight, lambda w: w @ basis)
            for role in WRITERS:
                linear = find_linear(model, layout.module(layer, role))
                fold(linear.weight, lambda w: basis.T @ w)
                if linear.bias is not None:
                    fold(linear.bias, lambda b: basis.T @ b)
        return ir.passes.PassResult(model, modified=True)
