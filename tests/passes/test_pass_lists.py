"""The lists of passes: complete, in the order of the README, and each leaves a valid graph."""

from __future__ import annotations

import re
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest
from onnx_ir.passes.common import InlinePass

import resq_onnx.passes
from resq_onnx.graph.names import MODULE_KEY
from resq_onnx.passes.clean_up import CleanUp
from tests.passes.cases import SWEEP, Case, with_weights_inside

FOLDER = Path(resq_onnx.passes.__file__).parent


def file_of(one: ir.passes.PassBase) -> str:
    return f"{type(one).__module__.rpartition('.')[2]}.py"


PACKAGED = (SWEEP, InlinePass)
"""onnx_ir's own passes, which have no file here."""

CONTRIB = {
    *("contrib_linears.py", "contrib_embedding.py", "contrib_attention.py"),
    *("join_hadamards.py", "contrib_norms.py"),
}

PORTABLE = {"spell_activations.py", "multiply_by_part.py"}

IN_FLOAT32 = {"untie_embedding.py", "narrow_activations.py"}
"""What a model with one table and activations in float32 has no use for."""

OF_OTHER_FAMILIES = {"turn_inputs.py"}
"""What comes in the place of other passes for families whose norms end blocks."""

LEFT_OUT: dict[str, tuple[dict[str, str], set[str]]] = {
    "one table": ({}, {*IN_FLOAT32, *CONTRIB, *PORTABLE}),
    "two tables": (
        {"tables": "separate"},
        {"split_head.py", "narrow_activations.py", *CONTRIB, *PORTABLE},
    ),
    "float16": ({"dtype": "float16"}, {"untie_embedding.py", *CONTRIB, *PORTABLE}),
    "portable": ({"format": "qdq"}, {*IN_FLOAT32, *CONTRIB}),
    "web": (
        {"format": "web"},
        {
            *(*IN_FLOAT32, "quantise_cache.py"),
            *("contrib_linears.py", "contrib_embedding.py", *PORTABLE),
        },
    ),
    "contrib": (
        {"format": "contrib"},
        {*IN_FLOAT32, "quantise_cache.py", *PORTABLE},
    ),
}
"""By name, choices of a recipe, and which passes it has no use for."""


@pytest.mark.parametrize("name", LEFT_OUT)
def test_the_readme_lists_every_pass_in_the_order_in_which_it_runs(llama: Case, name: str) -> None:
    first, *rows = re.findall(r"^\| `(\w+\.py)` \|", (FOLDER / "README.md").read_text(), re.M)
    assert first == "name_weights.py"  # which only `rewrite` runs
    choices, left_out = LEFT_OUT[name]
    every = llama.with_recipe(logits="last", **choices)
    expected = [file_of(one) for one in every.passes() if type(one) not in PACKAGED]
    assert [row for row in rows if row not in left_out | OF_OTHER_FAMILIES] == expected
    assert left_out <= set(rows)


def test_every_pass_has_a_test_file() -> None:
    tests = Path(__file__).parent
    files = {path.name for path in FOLDER.glob("*.py")} - {"__init__.py"}
    assert not {name for name in files if not (tests / f"test_{name}").is_file()}


def test_every_pass_leaves_a_graph_in_order_whose_nodes_are_tagged(case: Case) -> None:
    for one in case.passes()[:-1]:
        graph = case.after(type(one)).graph
        made = set(graph.inputs) | set(graph.initializers.values())
        for node in graph:
            assert MODULE_KEY in node.metadata_props, (type(one), node)
            assert {value for value in node.inputs if value is not None} <= made, (type(one), node)
            made |= set(node.outputs)
        assert set(graph.outputs) <= made


def test_every_function_a_node_calls_is_in_the_model(case: Case) -> None:
    for one in case.passes():
        model = case.after(type(one))
        ours = {node.op_identifier() for node in model.graph if node.domain == "ai.resq"}
        assert ours <= set(model.functions)


def test_every_pass_to_contrib_leaves_a_graph_in_order(contrib: Case) -> None:
    test_every_pass_leaves_a_graph_in_order_whose_nodes_are_tagged(contrib)
    test_every_function_a_node_calls_is_in_the_model(contrib)


def test_the_checker_accepts_the_float_and_the_quantised_graph(biased: Case) -> None:
    for graph in (biased.lifted, biased.after(CleanUp)):
        onnx.checker.check_model(ir.to_proto(with_weights_inside(graph)))
