"""The config.json of a model for texts of some length."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from transformers import Phi3Config

from resq_onnx.errors import ResqError
from resq_onnx.families import layout_of, with_length
from tests.tiny_models import KINDS, LONGROPE, ORIGINAL, SIZES, architecture_of

MOST = SIZES["max_position_embeddings"]


def config_of(kind: str, **overrides: Any) -> dict[str, Any]:
    make_config, make_model, special = KINDS[kind]
    config = make_config(**(SIZES | special | overrides))
    return {**config.to_dict(), **architecture_of(make_model)}


def old_phi(**changes: Any) -> dict[str, Any]:
    """As the hub's files have it: the section is rope_scaling, and much lies beside it."""
    config = config_of("phi3_longrope") | {"partial_rotary_factor": 0.75, "rope_theta": 100.0}
    factors = {name: LONGROPE[name] for name in ("short_factor", "long_factor")}
    del config["rope_parameters"]
    return config | {"rope_scaling": {"type": "longrope", **factors}} | changes


def refusal(config: dict[str, Any], max_length: int | None = None) -> str:
    with pytest.raises(ResqError) as error:
        with_length(config, max_length, "some/model")
    assert str(error.value).startswith("some/model: ")
    return str(error.value)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "phi3_longrope"])
def test_without_a_length_a_config_stays_as_it_is(kind: str) -> None:
    config = config_of(kind)
    before = copy.deepcopy(config)
    assert with_length(config, None, "model") == before == config


@pytest.mark.parametrize("kind", KINDS)
def test_a_length_is_the_number_of_positions(kind: str) -> None:
    config = config_of(kind)
    before = copy.deepcopy(config)
    found = with_length(config, 100, "model")
    assert config == before
    assert layout_of(found, "model").max_positions == 100
    assert with_length(found, 100, "model") == found
    assert layout_of(with_length(config, MOST, "model"), "model").max_positions == MOST


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "qwen2_yarn"])
def test_more_positions_than_the_model_has_are_refused(kind: str) -> None:
    line = refusal(config_of(kind), MOST + 1)
    assert f"max_length is {MOST + 1}, and the model has {MOST} positions" in line
    assert f"--max-length {MOST} or less" in line


def test_yarn_has_its_factor_times_the_original_positions() -> None:
    config = config_of("qwen2_yarn", max_position_embeddings=ORIGINAL)
    assert layout_of(with_length(config, None, "model"), "model").max_positions == ORIGINAL
    found = with_length(config, 4 * ORIGINAL, "model")
    assert layout_of(found, "model").max_positions == 4 * ORIGINAL
    assert found["rope_parameters"] == config["rope_parameters"]
    assert f"the model has {4 * ORIGINAL} positions" in refusal(config, 4 * ORIGINAL + 1)


def test_a_google_config_without_positions_gets_them_in_its_section() -> None:
    config: dict[str, Any] = {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "model_type": "gemma3",
        "text_config": {
            "hidden_size": 2560,
            "intermediate_size": 10240,
            "model_type": "gemma3_text",
            "num_hidden_layers": 34,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
            "sliding_window": 1024,
        },
        "vision_config": {"model_type": "siglip_vision_model"},
    }
    found = with_length(config, None, "model")
    assert found["text_config"] == config["text_config"] | {"max_position_embeddings": 131072}
    layout = layout_of(found, "model")
    assert (layout.num_heads, layout.num_kv_heads, layout.head_dim) == (8, 4, 256)
    assert (layout.vocab_size, layout.norm_epsilon, layout.tied) == (262208, 1e-6, True)
    windows = [layout.attention_of(layer).window for layer in range(34)]
    assert [layer for layer, window in enumerate(windows) if window == -1] == [5, 11, 17, 23, 29]
    assert set(windows) == {-1, 1024}


# LongRoPE


@pytest.mark.parametrize(
    ("max_length", "length", "factors"),
    [
        (None, ORIGINAL, "short"),
        (ORIGINAL, ORIGINAL, "short"),
        (ORIGINAL + 1, ORIGINAL + 1, "long"),
        (MOST, MOST, "long"),
    ],
)
@pytest.mark.parametrize("old", [False, True])
def test_the_length_decides_which_factors_a_longrope_model_takes(
    max_length: int | None, length: int, factors: str, old: bool
) -> None:
    found = with_length(old_phi() if old else config_of("phi3_longrope"), max_length, "model")
    layout = layout_of(found, "model")
    assert (layout.max_positions, layout.longrope) == (length, factors)
    section = found["rope_scaling" if old else "rope_parameters"]
    assert section["short_factor"] == LONGROPE[f"{factors}_factor"]
    assert with_length(found, max_length, "model") == found


@pytest.mark.parametrize("said", [{}, {"attention_factor": 1.3}, {"factor": 8.0}, {"factor": 1.0}])
@pytest.mark.parametrize("max_length", [None, MOST])
def test_the_frequencies_are_those_of_transformers_for_that_length(
    said: dict[str, float], max_length: int | None
) -> None:
    """Also in texts that are short: the file of a longer model has its frequencies always."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = config_of("phi3_longrope", rope_parameters=LONGROPE | said)
    found = with_length(config, max_length, "model")
    init = ROPE_INIT_FUNCTIONS["longrope"]
    expected, factor = init(Phi3Config.from_dict(copy.deepcopy(config)), "cpu", max_length)
    frequencies, same = init(Phi3Config.from_dict(copy.deepcopy(found)), "cpu", 1)
    torch.testing.assert_close(frequencies, expected, rtol=0, atol=0)
    assert layout_of(found, "model").rope_factor == factor == same


def test_the_name_of_the_first_phi3_models_is_understood() -> None:
    config = old_phi()
    config["rope_scaling"]["type"] = "su"
    assert layout_of(with_length(config, MOST, "model"), "model").longrope == "long"


def test_other_models_have_no_such_factors() -> None:
    assert layout_of(config_of("phi3"), "model").longrope is None
    assert layout_of(config_of("qwen2_yarn"), "model").longrope is None


@pytest.mark.parametrize("name", ["short_factor", "long_factor"])
@pytest.mark.parametrize("said", [None, [1.0] * 5, "x", 2.0])
def test_a_list_of_factors_of_another_length_is_refused(name: str, said: object) -> None:
    line = refusal(config_of("phi3_longrope") | {"rope_parameters": LONGROPE | {name: said}})
    assert f"{name} is {said!r}; it must list 6 numbers" in line


@pytest.mark.parametrize("wrong", [0, -1.0, "x", True])
def test_a_factor_that_is_no_positive_number_is_refused(wrong: object) -> None:
    factors = LONGROPE | {"long_factor": [1.0] * 5 + [wrong]}
    assert f"long_factor is {wrong!r}" in refusal(
        config_of("phi3_longrope") | {"rope_parameters": factors}
    )


@pytest.mark.parametrize("name", ["attention_factor", "factor"])
def test_an_attention_factor_that_is_none_is_refused(name: str) -> None:
    wrong = {"rope_parameters": LONGROPE | {name: "x"}}
    assert f"{name} is 'x'; it must be a number above 0" in refusal(
        config_of("phi3_longrope") | wrong
    )
