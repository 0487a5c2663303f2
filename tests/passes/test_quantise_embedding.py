"""Embedding and lm_head in eight bits."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from resq_onnx.passes import CleanUp
from resq_onnx.passes.modules import nodes_of, only_node
from resq_onnx.passes.quantise_embedding import QuantiseEmbedding
from resq_onnx.passes.quantise_linears import QuantiseLinears
from resq_onnx.passes.untie_embedding import UntieEmbedding
from tests.functions.engines import assert_close
from tests.passes.cases import Case, decoder_of, ops_of, weight_of

TABLES = {"model.embed_tokens": "embedding", "lm_head": "head"}

HALF_A_STEP = 0.5 + 1e-5
"""Of a row's scale: nearest rounding in float64, and a scale and product in float32."""

LOGIT_TOLERANCE = 0.03
"""Of the largest logit, with embedding and lm_head alone in 8 bits; found are 0.009 to 0.015."""


def alone(case: Case) -> ir.Model:
    """The folded float graph with nothing else quantised."""
    graph = case.before(QuantiseLinears)
    QuantiseEmbedding(case.layout)(graph)
    return graph


@pytest.mark.parametrize("module", TABLES)
def test_the_integers_stand_for_the_folded_rows(case: Case, module: str) -> None:
    before = weight_of(case.before(QuantiseEmbedding), f"{module}.weight")
    rows, scales = (
        weight_of(case.after(QuantiseEmbedding), f"{module}.{name}")
        for name in ("weight_high", "scale_high")
    )
    inside = np.abs(rows) < 127  # what lies outside the range was clipped
    error = np.abs(rows * scales[:, None] - before)
    assert (error <= HALF_A_STEP * scales[:, None])[inside].all()
    assert inside.mean() > 0.95
    assert np.abs(rows).max(axis=1).min() > 100  # the range is used


def test_the_tables_are_bytes_with_a_scale_for_each_row(case: Case) -> None:
    graph = case.after(QuantiseEmbedding)
    vocabulary, width = case.layout.vocab_size, case.layout.hidden_size
    for module in TABLES:
        for name, dtype, shape in (
            ("weight_high", ir.DataType.INT8, (vocabulary, width)),
            ("scale_high", ir.DataType.FLOAT, (vocabulary,)),
        ):
            tensor = graph.graph.initializers[f"{module}.{name}"].const_value
            assert tensor is not None
            assert tensor.dtype == dtype
            assert tensor.numpy().shape == shape
        assert f"{module}.weight" not in case.after(CleanUp).graph.initializers


def test_the_logits_stay_near_the_float_ones_on_every_size(case: Case) -> None:
    decoder = decoder_of(alone(case))
    for ids in (case.token_ids, case.token_ids[:1], case.token_ids[:, :1]):
        expected, _ = case.run_torch(input_ids=ids)
        assert_close(decoder.run(ids)[0], expected, LOGIT_TOLERANCE)


def test_the_head_takes_the_final_norm_and_has_no_low_columns(case: Case) -> None:
    graph = case.after(QuantiseEmbedding)
    node = only_node(graph, "lm_head", "MixedPrecisionMatMul")
    given = [value is not None for value in node.inputs]
    assert given[:5] == [True, False, False, True, True]
    assert not any(given[5:])
    assert node.attributes.get_float("norm_epsilon") == pytest.approx(case.layout.norm_epsilon)
    assert node.outputs[0] is graph.graph.outputs[0]
    assert node.outputs[0].name == "logits"
    assert node.outputs[0].shape == ir.Shape(["batch", "sequence", case.layout.vocab_size])
    assert not {"RMSNormalization", "MatMul"} & set(ops_of(case.after(CleanUp)))


def test_only_the_rows_that_are_asked_for_are_dequantised(llama: Case) -> None:
    graph = llama.after(QuantiseEmbedding)
    nodes = nodes_of(graph, "model.embed_tokens")
    assert [node.op_type for node in nodes].count("DequantizeLinear") == 1
    (dequantise,) = [node for node in nodes if node.op_type == "DequantizeLinear"]
    for value, name in zip(dequantise.inputs, ("weight_high", "scale_high"), strict=True):
        assert value is not None
        gather = value.producer()
        assert gather is not None
        assert gather.op_type == "Gather"
        assert gather.inputs[0] is graph.graph.initializers[f"model.embed_tokens.{name}"]


def test_a_tied_embedding_is_refused_by_name(llama: Case) -> None:
    with pytest.raises(ValueError, match=r"model\.embed_tokens"):
        QuantiseEmbedding(llama.layout)(llama.before(UntieEmbedding))


def test_a_graph_without_a_head_is_refused_by_name(llama: Case) -> None:
    graph = llama.before(QuantiseEmbedding)
    del graph.graph.initializers["lm_head.weight"]
    with pytest.raises(ValueError, match="lm_head"):
        QuantiseEmbedding(llama.layout)(graph)
