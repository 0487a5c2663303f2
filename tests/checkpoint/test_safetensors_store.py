"""Headers of .safetensors files: what they point to, and damage that is told apart."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from safetensors.torch import save_file

from resq_onnx.checkpoint.safetensors_store import SafetensorsStore
from resq_onnx.errors import ResqError

NAME = "model.safetensors"
INDEX = "model.safetensors.index.json"


def write(folder: Path, **tensors: torch.Tensor) -> Path:
    save_file(tensors, folder / NAME, metadata={"format": "pt"})
    return folder


def write_raw(folder: Path, header: object, data: bytes = b"") -> Path:
    """A file of any header, also of one that no library would write."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    (folder / NAME).write_bytes(struct.pack("<Q", len(text)) + text + data)
    return folder


def refusal(folder: Path) -> str:
    with pytest.raises(ResqError) as error:
        SafetensorsStore(folder)
    return str(error.value)


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (torch.float64, ir.DataType.DOUBLE),
        (torch.float32, ir.DataType.FLOAT),
        (torch.float16, ir.DataType.FLOAT16),
        (torch.bfloat16, ir.DataType.BFLOAT16),
    ],
)
def test_every_float_type_is_read_as_float32(
    tmp_path: Path, dtype: torch.dtype, expected: ir.DataType
) -> None:
    values = torch.tensor([[0.5, -3.0, 1.25], [100.0, 0.0, -0.125]], dtype=dtype)
    stored = SafetensorsStore(write(tmp_path, weight=values))["weight"]
    assert (stored.name, stored.shape, stored.dtype) == ("weight", (2, 3), expected)
    found = stored.float32()
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, values.float().numpy())
    assert stored.external().dtype == expected
    assert stored.external().shape == ir.Shape([2, 3])


def test_a_scalar_and_an_empty_tensor_are_read(tmp_path: Path) -> None:
    store = SafetensorsStore(write(tmp_path, scalar=torch.tensor(2.5), empty=torch.zeros(0, 4)))
    assert store["scalar"].shape == ()
    assert store["scalar"].float32() == np.float32(2.5)
    assert store["empty"].shape == (0, 4)
    assert store["empty"].length == 0


def test_tensors_are_found_by_name_and_listed(tmp_path: Path) -> None:
    store = SafetensorsStore(write(tmp_path, a=torch.ones(2), b=torch.zeros(3)))
    assert {tensor.name for tensor in store} == {"a", "b"}
    assert "a" in store
    assert "c" not in store
    with pytest.raises(ResqError, match="have no tensor c"):
        store["c"]


def test_all_files_of_an_index_are_read_and_no_other(tmp_path: Path) -> None:
    for number, value in ((1, 1.0), (2, 2.0), (3, 3.0)):
        save_file({f"t{number}": torch.full((2,), value)}, tmp_path / f"part-{number}.safetensors")
    weight_map = {"t1": "part-1.safetensors", "t2": "part-2.safetensors"}
    (tmp_path / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    store = SafetensorsStore(tmp_path)
    assert {tensor.name for tensor in store} == {"t1", "t2"}
    np.testing.assert_array_equal(store["t2"].float32(), [2.0, 2.0])


def test_without_an_index_all_files_are_read(tmp_path: Path) -> None:
    for number in (1, 2):
        save_file({f"t{number}": torch.ones(1)}, tmp_path / f"part-{number}.safetensors")
    assert {tensor.name for tensor in SafetensorsStore(tmp_path)} == {"t1", "t2"}


def test_beside_a_file_of_the_usual_name_no_other_is_read(tmp_path: Path) -> None:
    """Whoever keeps projections there has not changed the model."""
    write(tmp_path, weight=torch.ones(2))
    save_file({"projections.hidden": torch.ones(2)}, tmp_path / "projections.safetensors")
    assert [tensor.name for tensor in SafetensorsStore(tmp_path)] == ["weight"]


def test_a_shard_that_the_index_names_and_that_is_missing_is_named(tmp_path: Path) -> None:
    write(tmp_path, a=torch.ones(1))
    (tmp_path / INDEX).write_text(
        json.dumps({"metadata": {}, "weight_map": {"a": NAME, "b": "gone.safetensors"}})
    )
    assert "gone.safetensors" in refusal(tmp_path)


DAMAGED_INDICES = (
    *('{"weight_map": {"a": "model.sa', "[]", "{}", '{"weight_map": 3}'),
    '{"weight_map": {"a": 1}}',
    '{"weight_map": {"a": "model.safetensors"}}',
    '{"weight_map": {"a": "\\ud800"}, "metadata": {}}',
)


@pytest.mark.parametrize("text", DAMAGED_INDICES)
def test_an_index_that_is_damaged_is_named(tmp_path: Path, text: str) -> None:
    write(tmp_path, a=torch.ones(1))
    (tmp_path / INDEX).write_text(text)
    assert INDEX in refusal(tmp_path)


def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path, a=torch.ones(5), b=torch.zeros(3)) / NAME
    content = file.read_bytes()
    for length in range(len(content)):
        file.write_bytes(content[:length])
        assert "not a complete .safetensors file" in refusal(tmp_path)


