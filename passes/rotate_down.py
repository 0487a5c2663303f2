"""down_proj(x)  →  down_proj'(x · U_D), U_D = order · signs · Hadamard.

1. The order and the signs of the channels cost nothing: rows of gate_proj and up_proj are permuted,
   and those of up_proj change sign.
2. The Hadamard matrices are applied inside GatedHadamard; factors of equal order are stored once.
3. down_proj's columns: W ← W · U_D.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from resq_onnx.families import ModelLayout
from resq_onnx.functions import HadamardForm, add_call
from resq_onnx.graph.modules import find_linear, new_initializer, producer_of, tag
from resq_onnx.graph.replacing import put_in_place_of
from resq_onnx.graph.tensors import fold
from resq_onnx.projections import Projections
from resq_onnx.projections.hadamard import KroneckerFactors
from resq_onnx.recipe import BitSplit


class RotateDown(ir.passes.InPlacePass):
    """Rotate the input of every down_proj; gate_proj and up_proj must not be merged yet."""

    def __init__(self, layout: ModelLayout, projections: Projections) -> None:
        """Take names from `layout` and U_D of every layer from `projections`."""
        self._layout = layout
        self._projections = projections

    def call(self, model: ir.Model) -> ir.passes.PassResult:  # noqa: D102
        bases = self._projections
        for layer, split in enumerate(bases.splits.down):
            self._fold(model, layer)
            down = find_linear(model, self._layout.module(layer, "down"))
            old = producer_of(down.source, "GatedHadamard")
            if old is None:
                raise ValueError(f"{down.module}: its input is not a GatedHadamard; lift it first")
            module = down.module.rpartition(".")[0]
            name = f"{module}.gated_hadamard"
            activation = self._layout.activation
            form = HadamardForm(split, rotates=bases.rotates_down, activation=activation)
            inputs = [old.inputs[0], *self._factors(model, split)]
            new = add_call(model, form, inputs, {}, name, [f"{name}.out"])
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

    def _factors(self, model: ir.Model, split: BitSplit) -> list[ir.Value | None]:
        """The Hadamard factors of a layer's two parts; None for a part of width 0."""
        bases = self._projections
        if not bases.rotates_down:
            return []
        low = self._pair(model, "low", bases.down_low.get(split.low))
        return low + self._pair(model, "high", bases.down_high.get(split.high))

    @staticmethod
    def _pair(model: ir.Model, part: str, pair: KroneckerFactors | None) -> list[ir.Value | None]:
        """A part's factors as initializers.

        An inner factor depends only on its order. An outer factor that is random, not a Hadamard
        matrix, also depends on the part.
        """
        if pair is None:
            return [None, None]
        known = model.graph.initializers
        values: list[ir.Value | None] = []
        for side, factor in ((f"{part}_outer", pair.outer), ("inner", pair.inner)):
            name = f"hadamard.{side}{len(factor)}"
            tensor = ir.tensor(factor.astype("float32"))
            values.append(known[name] if name in known else new_initializer(model, name, tensor))
        return values
