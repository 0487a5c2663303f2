"""U_B in v_proj, and its inverse in o_proj."""

from __future__ import annotations

import numpy as np
import pytest

from resq_onnx.passes.fold_value_basis import FoldValueBasis
from tests.passes.cases import Case, assert_same_function, assert_weights, changed, weights_of


def test_the_logits_stay_and_the_cache_holds_turned_values(case: Case) -> None:
    assert_same_function(case, case.after(FoldValueBasis), values=True)


def test_each_head_is_turned_by_the_basis_of_its_kv_head(case: Case) -> None:
    before = weights_of(case.before(FoldValueBasis))
    after = weights_of(case.after(FoldValueBasis))
    size, expected = case.layout.head_dim, {}
    for layer in range(case.layout.num_layers):
        attention = f"model.layers.{layer}.self_attn"
        bases = case.projections.value[layer]
        for name in (f"{attention}.v_proj.weight", f"{attention}.v_proj.bias"):
            if name not in before:
                continue
            turned = expected[name] = before[name].copy()
            for kv_head, basis in enumerate(bases):
                rows = slice(kv_head * size, (kv_head + 1) * size)
                turned[rows] = basis.T @ before[name][rows]
        name = f"{attention}.o_proj.weight"
        turned = expected[name] = before[name].copy()
        for head in range(case.layout.num_heads):
            columns = slice(head * size, (head + 1) * size)
            kv_head = head // (case.layout.num_heads // case.layout.num_kv_heads)
            turned[:, columns] = before[name][:, columns] @ bases[kv_head]
    assert_weights(after, expected)
    assert changed(before, after) == set(expected)


def test_the_bases_of_two_heads_differ(case: Case) -> None:
    first, second = case.projections.value[0]
    assert np.abs(first - second).max() > 0.1


@pytest.mark.parametrize("role", ["value", "attention_out"])
def test_a_missing_layer_is_refused_by_name(llama: Case, role: str) -> None:
    graph, module = llama.before(FoldValueBasis), llama.layout.module(1, role)
    del graph.graph.initializers[f"{module}.weight"]
    with pytest.raises(ValueError, match=module):
        FoldValueBasis(llama.layout, llama.projections)(graph)
