"""Quantise the weights of a model in PyTorch as in the exported file, in the original basis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from resq_onnx.families import ModelLayout
from resq_onnx.projections import Projections
from resq_onnx.projections.hessians import attention_out_hessian, down_hessian, hidden_hessian
from resq_onnx.projections.moments import Moments
from resq_onnx.recipe import BitSplit
from resq_onnx.weights.gptq import gptq_in_parts
from resq_onnx.weights.quantised import integer_range
from resq_onnx.weights.scales import clip_search

Array = NDArray[Any]
Widths = tuple[tuple[int, int], ...]
"""(columns, bits) of the parts of an input, in order."""


@dataclass(frozen=True)
class Columns:
    """Parts of the columns of each kind of weight, the same in all layers."""

    hidden: Widths
    attention_out: Widths
    down: Widths


def columns_of(bases: Projections, layout: ModelLayout, two_bits: float) -> Columns:
    """The parts from the first layer's splits, with some columns of the stream in 2 bits."""
    splits, heads = bases.splits, layout.num_heads
    hidden, head = splits.attention[0], splits.attention_out[0]
    least = round(two_bits * hidden.width)
    stream = ((least, 2), (hidden.low - least, hidden.low_bits), (hidden.high, hidden.high_bits))
    return Columns(
        hidden=_present(stream),
        attention_out=_widths(
            BitSplit(head.low * heads, head.high * heads, head.low_bits, head.high_bits)
        ),
        down=_widths(splits.down[0]),
    )


def _widths(split: BitSplit) -> Widths:
    return _present(((split.low, split.low_bits), (split.high, split.high_bits)))


def _present(widths: Widths) -> Widths:
    return tuple((width, bits) for width, bits in widths if width)


def fold_gains(model: nn.Module, layout: ModelLayout) -> None:
    """Fold the gains of the layers' norms into the linear layers that read them, in place."""
    with torch.no_grad():
        for layer in range(layout.num_layers):
            for norm, readers in (
                ("attention_norm", ("query", "key", "value")),
                ("mlp_norm", ("gate", "up")),
            ):
                gain = model.get_parameter(layout.module(layer, norm) + ".weight")
                for role in readers:
                    model.get_parameter(layout.module(layer, role) + ".weight").mul_(gain)
                gain.fill_(1.0)


def quantise_layer(
    model: nn.Module,
    layout: ModelLayout,
    layer: int,
    bases: Projections,
    moments: Moments,
    columns: Columns,
    searches: bool,
) -> None:
    """Round the weights of one layer, in place.

    Args:
        model: A model with folded gains.
        layout: Its sizes and module names.
        layer: Its number; `bases` has the layer's U_A as `hidden`.
        bases: Bases.
        moments: Second moments, whose entries for this layer are its Hessians.
        columns: Parts of the columns.
        searches: Whether scales are searched.
    """
    stream, heads = bases.hidden, _value_turn(bases, layout, layer)

    def around(
        role: str,
        before: Array | None,
        turn: Callable[[Array], Array],
        back: Callable[[Array], Array],
        hessian: torch.Tensor,
        widths: Widths,
    ) -> None:
        parameter = model.get_parameter(layout.module(layer, role) + ".weight")
        weight = parameter.detach().numpy().astype(np.float64)
        rows = weight if before is None else before.T @ weight
        rounded = back(_rounded(turn(rows), hessian, widths, searches))
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(rounded if before is None else before @ rounded))

    def into_stream(weight: Array) -> Array:
        return np.asarray(weight @ stream)

    def out_of_stream(weight: Array) -> Array:
        return np.asarray(weight @ stream.T)

    of_attention = hidden_hessian(bases, torch.tensor(moments.hidden_attention[layer]).double())
    of_mlp = hidden_hessian(bases, torch.tensor(moments.hidden_mlp[layer]).double())
    values = _block_diagonal(bases.value[layer])
    for role, before in (("query", None), ("key", None), ("value", values)):
        around(role, before, into_stream, out_of_stream, of_attention, columns.hidden)
    for role in ("gate", "up"):
        around(role, None, into_stream, out_of_stream, of_mlp, columns.hidden)
    around(
        "attention_out",
        stream,
        lambda weight: bases.attention_out_columns(layer, weight @ heads),
        lambda weight: _in_heads(bases, layer, weight) @ heads.T,
        attention_out_hessian(bases, layer, torch.tensor(moments.attention_out[layer]).double()),
        columns.attention_out,
    )
    down, of_down = bases.down_matrix(layer), torch.tensor(moments.down[layer]).double()
    hessian = down_hessian(bases, layer, of_down)
    around("down", stream, lambda w: w @ down, lambda w: w @ down.T, hessian, columns.down)


def _rounded(weight: Array, hessian: torch.Tensor, widths: Widths, searches: bool) -> Array:
    """A weight (N, K), quantised by GPTQ and dequantised, part by part in order."""
    parts = gptq_in_parts(weight, hessian.clone(), widths, clip_search if searches else _widest)
    values = [integers * scale.astype(np.float64)[:, None] for integers, scale in parts]
    return np.concatenate(values, axis=1)


def _widest(weight: Array, bits: int, _importance: Array) -> NDArray[np.float32]:
    """The scale per row that clips nothing."""
    widest = np.abs(weight).max(axis=1) / integer_range(bits)[1]
    return np.where(widest > 0, widest, 1.0).astype(np.float32)


def _value_turn(bases: Projections, layout: ModelLayout, layer: int) -> Array:
    """U_B of every query head, block-diagonal (H*d, H*d)."""
    return _block_diagonal(np.repeat(bases.value[layer], layout.heads_per_kv_head, axis=0))


def _block_diagonal(blocks: Sequence[Array] | Array) -> Array:
    size = len(blocks[0])
    whole = np.zeros((len(blocks) * size, len(blocks) * size))
    for i, block in enumerate(blocks):
        whole[i * size : (i + 1) * size, i * size : (i + 1) * size] = block
    return whole


def _in_heads(bases: Projections, layer: int, weight: Array) -> Array:
    """The inverse of `Projections.attention_out_columns`."""
    order = bases.attention_out_columns(layer, np.arange(weight.shape[-1]))
    found = np.empty_like(weight)
    found[..., order] = weight
    return found
