"""What one calibration pass measures: second moments of the activations at five sites."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from resq_onnx.families import ModelLayout

SITES: Final = ("hidden_attention", "hidden_mlp", "value", "key", "attention_out", "down")
"""Names of the arrays of `Moments`."""


@dataclass
class Moments:
    """Sums over tokens of x xᵀ; sums of batches, processes and machines add up.

    float64 while they are summed; `compact` gives a float32 copy, and every consumer takes
    either.

    Attributes:
        hidden_attention: (layers, D, D), input of q/k/v after the norm's division; without its
            gain, unless `ModelLayout.turns_inputs`.
        hidden_mlp: (layers, D, D), input of gate/up, likewise.
        value: (layers, kv heads, d, d), output of v_proj.
        key: (layers, kv heads, d, d), keys after RoPE.
        attention_out: (layers, H*d, H*d), input of o_proj.
        down: (layers, I, I), input of down_proj.
        tokens: How many tokens were summed.
    """

    hidden_attention: NDArray[Any]
    hidden_mlp: NDArray[Any]
    value: NDArray[Any]
    key: NDArray[Any]
    attention_out: NDArray[Any]
    down: NDArray[Any]
    tokens: int = 0

    @classmethod
    def zeros(cls, layout: ModelLayout) -> Moments:
        """Nothing measured yet, for a model of this layout."""
        shapes = moment_shapes(layout)
        return cls(**{site: np.zeros(shapes[site]) for site in SITES}, tokens=0)

    def merge(self, other: Moments) -> None:
        """Add another process's or batch's sums to these."""
        for site in SITES:
            mine: NDArray[Any] = getattr(self, site)
            mine += getattr(other, site)
        self.tokens += other.tokens

    def compact(self) -> Moments:
        """A float32 copy: the mean over tokens matters, not its last digits."""
        arrays = {site: getattr(self, site).astype(np.float32) for site in SITES}
        return Moments(**arrays, tokens=self.tokens)


def moment_shapes(layout: ModelLayout) -> dict[str, tuple[int, ...]]:
    """The shape each array of `Moments` has for a model of this layout."""
    layers, hidden, head = layout.num_layers, layout.hidden_size, layout.head_dim
    heads = layout.num_heads * head
    return {
        "hidden_attention": (layers, hidden, hidden),
        "hidden_mlp": (layers, hidden, hidden),
        "value": (layers, layout.num_kv_heads, head, head),
        "key": (layers, layout.num_kv_heads, head, head),
        "attention_out": (layers, heads, heads),
        "down": (layers, layout.intermediate_size, layout.intermediate_size),
    }
