"""A basis behind the norms' gains, for families in which it cannot be that of the stream."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from resq_onnx.graph.modules import INPUT_BASIS, only_node, turned_input
from resq_onnx.passes.clean_up import CleanUp
from resq_onnx.passes.fuse_norm_gains import READERS
from resq_onnx.passes.turn_inputs import TurnInputs
from resq_onnx.recipe import Recipe
from tests.passes.cases import (
    FOLD_TOLERANCE,
    Case,
    assert_same_function,
    changed,
    ops_of,
    weight_of,
    weights_of,
)

MATRIX = f"{INPUT_BASIS}.matrix"


@pytest.fixture
def gemma(cases: Callable[[str], Case]) -> Case:
    return cases("gemma2 tied")


def test_the_logits_stay(gemma: Case) -> None:
    assert_same_function(gemma, gemma.after(TurnInputs))


def test_only_the_layers_that_read_a_norm_change(gemma: Case) -> None:
    before, after = weights_of(gemma.before(TurnInputs)), weights_of(gemma.after(TurnInputs))
    readers = {
        f"{gemma.layout.module(layer, role)}.weight"
        for layer in range(2)
        for roles in READERS.values()
        for role in roles
    }
    assert changed(before, after) == {MATRIX, *readers}


def test_weights_are_turned_and_have_no_gain_in_them(gemma: Case) -> None:
    basis, name = gemma.projections.hidden, f"{gemma.layout.module(1, 'up')}.weight"
    expected = weight_of(gemma.before(TurnInputs), name) @ basis
    found = weight_of(gemma.after(TurnInputs), name)
    assert np.abs(found - expected).max() < FOLD_TOLERANCE * np.abs(expected).max()
    np.testing.assert_array_equal(weight_of(gemma.after(TurnInputs), MATRIX), basis)


def test_all_read_one_matrix_behind_their_norm(gemma: Case) -> None:
    graph = gemma.after(TurnInputs)
    for layer in range(2):
        for norm in READERS:
            product = only_node(graph, turned_input(gemma.layout, layer, norm), "MatMul")
            source, matrix = product.inputs
            assert source is not None
            assert matrix is graph.graph.initializers[MATRIX]
            before: ir.Node | None = source.producer()
            assert before is only_node(graph, gemma.layout.module(layer, norm), "RMSNormalization")


def test_norms_that_end_a_block_and_the_last_one_keep_their_gains(gemma: Case) -> None:
    before, after = gemma.lifted, gemma.after(TurnInputs)
    norms = [gemma.layout.module(0, role) for role in ("attention_post_norm", "mlp_norm")]
    for norm in (*norms, gemma.layout.family.final_norm):
        name = f"{norm}.weight"
        np.testing.assert_array_equal(weight_of(after, name), weight_of(before, name))


def test_a_tied_model_has_one_table(gemma: Case) -> None:
    graph = gemma.after(CleanUp)
    assert not [name for name in graph.graph.initializers if name.startswith("lm_head")]


def test_an_identity_is_left_out_of_the_graph(gemma: Case) -> None:
    graph = gemma.before(TurnInputs)
    result = TurnInputs(gemma.layout, gemma.projections_of(Recipe(method="rtn")))(graph)
    assert not result.modified
    assert not changed(weights_of(gemma.before(TurnInputs)), weights_of(graph))
    assert ops_of(graph) == ops_of(gemma.before(TurnInputs))
    whole = gemma.with_recipe(method="rtn")
    assert not [one for one in whole.after(CleanUp).graph.initializers if INPUT_BASIS in one]
