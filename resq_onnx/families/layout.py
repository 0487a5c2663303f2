"""ModelLayout: the sizes of one model, read from config.json, and its family's module names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar

from resq_onnx.errors import ResqError, blaming
from resq_onnx.families.attention import LayerAttention, attention_of_layers
from resq_onnx.families.lookup import family_of, text_config
from resq_onnx.families.records import Family
from resq_onnx.families.rope import (
    check_longrope,
    check_rope,
    longrope_factors,
    rope_factor,
    rotary_dim,
)

MOST_LAYERS: Final = 10_000
"""Largest number of layers, because each has a record; the deepest models have a hundredth."""

TOKENS: Final = ("bos_token_id", "eos_token_id", "pad_token_id")
"""Entries that hold token ids."""

Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class ModelLayout:
    """Sizes and module names of a model, as the passes need them.

    Attributes:
        num_heads: Query heads, H.
        num_kv_heads: Key/value heads, G; divides H.
        head_dim: Size of a head, d.
        norm_epsilon: Added to the mean square inside every RMSNorm.
        tied: Whether lm_head shares the embedding's weight.
        attention: Attention settings by layer; layers past the end have the defaults.
        rotary_dim: Number of leading coefficients of a head that RoPE rotates; None for all.
        query_scalar: Its square root divides the attention's scores; None for the head size.
        softcap: A score s becomes softcap · tanh(s / softcap); None for no cap.
        activation: Activation of the MLP's gate, by its name in GatedHadamard.
        rope_factor: Factor of RoPE's cosines and sines, by which YaRN and LongRoPE scale attention.
        longrope: Which of LongRoPE's factors apply to a model of `max_positions`; None for others.
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
    attention: tuple[LayerAttention, ...] = ()
    rotary_dim: int | None = None
    query_scalar: float | None = None
    softcap: float | None = None
    activation: str = "silu"
    rope_factor: float = 1.0
    longrope: Literal["short", "long"] | None = None

    @property
    def heads_per_kv_head(self) -> int:
        """Query heads that read one key/value head, H / G."""
        return self.num_heads // self.num_kv_heads

    def module(self, layer: int, role: str) -> str:
        """Full name of a layer's module, e.g. `module(3, "query")`."""
        return f"{self.family.layer.format(layer)}.{getattr(self.family, role)}"

    def stored_module(self, layer: int, role: str) -> str:
        """Full name of the checkpoint's module that computes a role, perhaps with others."""
        return f"{self.family.layer.format(layer)}.{self.family.stored_in(role)}"

    def outputs_of(self, role: str) -> int:
        """Width of what a layer's query, key, value, gate or up computes: rows of its weight."""
        heads = {"query": self.num_heads, "key": self.num_kv_heads, "value": self.num_kv_heads}
        return heads[role] * self.head_dim if role in heads else self.intermediate_size

    def attention_of(self, layer: int) -> LayerAttention:
        """Attention settings of a layer."""
        return self.attention[layer] if layer < len(self.attention) else LayerAttention()

    @property
    def scale(self) -> float:
        """The factor for the product of a query and a key."""
        return float((self.query_scalar or self.head_dim) ** -0.5)

    @property
    def post_norms(self) -> tuple[str, ...]:
        """Roles of the norms between a layer's linear layers and the residual stream."""
        roles = ("attention_post_norm", "mlp_post_norm")
        return tuple(role for role in roles if getattr(self.family, role) is not None)

    @property
    def turns_inputs(self) -> bool:
        """Whether the basis U_A applies after the gains of the norms that layers read.

        Otherwise it is that of the residual stream, and the gains are fused into the layers. This
        is not possible if there are also norms between the layers and the stream: some channels of
        the stream are then hundreds of times as large as others, and the gains compensate for that.
        Rounding before the gains would multiply the rounding errors by them.
        """
        return bool(self.post_norms)

    @property
    def norms_heads(self) -> bool:
        """Whether each head of the queries and keys is RMS-normalised before RoPE."""
        return self.family.query_norm is not None


def layout_of(config: Mapping[str, Any], where: str) -> ModelLayout:
    """Read the sizes from the contents of a config.json.

    Args:
        config: The parsed config.json.
        where: The model's path, for error messages.

    Raises:
        ResqError: The architecture, activation or RoPE scaling is not supported, or an entry is
            missing, inconsistent or of the wrong type.
    """
    with blaming(f"{where}: config.json", "is not understood", "download it again"):
        return _layout_of(config, where)


