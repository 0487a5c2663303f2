"""What the answers of one load say: a row of the table; and whether the goals are met."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Final

from tests.benchmarks.serving.clients import LONG, MIXED, RANDOM, SHORT, SHORTS, Sample

LEAST_SPEEDUP: Final = 4.0
"""Goal: so many times the tokens per second of one client, with eight."""

MOST_RATIO: Final = 3.0
"""Goal: so many times the usual time between tokens, while a long prompt runs."""


@dataclass(frozen=True)
class Figures:
    """Of one server, one load and one number of clients; times in milliseconds.

    Attributes:
        speed: New tokens per second of all clients together.
        first: Median time from a request to its first piece.
        first_p95: The time below which 95 % of them are.
        between: Median time from piece to piece, of short prompts alone if there are any.
        between_p95: The time below which 95 % of them are.
        stalled: The same while a long prompt of another client runs, divided by the median while
            none does; None if there is no long prompt beside short ones.
    """

    speed: float
    first: float
    first_p95: float
    between: float
    between_p95: float
    stalled: float | None


Results = Mapping[tuple[str, int, str], Figures]
"""By name of the load, number of clients, and name of the server."""


def figures(rounds: Sequence[Sequence[Sample]], new_tokens: int) -> Figures:
    """Of all rounds together; the speed is the median of theirs."""
    samples = [sample for one in rounds for sample in one]
    shorts = [sample for sample in samples if sample.prompt_tokens == SHORT] or samples
    first = [1e3 * (sample.times[0] - sample.sent) for sample in samples]
    between = [1e3 * (b - a) for a, b in gaps(shorts)]
    return Figures(
        statistics.median(speed(one, new_tokens) for one in rounds),
        statistics.median(first),
        p95(first),
        statistics.median(between),
        p95(between),
        stalled_ratio(samples),
    )


def speed(samples: Sequence[Sample], new_tokens: int) -> float:
    """Tokens per second from the first request to the last token."""
    began = min(sample.sent for sample in samples)
    return new_tokens * len(samples) / (max(sample.times[-1] for sample in samples) - began)


def gaps(samples: Sequence[Sample]) -> Iterator[tuple[float, float]]:
    """Beginning and end of the times between pieces."""
    return (gap for sample in samples for gap in pairwise(sample.times))


def stalled_ratio(samples: Sequence[Sample]) -> float | None:
    """`Figures.stalled`."""
    prompts = [(one.sent, one.times[0]) for one in samples if one.prompt_tokens == LONG]
    beside: list[float] = []
    alone: list[float] = []
    for begin, end in gaps([one for one in samples if one.prompt_tokens == SHORT]):
        meets = any(begin < until and end > since for since, until in prompts)
        (beside if meets else alone).append(end - begin)
    return p95(beside) / statistics.median(alone) if beside and alone else None


def p95(values: Sequence[float]) -> float:
    """The value below which 95 % of them are."""
    return sorted(values)[min(int(0.95 * len(values)), len(values) - 1)]


HEADS: Final = ("tokens/s", "first, ms", "p95", "between, ms", "p95", "while 512 run, p95 ÷ median")


def table(results: Results) -> str:
    """All results in Markdown."""
    heads = ["prompt tokens", "clients", "server", *HEADS]
    rows = [heads, ["---"] * len(heads)]
    for (load, clients, server), found in results.items():
        values = (getattr(found, field.name) for field in fields(found))
        cells = ("" if value is None else f"{value:.1f}" for value in values)
        rows.append([load, str(clients), server, *cells])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def goals(results: Results, ours: str, other: str) -> Iterator[str]:
    """A line for each goal, and whether it is met.

    Args:
        results: All of them.
        ours: Name of our server.
        other: Name of the server to be ahead of.
    """
    speeds = {key: found.speed for key, found in results.items()}
    for server in dict.fromkeys(server for _, _, server in results):
        one, eight = speeds.get((SHORTS.name, 1, server)), speeds.get((SHORTS.name, 8, server))
        if one and eight:
            yield _line(f"{server}: 8 clients, relative to one", eight / one, LEAST_SPEEDUP)
    for (name, clients, server), found in results.items():
        closed = name != RANDOM.name  # which is as fast as it is asked
        if closed and server == ours and (theirs := speeds.get((name, clients, other))):
            what = f"{name}, {clients} clients: {ours}, relative to {other}"
            yield _line(what, found.speed / theirs, 1.0)
    for (name, clients, server), found in results.items():
        if name == MIXED.name and found.stalled is not None:
            what = f"{clients} clients: {server}, p95 between tokens while 512 tokens arrive"
            yield _line(what, found.stalled, MOST_RATIO, most=True)


def _line(what: str, value: float, goal: float, most: bool = False) -> str:
    met = value <= goal if most else value >= goal
    limit = f"at {'most' if most else 'least'} {goal:g}x"
    return f"- {what}: {value:.2f}x ({limit}: {'met' if met else 'not met'})"
