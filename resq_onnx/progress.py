"""How a long computation tells what it is doing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Report:
    """Told of what happens; the default says nothing.

    Attributes:
        step: A new step begins.
        progress: Units done and units in all of this step.
        warn: Something the user should know, one line.
    """

    step: Callable[[str], None] = lambda title: None
    progress: Callable[[int, int], None] = lambda done, total: None
    warn: Callable[[str], None] = lambda line: None
