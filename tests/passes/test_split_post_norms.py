"""A place behind the norms that end a block, for gains that commute with no rotation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from resq_onnx.graph.modules import find_linear, post_layer
from resq_onnx.passes.clean_up import CleanUp
from resq_onnx.passes.fold_hidden_basis import FoldHiddenBasis
from resq_onnx.passes.fuse_norm_gains import FuseNormGains
from resq_onnx.passes.split_post_norms import SplitPostNorms
from tests.passes.cases import (
    FOLD_TOLERANCE,
    Case,
    assert_same_function,
    changed,
    weight_of,
    weights_of,
)

ROLES = ("attention_post_norm", "mlp_post_norm")


@pytest.fixture
def gemma(cases: Callable[[str], Case]) -> Case:
    return cases("gemma2 tied")


def squares(case: Case) -> list[str]:
    return [post_layer(case.layout, layer, role) for layer in range(2) for role in ROLES]


def test_the_logits_stay(gemma: Case) -> None:
    assert_same_function(gemma, gemma.after(SplitPostNorms))


def test_the_new_layers_compute_nothing_yet(gemma: Case) -> None:
    before = weights_of(gemma.before(SplitPostNorms))
    after = weights_of(gemma.after(SplitPostNorms))
    assert changed(before, after) == {f"{name}.weight" for name in squares(gemma)}
    for name in squares(gemma):
        np.testing.assert_array_equal(after[f"{name}.weight"], np.eye(gemma.layout.hidden_size))


def test_they_lie_between_the_norm_and_the_addition(gemma: Case) -> None:
    graph = gemma.after(SplitPostNorms)
    for name in squares(gemma):
        square = find_linear(graph, name)
        norm = square.source.producer()
        assert norm is not None
        assert norm.op_type == "RMSNormalization"
        assert [node.op_type for node in square.result.consumers()] == ["Add"]


def test_the_folds_leave_the_gains_in_the_new_basis_in_them(gemma: Case) -> None:
    basis = gemma.projections.hidden
    for layer, role in ((0, "attention_post_norm"), (1, "mlp_post_norm")):
        gains = weight_of(gemma.before(FuseNormGains), f"{gemma.layout.module(layer, role)}.weight")
        assert np.abs(gains.mean() - 1) < 0.2  # a checkpoint holds them less 1
        square = f"{post_layer(gemma.layout, layer, role)}.weight"
        found = weight_of(gemma.after(FoldHiddenBasis), square)
        difference = np.abs(found - basis.T @ np.diag(gains) @ basis).max()
        assert difference < FOLD_TOLERANCE * np.abs(gains).max()


def test_each_becomes_one_node_with_its_norm_and_its_addition(gemma: Case) -> None:
    graph = gemma.after(CleanUp)
    nodes = {node.name: node for node in graph.graph}
    for name in squares(gemma):
        node = nodes[name]
        assert node.op_type == "MixedPrecisionMatMul"
        assert "norm_epsilon" in node.attributes
        low, residual = node.inputs[1], node.inputs[6]
        assert low is None  # all of it in 8 bits
        assert residual is not None


def test_families_without_such_norms_are_left_as_they_are(llama: Case) -> None:
    before, after = (
        weights_of(graph) for graph in (llama.before(SplitPostNorms), llama.after(SplitPostNorms))
    )
    assert not changed(before, after)
