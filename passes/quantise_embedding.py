"""Embedding and lm_head in 8 bits per row.

1. Gather of float rows  →  Gather of INT8 rows and their scales, DequantizeLinear.
2. lm_head, with the final norm  →  MixedPrecisionMatMul without low columns.

With activations in float, lm_head reads the floats that its integers stand for.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from resq_onnx.families import ModelLayout
from resq_onnx.passes.modules import (
    find_linear,
    find_weight,
    new_initializer,
    only_consumer,
    tag,
)
from resq_onnx.passes.quantise_linears import replace_linear
from resq_onnx.passes.replacing import put_in_place_of
from resq_onnx.passes.stored_weights import dequantise_weight
from resq_onnx.passes.tensors import Shared, dims, read_float64
from resq_onnx.recipe import BitSplit, Precision
from resq_onnx.weights.rtn import QuantisedMatrix, round_to_nearest


class QuantiseEmbedding(ir.passes.InPlacePass):
    """Quantise the embedding and lm_head, whatever bits the layers have."""

    def __init__(self, layout: ModelLayout, activations: Precision = "quantised") -> None:
        """Take sizes and names from `layout`."""
        self._layout = layout
        self._float_activations = activations == "float"
        self._split = BitSplit(0, layout.hidden_size)

    def call(self, model: ir.Model) -> ir.passes.PassResult:  # noqa: D102
        self._quantise_embedding(model)
        head = find_linear(model, self._layout.family.head)
        weight = head.weight
        if self._float_activations:
            dequantise_weight(model, head, self._split, lambda: self._rows(weight))
        else:
            replace_linear(model, head, self._split, 1, lambda: self._rows(weight))
        return ir.passes.PassResult(model, modified=True)

    def _rows(self, weight: ir.Value) -> QuantisedMatrix:
        return round_to_nearest(read_float64(weight.const_value), self._split)

    def _quantise_embedding(self, model: ir.Model) -> None:
        module = self._layout.family.embedding
        weight = find_weight(model, module)
        gather = only_consumer(weight, module)
        ids = gather.inputs[1]
        table, scale = self._tables(model, module, weight)
        sizes = {"flat": -1, "width": self._layout.hidden_size}
        flat, width = (
            new_initializer(model, f"{module}.{name}", ir.tensor(np.array([size], np.int64)))
            for name, size in sizes.items()
        )

        def node(op: str, inputs: list[ir.Value | None], name: str, **attributes: int) -> ir.Node:
            return ir.node(op, inputs, attributes, name=f"{module}.{name}")

        tokens = node("Reshape", [ids, flat], "tokens")  # (B * S,)
        rows = node("Gather", [table, tokens.outputs[0]], "rows", axis=0)  # (B * S, D)
        scales = node("Gather", [scale, tokens.outputs[0]], "scales", axis=0)
        values = node("DequantizeLinear", [rows.outputs[0], scales.outputs[0]], "values", axis=0)
        size = node("Shape", [ids], "size")
        shape = node("Concat", [size.outputs[0], width], "shape", axis=0)  # B, S, D
        for made, dtype in ((tokens, ir.DataType.INT64), (rows, ir.DataType.INT8),
                            (size, ir.DataType.INT64), (shape, ir.DataType.INT64)):  # fmt: skip
            made.outputs[0].type = ir.TensorType(dtype)
        nodes = [tag(made, module) for made in (tokens, rows, scales, values, size, shape)]
        model.graph.insert_before(gather, nodes)
        result = node("Reshape", [values.outputs[0], shape.outputs[0]], "result")
        put_in_place_of(model, [gather], tag(result, module))

    def _tables(self, model: ir.Model, module: str, weight: ir.Value) -> tuple[ir.Value, ir.Value]:
        """The rows as INT8 (V, D) and their scales (V,), as initializers."""
        tensor = weight.const_value
        assert tensor is not None

        def parts() -> tuple[NDArray[Any], ...]:
            matrix = round_to_nearest(read_float64(tensor), self._split)
            return matrix.high, matrix.high_scale

        shared, shape = Shared(parts), dims(tensor)
        rows = ir.LazyTensor(lambda: ir.Tensor(shared.part(0)), ir.DataType.INT8, ir.Shape(shape))
        scale = ir.LazyTensor(
            lambda: ir.Tensor(shared.part(1)), ir.DataType.FLOAT, ir.Shape(shape[:1])
        )
        return (
            new_initializer(model, f"{module}.weight_high", rows),
            new_initializer(model, f"{module}.scale_high", scale),
        )
