"""The tables of `peers`: medians, and how many times ours is faster or smaller."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from tests.benchmarks.peer_runtime import Scenario

Samples = Mapping[str, Sequence[Mapping[str, float]]]

SPEEDS: Final = {"prefill_tokens_per_s": "prefill", "decode_tokens_per_s": "decode"}


def print_table(title: str, samples: Samples, ours: str) -> None:
    """Print one scenario: a line for each runtime."""
    table = Table(title=title, title_justify="left")
    table.add_column("runtime", no_wrap=True)
    for label in SPEEDS.values():
        table.add_column(f"{label} tokens/s", justify="right")
        table.add_column("ours ÷", justify="right")
    for column in ("peak MB", "load s"):
        table.add_column(column, justify="right")
    for name, runs in samples.items():
        cells = [name]
        for key in SPEEDS:
            speed = middle(runs, key)
            cells.append(f"{speed:.1f}")
            cells.append(f"{middle(samples[ours], key) / speed:.2f}" if ours in samples else "–")
        cells.append(f"{middle(runs, 'peak_memory_mb'):.0f}")
        cells.append(f"{middle(runs, 'load_s'):.2f}")
        table.add_row(*cells)
    Console(width=100).print(table)


def print_busy_table(samples: Mapping[Scenario, Samples]) -> None:
    """Print what share of its quiet one-thread decode a runtime keeps beside a busy process."""
    by_kind = {(s.threads > 1, s.busy): by_name for s, by_name in samples.items()}
    one, many, busy = (by_kind.get(k, {}) for k in ((False, False), (True, False), (True, True)))
    table = Table(title="decode, tokens/s, while one core is busy", title_justify="left")
    table.add_column("runtime")
    for column in ("1 thread", "all threads", "all, one core busy", "kept of 1 thread"):
        table.add_column(column, justify="right")
    for name in (name for name in busy if name in one and name in many):
        speeds = [middle(found[name], "decode_tokens_per_s") for found in (one, many, busy)]
        cells = [f"{speed:.1f}" for speed in speeds]
        table.add_row(name, *cells, f"{speeds[2] / speeds[0]:.2f}")
    Console(width=100).print(table)


def middle(runs: Sequence[Mapping[str, float]], key: str) -> float:
    """The median of one figure."""
    return median(run[key] for run in runs)
