"""Single kernels against what the machine can do.

python -m tests.benchmarks.kernels [--threads N] [--tables targets layers ...] [--json FILE]

Cases of a table run in turns. "limit" is the share of the speed that the multiply-adds of the
instruction set, or reads from main memory, allow: see kernel_limits.py and peaks.cpp. What they
allow is measured before and after, and the higher figure counts.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Final

from rich.console import Console
from rich.table import Table

from resq_onnx.evaluation.machine import describe_machine
from resq_onnx.functions import MatMulForm
from tests.benchmarks import peaks
from tests.benchmarks.kernel_cases import (
    LAYERS,
    Case,
    LayerSizes,
    attention_case,
    hadamard_case,
    layer_matmuls,
    matmul_case,
    split_of,
)
from tests.benchmarks.kernel_limits import Limits, isa_of
from tests.benchmarks.kernel_sessions import CaseSession, copies_beyond
from tests.benchmarks.machine import machine_line

ROWS: Final = (1, 16, 512)
CONTEXTS: Final = (512, 3584, 8192)
SMALL: Final = {"small": LayerSizes(128, 4, 2, 32, 256)}
WIDE: Final = 4096
"""Columns of the matrix that is larger than the last cache."""

Cases = Iterator[Case]

Sampled = tuple[Case, int, list[float]]
"""A case, its copies in a session, and seconds of one copy in each sample."""


@dataclass(frozen=True)
class Measured:
    """One line of a table: seconds of each sample, and what limits them."""

    name: str
    rows: int
    copies: int
    seconds: list[float]
    median_seconds: float
    gmacs: float
    stored_gbs: float
    limited_by: str | None
    share_of_limit: float | None


def targets(last_cache_bytes: int, small: bool) -> Cases:
    """Many rows of (512, 1536, 2048), and one row on a matrix larger than the last cache."""
    if small:
        yield matmul_case("many rows, 256 x 128", MatMulForm(split_of(256)), 64, 128)
        return
    yield matmul_case("many rows, 1536 x 2048", MatMulForm(split_of(1536)), 512, 2048)
    # A column takes 9/16 bytes.
    outputs = min(4 * last_cache_bytes * 16 // 9 // WIDE, 1 << 17) // 1024 * 1024
    yield matmul_case(f"one row, {WIDE} x {outputs}", MatMulForm(split_of(WIDE)), 1, outputs)


def layers(sizes: LayerSizes, small: bool) -> Cases:
    """The matrices of a layer for few and many rows."""
    for rows in ROWS[:2] if small else ROWS:
        yield from layer_matmuls(sizes, rows)


def attention(sizes: LayerSizes, small: bool) -> Cases:
    """One token on contexts of several lengths, and a prompt."""
    for context in (64,) if small else CONTEXTS:
        yield attention_case(f"decode on {context}", sizes, 1, context)
    prompt = 32 if small else 512
    yield attention_case(f"prefill of {prompt}", sizes, prompt, prompt)


def hadamards(sizes: LayerSizes, small: bool) -> Cases:
    """GatedHadamard for few and many rows."""
    for rows in ROWS[:2] if small else ROWS:
        yield hadamard_case("gated Hadamard", sizes, rows)


PER_LAYER: Final[dict[str, Callable[[LayerSizes, bool], Cases]]] = {
    "layers": layers,
    "attention": attention,
    "hadamard": hadamards,
}


def sample(cases: Cases, last_cache_bytes: int, options: argparse.Namespace) -> list[Sampled]:
    """Open all cases of a table, and take their samples in turns."""
    beyond = 0 if options.small else last_cache_bytes
    sessions = [
        CaseSession(case, copies_beyond(case, beyond), options.threads, options.kernels)
        for case in cases
    ]
    samples: list[list[float]] = [[] for _ in sessions]
    for _ in range(options.repeat):
        for session, seconds in zip(sessions, samples, strict=True):
            seconds.append(session.sample())
    # The arrays are not needed any more, and large.
    return [
        (replace(session.case, arrays={}), session.copies, seconds)
        for session, seconds in zip(sessions, samples, strict=True)
    ]


def judged(case: Case, copies: int, seconds: list[float], limits: Limits) -> Measured:
    """Median speeds, and their share of the limit."""
    middle = median(seconds)
    limit = limits.seconds(case, copies)
    return Measured(
        name=case.name,
        rows=case.rows,
        copies=copies,
        seconds=seconds,
        median_seconds=middle,
        gmacs=1e-9 * case.macs / middle,
        stored_gbs=1e-9 * case.stored_bytes / middle,
        limited_by=limit and limit[1],
        share_of_limit=limit and limit[0] / middle,
    )


def print_table(title: str, lines: list[Measured]) -> None:
    """One line for each case."""
    table = Table(title=title, title_justify="left")
    table.add_column("case", no_wrap=True)
    for column in ("rows", "copies", "µs", "GMAC/s", "GB/s read", "% of limit"):
        table.add_column(column, justify="right")
    table.add_column("limited by")
    for line in lines:
        share = "–" if line.share_of_limit is None else f"{100 * line.share_of_limit:.0f}"
        table.add_row(
            line.name,
            f"{line.rows}",
            f"{line.copies}",
            f"{1e6 * line.median_seconds:.1f}",
            f"{line.gmacs:.1f}" if line.gmacs else "–",
            f"{line.stored_gbs:.1f}" if line.stored_gbs else "–",
            share,
            line.limited_by or "–",
        )
    Console(width=110).print(table)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeat", type=int, default=9, help="samples of each case")
    parser.add_argument(
        "--tables", nargs="+", default=["targets", *PER_LAYER], choices=["targets", *PER_LAYER]
    )
    parser.add_argument("--models", nargs="+", default=list(LAYERS), choices=list(LAYERS))
    parser.add_argument("--no-kernels", dest="kernels", action="store_false")
    parser.add_argument("--small", action="store_true", help="tiny sizes: does it work at all?")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every sample")
    return parser.parse_args()


def wanted_tables(
    options: argparse.Namespace, last_cache_bytes: int
) -> Iterator[tuple[str, Cases]]:
    """Title and cases of each table; cases are made when they are asked for."""
    if "targets" in options.tables:
        yield "targets", targets(last_cache_bytes, options.small)
    sizes = SMALL if options.small else {name: LAYERS[name] for name in options.models}
    for table, cases in PER_LAYER.items():
        if table in options.tables:
            for model, layer in sizes.items():
                yield f"{table} of {model}", cases(layer, options.small)


def main() -> None:
    """Measure the peaks, the cases, and the peaks again; then print."""
    options = parse_arguments()
    runs = 3 if options.small else 9
    before = peaks.measure(options.threads, runs)
    kernels = describe_machine().kernels if options.kernels else None
    samples: dict[str, list[Sampled]] = {}
    for title, cases in wanted_tables(options, before.last_cache_bytes):
        print(f"measuring {title}", file=sys.stderr)
        samples[title] = sample(cases, before.last_cache_bytes, options)
    found = before.or_higher(peaks.measure(options.threads, runs))
    limits = Limits(found, isa_of(kernels, found), options.threads)
    tables = {
        title: [judged(*sampled, limits) for sampled in lines] for title, lines in samples.items()
    }
    for title, table in tables.items():
        print_table(title, table)
    running, where = kernels or "function bodies", machine_line()
    print(f"Running {running}; {limits.describe()}.")
    print(f"Medians of {options.repeat} samples in turns. {where}.")
    if any((line.share_of_limit or 0.0) > 1.0 for table in tables.values() for line in table):
        print("Some are beyond the limit: the machine had other work while limits were measured.")
    if options.json:
        lines = {title: [asdict(line) for line in table] for title, table in tables.items()}
        written = {"machine": where, "running": running, "limits": limits.describe()}
        options.json.write_text(json.dumps({**written, "tables": lines}, indent=1) + "\n")


if __name__ == "__main__":
    main()
