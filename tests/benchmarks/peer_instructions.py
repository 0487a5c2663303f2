"""Which vector instructions each peer executes, on the CPU as it is and on the masked one."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Final

from rich.console import Console
from rich.table import Table

from tests.benchmarks.masked_cpu import MaskedCpu
from tests.benchmarks.masked_cpu.counts import Counts
from tests.benchmarks.peer_runtime import Runtime, Scenario

COLUMNS: Final = ("vector samples", "AVX-512", "VNNI")


def watch(
    runtimes: Sequence[Runtime], cpu: MaskedCpu, scenario: Scenario, new_tokens: int
) -> dict[str, list[Counts]]:
    """Run each twice: with the CPU as it is, and with the masked one."""
    counts: dict[str, list[Counts]] = {}
    for runtime in runtimes:
        name = runtime.peer.name
        for masked in (False, True):
            print(f"watching {name}{' on the masked CPU' if masked else ''}", file=sys.stderr)
            found = runtime.watch(cpu, masked, scenario, new_tokens)
            counts.setdefault(name, []).append(found)
    return counts


def print_instructions(counts: Mapping[str, Sequence[Counts]]) -> None:
    """Print a line for each runtime.

    Args:
        counts: What `watch` returned.
    """
    table = Table(title="samples of the program counter at vector instructions")
    table.add_column("runtime", no_wrap=True)
    for column in (*COLUMNS, *(f"masked: {name}" for name in COLUMNS), "cpuids answered"):
        table.add_column(column, justify="right")
    for name, runs in counts.items():
        cells = [cell for run in runs for cell in shares(run)]
        table.add_row(name, *cells, str(runs[-1].answered))
    Console(width=110).print(table)


def shares(run: Counts) -> tuple[str, str, str]:
    """Samples at vector instructions, and which part of these were AVX-512's and VNNI's."""
    vector = run.vex + run.evex
    if not vector:
        return "0", "–", "–"
    return str(vector), _percent(run.evex, vector), _percent(run.vnni, vector)


def _percent(part: int, whole: int) -> str:
    """Zero is printed for none alone."""
    return f"{100 * part / whole:.1f} %" if part else "0"
