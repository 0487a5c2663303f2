"""What rounding changes in the matrices of a layer, in the basis of the checkpoint.

A matrix W (N, K) is rounded as R W G C: C turns what the matrix reads, G is the gain of the norm
before it, and R turns what it writes. Its error E is turned back, R⁻¹ E C⁻¹ G⁻¹, so that W and that
compute in the original model what the rounded matrix will.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
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
Turn = Callable[[Array], Array]

LEAST_GAIN: Final = 1e-6
"""Of a norm's largest gain: what is smaller lets nothing through, and divides no error."""

ROLES: Final = (
    READERS["attention_norm"],
    ("attention_out",),
    READERS["mlp_norm"],
    ("down",),
)
"""Whose rows the matrices of `sites_of` have, one after another."""


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
    found: dict[str, NDArray[np.float32]] = {}
    for roles, site in zip(ROLES, sites_of(source.layout, bases, layer), strict=True):
        stored = _stored(source.layout, layer, roles)
        matrices = [source.weights[name].float32() for name in stored]
        there, back = _columns(source, bases, layer, roles)
        rows_there, rows_back = _rows(source.layout, bases, layer, roles)
        folded = rows_there(there(np.concatenate(matrices).astype(np.float64)))
        error = rows_back(back(_error(site, folded, recipe, moments, device)))
        ends = np.cumsum([len(one) for one in matrices])[:-1]
        parts = np.split(error.astype(np.float32), ends)
        found.update(zip(stored, parts, strict=True))
    return found


def _error(
    site: Site, folded: Array, recipe: Recipe, moments: SecondMoments | None, device: str
) -> Array:
    """Rounded minus float, of a folded matrix."""
    rounded = site.quantise(folded.astype(np.float32), recipe, moments, device).dequantise()
    error = np.empty_like(folded)
    error[:, slice(None) if site.order is None else site.order] = rounded
    return error - folded


def _stored(layout: ModelLayout, layer: int, roles: tuple[str, ...]) -> list[str]:
    """The names of the weights in the checkpoint that hold these roles' rows, in order."""
    prefix = layout.family.layer.format(layer)
    modules = dict.fromkeys(layout.family.stored_in(role) for role in roles)
    return [f"{prefix}.{module}.weight" for module in modules]


def _columns(
    source: ModelSource, bases: Projections, layer: int, roles: tuple[str, ...]
) -> tuple[Turn, Turn]:
    """The norm's gain and the turn of what is read, and back; of matrices (N, K)."""
    if roles == ("attention_out",):
        return (
            lambda weight: bases.apply_value(layer, weight),
            lambda weight: undo_value(bases, layer, weight),
        )
    if roles == ("down",):
        return (
            lambda weight: bases.apply_down(layer, weight),
            lambda weight: undo_down(bases, layer, weight),
        )
    gain, inverse = _gain(source, layer, roles)
    return (
        lambda weight: weight * gain @ bases.hidden,
        lambda weight: weight @ bases.hidden.T * inverse,
    )


def _gain(source: ModelSource, layer: int, roles: tuple[str, ...]) -> tuple[Array, Array]:
    """The gain that is fused into a norm's readers, and what undoes it; (D,)."""
    layout = source.layout
    if layout.turns_inputs:
        one = np.ones(layout.hidden_size)
        return one, one
    (norm,) = (norm for norm, readers in READERS.items() if readers == roles)
    gain = source.weights[f"{layout.module(layer, norm)}.weight"].float32().astype(np.float64)
    gain += layout.family.offset_gains
    passes = np.abs(gain) > LEAST_GAIN * np.abs(gain).max()
    return gain, np.divide(1, gain, out=np.zeros_like(gain), where=passes)


def _rows(
    layout: ModelLayout, bases: Projections, layer: int, roles: tuple[str, ...]
) -> tuple[Turn, Turn]:
    """The turn of what is written, and back; of matrices (N, K)."""
    stream = bases.hidden
    if roles == ("attention_out",) or roles == ("down",):
        if layout.turns_inputs:
            return _unchanged, _unchanged
        return (lambda weight: stream.T @ weight), (lambda weight: stream @ weight)
    turns: dict[str, tuple[Turn, Turn]] = {
        "value": (
            lambda weight: bases.apply_value(layer, weight.T).T,
            lambda weight: undo_value(bases, layer, weight.T).T,
        ),
        "up": (_signs(bases, layer), _signs(bases, layer)),
    }
    of_roles = [turns.get(role, (_unchanged, _unchanged)) for role in roles]
    ends = np.cumsum([0, *(layout.outputs_of(role) for role in roles)])

    def turned(way: int) -> Turn:
        def apply(weight: Array) -> Array:
            parts = [weight[start:end] for start, end in pairwise(ends)]
            turned = [of_role[way](part) for of_role, part in zip(of_roles, parts, strict=True)]
            return np.concatenate(turned)

        return apply

    return turned(0), turned(1)


def _signs(bases: Projections, layer: int) -> Turn:
    """The signs of U_D, which up_proj's rows have; its order leaves a row's rounding as it is."""
    transform = bases.down[layer]
    signs = np.empty_like(transform.signs)
    signs[transform.order] = transform.signs
    return lambda weight: weight * signs[:, None]


def _unchanged(weight: Array) -> Array:
    return weight
