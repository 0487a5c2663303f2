"""MatMul by a constant  →  Transpose · MatMul of the module's weight.

The optimiser of torch.onnx.export folds nodes that depend only on small weights. The products then
read constants with meaningless names.

1. The module of the MatMul identifies the weight.
2. If lm_head shares the embedding's table, it reads that table again.
3. A norm's Mul by a folded 1 + w reads Add(1, w) again.
"""

from __future__ import annotations

from typing import TypeGuard

import numpy as np
import onnx_ir as ir

from resq_onnx.families import ModelLayout
from resq_onnx.graph.modules import new_initializer, nodes_of, only_node, tag
from resq_onnx.graph.tensors import FoldedTensor, dims, read_float64

ROLES = ("query", "key", "value", "attention_out", "gate", "up", "down")


class NameWeights(ir.passes.InPlacePass):
    """Give every linear layer a weight (N, K) named after its module."""

    def __init__(self, layout: ModelLayout) -> None:
        """Take the names of the linear layers from `layout`."""
        family = layout.family
        joined = {role for roles in family.fused.values() for role in roles}
        self._modules = [
            layout.module(layer, role)
            for layer in range(layout.num_layers)
            for role in ROLES
            if role not in joined
        ]
        self._modules += [
            f"{family.layer.format(layer)}.{name}"
            for layer in range(layout.num_layers)
            for name in family.fused
        ]
        self._head, self._table = family.head, family.embedding if layout.tied else family.head
        of_heads = ("query_norm", "key_norm") if layout.norms_heads else ()
        norms = ("attention_norm", "mlp_norm", *layout.post_norms, *of_heads)
        of_layers = [layout.module(n, role) for n in range(layout.num_layers) for role in norms]
        self._offset_norms = [*of_layers, family.final_norm] if family.offset_gains else []

    def call(self, model: ir.Model) -> ir.passes.PassResult:  # noqa: D102
        for module in self._modules:
            self._name(model, module, module)
        self._name(model, self._head, self._table)
        for module in self._offset_norms:
            self._name_gain(model, module)
        return ir.passes.PassResult(model, modified=True)

    def _name(self, model: ir.Model, module: str, owner: str) -> None:
        multiply, name = only_node(model, module, "MatMul"), f"{owner}.weight"
        factor, initializers = multiply.inputs[1], model.graph.initializers
        assert factor is not None
        if not factor.is_initializer():
            return  # already a Transpose, as later passes expect
        assert factor.const_value is not None
        if name not in initializers:
            new_initializer(model, name, _transposed(factor.const_value))
        transpose = ir.node("Transpose", [initializers[name]], {"perm": [1, 0]}, name=f"{module}.t")
        model.graph.insert_before(multiply, tag(transpose, module))
        multiply.replace_input_with(1, transpose.outputs[0])
        if not factor.uses() and factor.name is not None:
            initializers.pop(factor.name)

    def _name_gain(self, model: ir.Model, module: str) -> None:
        if f"{module}.weight" in model.graph.initializers:
            return
        found = [
            (node, place, value.const_value)
            for node in nodes_of(model, module)
            for place, value in enumerate(node.inputs)
            if node.op_type == "Mul" and value is not None and _is_vector(value.const_value)
        ]
        if len(found) != 1:
            raise ValueError(f"{module}: {len(found)} gains, expected 1")
        multiply, place, gain = found[0]
        stored = FoldedTensor(lambda: read_float64(gain) - 1.0, dims(gain), None)
        weight = new_initializer(model, f"{module}.weight", stored)
        one = new_initializer(model, f"{module}.one", ir.tensor(np.array(1.0, np.float32)))
        add = tag(ir.node("Add", [one, weight], name=f"{module}.gain"), module)
        model.graph.insert_before(multiply, add)
        multiply.replace_input_with(place, add.outputs[0])


def _is_vector(tensor: ir.TensorProtocol | None) -> TypeGuard[ir.TensorProtocol]:
    """Whether a tensor has one dimension and more than one element."""
    return tensor is not None and len(dims(tensor)) == 1 and tensor.size > 1


def _transposed(tensor: ir.TensorProtocol) -> FoldedTensor:
    """The transpose of a matrix, read only when its values are needed."""
    return FoldedTensor(lambda: read_float64(tensor).T, dims(tensor)[::-1], None)
