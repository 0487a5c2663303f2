"""Attention settings of each layer, read from config.json: window and RoPE frequencies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from resq_onnx.errors import ResqError
from resq_onnx.families.records import Family

LAYER_TYPES: Final = {"full_attention": False, "sliding_attention": True}
"""Entries of `layer_types`: whether the layer has a window."""


@dataclass(frozen=True)
class LayerAttention:
    """The attention of one layer.

    Attributes:
        window: Slots a query sees, counting its own; -1 for all.
        frequencies: The buffer of the family's rotary module that holds RoPE's frequencies; None if
            queries and keys are not rotated.
    """

    window: int = -1
    frequencies: str | None = "inv_freq"


def attention_of_layers(
    config: Mapping[str, Any], family: Family, layers: int, max_positions: int, where: str
) -> tuple[LayerAttention, ...]:
    """Read the attention of every layer.

    Args:
        config: The parsed config.json, with the family's defaults filled in.
        family: Its family.
        layers: Number of layers.
        max_positions: The model's positions; a window of this size hides nothing.
        where: The model's path, for error messages.

    Raises:
        ResqError: An entry is invalid or not supported.
    """
    window = _window(config, family, where)
    windowed = _windowed_layers(config, family, layers, where) if window else [False] * layers
    if window is None or window >= max_positions:
        window = -1  # it would hide nothing
    _check_list(config, "no_rope_layers", layers, where)

    def of(layer: int, has_window: bool) -> LayerAttention:
        turns = family.unturned is None or not family.unturned(config, layer)
        frequencies = family.frequencies[has_window] if turns else None
        return LayerAttention(window if has_window else -1, frequencies)

    return tuple(of(layer, has_window) for layer, has_window in enumerate(windowed))


def _window(config: Mapping[str, Any], family: Family, where: str) -> int | None:
    """The size of the windows, or None if config.json asks for none."""
    window = config.get("sliding_window")
    is_off = family.window_switch is not None and not config.get(family.window_switch)
    if family.windowed is None or window is None or is_off:
        return None
    if isinstance(window, bool) or not isinstance(window, int) or window < 1:
        raise ResqError(
            f"{where}: config.json says sliding_window is {window!r}; it must be a number of "
            f"tokens above 0, or null"
        )
    return window


def _windowed_layers(
    config: Mapping[str, Any], family: Family, layers: int, where: str
) -> list[bool]:
    assert family.windowed is not None
    kinds = config.get("layer_types")
    if kinds is None or not family.lists_layers:
        return [family.windowed(config, layer) for layer in range(layers)]
    _check_list(config, "layer_types", layers, where)
    unknown = [kind for kind in kinds if kind not in LAYER_TYPES]
    if unknown:
        raise ResqError(
            f"{where}: config.json says layer_types has {unknown[0]!r}, which is not supported; "
            f"supported: {', '.join(LAYER_TYPES)}"
        )
    return [LAYER_TYPES[kind] for kind in kinds[:layers]]


def _check_list(config: Mapping[str, Any], name: str, layers: int, where: str) -> None:
    entries = config.get(name)
    if entries is not None and (not isinstance(entries, list) or len(entries) < layers):
        raise ResqError(
            f"{where}: config.json says {name} is {entries!r}; it must list one entry for each of "
            f"the {layers} layers"
        )
