"""What the bases are made of: sums of the second moments, megabytes for a model of any depth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resq_onnx.families import ModelLayout
from resq_onnx.projections.moments import SITES, SecondMoments, checked_site

Matrix = NDArray[np.float64]


@dataclass
class BasisSums:
    """Sums over layers, and the small second moments of each layer, in float64.

    Attributes:
        hidden: (D, D), the HIDDEN moments of all layers together. For families of which
            `ModelLayout.turns_inputs` says so, each is divided by its mean square, so that all
            layers have equal weight: that square is 1 behind a norm's division, and behind its
            gains another number in each layer.
        value: (layers, kv heads, d, d).
        key: (layers, kv heads, d, d).
        down: (layers, I), the diagonals of the DOWN moments.
        tokens: Number of tokens in the sums.
    """

    hidden: Matrix
    value: Matrix
    key: Matrix
    down: Matrix
    tokens: int

    @classmethod
    def zeros(cls, layout: ModelLayout, tokens: int) -> BasisSums:
        """Empty sums, to which `add` adds each layer."""
        heads = (layout.num_layers, layout.num_kv_heads, layout.head_dim, layout.head_dim)
        return cls(
            hidden=np.zeros((layout.hidden_size, layout.hidden_size)),
            value=np.zeros(heads),
            key=np.zeros(heads),
            down=np.zeros((layout.num_layers, layout.intermediate_size)),
            tokens=tokens,
        )

    def add(self, layout: ModelLayout, layer: int, site: str, moment: NDArray[Any]) -> None:
        """Add one layer's second moment at one of `SITES`; at `down`, its diagonal."""
        if site in ("value", "key", "down"):
            getattr(self, site)[layer] = moment
        elif site in ("hidden_attention", "hidden_mlp"):
            self._add_hidden(layout, moment)

    def _add_hidden(self, layout: ModelLayout, moment: NDArray[Any]) -> None:
        if not layout.turns_inputs:
            self.hidden += moment
            return
        trace = float(np.trace(moment, dtype=np.float64))
        mean_square = trace / (len(moment) * max(self.tokens, 1))
        if mean_square > 0:
            self.hidden += moment.astype(np.float64) / mean_square


def sums_of(layout: ModelLayout, moments: SecondMoments) -> BasisSums:
    """The sums of all layers.

    Raises:
        ResqError: As for `checked_site`.
    """
    sums = BasisSums.zeros(layout, moments.tokens)
    for layer in range(layout.num_layers):
        for site in SITES:
            moment = checked_site(layout, moments, layer, site)
            sums.add(layout, layer, site, np.diagonal(moment) if site == "down" else moment)
    return sums