def _layout_of(config: Mapping[str, Any], where: str) -> ModelLayout:
    family = family_of(config, where)
    config = text_config(config, family)
    _check_supported(config, family, where)

    def size(name: str, default: int | None = None) -> int:
        return _positive(int, config, name, where, default)

    heads, hidden = size("num_attention_heads"), size("hidden_size")
    layers, max_positions = size("num_hidden_layers"), size("max_position_embeddings")
    if layers > MOST_LAYERS:
        raise ResqError(
            f"{where}: config.json says num_hidden_layers is {layers}; no model has more than "
            f"{MOST_LAYERS}: download it again"
        )
    head_dim = size("head_dim", hidden // heads)
    layout = ModelLayout(
        family=family,
        num_layers=layers,
        hidden_size=hidden,
        num_heads=heads,
        num_kv_heads=size("num_key_value_heads", heads),
        head_dim=head_dim,
        intermediate_size=size("intermediate_size"),
        vocab_size=size("vocab_size"),
        max_positions=max_positions,
        norm_epsilon=_positive(float, config, "rms_norm_eps", where),
        tied=bool(config.get("tie_word_embeddings", False)),
        attention=attention_of_layers(config, family, layers, max_positions, where),
        rotary_dim=rotary_dim(config, family, head_dim, where),
        query_scalar=_optional(config, family.query_scalar_key, where),
        softcap=_optional(config, family.softcap_key, where),
        activation=_activation(config, family, where),
        rope_factor=rope_factor(config, where),
        longrope=longrope_factors(config, max_positions, where),
    )
    check_longrope(config, layout.rotary_dim or head_dim, where)
    if layout.num_heads % layout.num_kv_heads:
        raise ResqError(
            f"{where}: {layout.num_heads} attention heads cannot share "
            f"{layout.num_kv_heads} key/value heads evenly"
        )
    _check_tokens(config, layout.vocab_size, where)
    return layout


def _positive(
    kind: type[Number],
    config: Mapping[str, Any],
    name: str,
    where: str,
    default: Number | None = None,
) -> Number:
    """A number of config.json above 0; null counts as omitted if there is a default."""
    if name not in config and default is None:
        raise ResqError(f"{where}: config.json has no {name}")
    value = config.get(name)
    if value is None and default is not None:
        return default
    if isinstance(value, bool) or not isinstance(value, kind) or not 0 < value < float("inf"):
        raise ResqError(f"{where}: config.json says {name} is {value!r}; it must be above 0")
    return value


def _optional(config: Mapping[str, Any], name: str | None, where: str) -> float | None:
    """A number above 0 that may be null, or have no entry."""
    value = config.get(name) if name else None
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise ResqError(f"{where}: config.json says {name} is {value!r}; it must be above 0")
    return float(value)


def _activation(config: Mapping[str, Any], family: Family, where: str) -> str:
    name = family.activation_key
    activation = config.get(name, "silu")
    if not isinstance(activation, str) or activation not in family.activations:
        raise ResqError(
            f"{where}: {name} {activation!r} is not supported for {family.name}; "
            f"supported: {', '.join(family.activations)}"
        )
    return family.activations[activation]


def _check_supported(config: Mapping[str, Any], family: Family, where: str) -> None:
    for name in family.must_be_off:
        if config.get(name):
            raise ResqError(
                f"{where}: config.json says {name} is {config[name]!r}, which is not supported "
                f"for {family.name}; only models in which it is off, or left out, can be exported"
            )
    check_rope(config, family, where)


def _check_tokens(config: Mapping[str, Any], vocabulary: int, where: str) -> None:
    for name in TOKENS:
        value = config.get(name)
        listed = value if isinstance(value, list) else [] if value is None else [value]
        if not all(isinstance(token, int) and not isinstance(token, bool) for token in listed):
            raise ResqError(
                f"{where}: config.json says {name} is {value!r}; it must be a token's number"
                f"{', a list of them' if name == 'eos_token_id' else ''}, or null"
            )
    padding = config.get("pad_token_id")
    # -1 counts from the end, as the first Llama's has it.
    if isinstance(padding, int) and not -vocabulary <= padding < vocabulary:
        raise ResqError(
            f"{where}: config.json says pad_token_id is {padding}, and the vocabulary has "
            f"{vocabulary} tokens: it must be below that, or null"
        )
