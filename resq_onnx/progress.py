"""Progress reporting of long computations: steps, units done, and warnings."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

SECONDS_BETWEEN_LINES: Final = 15.0
"""Seconds between two lines of one step if no bar is shown."""


@dataclass(frozen=True)
class Progress:
    """Receives progress updates; the default ignores them.

    Attributes:
        step: Called with a title when a new step begins.
        advance: Called with the units done and the total units of this step.
        warn: Called with a warning of one line.
    """

    step: Callable[[str], None] = lambda title: None
    advance: Callable[[int, int], None] = lambda done, total: None
    warn: Callable[[str], None] = lambda line: None


def progress_for(asked: Progress | bool | None) -> Progress:
    """The Progress for the `progress` argument of a function.

    Args:
        asked: A Progress of the caller's own; True for lines on stderr; False for logged warnings
            only; None chooses between True and False, by whether the process is interactive.
    """
    if isinstance(asked, Progress):
        return asked
    if asked or (asked is None and _is_watched()):
        return print_steps()
    return Progress(warn=logging.getLogger(__name__.partition(".")[0]).warning)


def print_steps(clock: Callable[[], float] = time.monotonic) -> Progress:
    """Print a line on stderr when a step begins, at intervals within a step, and for a warning."""
    title, began, printed = "", clock(), clock()
    first: tuple[int, float] | None = None  # of a step: units and time of its first update

    def tell(line: str) -> None:
        nonlocal printed
        printed = clock()
        print(line, file=sys.stderr, flush=True)

    def step(new: str) -> None:
        nonlocal title, began, first
        title, began, first = new, clock(), None
        tell(title)

    def advance(done: int, total: int) -> None:
        nonlocal first
        now = clock()
        first = first or (done, now)  # what an earlier run has finished took no time of this one
        if now - printed >= SECONDS_BETWEEN_LINES:
            units, seconds = done - first[0], now - first[1]
            left = f", about {seconds / units * (total - done):.0f} s left" if units else ""
            tell(f"{title} {done}/{total}, {now - began:.0f} s{left}")

    return Progress(step, advance, lambda line: tell(f"Warning: {line}"))


def _is_watched() -> bool:
    """Whether a user sees the output: in a notebook, in IPython, or on a terminal."""
    ipython = sys.modules.get("IPython")
    if ipython is not None and ipython.get_ipython() is not None:
        return True
    return sys.stderr is not None and sys.stderr.isatty()
