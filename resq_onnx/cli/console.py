"""Console output of the commands: results, and progress bars of long ones."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Final

import click
from rich import progress as bars
from rich.console import Console

from resq_onnx.progress import Progress, print_steps
from resq_onnx.resources import peak_bytes, resident_bytes

VERBOSE: Final = "verbose"
"""The object of click's context where `--verbose` was given."""

out = Console()
log = Console(stderr=True)


def print_line(text: str, *, to: Console = out, end: str = "\n", style: str | None = None) -> None:
    """Print text verbatim: lines are not wrapped, for copying, and brackets are not markup."""
    to.print(text, end=end, style=style, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def showing_progress(quiet: bool = False) -> Iterator[Progress]:
    """Show the steps of a long command on stderr: bars on a terminal, lines elsewhere.

    Args:
        quiet: Show only warnings.
    """
    if quiet:
        yield Progress(warn=_warn)
        return
    with _bars() if log.is_terminal else nullcontext(print_steps()) as progress:
        if not is_verbose():
            yield progress
            return
        with _measured(progress) as measured:
            yield measured


def is_verbose() -> bool:
    """Whether `--verbose` was on the command line that is being carried out."""
    context = click.get_current_context(silent=True)
    return context is not None and context.find_root().obj == VERBOSE


@contextmanager
def _measured(
    progress: Progress, clock: Callable[[], float] = time.monotonic
) -> Iterator[Progress]:
    """Also say, at the end of each step, what it took."""
    title, began = "", clock()

    def step(new: str) -> None:
        nonlocal title, began
        tell()
        title, began = new, clock()
        progress.step(new)

    def tell() -> None:
        if title:
            now = resident_bytes()
            memory = "" if now is None else f"{now / 1e6:,.0f} MB now, "
            took = f"{clock() - began:.1f} s; memory: {memory}{peak_bytes() / 1e6:,.0f} MB at most"
            print_line(f"  {title}: {took}", to=log)

    yield Progress(step, progress.advance, progress.warn)
    tell()


def _warn(line: str) -> None:
    print_line(f"Warning: {line}", to=log, style="yellow")


@contextmanager
def _bars() -> Iterator[Progress]:
    """A line for each step, with a bar where its length is known."""
    columns = (
        bars.SpinnerColumn(),
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.TextColumn("{task.fields[units]}"),
        bars.TimeElapsedColumn(),
        bars.TimeRemainingColumn(),
    )
    with bars.Progress(*columns, console=log) as shown:

        def step(title: str) -> None:
            finish()
            shown.add_task(title, total=None, units="")

        def advance(done: int, total: int) -> None:
            shown.update(shown.task_ids[-1], completed=done, total=total, units=f"{done}/{total}")

        def finish() -> None:
            for task in shown.tasks:
                shown.update(task.id, completed=task.total or 1, total=task.total or 1)

        yield Progress(step, advance, _warn)
        finish()
