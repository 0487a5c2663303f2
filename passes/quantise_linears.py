"""RMSNorm · linear · residual Add  →  MixedPrecisionMatMul.

1. The linear layer's weight becomes INT4 columns and INT8 columns, each with a scale per row.
2. A norm before it is absorbed: it only changes the scale of the quantised activation.
3. An Add behind it that nothing else reads is absorbed as the residual.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from resq_onnx.families import ModelLayout
from resq_onnx.functions import MatMulForm, add_call
from resq_onnx.moments import Moments
from resq_onnx.passes.merge_projections import merged_module
from resq_onnx.passes.modules import Linear, find_linear, new_initializer, producer_of, tag
from resq_onnx.passes.replacing import put_in_place_of
from resq_onnx.passes.tensors import Shared, dims, read_float64
from resq_onnx.projections import Projections
from resq_onnx.recipe import BitSplit, Recipe
from resq_onnx.weights.gptq import gptq
from resq_onnx.weights.rtn import QuantisedMatrix, round_to_nearest

Matrix = NDArray[Any]

STORED: Final = {
    4: (ir.DataType.INT4, np.dtype(ml_dtypes.int4)),
    8: (ir.DataType.INT8, np.dtype(np.int8)),
}
"""By number of bits, the type of a weight in the file and in memory."""


@dataclass(frozen=True)
class _Site:
    """One matrix to quantise: how its columns are ordered, split and weighed.

    Attributes:
        module: The linear layer.
        split: Low and high columns.
        hessian: The second moment of the layer's input, in the basis of the ordered columns.
        groups: Groups of columns of the activation that are quantised apart.
        order: Puts the weight's columns in the order [low | high].
    """

    module: str
    split: BitSplit
    hessian: Callable[[Moments], Matrix]
    groups: int = 1
    order: Callable[[Matrix], Matrix] = np.asarray


class QuantiseLinears(ir.passes.InPlacePass):
    """Quantise the four linear layers of every decoder layer; q/k/v and gate/up are merged."""

    def __init__(
        self,
        layout: ModelLayout,
        recipe: Recipe,
        projections: Projections,
        moments: Moments | None,
    ) -> None:
        """Choose GPTQ with the Hessians of `moments`, or round-to-nearest, by the recipe."""
        self._layout = layout
        self._uses_gptq = recipe.weights == "gptq"
        self._projections = projections
        self._moments = moments

    def call(self, model: ir.Model) -> ir.passes.PassResult:  # noqa: D102
        for layer in range(self._layout.num_layers):
            for site in self._sites(layer):
                linear = find_linear(model, site.module)
                replace_linear(
                    model, linear, site.split, site.groups, self._quantiser(linear, site)
                )
        return ir.passes.PassResult(model, modified=True)

    def _sites(self, layer: int) -> list[_Site]:
        layout, bases = self._layout, self._projections
        head, heads = bases.head_split, layout.num_heads
        return [
            _Site(
                merged_module(layout, layer, "query"),
                bases.hidden_split,
                lambda moments: bases.hidden_hessian(_float64(moments.hidden_attention[layer])),
            ),
            _Site(
                layout.module(layer, "attention_out"),
                BitSplit(head.low * heads, head.high * heads, head.low_bits, head.high_bits),
                lambda moments: bases.attention_out_hessian(
                    layer, _float64(moments.attention_out[layer])
                ),
                groups=heads,
                order=bases.attention_out_columns,
            ),
            _Site(
                merged_module(layout, layer, "gate"),
                bases.hidden_split,
                lambda moments: bases.hidden_hessian(_float64(moments.hidden_mlp[layer])),
            ),
            _Site(
                layout.module(layer, "down"),
                bases.down_split,
                lambda moments: bases.down_hessian(layer, _float64(moments.down[layer])),
            ),
        ]

    def _quantiser(self, linear: Linear, site: _Site) -> Callable[[], QuantisedMatrix]:
        tensor, moments = linear.weight.const_value, self._moments

        def quantise() -> QuantisedMatrix:
            weight = site.order(read_float64(tensor))
            if not self._uses_gptq:
                return round_to_nearest(weight, site.split)
            assert moments is not None, "GPTQ needs second moments"
            return gptq(weight, site.hessian(moments), site.split)

        return quantise


def replace_linear(
    model: ir.Model,
    linear: Linear,
    split: BitSplit,
    groups: int,
    quantise: Callable[[], QuantisedMatrix],
) -> None:
    """Put a MixedPrecisionMatMul in the place of a linear layer, its norm and its residual.

    Args:
        model: The model to change.
        linear: The float layer.
        split: Low and high columns of its weight as `quantise` returns them.
        groups: Groups of columns of the activation that are quantised apart.
        quantise: Computes the quantised weight when the file is written.
    """
    norm = producer_of(linear.source, "RMSNormalization")
    source = linear.source if norm is None else norm.inputs[0]
    addition = _residual_addition(linear)
    residual = None
    old = list(linear.nodes)
    if addition is not None:
        (residual,) = [value for value in addition.inputs if value is not linear.result]
        old.append(addition)
    form = MatMulForm(
        split,
        groups=groups,
        norm=norm is not None,
        bias=linear.bias is not None,
        residual=residual is not None,
    )
    assert linear.weight.const_value is not None
    rows = dims(linear.weight.const_value)[0]
    weights = _weight_inputs(model, linear.module, rows, split, quantise)
    node = add_call(
        model,
        form,
        [source, *weights, linear.bias, residual],
        {} if norm is None else {"norm_epsilon": norm.attributes.get_float("epsilon")},
        linear.module,
        [f"{linear.module}.quantised"],
    )
    put_in_place_of(model, old, tag(node, linear.module))


def _residual_addition(linear: Linear) -> ir.Node | None:
    consumers = linear.result.consumers()
    if linear.result.is_graph_output() or len(consumers) != 1:
        return None
    return consumers[0] if consumers[0].op_type == "Add" else None


def _weight_inputs(
    model: ir.Model,
    module: str,
    rows: int,
    split: BitSplit,
    quantise: Callable[[], QuantisedMatrix],
) -> list[ir.Value | None]:
    """W_low, S_low, W_high, S_high as initializers; None for a part of width 0."""

    def parts() -> tuple[Matrix, ...]:
        matrix = quantise()
        return matrix.low, matrix.low_scale, matrix.high, matrix.high_scale

    shared = Shared(parts)
    values: list[ir.Value | None] = []
    for name, width, bits in (("low", split.low, split.low_bits), ("high", split.high, 8)):
        if not width:
            values += [None, None]
            continue
        dtype, numpy_dtype = STORED[bits]
        first = len(values)
        values.append(
            new_initializer(
                model,
                f"{module}.weight_{name}",
                _lazy(dtype, numpy_dtype, (rows, width), shared, first),
            )
        )
        values.append(
            new_initializer(
                model,
                f"{module}.scale_{name}",
                _lazy(ir.DataType.FLOAT, np.dtype(np.float32), (rows,), shared, first + 1),
            )
        )
    return values


def _lazy(
    dtype: ir.DataType, numpy_dtype: Any, shape: tuple[int, ...], shared: Shared, part: int
) -> ir.LazyTensor:
    def compute() -> ir.TensorProtocol:
        return ir.Tensor(shared.part(part).astype(numpy_dtype), dtype)

    return ir.LazyTensor(compute, dtype, ir.Shape(shape))


def _float64(moment: Matrix) -> Matrix:
    return moment.astype(np.float64)
