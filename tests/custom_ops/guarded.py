"""Runs nodes whose every array lies against memory that may not be touched.

`python -m tests.custom_ops.guarded NAME...` runs the cases of these names, or all. An access beyond
an array ends the process by a signal, after its last line has said in which case. Reads are
found that a sanitizer would need a build of its own for, and those of hand-written assembly too.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from typing import Any, Final

import numpy as np
import onnx.helper as oh
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto

from tests.custom_ops import attention_cases, hadamard_cases, matmul_cases
from tests.custom_ops.kernels import Node, assert_identical, open_session
from tests.functions import ragged_cases
from tests.functions.attention_cases import SHAPES, Shape

Array = NDArray[Any]

PAGE: Final = mmap.PAGESIZE
PROT_NONE: Final = 0
KEPT: Final[list[object]] = []
"""Memory in use; the process is short."""

SHAPES_TRIED: Final = {
    name: SHAPES[name] for name in ("first token", "several tokens on a past", "buffer, decode")
} | {"whole blocks of slots": Shape(1, 1, 128, 127), "and some more": Shape(1, 3, 131, 128)}


def cases() -> dict[str, Node]:
    """Every form of every operator, with few rows and with many."""
    return {
        **{
            f"MixedPrecisionMatMul, {name}, {rows} rows, {outputs} outputs": matmul_cases.node_of(
                form, rows, outputs=outputs
            )
            for name, form in matmul_cases.FORMS.items()
            for rows, outputs in ((1, 5), (3, 17), (37, 33))
        },
        **{
            f"GatedHadamard, {name}, {rows} rows": hadamard_cases.node_of(name, rows)
            for name in hadamard_cases.FACTORS
            for rows in (1, 5, 17)
        },
        **{
            f"MixedPrecisionAttention, {name}, {kind}": attention_cases.node_of(form, shape)
            for name, form in (attention_cases.FORMS | attention_cases.NORMED).items()
            for kind, shape in SHAPES_TRIED.items()
        },
        **{
            f"MixedPrecisionAttention, ragged, {kind}": attention_cases.ragged_node_of(
                attention_cases.form_of(ragged=True), ragged
            )
            for kind, ragged in ragged_cases.SHAPES.items()
        },
    }


def allocate(size: int, *, behind: bool) -> int:
    """The address of `size` bytes; the page behind them, or before them, may not be touched."""
    inside = max(-(-size // PAGE), 1) * PAGE
    region = mmap.mmap(-1, inside + 2 * PAGE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(region))
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    protect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for page in (start, start + PAGE + inside):
        if protect(page, PAGE, PROT_NONE):
            raise OSError(ctypes.get_errno(), "mprotect")
    KEPT.append(region)
    return start + PAGE + (inside - size if behind else 0)


def guarded(array: Array, *, behind: bool) -> Array:
    """A copy of an array against a guard page."""
    address = allocate(array.nbytes, behind=behind)
    memory = memoryview((ctypes.c_char * array.nbytes).from_address(address))
    copy: Array = np.frombuffer(memory, array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def constant(array: Array, *, behind: bool) -> ort.OrtValue:
    """An initializer in guarded memory. 4-bit integers are packed, two in a byte, as files do."""
    tensor = oh.make_tensor("", oh.np_dtype_to_tensor_dtype(array.dtype), array.shape, array)
    if tensor.data_type != TensorProto.INT4:
        return ort.OrtValue.ortvalue_from_numpy(guarded(array, behind=behind))
    nibbles = np.zeros(-(-array.size // 2) * 2, np.uint8)
    nibbles[: array.size] = array.astype(np.int8).ravel() & 15
    packed = guarded(nibbles[::2] | nibbles[1::2] << 4, behind=behind)
    KEPT.append(packed)
    # ONNX Runtime takes the shape and the address from what it is given.
    claimed = np.lib.stride_tricks.as_strided(packed, array.shape, (array.shape[1], 1))
    return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(claimed, TensorProto.INT4)


def check(node: Node, *, behind: bool) -> None:
    """The node runs on guarded memory and gives what it gives on any other."""
    wanted = node.run()
    constants = {
        name: constant(array, behind=behind)
        for name, array in node.arrays.items()
        if name not in node.fed
    }
    session = open_session(node.model(), initializers=constants)
    binding = session.io_binding()
    for name, array in node.feeds().items():
        value = guarded(array, behind=behind)
        KEPT.append(value)
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(value))
    found = [guarded(np.zeros_like(output), behind=behind) for output in wanted]
    for name, output in zip(node.outputs, found, strict=True):
        binding.bind_ortvalue_output(name, ort.OrtValue.ortvalue_from_numpy(output))
    session.run_with_iobinding(binding)
    assert_identical(found, wanted)


def main(names: list[str]) -> None:
    """Run the cases with guards behind and before their arrays, and in float16."""
    nodes = cases()
    for name in names or nodes:
        node = nodes[name]
        for which, variant, behind in (
            ("guard behind", node, True),
            ("guard before", node, False),
            ("float16, guard behind", node.in_half(), True),
        ):
            print(f"{name}, {which}", flush=True)
            check(variant, behind=behind)
            KEPT.clear()


if __name__ == "__main__":
    main(sys.argv[1:])
