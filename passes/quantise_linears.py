"""RMSNorm · linear · residual Add  →  MixedPrecisionMatMul.

1. The linear layer's weight becomes INT4 columns and INT8 columns, each with a scale per row.
2. A norm without gains before the layer is absorbed: it only changes the scale of the quantised
   activation.
3. An Add that is the only reader of its result is absorbed as the residual.

With float activations only the weight changes (rule 1), and the layer reads it dequantised.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from resq_onnx.families import ModelLayout
from resq_onnx.functions import MatMulForm, add_call
from resq_onnx.graph.modules import Linear, find_linear, producer_of, tag
from resq_onnx.graph.replacing import put_in_place_of
from resq_onnx.graph.tensors import read_float64
from resq_onnx.passes.merge_projections import merged_module
from resq_onnx.passes.stored_weights import dequantise_weight, store_matrix
from resq_onnx.projections.bases import Projections, high_last_order
from resq_onnx.projections.moments import Moments
from resq_onnx.recipe import BitSplit, Recipe
from resq_onnx.weights.gptq import gptq
from resq_onnx.weights.rtn import QuantisedMatrix, round_to_nearest

Matrix = NDArray[Any]


@dataclass(frozen=True)
class _Site:
    """One matrix to quantise: order, split and Hessian of its columns.

    Attributes:
        module: The linear layer.
        split: Low and high columns.
        hessian: The second moment of the layer's input, in the basis of the ordered columns.
        groups: Groups of columns of the activation that are quantised separately.
        order: Puts the weight's columns in the order [low | high], new[j] = old[order[j]];
            None if they are in this order already.
    """

    module: str
    split: BitSplit
    hessian: Callable[[Moments], Matrix]
    groups: int = 1
    order: NDArray[np.int64] | None = None


class QuantiseLinears(ir.passes.InPlacePass):
    """Quantise the linear layers of every decoder layer; q/k/v and gate/up are merged."""

    def __init__(
        self,
        layout: ModelLayout,
        recipe: Recipe,
        projections: Projections,
        moments: Moments | None,
    ) -> None:
        """Use GPTQ with the Hessians of `moments`, or round to nearest, as the recipe says."""
        self._layout = layout
        self._recipe = recipe
        self._projections = projections
        self._moments = moments

    def call(self, model: ir.Model) -> ir.passes.PassResult:  # noqa: D102
        for layer in range(self._layout.num_layers):
            for site in self._sites(layer):
                linear = find_linear(model, site.module)
                quantise = self._quantiser(linear, site)
                parts = store_matrix(model, site.module, linear.rows, site.split, quantise)
                if self._recipe.activations == "float":
                    dequantise_weight(model, linear, parts, site.order)
                else:
                    clip = self._recipe.low_clip(site.split)
                    replace_linear(model, linear, site.split, site.groups, parts, clip)
        return ir.passes.PassResult(model, modified=True)

    def _sites(self, layer: int) -> list[_Site]:
        layout, bases = self._layout, self._projections
        splits, heads = bases.splits, layout.num_heads
        head = splits.attention_out[layer]
        return [
            _Site(
                merged_module(layout, layer, "query"),
                splits.attention[layer],
                lambda moments: bases.hidden_hessian(_float64(moments.hidden_attention[layer])),
            ),
            _Site(
                layout.module(layer, "attention_out"),
                BitSplit(head.low * heads, head.high * heads, head.low_bits, head.high_bits),
                lambda moments: bases.attention_out_hessian(
                    layer, _float64(moments.attention_out[layer])
                ),
                groups=heads,
                order=high_last_order(heads, head),
            ),
            _Site(
                merged_module(layout, layer, "gate"),
                splits.mlp[layer],
                lambda moments: bases.hidden_hessian(_float64(moments.hidden_mlp[layer])),
            ),
            _Site(
                layout.module(layer, "down"),
                splits.down[layer],
                lambda moments: bases.down_hessian(layer, _float64(moments.down[layer])),
            ),
        ]

    def _quantiser(self, linear: Linear, site: _Site) -> Callable[[], QuantisedMatrix]:
        tensor, moments = linear.weight.const_value, self._moments

        def quantise() -> QuantisedMatrix:
            weight = read_float64(tensor)
            if site.order is not None:
                weight = weight[:, site.order]
            if self._recipe.weights == "rtn":
                return round_to_nearest(weight, site.split)
            assert moments is not None, "GPTQ needs second moments"
            return gptq(weight, site.hessian(moments), site.split)

        return quantise


def replace_linear(
    model: ir.Model,
    linear: Linear,
    split: BitSplit,
    groups: int,
    parts: Sequence[ir.Value | None],
    low_clip: float = 1.0,
) -> None:
    """Replace a linear layer, its norm and its residual Add by one MixedPrecisionMatMul.

    Args:
        model: The model to change.
        linear: The float layer.
        split: Low and high columns of its weight.
        groups: Groups of columns of the activation that are quantised separately.
        parts: The quantised weight, as `store_matrix` returned it.
        low_clip: Share of its range that the integers of the activation's low part span.
    """
    norm = producer_of(linear.source, "RMSNormalization")
    if norm is not None and not _has_unit_gain(norm):
        norm = None
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
        low_clip=low_clip if split.low else 1.0,
    )
    node = add_call(
        model,
        form,
        [source, *parts, linear.bias, residual],
        {} if norm is None else {"norm_epsilon": norm.attributes.get_float("epsilon")},
        linear.module,
        [f"{linear.module}.quantised"],
    )
    put_in_place_of(model, old, tag(node, linear.module))


def _has_unit_gain(norm: ir.Node) -> bool:
    gain = norm.inputs[1]
    assert gain is not None
    return bool((read_float64(gain.const_value) == 1.0).all())


def _residual_addition(linear: Linear) -> ir.Node | None:
    consumers = linear.result.consumers()
    if linear.result.is_graph_output() or len(consumers) != 1:
        return None
    return consumers[0] if consumers[0].op_type == "Add" else None


def _float64(moment: Matrix) -> Matrix:
    return moment.astype(np.float64)
