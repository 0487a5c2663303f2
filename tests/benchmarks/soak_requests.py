"""Requests of all kinds for `soak`, and their answers in a form that can be compared."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pydoc_data.topics import topics
from typing import Any, Final

from tests.benchmarks.serving.connection import events, lines

SYSTEM_PROMPTS: Final = 24
"""Three times as many as the server has rows: what is known of one is forgotten for another."""

STOPS: Final = (["\n\n"], [". "], [" the", " of"], ["e"])

EXTRAS: Final[tuple[dict[str, Any], ...]] = (
    {"n": 2},
    {"presence_penalty": 0.6, "frequency_penalty": 0.3},
    {"top_k": 20, "min_p": 0.02},
    {"response_format": {"type": "json_object"}},
)
"""What one request in four asks for besides."""


@dataclass(frozen=True)
class Question:
    """A request.

    Attributes:
        path: Behind /v1.
        body: Its fields, without those of a stream.
    """

    path: str
    body: Mapping[str, Any]

    @property
    def is_chat(self) -> bool:
        """Whether the answer is a message."""
        return "messages" in self.body


def questions(count: int, seed: int, name: str) -> list[Question]:
    """Ever the same ones for a seed; many share their beginnings."""
    chosen = random.Random(seed)
    words = " ".join(topics[topic] for topic in sorted(topics)).split()

    def text(least: int, most: int) -> str:
        length, begin = chosen.randint(least, most), chosen.randrange(len(words) - most)
        return " ".join(words[begin : begin + length])

    systems = [text(10, 60) for _ in range(SYSTEM_PROMPTS)]
    beginnings = [text(20, 80) for _ in range(SYSTEM_PROMPTS)]
    found = []
    for number in range(count):
        body = {"model": name, "seed": number, **_sampling(chosen)}
        if chosen.random() < 0.6:
            turns = [("system", chosen.choice(systems)), ("user", text(2, 25))]
            if chosen.random() < 0.4:
                turns += [("assistant", text(5, 25)), ("user", text(2, 25))]
            body["messages"] = [{"role": role, "content": said} for role, said in turns]
            found.append(Question("/chat/completions", body))
        else:
            shared = chosen.choice(beginnings) if chosen.random() < 0.5 else ""
            body["prompt"] = f"{shared} {text(3, 40)}"
            found.append(Question("/completions", body))
    return found


def _sampling(chosen: random.Random) -> dict[str, Any]:
    body: dict[str, Any] = {
        "max_tokens": chosen.randint(1, 32),
        "temperature": chosen.choice([0.0, 0.7, 1.2]),
        "top_p": chosen.choice([0.9, 1.0]),
    }
    if chosen.random() < 0.25:
        body["stop"] = chosen.choice(STOPS)
    if chosen.random() < 0.25:
        body |= chosen.choice(EXTRAS)
    return body


@dataclass
class Said:
    """An answer.

    Attributes:
        texts: Of each choice.
        reasons: Why each ended.
        new_tokens: Of all of them.
        prompt_tokens: Of the request.
        known: How many of these came from the cache, which depends on what was asked before.
    """

    texts: dict[int, str] = field(default_factory=dict)
    reasons: dict[int, str] = field(default_factory=dict)
    new_tokens: int = 0
    prompt_tokens: int = 0
    known: int = 0

    def equals(self, other: Said) -> bool:
        """Whether all is equal that does not depend on other requests."""
        return (self.texts, self.reasons, self.new_tokens) == (
            other.texts, other.reasons, other.new_tokens,
        )  # fmt: skip

    def begins(self, other: Said) -> bool:
        """Whether each text so far is the beginning of the other's."""
        return all(other.texts[index].startswith(text) for index, text in self.texts.items())

    def add(self, choices: Sequence[Mapping[str, Any]], usage: Mapping[str, Any] | None) -> None:
        """Add a whole answer, or an event of a stream."""
        for choice in choices:
            index, part = choice["index"], choice.get("message") or choice.get("delta") or choice
            piece = part.get("text") or part.get("content") or ""
            self.texts[index] = self.texts.get(index, "") + piece
            if choice["finish_reason"]:
                self.reasons[index] = choice["finish_reason"]
        if usage:
            self.new_tokens, self.prompt_tokens = usage["completion_tokens"], usage["prompt_tokens"]
            self.known = usage["prompt_tokens_details"]["cached_tokens"]


def fillers(count: int, length: int, name: str) -> list[Question]:
    """Requests that have nothing in common, each of which fills a row of the cache."""
    return [
        Question("/completions", {"model": name, "max_tokens": 1,
                                  "prompt": list(range(1000 + first, 999 + first + length))})
        for first in range(count)
    ]  # fmt: skip


async def ask_whole(url: str, question: Question) -> Said:
    """The answer in one piece; errors are those of `lines`."""
    said = Said()
    async with aclosing(lines(url + question.path, question.body)) as found:
        answer = json.loads(b"".join([line async for line in found]))
    said.add(answer["choices"], answer["usage"])
    return said


async def ask_stream(url: str, question: Question, most_events: int | None = None) -> Said:
    """The answer as a stream; after some events the client goes, if that is asked for."""
    said, seen = Said(), 0
    body = {**question.body, "stream": True, "stream_options": {"include_usage": True}}
    async with aclosing(events(url + question.path, body)) as found:
        async for event in found:
            if "error" in event:
                raise RuntimeError(f"in a stream: {event['error']}")
            said.add(event["choices"], event.get("usage"))
            seen += 1
            if seen == most_events:
                break
    return said
