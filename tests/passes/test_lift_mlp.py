"""The gate of an MLP as one node."""

from __future__ import annotations

import pytest

from resq_onnx.graph.modules import find_linear, producer_of
from resq_onnx.passes.lift_mlp import LiftMlp
from tests.passes.cases import Case, assert_same_function, ops_of


def test_the_logits_stay(case: Case) -> None:
    assert_same_function(case, case.after(LiftMlp), any_size=False)


def test_one_node_reads_gate_and_up_and_is_read_by_down(case: Case) -> None:
    graph = case.lifted
    for layer in range(case.layout.num_layers):
        gate, up, down = (
            find_linear(graph, case.layout.module(layer, role)) for role in ("gate", "up", "down")
        )
        gated = producer_of(down.source, "GatedHadamard")
        assert gated is not None
        joined = gated.inputs[0]
        assert joined is not None
        concat = producer_of(joined, "Concat")
        assert concat is not None
        assert list(concat.inputs) == [gate.result, up.result]
        assert concat.attributes.get_int("axis") == -1


def test_nothing_is_rotated_yet(case: Case) -> None:
    graph = case.lifted
    nodes = [node for node in graph.graph if node.op_type == "GatedHadamard"]
    assert len(nodes) == case.layout.num_layers
    assert {len(node.inputs) for node in nodes} == {1}
    assert {node.attributes.get_int("high_rank") for node in nodes} == {0}


def test_nothing_is_left_of_the_traced_activation_after_the_sweep(case: Case) -> None:
    assert not {"Sigmoid", "Swish"} & set(ops_of(case.lifted))
    # The one product left is position times frequency.
    assert ops_of(case.lifted).count("Mul") == 1


@pytest.mark.parametrize("role", ["gate", "up", "down"])
def test_an_mlp_without_one_of_its_layers_is_refused_by_name(llama: Case, role: str) -> None:
    graph, module = llama.before(LiftMlp), llama.layout.module(1, role)
    del graph.graph.initializers[f"{module}.weight"]
    with pytest.raises(ValueError, match=module):
        LiftMlp(llama.layout)(graph)
