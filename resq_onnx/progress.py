"""Progress of a long computation: its steps, how far each is, and warnings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """Receives progress updates; the default ignores them.

    Attributes:
        step: Called with a title when a new step begins.
        advance: Called with the units done and the units in all of this step.
        warn: Called with one line that the user should know.
    """

    step: Callable[[str], None] = lambda title: None
    advance: Callable[[int, int], None] = lambda done, total: None
    warn: Callable[[str], None] = lambda line: None
