"""Answers that follow a JSON schema, through the real `openai` client."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from tests.serving import asking
from tests.serving.served import COMPLETIONS, Served

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "kind": {"enum": ["cat", "dog"]},
        "ages": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 99},
                 "minItems": 1, "maxItems": 3},
    },
    "required": ["name", "kind", "ages"],
    "additionalProperties": False,
}  # fmt: skip


def wanted(schema: Any = SCHEMA) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "pet", "schema": schema, "strict": True}}


def chat(client: openai.OpenAI, **options: Any) -> Any:
    settings: dict[str, Any] = {"response_format": wanted(), "max_tokens": 400}
    return asking.chat(client, **(settings | options))


def test_answers_follow_the_schema_at_any_temperature(client: openai.OpenAI) -> None:
    for seed, temperature in enumerate((0, 1, 2)):
        (choice,) = chat(client, seed=seed, temperature=temperature).choices
        found = json.loads(choice.message.content)
        assert list(found) == ["name", "kind", "ages"]
        assert len(found["name"]) <= 8
        assert found["kind"] in ("cat", "dog")
        assert all(0 <= age <= 99 for age in found["ages"])
        assert choice.finish_reason == "stop"


def test_a_stream_and_other_choices_follow_it_too(client: openai.OpenAI) -> None:
    options = {"seed": 5, "n": 2, "logprobs": True}
    whole = [choice.message.content for choice in chat(client, **options).choices]
    texts = ["", ""]
    for chunk in chat(client, **options, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert texts == whole
    assert texts[0] != texts[1]
    assert all(json.loads(text)["kind"] for text in texts)


def test_an_object_of_any_form_is_an_object(client: openai.OpenAI) -> None:
    options = {"response_format": {"type": "json_object"}, "temperature": 2, "seed": 1}
    (choice,) = chat(client, **options, logit_bias={"3": -100}, max_tokens=2000).choices
    assert choice.finish_reason == "length" or isinstance(json.loads(choice.message.content), dict)
    assert choice.message.content.startswith("{")
    plain = chat(client, response_format={"type": "text"}, max_tokens=4, seed=1)
    assert plain.choices[0].message.content == chat(
        client, response_format=openai.omit, max_tokens=4, seed=1
    ).choices[0].message.content  # fmt: skip


def test_completions_can_follow_a_schema(server: Served) -> None:
    body = {"prompt": "a", "response_format": wanted(), "max_tokens": 400, "seed": 2}
    status, found = server.post(COMPLETIONS, body)
    assert status == 200
    assert json.loads(found["choices"][0]["text"])["kind"] in ("cat", "dog")


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (wanted({"type": "strng"}), "cannot be followed: Invalid type: strng"),
        (wanted({"type": "object", "title": "a" * 70000}), "at most 65536"),
        (wanted([]), "must be an object with name and schema"),
        ({"type": "json_schema"}, "must be an object with name and schema"),
        ({"type": "grammar"}, "type text, json_object or json_schema"),
    ],
)
def test_a_schema_that_cannot_be_followed_is_refused(
    client: openai.OpenAI, given: dict[str, Any], reason: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=reason) as found:
        chat(client, response_format=given)
    assert str(found.value.param).startswith("response_format")


def test_a_schema_nested_too_deeply_is_refused_and_the_server_goes_on(server: Served) -> None:
    depth = 900
    schema = '{"items": ' * depth + "{}" + "}" * depth
    body = json.dumps({"prompt": "a", "response_format": wanted("X")}).replace('"X"', schema)
    status, found = server.post(COMPLETIONS, body.encode())
    assert status == 400, found
    assert server.health()["status"] == "ok"


ENDLESS = {"type": "object", "properties": {"next": {"$ref": "#"}}, "required": ["next"]}
LONG = {"type": "array", "items": {"const": 1}, "minItems": 100_000}


@pytest.mark.parametrize("schema", [ENDLESS, LONG], ids=["endless", "long"])
def test_a_schema_found_too_large_while_writing_is_the_fault_of_the_request(
    server: Served, schema: dict[str, Any]
) -> None:
    body = {"prompt": "a", "max_tokens": 50, "response_format": wanted(schema)}
    status, found = server.post(COMPLETIONS, body)
    assert status == 400  # clients repeat a request after 500
    assert "the schema cannot be followed after 1 tokens" in found["error"]["message"]
    assert found["error"]["param"] == "response_format"