def test_a_header_longer_than_the_format_allows_is_not_read(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(struct.pack("<Q", 2**63) + b"{}")
    assert "header is cut off" in refusal(tmp_path)


ENTRY: dict[str, Any] = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}

DAMAGED: dict[str, Any] = {
    "not JSON": b"{'a': 1}",
    "not text": b"\xff\xfe\x00",
    "no object": [1, 2],
    "an entry that is no object": {"a": 7},
    "no offsets": {"a": {"dtype": "F32", "shape": [2]}},
    "no type": {"a": {"shape": [2], "data_offsets": [0, 8]}},
    "no shape": {"a": {"dtype": "F32", "data_offsets": [0, 8]}},
    "three offsets": {"a": {**ENTRY, "data_offsets": [0, 8, 8]}},
    "offsets that are no numbers": {"a": {**ENTRY, "data_offsets": ["0", "8"]}},
    "a shape that is no list": {"a": {**ENTRY, "shape": 2}},
    "an offset before the data": {"a": {**ENTRY, "data_offsets": [-8, 0]}},
    "an end before the begin": {"a": {**ENTRY, "data_offsets": [8, 0]}},
    "a size below zero": {"a": {**ENTRY, "shape": [-1, -2]}},
}


@pytest.mark.parametrize("header", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_header_is_refused_with_the_files_name(tmp_path: Path, header: object) -> None:
    assert str(tmp_path / NAME) in refusal(write_raw(tmp_path, header, bytes(8)))


def test_a_shape_that_does_not_fit_the_bytes_is_refused(tmp_path: Path) -> None:
    line = refusal(write_raw(tmp_path, {"a": {**ENTRY, "shape": [3]}}, bytes(8)))
    assert "tensor a has 8 bytes, not those of (3,) F32" in line


def test_an_integer_type_is_refused_with_the_reason(tmp_path: Path) -> None:
    line = refusal(write(tmp_path, a=torch.zeros(2, dtype=torch.int8)))
    assert "tensor a has type I8; supported: F64, F32, F16, BF16" in line
    assert "already quantised" in line


def test_pickles_are_refused_and_named(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    line = refusal(tmp_path)
    assert "pytorch_model.bin" in line
    assert "convert them to .safetensors" in line


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    assert f"{tmp_path}: no .safetensors file" in refusal(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_numbers_that_are_not_finite_are_found(
    tmp_path: Path, value: float, dtype: torch.dtype
) -> None:
    good, bad = torch.zeros(3, 4, dtype=dtype), torch.zeros(3, 4, dtype=dtype)
    bad[2, 1] = value
    write(tmp_path, good=good, bad=bad)
    with pytest.raises(ResqError, match="tensor bad holds NaN or infinite values"):
        SafetensorsStore(tmp_path).check_finite()


def test_finite_numbers_of_every_size_are_accepted(tmp_path: Path) -> None:
    extremes = [np.finfo(np.float32).max, -np.finfo(np.float32).max, np.finfo(np.float32).tiny, 0.0]
    small = torch.finfo(torch.bfloat16).tiny
    write(tmp_path, a=torch.tensor(extremes), b=torch.tensor([small], dtype=torch.bfloat16))
    SafetensorsStore(tmp_path).check_finite()


def test_nothing_stays_mapped_after_reading(tmp_path: Path) -> None:
    file = write(tmp_path, a=torch.ones(4)) / NAME
    store = SafetensorsStore(tmp_path)
    values = store["a"].float32()
    file.write_bytes(b"")
    np.testing.assert_array_equal(values, np.ones(4))


def test_a_name_may_begin_otherwise_in_a_file(tmp_path: Path) -> None:
    save_file(
        {"model.norm": torch.ones(2), "visual.norm": torch.ones(3)}, tmp_path / "a.safetensors"
    )
    store = SafetensorsStore(tmp_path, {"model.text.": "model."})
    assert store["model.text.norm"].shape == (2,)
    assert store["model.norm"] == store["model.text.norm"]
    assert store["visual.norm"].shape == (3,)
    assert "model.text.bias" not in store
    with pytest.raises(ResqError, match=r"no tensor model\.text\.bias"):
        store["model.text.bias"]
