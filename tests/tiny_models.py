"""Tiny random Hugging Face model directories, on which the whole export can run.

Nothing about them is trivial: the norms have gains of their own, every bias is non-zero, kv heads
are shared, and the tokenizer is a real one, trained on the text of Python's documentation.
"""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any, Final

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3Config,
    Gemma3ForCausalLM,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3Config,
    Qwen3ForCausalLM,
    SmolLM3Config,
    SmolLM3ForCausalLM,
)

from resq_onnx.checkpoint.quiet import quiet_libraries
from resq_onnx.families import layout_of
from tests.lifelike import make_lifelike

SIZES: Final[dict[str, Any]] = {
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
}
"""Widths of which 1/8 is even, and 192 = 12 · 16: a Hadamard matrix with both factors."""

LLAMA3_ROPE: Final[dict[str, Any]] = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
"""Of the eight frequencies of a head of 16, some are kept, some divided, some between."""

YARN_ROPE: Final[dict[str, Any]] = {
    "rope_type": "yarn",
    "rope_theta": 500.0,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
}
"""As Qwen2.5's model cards give it for long texts."""

ORIGINAL: Final = 64
"""Positions of a model before YaRN or LongRoPE stretched it."""

LONGROPE: Final[dict[str, Any]] = {
    "rope_type": "longrope",
    "rope_theta": 100.0,
    "partial_rotary_factor": 0.75,
    "short_factor": [1.0, 1.1, 1.2, 1.3, 1.5, 2.0],
    "long_factor": [1.0, 1.5, 2.5, 4.0, 6.0, 8.0],
}
"""As Phi-4-mini's: a factor for each of the six frequencies of 3/4 of a head of 16."""

GEMMA3_ROPE: Final[dict[str, Any]] = {
    "full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1000.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
}
"""Frequencies of their own for either kind of layer."""

WINDOW: Final = 6
"""Tokens of a sliding window: fewer than any text on which a model is tried."""

SMALL_TOKENS: Final[dict[str, Any]] = {"pad_token_id": 255, "bos_token_id": 1, "eos_token_id": 2}
"""The configuration's own are beyond a tiny vocabulary."""

GEMMA: Final[dict[str, Any]] = {
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "query_pre_attn_scalar": 24,
    "sliding_window": WINDOW,
    "layer_types": ["sliding_attention", "full_attention"],
}
"""Another divisor of scores than the head size, and one layer of each kind."""

VISION: Final[dict[str, Any]] = {
    "depth": 1,
    "num_heads": 2,
    "patch_size": 4,
    "hidden_size": 64,
}
SIGLIP: Final[dict[str, Any]] = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 4,
}
MROPE: Final[dict[str, Any]] = {
    "rope_type": "default",
    "rope_theta": 100.0,
    "mrope_section": [2, 3, 3],
}
"""The eight frequencies of a head of 16, cut into time, height and width."""


def gemma3_with_images(**text: Any) -> Gemma3Config:
    """The configuration of a language model with a vision tower, of the language model's entries.

    Qwen2-VL's takes these entries itself.
    """
    return Gemma3Config(
        text_config=GEMMA | {"rope_parameters": GEMMA3_ROPE} | text,
        vision_config=SIGLIP,
        mm_tokens_per_image=4,
        image_token_index=250,
        boi_token_index=251,
        eoi_token_index=252,
        tie_word_embeddings=text.get("tie_word_embeddings", True),
    )


KINDS: Final[dict[str, tuple[Callable[..., Any], type[Any], dict[str, Any]]]] = {
    "llama": (LlamaConfig, LlamaForCausalLM, {}),
    "llama3": (LlamaConfig, LlamaForCausalLM, {"rope_parameters": LLAMA3_ROPE}),
    "qwen2_yarn": (Qwen2Config, Qwen2ForCausalLM, {"rope_parameters": YARN_ROPE}),
    "llama_with_biases": (
        LlamaConfig,
        LlamaForCausalLM,
        {"attention_bias": True, "mlp_bias": True},
    ),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {}),
    "llama_with_wide_heads": (LlamaConfig, LlamaForCausalLM, {"head_dim": 32}),
    "mistral": (MistralConfig, MistralForCausalLM, {"sliding_window": WINDOW}),
    "mistral_without_window": (MistralConfig, MistralForCausalLM, {"sliding_window": None}),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, {}),
    "qwen3_with_windows": (
        Qwen3Config,
        Qwen3ForCausalLM,
        {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1},
    ),
    "qwen2_vl": (
        Qwen2VLConfig,
        Qwen2VLForConditionalGeneration,
        {"rope_parameters": MROPE, "vision_config": VISION | {"embed_dim": 32}},
    ),
    "qwen2_5_vl": (
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        {
            "rope_parameters": MROPE,
            "vision_config": VISION | {"hidden_size": 32, "out_hidden_size": 64},
        },
    ),
    "smollm3": (
        SmolLM3Config,
        SmolLM3ForCausalLM,
        {"no_rope_layer_interval": 2} | SMALL_TOKENS,
    ),
    "gemma2": (
        Gemma2Config,
        Gemma2ForCausalLM,
        GEMMA | {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 4.0},
    ),
    "gemma3": (Gemma3TextConfig, Gemma3ForCausalLM, GEMMA | {"rope_parameters": GEMMA3_ROPE}),
    "gemma3_vl": (gemma3_with_images, Gemma3ForConditionalGeneration, {}),
    "phi3": (Phi3Config, Phi3ForCausalLM, SMALL_TOKENS),
    "phi3_longrope": (
        Phi3Config,
        Phi3ForCausalLM,
        {"rope_parameters": LONGROPE, "original_max_position_embeddings": ORIGINAL} | SMALL_TOKENS,
    ),
    "phi3_partly_rotary": (
        Phi3Config,
        Phi3ForCausalLM,
        {"partial_rotary_factor": 0.75, "sliding_window": WINDOW} | SMALL_TOKENS,
    ),
}
"""By kind: configuration, model, and what the configuration says beyond `SIZES`."""

