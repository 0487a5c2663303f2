"""Store a quantised matrix as initializers, and dequantise it in the graph.

W_low (N, K_low), S_low (N,), W_high (N, K_high), S_high (N,)  →  DequantizeLinear of each part,
Concat of their columns, and Gather if the columns were reordered to [low | high].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from resq_onnx.graph.modules import Linear, new_initializer, tag
from resq_onnx.graph.tensors import Shared
from resq_onnx.recipe import BitSplit
from resq_onnx.weights.quantised import QuantisedMatrix

STORED: Final = {
    4: (ir.DataType.INT4, np.dtype(ml_dtypes.int4)),
    8: (ir.DataType.INT8, np.dtype(np.int8)),
}
"""Type of a weight in the file and in memory, by number of bits."""


def store_matrix(
    model: ir.Model,
    module: str,
    rows: int,
    split: BitSplit,
    quantise: Callable[[], QuantisedMatrix],
) -> list[ir.Value | None]:
    """Register W_low, S_low, W_high, S_high as initializers; None for a part of width 0.

    Args:
        model: The model to change.
        module: Prefix of their names.
        rows: N.
        split: K_low and K_high, and their bits.
        quantise: Computes the matrix when the file is written, once for all four tensors.
    """

    def parts() -> tuple[NDArray[Any], ...]:
        matrix = quantise()
        return matrix.low, matrix.low_scale, matrix.high, matrix.high_scale

    shared = Shared(parts)
    values: list[ir.Value | None] = []
    for name, width, bits in (
        ("low", split.low, split.low_bits),
        ("high", split.high, split.high_bits),
    ):
        if not width:
            values += [None, None]
            continue
        dtype, numpy_dtype = STORED[bits]
        first = len(values)
        weight = lazy_part(dtype, numpy_dtype, (rows, width), shared, first)
        scale = lazy_part(ir.DataType.FLOAT, np.dtype(np.float32), (rows,), shared, first + 1)
        values.append(new_initializer(model, f"{module}.weight_{name}", weight))
        values.append(new_initializer(model, f"{module}.scale_{name}", scale))
    return values


def lazy_part(
    dtype: ir.DataType, numpy_dtype: Any, shape: tuple[int, ...], shared: Shared, part: int
) -> ir.LazyTensor:
    """One result of a shared computation as a tensor of this type and shape."""

    def compute() -> ir.TensorProtocol:
        return ir.Tensor(shared.part(part).astype(numpy_dtype), dtype)

    return ir.LazyTensor(compute, dtype, ir.Shape(shape))


def dequantise_weight(
    model: ir.Model,
    linear: Linear,
    parts: Sequence[ir.Value | None],
    order: NDArray[np.int64] | None = None,
) -> None:
    """Let a float linear layer read its weight from quantised parts; nothing else changes.

    The nodes are standard ones over constants: a runtime folds them when it loads the file.
    ONNX Runtime does so with `session.disable_quant_qdq=1`. Without it, it computes them in each
    run, and may fuse a weight in one part into a MatMulNBits, which rounds activations to 8 bits.

    Args:
        model: The model to change.
        linear: The layer; its float weight is removed from the graph.
        parts: Its quantised weight, as `store_matrix` returned it.
        order: How the columns were reordered, new[j] = old[order[j]], (K,); None if not.
    """
    module, old = linear.module, linear.weight
    low, low_scale, high, high_scale = parts
    nodes = [
        ir.node("DequantizeLinear", [part, scale], {"axis": 0}, name=f"{module}.{name}")
        for name, part, scale in (("low", low, low_scale), ("high", high, high_scale))
        if part is not None
    ]
    if len(nodes) > 1:
        columns = [node.outputs[0] for node in nodes]
        nodes.append(ir.node("Concat", columns, {"axis": 1}, name=f"{module}.columns"))
    if order is not None:
        places = new_initializer(model, f"{module}.places", ir.tensor(np.argsort(order)))
        joined = [nodes[-1].outputs[0], places]
        nodes.append(ir.node("Gather", joined, {"axis": 1}, name=f"{module}.in_order"))
    transpose = linear.nodes[0]
    model.graph.insert_before(transpose, [tag(node, module) for node in nodes])
    transpose.replace_input_with(0, nodes[-1].outputs[0])
    if old.name is not None and not old.uses():
        model.graph.initializers.pop(old.name)
