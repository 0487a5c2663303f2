"""Sizes and names from a config.json, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from resq_onnx.checkpoint.source import ModelSource
from resq_onnx.errors import ResqError
from resq_onnx.families import FAMILIES, layout_of
from tests import tiny_models

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "intermediate_size": 160,
    "vocab_size": 100,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
}

LLAMA3: dict[str, Any] = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def refusal(**changes: Any) -> str:
    with pytest.raises(ResqError) as error:
        layout_of(CONFIG | changes, "some/model")
    assert str(error.value).startswith("some/model: ")
    return str(error.value)


def test_what_a_config_leaves_out_follows_from_the_rest() -> None:
    layout = layout_of(CONFIG, "some/model")
    assert layout.num_kv_heads == 8
    assert layout.head_dim == 8
    assert layout.heads_per_kv_head == 1
    assert layout.norm_epsilon == 1e-6
    assert not layout.tied


@pytest.mark.parametrize("empty", [{"num_key_value_heads": None, "head_dim": None}, {}])
def test_what_a_config_leaves_empty_counts_as_left_out(empty: dict[str, Any]) -> None:
    assert layout_of(CONFIG | empty, "some/model") == layout_of(CONFIG, "some/model")


def test_what_a_config_says_is_taken() -> None:
    said = {"num_key_value_heads": 2, "head_dim": 32, "tie_word_embeddings": True}
    layout = layout_of(CONFIG | said, "some/model")
    assert (layout.num_kv_heads, layout.head_dim, layout.heads_per_kv_head) == (2, 32, 4)
    assert layout.tied
    assert layout.num_layers == 3


def test_a_module_is_named_by_layer_and_role() -> None:
    layout = layout_of(CONFIG, "some/model")
    assert layout.module(2, "query") == "model.layers.2.self_attn.q_proj"
    assert layout.module(0, "mlp_norm") == "model.layers.0.post_attention_layernorm"


def test_a_role_that_is_stored_with_others_is_found_in_their_module() -> None:
    make_config, _, special = tiny_models.KINDS["phi3"]
    config = make_config(**tiny_models.SIZES | special).to_dict()
    layout = layout_of(config | {"architectures": ["Phi3ForCausalLM"]}, "tiny")
    assert layout.stored_module(1, "key") == "model.layers.1.self_attn.qkv_proj"
    assert layout.stored_module(1, "down") == layout.module(1, "down")


@pytest.mark.parametrize("kind", tiny_models.KINDS)
@pytest.mark.parametrize("tied", [True, False])
def test_a_config_that_transformers_wrote_gives_the_sizes_of_the_model(
    tmp_path: Path, kind: str, tied: bool
) -> None:
    model = tiny_models.write_model(tmp_path, kind, tied=tied)
    layout = layout_of(ModelSource(tmp_path, kind).stored_config, kind)
    weights = dict(model.named_parameters())
    assert layout.tied == tied
    query, value, up = (layout.module(1, role) + ".weight" for role in ("query", "value", "up"))
    sizes = {
        f"{layout.family.embedding}.weight": (layout.vocab_size, layout.hidden_size),
        query: (layout.num_heads * layout.head_dim, layout.hidden_size),
        value: (layout.num_kv_heads * layout.head_dim, layout.hidden_size),
        up: (layout.intermediate_size, layout.hidden_size),
    }
    for name in (name for name in sizes.keys() - weights.keys() if layout.family.fused):
        del sizes[name]  # a part of a stored matrix
    for name, shape in sizes.items():
        assert tuple(weights[name].shape) == shape
    assert layout.max_positions == tiny_models.SIZES["max_position_embeddings"]
    assert layout.norm_epsilon == model.config.get_text_config().rms_norm_eps
    assert layout.num_layers == model.config.get_text_config().num_hidden_layers


@pytest.mark.parametrize("architecture", FAMILIES)
def test_every_module_that_a_family_names_is_in_its_model(architecture: str) -> None:
    kinds = {make.__name__: kind for kind, (_, make, _) in tiny_models.KINDS.items()}
    make_config, make_model, special = tiny_models.KINDS[kinds[architecture]]
    config = make_config(**tiny_models.SIZES | special)
    with torch.device("meta"):
        model = make_model(config)
    assert type(model).__name__ == architecture
    names = {name for name, _ in model.named_modules()}
    layout = layout_of(config.to_dict() | {"architectures": [architecture]}, "tiny")
    family = layout.family
    roles = {"attention", "query", "key", "value", "attention_out", "gate", "up", "down"}
    roles |= {"attention_norm", "mlp_norm"}
    roles |= {"query_norm", "key_norm"} if layout.norms_heads else set()
    roles |= set(layout.post_norms)
    stored = {role for together in family.fused.values() for role in together}
    modules = {layout.module(1, role) for role in roles - stored}
    modules |= {f"{family.layer.format(1)}.{name}" for name in family.fused}
    assert modules | {family.embedding, family.final_norm, family.head, family.rotary} <= names


@pytest.mark.parametrize(
    ("architecture", "experts"),
    [("Qwen3MoeForCausalLM", "num_experts"), ("MixtralForCausalLM", "num_local_experts")],
)
def test_a_mixture_of_experts_is_refused_by_that_name(architecture: str, experts: str) -> None:
    line = refusal(architectures=[architecture], **{experts: 8})
    assert f"architecture {architecture} is a mixture of experts" in line
    assert "export a dense model" in line
    assert "\n" not in line


def test_an_unknown_architecture_is_told_the_known_ones() -> None:
    line = refusal(architectures=["GPT2LMHeadModel"])
    assert "architecture GPT2LMHeadModel is not supported" in line
    assert ", ".join(sorted(FAMILIES)) in line


@pytest.mark.parametrize("named", [None, []])
def test_a_config_without_an_architecture_is_refused(named: list[str] | None) -> None:
    assert "(none named)" in refusal(architectures=named)


def test_the_first_architecture_that_is_known_is_taken() -> None:
    layout = layout_of(CONFIG | {"architectures": ["Other", "Qwen2ForCausalLM"]}, "some/model")
    assert layout.family.name == "Qwen2"


@pytest.mark.parametrize("name", sorted(CONFIG.keys() - {"architectures"}))
def test_a_size_that_is_missing_is_named(name: str) -> None:
    with pytest.raises(ResqError, match=f"some/model: config.json has no {name}"):
        layout_of({key: value for key, value in CONFIG.items() if key != name}, "some/model")


@pytest.mark.parametrize("name", sorted(CONFIG.keys() - {"architectures", "rms_norm_eps"}))
@pytest.mark.parametrize("value", [None, "many", [4], 0, -2])
def test_a_size_that_is_no_positive_number_is_named(name: str, value: object) -> None:
    line = refusal(**{name: value})
    assert name in line
    assert repr(value) in line


def test_heads_that_cannot_share_evenly_are_refused() -> None:
    line = refusal(num_key_value_heads=3)
    assert "8 attention heads cannot share 3 key/value heads evenly" in line


def test_another_activation_is_refused_with_those_that_are_known() -> None:
    line = refusal(hidden_act="gelu")
    assert "hidden_act 'gelu' is not supported for Llama; supported: silu, swish" in line


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
        {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
        {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4}},
    ],
)
def test_another_rope_scaling_is_refused_with_those_that_are_known(rope: dict[str, Any]) -> None:
    line = refusal(**rope)
    assert "RoPE scaling 'dynamic' is not supported" in line
    assert "default, linear, llama3, yarn" in line
    assert "Within its positions the model is the same without" in line


@pytest.mark.parametrize(
    ("architecture", "kind", "way_out"),
    [
        ("LlamaForCausalLM", "longrope", "Export a model of this family that has one of these"),
        ("Qwen3ForCausalLM", "proportional", "Export a model of this family"),
        ("Phi3ForCausalLM", "dynamic", "the model is the same without: remove it"),
        ("Gemma2ForCausalLM", "yarn", "is the same without: remove it from config.json"),
    ],
)
def test_a_refused_rope_scaling_is_told_the_way_out(
    architecture: str, kind: str, way_out: str
) -> None:
    gate = {"hidden_activation": "gelu_pytorch_tanh"}
    line = refusal(architectures=[architecture], rope_scaling={"rope_type": kind}, **gate)
    assert f"RoPE scaling {kind!r} is not supported" in line
    assert way_out in line


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_scaling": None},
        {"rope_scaling": {"type": "linear", "factor": 2.0}},
        {"rope_parameters": LLAMA3},
        {"rope_parameters": {"rope_theta": 1e4}},
    ],
)
def test_a_known_rope_scaling_is_accepted_in_every_spelling(rope: dict[str, Any]) -> None:
    assert layout_of(CONFIG | rope, "some/model").num_layers == 3


@pytest.mark.parametrize("name", [name for name in LLAMA3 if name != "rope_type"])
def test_a_rope_scaling_without_one_of_its_numbers_is_refused(name: str) -> None:
    rope = {key: value for key, value in LLAMA3.items() if key != name}
    line = refusal(rope_parameters=rope)
    assert f"config.json has no {name}, which the rope_type 'llama3' needs" in line
    assert f"{name} is 'x'; it must be a number above 0" in refusal(
        rope_parameters=rope | {name: "x"}
    )


@pytest.mark.parametrize("rope", ["yarn", [1], 3])
def test_a_rope_scaling_that_is_no_object_is_refused(rope: object) -> None:
    assert "it must be an object, or null" in refusal(rope_scaling=rope)


@pytest.mark.parametrize("value", ["</s>", 2.0, True, [2, "</s>"], [[2]], {}])
def test_an_end_that_is_no_number_of_a_token_is_refused(value: object) -> None:
    line = refusal(eos_token_id=value)
    assert f"eos_token_id is {value!r}" in line
    assert "must be a token's number, a list of them, or null" in line


@pytest.mark.parametrize("value", [100, 2**70, -101])
def test_padding_beyond_the_vocabulary_is_refused(value: int) -> None:
    line = refusal(pad_token_id=value)
    assert f"pad_token_id is {value}, and the vocabulary has 100 tokens" in line


@pytest.mark.parametrize("value", [None, 0, 99, -1])
def test_padding_within_the_vocabulary_is_accepted(value: int | None) -> None:
    assert layout_of(CONFIG | {"pad_token_id": value}, "some/model").vocab_size == 100


def test_more_layers_than_any_model_has_are_refused_at_once() -> None:
    assert "no model has more than 10000" in refusal(num_hidden_layers=10**9)


@pytest.mark.parametrize(
    "changes",
    [
        {"architectures": "x"},
        {"architectures": [[]]},
        {"architectures": {"a": 1}},
        {"hidden_act": ["silu"]},
        {"rms_norm_eps": float("inf")},
        {"hidden_size": float("nan")},
    ],
)
def test_an_entry_of_another_kind_is_refused(changes: dict[str, Any]) -> None:
    assert "some/model" in refusal(**changes)


@pytest.mark.parametrize(
    ("said", "factor"),
    [
        ({}, 1.1386294361119891),
        ({"attention_factor": 0.9}, 0.9),
        ({"mscale": 0.707, "mscale_all_dim": 1.0}, 0.9643265),
        ({"mscale": 1.0, "mscale_all_dim": None}, 1.1386294361119891),
        ({"factor": 1.0}, 1.0),
    ],
)
def test_the_factor_of_yarn_is_that_of_transformers(said: dict[str, Any], factor: float) -> None:
    from transformers import Qwen2Config
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64} | said
    assert layout_of(CONFIG | {"rope_scaling": yarn}, "some/model").rope_factor == pytest.approx(
        factor
    )
    config = Qwen2Config(**CONFIG, rope_parameters=yarn | {"rope_theta": 1e4})
    assert ROPE_INIT_FUNCTIONS["yarn"](config, "cpu")[1] == pytest.approx(factor)


def test_other_models_have_no_factor() -> None:
    assert layout_of(CONFIG, "some/model").rope_factor == 1.0
    assert layout_of(CONFIG | {"rope_parameters": LLAMA3}, "some/model").rope_factor == 1.0
