r"""Find the calls of functions in an answer: each family of models writes them in a way of its own.

    Hermes (Qwen 2.5, Qwen 3)  <tool_call>\n{"name": ..., "arguments": {...}}\n</tool_call>
    Mistral                    [TOOL_CALLS][{"name": ..., "arguments": {...}}, ...]
    Llama 3                    {"name": ..., "parameters": {...}}, also after <|python_tag|>

The chat template of a model tells which. A text in this form that is no call of a function of the
request stays text.
"""

from __future__ import annotations

import json
import secrets
import string
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from resq_onnx.serving.stop_strings import overlap

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
        arguments: A JSON text.
    """

    id: str
    name: str
    arguments: str


def format_of(template: str | None) -> CallFormat | None:
    """The format of a model's chat template; None if it is none of these."""
    if template is None:
        return None
    for form in FORMATS:
        if form.unless not in template and any(sign in template for sign in form.signs):
            return form
    return None


def schema_of_call(form: CallFormat, parameters: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The JSON schema of one call, of any of some functions.

    Args:
        form: How it is written.
        parameters: The schema of each function's arguments, by its name.
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
    return {"type": "array", "minItems": 1, "maxItems": 1, "items": call} if form.is_list else call


class CallReader:
    """Divides an answer into text and calls, as it comes.

    Attributes:
        found: Number of calls so far.
    """

    def __init__(
        self, form: CallFormat, names: Collection[str], opened: bool, several: bool
    ) -> None:
        """Begin an answer.

        Args:
            form: How calls are written.
            names: The functions.
            opened: Whether the prompt has begun a call already.
            several: Whether there may be more than one call.
        """
        self.found = 0
        self._form = form
        self._names = names
        self._several = several
        self._inside = opened
        self._held = ""
        self._starts = not opened and form.bare

    @property
    def is_complete(self) -> bool:
        """Whether the answer has all calls that it may have."""
        return self.found > 0 and not self._several

    def feed(self, text: str) -> Iterator[str | Call]:
        """Take the next text; yield text and calls that are certain, in their order."""
        self._held += text
        while True:
            if not self._inside:
                yield from self._outside()
            end = self._held.find(self._form.closing) if self._form.closing else -1
            if not self._inside or end < 0:
                return
            written, rest = self._held[:end], self._held[end + len(self._form.closing) :]
            self._inside, self._held = False, rest
            yield from self._read(written, self._form.marker, self._form.closing)

    def rest(self) -> Iterator[str | Call]:
        """What has been held back, once all text has come."""
        held, self._held = self._held, ""
        if self._inside:
            yield from self._read(held, self._form.marker)
        elif self._starts:
            yield from self._read(held)
        elif held:
            yield from self._text(held)

    def _outside(self) -> Iterator[str | Call]:
        """Yield text up to the beginning of a call."""
        if self._starts and self._held.lstrip()[:1] in ("", "{"):
            return
        self._starts = False
        before, marker, after = self._held.partition(self._form.marker)
        if marker:
            self._inside, self._held = True, after
        else:
            kept = overlap(before, self._form.marker)
            before, self._held = before[: len(before) - kept], before[len(before) - kept :]
        yield from self._text(before)

    def _text(self, text: str) -> Iterator[str]:
        """Text that is no call; white space after a call is none."""
        if text and not (self.found and not text.strip()):
            yield text

    def _read(self, written: str, opening: str = "", closing: str = "") -> Iterator[str | Call]:
        """The calls in a text, or the text if there are none."""
        calls = list(self._calls(written))
        if not calls:
            yield from self._text(opening + written + closing)
        for call in calls:
            if not self.is_complete:
                self.found += 1
                yield call

    def _calls(self, written: str) -> Iterator[Call]:
        """Calls in JSON, one after another, in a list or divided by semicolons."""
        decoder = json.JSONDecoder()
        rest = written.strip()
        while rest:
            try:
                value, end = decoder.raw_decode(rest)
            except (ValueError, RecursionError):
                return
            rest = rest[end:].lstrip().removeprefix(";").lstrip()
            for one in value if isinstance(value, list) else [value]:
                if (call := self._call(one)) is not None:
                    yield call

    def _call(self, value: Any) -> Call | None:
        name = value.get("name") if isinstance(value, dict) else None
        if not isinstance(name, str) or name not in self._names:
            return None
        arguments = value.get("arguments", value.get("parameters", {}))
        if not isinstance(arguments, dict):
            return None
        return Call(new_id(), name, json.dumps(arguments, ensure_ascii=False))


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
