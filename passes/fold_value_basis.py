"""The values of a kv head v  →  v · U_B, folded into v_proj and undone inside o_proj.

1. v_proj: the rows of kv head j, W ← U_Bⱼᵀ · W, and b ← U_Bⱼᵀ · b.
2. o_proj: the columns of every query head that reads kv head j, W ← W · U_Bⱼ.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from resq_onnx.families import ModelLayout
from resq_onnx.graph.modules import find_linear
from resq_onnx.graph.tensors import fold
from resq_onnx.projections import Projections


class FoldValueBasis(ir.passes.InPlacePass):
    """Express the values of every kv head in its basis U_B."""

    def __init__(self, layout: ModelLayout, projections: Projections) -> None:
        """Take the names from `layout` and U_B (layers, kv heads, d, d) from `projections`."""
        self._layout = layout
        self._projections = projections

    def call(self, model: ir.Model) -> ir.passes.PassResult:  # noqa: D102
        for layer in range(self._layout.num_layers):
            self._fold(model, layer)
        return ir.passes.PassResult(model, modified=True)

    def _fold(self, model: ir.Model, layer: int) -> None:
        value = find_linear(model, self._layout.module(layer, "value"))
        out = find_linear(model, self._layout.module(layer, "attention_out"))

        def apply(w: NDArray[np.float64]) -> NDArray[np.float64]:
            return self._projections.apply_value(layer, w)

        # The rows of v_proj are the columns of its transpose, so one function serves both.
        fold(value.weight, lambda w: apply(w.T).T)
        if value.bias is not None:
            fold(value.bias, lambda b: apply(b[None])[0])
        fold(out.weight, apply)
