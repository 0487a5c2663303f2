"""Back from the bases in which weights are quantised: the inverses of `Projections`' methods."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resq_onnx.projections.bases import Projections

Array = NDArray[Any]


def undo_value(bases: Projections, layer: int, x: Array) -> Array:
    """The inverse of `Projections.apply_value`, of (..., H*d)."""
    back = dataclasses.replace(bases, value=bases.value.swapaxes(-1, -2))
    return back.apply_value(layer, x)


def undo_down(bases: Projections, layer: int, x: Array) -> Array:
    """The inverse of `Projections.apply_down`, of (..., I): x @ U_Dᵀ, without forming U_D."""
    transform, split = bases.down[layer], bases.splits.down[layer]
    parts = [x]
    if bases.rotates_down:
        widths = ((split.low, bases.down_low), (split.high, bases.down_high))
        turns = [factors[width].transposed for width, factors in widths if width]
        columns = np.split(x, [split.low], axis=-1)
        pairs = zip((one for one in columns if one.shape[-1]), turns, strict=True)
        parts = [turn.apply(part) for part, turn in pairs]
    moved = np.concatenate(parts, axis=-1) * transform.signs.astype(x.dtype)
    return np.asarray(moved[..., np.argsort(transform.order)])
