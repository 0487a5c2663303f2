"""The cache as records of bytes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from resq_onnx.functions import RecordLayout
from resq_onnx.graph.names import cache_names
from resq_onnx.graph.replacing import find_attention
from resq_onnx.passes.lift_attention import LiftAttention
from resq_onnx.passes.quantise_cache import QuantiseCache
from resq_onnx.passes.quantise_linears import QuantiseLinears
from tests.functions import oracle
from tests.functions.engines import assert_close
from tests.passes.cases import Case, changed, decoder_of, weights_of

RECORD_ERROR = 0.08
"""Of the largest cached number: half a step of 16 over a token's range; found are 0.03 to 0.05."""

EIGHT_BIT_TOLERANCE = 0.02
"""Of the largest logit, with the cache alone in 8 bits; found are 0.004 to 0.007."""


def quantise(case: Case, **choices: Any) -> ir.Model:
    """The float graph with nothing quantised but the cache."""
    bases = case.projections_of(replace(case.recipe, **choices))
    graph = case.lifted
    for one in case.folding(bases):
        one(graph)
    QuantiseCache(case.layout, bases)(graph)
    return graph


def record_of(case: Case) -> RecordLayout:
    split = case.projections.head_split
    return RecordLayout(case.layout.head_dim, split.high, split.low_bits)


def test_inputs_and_outputs_are_records_of_bytes(case: Case) -> None:
    graph = case.after(QuantiseCache).graph
    past, present = cache_names(case.layout.num_layers)
    values = {value.name: value for value in (*graph.inputs, *graph.outputs)}
    for names, tokens in ((past, "past"), (present, "present")):
        for name in names:
            assert values[name].dtype == ir.DataType.UINT8
            heads, size = case.layout.num_kv_heads, record_of(case).size
            assert values[name].shape == ir.Shape(["batch", heads, tokens, size])
    assert values["logits"].dtype == ir.DataType.FLOAT
    assert [v.name for v in graph.inputs][3:] == past
    assert [v.name for v in graph.outputs] == ["logits", *present]


def test_a_record_of_a_head_of_16_with_2_high_values_has_15_bytes(llama: Case) -> None:
    # 14 values of 4 bits, 2 of 8, and for each part two bytes of scale and one of zero point.
    assert record_of(llama).size == 7 + 2 + 3 + 3


def test_the_cache_holds_turned_keys_and_values_to_four_bits(case: Case) -> None:
    _, state = decoder_of(quantise(case)).run(case.token_ids)
    expected = case.stored(case.whole[1], keys=True, values=True)
    # What the first layer caches comes from the embedding, which is not quantised.
    for records, wanted in zip(state.caches[:2], expected[:2], strict=True):
        assert records.dtype == np.uint8
        assert_close(oracle.decode(records, record_of(case)), wanted, RECORD_ERROR)


def test_in_eight_bits_the_logits_are_near_the_float_ones(case: Case) -> None:
    decoder = decoder_of(quantise(case, low_bits=8))
    prefill, state = decoder.run(case.token_ids[:, :-1])
    last, _ = decoder.run(case.token_ids[:, -1:], state)
    assert_close(np.concatenate([prefill, last], axis=1), case.logits, EIGHT_BIT_TOLERANCE)


def test_the_node_says_how_its_heads_are_split(llama: Case) -> None:
    node = find_attention(llama.after(QuantiseCache), "model.layers.1.self_attn")
    assert node.op_type == "MixedPrecisionAttention"
    assert node.attributes.get_int("high_rank") == llama.projections.head_split.high
    assert node.attributes.get_int("low_bits") == 4


def test_a_scale_of_its_own_stays(llama: Case) -> None:
    graph, module = llama.before(QuantiseCache), "model.layers.0.self_attn"
    find_attention(graph, module).attributes.add(ir.AttrFloat32("scale", 0.125))
    QuantiseCache(llama.layout, llama.projections)(graph)
    assert find_attention(graph, module).attributes.get_float("scale") == 0.125


def test_the_bases_of_the_keys_are_stored_in_sixteen_bits_behind_a_cast(llama: Case) -> None:
    graph = llama.after(QuantiseCache)
    for layer in range(llama.layout.num_layers):
        basis = graph.graph.initializers[f"model.layers.{layer}.self_attn.key_projection"]
        assert basis.const_value is not None
        assert basis.dtype == basis.const_value.dtype == ir.DataType.FLOAT16
        expected = llama.projections.key[layer].astype(np.float32).astype(np.float16)
        np.testing.assert_array_equal(basis.const_value.numpy(), expected)
        (cast,) = basis.consumers()
        assert cast.op_type == "Cast"
        assert cast.attributes.get_int("to") == ir.DataType.FLOAT
        node = find_attention(graph, f"model.layers.{layer}.self_attn")
        assert node.inputs[7] is cast.outputs[0]


def test_without_rotated_keys_there_is_no_basis(llama: Case) -> None:
    graph = quantise(llama, method="rtn")
    assert not [name for name in graph.graph.initializers if "key_projection" in name]
    assert len(find_attention(graph, "model.layers.0.self_attn").inputs) == 7


def test_no_other_weight_changes(llama: Case) -> None:
    bases = {f"model.layers.{i}.self_attn.key_projection" for i in range(2)}
    graph = llama.before(QuantiseLinears)
    folded = weights_of(graph)
    QuantiseCache(llama.layout, llama.projections)(graph)
    assert changed(folded, weights_of(graph)) == bases


def test_a_graph_that_was_not_lifted_is_refused_by_name(llama: Case) -> None:
    with pytest.raises(ValueError, match=r"model\.layers\.0\.self_attn: 0 attention nodes"):
        QuantiseCache(llama.layout, llama.projections)(llama.before(LiftAttention))
