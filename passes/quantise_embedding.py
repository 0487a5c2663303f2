"""Embedding and lm_head in 8 bits, or in 4 and 8 bits.

1. Gather of float rows  →  MixedPrecisionGather.
2. lm_head, with the final norm if it directly precedes it  →  MixedPrecisionMatMul.
3. If both read one table, they still do. The layer that this needs between the norm and lm_head
   becomes a MatMul by a (D, D) matrix in FLOAT16, with a Cast that a runtime folds.

With float activations, lm_head reads its dequantised weight.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from resq_onnx.families import ModelLayout
from resq_onnx.functions import GatherForm, add_call
from resq_onnx.graph.modules import (
    Linear,
    find_head,
    find_linear,
    find_weight,
    head_input,
    new_initializer,
    read_halved,
    tag,
)
from resq_onnx.graph.replacing import put_in_place_of
from resq_onnx.graph.tensors import (
    FoldedTensor,
    PackedBytes,
    dims,
    read_float64,
    read_rows,
    row_blocks,
)
from resq_onnx.passes.quantise_linears import replace_linear
from resq_onnx.passes.stored_weights import dequantise_weight, store_matrix
from resq_onnx.projections.splits import table_split
from resq_onnx.recipe import Recipe
from resq_onnx.weights.quantised import QuantisedMatrix, joined
from resq_onnx.weights.rtn import round_to_nearest


class QuantiseEmbedding(ir.passes.InPlacePass):
    """Quantise the table of the embedding and that of lm_head, which may be the same."""

    def __init__(
        self,
        layout: ModelLayout,
        recipe: Recipe,
        *,
        shares_table: bool = False,
        device: str = "cpu",
    ) -> None:
        """Take sizes and names from `layout` and bits from `recipe`; PyTorch uses the device."""
        self._layout = layout
        self._split = table_split(recipe, layout.hidden_size)
        self._float_activations = recipe.activations == "float"
        self._shares_table = shares_table
        self._device = device

    def call(self, model: ir.Model) -> ir.passes.PassResult:  # noqa: D102
        family = self._layout.family
        head = find_head(model, self._layout, shared=self._shares_table)
        table = find_weight(model, family.embedding)
        parts = self._store(model, family.embedding, table)
        self._quantise_embedding(model, table, parts)
        if not self._shares_table:
            parts = self._store(model, family.head, head.weight)
        elif not self._layout.turns_inputs:
            halve(model, find_linear(model, head_input(self._layout)))
        if self._float_activations:
            dequantise_weight(model, head, parts)
        else:
            replace_linear(model, head, self._split, 1, parts)
        return ir.passes.PassResult(model, modified=True)

    def _store(self, model: ir.Model, module: str, weight: ir.Value) -> list[ir.Value | None]:
        tensor = weight.const_value
        assert tensor is not None

        def quantise() -> QuantisedMatrix:
            # Rows are independent, and 262,144 of them in float64 take gigabytes.
            blocks = row_blocks(dims(tensor))
            return joined(
                [round_to_nearest(read_rows(tensor, b), self._split, self._device) for b in blocks]
            )

        return store_matrix(model, module, dims(tensor)[0], self._split, quantise)

    def _quantise_embedding(
        self, model: ir.Model, table: ir.Value, parts: Sequence[ir.Value | None]
    ) -> None:
        module = self._layout.family.embedding
        (gather,) = [node for node in table.consumers() if node.op_type == "Gather"]
        low, *rest = parts
        if low is not None and low.dtype == ir.DataType.INT4:
            assert low.const_value is not None
            low = new_initializer(model, f"{module}.packed_low", PackedBytes(low.const_value))
        inputs = [gather.inputs[1], low, *rest]
        form, name = GatherForm(self._split), f"{module}.rows"
        node = add_call(model, form, inputs, {}, name, [f"{name}.out"])
        put_in_place_of(model, [gather], tag(node, module))


def halve(model: ir.Model, linear: Linear) -> None:
    """Store a linear layer's weight in FLOAT16 and already transposed: only a Cast reads it."""
    old = linear.weight
    tensor = old.const_value
    assert tensor is not None
    name, shape = f"{linear.module}.matrix", dims(tensor)[::-1]
    turned = FoldedTensor(lambda: read_float64(tensor).T, shape, name)
    matrix = new_initializer(model, name, turned)
    linear.multiply.replace_input_with(1, matrix)
    read_halved(model, matrix, f"{linear.module}.cast")
    model.graph.remove(linear.nodes[0], safe=True)
    assert old.name is not None
    model.graph.initializers.pop(old.name)
