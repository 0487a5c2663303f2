"""Quantised weights in a graph whose activations stay in float."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from resq_onnx.graph.modules import find_linear
from resq_onnx.graph.tensors import read_float64
from resq_onnx.passes import Statistics, quantising
from resq_onnx.passes.clean_up import CleanUp
from resq_onnx.passes.quantise_linears import QuantiseLinears
from resq_onnx.passes.stored_weights import dequantise_weight, store_matrix
from resq_onnx.recipe import BitSplit
from resq_onnx.runtime import create_session
from resq_onnx.weights.quantised import QuantisedMatrix
from resq_onnx.weights.rtn import round_to_nearest
from tests.functions.engines import assert_close
from tests.passes.cases import FLOAT_TOLERANCE, Case, decoder_of, one_linear, ops_of

Array = NDArray[Any]

ROWS, WIDTH = 6, 10

SPLITS = {
    "both parts": BitSplit(8, 2),
    "no high part": BitSplit(WIDTH, 0),
    "no low part": BitSplit(0, WIDTH),
    "8 bits in both": BitSplit(6, 4, 8, 8),
}


@pytest.mark.parametrize("ordered", [False, True], ids=["in place", "reordered"])
@pytest.mark.parametrize("split", SPLITS.values(), ids=SPLITS)
def test_a_layer_computes_with_the_floats_its_integers_stand_for(
    split: BitSplit, ordered: bool, tmp_path: Path
) -> None:
    model = one_linear(ROWS, WIDTH)
    linear = find_linear(model, "layer")
    weight = read_float64(linear.weight.const_value)
    order = np.random.default_rng(1).permutation(WIDTH)
    matrix = round_to_nearest(weight[:, order] if ordered else weight, split)
    parts = store_matrix(model, "layer", ROWS, split, lambda: matrix)
    dequantise_weight(model, linear, parts, order if ordered else None)
    assert "layer.weight" not in model.graph.initializers
    expected = matrix.dequantise()
    if ordered:
        in_place = np.empty_like(expected)
        in_place[:, order] = expected
        expected = in_place
    x = np.random.default_rng(2).standard_normal((3, WIDTH)).astype(np.float32)
    path = tmp_path / "model.onnx"
    ir.save(model, path)
    (found,) = create_session(path, threads=1, kernels=False).run(["y"], {"x": x})
    assert_close(found, x @ expected.T, FLOAT_TOLERANCE)


def weights_only(case: Case, **choices: Any) -> ir.Model:
    """The graph whose linear layers have quantised weights, and nothing else has."""
    graph = case.before(QuantiseLinears)
    recipe = replace(case.recipe, activations="float", **choices)
    QuantiseLinears(case.layout, recipe, case.projections, case.moments)(graph)
    return graph


def with_dequantised_weights(case: Case, parts_of: ir.Model) -> ir.Model:
    """The folded float graph with the floats that the integers of another graph stand for."""
    graph = case.before(QuantiseLinears)
    found = parts_of.graph.initializers
    for name, value in graph.graph.initializers.items():
        module = name.removesuffix(".weight")
        if f"{module}.weight_low" not in found:
            continue
        parts = [
            np.asarray(read_float64(found[f"{module}.{part}"].const_value))
            for part in ("weight_low", "scale_low", "weight_high", "scale_high")
        ]
        floats = QuantisedMatrix(*parts).dequantise()  # type: ignore[arg-type]
        if module.endswith("o_proj"):
            floats = per_head(floats, case)
        value.const_value = ir.tensor(floats.astype(np.float32), name=name)
    return graph


def per_head(columns: Array, case: Case) -> Array:
    """[low columns of all heads | high ones] → [low | high] of the first head, ..."""
    split, heads = case.projections.head_split, case.layout.num_heads
    low, high = np.split(columns, [split.low * heads], axis=1)
    pieces = zip(np.split(low, heads, axis=1), np.split(high, heads, axis=1), strict=True)
    return np.concatenate([piece for pair in pieces for piece in pair], axis=1)


@pytest.mark.parametrize("weights", ["rtn", "gptq"])
def test_with_float_activations_only_the_weights_change(biased: Case, weights: str) -> None:
    graph = weights_only(biased, weights=weights)
    expected = decoder_of(with_dequantised_weights(biased, graph)).run(biased.token_ids)[0]
    assert_close(decoder_of(graph).run(biased.token_ids)[0], expected, FLOAT_TOLERANCE)
    assert np.abs(expected - biased.logits).max() > 100 * FLOAT_TOLERANCE  # weights were rounded


def test_the_layers_stay_as_they_were_but_for_standard_nodes_over_constants(case: Case) -> None:
    before, graph = case.before(QuantiseLinears), weights_only(case)
    linears = 4 * case.layout.num_layers
    added = ["DequantizeLinear"] * 2 * linears + ["Concat"] * linears
    added += ["Gather"] * case.layout.num_layers  # o_proj's columns
    assert sorted(ops_of(graph)) == sorted(ops_of(before) + added)


@pytest.mark.parametrize("cache", ["quantised", "float"])
def test_the_cache_is_quantised_or_not_whatever_the_activations_are(
    llama: Case, cache: Any
) -> None:
    graph = llama.before(QuantiseLinears)
    recipe = replace(llama.recipe, cache=cache)
    for one in quantising(llama.layout, recipe, llama.projections, Statistics(llama.moments)):
        one(graph)
    CleanUp()(graph)
    types = {value.dtype for value in graph.graph.inputs if "past" in (value.name or "")}
    assert types == {ir.DataType.UINT8 if cache == "quantised" else ir.DataType.FLOAT}
    attention = {"quantised": "MixedPrecisionAttention", "float": "RotaryAttention"}[cache]
    ours = {node.op_type for node in graph.graph if node.domain == "ai.resq"}
    assert ours == {"MixedPrecisionGather", "MixedPrecisionMatMul", "GatedHadamard", attention}


def test_keys_are_rotated_for_the_sake_of_a_quantised_cache_alone(llama: Case) -> None:
    assert llama.projections.rotates_keys
    assert not llama.projections_of(replace(llama.recipe, cache="float")).rotates_keys
