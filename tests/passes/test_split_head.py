"""A place before lm_head for what cannot be folded into a weight that the embedding reads too."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from resq_onnx.graph.modules import find_head, find_linear
from resq_onnx.passes.fold_hidden_basis import FoldHiddenBasis
from resq_onnx.passes.fuse_norm_gains import FuseNormGains
from resq_onnx.passes.split_head import SplitHead
from tests.passes.cases import (
    FOLD_TOLERANCE,
    Case,
    assert_same_function,
    changed,
    weight_of,
    weights_of,
)

EMBEDDING, INPUT = "model.embed_tokens.weight", "lm_head.input.weight"


@pytest.fixture(params=["llama tied", "qwen2 tied"])
def tied(cases: Callable[[str], Case], request: pytest.FixtureRequest) -> Case:
    return cases(request.param)


@pytest.mark.parametrize("one", [SplitHead, FuseNormGains, FoldHiddenBasis])
def test_the_logits_stay_here_and_through_the_folds_that_use_it(tied: Case, one: type) -> None:
    assert_same_function(tied, tied.after(one))


def test_the_new_layer_computes_nothing_yet(tied: Case) -> None:
    before, after = (weights_of(g) for g in (tied.before(SplitHead), tied.after(SplitHead)))
    assert changed(before, after) == {INPUT}
    np.testing.assert_array_equal(after[INPUT], np.eye(tied.layout.hidden_size))


def test_it_lies_between_the_norm_and_a_head_that_still_shares_its_weight(tied: Case) -> None:
    graph = tied.after(SplitHead)
    layer, head = find_linear(graph, "lm_head.input"), find_head(graph, tied.layout, shared=True)
    norm = layer.source.producer()
    assert norm is not None
    assert norm.op_type == "RMSNormalization"
    assert head.source is layer.result
    assert head.result.name == "logits"
    readers = graph.graph.initializers[EMBEDDING].consumers()
    assert sorted(node.op_type for node in readers) == ["Gather", "Transpose"]


def test_the_folds_leave_the_gains_in_the_new_basis_in_it(tied: Case) -> None:
    gains = weight_of(tied.before(FuseNormGains), "model.norm.weight")
    basis = tied.projections.hidden
    found = weight_of(tied.after(FoldHiddenBasis), INPUT)
    difference = np.abs(found - basis.T @ np.diag(gains) @ basis).max()
    assert difference < FOLD_TOLERANCE * np.abs(gains).max()


def test_an_untied_model_has_no_such_layer(cases: Callable[[str], Case], separate: Case) -> None:
    for case in (cases("qwen2 untied"), separate):
        assert INPUT not in case.after(FoldHiddenBasis).graph.initializers


def test_a_graph_without_an_embedding_is_refused_by_name(llama: Case) -> None:
    graph: ir.Model = llama.before(SplitHead)
    del graph.graph.initializers[EMBEDDING]
    with pytest.raises(ValueError, match=r"lm_head: the graph has no .*model\.embed_tokens"):
        SplitHead(llama.layout)(graph)
