"""Linear layers as MatMulNBits."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from resq_onnx.graph.modules import nodes_of
from resq_onnx.passes.contrib_linears import ContribLinears, find_dequantised
from resq_onnx.passes.quantise_linears import QuantiseLinears
from tests.functions.engines import assert_close
from tests.passes.cases import Case, assert_equal_functions, decoder_of

FLOATS = 0
"""Accuracy level with which MatMulNBits multiplies floats."""

EIGHT_BITS = 0.03
"""Of the largest logit: what activations in 8 bits inside the kernel may do; found is 0.004."""


def of_level(case: Case, level: int) -> ir.Model:
    graph = case.before(ContribLinears)
    ContribLinears(case.layout, level)(graph)
    return graph


def test_the_function_stays(any_contrib: Case) -> None:
    case = any_contrib
    assert_equal_functions(case, of_level(case, FLOATS), case.before(ContribLinears))


def test_activations_in_eight_bits_inside_the_kernel_change_little(contrib: Case) -> None:
    exact, found = (
        decoder_of(of_level(contrib, level)).run(contrib.token_ids)[0] for level in (FLOATS, 4)
    )
    assert_close(found, exact, EIGHT_BITS)
    assert not np.array_equal(found, exact)


def test_a_layer_is_one_product_for_each_part(contrib: Case) -> None:
    graph = contrib.after(ContribLinears)
    expected = {  # columns by bits: all but the high ones, then these
        "self_attn.qkv_proj": {4: 56, 8: 8},
        "self_attn.o_proj": {4: 56, 8: 8},
        "mlp.gate_up_proj": {4: 56, 8: 8},
        "mlp.down_proj": {4: 168, 8: 24},
    }
    for layer in range(contrib.layout.num_layers):
        for name, columns in expected.items():
            nodes = nodes_of(graph, f"model.layers.{layer}.{name}")
            products = [node for node in nodes if node.op_type == "MatMulNBits"]
            found = {n.attributes.get_int("bits"): n.attributes.get_int("K") for n in products}
            assert found == columns
            assert {n.attributes.get_int("accuracy_level") for n in products} == {4}
            assert not {"DequantizeLinear", "MatMul"} & {node.op_type for node in nodes}


def test_a_part_of_width_zero_has_no_product(contrib: Case) -> None:
    case = contrib.with_recipe(method="quarot", weights="rtn")
    assert_equal_functions(case, of_level(case, FLOATS), case.before(ContribLinears))
    nodes = nodes_of(case.after(ContribLinears), "model.layers.0.self_attn.qkv_proj")
    assert [node.op_type for node in nodes] == ["MatMulNBits"]


def test_no_weight_is_stored_twice(any_contrib: Case) -> None:
    stored = any_contrib.after(ContribLinears).graph.initializers
    weights = [value for name, value in stored.items() if "proj.weight" in name]
    assert {value.dtype for value in weights} == {ir.DataType.UINT8}
    assert len(weights) == 8 * any_contrib.layout.num_layers


def test_a_layer_whose_weight_is_not_quantised_is_refused_by_name(contrib: Case) -> None:
    with pytest.raises(ValueError, match=r"model\.layers\.0\.mlp\.down_proj: its weight is not"):
        find_dequantised(contrib.before(QuantiseLinears), "model.layers.0.mlp.down_proj")
