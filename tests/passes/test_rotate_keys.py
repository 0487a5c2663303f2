"""U_C on queries and keys, when the model runs."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from resq_onnx.graph.replacing import find_attention
from resq_onnx.passes.lift_attention import LiftAttention
from resq_onnx.passes.rotate_keys import RotateKeys
from resq_onnx.recipe import Recipe
from tests.passes.cases import Case, assert_same_function, changed, ops_of, weights_of


def test_the_logits_stay_and_the_cache_holds_turned_keys(case: Case) -> None:
    assert_same_function(case, case.after(RotateKeys), keys=True, values=True)


def test_every_attention_node_reads_the_bases_of_its_layer(case: Case) -> None:
    graph = case.after(RotateKeys)
    for layer in range(case.layout.num_layers):
        module = case.layout.module(layer, "attention")
        basis = find_attention(graph, module).inputs[7]
        assert basis is not None
        assert basis.name == f"{module}.key_projection"
        assert basis.const_value is not None
        expected = case.projections.key[layer].astype(np.float32)
        np.testing.assert_array_equal(basis.const_value.numpy(), expected)


def test_no_weight_changes_and_no_node_is_added(case: Case) -> None:
    before, after = case.before(RotateKeys), case.after(RotateKeys)
    new = {f"{case.layout.module(i, 'attention')}.key_projection" for i in range(2)}
    assert changed(weights_of(before), weights_of(after)) == new
    assert ops_of(before) == ops_of(after)


def test_a_scale_of_its_own_stays(llama: Case) -> None:
    graph, module = llama.before(RotateKeys), llama.layout.module(0, "attention")
    find_attention(graph, module).attributes.add(ir.AttrFloat32("scale", 0.125))
    RotateKeys(llama.layout, llama.projections)(graph)
    assert find_attention(graph, module).attributes.get_float("scale") == 0.125


def test_identities_are_left_out_of_the_graph(llama: Case) -> None:
    graph = llama.before(RotateKeys)
    result = RotateKeys(llama.layout, llama.projections_of(Recipe(method="rtn")))(graph)
    assert not result.modified
    assert not changed(weights_of(llama.before(RotateKeys)), weights_of(graph))


def test_a_graph_that_was_not_lifted_is_refused_by_name(llama: Case) -> None:
    with pytest.raises(ValueError, match=r"model\.layers\.0\.self_attn"):
        RotateKeys(llama.layout, llama.projections)(llama.before(LiftAttention))
