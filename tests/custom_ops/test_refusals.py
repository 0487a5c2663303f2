"""What the kernels refuse: an exception that names the node, the input and what was expected."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import onnx
import pytest

from resq_onnx.runtime import library
from tests.custom_ops.kernels import Node, assert_identical, open_session
from tests.custom_ops.refusal_cases import CASES, CONSTANTS, NODES, Change, attention


def changed(node: Node, change: Change) -> Node:
    """The node with something wrong."""
    for name, value in change.items():
        if name not in node.inputs:
            node = node.with_attributes(**{name: value})
        elif isinstance(value, tuple):
            node = node.with_arrays(**{name: np.ones(value, node.arrays[name].dtype)})
        else:
            node = node.with_arrays(**{name: value})
    return node


def assert_says(message: str, *fragments: str) -> None:
    """The message has all of them, numbers as whole numbers."""
    for fragment in fragments:
        assert re.search(rf"(?<![\w-]){re.escape(fragment)}(?!\w)", message), (fragment, message)


@pytest.mark.parametrize("operator", NODES)
def test_what_the_cases_start_from_is_accepted(operator: str) -> None:
    assert all(np.all(np.isfinite(output)) for output in NODES[operator]().run())


@pytest.mark.parametrize(
    ("operator", "change", "fragments"),
    [(operator, change, fragments) for operator, _, change, fragments in CASES],
    ids=[f"{operator}: {what}" for operator, what, _, _ in CASES],
)
def test_a_mistake_is_refused_by_name(
    operator: str, change: Change, fragments: tuple[str, ...]
) -> None:
    if "position_ids" in change and library.instruction_set() == "simt":
        pytest.skip("a GPU does not look at positions: tests/simt/test_positions.py")
    node = changed(NODES[operator](), change)
    with pytest.raises(Exception, match=re.escape(node.name)) as refusal:
        node.run()
    assert_says(str(refusal.value), *fragments)


@pytest.mark.parametrize(("operator", "name"), CONSTANTS)
def test_a_parameter_that_is_not_constant_is_refused_when_the_session_is_made(
    operator: str, name: str
) -> None:
    node = NODES[operator]()
    fed = dataclasses.replace(node, fed=node.fed | {name})
    with pytest.raises(Exception, match=re.escape(node.name)) as refusal:
        fed.open()
    assert_says(str(refusal.value), name, "constant")


@pytest.mark.parametrize("operator", NODES)
def test_a_session_goes_on_after_a_refusal(operator: str) -> None:
    node = NODES[operator]()
    session = node.open()
    before = session.run(None, node.feeds())
    first = node.inputs[0]
    wrong = {**node.feeds(), first: node.arrays[first][..., :-1].copy()}
    with pytest.raises(Exception, match=first):
        session.run(None, wrong)
    for one, other in zip(session.run(None, node.feeds()), before, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("missing", ["Y", "present_key", "present_value"])
def test_an_output_that_nobody_takes_is_refused_or_computed(missing: str) -> None:
    """An empty name is ONNX's way to say so; there is no memory to write to then."""
    node = attention()
    model = onnx.ModelProto.FromString(node.model())
    names = ["" if name == missing else name for name in node.outputs]
    model.graph.node[0].output[:] = names
    kept = [output for output in model.graph.output if output.name != missing]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    try:
        session = open_session(model.SerializeToString())
    except Exception as refusal:  # of ONNX Runtime, whose exceptions have no common base but this
        assert node.name in str(refusal)  # noqa: PT017
    else:
        found = session.run(None, node.feeds())
        wanted = [o for o, name in zip(node.run(), node.outputs, strict=True) if name != missing]
        assert_identical(found, wanted)
