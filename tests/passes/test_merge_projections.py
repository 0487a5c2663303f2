"""q, k, v as one layer, and gate, up as one layer."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from resq_onnx.graph.modules import find_linear
from resq_onnx.passes.merge_projections import MergeProjections, merged_module
from tests.passes.cases import (
    Case,
    assert_same_function,
    assert_weights,
    changed,
    decoder_of,
    ops_of,
    weights_of,
)

MERGED = {
    "self_attn.qkv_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "mlp.gate_up_proj": ("mlp.gate_proj", "mlp.up_proj"),
}


def test_the_logits_stay(case: Case) -> None:
    assert_same_function(case, case.after(MergeProjections), keys=True, values=True)


def test_the_rows_of_all_parts_follow_one_another(case: Case) -> None:
    before = weights_of(case.before(MergeProjections))
    after = weights_of(case.after(MergeProjections))
    expected, gone = {}, set()
    for layer in range(case.layout.num_layers):
        for merged, parts in MERGED.items():
            for parameter in ("weight", "bias"):
                names = [f"model.layers.{layer}.{part}.{parameter}" for part in parts]
                if names[0] in before:
                    joined = f"model.layers.{layer}.{merged}.{parameter}"
                    expected[joined] = np.concatenate([before[name] for name in names])
                    gone |= set(names)
    assert_weights(after, expected)
    assert changed(before, after) == set(expected) | gone
    assert not gone & after.keys()


def test_no_concat_of_activations_is_left(case: Case) -> None:
    assert "Concat" not in ops_of(case.after(MergeProjections))


def test_the_names_of_merged_layers_are_those_of_their_module(llama: Case) -> None:
    assert merged_module(llama.layout, 1, "query") == "model.layers.1.self_attn.qkv_proj"
    assert merged_module(llama.layout, 0, "gate") == "model.layers.0.mlp.gate_up_proj"


def without_bias(graph: ir.Model, module: str) -> None:
    linear = find_linear(graph, module)
    add = linear.nodes[-1]
    add.outputs[0].replace_all_uses_with(linear.multiply.outputs[0])
    graph.graph.remove(add, safe=True)
    del graph.graph.initializers[f"{module}.bias"]


@pytest.mark.parametrize("missing", [("key",), ("query", "value"), ("query", "key")])
def test_a_layer_without_a_bias_adds_zeros(
    cases: Callable[[str], Case], missing: tuple[str, ...]
) -> None:
    case = cases("qwen2 untied")
    apart = case.before(MergeProjections)
    for role in missing:
        without_bias(apart, case.layout.module(0, role))
    merged = apart.clone()
    MergeProjections(case.layout)(merged)
    before, after = weights_of(apart), weights_of(merged)
    expected = [
        np.zeros(len(before[f"{module}.weight"])) if role in missing else before[f"{module}.bias"]
        for role in ("query", "key", "value")
        for module in [case.layout.module(0, role)]
    ]
    found = after[f"{merged_module(case.layout, 0, 'query')}.bias"]
    assert np.array_equal(found, np.concatenate(expected))
    logits = [decoder_of(graph).run(case.token_ids)[0] for graph in (apart, merged)]
    np.testing.assert_allclose(logits[0], logits[1], rtol=0, atol=1e-5 * np.abs(logits[0]).max())


def test_layers_without_any_bias_get_none(llama: Case) -> None:
    names = llama.after(MergeProjections).graph.initializers
    assert not [name for name in names if name.endswith(".bias")]


def read_twice(graph: ir.Model, result: ir.Value) -> None:
    graph.graph.append(ir.node("Identity", [result]))


def turn_between(graph: ir.Model, result: ir.Value) -> None:
    (concat,) = result.consumers()
    node = ir.node("Neg", [result])
    graph.graph.insert_before(concat, node)
    concat.replace_input_with(0, node.outputs[0])


def join_otherwise(graph: ir.Model, result: ir.Value) -> None:
    (concat,) = result.consumers()
    first, second, third = concat.inputs
    concat.replace_input_with(1, third)
    concat.replace_input_with(2, second)
    assert concat.inputs[0] is first


@pytest.mark.parametrize("change", [read_twice, turn_between, join_otherwise])
def test_parts_that_are_not_joined_in_order_are_refused_by_name(
    llama: Case, change: Callable[[ir.Model, ir.Value], None]
) -> None:
    graph = llama.before(MergeProjections)
    change(graph, find_linear(graph, llama.layout.module(1, "query")).result)
    with pytest.raises(ValueError, match=r"model\.layers\.1\.self_attn\.qkv_proj"):
        MergeProjections(llama.layout)(graph)
