"""Metadata of the exporting machine is gone from the bytes of the file."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from resq_onnx.graph.modules import new_initializer
from resq_onnx.graph.names import MODULE_KEY
from resq_onnx.passes.clean_up import CleanUp, sweep
from tests.passes.cases import Case, decoder_of


@pytest.fixture
def saved(llama: Case, tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    ir.save(llama.after(CleanUp), path, external_data="model.onnx.data")
    return path


def machine_traces(case: Case) -> dict[str, str]:
    """What could tell where, or with what, a file was made."""
    return {
        "the model's folder": str(case.source.folder),
        "the weights' file": "model.safetensors",
        "the home folder": str(Path.home()) + "/",
        "the working folder": str(Path.cwd()),
        "the interpreter": sys.prefix,
        "torch": str(Path(torch.__file__).parent),
        "python files": ".py",
        "stack traces": "stack_trace",
        "scopes": "pkg.",
        "modules' tags": MODULE_KEY,
        "classes": "transformers.",
    }


def test_no_trace_of_this_machine_is_in_the_bytes(llama: Case, saved: Path) -> None:
    content = saved.read_bytes()
    found = [what for what, text in machine_traces(llama).items() if text.encode() in content]
    assert not found


def test_before_it_there_are_traces_to_remove(llama: Case) -> None:
    content = ir.to_proto(llama.before(CleanUp)).SerializeToString()
    assert MODULE_KEY.encode() in content


def test_nothing_has_metadata_or_a_doc_string(saved: Path) -> None:
    proto = onnx.load(saved, load_external_data=False)
    parts = [proto, proto.graph, *proto.functions, *proto.graph.initializer]
    parts += [*proto.graph.input, *proto.graph.output, *proto.graph.value_info, *proto.graph.node]
    for function in proto.functions:
        parts += [*function.node, *function.value_info]
    assert not [part.name for part in parts if getattr(part, "metadata_props", None)]
    assert not [part for part in parts if getattr(part, "doc_string", "")]


def test_the_checker_accepts_the_file(saved: Path) -> None:
    onnx.checker.check_model(str(saved), full_check=False)


def test_all_names_are_there_and_differ(saved: Path) -> None:
    graph = onnx.load(saved, load_external_data=False).graph
    made = [name for node in graph.node for name in node.output]
    assert all(made)
    assert len(set(made)) == len(made)
    names = [node.name for node in graph.node]
    assert all(names)
    assert len(set(names)) == len(names)


def test_what_has_no_name_or_anothers_gets_one_of_its_own(llama: Case) -> None:
    graph = llama.before(CleanUp)
    first, second, third, *_ = graph.graph
    first.name = first.outputs[0].name = None
    third.name = second.name
    CleanUp()(graph)
    assert first.name
    assert first.outputs[0].name
    assert third.name != second.name


def test_the_same_numbers_come_out(llama: Case) -> None:
    before, after = (
        decoder_of(graph).run(llama.token_ids)
        for graph in (llama.before(CleanUp), llama.after(CleanUp))
    )
    np.testing.assert_array_equal(before[0], after[0])
    for old, new in zip(before[1].caches, after[1].caches, strict=True):
        np.testing.assert_array_equal(old, new)


def test_inputs_and_outputs_keep_names_types_and_shapes(case: Case) -> None:
    before, after = case.before(CleanUp).graph, case.after(CleanUp).graph
    for old, new in zip(
        [*before.inputs, *before.outputs], [*after.inputs, *after.outputs], strict=True
    ):
        assert (new.name, new.shape, new.dtype) == (old.name, old.shape, old.dtype)


def test_no_function_is_left_that_no_node_calls(case: Case) -> None:
    graph = case.after(CleanUp)
    called = {node.op_identifier() for node in graph.graph}
    assert set(graph.functions) == {one for one in called if one[0] == "ai.resq"}
    assert set(graph.graph.opset_imports) == {"", "ai.resq"}


def test_the_sweep_takes_what_nothing_reads_and_leaves_the_tags(llama: Case) -> None:
    graph = llama.lifted
    count = len(graph.graph)
    graph.graph.append(ir.node("Neg", [graph.graph[0].outputs[0]], name="unread"))
    new_initializer(graph, "unread", ir.tensor(np.zeros(3, np.float32)))
    graph.graph.opset_imports["unread"] = 1
    sweep()(graph)
    assert len(graph.graph) == count
    assert "unread" not in graph.graph.initializers
    assert "unread" not in graph.graph.opset_imports
    assert all(MODULE_KEY in node.metadata_props for node in graph.graph)
