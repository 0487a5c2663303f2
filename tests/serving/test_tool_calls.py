"""Calls of functions in the text of answers, in the formats of three families."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from resq_onnx.serving.call_reading import CallReader
from resq_onnx.serving.tool_calls import (
    HERMES,
    LLAMA,
    MISTRAL,
    Arguments,
    Call,
    CallFormat,
    format_of,
    schema_of_call,
)

TOKYO: dict[str, Any] = {"city": "T\N{LATIN SMALL LETTER O WITH MACRON}ky\u014d", "days": [1, {}]}
OSLO = {"city": "Oslo </tool"}


def written(form: CallFormat, name: str, arguments: dict[str, Any]) -> str:
    return json.dumps({"name": name, form.arguments: arguments}, ensure_ascii=False)


HERMES_TEXT = (
    f"I look.\n<tool_call>\n{written(HERMES, 'weather', TOKYO)}\n</tool_call>\n<tool_call>\n"
    f"{written(HERMES, 'weather', OSLO)}\n</tool_call>"
)
MISTRAL_TEXT = (
    f"[TOOL_CALLS] [{written(MISTRAL, 'weather', TOKYO)}, {written(MISTRAL, 'weather', OSLO)}]"
)
LLAMA_TEXT = f"{written(LLAMA, 'weather', TOKYO)}; {written(LLAMA, 'weather', OSLO)}"


def read(form: CallFormat, text: str, step: int = 1000, **options: bool) -> tuple[str, list[Call]]:
    """The text and the calls of an answer that comes in pieces."""
    settings = {"opened": False, "several": True} | options
    reader = CallReader(form, ("weather",), **settings)
    parts = [part for i in range(0, len(text), step) for part in reader.feed(text[i : i + step])]
    parts += reader.rest()
    calls = list[Call]()
    for part in parts:
        if isinstance(part, Call):
            calls.append(part)
        elif isinstance(part, Arguments):
            calls[-1] = replace(calls[-1], arguments=calls[-1].arguments + part.text)
    assert reader.found == len(calls)
    return "".join(part for part in parts if isinstance(part, str)), calls


@pytest.mark.parametrize("step", [1, 2, 7, 1000])
@pytest.mark.parametrize(
    ("form", "text", "said"),
    [
        (HERMES, HERMES_TEXT, "I look.\n"),
        (MISTRAL, MISTRAL_TEXT, ""),
        (LLAMA, LLAMA_TEXT, ""),
        (LLAMA, f"<|python_tag|>{LLAMA_TEXT}", ""),
    ],
)
def test_calls_are_found_wherever_the_text_is_cut(
    form: CallFormat, text: str, said: str, step: int
) -> None:
    found, calls = read(form, text, step)
    assert found == said
    assert [call.name for call in calls] == ["weather"] * 2
    assert [json.loads(call.arguments) for call in calls] == [TOKYO, OSLO]
    assert len({call.id for call in calls}) == 2
    assert all(len(call.id) == 9 and call.id.isalnum() for call in calls)


@pytest.mark.parametrize("step", [1, 3, 1000])
@pytest.mark.parametrize(
    ("form", "text"),
    [
        (HERMES, "a < b, <tool_cal and <tool_call>no JSON</tool_call> too"),
        (HERMES, '<tool_call>{"name": "weather", "argum'),
        (HERMES, '<tool_call>{"name": "unknown", "arguments": {}}</tool_call>'),
        (HERMES, '<tool_call>{"name": ["weather"], "arguments": {}}</tool_call>'),
        (HERMES, f"<tool_call>{'[' * 100_000}</tool_call>"),
        (MISTRAL, "[TOOL_CALLS]nothing"),
        (MISTRAL, "[TOOL and [1] \n"),
        (LLAMA, '{"name": "weather", "parameters": 3}'),
        (LLAMA, ' {"temperature": 3} is JSON'),
        (LLAMA, "It is {warm}."),
    ],
)
def test_what_is_no_call_stays_text(form: CallFormat, text: str, step: int) -> None:
    if len(text) > 1000:
        step = 1000
    assert read(form, text, step) == (text, [])


@pytest.mark.parametrize(("form", "text"), [(HERMES, HERMES_TEXT), (MISTRAL, MISTRAL_TEXT)])
def test_of_several_calls_one_is_taken_if_that_is_all_that_may_be(
    form: CallFormat, text: str
) -> None:
    _, calls = read(form, text, several=False)
    assert [json.loads(call.arguments) for call in calls] == [TOKYO]


@pytest.mark.parametrize("form", [HERMES, MISTRAL, LLAMA])
def test_a_call_that_the_prompt_has_begun_needs_no_marker(form: CallFormat) -> None:
    text = written(form, "weather", OSLO)
    _, calls = read(form, f"[{text}]" if form.is_list else text, opened=True)
    assert [json.loads(call.arguments) for call in calls] == [OSLO]


def test_arguments_come_as_they_are_written() -> None:
    reader = CallReader(HERMES, ("weather",), opened=False, several=True)
    assert list(reader.feed('<tool_call>\n{"name": "weather", "arguments": ')) == []
    call, first = reader.feed('{"city": "}')
    assert isinstance(call, Call)
    assert (call.name, call.arguments, first) == ("weather", "", Arguments('{"city": "}'))
    assert list(reader.feed("\\")) == [Arguments("\\")]
    assert list(reader.feed('"", "days": [{')) == [Arguments('"", "days": [{')]
    assert list(reader.feed("}]}}\n</tool_call> Then")) == [Arguments("}]}"), " Then"]
    assert list(reader.rest()) == []


@pytest.mark.parametrize("step", [1, 1000])
@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>{"arguments": {"a": 1}, "name": "weather"}</tool_call>',
        '<tool_call>{"type": "function", "name": "weather", "parameters": {"a": 1}}</tool_call>',
        '<tool_call>{"name": "weather", "arguments": {"a": 1}',
    ],
)
def test_other_ways_to_write_a_call_are_read(text: str, step: int) -> None:
    said, calls = read(HERMES, text, step)
    assert said == ""
    assert [json.loads(call.arguments) for call in calls] == [{"a": 1}]


@pytest.mark.parametrize("step", [1, 1000])
def test_calls_of_a_list_may_have_ids(step: int) -> None:
    call = '{"name": "weather", "arguments": {"a": 1}, "id": "abcdefghi"}'
    said, calls = read(MISTRAL, f"[TOOL_CALLS] [{call}, {call}]", step)
    assert said == ""
    assert [json.loads(call.arguments) for call in calls] == [{"a": 1}] * 2


def test_arguments_that_are_cut_off_stay_arguments() -> None:
    _, calls = read(HERMES, '<tool_call>{"name": "weather", "arguments": {"a": [1')
    assert [call.arguments for call in calls] == ['{"a": [1']
    said, calls = read(HERMES, '<tool_call>{"name": "weather", "arguments": {"a": 1</tool_call> so')
    assert (said, [call.arguments for call in calls]) == (" so", ['{"a": 1'])


def test_text_is_sent_as_soon_as_it_cannot_begin_a_call() -> None:
    reader = CallReader(HERMES, ("weather",), opened=False, several=True)
    assert list(reader.feed("It is <")) == ["It is "]
    assert list(reader.feed("b> warm")) == ["<b> warm"]
    llama = CallReader(LLAMA, ("weather",), opened=False, several=True)
    assert list(llama.feed(" ")) == []
    assert list(llama.feed("It")) == [" It"]


@pytest.mark.parametrize(
    ("template", "form"),
    [
        ("{{ '[TOOL_CALLS] ' + calls }}", MISTRAL),
        ("{{ '[TOOL_CALLS]' + name + '[ARGS]' }}", None),
        ("for each call: <tool_call>", HERMES),
        ("<tool_call><function=name>", None),
        ("{{ '<|python_tag|>' }}", LLAMA),
        ("Environment: ipython", LLAMA),
        ("{{ messages }}", None),
        (None, None),
    ],
)
def test_the_format_is_that_of_the_chat_template(
    template: str | None, form: CallFormat | None
) -> None:
    assert format_of(template) is form


def test_references_within_a_schema_stay_right_inside_the_schema_of_a_call() -> None:
    schema = {
        "$defs": {"day": {"enum": [1, {"$ref": "#/x"}]}},
        "properties": {"a": {"$ref": "#/$defs/day"}, "b": [{"$ref": "http://x"}]},
    }
    found = schema_of_call(MISTRAL, {"f": {}, "g": schema})
    place = found["items"]["anyOf"][1]["properties"]["arguments"]
    assert place["properties"]["a"]["$ref"] == "#/items/anyOf/1/properties/arguments/$defs/day"
    assert place["properties"]["b"] == [{"$ref": "http://x"}]
    assert place["$defs"] == schema["$defs"]
