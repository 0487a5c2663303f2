"""Embedding and lm_head in 8 bits per row.

1. Gather of float rows  →  Gather of INT8 rows and their scales, DequantizeLinear.
2. lm_head, with the final norm  →  MixedPrecisionMatMul without low columns.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from resq_onnx.families import ModelLayout
from resq_onnx.passes.modules import find_linear, new_initializer, tag
from resq_onnx.passes.quantise_linears import replace_linear
from resq_onnx.passes.replacing import put_in_place_of
from resq_onnx.passes.tensors import Shared, read_float64
from resq_onnx.recipe import BitSplit
from resq_onnx.weights.rtn import QuantisedMatrix, round_to_nearest


class QuantiseEmbedding(ir.passes.InPlacePass):
    """Quantise the embedding and lm_head, whatever bits the layers have."""

    def __init__(self, layout: ModelLayout) -> None:
        """Take sizes and names from `layout`."""
        self._layout = layout
        self._split = BitSplit(0, layout.hidden_size)

    def call(self, model: ir.Model) -> ir.passes.PassResult:  # noqa: D102
        self._quantise_embedding(model)
        head = find_linear(model, self._layout.family.head)
        replace_linear(model, head, self._split, 1, lambda: self._rows(head.weight))
        return ir.passes.PassResult(model, modified=True)

    def _rows(self, weight: ir.Value) -> QuantisedMatrix:
        return round_to_nearest(read_float64(weight.const_value), self._split)

    def _quantise_embedding(self, model: ir.Model) -> None:
        module, hidden = self._layout.family.embedding, self._layout.hidden_size
        weight = model.graph.initializers[f"{module}.weight"]
        (gather,) = weight.consumers()
        ids = gather.inputs[1]
        quantised = self._rows_shared(weight)
        rows = int(weight.shape[0])  # type: ignore[index, arg-type]
        table = new_initializer(model, f"{module}.weight_high", ir.LazyTensor(
            lambda: ir.Tensor(quantised.part(0)), ir.DataType.INT8, ir.Shape([rows, hidden])))
        scale = new_initializer(model, f"{module}.scale_high", ir.LazyTensor(
            lambda: ir.Tensor(quantised.part(1)), ir.DataType.FLOAT, ir.Shape([rows])))
        flat = new_initializer(model, f"{module}.flat", ir.tensor(np.array([-1], np.int64)))
        width = new_initializer(model, f"{module}.width", ir.tensor(np.array([hidden], np.int64)))
        tokens = ir.node("Reshape", [ids, flat], name=f"{module}.tokens")  # (B * S,)
        picked = ir.node("Gather", [table, tokens.outputs[0]], {"axis": 0}, name=f"{module}.rows")
        scales = ir.node("Gather", [scale, tokens.outputs[0]], {"axis": 0}, name=f"{module}.scales")
        values = ir.node("DequantizeLinear", [picked.outputs[0], scales.outputs[0]], {"axis": 0},
                         name=f"{module}.dequantised")
        size = ir.node("Shape", [ids], name=f"{module}.size")
        shape = ir.node("Concat", [size.outputs[0], width], {"axis": 0}, name=f"{module}.shape")
        for value, dtype in ((tokens, ir.DataType.INT64), (picked, ir.DataType.INT8),
                             (size, ir.DataType.INT64), (shape, ir.DataType.INT64)):
            value.outputs[0].type = ir.TensorType(dtype)
        nodes = [tag(node, module) for node in (tokens, picked, scales, values, size, shape)]
        model.graph.insert_before(gather, nodes)
        result = ir.node("Reshape", [values.outputs[0], shape.outputs[0]], name=f"{module}.result")
        put_in_place_of(model, [gather], tag(result, module))

    def _rows_shared(self, weight: ir.Value) -> Shared:
        tensor = weight.const_value

        def parts() -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.generic]], ...]:
            matrix = round_to_nearest(read_float64(tensor), self._split)
            return matrix.high, matrix.high_scale

        return Shared(parts)
