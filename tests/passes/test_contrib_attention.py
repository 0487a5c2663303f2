"""Attention as GroupQueryAttention."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from resq_onnx.errors import ResqError
from resq_onnx.families.attention import LayerAttention
from resq_onnx.graph.modules import only_node
from resq_onnx.graph.names import cache_names
from resq_onnx.graph.replacing import find_attention
from resq_onnx.passes.contrib_attention import ContribAttention, refuse_other_attention
from resq_onnx.passes.quantise_cache import QuantiseCache
from resq_onnx.runtime import BufferedDecoder, Decoder
from tests.functions.engines import assert_close
from tests.passes.cases import (
    FLOAT_TOLERANCE,
    Case,
    assert_equal_functions,
    decoder_of,
    session_of,
)

SHORT = 5
"""Tokens of the shorter of two texts."""

HALF_A_STEP = 0.501
"""Of an integer, and float32's last bits."""

WIDELY_USED = 40
"""Integers of 127 that a cache must reach: a scale that is too large wastes the others."""

HALF_TOLERANCE = 0.002
"""Of the largest number in the first layer's cache: ten bits of mantissa, rounded a few times."""

ROUNDED_TOLERANCE = 0.02
"""Of the largest logit, between keys and values that are floats and rounded ones. MatMulNBits
rounds activations to 8 bits: a little more in one layer may be an integer in the next."""


def test_the_function_stays(any_contrib: Case) -> None:
    case = any_contrib
    assert_equal_functions(case, case.after(ContribAttention), case.before(ContribAttention))


def test_the_cache_stays(contrib: Case) -> None:
    caches = [
        decoder_of(graph).run(contrib.token_ids)[1].caches
        for graph in (contrib.after(ContribAttention), contrib.before(ContribAttention))
    ]
    for found, expected in zip(*caches, strict=True):
        assert_close(found, expected, FLOAT_TOLERANCE)


def test_an_int8_cache_is_that_of_floats_rounded(contrib: Case) -> None:
    """Keys and values beyond the range are clipped; all others are half a step off at most."""
    graph = contrib.with_recipe(cache="int8").after(ContribAttention)
    _, state = decoder_of(graph).run(contrib.token_ids)
    _, floats = decoder_of(contrib.after(ContribAttention)).run(contrib.token_ids)
    for part, cache, exact in zip(
        ("key", "value"), state.caches[:2], floats.caches[:2], strict=True
    ):
        scale = graph.graph.initializers[f"model.layers.0.self_attn.{part}_scale"].const_value
        assert scale is not None
        steps = exact / scale.numpy().reshape(1, cache.shape[1], 1, -1)
        assert cache.dtype == np.int8
        assert np.abs(cache - steps.clip(-128, 127)).max() < HALF_A_STEP
        assert np.abs(cache).max() > WIDELY_USED


def test_a_float16_cache_is_that_of_floats_rounded(contrib: Case) -> None:
    graph = contrib.with_recipe(cache="float16").after(ContribAttention)
    logits, state = decoder_of(graph).run(contrib.token_ids)
    expected, floats = decoder_of(contrib.after(ContribAttention)).run(contrib.token_ids)
    assert {cache.dtype for cache in state.caches} == {np.dtype(np.float16)}
    for cache, exact in zip(state.caches[:2], floats.caches[:2], strict=True):
        assert_close(cache.astype(np.float32), exact, HALF_TOLERANCE)
    assert logits.dtype == np.float32
    assert_close(logits, expected, ROUNDED_TOLERANCE)


@pytest.mark.parametrize("cache", ["int8", "float16"])
def test_a_rounded_cache_decodes_in_steps_of_any_length(contrib: Case, cache: str) -> None:
    session = session_of(contrib.with_recipe(cache=cache).after(ContribAttention))
    ids = contrib.token_ids[:1]
    buffered, plain, state = BufferedDecoder(session, 2 * ids.shape[1]), Decoder(session), None
    whole, _ = plain.run(ids)
    for start, end in ((0, 3), (3, 4), (4, 7), (7, 8)):
        found = buffered.run(ids[:, start:end])
        logits, state = plain.run(ids[:, start:end], state)
        assert_close(found, logits[:, -1], FLOAT_TOLERANCE)
        assert_close(logits, whole[:, start:end], ROUNDED_TOLERANCE)


def test_positions_are_not_asked_for(contrib: Case) -> None:
    past, present = cache_names(contrib.layout.num_layers)
    graph = contrib.after(ContribAttention).graph
    assert [value.name for value in graph.inputs] == ["input_ids", "attention_mask", *past]
    assert [value.name for value in graph.outputs] == ["logits", *present]


def test_a_text_may_be_followed_by_padding(contrib: Case) -> None:
    """As onnxruntime-genai pads; a new token then takes the place of the padding."""
    decoder, ids = decoder_of(contrib.after(ContribAttention)), contrib.token_ids
    mask = np.ones_like(ids)
    mask[0, SHORT:] = 0
    logits, state = decoder.run(ids, None, mask)
    alone, alone_state = decoder.run(ids[:1, :SHORT])
    assert_close(logits[:1, :SHORT], alone, FLOAT_TOLERANCE)

    token = np.array([[7], [9]])
    found, _ = decoder.run(token, state, np.concatenate([mask, np.ones((2, 1), np.int64)], axis=1))
    expected, _ = decoder.run(token[:1], alone_state)
    assert_close(found[:1], expected, FLOAT_TOLERANCE)


def test_a_fixed_buffer_gives_what_concatenation_gives(contrib: Case) -> None:
    session, ids = session_of(contrib.after(ContribAttention)), contrib.token_ids[:1]
    buffered, plain, state = BufferedDecoder(session, 2 * ids.shape[1]), Decoder(session), None
    for start, end in ((0, 3), (3, 4), (4, 7), (7, 8)):
        found = buffered.run(ids[:, start:end])
        logits, state = plain.run(ids[:, start:end], state)
        assert_close(found, logits[:, -1], FLOAT_TOLERANCE)


def test_a_quantised_cache_is_refused_by_name(llama: Case) -> None:
    graph = llama.after(QuantiseCache).clone()
    with pytest.raises(ResqError, match=r"model\.layers\.0\.self_attn: format contrib does not"):
        ContribAttention(llama.layout)(graph)


@pytest.mark.parametrize(
    ("particular", "words"),
    [
        ({"softcap": 30.0}, "capped scores"),
        ({"rotary_dim": 8}, "partial RoPE"),
        ({"attention": (LayerAttention(window=4), LayerAttention())}, "sliding windows"),
        ({"attention": (LayerAttention(), LayerAttention(frequencies=None))}, "without RoPE"),
    ],
)
def test_attention_that_was_not_tried_is_refused_early(
    llama: Case, particular: dict[str, Any], words: str
) -> None:
    refuse_other_attention(llama.layout)
    with pytest.raises(ResqError, match=f"do not support .*{words}.*; use format custom"):
        refuse_other_attention(replace(llama.layout, **particular))


def test_a_scale_of_its_own_stays(contrib: Case) -> None:
    graph, module = contrib.before(ContribAttention), "model.layers.0.self_attn"
    find_attention(graph, module).attributes.add(ir.AttrFloat32("scale", 0.125))
    ContribAttention(contrib.layout)(graph)
    assert only_node(graph, module, "GroupQueryAttention").attributes.get_float("scale") == 0.125
