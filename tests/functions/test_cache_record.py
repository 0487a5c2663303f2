"""The cache record: bytes against bit operations, and what is read back."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from onnxscript import GraphBuilder

from resq_onnx.functions import OPSET, RecordLayout, cache_record
from tests.functions import oracle
from tests.functions.engines import IR_VERSION, session

Array = NDArray[Any]

LAYOUTS = [
    RecordLayout(64, 8),
    RecordLayout(16, 4),
    RecordLayout(16, 4, low_bits=8),
    RecordLayout(16, 0),
    RecordLayout(15, 0, low_bits=8),
    RecordLayout(7, 7),
    RecordLayout(4, 2),
]
SMALLEST_NORMAL = float(np.finfo(np.float32).tiny)


@cache
def codec(layout: RecordLayout) -> Any:
    """A model x -> records, read, where both outputs come from the pieces of the bodies."""
    graph = ir.Graph([], [], nodes=[], opset_imports={"": OPSET}, name="codec")
    builder = GraphBuilder(graph)
    x = builder.input("x", ir.DataType.FLOAT, ["b", "g", "t", layout.head_dim])
    records = cache_record.encode(builder.op, x, layout)
    builder.add_output(records, "records")
    builder.add_output(cache_record.decode(builder.op, records, layout), "read")
    for value, dtype in zip(graph.outputs, (ir.DataType.UINT8, ir.DataType.FLOAT), strict=True):
        value.type = ir.TensorType(dtype)
    return ir.to_proto(ir.Model(graph, ir_version=IR_VERSION))


@cache
def compiled(layout: RecordLayout) -> Any:
    """The codec in ONNX Runtime."""
    return session(codec(layout))


def both(layout: RecordLayout, rows: Array) -> tuple[Array, Array]:
    """Records (n, R) and what is read back (n, d) of rows (n, d), from ONNX Runtime."""
    records, read = compiled(layout).run(None, {"x": rows[None, None].astype(np.float32)})
    return records[0, 0], read[0, 0]


def awkward_rows(width: int) -> Array:
    """Rows of every kind that has a corner: zeros, constants, one sign, huge, tiny, outliers."""
    rng = np.random.default_rng(3)
    rows = rng.standard_normal((24, width)).astype(np.float32)
    rows[0] = 0
    rows[1] = 2.5
    rows[2] = -2.5
    rows[3] = np.abs(rows[3])
    rows[4] = -np.abs(rows[4])
    rows[5] *= 1e30
    rows[6] *= 1e-37
    rows[7] *= 1e-44  # subnormal
    rows[8, 0] = 1e4
    rows[9] = np.arange(width) / 8
    rows[10, :] = 15 * 2.0**-7  # a range whose scale is a power of two
    rows[11, -1] = -1e4
    rows[12:] *= 10.0 ** rng.uniform(-20, 20, (12, 1)).astype(np.float32)
    return rows


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_records_equal_the_oracle_byte_for_byte(layout: RecordLayout) -> None:
    rows = awkward_rows(layout.head_dim)
    expected = oracle.encode(rows, layout)
    np.testing.assert_array_equal(both(layout, rows)[0], expected)
    reference: Any = ReferenceEvaluator(codec(layout)).run(None, {"x": rows[None, None]})
    np.testing.assert_array_equal(reference[0][0, 0], expected)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_what_is_read_back_is_what_the_bytes_say(layout: RecordLayout) -> None:
    records, read = both(layout, awkward_rows(layout.head_dim))
    # (q - z) has 8 bits and the scale 8: their product is exact in float32.
    np.testing.assert_array_equal(read, oracle.decode(records, layout).astype(np.float32))


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_a_value_is_off_by_no_more_than_one_step(layout: RecordLayout) -> None:
    rows = awkward_rows(layout.head_dim)[8:]
    _, read = both(layout, rows)
    for part, columns in (
        (layout.low_bits, slice(0, layout.low_rank)),
        (8, slice(layout.low_rank, None)),
    ):
        exact = rows[:, columns]
        if exact.shape[1] == 0:
            continue
        extent = np.maximum(exact.max(1), 0) - np.minimum(exact.min(1), 0)
        # Half a step for the value and half for the zero point; up to 1/128 for the scale.
        step = extent / (2**part - 1) * (1 + 1 / 128)
        assert np.all(np.abs(read[:, columns] - exact) <= 1.001 * step[:, None])


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_a_constant_row_survives_quantisation(layout: RecordLayout, sign: int) -> None:
    row = np.full((1, layout.head_dim), sign * 0.75, np.float32)
    _, read = both(layout, row)
    np.testing.assert_allclose(read, row, rtol=1 / 128)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_zeros_are_read_back_as_zeros(layout: RecordLayout) -> None:
    records, read = both(layout, np.zeros((1, layout.head_dim), np.float32))
    assert np.all(read == 0)
    np.testing.assert_array_equal(records, oracle.encode(np.zeros((1, layout.head_dim)), layout))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.floats(SMALLEST_NORMAL, float(np.float32(1e38)), width=32))
def test_a_scale_is_rounded_up_to_the_next_bfloat16(scale: float) -> None:
    layout = RecordLayout(1, 1)
    row = np.array([[min(scale * 255, 3e38)]], np.float32)
    records, _ = both(layout, row)
    exact = max(np.float32(row[0, 0] / np.float32(255)), np.float32(SMALLEST_NORMAL))
    stored = records[0, layout.offset("high_scale") :][:2].tobytes()
    assert stored == oracle.round_up_to_bfloat16(exact)
    assert exact <= oracle.bfloat16(stored) <= exact * (1 + 1 / 128)


@pytest.mark.parametrize(
    ("layout", "size"),
    [
        (RecordLayout(64, 8), 42),
        (RecordLayout(128, 16), 78),
        (RecordLayout(64, 0), 35),
        (RecordLayout(64, 64), 67),
        (RecordLayout(64, 8, low_bits=8), 70),
        (RecordLayout(64, 0, low_bits=8), 67),
    ],
    ids=str,
)
def test_a_record_has_the_size_of_its_sections(layout: RecordLayout, size: int) -> None:
    assert layout.size == size


def test_sections_begin_where_the_table_says() -> None:
    layout = RecordLayout(64, 8)
    offsets = {name: layout.offset(name) for name, _ in layout.sections()}
    assert offsets == {
        "low_values": 0,
        "high_values": 28,
        "low_scale": 36,
        "low_zero": 38,
        "high_scale": 39,
        "high_zero": 41,
    }
    with pytest.raises(KeyError):
        RecordLayout(64, 0).offset("high_scale")


@pytest.mark.parametrize("arguments", [(64, 65), (64, -1), (64, 8, 2), (15, 2)])
def test_a_layout_that_cannot_be_is_refused(arguments: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="RecordLayout"):
        RecordLayout(*arguments)
