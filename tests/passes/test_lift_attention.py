"""Attention as one node: the same numbers on every size, and from then on the graph runs on any."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from resq_onnx.graph.modules import find_linear
from resq_onnx.graph.names import cache_names
from resq_onnx.graph.replacing import find_attention
from resq_onnx.passes.lift_attention import LiftAttention
from tests.functions.engines import assert_close
from tests.passes.cases import (
    FLOAT_TOLERANCE,
    Case,
    assert_same_function,
    decoder_of,
    ops_of,
    random_tokens,
    session_of,
)


def test_the_logits_and_the_cache_stay(case: Case) -> None:
    assert_same_function(case, case.after(LiftAttention), any_size=False)


def test_one_node_joins_the_projections_and_the_past(case: Case) -> None:
    graph = case.lifted
    inputs = {value.name: value for value in graph.graph.inputs}
    for layer in range(case.layout.num_layers):
        node = find_attention(graph, case.layout.module(layer, "attention"))
        joined = node.inputs[0]
        assert joined is not None
        concat = joined.producer()
        assert concat is not None
        assert list(concat.inputs) == [
            find_linear(graph, case.layout.module(layer, role)).result
            for role in ("query", "key", "value")
        ]
        past = [inputs[f"past_key_values.{layer}.{part}"] for part in ("key", "value")]
        assert list(node.inputs[1:3]) == past
        assert list(node.inputs[3:5]) == [inputs["attention_mask"], inputs["position_ids"]]
        assert node.attributes.get_float("scale") == pytest.approx(case.layout.scale)


def test_inputs_and_outputs_keep_their_names_order_and_shapes(case: Case) -> None:
    before, after = case.before(LiftAttention).graph, case.after(LiftAttention).graph
    for old, new in zip(
        [*before.inputs, *before.outputs], [*after.inputs, *after.outputs], strict=True
    ):
        assert (new.name, new.shape, new.dtype) == (old.name, old.shape, old.dtype)
    past, present = cache_names(case.layout.num_layers)
    assert [v.name for v in after.inputs] == ["input_ids", "attention_mask", "position_ids", *past]
    assert [v.name for v in after.outputs] == ["logits", *present]


def test_nothing_is_left_of_the_traced_attention_after_the_sweep(case: Case) -> None:
    left = {"Attention", "Where", "Expand", "Neg", "Slice", "ScatterND"} & set(ops_of(case.lifted))
    assert not left


def test_the_tables_are_nodes_over_the_frequencies_and_not_weights(llama: Case) -> None:
    graph = llama.after(LiftAttention)
    cos = find_attention(graph, llama.layout.module(0, "attention")).inputs[5]
    assert cos is not None
    assert not cos.is_initializer()
    largest = max(
        v.const_value.size
        for name, v in graph.graph.initializers.items()
        if name.startswith(llama.layout.family.rotary) and v.const_value is not None
    )
    assert largest == llama.layout.head_dim // 2


def test_the_last_position_of_the_model_has_an_angle_of_its_own(llama: Case) -> None:
    ids = random_tokens(1, 3)
    last = llama.layout.max_positions - 1
    positions = np.array([[last - 9, last - 4, last]])
    expected, _ = llama.run_torch(
        input_ids=ids, position_ids=positions, attention_mask=np.ones_like(ids)
    )
    session = session_of(llama.lifted)
    sizes = (1, llama.layout.num_kv_heads, 0, llama.layout.head_dim)
    past = dict.fromkeys(cache_names(llama.layout.num_layers)[0], np.zeros(sizes, np.float32))
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "position_ids": positions}
    (logits,) = session.run(["logits"], {**feeds, **past})
    assert_close(logits, expected, FLOAT_TOLERANCE)


def test_padding_on_the_left_changes_nothing_for_the_tokens_behind_it(case: Case) -> None:
    ids = random_tokens(2, 7)
    mask = np.array([[1] * 7, [0] * 3 + [1] * 4])
    found, state = decoder_of(case.lifted).run(ids[:, :6], attention_mask=mask[:, :6])
    last, _ = decoder_of(case.lifted).run(ids[:, 6:], state, mask)
    assert_close(np.concatenate([found, last], axis=1)[:1], case.run_torch(input_ids=ids[:1])[0],
                 FLOAT_TOLERANCE)  # fmt: skip
    alone, _ = case.run_torch(input_ids=ids[1:, 3:])
    assert_close(np.concatenate([found, last], axis=1)[1:, 3:], alone, FLOAT_TOLERANCE)


def without_key(graph: ir.Model, layer: str) -> None:
    del graph.graph.initializers[f"{layer}.self_attn.k_proj.weight"]


@pytest.mark.parametrize("change", [without_key])
def test_another_attention_is_refused_by_name(
    llama: Case, change: Callable[[ir.Model, str], None]
) -> None:
    graph = llama.before(LiftAttention)
    change(graph, "model.layers.1")
    with pytest.raises(ValueError, match=r"model\.layers\.1\.self_attn"):
        LiftAttention(llama.layout)(graph)


def test_a_model_without_frequencies_is_refused_by_name(llama: Case) -> None:
    graph = llama.before(LiftAttention)
    del graph.graph.initializers["model.rotary_emb.inv_freq"]
    with pytest.raises(ValueError, match=r"model\.rotary_emb"):
        LiftAttention(llama.layout)(graph)


def test_an_attention_that_was_not_lifted_is_not_found(llama: Case) -> None:
    with pytest.raises(ValueError, match=r"self_attn: 0 attention nodes, expected 1"):
        find_attention(llama.before(LiftAttention), "model.layers.0.self_attn")
