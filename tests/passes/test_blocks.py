"""Quantised weights in the blocks of ONNX Runtime's operators, read by these operators."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from resq_onnx.graph.modules import new_initializer
from resq_onnx.graph.names import CONTRIB_DOMAIN, CONTRIB_VERSION
from resq_onnx.passes.blocks import block_size, in_blocks, pack
from tests.functions.engines import assert_close, empty_model
from tests.passes.cases import FLOAT_TOLERANCE, session_of

ROWS = 5
WIDTHS = (8, 16, 72, 126, 200, 504)
STORED = {4: ml_dtypes.int4, 8: np.int8}


def integers_of(width: int, bits: int) -> NDArray[np.int8]:
    """Random ones, the smallest and the largest among them."""
    limit = 1 << (bits - 1)
    found = np.random.default_rng(width).integers(-limit, limit, (ROWS, width))
    found[0, :2] = -limit, limit - 1
    return found.astype(np.int8)


def product_with(integers: NDArray[np.int8], scales: NDArray[np.float32], bits: int) -> ir.Model:
    """x · Wᵀ by MatMulNBits."""
    model, width = empty_model(), integers.shape[1]
    weight = new_initializer(model, "w", ir.tensor(integers.astype(STORED[bits])))
    blocks = in_blocks(weight, new_initializer(model, "s", ir.tensor(scales)))
    x = ir.Value(name="x", shape=ir.Shape(["n", width]), type=ir.TensorType(ir.DataType.FLOAT))
    sizes = {"K": blocks.columns, "N": blocks.rows, "bits": bits, "block_size": blocks.size}
    node = ir.node(
        "MatMulNBits", [x, blocks.weight, blocks.scale], sizes, domain=CONTRIB_DOMAIN, name="node"
    )
    node.outputs[0].name, node.outputs[0].type = "y", x.type
    node.outputs[0].shape = ir.Shape(["n", ROWS])
    model.graph.inputs.append(x)
    model.graph.append(node)
    model.graph.outputs.append(node.outputs[0])
    model.graph.opset_imports[CONTRIB_DOMAIN] = CONTRIB_VERSION
    return model


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("width", WIDTHS)
def test_onnx_runtime_reads_the_numbers_that_were_stored(width: int, bits: int) -> None:
    integers = integers_of(width, bits)
    scales = np.random.default_rng(1).uniform(0.5, 2.0, ROWS).astype(np.float32)
    x: NDArray[Any] = np.random.default_rng(2).standard_normal((3, width)).astype(np.float32)
    (found,) = session_of(product_with(integers, scales, bits)).run(["y"], {"x": x})
    assert_close(found, x @ (integers * scales[:, None]).T, FLOAT_TOLERANCE)


@pytest.mark.parametrize(
    ("columns", "bits", "size"),
    # 504: 4 blocks of 64 + 4 bytes, not 8 of 32 + 4; 72: 5 of 16 + 4, not 3 of 32 + 4.
    [(504, 4, 128), (1344, 4, 128), (72, 8, 16), (192, 8, 64), (576, 8, 64), (8, 4, 16)],
)
def test_a_row_takes_as_few_bytes_as_can_be(columns: int, bits: int, size: int) -> None:
    assert block_size(columns, bits) == size


def test_the_even_column_is_in_the_low_nibble() -> None:
    packed = pack(np.array([[-8, 7, 0, -1]], np.int8), 4)
    np.testing.assert_array_equal(packed, [[0xF0, 0x78]])
    np.testing.assert_array_equal(pack(np.array([[-128, 127]], np.int8), 8), [[0, 255]])


def test_nothing_is_computed_before_the_file_is_written() -> None:
    def refuse() -> ir.TensorProtocol:
        raise AssertionError("computed too early")

    model = empty_model()
    lazy = ir.LazyTensor(refuse, ir.DataType.INT4, ir.Shape((ROWS, 40)))
    weight = new_initializer(model, "w", lazy)
    blocks = in_blocks(weight, new_initializer(model, "s", ir.tensor(np.ones(ROWS, np.float32))))
    assert blocks.weight.shape == ir.Shape((ROWS, 1, 32))
    assert (blocks.padded, blocks.columns) == (64, 40)
    with pytest.raises(AssertionError, match="too early"):
        blocks.weight.const_value.numpy()  # type: ignore[union-attr]
