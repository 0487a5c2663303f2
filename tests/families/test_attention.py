"""Windows, RoPE and scores of each layer, as config.json says them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import Gemma2Config, Phi3Config, Qwen3Config, SmolLM3Config

from resq_onnx.checkpoint.source import ModelSource
from resq_onnx.errors import ResqError
from resq_onnx.families import ModelLayout, layout_of
from tests import tiny_models

CONFIG: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 160,
    "vocab_size": 100,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-6,
}

WINDOWS_ON: dict[str, Any] = {"use_sliding_window": True, "sliding_window": 100}


def layout(family: str, **entries: Any) -> ModelLayout:
    name = family if family.endswith("Generation") else f"{family}ForCausalLM"
    said = CONFIG | {"architectures": [name]} | entries
    return layout_of(said, "some/model")


def refusal(family: str, **entries: Any) -> str:
    with pytest.raises(ResqError) as error:
        layout(family, **entries)
    assert str(error.value).startswith("some/model: config.json says ")
    return str(error.value)


def windows(found: ModelLayout) -> list[int]:
    return [found.attention_of(layer).window for layer in range(found.num_layers)]


def turned(found: ModelLayout) -> list[bool]:
    layers = range(found.num_layers)
    return [found.attention_of(layer).frequencies is not None for layer in layers]


@pytest.mark.parametrize("family", ["Llama", "Qwen2", "Qwen3", "SmolLM3", "Phi3"])
def test_without_a_word_on_windows_there_are_none(family: str) -> None:
    assert windows(layout(family)) == [-1] * 4


@pytest.mark.parametrize("family", ["Mistral", "Phi3"])
def test_every_layer_has_the_window(family: str) -> None:
    assert windows(layout(family, sliding_window=100)) == [100] * 4


@pytest.mark.parametrize("family", ["Mistral", "Phi3"])
def test_a_window_of_null_is_none(family: str) -> None:
    assert windows(layout(family, sliding_window=None)) == [-1] * 4


def test_a_mistral_that_leaves_the_window_out_has_the_default_one() -> None:
    assert windows(layout("Mistral")) == [4096] * 4


def test_a_window_of_all_positions_hides_nothing_and_is_none() -> None:
    assert windows(layout("Mistral", max_position_embeddings=4096)) == [-1] * 4
    assert windows(layout("Mistral", max_position_embeddings=4097)) == [4096] * 4


@pytest.mark.parametrize("family", ["Qwen2", "Qwen3"])
def test_the_last_layers_of_a_qwen_have_windows_if_they_are_switched_on(family: str) -> None:
    on = WINDOWS_ON | {"max_window_layers": 3}
    assert windows(layout(family, **on)) == [-1, -1, -1, 100]
    assert windows(layout(family, **on | {"use_sliding_window": False})) == [-1] * 4


def test_layer_types_come_before_the_familys_rule() -> None:
    kinds = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]
    on = WINDOWS_ON | {"max_window_layers": 0, "layer_types": kinds}
    assert windows(layout("Qwen3", **on)) == [100, -1, 100, -1]


def test_every_fourth_layer_of_a_smollm3_has_no_rope() -> None:
    assert turned(layout("SmolLM3")) == [True, True, True, False]
    assert turned(layout("SmolLM3", no_rope_layer_interval=2)) == [True, False, True, False]
    assert turned(layout("SmolLM3", no_rope_layers=[0, 1, 1, 0])) == [False, True, True, False]


def test_the_layers_of_a_smollm3_with_windows_are_those_without_rope() -> None:
    assert windows(layout("SmolLM3", **WINDOWS_ON)) == [-1, -1, -1, 100]


@pytest.mark.parametrize("family", ["Llama", "Qwen3", "Mistral"])
def test_other_families_turn_every_layer(family: str) -> None:
    assert turned(layout(family)) == [True] * 4


def test_all_but_every_nth_layer_of_a_gemma_has_a_window() -> None:
    assert windows(layout("Gemma2")) == [4096, -1, 4096, -1]
    assert windows(layout("Gemma3", sliding_window=512)) == [512] * 4
    every_third = layout("Gemma3", sliding_window=512, sliding_window_pattern=3)
    assert windows(every_third) == [512, 512, -1, 512]


def test_the_layers_of_a_gemma3_have_the_frequencies_of_their_kind() -> None:
    full, sliding = "full_attention_inv_freq", "sliding_attention_inv_freq"
    wide = {"sliding_window": 10**6, "sliding_window_pattern": 2}  # no window, but its frequencies
    for size in ({"sliding_window": 512, "sliding_window_pattern": 2}, wide):
        found = layout("Gemma3", **size)
        names = [found.attention_of(layer).frequencies for layer in range(4)]
        assert names == [sliding, full, sliding, full]
    assert windows(layout("Gemma3", **wide)) == [-1] * 4


def test_the_scores_of_a_gemma_have_a_scale_and_a_cap_of_their_own() -> None:
    found = layout("Gemma2", query_pre_attn_scalar=144)
    assert found.scale == pytest.approx(1 / 12)
    assert found.softcap == 50.0
    assert layout("Gemma2", attn_logit_softcapping=None).softcap is None
    assert layout("Gemma3").softcap is None
    assert layout("Llama").scale == pytest.approx(0.25)
    assert layout("Llama").softcap is None


def test_the_gate_of_a_gemma_is_activated_by_gelu() -> None:
    assert layout("Gemma2").activation == layout("Gemma3").activation == "gelu_tanh"
    assert layout("Qwen3").activation == "silu"
    with pytest.raises(ResqError, match="hidden_activation 'silu' is not supported for Gemma 3"):
        layout("Gemma3", hidden_activation="silu")


VL = ("Qwen2VLForConditionalGeneration", "Qwen2_5_VLForConditionalGeneration")


@pytest.mark.parametrize("family", VL)
def test_a_language_model_within_a_larger_one_is_said_in_a_section(family: str) -> None:
    said = {"hidden_size": 128, "rope_parameters": {"rope_type": "default"}}
    found = layout(family, tie_word_embeddings=True, text_config=said)
    assert found.hidden_size == 128
    assert found.tied
    assert layout(family, text_config={"tie_word_embeddings": True}).tied
    assert not layout(family, text_config={}).tied
    assert found.module(1, "query") == "model.language_model.layers.1.self_attn.q_proj"


@pytest.mark.parametrize("family", VL)
def test_or_at_the_top_by_older_files(family: str) -> None:
    rope = {"type": "mrope", "mrope_section": [2, 3, 3]}
    found = layout(family, rope_scaling=rope, tie_word_embeddings=True)
    assert found.hidden_size == 64
    assert found.tied


def test_a_phi3_turns_a_share_of_each_head() -> None:
    assert layout("Phi3").rotary_dim is None
    assert layout("Phi3", partial_rotary_factor=None).rotary_dim is None
    assert layout("Phi3", partial_rotary_factor=0.75).rotary_dim == 12
    rope = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
    assert layout("Phi3", rope_parameters=rope).rotary_dim == 8


def test_what_transformers_takes_for_granted_is_taken() -> None:
    assert layout("SmolLM3").tied == SmolLM3Config().tie_word_embeddings
    assert layout("Phi3").tied == Phi3Config().tie_word_embeddings
    assert layout("Qwen3").head_dim == Qwen3Config().head_dim
    gemma, found = Gemma2Config(), layout("Gemma2")
    assert found.head_dim == gemma.head_dim
    assert found.tied == gemma.tie_word_embeddings
    assert found.softcap == gemma.attn_logit_softcapping
    assert found.query_scalar == gemma.query_pre_attn_scalar


KINDS_WITH_LAYERS = ("mistral", "qwen3_with_windows", "smollm3", "phi3_partly_rotary", "gemma2")


@pytest.mark.parametrize("kind", KINDS_WITH_LAYERS)
def test_the_layers_are_those_of_the_model_in_transformers(tmp_path: Path, kind: str) -> None:
    model: Any = tiny_models.write_model(tmp_path, kind, tied=True)
    found = ModelSource(tmp_path, kind).layout
    assert found.tied
    for layer, window in enumerate(windows(found)):
        attention = model.model.layers[layer].self_attn
        config_window = model.config.sliding_window
        has = getattr(attention, "sliding_window", config_window)
        assert window == (-1 if has is None else has)
        assert turned(found)[layer] == bool(getattr(attention, "use_rope", True))
    width = found.rotary_dim or found.head_dim
    assert 2 * model.model.rotary_emb.inv_freq.numel() == width


# What is refused


def test_a_window_where_the_family_has_none_is_refused() -> None:
    line = refusal("Llama", use_sliding_window=True)
    assert "use_sliding_window is True" in line
    assert "Llama" in line
    assert "off, or left out" in line


@pytest.mark.parametrize("size", [0, -1, 2.5, "many", True])
def test_a_window_that_is_no_number_of_tokens_is_refused(size: object) -> None:
    line = refusal("Mistral", sliding_window=size)
    assert f"sliding_window is {size!r}" in line
    assert "above 0, or null" in line


@pytest.mark.parametrize("kinds", [["full_attention"] * 3, "full_attention"])
def test_layer_types_that_do_not_fit_the_layers_are_refused(kinds: object) -> None:
    line = refusal("Qwen3", **WINDOWS_ON, layer_types=kinds)
    assert f"layer_types is {kinds!r}" in line
    assert "4 layers" in line


def test_an_unknown_type_of_layer_is_refused_with_those_that_are_known() -> None:
    kinds = ["full_attention", "chunked_attention", "full_attention", "full_attention"]
    line = refusal("Qwen3", **WINDOWS_ON, layer_types=kinds)
    assert "layer_types has 'chunked_attention'" in line
    assert "full_attention, sliding_attention" in line


@pytest.mark.parametrize("marks", [[1, 1, 1], 4])
def test_marks_of_rope_that_do_not_fit_the_layers_are_refused(marks: object) -> None:
    assert f"no_rope_layers is {marks!r}" in refusal("SmolLM3", no_rope_layers=marks)


@pytest.mark.parametrize("family", ["Llama", "Qwen2", "Qwen3", "Mistral", "SmolLM3"])
@pytest.mark.parametrize("place", ["rope_parameters", "rope_scaling", None])
def test_partial_rope_is_refused_where_a_family_has_none(family: str, place: str | None) -> None:
    share = {"partial_rotary_factor": 0.5}
    line = refusal(family, **({place: share} if place else share))
    assert "partial_rotary_factor is 0.5" in line
    assert "1, or left out" in line


@pytest.mark.parametrize("share", [0.0, 1.5, 0.2, "half"])
def test_a_share_of_a_head_that_cannot_be_turned_is_refused(share: object) -> None:
    line = refusal("Phi3", partial_rotary_factor=share)
    assert f"partial_rotary_factor is {share!r}" in line
    assert "even number" in line


@pytest.mark.parametrize("family", ["Gemma2", "Gemma3"])
def test_a_gemma_that_reads_in_both_directions_is_refused(family: str) -> None:
    line = refusal(family, use_bidirectional_attention=True)
    assert "use_bidirectional_attention is True" in line
    assert "off, or left out" in line


def test_capped_scores_of_a_gemma3_are_refused_for_its_class_ignores_them() -> None:
    assert "attn_logit_softcapping is 50.0" in refusal("Gemma3", attn_logit_softcapping=50.0)


@pytest.mark.parametrize("cap", [0, -1.0, "much", True])
def test_a_cap_that_is_no_positive_number_is_refused(cap: object) -> None:
    line = refusal("Gemma2", attn_logit_softcapping=cap)
    assert f"attn_logit_softcapping is {cap!r}" in line


def test_the_scaling_of_either_kind_of_layer_is_looked_at() -> None:
    kinds = {"full_attention": {"rope_type": "yarn"}, "sliding_attention": {}}
    assert "rope_type is 'yarn'" in refusal("Gemma3", rope_parameters=kinds)


@pytest.mark.parametrize("kind", ["yarn", "linear"])
def test_other_scalings_of_phi3_are_refused(kind: str) -> None:
    line = refusal("Phi3", rope_scaling={"type": kind})
    assert f"rope_type is {kind!r}" in line
    assert "supported: default, longrope" in line
