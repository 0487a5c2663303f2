"""One stored matrix read as the several that it holds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from resq_onnx.graph.modules import find_linear
from resq_onnx.passes.split_projections import SplitProjections
from tests.passes.cases import Case, changed, weight_of, weights_of


@pytest.fixture
def phi3(cases: Callable[[str], Case]) -> Case:
    return cases("phi3 partly rotary")


STORED = {
    "self_attn.qkv_proj": {"query": 64, "key": 32, "value": 32},
    "mlp.gate_up_proj": {"gate": 192, "up": 192},
}
"""By stored layer, the rows of its roles in their order."""


def test_every_role_gets_the_rows_that_are_its_own(phi3: Case) -> None:
    graph = phi3.after(SplitProjections)
    for layer in range(phi3.layout.num_layers):
        for name, roles in STORED.items():
            whole, begin = weight_of(graph, f"model.layers.{layer}.{name}.weight"), 0
            for role, rows in roles.items():
                found = weight_of(graph, f"{phi3.layout.module(layer, role)}.weight")
                np.testing.assert_array_equal(found, whole[begin : begin + rows])
                begin += rows
            assert begin == len(whole)


def test_the_parts_read_what_the_whole_reads(phi3: Case) -> None:
    graph = phi3.after(SplitProjections)
    for name, roles in STORED.items():
        source = find_linear(graph, f"model.layers.1.{name}").source
        for role in roles:
            assert find_linear(graph, phi3.layout.module(1, role)).source is source


def test_float32_rows_are_ranges_of_bytes_of_the_file(phi3: Case) -> None:
    graph = phi3.after(SplitProjections)
    value = graph.graph.initializers[phi3.layout.module(0, "value") + ".weight"]
    tensor = value.const_value
    assert isinstance(tensor, ir.ExternalTensor)
    stored = phi3.source.weights["model.layers.0.self_attn.qkv_proj.weight"]
    assert tensor.offset == stored.offset + (64 + 32) * 64 * 4
    assert tensor.length == 32 * 64 * 4


def test_the_whole_is_gone_after_the_sweep(phi3: Case) -> None:
    left = [name for name in phi3.lifted.graph.initializers if "qkv_proj" in name]
    assert not left


def test_other_families_are_left_as_they_are(llama: Case) -> None:
    before, after = (
        weights_of(graph)
        for graph in (llama.before(SplitProjections), llama.after(SplitProjections))
    )
    assert not changed(before, after)
