"""RMSNorm as one node."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir
import pytest

from resq_onnx.graph.modules import nodes_of
from resq_onnx.passes.lift_norms import LiftNorms
from tests.passes.cases import Case, assert_same_function, ops_of


def norm_modules(case: Case) -> list[str]:
    layers = range(case.layout.num_layers)
    roles = ("attention_norm", "mlp_norm")
    return [*(case.layout.module(i, role) for i in layers for role in roles), "model.norm"]


def test_the_logits_stay(case: Case) -> None:
    assert_same_function(case, case.after(LiftNorms), any_size=False)


def test_every_norm_becomes_one_node_with_its_gain_and_epsilon(case: Case) -> None:
    graph = case.after(LiftNorms)
    assert ops_of(graph).count("RMSNormalization") == len(norm_modules(case))
    for module in norm_modules(case):
        (norm,) = [n for n in nodes_of(graph, module) if n.op_type == "RMSNormalization"]
        gain = norm.inputs[1]
        assert gain is not None
        assert gain.name == f"{module}.weight"
        assert norm.attributes.get_float("epsilon") == pytest.approx(case.layout.norm_epsilon)


def test_nothing_is_left_of_the_traced_norms_after_the_sweep(case: Case) -> None:
    ops = ops_of(case.lifted)
    assert not {"Pow", "ReduceMean", "Sqrt", "Reciprocal"} & set(ops)


def drop_gain(graph: ir.Model, module: str) -> None:
    del graph.graph.initializers[f"{module}.weight"]


def square_elsewhere(graph: ir.Model, module: str) -> None:
    next(n for n in nodes_of(graph, module) if n.op_type == "Pow").op_type = "Exp"


def scale_otherwise(graph: ir.Model, module: str) -> None:
    for node in graph.graph.initializers[f"{module}.weight"].consumers():
        node.op_type = "Div"


@pytest.mark.parametrize("change", [drop_gain, square_elsewhere, scale_otherwise])
def test_what_is_not_an_rms_norm_is_refused_by_name(
    llama: Case, change: Callable[[ir.Model, str], None]
) -> None:
    graph, module = llama.before(LiftNorms), llama.layout.module(1, "mlp_norm")
    change(graph, module)
    with pytest.raises(ValueError, match=module):
        LiftNorms(llama.layout)(graph)
