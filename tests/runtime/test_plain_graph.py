"""Decoder graphs of anybody's: inputs told apart, sizes kept, what they hold masked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from resq_onnx.errors import ResqError
from resq_onnx.runtime.plain_graph import PlainGraph

VOCABULARY = 5


def write_graph(path: Path, inputs: dict[str, tuple[int, list[str | int]]]) -> Path:
    """A graph whose logits are its tokens, plus positions and sums of masks where it has them."""
    values = [helper.make_tensor_value_info(name, *rest) for name, rest in inputs.items()]
    nodes = [
        helper.make_node("OneHot", ["input_ids", "depth", "switch"], ["hot"]),
        helper.make_node("Cast", ["hot"], ["floats"], to=TensorProto.FLOAT),
    ]
    total = "floats"
    for name, (kind, shape) in inputs.items():
        if name == "input_ids" or len(shape) != 2 or kind != TensorProto.INT64:
            continue
        nodes += [
            helper.make_node("ReduceSum", [name], [f"{name}.sum"], keepdims=0),
            helper.make_node("Cast", [f"{name}.sum"], [f"{name}.float"], to=TensorProto.FLOAT),
            helper.make_node("Add", [total, f"{name}.float"], [f"{name}.total"]),
        ]
        total = f"{name}.total"
    nodes.append(helper.make_node("Identity", [total], ["logits"]))
    constants = [
        helper.make_tensor("depth", TensorProto.INT64, [], [VOCABULARY]),
        helper.make_tensor("switch", TensorProto.INT64, [2], [0, 1]),
    ]
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "plain", values, [logits], constants)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path
    )
    return path


FREE: list[str | int] = ["batch", "tokens"]
IDS = np.array([[1, 2, 3], [4, 0, 1]])


def test_tokens_alone_are_enough(tmp_path: Path) -> None:
    graph = PlainGraph(write_graph(tmp_path / "m.onnx", {"input_ids": (TensorProto.INT64, FREE)}))
    assert graph.sizes(2, 48) == (2, 48)
    np.testing.assert_array_equal(graph.logits(IDS), np.eye(VOCABULARY, dtype=np.float32)[IDS])


def test_a_fixed_past_is_masked_and_does_not_move_positions(tmp_path: Path) -> None:
    inputs: dict[str, tuple[int, list[str | int]]] = {
        "input_ids": (TensorProto.INT64, [2, 3]),
        "attention_mask": (TensorProto.INT64, [2, 10]),
        "position_ids": (TensorProto.INT64, [2, 3]),
        "past": (TensorProto.FLOAT, [2, 1, 7, 4]),
    }
    graph = PlainGraph(write_graph(tmp_path / "m.onnx", inputs))
    assert graph.sizes(4, 48) == (2, 3)
    seen, positions = IDS.size, 2 * (0 + 1 + 2)
    expected = np.eye(VOCABULARY, dtype=np.float32)[IDS] + seen + positions
    np.testing.assert_array_equal(graph.logits(IDS), expected)


@pytest.mark.parametrize(
    ("name", "kind", "shape"),
    [("cache_position", TensorProto.INT64, ["tokens"]), ("pixels", TensorProto.FLOAT, [2, 3, 4])],
)
def test_other_inputs_are_refused_by_name(
    tmp_path: Path, name: str, kind: int, shape: list[str | int]
) -> None:
    inputs = {"input_ids": (int(TensorProto.INT64), FREE), name: (kind, shape)}
    with pytest.raises(ResqError, match=f"input {name}, .* is neither token ids"):
        PlainGraph(write_graph(tmp_path / "m.onnx", inputs))


def test_what_cannot_run_on_these_tokens_is_said_in_one_line(tmp_path: Path) -> None:
    path = write_graph(tmp_path / "m.onnx", {"input_ids": (TensorProto.INT64, [2, 4])})
    with pytest.raises(ResqError, match=r"m\.onnx: cannot be run on tokens alone: "):
        PlainGraph(path).logits(IDS)
