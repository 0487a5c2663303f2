"""Child process that renders chat templates: Jinja's sandbox and the process's own limits.

For each text it reads one line of JSON, with a template and its values, and writes one line, with
the text or a refusal. A template may call the functions that Hugging Face's template engine offers.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any, Final

import jinja2.ext
from jinja2 import nodes
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

MAX_TEXT: Final = 2**24
"""Largest number of characters of a text: several times the limit of a server's requests."""

MAX_MEMORY: Final = 2**29
"""Limit on address space in bytes; Python and Jinja take a tenth."""

LAST_SECONDS: Final = 15
"""Time limit for a template that nobody waits for; a waiting process ends it earlier."""


def main() -> None:
    """Answer lines until the input ends."""
    _limit_itself()
    print("ready", flush=True)
    for line in sys.stdin.buffer:
        request = json.loads(line)
        signal.alarm(LAST_SECONDS)
        answer = render(request["template"], request["values"])
        signal.alarm(0)
        said = json.dumps(answer, ensure_ascii=False).encode(errors="surrogatepass")
        sys.stdout.buffer.write(said + b"\n")
        sys.stdout.buffer.flush()


def render(template: str, values: Mapping[str, Any]) -> dict[str, str]:
    """The text, or a refusal that completes a sentence about the template."""
    pieces, length = [], 0
    try:
        for piece in _environment().from_string(template).generate(**values):
            length += len(piece)
            if length > MAX_TEXT:
                return {"refusal": f"writes more than {MAX_TEXT} characters"}
            pieces.append(piece)
    except MemoryError:
        return {"refusal": f"takes more than {MAX_MEMORY // 2**20} MB of memory"}
    except Exception as error:  # a template is a program: it may raise anything
        return {"refusal": f"refuses these messages: {error}"}
    return {"text": "".join(pieces)}


def _limit_itself() -> None:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # kills the process
    for kind, most in ((resource.RLIMIT_AS, MAX_MEMORY), (resource.RLIMIT_CORE, 0)):
        with suppress(ValueError, OSError):  # a system may lack this limit, or have a lower one
            resource.setrlimit(kind, (most, most))


class _GenerationTag(jinja2.ext.Extension):
    """{% generation %} ... {% endgeneration %} marks an answer for training: keep its content."""

    tags = {"generation"}  # noqa: RUF012, jinja2 declares it so

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _GuardedNamespace(Namespace):
    """A namespace that denies a template access to Python's own attributes."""

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
