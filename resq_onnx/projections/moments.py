"""Second moments of the activations, as summed in a calibration pass."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from resq_onnx.errors import ResqError
from resq_onnx.families import ModelLayout

SITES: Final = ("hidden_attention", "hidden_mlp", "value", "key", "attention_out", "down")
"""Names of the arrays of `Moments` and `LayerMoments`."""


@dataclass
class LayerMoments:
    """Sums of x xᵀ over tokens in one layer.

    Attributes:
        hidden_attention: (D, D), input of q/k/v after the norm's division; without the norm's gain,
            unless `ModelLayout.turns_inputs`.
        hidden_mlp: (D, D), input of gate/up, in the same way.
        value: (kv heads, d, d), output of v_proj.
        key: (kv heads, d, d), keys after RoPE.
        attention_out: (H*d, H*d), input of o_proj.
        down: (I, I), input of down_proj.
    """

    hidden_attention: NDArray[Any]
    hidden_mlp: NDArray[Any]
    value: NDArray[Any]
    key: NDArray[Any]
    attention_out: NDArray[Any]
    down: NDArray[Any]

    @classmethod
    def zeros(cls, layout: ModelLayout) -> LayerMoments:
        """Empty sums, in float64."""
        return cls(**{site: np.zeros(shape) for site, shape in layer_shapes(layout).items()})

    def compact(self) -> LayerMoments:
        """A float32 copy: its precision is sufficient for a mean over tokens.

        The sums of this object are given up one by one, so that the memory is never that of both.
        """
        arrays = {}
        for site in SITES:
            arrays[site] = getattr(self, site).astype(np.float32)
            setattr(self, site, arrays[site])
        return LayerMoments(**arrays)


class SecondMoments(Protocol):
    """The second moments of a calibration: in memory, or read from a file layer by layer."""

    @property
    def tokens(self) -> int:
        """Number of tokens in the sums."""

    def layer(self, layer: int) -> LayerMoments:
        """The sums of one layer.

        Raises:
            ResqError: They are not there, or not those of such a model.
        """


@dataclass
class Moments:
    """Sums of x xᵀ over tokens; those of batches, processes and machines can be added.

    They are float64 while they are summed. `compact` makes a float32 copy; consumers accept both.

    Attributes:
        hidden_attention: (layers, D, D), as in `LayerMoments`, like all that follow.
        hidden_mlp: (layers, D, D).
        value: (layers, kv heads, d, d).
        key: (layers, kv heads, d, d).
        attention_out: (layers, H*d, H*d).
        down: (layers, I, I).
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

    def layer(self, layer: int) -> LayerMoments:
        """The sums of one layer, not copied."""
        return LayerMoments(**{site: getattr(self, site)[layer] for site in SITES})

    def merge(self, other: Moments) -> None:
        """Add the sums of another batch or process to these."""
        for site in SITES:
            mine: NDArray[Any] = getattr(self, site)
            mine += getattr(other, site)
        self.tokens += other.tokens

    def compact(self) -> Moments:
        """A float32 copy: its precision is sufficient for a mean over tokens."""
        arrays = {site: getattr(self, site).astype(np.float32) for site in SITES}
        return Moments(**arrays, tokens=self.tokens)


def layer_shapes(layout: ModelLayout) -> dict[str, tuple[int, ...]]:
    """The shape of each array of `LayerMoments` for a model of this layout."""
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


def checked_layers(layout: ModelLayout, moments: SecondMoments) -> Iterator[LayerMoments]:
    """The sums of each layer, one after another.

    Raises:
        ResqError: A sum has another model's shape, or is not finite; names the first site and
            layer.
    """
    for layer in range(layout.num_layers):
        found = moments.layer(layer)
        check_layer(layout, found, layer)
        yield found


def check_layer(layout: ModelLayout, moments: LayerMoments, layer: int) -> None:
    """Refuse the sums of another model's layer, and those that hold inf or NaN.

    Raises:
        ResqError: Names the site and the layer.
    """
    for site, expected in layer_shapes(layout).items():
        check_shape(site, getattr(moments, site).shape, expected)
    check_finite(moments, layer)


def check_finite(moments: LayerMoments, layer: int) -> None:
    """Refuse moments of a layer that contain inf or NaN.

    Raises:
        ResqError: A moment is not finite; the message names the site and the layer.
    """
    for site in SITES:
        if not np.isfinite(getattr(moments, site)).all():
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
