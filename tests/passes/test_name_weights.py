"""NameWeights: what an optimiser has computed from weights is told by where it is read."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from resq_onnx.graph.modules import find_head, find_linear, module_of
from resq_onnx.graph.tensors import read_float64
from resq_onnx.passes import NameWeights
from resq_onnx.tracing.trace import trace
from tests.passes.cases import Case


def fold_transposes(model: ir.Model) -> None:
    """Compute every Transpose of a weight, as torch.onnx's optimiser does."""
    for number, node in enumerate(list(model.graph)):
        weight = node.inputs[0] if node.inputs else None
        if node.op_type != "Transpose" or weight is None or not weight.is_initializer():
            continue
        values = np.ascontiguousarray(read_float64(weight.const_value).T, np.float32)
        constant = ir.Value(name=f"val_{number}", const_value=ir.tensor(values))
        model.graph.register_initializer(constant)
        node.outputs[0].replace_all_uses_with(constant)
        model.graph.remove(node, safe=True)
        if not weight.uses() and weight.name is not None:
            model.graph.initializers.pop(weight.name)


@pytest.mark.parametrize("name", ["qwen2 untied", "llama tied"])
def test_every_linear_layer_gets_its_weight_back(cases: Callable[[str], Case], name: str) -> None:
    source = cases(name).source
    expected, found = trace(source), trace(source)
    fold_transposes(found)
    layout = source.layout
    query = layout.module(0, "query")
    assert f"{query}.weight" not in found.graph.initializers
    NameWeights(layout)(found)
    assert found.graph.initializers.keys() == expected.graph.initializers.keys()
    for initializer, value in expected.graph.initializers.items():
        again = found.graph.initializers[initializer]
        np.testing.assert_array_equal(
            read_float64(again.const_value), read_float64(value.const_value)
        )
    assert find_linear(found, query).rows == layout.num_heads * layout.head_dim
    assert find_head(found, layout, shared=layout.tied).rows == layout.vocab_size


def test_a_traced_graph_stays_as_it_is(llama: Case) -> None:
    graph = trace(llama.source)
    before = [(node.op_type, module_of(node)) for node in graph.graph]
    NameWeights(llama.source.layout)(graph)
    assert [(node.op_type, module_of(node)) for node in graph.graph] == before
