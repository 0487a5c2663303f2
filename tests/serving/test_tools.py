"""Calls of functions through the real `openai` client, with a chat template that knows them."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from resq_onnx.serving.engine import Engine
from resq_onnx.serving.events import End, Event, Finished
from resq_onnx.serving.protocol import GenerationRequest, read_chat
from resq_onnx.serving.refusals import RefusalError
from tests.serving import asking
from tests.serving.served import HELLO, Served, served
from tests.serving.test_writing import calls_of

TEMPLATE = """
{%- if tools %}{% for tool in tools %}{{ tool | tojson }}
{% endfor %}To call, write CALL{% endif -%}
{% for message in messages %}{{ message.role }}: {{ message.content }}
{%- for call in message.tool_calls or [] %}CALL{{ call.function | tojson }}{% endfor -%}
{% if message.role == "tool" %} by {{ message.name }}{% endif %}
{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"""
"""CALL stands for what marks a call in a family."""

MARKS = {"hermes": "<tool_call>", "mistral": "[TOOL_CALLS]", "llama": "<|python_tag|>"}

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tell the weather.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"$ref": "#/$defs/city"}, "days": {"enum": [1, 2]}},
            "required": ["city", "days"],
            "additionalProperties": False,
            "$defs": {"city": {"enum": ["Oslo", "Rome"]}},
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "clock"}}
TOOLS = [WEATHER, CLOCK]
ONLY_CLOCK = {"type": "function", "function": {"name": "clock"}}


def with_template(folder: Path, copy: Path, family: str) -> Path:
    """A copy of a model with a family's template; it is called `tiny`."""
    shutil.copytree(folder, copy)
    (copy / "chat_template.jinja").write_text(TEMPLATE.replace("CALL", MARKS[family]))
    return copy


@pytest.fixture(scope="module")
def tool_server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    top = tmp_path_factory.mktemp("tools")
    with served(with_template(folder, top / "tiny", "hermes"), top / "log.txt") as found:
        yield found


@pytest.fixture(scope="module")
def client(tool_server: Served) -> openai.OpenAI:
    return tool_server.client()


def chat(client: openai.OpenAI, **options: Any) -> Any:
    settings: dict[str, Any] = {"tools": TOOLS, "max_tokens": 300, "seed": 1}
    return asking.chat(client, **(settings | options))


def test_a_call_goes_to_the_client_and_its_result_comes_back(client: openai.OpenAI) -> None:
    first = chat(client, tool_choice={"type": "function", "function": {"name": "weather"}})
    (choice,) = first.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    (call,) = choice.message.tool_calls
    assert (call.type, call.function.name) == ("function", "weather")
    arguments = json.loads(call.function.arguments)
    assert arguments["city"] in ("Oslo", "Rome")
    assert arguments["days"] in (1, 2)
    result = {"role": "tool", "tool_call_id": call.id, "content": "rain"}
    messages = [*HELLO, choice.message.to_dict(), result]
    second = chat(client, messages=messages, max_tokens=5)
    assert second.choices[0].message.content
    assert second.usage.prompt_tokens > first.usage.prompt_tokens
    assert second.usage.prompt_tokens_details.cached_tokens > first.usage.prompt_tokens - 5


def test_a_required_call_is_of_one_of_the_functions_and_has_its_arguments(
    client: openai.OpenAI,
) -> None:
    names = set()
    for seed in range(6):
        (choice,) = chat(client, tool_choice="required", seed=seed, temperature=2).choices
        (call,) = choice.message.tool_calls
        assert isinstance(json.loads(call.function.arguments), dict)
        names.add(call.function.name)
    assert names <= {"weather", "clock"}


def test_a_stream_has_the_call_of_the_whole_answer(client: openai.OpenAI) -> None:
    options = {"tool_choice": {"type": "function", "function": {"name": "weather"}}, "seed": 4}
    (whole,) = chat(client, **options).choices[0].message.tool_calls
    chunks = [chunk.choices[0] for chunk in chat(client, **options, stream=True)]
    first, *others = [call for chunk in chunks for call in chunk.delta.tool_calls or []]
    assert (first.index, first.type) == (0, "function")
    assert (first.function.name, first.function.arguments) == (whole.function.name, "")
    assert len(first.id) == 9
    assert all((one.index, one.id, one.function.name) == (0, None, None) for one in others)
    assert "".join(one.function.arguments for one in others) == whole.function.arguments
    assert len(others) > 2
    assert chunks[-1].finish_reason == "tool_calls"
    assert "".join(chunk.delta.content or "" for chunk in chunks) == ""


def test_without_a_call_the_answer_is_text(client: openai.OpenAI) -> None:
    auto = chat(client, max_tokens=20).choices[0]
    assert auto.message.content
    assert auto.message.tool_calls is None
    assert auto.finish_reason == "length"
    none = chat(client, max_tokens=20, tool_choice="none")
    plain = chat(client, max_tokens=20, tools=openai.omit)
    assert none.choices[0].message.content == plain.choices[0].message.content
    assert none.usage.prompt_tokens == plain.usage.prompt_tokens < chat(client).usage.prompt_tokens


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"tools": [{"type": "function"}]}, "tools[0]"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        ({"tools": [CLOCK, CLOCK]}, "tools"),
        ({"tools": [CLOCK] * 129}, "tools"),
        ({"tools": openai.omit, "tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "other"}}}, "tool_choice"),
        ({"tool_choice": "sometimes"}, "tool_choice"),
        ({"extra_body": {"parallel_tool_calls": 1}}, "parallel_tool_calls"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        (
            {
                "tools": [{"type": "function",
                           "function": {"name": "f", "parameters": {"type": "strng"}}}],
                "tool_choice": "required",
            },
            "tools",
        ),
        ({"messages": [{"role": "tool", "content": "a", "tool_call_id": "b"}]},
         "messages[0].tool_call_id"),
        ({"messages": [{"role": "assistant", "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "f", "arguments": "[1]"}}]}]},
         "messages[0].tool_calls[0].function.arguments"),
    ],
    ids=range(12),
)  # fmt: skip
def test_what_cannot_be_called_is_refused(
    client: openai.OpenAI, options: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as found:
        chat(client, **options)
    assert found.value.param == param


def request(**fields: Any) -> GenerationRequest:
    body = {"messages": HELLO, "tools": TOOLS, "max_tokens": 300, "seed": 3} | fields
    return read_chat(json.dumps(body).encode(), "tiny")


@pytest.mark.parametrize("family", MARKS)
def test_each_family_calls_in_its_own_form(folder: Path, tmp_path: Path, family: str) -> None:
    copy = with_template(folder, tmp_path / "tiny", family)
    engine = Engine(copy / "model.onnx", "tiny", 1, 2048, threads=1)
    asked = request(tool_choice={"type": "function", "function": {"name": "weather"}})
    (generation,) = engine.prepare(asked, threading.Event())
    engine.batch.add(generation)
    told = list[Event]()
    while not engine.batch.is_idle:
        told += [event for _, event in engine.batch.advance() if not isinstance(event, End)]
    (call,) = calls_of(told)
    assert call.name == "weather"
    assert json.loads(call.arguments)["city"] in ("Oslo", "Rome")
    assert [event.reason for event in told if isinstance(event, Finished)] == ["tool_calls"]


@pytest.mark.parametrize("parameters", [{"type": "object"}, {"not": {}}, {"type": "strng"}])
def test_a_call_of_its_own_accord_is_held_to_a_schema_or_to_any_object(
    folder: Path, tmp_path: Path, parameters: dict[str, Any]
) -> None:
    """Nothing is refused: without `tool_choice` nobody has asked for the schema."""
    copy = with_template(folder, tmp_path / "tiny", "hermes")
    engine = Engine(copy / "model.onnx", "tiny", 1, 2048, threads=1)
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    rules = engine._writers.rules(request(tools=[CLOCK, tool]))
    assert rules.answer is None
    assert rules.call is not None
    assert rules.call.after('\n{"name": "f", "arguments": {"a"') is not None
    assert rules.call.after('{"name": "g"') is None


def test_a_template_that_knows_no_calls_is_named_as_the_reason(folder: Path) -> None:
    engine = Engine(folder / "model.onnx", "tiny", 1, 512, threads=1)
    with pytest.raises(RefusalError, match="chat template has no calls of functions") as found:
        engine.prepare(request(), threading.Event())
    assert found.value.param == "tools"
    assert engine.prepare(request(tool_choice="none"), threading.Event())
