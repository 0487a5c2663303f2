"""Records of the supported model families. To add one, add a record and a tiny test model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

LayerRule = Callable[[Mapping[str, Any], int], bool]
"""A predicate of a layer, given config.json."""


def every_layer(config: Mapping[str, Any], layer: int) -> bool:
    """All layers."""
    del config, layer
    return True


def last_layers(config: Mapping[str, Any], layer: int) -> bool:
    """The layers from `max_window_layers` on."""
    return bool(layer >= config["max_window_layers"])


def all_but_every_nth(config: Mapping[str, Any], layer: int) -> bool:
    """All but every `sliding_window_pattern`-th layer."""
    return bool((layer + 1) % config["sliding_window_pattern"] != 0)


def layers_without_rope(config: Mapping[str, Any], layer: int) -> bool:
    """The layers that `no_rope_layers` marks with 0, or every `no_rope_layer_interval`-th."""
    marks = config.get("no_rope_layers")
    if marks is None:
        return bool((layer + 1) % config["no_rope_layer_interval"] == 0)
    return not marks[layer]


SILU: Final = {"silu": "silu", "swish": "silu"}


@dataclass(frozen=True)
class Family:
    """Names of the modules of one family, as `named_modules()` of its causal LM gives them.

    Names under a layer are relative to `layer` with its number filled in.

    Attributes:
        name: The name shown to users.
        architecture: The class name in `architectures` of config.json.
        query_norm: RMSNorm of each head of the queries before RoPE; None if there is none.
        key_norm: The same for keys.
        attention_post_norm: RMSNorm between o_proj and the residual addition, if there is one.
        mlp_post_norm: The same after down_proj.
        offset_gains: Whether a checkpoint holds g - 1 instead of the gain g of a norm.
        activation_key: The entry that names the activation of the MLP's gate.
        activations: Supported values of that entry, and their names in GatedHadamard.
        softcap_key: The entry that names the cap of attention scores, if there may be one.
        query_scalar_key: The entry whose square root divides the scores, if not the head size.
        must_be_off: Entries that must be false, null or omitted.
        traced_attention: The implementation that transformers can trace with.
        auto_class: The class of transformers that opens a model of the family.
        text_section: The section of config.json for the language model, if it is part of a larger
            model; older files have its entries at the top level.
        stored_prefixes: Prefixes of the modules' names, and those that a checkpoint may have
            instead.
        other_parts: Prefixes of names in a checkpoint that do not belong to the language model.
        rope_types: Values of `rope_type` whose tables this project has checked.
        defaults: Defaults of transformers for entries that config.json omits.
        windowed: Layers with a sliding window, if config.json sets one and does not list them as
            `layer_types`; None if the family has no windows.
        lists_layers: Whether `layer_types`, if given, says which layers have a window.
        frequencies: Buffers of the rotary module with RoPE's frequencies, for layers without and
            with a window.
        window_switch: The entry that must be true to enable windows, if there is one.
        unturned: Layers whose queries and keys RoPE does not rotate; None if there are none.
        partly_rotary: Whether RoPE may rotate only a share of each head, `partial_rotary_factor`.
        fused: Linear layers that stack the rows of several roles; the names of these roles are then
            not in the checkpoint.
    """

    name: str
    architecture: str
    embedding: str = "model.embed_tokens"
    layer: str = "model.layers.{}"
    attention: str = "self_attn"
    query: str = "self_attn.q_proj"
    key: str = "self_attn.k_proj"
    value: str = "self_attn.v_proj"
    query_norm: str | None = None
    key_norm: str | None = None
    attention_out: str = "self_attn.o_proj"
    gate: str = "mlp.gate_proj"
    up: str = "mlp.up_proj"
    down: str = "mlp.down_proj"
    attention_norm: str = "input_layernorm"
    attention_post_norm: str | None = None
    mlp_norm: str = "post_attention_layernorm"
    mlp_post_norm: str | None = None
    final_norm: str = "model.norm"
    head: str = "lm_head"
    rotary: str = "model.rotary_emb"
    offset_gains: bool = False
    activation_key: str = "hidden_act"
    activations: Mapping[str, str] = field(default_factory=lambda: SILU)
    softcap_key: str | None = None
    query_scalar_key: str | None = None
    must_be_off: tuple[str, ...] = ()
    traced_attention: str = "sdpa"
    auto_class: str = "AutoModelForCausalLM"
    text_section: str | None = None
    stored_prefixes: Mapping[str, str] = field(default_factory=dict)
    other_parts: tuple[str, ...] = ()
    rope_types: tuple[str, ...] = ("default", "linear", "llama3", "yarn")
    defaults: Mapping[str, Any] = field(default_factory=dict)
    windowed: LayerRule | None = None
    lists_layers: bool = False
    frequencies: tuple[str, str] = ("inv_freq", "inv_freq")
    window_switch: str | None = None
    unturned: LayerRule | None = None
    partly_rotary: bool = False
    fused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def stored_in(self, role: str) -> str:
        """The module of a layer that computes a role in the checkpoint: its own, or a fused one."""
        fused = (name for name, roles in self.fused.items() if role in roles)
        return next(fused, None) or str(getattr(self, role))


QWEN_DEFAULTS: Final = {"max_window_layers": 28, "sliding_window": 4096}

LLAMA: Final = Family(
    name="Llama", architecture="LlamaForCausalLM", must_be_off=("use_sliding_window",)
)
QWEN2: Final = Family(
    name="Qwen2",
    architecture="Qwen2ForCausalLM",
    defaults=QWEN_DEFAULTS,
    windowed=last_layers,
    lists_layers=True,
    window_switch="use_sliding_window",
)
QWEN3: Final = replace(
    QWEN2,
    name="Qwen3",
    architecture="Qwen3ForCausalLM",
    query_norm="self_attn.q_norm",
    key_norm="self_attn.k_norm",
    defaults=QWEN_DEFAULTS | {"head_dim": 128},
)

MISTRAL: Final = Family(
    name="Mistral",
    architecture="MistralForCausalLM",
    defaults={"sliding_window": 4096, "num_key_value_heads": 8},
    windowed=every_layer,
)
SMOLLM3: Final = Family(
    name="SmolLM3",
    architecture="SmolLM3ForCausalLM",
    defaults={"no_rope_layer_interval": 4, "num_key_value_heads": 4, "tie_word_embeddings": True},
    windowed=layers_without_rope,
    lists_layers=True,
    window_switch="use_sliding_window",
    unturned=layers_without_rope,
)
PHI3: Final = Family(
    name="Phi-3",
    architecture="Phi3ForCausalLM",
    rope_types=("default", "longrope", "su"),
    defaults={"original_max_position_embeddings": 4096},
    windowed=every_layer,
    partly_rotary=True,
    fused={
        "self_attn.qkv_proj": ("query", "key", "value"),
        "mlp.gate_up_proj": ("gate", "up"),
    },
)

GEMMA_DEFAULTS: Final = {
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "tie_word_embeddings": True,
}
GEMMA2: Final = Family(
    name="Gemma 2",
    architecture="Gemma2ForCausalLM",
    attention_post_norm="post_attention_layernorm",
    mlp_norm="pre_feedforward_layernorm",
    mlp_post_norm="post_feedforward_layernorm",
    offset_gains=True,
    activation_key="hidden_activation",
    activations={"gelu_pytorch_tanh": "gelu_tanh"},
    softcap_key="attn_logit_softcapping",
    query_scalar_key="query_pre_attn_scalar",
    must_be_off=("use_bidirectional_attention",),
    traced_attention="eager",
    rope_types=("default",),
    defaults=GEMMA_DEFAULTS | {"attn_logit_softcapping": 50.0, "sliding_window_pattern": 2},
    windowed=all_but_every_nth,
    lists_layers=True,
)
GEMMA3: Final = replace(
    GEMMA2,
    name="Gemma 3",
    architecture="Gemma3ForCausalLM",
    query_norm="self_attn.q_norm",
    key_norm="self_attn.k_norm",
    softcap_key=None,
    must_be_off=("attn_logit_softcapping", "use_bidirectional_attention"),
    traced_attention="sdpa",
    rope_types=("default", "linear"),
    defaults=GEMMA_DEFAULTS | {"sliding_window_pattern": 6},
    frequencies=("full_attention_inv_freq", "sliding_attention_inv_freq"),
)
WITH_IMAGES: Final[dict[str, Any]] = {
    "embedding": "model.language_model.embed_tokens",
    "layer": "model.language_model.layers.{}",
    "final_norm": "model.language_model.norm",
    "rotary": "model.language_model.rotary_emb",
    "auto_class": "AutoModelForImageTextToText",
    "text_section": "text_config",
}
"""Where the language model is within one that also reads images."""

GEMMA3_VL: Final = replace(
    GEMMA3,
    name="Gemma 3 with images",
    architecture="Gemma3ForConditionalGeneration",
    **WITH_IMAGES,
    # The names of transformers 4, which it still writes.
    stored_prefixes={
        "model.language_model.": "language_model.model.",
        "lm_head.": "language_model.lm_head.",
    },
    other_parts=(
        *("vision_tower.", "model.vision_tower."),
        *("multi_modal_projector.", "model.multi_modal_projector."),
    ),
    # Google's files leave out whatever is transformers' default.
    defaults={
        **GEMMA3.defaults,
        "vocab_size": 262_208,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "max_position_embeddings": 131_072,
        "rms_norm_eps": 1e-6,
    },
)
QWEN2_VL: Final = replace(
    QWEN2,
    name="Qwen2-VL",
    architecture="Qwen2VLForConditionalGeneration",
    **WITH_IMAGES,
    # The three rows of M-RoPE's positions are equal for text: it is then RoPE.
    rope_types=("default", "mrope"),
    stored_prefixes={"model.language_model.": "model."},
    other_parts=("visual.", "model.visual."),
    defaults=QWEN_DEFAULTS | {"max_window_layers": 80},
)
QWEN2_5_VL: Final = replace(
    QWEN2_VL, name="Qwen2.5-VL", architecture="Qwen2_5_VLForConditionalGeneration"
)

FAMILIES: Final[dict[str, Family]] = {
    family.architecture: family
    for family in (
        *(LLAMA, QWEN2, QWEN3, MISTRAL, SMOLLM3, PHI3, GEMMA2, GEMMA3),
        *(GEMMA3_VL, QWEN2_VL, QWEN2_5_VL),
    )
}
"""Every family that can be exported, by the architecture its config.json names."""
