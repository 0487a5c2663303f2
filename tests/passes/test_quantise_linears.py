"""Linear layers on integers: the structure of the nodes, and the weights they read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from resq_onnx.graph.modules import find_linear, module_of, only_node
from resq_onnx.passes import Statistics, quantise_linears, quantising
from resq_onnx.passes.clean_up import CleanUp, sweep
from resq_onnx.passes.lift_norms import LiftNorms
from resq_onnx.passes.quantise_cache import QuantiseCache
from resq_onnx.passes.quantise_linears import QuantiseLinears, replace_linear
from resq_onnx.passes.rotate_down import RotateDown
from resq_onnx.passes.stored_weights import store_matrix
from resq_onnx.recipe import BitSplit, Recipe
from resq_onnx.weights.gptq import gptq
from resq_onnx.weights.quantised import QuantisedMatrix
from resq_onnx.weights.rtn import round_to_nearest
from tests.functions.engines import assert_close
from tests.passes.cases import Case, decoder_of, one_linear, ops_of, weights_of

Array = NDArray[Any]

EIGHT_BIT_TOLERANCE = 0.07
"""Of the largest logit, with 8 bits everywhere: steps of 1/255 of a row's range, through two
layers, give 0.017 to 0.035; scales a tenth too large 0.15, columns in another order 1.1."""

FOUR_BIT_ERROR = 0.12
"""Norm of the error of a weight over its norm: these Gaussian rows lose 0.09 to 0.105."""

EIGHT_BIT_ERROR = 0.006
"""The same in 256 steps: 0.0036 to 0.005, for the high part has few columns."""

SAME_INTEGERS = 0.99
"""Share of GPTQ's integers that agree although the Hessian was summed in another order: one
that is moved by a rounding moves those after it in its row. Another layer's Hessian: 0.8."""

ROLES = ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj")
READS_NORM = {"self_attn.qkv_proj", "mlp.gate_up_proj"}


def with_weights(case: Case, **choices: Any) -> ir.Model:
    """The graph after the pass, by another recipe."""
    graph = case.before(QuantiseLinears)
    recipe = replace(case.recipe, **choices)
    QuantiseLinears(case.layout, recipe, case.projections, case.moments)(graph)
    return graph


def quantised(graph: ir.Model, module: str) -> QuantisedMatrix:
    parts = [
        graph.graph.initializers[f"{module}.{name}"].const_value
        for name in ("weight_low", "scale_low", "weight_high", "scale_high")
    ]
    arrays = [part.numpy() for part in parts if part is not None]
    return QuantisedMatrix(
        arrays[0].astype(np.int8), arrays[1], arrays[2].astype(np.int8), arrays[3]
    )


def columns_of(case: Case, role: str, matrix: Array) -> Array:
    """o_proj's columns are gathered: the low ones of all heads, then the high ones."""
    if role != "self_attn.o_proj":
        return matrix
    size, low = case.layout.head_dim, case.projections.head_split.low
    starts = range(0, matrix.shape[-1], size)
    lows = [column for start in starts for column in range(start, start + low)]
    highs = [column for start in starts for column in range(start + low, start + size)]
    return matrix[..., lows + highs]


def split_of(case: Case, role: str) -> BitSplit:
    bases = case.projections
    if role == "mlp.down_proj":
        return bases.down_split
    if role == "self_attn.o_proj":
        heads = case.layout.num_heads
        return BitSplit(bases.head_split.low * heads, bases.head_split.high * heads)
    return bases.hidden_split


