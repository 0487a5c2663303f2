"""A place behind the norms that end a block, where the residual stream's basis begins."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import onnx_ir as ir
import pytest

from resq_onnx.graph.modules import POST_BASIS, only_node, post_layer
from resq_onnx.passes.fold_hidden_basis import WRITERS, FoldHiddenBasis
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
MATRIX = f"{POST_BASIS}.matrix"


@pytest.fixture
def gemma(cases: Callable[[str], Case]) -> Case:
    return cases("gemma2 tied")


def products(graph: ir.Model, case: Case) -> list[ir.Node]:
    modules = [post_layer(case.layout, layer, role) for layer in range(2) for role in ROLES]
    return [only_node(graph, module, "MatMul") for module in modules]


def test_the_logits_stay(gemma: Case) -> None:
    assert_same_function(gemma, gemma.after(SplitPostNorms))


def test_all_read_one_matrix_that_does_nothing_yet(gemma: Case) -> None:
    before = weights_of(gemma.before(SplitPostNorms))
    graph = gemma.after(SplitPostNorms)
    after = weights_of(graph)
    assert changed(before, after) == {MATRIX}
    np.testing.assert_array_equal(after[MATRIX], np.eye(gemma.layout.hidden_size))
    read = [node.inputs[1] for node in products(graph, gemma)]
    assert [value.name for value in read if value is not None] == [MATRIX] * 4


def test_it_lies_between_the_norm_and_the_addition(gemma: Case) -> None:
    for multiply in products(gemma.after(SplitPostNorms), gemma):
        normed = multiply.inputs[0]
        assert normed is not None
        norm = normed.producer()
        assert norm is not None
        assert norm.op_type == "RMSNormalization"
        assert [node.op_type for node in multiply.outputs[0].consumers()] == ["Add"]


def test_the_folds_leave_gains_and_channels_before_it_as_they_were(gemma: Case) -> None:
    before, after = gemma.before(SplitPostNorms), gemma.after(FoldHiddenBasis)
    for layer, (role, writer) in product(range(2), zip(ROLES, WRITERS, strict=True)):
        for module in (gemma.layout.module(layer, role), gemma.layout.module(layer, writer)):
            name = f"{module}.weight"
            np.testing.assert_array_equal(weight_of(after, name), weight_of(before, name))
    np.testing.assert_allclose(
        weight_of(after, MATRIX), gemma.projections.hidden, rtol=0, atol=FOLD_TOLERANCE
    )


def test_families_without_such_norms_are_left_as_they_are(llama: Case) -> None:
    before, after = (
        weights_of(graph) for graph in (llama.before(SplitPostNorms), llama.after(SplitPostNorms))
    )
    assert not changed(before, after)
