"""Clients of a server: in a closed loop, or at random times; what they asked and when it came."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pydoc_data.topics import topics
from typing import Any, Final

from resq_onnx.runtime import Tokenizer
from tests.benchmarks.serving.connection import events

SHORT: Final = 30
LONG: Final = 512

SECONDS_BETWEEN: Final = 2.0
"""Mean time between two requests of a client that asks at random times."""


@dataclass(frozen=True)
class Endpoint:
    """Where to ask, and how.

    Attributes:
        url: Such as http://127.0.0.1:8000/v1.
        fields: Of every request, in this server's words: the likeliest token each time, no end
            before the last token, nothing taken from earlier requests.
    """

    url: str
    fields: Mapping[str, Any]


@dataclass
class Sample:
    """One answer; times in seconds of one clock.

    Attributes:
        prompt_tokens: Tokens of its prompt.
        sent: When it was asked for.
        times: When each piece of it came.
    """

    prompt_tokens: int
    sent: float
    times: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Load:
    """How clients ask.

    Attributes:
        name: In the table.
        length: Tokens of a prompt; client `number` sends so many.
        closed: Whether each asks again once it has its answer, or else at random times.
        least_clients: With fewer it says nothing.
        first_is_late: Whether client 0 waits until another's answer has begun.
    """

    name: str
    length: Callable[[int], int]
    closed: bool = True
    least_clients: int = 1
    first_is_late: bool = False


SHORTS: Final = Load("30", lambda _: SHORT)
RANDOM: Final = Load("30, Poisson", lambda _: SHORT, closed=False)
MIXED: Final = Load(
    "one of 512, others 30",
    lambda number: SHORT if number else LONG,
    least_clients=2,
    first_is_late=True,
)

LOADS: Final = {
    "30": SHORTS,
    "512": Load("512", lambda _: LONG),
    "mixed": MIXED,
    "poisson": RANDOM,
}
"""By the word of the command line."""


class Prompts:
    """Ever new pieces of Python's language reference, the same ones in each run."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._ids = tokenizer.encode("\n".join(topics[n] for n in sorted(topics))[:400_000])
        self._place = 0

    def next(self, length: int) -> list[int]:
        """A piece that begins like no other."""
        if self._place + length > len(self._ids):
            self._place %= 97  # another place than before
        piece = self._ids[self._place : self._place + length]
        self._place += length + 1
        return list(piece)


async def ask(
    endpoint: Endpoint, ids: Sequence[int], new_tokens: int, begun: asyncio.Event | None = None
) -> Sample:
    """Stream one answer; tell that it has begun.

    Raises:
        RuntimeError: It does not have as many tokens as were asked for.
    """
    body = {"prompt": list(ids), "max_tokens": new_tokens, "stream": True, "temperature": 0,
            "stream_options": {"include_usage": True}, **endpoint.fields}  # fmt: skip
    sample, got = Sample(len(ids), time.perf_counter()), 0
    async for event in events(f"{endpoint.url}/completions", body):
        if any(choice.get("text") for choice in event["choices"]):
            sample.times.append(time.perf_counter())
            if begun is not None:
                begun.set()
        if event.get("usage"):
            got = event["usage"]["completion_tokens"]
    if got != new_tokens:
        raise RuntimeError(f"{endpoint.url}: {got} tokens, and {new_tokens} were asked for")
    return sample


def texts_of(load: Load, prompts: Prompts, clients: int, requests: int) -> list[list[list[int]]]:
    """What each client asks, one prompt after the other."""
    return [
        [prompts.next(load.length(number)) for _ in range(requests)] for number in range(clients)
    ]


async def run(
    load: Load, endpoint: Endpoint, texts: Sequence[Sequence[Sequence[int]]], new_tokens: int
) -> list[Sample]:
    """Let clients ask, each its own texts; return all answers."""
    begun = asyncio.Event()

    async def client(number: int) -> list[Sample]:
        if load.first_is_late and number == 0:
            await begun.wait()
        if load.closed:
            return [await ask(endpoint, ids, new_tokens, begun) for ids in texts[number]]
        chosen = random.Random(number)
        waits = itertools.accumulate(chosen.expovariate(1 / SECONDS_BETWEEN) for _ in texts[number])
        pairs = zip(texts[number], waits, strict=True)
        return await asyncio.gather(*(_later(endpoint, ids, new_tokens, t) for ids, t in pairs))

    found = await asyncio.gather(*(client(number) for number in range(len(texts))))
    return [sample for samples in found for sample in samples]


async def _later(endpoint: Endpoint, ids: Sequence[int], new_tokens: int, seconds: float) -> Sample:
    await asyncio.sleep(seconds)
    return await ask(endpoint, ids, new_tokens)
