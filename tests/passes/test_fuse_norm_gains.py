"""Gains of norms move into the columns of the layers behind them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from resq_onnx.passes.fold_hidden_basis import FoldHiddenBasis
from resq_onnx.passes.fuse_norm_gains import FuseNormGains
from tests.passes.cases import Case, assert_same_function, assert_weights, changed, weights_of

READERS = {
    "input_layernorm": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "post_attention_layernorm": ("mlp.gate_proj", "mlp.up_proj"),
}


def norms_and_readers(case: Case) -> dict[str, list[str]]:
    layers = [f"model.layers.{i}." for i in range(case.layout.num_layers)]
    pairs = {
        p + norm: [p + name for name in names] for p in layers for norm, names in READERS.items()
    }
    return pairs | {"model.norm": ["lm_head.input" if case.shares_table else "lm_head"]}


def test_the_logits_stay(case: Case) -> None:
    assert_same_function(case, case.after(FuseNormGains))


def test_the_columns_of_every_reader_are_scaled_and_the_gains_are_one(case: Case) -> None:
    before = weights_of(case.before(FuseNormGains))
    after = weights_of(case.after(FuseNormGains))
    expected = {}
    for norm, readers in norms_and_readers(case).items():
        gain = before[f"{norm}.weight"]
        assert np.abs(gain - 1).max() > 0.1  # the fixture would prove nothing otherwise
        expected[f"{norm}.weight"] = np.ones_like(gain)
        for reader in readers:
            weight = before[f"{reader}.weight"]
            expected[f"{reader}.weight"] = np.stack([row * gain for row in weight])
    assert_weights(after, expected)
    assert changed(before, after) == set(expected)


def test_doing_it_twice_changes_nothing_more(llama: Case) -> None:
    graph = llama.before(FoldHiddenBasis)
    before = weights_of(graph)
    FuseNormGains(llama.layout, shares_table=True)(graph)
    assert not changed(before, weights_of(graph))


def test_no_weight_is_computed_while_the_pass_runs(llama: Case) -> None:
    graph = llama.after(FuseNormGains)
    weight = graph.graph.initializers["model.layers.0.mlp.up_proj.weight"].const_value
    assert isinstance(weight, ir.LazyTensor)


@pytest.mark.parametrize("name", ["model.norm.weight", "model.layers.1.mlp.up_proj.weight"])
def test_a_missing_gain_or_reader_is_refused_by_name(llama: Case, name: str) -> None:
    graph = llama.before(FuseNormGains)
    del graph.graph.initializers[name]
    with pytest.raises(ValueError, match=name):
        FuseNormGains(llama.layout)(graph)
