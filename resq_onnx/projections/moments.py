"""Second moments of the activations, as summed in a calibration pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from resq_onnx.errors import ResqError
from resq_onnx.families import ModelLayout

SITES: Final = ("hidden_attention", "hidden_mlp", "value", "key", "attention_out", "down")
"""Names of the arrays of `Moments`."""


class SecondMoments(Protocol):
    """The second moments of a calibration: in memory, or read from a file, one array at a time."""

    @property
    def tokens(self) -> int:
        """Number of tokens in the sums."""

    def site(self, layer: int, site: str) -> NDArray[Any]:
        """The sum of one layer at one of `SITES`, in float32 or float64; not to be changed.

        Raises:
            ResqError: It is not there.
        """


@dataclass
class Moments:
    """Sums of x xᵀ over tokens, of all layers at once, in float64 or float32.

    Attributes:
        hidden_attention: (layers, D, D), input of q/k/v after the norm's division; without the
            norm's gain, unless `ModelLayout.turns_inputs`.
        hidden_mlp: (layers, D, D), input of gate/up, in the same way.
        value: (layers, kv heads, d, d), output of v_proj.
        key: (layers, kv heads, d, d), keys after RoPE.
        attention_out: (layers, H*d, H*d), input of o_proj.
        down: (layers, I, I), input of down_proj.
        tokens: Number of tokens in the sums.
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
        """Empty sums for a model of this layout."""
        shapes = moment_shapes(layout)
        return cls(**{site: np.zeros(shapes[site]) for site in SITES}, tokens=0)

    def site(self, layer: int, site: str) -> NDArray[Any]:
        """The sum of one layer at one of `SITES`, not copied."""
        return np.asarray(getattr(self, site)[layer])


def layer_shapes(layout: ModelLayout) -> dict[str, tuple[int, ...]]:
    """The shape of one layer's sum at each site, for a model of this layout."""
    return {site: shape[1:] for site, shape in moment_shapes(layout).items()}


def moment_shapes(layout: ModelLayout) -> dict[str, tuple[int, ...]]:
    """The shape of each array of `Moments` for a model of this layout."""
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


def checked_site(
    layout: ModelLayout, moments: SecondMoments, layer: int, site: str
) -> NDArray[Any]:
    """The sum of one layer at one site.

    Raises:
        ResqError: It is not there, or as for `check_site`.
    """
    moment = moments.site(layer, site)
    check_site(layout, moment, layer, site)
    return moment


def check_site(layout: ModelLayout, moment: NDArray[Any], layer: int, site: str) -> None:
    """Refuse the sum of another model's layer, and one that holds inf or NaN.

    Raises:
        ResqError: Names the site and the layer.
    """
    check_shape(site, moment.shape, layer_shapes(layout)[site])
    if not np.isfinite(moment).all():
        raise ResqError(
            f"layer {layer}: the second moments at {site} are not finite; the model "
            "computed inf or NaN on the calibration text: check its weights"
        )


def check_shape(site: str, found: tuple[int, ...], expected: tuple[int, ...]) -> None:
    """Refuse a sum from the calibration of another model.

    Raises:
        ResqError: The shape at the site is not the expected one.
    """
    if found != expected:
        raise ResqError(
            f"the second moments at {site} have shape {found}, but the model needs "
            f"{expected}: they belong to another model; calibrate this one"
        )
