"""A graph and its data know each other."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from resq_onnx.errors import ResqError
from resq_onnx.graph import data_file
from resq_onnx.graph.data_file import MARK, SEAL_BYTES, check_data
from resq_onnx.graph.files import read_graph, save_model
from resq_onnx.graph.names import DATA_KEY
from resq_onnx.runtime.session import create_session

VALUES = 200
"""Floats of a weight: enough for it to lie in the data file."""


def save(path: Path, value: float = 1.0, count: int = VALUES) -> Path:
    """A graph that gives its only weight."""
    weight = ir.Value(name="weight", const_value=ir.tensor(np.full(count, value, np.float32)))
    node = ir.node("Identity", [weight], name="copy")
    node.outputs[0].name, node.outputs[0].dtype = "out", ir.DataType.FLOAT
    node.outputs[0].shape = ir.Shape([count])
    graph = ir.Graph([], node.outputs, nodes=[node], initializers=[weight], opset_imports={"": 21})
    model = ir.Model(graph, ir_version=10)
    model.metadata_props["somebody's"] = "own"
    path.parent.mkdir(exist_ok=True)
    save_model(model, path)
    assert model.metadata_props == {"somebody's": "own"}
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return save(tmp_path / "a" / "model.onnx")


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """Another export of the same sizes, under the same name."""
    return save(tmp_path / "b" / "model.onnx", value=2.0)


def data_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.data")


def refusal(path: Path) -> str:
    """What is said by those who open a graph; all of them say the same."""
    said = []
    for opens in (check_data, read_graph, create_session):
        with pytest.raises(ResqError) as error:
            opens(path)
        said.append(str(error.value))
    assert len(set(said)) == 1
    return said[0]


def test_the_digest_is_in_the_graph_and_at_the_end_of_the_data(path: Path) -> None:
    content = data_of(path).read_bytes()
    digest = hashlib.sha256(content[:-SEAL_BYTES]).digest()
    assert content[-SEAL_BYTES:] == MARK + digest
    said = {one.key: one.value for one in onnx.load(path, load_external_data=False).metadata_props}
    assert json.loads(said[DATA_KEY]) == {"file": "model.onnx.data", "sha256": digest.hex()}
    assert said["somebody's"] == "own"
    assert check_data(path) == digest.hex()


def test_the_same_model_gives_the_same_files(path: Path, tmp_path: Path) -> None:
    again = save(tmp_path / "again" / "model.onnx")
    assert again.read_bytes() == path.read_bytes()
    assert data_of(again).read_bytes() == data_of(path).read_bytes()


def test_a_sealed_file_runs_in_a_plain_session_and_in_ours(path: Path) -> None:
    import onnxruntime

    plain = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for session in (plain, create_session(path)):
        np.testing.assert_array_equal(session.run(None, {})[0], np.ones(VALUES, np.float32))


def test_data_of_another_export_is_refused(path: Path, other: Path) -> None:
    shutil.copyfile(data_of(other), data_of(path))
    line = refusal(path)
    assert line.startswith(f"{data_of(path)}: is not the data of model.onnx, but of another export")
    assert "copy both" in line


@pytest.mark.parametrize("kept", [0, 10, -1, -SEAL_BYTES])
def test_data_that_is_cut_off_is_refused(path: Path, kept: int) -> None:
    os.truncate(data_of(path), kept % data_of(path).stat().st_size)
    assert f"{data_of(path)}: is cut off, or not the data" in refusal(path)


def test_data_that_is_not_there_is_refused(path: Path) -> None:
    data_of(path).unlink()
    assert f"{data_of(path)}: does not exist" in refusal(path)


def test_a_renamed_graph_still_finds_its_data(path: Path) -> None:
    renamed = path.rename(path.with_name("other.onnx"))
    assert check_data(renamed) is not None
    assert data_file.data_file(renamed) == data_of(path)
    create_session(renamed)


def test_a_graph_that_holds_its_tensors_names_no_data(tmp_path: Path) -> None:
    path = save(tmp_path / "model.onnx", count=2)
    assert check_data(path) is None
    assert data_file.data_file(path) == data_of(path)


def test_a_graph_that_is_replaced_while_it_is_checked_is_checked_again(
    path: Path, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sealed(data: Path) -> str | None:
        if path.read_bytes() != other.read_bytes():  # an export publishes just now
            shutil.copyfile(data_of(other), data)
            shutil.copyfile(other, path)
        return original(data)

    original, digest = data_file._sealed, check_data(other)
    monkeypatch.setattr(data_file, "_sealed", sealed)
    assert check_data(path) == digest


def test_a_graph_that_is_replaced_while_it_is_opened_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = iter(["old", "new"])
    monkeypatch.setattr("resq_onnx.runtime.session.check_data", lambda _path: next(found))
    with pytest.raises(ResqError, match="was replaced while it was opened; open it again"):
        create_session(path)


@given(st.binary(max_size=60))
def test_any_bytes_are_a_graph_that_names_no_data(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.onnx"
    path.write_bytes(content)
    assert check_data(path) is None


@given(
    st.dictionaries(st.text(max_size=200), st.text(max_size=20), max_size=4),
    st.text(max_size=300),
    st.integers(0, 2**62),
)
def test_metadata_is_what_protobuf_reads(
    tmp_path_factory: pytest.TempPathFactory, said: dict[str, str], text: str, version: int
) -> None:
    graph = helper.make_graph([], text, [], [helper.make_tensor_value_info("x", 1, None)])
    model = helper.make_model(graph, producer_name=text, model_version=version)
    content = {"file": f"{'d' * (len(text) + 1)}", "sha256": "0"}
    helper.set_model_props(model, {**said, DATA_KEY: json.dumps(content)})
    path = tmp_path_factory.getbasetemp() / "any.onnx"
    onnx.save(model, path)
    assert data_file._named(path) == (content["file"], "0")


@pytest.mark.parametrize("said", ["", "no JSON", "[]", "{}", '{"file": 1, "sha256": "0"}'])
def test_metadata_of_another_kind_names_no_data(tmp_path: Path, said: str) -> None:
    graph = helper.make_graph(
        [], "g", [], [helper.make_tensor_value_info("x", TensorProto.FLOAT, None)]
    )
    model = helper.make_model(graph)
    helper.set_model_props(model, {DATA_KEY: said})
    onnx.save(model, tmp_path / "any.onnx")
    assert check_data(tmp_path / "any.onnx") is None


def test_data_outside_of_the_folder_is_refused(path: Path, tmp_path: Path) -> None:
    data = data_of(path)
    data.rename(tmp_path / "elsewhere")
    data.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ResqError, match=r"is a link to .*elsewhere, outside"):
        read_graph(path)


def test_a_file_of_a_hugging_face_cache_and_one_of_several_names_can_be_read(
    path: Path, tmp_path: Path
) -> None:
    cache, copy = tmp_path / "snapshots" / "0a1b", tmp_path / "copy"
    for folder in (cache, copy, tmp_path / "blobs"):
        folder.mkdir(parents=True)
    for number, file in enumerate((path, data_of(path))):
        os.link(file, copy / file.name)
        shutil.copyfile(file, tmp_path / "blobs" / str(number))
        (cache / file.name).symlink_to(f"../../blobs/{number}")
    for folder in (cache, copy):
        tensor = read_graph(folder / path.name).graph.initializers["weight"].const_value
        assert tensor is not None
        np.testing.assert_array_equal(tensor.numpy(), np.ones(VALUES, np.float32))
        create_session(folder / path.name)
