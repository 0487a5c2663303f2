"""The rotation of down_proj's input: both parts in one product."""

from __future__ import annotations

import numpy as np

from resq_onnx.graph.modules import nodes_of
from resq_onnx.passes.join_hadamards import JoinHadamards
from tests.passes.cases import Case, assert_equal_functions, ops_of, weight_of


def test_the_function_stays(any_contrib: Case) -> None:
    case = any_contrib
    assert_equal_functions(case, case.after(JoinHadamards), case.before(JoinHadamards))


def test_two_products_do_the_work_of_four(contrib: Case) -> None:
    graph = contrib.after(JoinHadamards)
    module = "model.layers.1.mlp"
    operators = [node.op_type for node in nodes_of(graph, module)]
    assert operators.count("MatMul") == 2
    assert "GatedHadamard" not in ops_of(graph)


def test_all_layers_read_one_matrix_whose_blocks_are_the_parts(contrib: Case) -> None:
    graph = contrib.after(JoinHadamards)
    names = [name for name in graph.graph.initializers if name.endswith(".transposed")]
    assert len(names) == 1
    matrix = weight_of(graph, names[0])
    bases = contrib.projections
    low = bases.down_low[bases.down_split.low].outer
    np.testing.assert_allclose(matrix[: len(low), : len(low)], low.T, atol=1e-6)
    assert not matrix[: len(low), len(low) :].any()
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(len(matrix)), atol=1e-6)


def test_a_node_with_one_part_is_left_as_it_is(contrib: Case) -> None:
    case = contrib.with_recipe(down_high=0.0)
    assert ops_of(case.after(JoinHadamards)).count("GatedHadamard") == case.layout.num_layers
