"""Energy spectra of a calibration by site, thinned for the plots of a page.

A component is a direction of a principal component analysis, or a channel if the method or the
site selects channels. Its energy is its second moment. Those with the most energy form the high
part.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from resq_onnx.families import ModelLayout
from resq_onnx.projections.bases import Projections, check_finite, hidden_moment
from resq_onnx.projections.moments import Moments
from resq_onnx.recipe import BitSplit

Curves = NDArray[np.float64]  # (curves, width), each descending

POINTS: Final = 96
"""Largest number of points kept of a curve: as many as a plot of 500 pixels can show."""

DIGITS: Final = 5


def describe_spectra(
    layout: ModelLayout, moments: Moments, projections: Projections, picks_channels: bool
) -> dict[str, dict[str, Any]]:
    """The entry `spectra` of resq.json.

    Args:
        layout: Whether U_A gives all layers equal weight (`hidden_moment`).
        moments: Second moments of the calibration.
        projections: Bases from these moments; their splits are included.
        picks_channels: Whether the method orders channels instead of directions at every site;
            before down_proj all methods do.

    Returns:
        A record for each site: `hidden` (one curve for the model), `value` and `key` (one for
        each layer and kv head) and `down` (one for each layer). Its entries are
        `components` ("directions" or "channels"), `curves` (their number), `width`,
        `high` (components of the high part; if it differs between layers, their median, with
        `high_least` and `high_most`), `low_bits`, `high_bits`,
        `ranks` (a selection; 1 has the most energy), `median` and, for several curves, `minimum`
        and `maximum` (energy at those ranks as a multiple of the curve's mean), and
        `high_share` (share of the energy in the high part: minimum, median and maximum over the
        curves; null without a high part).

    Raises:
        ResqError: The moments are not finite.
    """
    check_finite(moments)
    energies = _channels if picks_channels else _directions
    hidden, splits = hidden_moment(moments, evenly=layout.turns_inputs), projections.splits
    record = splits.record  # of the cache, the same in all layers
    keys = record if projections.rotates_keys else BitSplit(record.width, 0, record.low_bits)
    sites: dict[str, tuple[NDArray[Any], Sequence[BitSplit]]] = {
        "hidden": (energies(hidden), (*splits.attention, *splits.mlp)),
        "value": (energies(moments.value), (record,)),
        "key": (energies(moments.key), (keys,)),
        "down": (_channels(moments.down), splits.down),
    }
    by_channel = {site: picks_channels or site == "down" for site in sites}
    return {
        site: {"components": "channels" if by_channel[site] else "directions"}
        | _describe(_relative(values), parts)
        for site, (values, parts) in sites.items()
    }


def thinned_ranks(width: int, high: int) -> NDArray[np.int64]:
    """Ranks that are kept, from 1 to `width`: dense at the start, where curves are steep.

    The two ranks next to the split are always among them.
    """
    if width <= POINTS:
        return np.arange(1, width + 1)
    half = POINTS // 2 - 2
    picked = np.concatenate([np.geomspace(1, width, half), np.linspace(1, width, half)])
    split = [max(high, 1), high + 1]
    return np.unique(np.append(picked, split).round().astype(np.int64))


def _directions(moments: NDArray[Any]) -> NDArray[np.float64]:
    # The triangle of a symmetric matrix that a projections file stores.
    return np.linalg.eigvalsh(np.asarray(moments, np.float64), UPLO="U")


def _channels(moments: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray(np.diagonal(moments, axis1=-2, axis2=-1), np.float64)


def _relative(energies: NDArray[np.float64]) -> Curves:
    """Curves in descending order with mean 1; values that rounding left below 0 become 0."""
    curves = np.sort(energies.reshape(-1, energies.shape[-1]), axis=1)[:, ::-1].clip(min=0.0)
    means = curves.mean(axis=1, keepdims=True)
    return np.asarray(curves / np.where(means > 0, means, 1.0))


def _describe(curves: Curves, splits: Sequence[BitSplit]) -> dict[str, Any]:
    """Describe curves with one split each, or with a split that all share."""
    highs = [split.high for split in splits]
    high = int(np.median(highs))
    ranks = thinned_ranks(splits[0].width, high)
    kept = curves[:, ranks - 1]
    levels = {"median": np.median(kept, axis=0)}
    if len(curves) > 1:
        levels |= {"minimum": kept.min(axis=0), "maximum": kept.max(axis=0)}
    return {
        "curves": len(curves),
        "width": splits[0].width,
        "high": high,
        **({"high_least": min(highs), "high_most": max(highs)} if len(set(highs)) > 1 else {}),
        "low_bits": splits[0].low_bits,
        "high_bits": splits[0].high_bits,
        "ranks": ranks.tolist(),
        **{name: [_rounded(value) for value in level] for name, level in levels.items()},
        "high_share": _high_share(curves, highs),
    }


def _high_share(curves: Curves, highs: Sequence[int]) -> dict[str, float] | None:
    if not any(highs):
        return None
    held = np.pad(curves.cumsum(axis=1), ((0, 0), (1, 0))) / curves.shape[1]  # the mean is 1
    every = np.arange(len(curves)) if len(curves) > 1 else 0
    shares = held[every, highs if len(highs) > 1 else highs[0]]
    return {
        "minimum": _rounded(shares.min()),
        "median": _rounded(np.median(shares)),
        "maximum": _rounded(shares.max()),
    }


def _rounded(value: float | np.floating[Any]) -> float:
    return float(f"{float(value):.{DIGITS}g}")
