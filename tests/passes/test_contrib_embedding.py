"""Tables of embedding and lm_head in ONNX Runtime's own operators."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import onnx_ir as ir
import pytest

from resq_onnx.graph.files import save_model
from resq_onnx.graph.modules import nodes_of
from resq_onnx.graph.tensors import SameBytes
from resq_onnx.passes.contrib_embedding import ContribEmbedding
from tests.passes.cases import Case, assert_equal_functions

EMBEDDING, HEAD = "model.embed_tokens", "lm_head"
FLOATS = 0

TABLES: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "one table": ("llama tied", {}),
    "one table, 4 bits": ("llama tied", {"head_bits": 4}),
    "two tables": ("llama tied", {"tables": "separate"}),
    "two tables, 4 bits": ("llama tied", {"tables": "separate", "head_bits": 4}),
    "not tied": ("qwen2 untied", {}),
}


@pytest.fixture(scope="module", params=TABLES)
def case(cases: Callable[[str], Case], request: pytest.FixtureRequest) -> Case:
    name, choices = TABLES[request.param]
    return cases(name).with_recipe(format="contrib", **choices)


def test_the_function_stays(case: Case) -> None:
    graph = case.before(ContribEmbedding)
    ContribEmbedding(case.layout, FLOATS)(graph)
    assert_equal_functions(case, graph, case.before(ContribEmbedding))


def test_both_read_the_tables_they_are_given(case: Case) -> None:
    graph = case.after(ContribEmbedding)
    products = [node for node in nodes_of(graph, HEAD) if node.op_type == "MatMulNBits"]
    rows = [node for node in nodes_of(graph, EMBEDDING) if node.op_type == "GatherBlockQuantized"]
    assert [node.attributes.get_int("bits") for node in products] == [
        node.attributes.get_int("bits") for node in rows
    ]
    for product, row in zip(products, rows, strict=True):
        table = row.inputs[0]
        assert table is not None
        assert isinstance(table.const_value, SameBytes)
        shared = table.const_value.packed is product.inputs[1].const_value  # type: ignore[union-attr]
        assert shared == case.shares_table
        assert (row.inputs[2] is product.inputs[2]) == shared
    assert not [node for node in graph.graph if node.op_type == "MixedPrecisionGather"]


def test_the_bytes_of_a_shared_table_are_written_once(case: Case, tmp_path: Path) -> None:
    graph = case.after(ContribEmbedding).clone()
    save_model(graph, tmp_path / "a.onnx")
    found = ir.load(tmp_path / "a.onnx").graph.initializers
    places: dict[str, object] = {}
    for name, value in found.items():
        if isinstance(value.const_value, ir.ExternalTensor) and "weight" in name:
            places[name] = value.const_value.offset
    views = [name for name in places if name.endswith("_rows")]
    assert views
    for name in views:
        assert places[name] == places[name.removesuffix("_rows")]


def test_nothing_is_left_of_the_tables_before(case: Case) -> None:
    graph = case.after(ContribEmbedding)
    assert not [name for name in graph.graph.initializers if "packed_low" in name]
    kinds = {v.dtype for n, v in graph.graph.initializers.items() if n.startswith(EMBEDDING)}
    assert kinds <= {ir.DataType.UINT8, ir.DataType.FLOAT, ir.DataType.INT64}
