"""lm_head reads the final norm directly, and the whole graph is one operator per module."""

from __future__ import annotations

from collections import Counter

import onnx_ir as ir
import pytest

from resq_onnx.graph.modules import module_of, nodes_of, only_node
from resq_onnx.passes.lift_head import LiftHead
from tests.passes.cases import Case, assert_same_function


def test_the_logits_stay(case: Case) -> None:
    assert_same_function(case, case.after(LiftHead), any_size=False)


def test_swept_of_what_the_lifting_replaced_the_graph_runs_on_every_size(case: Case) -> None:
    assert_same_function(case, case.lifted)


def test_the_head_multiplies_what_the_final_norm_makes(case: Case) -> None:
    graph = case.after(LiftHead)
    norm = only_node(graph, case.layout.family.final_norm, "RMSNormalization")
    multiply = only_node(graph, case.layout.family.head, "MatMul")
    assert multiply.inputs[0] is norm.outputs[0]


def test_a_lifted_layer_has_one_operator_for_each_module(case: Case) -> None:
    graph = case.lifted
    layer = case.layout.family.layer.format(1)
    expected = {"RMSNormalization": 2, "MatMul": 7, "RotaryAttention": 1, "GatedHadamard": 1}
    expected |= {"Transpose": 7, "Concat": 2}
    nodes = [node for node in graph.graph if module_of(node).startswith(layer)]
    biases = [
        name for name in graph.graph.initializers if name.startswith(layer) and "bias" in name
    ]
    assert Counter(node.op_type for node in nodes) == expected | {"Add": len(biases) + 2}
    assert [node.op_type for node in nodes_of(graph, layer)] == ["Add", "Add"]  # the residuals


@pytest.mark.parametrize("op_type", ["RMSNormalization", "MatMul"])
def test_a_head_or_norm_written_otherwise_is_refused_by_name(llama: Case, op_type: str) -> None:
    graph, family = llama.before(LiftHead), llama.layout.family
    module = {"RMSNormalization": family.final_norm, "MatMul": family.head}[op_type]
    only_node(graph, module, op_type).op_type = "Identity"
    with pytest.raises(ValueError, match=f"{module}: 0 {op_type} nodes"):
        LiftHead(llama.layout)(graph)


def test_lifting_leaves_every_float_weight_and_no_copy_of_one(case: Case) -> None:
    names = {
        name
        for name, value in case.lifted.graph.initializers.items()
        if value.const_value is not None and value.const_value.dtype == ir.DataType.FLOAT
    }
    parameters = {name for name, _ in case.model.named_parameters()}
    assert names == parameters | {"model.rotary_emb.inv_freq"}