SPECIAL_TOKENS: Final = ("<unk>", "<s>", "</s>")
"""At the ids 0, 1 and 2, where the configurations' bos and eos are."""

CHAT_TEMPLATE: Final = (
    "{% for message in messages %}<s>{{ message['role'] }}\n{{ message['content'] }}</s>\n"
    "{% endfor %}{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)


def write_model(
    folder: Path,
    kind: str,
    *,
    tied: bool,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    lifelike: bool = False,
    **config_overrides: Any,
) -> PreTrainedModel:
    """Write config.json, model.safetensors and a tokenizer; returns the model in float32.

    Args:
        folder: Is made if it is not there.
        kind: A key of `KINDS`.
        tied: Whether lm_head shares the embedding's weight.
        seed: Of the weights.
        dtype: Of the file; the returned model has the same, rounded values.
        lifelike: Whether channels have the sizes that trained models give them, and texts begin
            with BOS, which makes some of them larger still (`tests.lifelike`).
        config_overrides: Replace what `SIZES` and the kind say.
    """
    model = build_model(
        kind, tied=tied, seed=seed, dtype=dtype, lifelike=lifelike, **config_overrides
    )
    # A copy: `to` would also round the frequencies of RoPE, which no file holds.
    with quiet_libraries():
        stored: Any = copy.deepcopy(model)
        stored.to(dtype).save_pretrained(folder)
    write_tokenizer(folder, model.config.get_text_config().vocab_size, adds_bos=lifelike)
    return model


def build_model(
    kind: str,
    *,
    tied: bool,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    lifelike: bool = False,
    **config_overrides: Any,
) -> PreTrainedModel:
    """The model that `write_model` writes: equal arguments give equal weights."""
    make_config, make_model, special = KINDS[kind]
    config = make_config(**(SIZES | special | {"tie_word_embeddings": tied} | config_overrides))
    model: PreTrainedModel = make_model(config).eval()
    _randomise(model, seed)
    if lifelike:
        make_lifelike(model, layout_of(config.to_dict() | architecture_of(make_model), kind), seed)
    _round(model, dtype)
    return model


def architecture_of(make_model: type[Any]) -> dict[str, Any]:
    """What a config.json says that its configuration in memory does not."""
    return {"architectures": [make_model.__name__]}


def write_tokenizer(folder: Path, vocab_size: int, *, adds_bos: bool = False) -> None:
    """Write a byte-level BPE tokenizer of exactly this many tokens, with a chat template."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_trained_tokenizer(vocab_size)),
        **dict(zip(("unk_token", "bos_token", "eos_token"), SPECIAL_TOKENS, strict=True)),
    )
    if adds_bos:
        bos = SPECIAL_TOKENS[1]
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, 1)]
        )
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)


def change_config(folder: Path, **entries: Any) -> None:
    """Overwrite entries of a written model's config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def _round(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Leave the model in float32 with the values that a file of this type holds."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.to(dtype))


def _randomise(model: PreTrainedModel, seed: int) -> None:
    """Weights that keep activations near 1; gains around 1, biases around 0, all of them random."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1:
                parameter.copy_(0.3 * noise + parameter)  # 1, or 0 where that stands for 1
            elif "embed" in name:
                parameter.copy_(0.5 * noise)
            else:
                parameter.copy_(noise / parameter.shape[1] ** 0.5)


@cache
def _trained_tokenizer(vocab_size: int) -> str:
    """The tokenizer as JSON. Its alphabet is that of the text: 256 bytes would leave no room."""
    tokenizer = Tokenizer(models.BPE(unk_token=SPECIAL_TOKENS[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        limit_alphabet=vocab_size // 2,
        show_progress=False,
    )
    tokenizer.train_from_iterator(itertools.islice(topics.values(), 10), trainer)
    if tokenizer.get_vocab_size() != vocab_size:
        raise ValueError(f"{tokenizer.get_vocab_size()} tokens were found, not {vocab_size}")
    return str(tokenizer.to_str())
