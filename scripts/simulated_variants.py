"""Variants of the simulated study: each differs from the default in one choice."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from resq_onnx.calibration.training.quantisers import Part, fake_quantise, parts_of
from resq_onnx.calibration.training.simulation import Parts, parts_by_recipe
from resq_onnx.families import ModelLayout
from resq_onnx.projections.bases import Projections, high_last_order
from resq_onnx.recipe import BitSplit, Recipe
from scripts.simulated_weights import Columns

DEFAULT: Final = Recipe()


@dataclass(frozen=True)
class Variant:
    """One line of the table: the differences from the default.

    Attributes:
        label: Text in the table.
        recipe: Only its fractions, bits, clip and seed are used.
        parts: Changes the rounding of activations.
        projections: Changes the bases.
        hidden_by_layer: Whether each layer has its own U_A.
        sequential: Whether a layer's Hessians are measured after quantising the previous layers.
        searches: Whether scales of weights are searched, or given by the largest weight.
        two_bits: Share of the residual stream in 2 bits, the one with the least variance.
        per_token: Whether the input of o_proj is rounded per token instead of per head.
    """

    label: str
    recipe: Recipe = DEFAULT
    parts: Callable[[Parts], Parts] = lambda parts: parts
    projections: Callable[[Projections], Projections] = lambda projections: projections
    hidden_by_layer: bool = False
    sequential: bool = False
    searches: bool = True
    two_bits: float = 0.0
    per_token: bool = False

    def what_weights_depend_on(self) -> tuple[Any, ...]:
        """A key that is equal for variants with the same rounded weights."""
        recipe = dataclasses.replace(
            self.recipe, activation_clip=1.0, activations="quantised", cache="quantised"
        )
        sequential = self if self.sequential else None
        return recipe, sequential, self.searches, self.two_bits, self.hidden_by_layer


def down_in_8_bits(parts: Parts) -> Parts:
    """All of down_proj's input in 8 bits."""
    down = tuple(tuple(Part(part.width, 8) for part in some) for some in parts.down)
    return dataclasses.replace(parts, down=down)


def one_key_basis(projections: Projections) -> Projections:
    """The first kv head's U_C for all kv heads of a layer."""
    key = np.broadcast_to(projections.key[:, :1], projections.key.shape)
    return dataclasses.replace(projections, key=key)


def in_groups(count: int, clip: float) -> Callable[[Parts], Parts]:
    """A scale for each of `count` groups of the low columns of the stream and before down_proj."""

    def grouped(parts: tuple[Part, ...]) -> tuple[Part, ...]:
        low, *high = parts
        edges = [low.width * i // count for i in range(count + 1)]
        widths = [end - start for start, end in itertools.pairwise(edges)]
        return (*[Part(width, low.bits, clip) for width in widths], *high)

    def change(parts: Parts) -> Parts:
        attention, mlp, down = (
            tuple(map(grouped, site)) for site in (parts.attention, parts.mlp, parts.down)
        )
        return dataclasses.replace(parts, attention=attention, mlp=mlp, down=down)

    return change


def clipped_by_site(parts: Parts) -> Parts:
    """Each site's own best clip: none before o_proj, 0.8 before down_proj."""

    def clipped(site: tuple[tuple[Part, ...], ...], clip: float) -> tuple[tuple[Part, ...], ...]:
        return tuple((dataclasses.replace(low, clip=clip), *high) for low, *high in site)

    return dataclasses.replace(
        parts, attention_out=clipped(parts.attention_out, 1.0), down=clipped(parts.down, 0.8)
    )


def _clip(share: float) -> Variant:
    return Variant(f"activation clip {share:g}", Recipe(activation_clip=share))


VARIANTS: Final = {
    "default": Variant("default"),
    "weights": Variant("weights alone", Recipe(activations="float", cache="float")),
    "cache-float": Variant("cache in float", Recipe(cache="float")),
    "activations-float": Variant("activations in float", Recipe(activations="float")),
    "clip-1": _clip(1.0),
    "clip-95": _clip(0.95),
    "clip-90": _clip(0.9),
    "clip-80": _clip(0.8),
    "clip-by-site": Variant("no clip before o_proj, 0.8 before down_proj", parts=clipped_by_site),
    "groups-4": Variant("4 scales for the low part of a token", parts=in_groups(4, 0.85)),
    "groups-8": Variant("8 scales for the low part, clip 0.95", parts=in_groups(8, 0.95)),
    "per-token": Variant("o_proj's input rounded per token, not per head", per_token=True),
    "key-by-layer": Variant("one U_C for all kv heads of a layer", projections=one_key_basis),
    "sequential": Variant("GPTQ with sequential Hessians", sequential=True),
    "no-search": Variant("no clip search for weights", searches=False),
    "hidden-by-layer": Variant("U_A for each layer", hidden_by_layer=True),
    "paper": Variant("`down_high` 0", Recipe(down_high=0.0)),
    "down-8": Variant("down_proj's input at 8 bits", Recipe(down_high=0.0), parts=down_in_8_bits),
    "paper-sequential": Variant(
        "`down_high` 0, sequential Hessians", Recipe(down_high=0.0), sequential=True
    ),
    "down-16": Variant("`down_high` 1/16", Recipe(down_high=1 / 16)),
    "down-4": Variant("`down_high` 1/4", Recipe(down_high=1 / 4)),
    "rank-16": Variant("`high_fraction` 1/16", Recipe(high_fraction=1 / 16)),
    "rank-4": Variant("`high_fraction` 1/4", Recipe(high_fraction=1 / 4)),
    "three": Variant("2/4/8 bits: the least 1/8 of the stream in 2 bits", two_bits=1 / 8),
    "three-more": Variant("2/4/8 bits: the least 1/4 of the stream in 2 bits", two_bits=1 / 4),
}


def parts_of_variant(
    variant: Variant, bases: Projections, columns: Columns, layout: ModelLayout
) -> Parts:
    """The quantised parts of each site in a variant."""
    clip = variant.recipe.activation_clip
    parts = parts_by_recipe(variant.recipe, bases)
    if variant.two_bits:
        stream = tuple(
            Part(width, bits, clip if bits < 8 else 1.0) for width, bits in columns.hidden
        )
        of_layers = (stream,) * layout.num_layers
        parts = dataclasses.replace(parts, attention=of_layers, mlp=of_layers)
    if variant.per_token:
        parts = dataclasses.replace(parts, attention_out=((),) * layout.num_layers)
    return variant.parts(parts)


@contextmanager
def rounded_per_token(
    model: nn.Module, layout: ModelLayout, variant: Variant, bases: Projections
) -> Iterator[None]:
    """Round the input of o_proj per token, over all heads, if the variant requires it."""

    def hook(layer: int) -> Callable[..., tuple[torch.Tensor]]:
        split, heads = bases.splits.attention_out[layer], layout.num_heads
        order = torch.from_numpy(high_last_order(heads, split))
        whole = BitSplit(split.low * heads, split.high * heads, split.low_bits, split.high_bits)
        parts = parts_of(whole, variant.recipe.low_clip(whole))

        def read(_module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
            rounded = fake_quantise(inputs[0][..., order], parts)
            return (rounded[..., torch.argsort(order)],)

        return read

    handles = [
        model.get_submodule(layout.module(layer, "attention_out")).register_forward_pre_hook(
            hook(layer)
        )
        for layer in range(layout.num_layers if variant.per_token else 0)
    ]
    yield
    for handle in handles:
        handle.remove()
