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
import torch
from numpy.typing import NDArray

from resq_onnx.families import ModelLayout
from resq_onnx.functions import MatMulForm, add_call
from resq_onnx.graph.modules import Linear, find_linear, producer_of, tag
from resq_onnx.graph.replacing import put_in_place_of
from resq_onnx.graph.tensors import read_float64
from resq_onnx.passes.fuse_norm_gains import READERS
from resq_onnx.passes.merge_projections import merged_module
from resq_onnx.passes.stored_weights import dequantise_weight, store_matrix
from resq_onnx.projections.bases import Projections, high_last_order
from resq_onnx.projections.hessians import attention_out_hessian, down_hessian, hidden_hessian
from resq_onnx.projections.linalg import float64_on
from resq_onnx.projections.moments import SecondMoments
from resq_onnx.recipe import BitSplit, Recipe
from resq_onnx.weights.gptq import gptq
from resq_onnx.weights.rtn import QuantisedMatrix, round_to_nearest

Matrix = NDArray[Any]


Matrices = Callable[[str], QuantisedMatrix]
"""Returns the quantised matrix of a module."""


@dataclass(frozen=True)
class Site:
    """One matrix to quantise: order, split and Hessian of its columns.

    Attributes:
        module: The linear layer.
        roles: Those whose rows it has, one after another.
        split: Low and high columns.
        layer: Number of the decoder layer.
        moment: The second moment of the layer's input, among `projections.moments.SITES`.
        hessian: Puts that moment into the basis of the ordered columns, in place.
        groups: Groups of columns of the activation that are quantised separately.
        order: Puts the weight's columns in the order [low | high], new[j] = old[order[j]];
            None if they are in this order already.
    """

    module: str
    roles: tuple[str, ...]
    split: BitSplit
    layer: int
    moment: str
    hessian: Callable[[torch.Tensor], torch.Tensor]
    groups: int = 1
    order: NDArray[np.int64] | None = None

    def quantise(
        self, weight: Matrix, recipe: Recipe, moments: SecondMoments | None, device: str = "cpu"
    ) -> QuantisedMatrix:
        """Quantise the folded weight (N, K) of the layer by the recipe, in PyTorch on a device.

        Beside the weight, GPTQ takes the memory of the Hessian in float64, and while that is read
        also of the moment in float32.

        Raises:
            ResqError: The weight or the moments are not finite.
        """
        if self.order is not None:
            weight = weight[:, self.order]
        if recipe.weights == "rtn":
            return round_to_nearest(weight, self.split, device)
        assert moments is not None, "GPTQ needs second moments"
        moment = float64_on(device, moments.site(self.layer, self.moment))
        return gptq(weight, self.hessian(moment), self.split, device, overwrite_hessian=True)


def sites_of(layout: ModelLayout, bases: Projections, layer: int) -> list[Site]:
    """The matrices of one decoder layer; q/k/v and gate/up are merged."""
    splits, heads = bases.splits, layout.num_heads
    head = splits.attention_out[layer]
    return [
        Site(
            merged_module(layout, layer, "query"),
            READERS["attention_norm"],
            splits.attention[layer],
            layer,
            "hidden_attention",
            lambda moment: hidden_hessian(bases, moment),
        ),
        Site(
            layout.module(layer, "attention_out"),
            ("attention_out",),
            BitSplit(head.low * heads, head.high * heads, head.low_bits, head.high_bits),
            layer,
            "attention_out",
            lambda moment: attention_out_hessian(bases, layer, moment),
            groups=heads,
            order=high_last_order(heads, head),
        ),
        Site(
            merged_module(layout, layer, "gate"),
            READERS["mlp_norm"],
            splits.mlp[layer],
            layer,
            "hidden_mlp",
            lambda moment: hidden_hessian(bases, moment),
        ),
        Site(
            layout.module(layer, "down"),
            ("down",),
            splits.down[layer],
            layer,
            "down",
            lambda moment: down_hessian(bases, layer, moment),
        ),
    ]


class QuantiseLinears(ir.passes.InPlacePass):
    """Quantise the linear layers of every decoder layer."""

    def __init__(
        self,
        layout: ModelLayout,
        recipe: Recipe,
        projections: Projections,
        moments: SecondMoments | None,
        matrices: Matrices | None = None,
        device: str = "cpu",
    ) -> None:
        """Use GPTQ with the Hessians of `moments`, or round to nearest, as the recipe says.

        With `matrices`, the matrices are those that it returns. PyTorch computes on the device.
        """
        self._layout = layout
        self._recipe = recipe
        self._projections = projections
        self._moments = moments
        self._matrices = matrices
        self._device = device

    def call(self, model: ir.Model) -> ir.passes.PassResult:  # noqa: D102
        for layer in range(self._layout.num_layers):
            for site in sites_of(self._layout, self._projections, layer):
                linear = find_linear(model, site.module)
                quantise = self._quantiser(linear, site)
                parts = store_matrix(model, site.module, linear.rows, site.split, quantise)
                if self._recipe.activations == "float":
                    dequantise_weight(model, linear, parts, site.order)
                else:
                    clip = self._recipe.low_clip(site.split)
                    replace_linear(model, linear, site.split, site.groups, parts, clip)
        return ir.passes.PassResult(model, modified=True)

    def _quantiser(self, linear: Linear, site: Site) -> Callable[[], QuantisedMatrix]:
        tensor, known = linear.weight.const_value, self._matrices
        assert tensor is not None, "the weight has no values"

        def quantise() -> QuantisedMatrix:
            if known is not None:
                return known(site.module)
            return site.quantise(tensor.numpy(), self._recipe, self._moments, self._device)

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
