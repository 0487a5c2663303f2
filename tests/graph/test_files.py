"""A model on disk: weights that are the same bytes lie in the file once."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from resq_onnx.graph.data_file import SEAL_BYTES
from resq_onnx.graph.files import save_model
from resq_onnx.graph.modules import new_initializer
from resq_onnx.graph.tensors import PackedBytes
from tests.functions.engines import empty_model

ROWS, COLUMNS = 40, 30
OFFSETS: Final = 4096
"""onnx_ir starts each tensor at a multiple of this."""

INTEGERS = np.random.default_rng(0).integers(-8, 8, (ROWS, COLUMNS)).astype(ml_dtypes.int4)


def graph_of(*, has_integers: bool = True, rows: int = ROWS) -> ir.Model:
    """Two outputs: 4-bit integers as floats, and the same integers as bytes."""
    model = empty_model()
    tensor = ir.Tensor(INTEGERS[:rows], ir.DataType.INT4, name="integers")
    view = new_initializer(model, "bytes", PackedBytes(tensor))
    nodes = [ir.node("Identity", [view], name="b")]
    if has_integers:
        integers = new_initializer(model, "integers", tensor)
        nodes.append(ir.node("Cast", [integers], {"to": ir.DataType.FLOAT}, name="a"))
    for node, dtype in zip(nodes, (ir.DataType.UINT8, ir.DataType.FLOAT), strict=False):
        (output,) = node.outputs
        output.name, output.type = f"{node.name}.out", ir.TensorType(dtype)
        output.shape = ir.Shape(["rows", "columns"])
        model.graph.append(node)
        model.graph.outputs.append(output)
    return model


def places(path: Path) -> dict[str, tuple[str, ...]]:
    """By initializer, its file, offset and length."""
    model = onnx.load(path, load_external_data=False)
    found = {}
    for tensor in model.graph.initializer:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        found[tensor.name] = tuple(entries[key] for key in ("location", "offset", "length"))
    return found


def test_a_tensor_and_its_bytes_lie_at_one_place_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    save_model(graph_of(), path)
    found = places(path)
    assert found["bytes"] == found["integers"]
    assert found["bytes"] == ("a.onnx.data", "0", str(ROWS * COLUMNS // 2))
    assert (tmp_path / "a.onnx.data").stat().st_size == ROWS * COLUMNS // 2 + SEAL_BYTES


@pytest.mark.parametrize("rows", [ROWS, 2], ids=["in the data", "too small for it"])
def test_every_reader_of_the_file_sees_both(tmp_path: Path, rows: int) -> None:
    path = tmp_path / "a.onnx"
    save_model(graph_of(rows=rows), path)
    integers = INTEGERS[:rows].astype(np.float32)
    pairs = INTEGERS[:rows].astype(np.int64).reshape(rows, -1, 2) % 16
    packed = pairs[..., 0] + 16 * pairs[..., 1]

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = dict(zip(["bytes", "integers"], session.run(["b.out", "a.out"], {}), strict=True))
    np.testing.assert_array_equal(found["bytes"], packed)
    np.testing.assert_array_equal(found["integers"], integers)

    onnx.checker.check_model(path)
    tensors = {tensor.name: tensor for tensor in onnx.load(path).graph.initializer}
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(tensors["bytes"]), packed)
    stored = onnx.numpy_helper.to_array(tensors["integers"]).astype(np.float32)
    np.testing.assert_array_equal(stored, integers)

    loaded = ir.load(path).graph.initializers
    for name, expected in (("bytes", packed), ("integers", integers)):
        tensor = loaded[name].const_value
        assert tensor is not None
        np.testing.assert_array_equal(tensor.numpy().astype(np.float32), expected)


def test_small_tensors_stay_in_the_graph(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    save_model(graph_of(rows=2), path)
    tensors = onnx.load(path, load_external_data=False).graph.initializer
    assert [len(tensor.external_data) for tensor in tensors] == [0, 0]


def test_bytes_whose_tensor_is_not_in_the_graph_are_written_themselves(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    save_model(graph_of(has_integers=False), path)
    assert list(places(path)) == ["bytes"]
    assert (tmp_path / "a.onnx.data").stat().st_size == ROWS * COLUMNS // 2 + SEAL_BYTES


def test_the_graph_stays_as_it_is_and_can_be_written_again(tmp_path: Path) -> None:
    graph = graph_of()
    before = {name: value.const_value for name, value in graph.graph.initializers.items()}
    for name in ("a", "b"):
        save_model(graph, tmp_path / f"{name}.onnx")
        after = {name: value.const_value for name, value in graph.graph.initializers.items()}
        assert all(after[name] is before[name] for name in before)
    data = [(tmp_path / f"{name}.onnx.data").read_bytes() for name in ("a", "b")]
    assert data[0] == data[1]


def test_progress_counts_what_is_written(tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    save_model(graph_of(), tmp_path / "a.onnx", lambda done, total: steps.append((done, total)))
    assert steps == [(1, 1)]


def test_tensors_start_at_cache_lines(tmp_path: Path) -> None:
    model = graph_of()
    extra = new_initializer(model, "extra", ir.tensor(np.ones(100, np.float32)))
    model.graph.append(ir.node("Identity", [extra], name="c"))
    save_model(model, tmp_path / "a.onnx")
    assert {int(place[1]) % OFFSETS for place in places(tmp_path / "a.onnx").values()} == {0}
