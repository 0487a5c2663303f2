"""Bodies of requests, field by field."""

from __future__ import annotations

import json
from typing import Any

import pytest

from resq_onnx.serving.protocol import (
    NEUTRAL,
    GenerationRequest,
    Prompt,
    read_chat,
    read_completion,
)
from resq_onnx.serving.refusals import RefusalError

USER = {"role": "user", "content": "a"}


def chat(**fields: Any) -> GenerationRequest:
    return read_chat(json.dumps({"messages": [USER]} | fields).encode(), "tiny")


def complete(**fields: Any) -> GenerationRequest:
    return read_completion(json.dumps({"prompt": "a"} | fields).encode(), "tiny")


def test_what_is_left_out_or_null_is_as_openai_has_it() -> None:
    nulls = {"max_tokens": None, "temperature": None, "stop": None, "stream": None, "tools": None}
    for asked in (chat(), chat(**nulls)):
        assert (asked.temperature, asked.top_p, asked.stop) == (1.0, 1.0, ())
        assert (asked.stream, asked.include_usage, asked.max_tokens) == (False, False, None)
    assert complete().max_tokens == 16
    assert chat(max_tokens=3, max_completion_tokens=4).max_tokens == 4
    assert chat().seed != chat().seed


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("a", [Prompt(text="a")]),
        (["a"], [Prompt(text="a")]),
        (["a", "b"], [Prompt(text="a"), Prompt(text="b")]),
        ([3, 4], [Prompt(token_ids=(3, 4))]),
        ([[3, 4]], [Prompt(token_ids=(3, 4))]),
        ([[3], [4, 5], "a"], [Prompt(token_ids=(3,)), Prompt(token_ids=(4, 5)), Prompt(text="a")]),
    ],
)
def test_prompts_are_texts_or_token_ids_or_several_of_them(given: Any, found: list[Prompt]) -> None:
    asked = complete(prompt=given, n=2)
    assert [asked.prompt, *asked.further] == found
    assert asked.answers == 2 * len(found)


@pytest.mark.parametrize(
    "given", [None, 3, [], [[]], ["a", 3], [3, "a"], [True], {"a": 1}, [[3.5]]]
)
def test_other_prompts_are_refused(given: Any) -> None:
    with pytest.raises(RefusalError, match="prompt must be a text") as found:
        complete(prompt=given)
    assert found.value.param == "prompt"


def test_seeds_are_integers_of_64_bits() -> None:
    assert complete(seed=-4).seed == 2**64 - 4
    assert complete(seed=2**63 - 1).seed == 2**63 - 1
    for seed in (-(2**63) - 1, 2**63, 1.5):
        with pytest.raises(RefusalError, match="seed must be a whole number from"):
            complete(seed=seed)


@pytest.mark.parametrize("name", NEUTRAL)
def test_a_field_that_would_change_the_answer_may_only_say_that_it_does_not(name: str) -> None:
    for value in NEUTRAL[name]:
        assert chat(**{name: value}, seed=1) == chat(seed=1)
    with pytest.raises(RefusalError, match=f"{name} is not supported by this server") as found:
        complete(**{name: "something else"})
    assert (found.value.status, found.value.param) == (400, name)


def test_no_top_k_is_written_in_two_ways() -> None:
    assert chat(top_k=-1, seed=1) == chat(top_k=0, seed=1) == chat(seed=1)
    assert chat(top_k=5).top_k == 5


def test_token_ids_of_biases_are_strings() -> None:
    assert complete(logit_bias={"5": 2, "07": -100}).logit_bias == {5: 2.0, 7: -100.0}


def test_false_is_not_zero_and_true_is_not_one() -> None:
    for fields in ({"n": True}, {"best_of": True}, {"logprobs": 0}, {"logprobs": 1}):
        with pytest.raises(RefusalError):
            chat(**fields)


def test_every_seed_of_64_bits_is_a_seed_of_its_own() -> None:
    seeds = [-(2**63), -1, 0, 1, 2**63 - 1]
    assert len({chat(seed=seed).seed for seed in seeds}) == len(seeds)
    assert min(chat(seed=seed).seed for seed in seeds) == 0


def test_developers_are_the_system_to_a_template_and_text_parts_are_one_text() -> None:
    parts = [{"type": "text", "text": "b"}, {"type": "text", "text": "c"}]
    asked = chat(
        messages=[{"role": "developer", "content": "a"}, {"role": "user", "content": parts}]
    )
    assert asked.prompt.messages == (
        {"role": "system", "content": "a"},
        {"role": "user", "content": "bc"},
    )


def test_calls_and_their_results_are_as_templates_take_them() -> None:
    function = {"name": "add", "arguments": '{"a": 1}'}
    call = {"id": "x", "type": "function", "function": function}
    asked = chat(
        messages=[
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "x", "content": "2"},
        ]
    )
    called, answered = asked.prompt.messages
    assert called["content"] == ""
    assert called["tool_calls"] == [call | {"function": {"name": "add", "arguments": {"a": 1}}}]
    assert answered == {"role": "tool", "content": "2", "tool_call_id": "x", "name": "add"}


def test_tools_that_must_not_be_called_are_as_good_as_none() -> None:
    tool = {"type": "function", "function": {"name": "add"}}
    assert chat(tools=[tool], tool_choice="none").tools is None
    assert chat(tools=[]).tools is None
    auto, required = chat(tools=[tool]).tools, chat(tools=[tool], tool_choice="required").tools
    assert auto is not None
    assert required is not None
    assert (auto.forced, required.forced) == ((), ("add",))
    one = chat(tools=[tool], parallel_tool_calls=False).tools
    assert (one and one.several, auto.several) == (False, True)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "a"}, "messages"),
        ({"messages": ["a"]}, "messages[0]"),
        ({"messages": [USER, {"role": ["user"], "content": "a"}]}, "messages[1].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
         "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": ["a"]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]},
         "messages[0].content[0].text"),
        ({"messages": [USER | {"tool_calls": [{}]}]}, "messages[0].tool_calls"),
        ({"model": 3}, "model"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_completion_tokens": "5"}, "max_completion_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": "1"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"seed": 2**63}, "seed"),
        ({"seed": True}, "seed"),
        ({"n": 0}, "n"),
        ({"n": True}, "n"),
        ({"n": 129}, "n"),
        ({"top_k": -2}, "top_k"),
        ({"top_k": 1.5}, "top_k"),
        ({"min_p": 1.1}, "min_p"),
        ({"presence_penalty": 2.1}, "presence_penalty"),
        ({"frequency_penalty": "1"}, "frequency_penalty"),
        ({"logit_bias": [1]}, "logit_bias"),
        ({"logit_bias": {"a": 1}}, "logit_bias"),
        ({"logit_bias": {"1": 101}}, "logit_bias"),
        ({"logit_bias": {"1": True}}, "logit_bias"),
        ({"logit_bias": dict.fromkeys(map(str, range(1025)), 1)}, "logit_bias"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"stop": "a" * 1001}, "stop"),
        ({"stop": 3}, "stop"),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": 1}, "logprobs"),
        ({"stream": 1}, "stream"),
        ({"stream_options": 1}, "stream_options"),
        ({"stream_options": {"include_usage": "yes"}}, "stream_options.include_usage"),
    ],
    ids=str,
)  # fmt: skip
def test_a_wrong_field_is_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(RefusalError) as found:
        chat(**fields)
    assert (found.value.status, found.value.param) == (400, param)
