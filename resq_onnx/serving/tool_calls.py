r"""Calls of functions in answers: each family of models writes them in a way of its own.

    Hermes (Qwen 2.5, Qwen 3)  <tool_call>\n{"name": ..., "arguments": {...}}\n</tool_call>
    Mistral                    [TOOL_CALLS][{"name": ..., "arguments": {...}}, ...]
    Llama 3                    {"name": ..., "parameters": {...}}, also after <|python_tag|>

The chat template of a model tells which. A text in this form that is no call of a function of the
request stays text.
"""

from __future__ import annotations

import secrets
import string
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

ID_LENGTH: Final = 9
"""Characters of a call's id: templates of Mistral take no others."""

LITERAL: Final = ("const", "enum", "default", "examples")
"""Keywords of a schema whose values are no schemas."""


@dataclass(frozen=True)
class CallFormat:
    """How a family writes calls.

    Attributes:
        signs: One of these is in its chat templates.
        unless: In templates of a newer form, which is not understood here.
        opening: Before calls; an answer that must be a call begins with it.
        marker: The part of `opening` by which a call is found.
        closing: After a call; empty if calls last until the end of the answer.
        arguments: Name of the arguments.
        is_list: Whether the calls are one list.
        bare: Whether an answer that begins with a brace may be a call.
    """

    signs: tuple[str, ...]
    unless: str
    opening: str
    marker: str
    closing: str
    arguments: str
    is_list: bool = False
    bare: bool = False


MISTRAL: Final = CallFormat(
    ("[TOOL_CALLS]",), "[ARGS]", "[TOOL_CALLS]", "[TOOL_CALLS]", "", "arguments", is_list=True
)
HERMES: Final = CallFormat(
    ("<tool_call>",), "<function=", "<tool_call>\n", "<tool_call>", "</tool_call>", "arguments"
)
LLAMA: Final = CallFormat(
    ("<|python_tag|>", "Environment: ipython"), "<tool_call>", "", "<|python_tag|>", "",
    "parameters", bare=True,
)  # fmt: skip
FORMATS: Final = (MISTRAL, HERMES, LLAMA)


@dataclass(frozen=True)
class Call:
    """A call of a function.

    Attributes:
        id: By which its result will be told.
        name: The function.
        arguments: A JSON text, or the beginning of one, which `Arguments` go on with.
    """

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class Arguments:
    """More of the arguments of the last call."""

    text: str


def format_of(template: str | None) -> CallFormat | None:
    """The format of a model's chat template; None if it is none of these."""
    if template is None:
        return None
    for form in FORMATS:
        if form.unless not in template and any(sign in template for sign in form.signs):
            return form
    return None


def schema_of_call(
    form: CallFormat, parameters: Mapping[str, Mapping[str, Any]], several: bool = False
) -> dict[str, Any]:
    """The JSON schema of one call, of any of some functions.

    Args:
        form: How it is written.
        parameters: The schema of each function's arguments, by its name.
        several: Whether a list, if calls are one, may have more than one.
    """
    place = "#/items" if form.is_list else "#"
    calls = []
    for number, (name, schema) in enumerate(parameters.items()):
        within = f"{place}/anyOf/{number}/properties/{form.arguments}"
        properties = {"name": {"const": name}, form.arguments: _moved(schema, within)}
        calls.append({
            "type": "object", "properties": properties, "required": ["name", form.arguments],
            "additionalProperties": False,
        })  # fmt: skip
    call = {"anyOf": calls}
    if not form.is_list:
        return call
    most = {} if several else {"maxItems": 1}
    return {"type": "array", "minItems": 1, **most, "items": call}


def new_id() -> str:
    """A random id."""
    alphabet = string.ascii_letters + string.digits
    return "".join(secrets.choice(alphabet) for _ in range(ID_LENGTH))


def _moved(schema: Any, place: str) -> Any:
    """A schema whose references to its own parts are right inside another schema."""
    if isinstance(schema, list):
        return [_moved(one, place) for one in schema]
    if not isinstance(schema, dict):
        return schema
    found = {}
    for name, value in schema.items():
        if name == "$ref" and isinstance(value, str) and value.startswith("#"):
            found[name] = place + value[1:]
        else:
            found[name] = value if name in LITERAL else _moved(value, place)
    return found
