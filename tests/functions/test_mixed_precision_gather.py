"""MixedPrecisionGather: its body in every engine against plain indexing in numpy."""

from __future__ import annotations

from typing import Any, Final

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from resq_onnx.functions import GatherForm
from resq_onnx.recipe import BitSplit
from tests.functions.engines import ENGINES, assert_close, run

Array = NDArray[Any]

ROWS: Final = 7

TOLERANCE: Final = 1e-6
"""Of the largest result: one float32 product for each number."""

SPLITS: Final = {
    "both parts": BitSplit(14, 2),
    "low part alone": BitSplit(16, 0),
    "high part alone": BitSplit(0, 17),
    "two columns of each": BitSplit(2, 2),
    "eight bits in both": BitSplit(7, 5, low_bits=8),
}

INDICES: Final = {
    "a prompt": np.array([[0, 6, 3], [3, 3, 1]]),
    "one token": np.array([[5]]),
    "a vector": np.arange(ROWS),
}


def table(split: BitSplit) -> tuple[dict[str, Array], Array]:
    """The inputs of a table whose integers span their whole range, and its numbers, (N, K)."""
    rng, arrays, columns = np.random.default_rng(0), {}, []
    for name, width, bits in (
        ("low", split.low, split.low_bits),
        ("high", split.high, split.high_bits),
    ):
        if not width:
            continue
        limit = 2 ** (bits - 1)
        integers = rng.integers(-limit, limit, (ROWS, width))
        integers.flat[:2] = -limit, limit - 1
        scale = rng.uniform(0.01, 0.1, ROWS).astype(np.float32)
        stored = integers.astype(np.int8)
        arrays[f"W_{name}"] = packed(integers) if bits == 4 else stored
        arrays[f"S_{name}"] = scale
        columns.append(integers * scale[:, None])
    return arrays, np.concatenate(columns, axis=1)


def packed(integers: Array) -> Array:
    """The bytes in which onnx_ir stores 4-bit integers (N, K), as (N, K / 2)."""
    tensor = ir.Tensor(integers.astype(ml_dtypes.int4), ir.DataType.INT4)
    return np.frombuffer(tensor.tobytes(), np.uint8).reshape(len(integers), -1)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("indices", INDICES.values(), ids=INDICES)
@pytest.mark.parametrize("split", SPLITS.values(), ids=SPLITS)
def test_the_body_gives_the_rows_its_integers_stand_for(
    engine: str, split: BitSplit, indices: Array
) -> None:
    arrays, rows = table(split)
    (found,) = run(engine, GatherForm(split), {"indices": indices, **arrays})
    assert_close(found, rows[indices], TOLERANCE)


def test_every_four_bit_number_is_read_from_both_halves_of_a_byte() -> None:
    numbers = np.arange(-8, 8)
    pairs = np.stack([numbers, numbers[::-1]], axis=1)  # (16, 2)
    arrays = {"W_low": packed(pairs), "S_low": np.ones(16, np.float32)}
    (found,) = run(
        "reference", GatherForm(BitSplit(2, 0)), {"indices": np.arange(16)[None], **arrays}
    )
    np.testing.assert_array_equal(found[0], pairs)


def test_columns_that_do_not_fill_bytes_are_refused() -> None:
    with pytest.raises(ValueError, match="7 columns of 4 bits do not fill whole bytes"):
        GatherForm(BitSplit(7, 1))


def test_equal_splits_share_a_function_and_others_do_not() -> None:
    assert GatherForm(BitSplit(14, 2)).overload == GatherForm(BitSplit(14, 2)).overload
    assert GatherForm(BitSplit(14, 2)).overload != GatherForm(BitSplit(12, 4)).overload
