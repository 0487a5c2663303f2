"""U_A in every weight that reads or writes the residual stream, and in no other."""

from __future__ import annotations

import numpy as np
import pytest

from resq_onnx.passes.fold_hidden_basis import FoldHiddenBasis
from tests.passes.cases import Case, assert_same_function, assert_weights, changed, weights_of

READERS = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
)
WRITERS = ("self_attn.o_proj", "mlp.down_proj")


def test_the_logits_stay(case: Case) -> None:
    assert_same_function(case, case.after(FoldHiddenBasis))


def test_readers_writers_and_embedding_are_turned_and_nothing_else(case: Case) -> None:
    before = weights_of(case.before(FoldHiddenBasis))
    after = weights_of(case.after(FoldHiddenBasis))
    basis = case.projections.hidden
    tables = {"model.embed_tokens.weight", case.head_weight}
    expected = {name: before[name] @ basis for name in tables}
    if case.shares_table:
        gains = before["lm_head.input.weight"]
        assert np.abs(np.diagonal(gains) - 1).max() > 0.1
        expected["lm_head.input.weight"] = basis.T @ gains @ basis
    for layer in range(case.layout.num_layers):
        for reader in READERS:
            name = f"model.layers.{layer}.{reader}.weight"
            expected[name] = before[name] @ basis
        for writer in WRITERS:
            name = f"model.layers.{layer}.{writer}"
            expected[f"{name}.weight"] = basis.T @ before[f"{name}.weight"]
            if f"{name}.bias" in before:
                expected[f"{name}.bias"] = before[f"{name}.bias"] @ basis
    assert_weights(after, expected)
    assert changed(before, after) == set(expected)


def test_the_fixture_has_biases_that_are_turned_and_biases_that_are_not(biased: Case) -> None:
    before = weights_of(biased.before(FoldHiddenBasis))
    after = weights_of(biased.after(FoldHiddenBasis))
    names = changed(before, after)
    assert "model.layers.0.mlp.down_proj.bias" in names
    assert "model.layers.0.self_attn.q_proj.bias" in before.keys() - names


def test_before_the_gains_are_fused_it_would_change_the_function(separate: Case) -> None:
    graph = separate.before(FoldHiddenBasis)
    gain = graph.graph.initializers["model.norm.weight"]
    gain.const_value = separate.lifted.graph.initializers["model.norm.weight"].const_value
    FoldHiddenBasis(separate.layout, separate.projections)(graph)
    with pytest.raises(AssertionError):
        assert_same_function(separate, graph)


def test_a_graph_without_an_embedding_is_refused_by_name(llama: Case) -> None:
    graph = llama.before(FoldHiddenBasis)
    del graph.graph.initializers["model.embed_tokens.weight"]
    with pytest.raises(ValueError, match=r"model\.embed_tokens"):
        FoldHiddenBasis(llama.layout, llama.projections)(graph)


def test_the_basis_is_not_the_identity(case: Case) -> None:
    basis = case.projections.hidden
    assert np.abs(basis).max(axis=0).max() < 0.9