def hessian_of(case: Case, layer: int, role: str) -> Array:
    """The layer's second moment in the basis of its quantised columns, by dense products."""
    bases, moments, size = case.projections, case.moments, case.layout.head_dim
    if role == "mlp.down_proj":
        basis, moment = bases.down_matrix(layer), moments.down[layer]
    elif role == "self_attn.o_proj":
        moment = moments.attention_out[layer]
        basis = np.zeros_like(moment)
        for head in range(case.layout.num_heads):
            at = slice(head * size, (head + 1) * size)
            basis[at, at] = bases.value[layer, head // case.layout.heads_per_kv_head]
        basis = columns_of(case, role, basis)
    else:
        site = "hidden_attention" if role == "self_attn.qkv_proj" else "hidden_mlp"
        basis, moment = bases.hidden, getattr(moments, site)[layer]
    return np.asarray(basis.T @ moment @ basis)


def sites(case: Case) -> list[tuple[int, str]]:
    return [(layer, role) for layer in range(case.layout.num_layers) for role in ROLES]


def test_each_linear_layer_is_one_node_with_its_norm_bias_and_residual(case: Case) -> None:
    before, graph = case.before(QuantiseLinears), case.after(QuantiseLinears)
    for layer, role in sites(case):
        module = f"model.layers.{layer}.{role}"
        node = only_node(graph, module, "MixedPrecisionMatMul")
        given = [value is not None for value in (*node.inputs, None, None)][:7]
        has_bias = f"{module}.bias" in before.graph.initializers
        assert given == [True] * 5 + [has_bias, role not in READS_NORM]
        assert ("norm_epsilon" in node.attributes) == (role in READS_NORM)
        heads = case.layout.num_heads if role == "self_attn.o_proj" else 1
        assert node.attributes.get_int("num_groups") == heads
        assert node.attributes.get_int("low_bits") == 4
        assert node.attributes.get_int("high_bits") == 8


def test_the_norms_epsilon_is_that_of_the_model(case: Case) -> None:
    graph = case.after(QuantiseLinears)
    for layer in range(case.layout.num_layers):
        for role in READS_NORM:
            node = only_node(graph, f"model.layers.{layer}.{role}", "MixedPrecisionMatMul")
            found = node.attributes.get_float("norm_epsilon")
            assert found == pytest.approx(case.layout.norm_epsilon)


def test_a_layer_reads_the_residual_stream_and_adds_to_it(case: Case) -> None:
    graph = case.after(QuantiseLinears)

    def node(layer: int, role: str) -> ir.Node:
        return only_node(graph, f"model.layers.{layer}.{role}", "MixedPrecisionMatMul")

    for layer in range(case.layout.num_layers):
        qkv, out, gate_up, down = (node(layer, role) for role in ROLES)
        assert out.inputs[6] is qkv.inputs[0]
        assert gate_up.inputs[0] is out.outputs[0]
        assert down.inputs[6] is out.outputs[0]
        if layer:
            assert qkv.inputs[0] is node(layer - 1, "mlp.down_proj").outputs[0]


def test_no_float_product_is_left_but_the_head(case: Case) -> None:
    graph = case.before(QuantiseCache)
    sweep()(graph)
    heads = {"lm_head.weight"} if not case.shares_table else {"lm_head.input.weight"}
    assert ops_of(graph).count("MatMul") == 1 + case.shares_table
    assert ops_of(graph).count("RMSNormalization") == 1
    assert "Add" not in ops_of(graph)
    float_weights = {name for name in graph.graph.initializers if name.endswith(".weight")}
    assert float_weights == {"model.embed_tokens.weight", "model.norm.weight"} | heads


def test_a_quantised_layer_is_six_nodes(case: Case) -> None:
    graph = case.before(QuantiseLinears)
    for one in quantising(case.layout, case.recipe, case.projections, Statistics(case.moments)):
        one(graph)
    found = [
        node.op_type
        for node in graph.graph
        if module_of(node).startswith("model.layers.1.") and node.domain == "ai.resq"
    ]
    assert found == [
        "MixedPrecisionMatMul",
        "MixedPrecisionAttention",
        "MixedPrecisionMatMul",
        "MixedPrecisionMatMul",
        "GatedHadamard",
        "MixedPrecisionMatMul",
    ]


def test_rounded_weights_are_those_of_the_folded_columns_in_order(case: Case) -> None:
    before = weights_of(case.before(QuantiseLinears))
    graph = case.after(QuantiseLinears)
    for layer, role in sites(case):
        module = f"model.layers.{layer}.{role}"
        weight = columns_of(case, role, before[f"{module}.weight"])
        expected = round_to_nearest(weight, split_of(case, role))
        found = quantised(graph, module)
        for part in ("low", "low_scale", "high", "high_scale"):
            np.testing.assert_array_equal(getattr(found, part), getattr(expected, part))


def test_dequantised_weights_are_near_the_float_ones(biased: Case) -> None:
    before = weights_of(biased.before(QuantiseLinears))
    graph = biased.after(QuantiseLinears)
    for layer, role in sites(biased):
        module, low = f"model.layers.{layer}.{role}", split_of(biased, role).low
        weight = columns_of(biased, role, before[f"{module}.weight"])
        error = quantised(graph, module).dequantise() - weight
        for part, limit in ((slice(low), FOUR_BIT_ERROR), (slice(low, None), EIGHT_BIT_ERROR)):
            relative = np.linalg.norm(error[:, part]) / np.linalg.norm(weight[:, part])
            assert limit / 10 < relative < limit, (module, part)


def test_gptq_is_given_the_hessian_in_the_basis_of_the_columns(biased: Case) -> None:
    before = weights_of(biased.before(QuantiseLinears))
    graph = with_weights(biased, weights="gptq")
    for layer, role in sites(biased):
        module, split = f"model.layers.{layer}.{role}", split_of(biased, role)
        weight = columns_of(biased, role, before[f"{module}.weight"])
        expected = gptq(weight, hessian_of(biased, layer, role), split)
        found = quantised(graph, module)
        assert np.mean(found.low == expected.low) > SAME_INTEGERS, module
        assert np.mean(found.high == expected.high) > SAME_INTEGERS, module
        assert_close(found.low_scale, expected.low_scale, 1e-3)


def test_the_file_holds_the_types_and_shapes_that_the_operator_reads(llama: Case) -> None:
    graph = llama.after(QuantiseLinears)
    for layer, role in sites(llama):
        module, split = f"model.layers.{layer}.{role}", split_of(llama, role)
        rows = len(quantised(graph, module).low)
        for name, dtype, shape in (
            ("weight_low", ir.DataType.INT4, [rows, split.low]),
            ("scale_low", ir.DataType.FLOAT, [rows]),
            ("weight_high", ir.DataType.INT8, [rows, split.high]),
            ("scale_high", ir.DataType.FLOAT, [rows]),
        ):
            value = graph.graph.initializers[f"{module}.{name}"]
            tensor = value.const_value
            assert tensor is not None
            assert value.dtype == tensor.dtype == dtype
            assert list(tensor.shape) == list(tensor.numpy().shape) == shape


def test_with_a_target_each_layer_has_splits_of_its_own(llama: Case) -> None:
    case = Case(llama.source, llama.model, Recipe(weights="rtn", target_bits=4.7))
    graph, splits, heads = case.after(QuantiseLinears), case.projections.splits, 4
    for layer in range(case.layout.num_layers):
        out = splits.attention_out[layer]
        expected = [
            (splits.attention[layer].low, splits.attention[layer].high),
            (out.low * heads, out.high * heads),
            (splits.mlp[layer].low, splits.mlp[layer].high),
            (splits.down[layer].low, splits.down[layer].high),
        ]
        for role, widths in zip(ROLES, expected, strict=True):
            found = quantised(graph, f"model.layers.{layer}.{role}")
            assert (found.low.shape[1], found.high.shape[1]) == widths
    logits, _ = decoder_of(case.after(CleanUp)).run(case.token_ids)
    usual, _ = decoder_of(llama.after(CleanUp)).run(case.token_ids)
    errors = [np.linalg.norm(found - case.logits) for found in (logits, usual)]
    assert errors[0] < 1.3 * errors[1]  # columns in another order: 10 times


def assert_near_in_eight_bits(case: Case, **choices: Any) -> None:
    graph, recipe = case.lifted, Recipe(low_bits=8, weights="rtn", **choices)
    bases = case.projections_of(recipe)
    for one in [*case.folding(bases), *quantising(case.layout, recipe, bases, Statistics())]:
        one(graph)
    logits, _ = decoder_of(graph).run(case.token_ids)
    assert_close(logits, case.logits, EIGHT_BIT_TOLERANCE)


def test_in_eight_bits_the_whole_graph_is_near_the_float_one(case: Case) -> None:
    assert_near_in_eight_bits(case)


@pytest.mark.parametrize(
    "choices", [{"method": "rtn"}, {"method": "outlier"}, {"method": "quarot"}, {"down_high": 0.0}]
)
def test_so_it_is_by_every_method(biased: Case, choices: dict[str, Any]) -> None:
    assert_near_in_eight_bits(biased, **choices)


def test_each_matrix_is_quantised_once_while_a_file_is_written(
    llama: Case, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shapes = []

    def counting(weight: Array, *rest: Any, **options: Any) -> QuantisedMatrix:
        shapes.append(weight.shape)
        return gptq(weight, *rest, **options)

    monkeypatch.setattr(quantise_linears, "gptq", counting)
    graph = with_weights(llama, weights="gptq")
    assert not shapes  # nothing is computed while the pass runs
    ir.save(graph, tmp_path / "model.onnx", external_data="model.onnx.data")
    assert len(shapes) == len(sites(llama))


def test_gptq_without_moments_is_an_error_of_the_caller(llama: Case) -> None:
    graph = llama.before(QuantiseLinears)
    recipe = replace(llama.recipe, weights="gptq")
    QuantiseLinears(llama.layout, recipe, llama.projections, None)(graph)
    with pytest.raises(AssertionError, match="second moments"):
        quantised(graph, "model.layers.0.mlp.down_proj")


@pytest.mark.parametrize("before", [LiftNorms, RotateDown])
def test_a_graph_that_was_not_merged_is_refused_by_name(llama: Case, before: type) -> None:
    one = QuantiseLinears(llama.layout, llama.recipe, llama.projections, llama.moments)
    with pytest.raises(ValueError, match=r"model\.layers\.0\.self_attn\.qkv_proj"):
        one(llama.before(before))


WIDTH = 8


def small_graph(reads: Callable[[ir.Value, ir.Value], list[ir.Node]]) -> ir.Model:
    return one_linear(WIDTH, WIDTH, reads)


def quantise_small(model: ir.Model) -> ir.Node:
    split = BitSplit(WIDTH - 2, 2)
    linear = find_linear(model, "layer")
    weight = linear.weight.const_value
    assert weight is not None
    parts = store_matrix(
        model, "layer", linear.rows, split, lambda: round_to_nearest(weight.numpy(), split)
    )
    replace_linear(model, linear, split, 1, parts)
    return only_node(model, "layer", "MixedPrecisionMatMul")


def test_an_add_whose_other_side_is_the_residual_is_absorbed_on_either_side() -> None:
    for order in (1, -1):
        model = small_graph(lambda y, x, o=order: [ir.node("Add", [y, x][::o])])  # type: ignore[misc]
        node = quantise_small(model)
        assert node.inputs[6] is model.graph.inputs[0]
        assert ops_of(model) == ["MixedPrecisionMatMul"]
        assert model.graph.outputs[0] is node.outputs[0]
        assert node.outputs[0].name == "y"


def test_an_add_behind_a_result_that_others_read_stays() -> None:
    def reads(y: ir.Value, x: ir.Value) -> list[ir.Node]:
        added, negated = ir.node("Add", [y, x]), ir.node("Neg", [y])
        return [added, negated, ir.node("Mul", [added.outputs[0], negated.outputs[0]])]

    model = small_graph(reads)
    node = quantise_small(model)
    assert node.inputs[6] is None
    assert ops_of(model) == ["MixedPrecisionMatMul", "Add", "Neg", "Mul"]


def test_an_add_behind_a_result_of_the_graph_stays() -> None:
    model = small_graph(lambda y, x: [ir.node("Add", [y, x])])
    result = find_linear(model, "layer").result
    result.type, result.shape = model.graph.inputs[0].type, model.graph.inputs[0].shape
    model.graph.outputs.append(result)
    node = quantise_small(model)
    assert node.inputs[6] is None
    assert ops_of(model) == ["MixedPrecisionMatMul", "Add"]
    assert model.graph.outputs[1] is node.outputs[0]


def test_a_result_of_the_graph_keeps_its_name_and_takes_no_residual() -> None:
    model = small_graph(lambda _y, _x: [])
    node = quantise_small(model)
    assert model.graph.outputs[0] is node.outputs[0]
    assert node.outputs[0].name == "y"
    assert node.inputs[6] is None
