"""Divide an answer into text and calls of functions, as it comes."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from typing import Any, Final

from resq_onnx.serving.stop_strings import overlap
from resq_onnx.serving.tool_calls import Arguments, Call, CallFormat, new_id

HEAD: Final = (
    r'\{\s*(?:"type"\s*:\s*"function"\s*,\s*)?"name"\s*:\s*"([^"\\]{1,64})"\s*,'
    r'\s*"(?:arguments|parameters)"\s*:\s*(?=\{)'
)
"""A call up to its arguments, as models write it; other orders are read when they are complete."""

FIRST_HEAD: Final = re.compile(r"[\s\[]{0,16}" + HEAD)
NEXT_HEAD: Final = re.compile(r'\s{0,16}(?:,\s*"id"\s*:\s*"[^"]{0,64}"\s*)?\}[\s,;]{0,16}' + HEAD)
"""A further call of a list; in some templates a call ends with its id."""

BARE_HEAD: Final = re.compile(r'\s*\{\s*"name"')
"""The beginning of an answer that is taken for a call without a marker."""

IN_JSON: Final = re.compile(r'["\\{}\[\]<]')


class ObjectEnd:
    """Finds the end of a JSON object in a text that comes in pieces."""

    def __init__(self) -> None:
        """Begin before the opening brace."""
        self._depth = 0
        self._in_string = self._escapes = False

    def feed(self, text: str) -> int | None:
        """How much of the next piece is part of the object; None if all, and more.

        What is no JSON, but a tag, ends it, too.
        """
        if self._escapes and text:
            self._escapes, start = False, 1
        else:
            start = 0
        while (found := IN_JSON.search(text, start)) is not None:
            sign, start = found[0], found.end()
            if sign == "\\" and self._in_string:
                self._escapes = start == len(text)
                start += 1
            elif sign == '"':
                self._in_string = not self._in_string
            elif not self._in_string and sign == "<":
                return found.start()
            elif not self._in_string and sign != "\\":
                self._depth += 1 if sign in "{[" else -1
                if self._depth <= 0:
                    return start
        return None


class CallReader:
    """Divides an answer into text and calls, as it comes.

    A call is told when its function is known, and its arguments piece by piece. What has the form
    of a call and is none stays text.

    Attributes:
        found: Number of calls that have begun.
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
        self._arguments: ObjectEnd | None = None
        self._follows = False
        """Whether a call has been told since the last marker."""

    @property
    def is_complete(self) -> bool:
        """Whether the answer has all calls that it may have."""
        return self.found > 0 and not self._several and self._arguments is None

    @property
    def opened(self) -> str | None:
        """The beginning of a call whose function is not known yet; None if there is none."""
        if self._starts:
            return self._held.lstrip() if BARE_HEAD.match(self._held) else None
        return self._held if self._inside and not self._follows else None

    def feed(self, text: str) -> Iterator[str | Call | Arguments]:
        """Take the next text; yield text and calls that are certain, in their order."""
        self._held += text
        while self._held:
            if self._arguments is not None:
                yield from self._more(self._arguments)
                continue
            if not self._inside:
                yield from self._outside()
            if (name := self._head()) is not None:
                self.found += 1
                self._inside, self._starts, self._follows = True, False, True
                self._arguments = ObjectEnd()
                yield Call(new_id(), name, "")
                continue
            end = self._held.find(self._form.closing) if self._form.closing else -1
            if not self._inside or end < 0:
                return
            written, self._held = self._held[:end], self._held[end + len(self._form.closing) :]
            self._inside = False
            yield from self._read(written, self._form.marker, self._form.closing)

    def rest(self) -> Iterator[str | Call | Arguments]:
        """What has been held back, once all text has come."""
        held, self._held = self._held, ""
        if self._inside:
            yield from self._read(held, self._form.marker)
        elif self._starts:
            yield from self._read(held)
        elif held:
            yield from self._text(held)

    def _more(self, arguments: ObjectEnd) -> Iterator[Arguments]:
        """The next piece of the arguments of a call."""
        size = arguments.feed(self._held)
        if size is not None:
            self._arguments = None
        piece, self._held = self._held[:size], "" if size is None else self._held[size:]
        if piece:
            yield Arguments(piece)

    def _head(self) -> str | None:
        """The function of a call that begins here, which is then taken from the text."""
        if not (self._inside or self._starts) or (self.found and not self._several):
            return None
        head = (NEXT_HEAD if self._follows else FIRST_HEAD).match(self._held)
        if head is None or head[1] not in self._names:
            return None
        self._held = self._held[head.end() :]
        return head[1]

    def _outside(self) -> Iterator[str]:
        """Yield text up to the beginning of a call."""
        if self._starts and self._held.lstrip()[:1] in ("", "{"):
            return
        self._starts = False
        before, marker, after = self._held.partition(self._form.marker)
        if marker:
            self._inside, self._held, self._follows = True, after, False
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
        if self._follows:  # the end of what has been told
            return
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
