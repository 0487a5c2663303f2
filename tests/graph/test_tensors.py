"""Weights as recipes: computed when asked for, in float64 all the way, and not kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file
from safetensors.torch import save_file as torch_save

from resq_onnx.checkpoint.safetensors_store import SafetensorsStore
from resq_onnx.graph.modules import new_initializer
from resq_onnx.graph.tensors import (
    FoldedTensor,
    Shared,
    WidenedTensor,
    dims,
    fold,
    read_float64,
    reads_rows,
    rows_of,
)
from tests.functions.engines import empty_model

TINY = 2.0**-40
"""Lost in float32 beside 1, and not in float64."""


def initializer(values: NDArray[Any]) -> ir.Value:
    return new_initializer(empty_model(), "weight", ir.tensor(values))


def test_folds_compose_in_float64_and_round_once() -> None:
    value = initializer(np.ones((2, 3), np.float32))
    fold(value, lambda w: w + TINY)
    fold(value, lambda w: w - 1.0)
    tensor = value.const_value
    assert isinstance(tensor, FoldedTensor)
    np.testing.assert_array_equal(tensor.numpy(), np.full((2, 3), TINY, np.float32))
    assert tensor.numpy().dtype == np.float32
    assert tensor.dtype == ir.DataType.FLOAT


def test_folds_are_applied_in_the_order_of_the_calls() -> None:
    value = initializer(np.array([2.0], np.float32))
    fold(value, lambda w: w + 1.0)
    fold(value, lambda w: w * 10.0)
    assert read_float64(value.const_value) == [30.0]


def test_nothing_is_computed_before_it_is_asked_for_and_nothing_is_kept() -> None:
    calls = []

    def compute() -> NDArray[np.float64]:
        calls.append(1)
        return np.zeros((2, 2))

    tensor = FoldedTensor(compute, (2, 2), "weight")
    assert (tensor.shape, tensor.nbytes, len(calls)) == (ir.Shape([2, 2]), 16, 0)
    tensor.numpy()
    tensor.tobytes()
    assert len(calls) == 2


def test_a_transposed_result_is_written_row_by_row() -> None:
    values = np.arange(6.0).reshape(2, 3)
    tensor = FoldedTensor(lambda: values.T, (3, 2), "weight")
    expected = np.ascontiguousarray(values.T, np.float32)
    assert tensor.tobytes() == expected.tobytes()


def test_reading_gives_an_array_of_its_own() -> None:
    values = np.ones(3, np.float32)
    value = initializer(values)
    read_float64(value.const_value)[:] = 7.0
    np.testing.assert_array_equal(values, np.ones(3))


def test_a_file_can_be_read_again_and_is_not_kept_open(tmp_path: Path) -> None:
    values = np.arange(4.0, dtype=np.float32)
    save_file({"weight": values}, tmp_path / "model.safetensors")
    tensor = SafetensorsStore(tmp_path)["weight"].external()
    for _ in range(2):
        np.testing.assert_array_equal(read_float64(tensor), values)
        assert tensor.raw is None or tensor.raw.closed


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_rows_of_a_stored_tensor_are_read_alone(tmp_path: Path, dtype: torch.dtype) -> None:
    values = torch.arange(35.0).reshape(7, 5).to(dtype)
    torch_save({"other": values + 1, "weight": values}, tmp_path / "model.safetensors")
    stored = SafetensorsStore(tmp_path)["weight"].external()
    tensor = stored if dtype == torch.float32 else WidenedTensor(stored)
    assert reads_rows(tensor)
    found = rows_of(tensor, 2, 6)
    np.testing.assert_array_equal(found.numpy(), values[2:6].float().numpy())
    assert found.dtype == ir.DataType.FLOAT
    read = found.stored if isinstance(found, WidenedTensor) else found
    assert isinstance(read, ir.ExternalTensor)
    assert read.length == 4 * 5 * values.element_size()


def test_rows_of_a_folded_tensor_are_cut_from_the_whole() -> None:
    whole = FoldedTensor(lambda: np.arange(6.0).reshape(3, 2), (3, 2), "weight")
    assert not reads_rows(whole)
    np.testing.assert_array_equal(rows_of(whole, 1, 3).numpy(), [[2.0, 3.0], [4.0, 5.0]])


def test_a_weight_without_values_is_an_error_of_the_caller() -> None:
    with pytest.raises(AssertionError, match="has no values"):
        fold(ir.Value(name="weight"), lambda w: w)
    with pytest.raises(AssertionError, match="has no values"):
        read_float64(None)


def test_sizes_are_those_of_the_tensor() -> None:
    assert dims(ir.tensor(np.zeros((3, 0, 5)))) == (3, 0, 5)


def test_one_computation_serves_all_parts() -> None:
    calls = []

    def compute() -> tuple[NDArray[Any], ...]:
        calls.append(1)
        return tuple(np.full(1, part) for part in range(4))

    shared = Shared(compute)
    assert [int(shared.part(part)[0]) for part in (2, 0, 3, 1)] == [2, 0, 3, 1]
    assert len(calls) == 1
    assert int(shared.part(1)[0]) == 1  # each was taken: it is computed again
    assert len(calls) == 2


def test_a_part_that_was_taken_is_not_held_any_longer() -> None:
    shared = Shared(lambda: (np.zeros(2), np.ones(2)))
    first = shared.part(0)
    assert all(kept is not first for kept in vars(shared)["_parts"].values())
    assert len(vars(shared)["_parts"]) == 1
