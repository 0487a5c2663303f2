"""Chat templates: from a list of messages to the text a model was trained to continue.

The templates are Jinja programs that come with a model, from whoever made it, so they run in
Jinja's sandbox. The functions they may call are those that Hugging Face's template engine gives.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import jinja2.ext
from jinja2 import nodes
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from resq_onnx.errors import ResqError


def render_chat(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    add_generation_prompt: bool,
    special_tokens: Mapping[str, str],
    where: str,
) -> str:
    """Render messages with a chat template.

    Args:
        template: The Jinja source.
        messages: Each with "role" and "content".
        add_generation_prompt: Whether to end with the beginning of the assistant's answer.
        special_tokens: Variables of the template, such as bos_token.
        where: The template's file, for the message of a refusal.

    Raises:
        ResqError: The template is broken, or refuses the messages.
    """
    # Through JSON: the template sees plain values only, none with methods of their own.
    plain = json.loads(json.dumps(list(messages), ensure_ascii=False))
    try:
        return (
            _environment()
            .from_string(template)
            .render(
                messages=plain,
                tools=None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **special_tokens,
            )
        )
    except Exception as error:  # a template is a program: it may raise anything
        raise ResqError(f"{where}: the chat template refuses these messages: {error}") from None


class _GenerationTag(jinja2.ext.Extension):
    """{% generation %} ... {% endgeneration %} marks an answer for training: just its content."""

    tags = {"generation"}  # noqa: RUF012, jinja2 declares it so

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _GuardedNamespace(Namespace):
    """A namespace that keeps a template away from Python's own attributes."""

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise SecurityError(f"a chat template must not set the attribute {name!r}")
        super().__setitem__(name, value)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_GenerationTag, jinja2.ext.loopcontrols],
    )
    environment.filters["tojson"] = _to_json
    environment.globals.update(
        raise_exception=_raise_exception,
        strftime_now=_strftime_now,
        namespace=_GuardedNamespace,
        dict=_make_dict,
    )
    return environment


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


def _make_dict(*pairs: Any, **items: Any) -> dict[Any, Any]:
    return dict(*pairs, **items)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own filter escapes HTML, which is wrong for a prompt."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
