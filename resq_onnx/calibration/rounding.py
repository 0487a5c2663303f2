"""What rounding changes in the matrices of a layer, in the basis of the checkpoint.

A matrix W (N, K) is rounded as R W G C: G is the gain of the norm before it, C turns what it reads,
and R what it writes. The error E of that is turned back, R⁻¹ E C⁻¹ G⁻¹: W plus it computes in the
original model what the rounded matrix will.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from resq_onnx.checkpoint.source import ModelSource
from resq_onnx.families import ModelLayout
from resq_onnx.passes.fuse_norm_gains import READERS
from resq_onnx.passes.quantise_linears import Site, sites_of
from resq_onnx.projections import Projections
from resq_onnx.projections.inverse import undo_down, undo_value
from resq_onnx.projections.moments import SecondMoments
from resq_onnx.recipe import Recipe

Array = NDArray[Any]

LEAST_GAIN: Final = 1e-6
"""Relative to a norm's largest gain. Below it a channel passes nothing, and has no error."""


@dataclass(frozen=True)
class Turn:
    """A change of a matrix, and back."""

    there: Callable[[Array], Array]
    back: Callable[[Array], Array]

    def then(self, other: Turn) -> Turn:
        """First this one, then another."""
        return Turn(
            lambda weight: other.there(self.there(weight)),
            lambda weight: self.back(other.back(weight)),
        )

    @property
    def of_rows(self) -> Turn:
        """The same of the rows, where this one is of the columns."""
        return Turn(lambda weight: self.there(weight.T).T, lambda weight: self.back(weight.T).T)


UNCHANGED: Final = Turn(lambda weight: weight, lambda weight: weight)


def rounding_errors(
    source: ModelSource,
    bases: Projections,
    recipe: Recipe,
    moments: SecondMoments | None,
    layer: int,
    device: str = "cpu",
) -> dict[str, NDArray[np.float32]]:
    """Round the matrices of a layer by a recipe, and return what that changes in them.

    Args:
        source: The model; its weights are read.
        bases: Those of the recipe.
        recipe: The settings.
        moments: Second moments; None where the recipe needs none.
        layer: Number of the layer.
        device: Where PyTorch computes.

    Returns:
        By the names of the weights in the checkpoint, rounded minus float, (N, K).

    Raises:
        ResqError: The weights or the moments are not finite.
    """
    turns, found = _turns(source, bases, layer), defaultdict[str, list[Array]](list)
    for site in sites_of(source.layout, bases, layer):
        folded = [turns[role].there(_weight(source, layer, role)) for role in site.roles]
        ends = np.cumsum([len(one) for one in folded])[:-1]
        error = _error(site, np.concatenate(folded), recipe, moments, device)
        for role, own in zip(site.roles, np.split(error, ends), strict=True):
            found[_weight_name(source.layout, layer, role)].append(turns[role].back(own))
    return {name: np.concatenate(parts).astype(np.float32) for name, parts in found.items()}


def _error(
    site: Site, folded: Array, recipe: Recipe, moments: SecondMoments | None, device: str
) -> Array:
    """Rounded minus float, of a folded matrix."""
    rounded = site.quantise(folded.astype(np.float32), recipe, moments, device).dequantise()
    error = np.empty_like(folded)
    error[:, slice(None) if site.order is None else site.order] = rounded
    error -= folded
    return error


def _turns(source: ModelSource, bases: Projections, layer: int) -> dict[str, Turn]:
    """How the matrix of each role is folded, and back; but for the order of rows, which is free."""
    layout, stream = source.layout, bases.hidden
    reads_attention, reads_mlp = (_reading(source, bases, layer, norm) for norm in READERS)
    heads = Turn(
        lambda weight: bases.apply_value(layer, weight),
        lambda weight: undo_value(bases, layer, weight),
    )
    down = Turn(
        lambda weight: bases.apply_down(layer, weight),
        lambda weight: undo_down(bases, layer, weight),
    )
    writes = Turn(lambda weight: stream.T @ weight, lambda weight: stream @ weight)
    if layout.turns_inputs:
        writes = UNCHANGED
    signs = np.empty_like(bases.down[layer].signs)
    signs[bases.down[layer].order] = bases.down[layer].signs
    signed = Turn(lambda weight: weight * signs[:, None], lambda weight: weight * signs[:, None])
    return {
        "query": reads_attention,
        "key": reads_attention,
        "value": reads_attention.then(heads.of_rows),
        "attention_out": heads.then(writes),
        "gate": reads_mlp,
        "up": reads_mlp.then(signed),
        "down": down.then(writes),
    }


def _reading(source: ModelSource, bases: Projections, layer: int, norm: str) -> Turn:
    """What is folded into the columns of the readers of a norm: its gain, and U_A."""
    stream = bases.hidden
    turn = Turn(lambda weight: weight @ stream, lambda weight: weight @ stream.T)
    if source.layout.turns_inputs:
        return turn
    name = f"{source.layout.module(layer, norm)}.weight"
    gain = source.weights[name].float32().astype(np.float64)
    passes = np.abs(gain) > LEAST_GAIN * np.abs(gain).max()
    inverse = np.divide(1, gain, out=np.zeros_like(gain), where=passes)
    return Turn(lambda weight: weight * gain, lambda weight: weight * inverse).then(turn)


def _weight(source: ModelSource, layer: int, role: str) -> Array:
    """The rows of a role, in float64."""
    layout = source.layout
    roles = layout.family.fused.get(layout.family.stored_in(role), (role,))
    start = sum(layout.outputs_of(one) for one in roles[: roles.index(role)])
    stored = source.weights[_weight_name(layout, layer, role)]
    rows = slice(start, start + layout.outputs_of(role)) if len(roles) > 1 else slice(None)
    return stored.rows(rows).astype(np.float64)


def _weight_name(layout: ModelLayout, layer: int, role: str) -> str:
    """The weight in the checkpoint that has the rows of a role."""
    return f"{layout.stored_module(layer, role)}.weight"
