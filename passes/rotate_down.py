"""down_proj(x)  →  down_proj'(x · U_D), U_D = order · signs · Hadamard.

1. The order and the signs of the channels are free: rows of gate_proj and up_proj move, and
   those of up_proj change sign.
2. The Hadamard matrices run inside GatedHadamard.
3. down_proj's columns: W ← W · U_D.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from resq_onnx.families import ModelLayout
from resq_onnx.functions import HadamardForm, add_call
from resq_onnx.passes.modules import find_linear, new_initializer, producer_of, tag
from resq_onnx.passes.replacing import put_in_place_of
from resq_onnx.passes.tensors import fold
from resq_onnx.projections import Projections


class RotateDown(ir.passes.InPlacePass):
    """Rotate the input of every down_proj; gate_proj and up_proj must not be merged yet."""

    def __init__(self, layout: ModelLayout, projections: Projections) -> None:
        """Take names from `layout` and U_D of every layer from `projections`."""
        self._layout = layout
        self._projections = projections
        self._form = HadamardForm(projections.down_split, rotates=projections.rotates_down)

    def call(self, model: ir.Model) -> ir.passes.PassResult:  # noqa: D102
        factors = self._factors(model)
        for layer in range(self._layout.num_layers):
            self._fold(model, layer)
            down = find_linear(model, self._layout.module(layer, "down"))
            old = producer_of(down.source, "GatedHadamard")
            if old is None:
                raise ValueError(f"{down.module}: what it reads was not lifted")
            module = down.module.rpartition(".")[0]
            name = f"{module}.gated_hadamard"
            new = add_call(model, self._form, [old.inputs[0], *factors], {}, name, [f"{name}.out"])
            put_in_place_of(model, [old], tag(new, module))
        return ir.passes.PassResult(model, modified=True)

    def _fold(self, model: ir.Model, layer: int) -> None:
        transform = self._projections.down[layer]
        gate, up, down = (
            find_linear(model, self._layout.module(layer, role)) for role in ("gate", "up", "down")
        )
        for linear, signs in ((gate, np.ones_like(transform.signs)), (up, transform.signs)):
            self._move_rows(linear.weight, transform.order, signs[:, None])
            if linear.bias is not None:
                self._move_rows(linear.bias, transform.order, signs)
        fold(down.weight, lambda w: self._projections.apply_down(layer, w))

    @staticmethod
    def _move_rows(value: ir.Value, order: NDArray[Any], signs: NDArray[Any]) -> None:
        fold(value, lambda w: w[order] * signs)

    def _factors(self, model: ir.Model) -> list[ir.Value | None]:
        """The Hadamard factors as initializers that all layers share."""
        if not self._projections.rotates_down:
            return []
        parts = {"low": self._projections.down_low, "high": self._projections.down_high}
        return [
            new_initializer(
                model, f"hadamard.{part}_{side}", ir.tensor(getattr(pair, side).astype("float32"))
            )
            for part, pair in parts.items()
            if pair is not None
            for side in ("outer", "inner")
        ]
