"""Second moments of the activations at the five sites, in one pass over a text.

A second moment is the sum over tokens of x xᵀ. The sums are kept in float64; the products of
one batch are computed in the model's precision or float32, whichever is finer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Final, cast

import torch

from resq_onnx.errors import ResqError
from resq_onnx.families import ModelLayout

Take = Callable[[str, torch.Tensor], None]
"""Gets the name of a site and the rows of its next tokens, (..., tokens, n)."""

BLOCK: Final = 256
"""Columns multiplied at a time. A second moment is symmetric, so only its blocks on and above the
diagonal are computed; 192 to 288 were fastest: 1.7 times as fast as multiplying all of 1536 columns
at once."""


@contextmanager
def recording_layer(
    module: torch.nn.Module,
    layout: ModelLayout,
    layer: int,
    sums: Mapping[str, torch.Tensor],
    take: Take | None = None,
) -> Iterator[None]:
    """Add the inputs of a layer's norms, o_proj and down_proj to its sums inside the context.

    Args:
        module: The layer.
        layout: Of the model.
        layer: Its number.
        sums: Those of the layer.
        take: Gets what the norms' readers read; None for none.
    """
    with ExitStack() as hooks:
        for role, site, is_norm in (
            ("attention_norm", "hidden_attention", True),
            ("mlp_norm", "hidden_mlp", True),
            ("attention_out", "attention_out", False),
            ("down", "down", False),
        ):
            where = f"layer {layer}: the input of {layout.module(layer, role)}"
            also = partial(take, site) if take and is_norm else None
            hook = _hook(sums[site], layout if is_norm else None, where, also)
            part = module.get_submodule(getattr(layout.family, role))
            hooks.callback(part.register_forward_pre_hook(hook).remove)
        yield


def add_cache(
    keys: torch.Tensor,
    values: torch.Tensor,
    layout: ModelLayout,
    layer: int,
    sums: Mapping[str, torch.Tensor],
    take: Take | None = None,
) -> None:
    """Add a layer's keys and values, (batch, kv heads, tokens, d), to its sums.

    `take` gets them, too.

    Raises:
        ResqError: One is infinite or NaN.
    """
    for heads, role in ((keys, "key"), (values, "value")):
        where = f"layer {layer}: the output of {layout.module(layer, role)}"
        rows = heads.transpose(0, 1).flatten(1, 2)
        add_products(sums[role], rows, where)
        if take:
            take(role, rows)


def _hook(
    total: torch.Tensor,
    norms: ModelLayout | None,
    where: str,
    take: Callable[[torch.Tensor], None] | None,
) -> Callable[[torch.nn.Module, tuple[torch.Tensor, ...]], None]:
    """A forward pre-hook that adds its module's input, or a norm's output for its readers.

    If `norms` is given, the input is divided as the norm divides it, and multiplied by the gain if
    the file rounds after the gain. `take` gets the rows, too.
    """

    def record(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        rows = _widen(inputs[0].flatten(0, -2))  # (tokens, features)
        if norms is not None:
            rows = rows * torch.rsqrt(rows.square().mean(-1, keepdim=True) + norms.norm_epsilon)
            if norms.turns_inputs:
                rows = rows * gain_of(module, norms)
        add_products(total, rows, where)
        if take is not None:
            take(rows)

    return record


def gain_of(norm: torch.nn.Module, layout: ModelLayout) -> torch.Tensor:
    """The gain of a norm, (D,)."""
    gain = cast(torch.Tensor, norm.weight)
    return 1.0 + gain if layout.family.offset_gains else gain


def add_products(total: torch.Tensor, rows: torch.Tensor, where: str) -> None:
    """Add rowsᵀ · rows to `total`: only the blocks on and above the diagonal.

    Args:
        total: (..., features, features), float64.
        rows: (..., tokens, features).
        where: Description of the rows, for error messages.

    Raises:
        ResqError: An element is infinite or NaN.
    """
    rows = _widen(rows)
    for block in _blocks(rows.shape[-1]):
        products = rows[..., block].mT @ rows[..., block.start :]
        # A column with such an element has an infinite or NaN sum of squares.
        if not torch.isfinite(products.diagonal(dim1=-2, dim2=-1)).all():
            raise ResqError(
                f"{where} is infinite or not a number on the calibration text; load the model "
                f"in a wider type (float32), or check its weights"
            )
        total[..., block, block.start :] += products


def complete(total: torch.Tensor) -> None:
    """Copy the blocks above the diagonal to below it."""
    for block in _blocks(total.shape[-1]):
        total[..., block.stop :, block] = total[..., block, block.stop :].mT


def _blocks(width: int) -> list[slice]:
    return [slice(start, min(start + BLOCK, width)) for start in range(0, width, BLOCK)]


def _widen(rows: torch.Tensor) -> torch.Tensor:
    return rows if rows.dtype == torch.float64 else rows.float()
