"""The sizes of one model together with the names of its family."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from resq_onnx.errors import ResqError
from resq_onnx.families.records import FAMILIES, Family

Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class ModelLayout:
    """What the passes need to know of a model: sizes, and where each module is.

    Attributes:
        num_heads: Query heads, H.
        num_kv_heads: Key/value heads, G; divides H.
        head_dim: Size of a head, d.
        norm_epsilon: Added to the mean square inside every RMSNorm.
        tied: Whether lm_head shares the embedding's weight.
    """

    family: Family
    num_layers: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    max_positions: int
    norm_epsilon: float
    tied: bool

    @property
    def heads_per_kv_head(self) -> int:
        """Query heads that read one key/value head, H / G."""
        return self.num_heads // self.num_kv_heads

    def module(self, layer: int, role: str) -> str:
        """Full name of a layer's module, e.g. `module(3, "query")`."""
        return f"{self.family.layer.format(layer)}.{getattr(self.family, role)}"


def layout_of(config: Mapping[str, Any], where: str) -> ModelLayout:
    """Read the sizes from the contents of a config.json.

    Args:
        config: The parsed config.json.
        where: The model's path, for the message of a refusal.

    Raises:
        ResqError: The architecture, activation or RoPE scaling is not supported, or a
            size is missing or inconsistent.
    """
    family = _family_of(config, where)

    def size(name: str, default: int | None = None) -> int:
        return _positive(int, config, name, where, default)

    heads, hidden = size("num_attention_heads"), size("hidden_size")
    layout = ModelLayout(
        family=family,
        num_layers=size("num_hidden_layers"),
        hidden_size=hidden,
        num_heads=heads,
        num_kv_heads=size("num_key_value_heads", heads),
        head_dim=size("head_dim", hidden // heads),
        intermediate_size=size("intermediate_size"),
        vocab_size=size("vocab_size"),
        max_positions=size("max_position_embeddings"),
        norm_epsilon=_positive(float, config, "rms_norm_eps", where),
        tied=bool(config.get("tie_word_embeddings", False)),
    )
    if layout.num_heads % layout.num_kv_heads:
        raise ResqError(
            f"{where}: {layout.num_heads} attention heads cannot share "
            f"{layout.num_kv_heads} key/value heads evenly"
        )
    _check_supported(config, family, where)
    return layout


def _positive(
    kind: type[Number],
    config: Mapping[str, Any],
    name: str,
    where: str,
    default: Number | None = None,
) -> Number:
    """A number of config.json above 0; null counts as left out where there is a default."""
    if name not in config and default is None:
        raise ResqError(f"{where}: config.json has no {name}")
    value = config.get(name)
    if value is None and default is not None:
        return default
    if isinstance(value, bool) or not isinstance(value, kind) or not value > 0:
        raise ResqError(f"{where}: config.json says {name} is {value!r}; it must be above 0")
    return value


def _family_of(config: Mapping[str, Any], where: str) -> Family:
    architectures = config.get("architectures") or ["(none named)"]
    for name in architectures:
        if name in FAMILIES:
            return FAMILIES[name]
    raise ResqError(
        f"{where}: architecture {', '.join(architectures)} is not supported; "
        f"supported: {', '.join(sorted(FAMILIES))}"
    )


def _check_supported(config: Mapping[str, Any], family: Family, where: str) -> None:
    activation = config.get("hidden_act", "silu")
    if activation not in family.activations:
        raise ResqError(
            f"{where}: hidden_act {activation!r} is not supported for {family.name}; "
            f"supported: {', '.join(family.activations)}"
        )
    # transformers 5 writes rope_parameters, earlier versions rope_scaling.
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in family.rope_types:
        raise ResqError(
            f"{where}: RoPE scaling {kind!r} is not supported for {family.name}; "
            f"supported: {', '.join(family.rope_types)}"
        )
    if config.get("use_sliding_window"):
        raise ResqError(f"{where}: sliding-window attention is not supported for {family.name}")
