"""Where the commands print, and how a long one shows its progress."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from rich import progress as bars
from rich.console import Console

if TYPE_CHECKING:
    from resq_onnx.progress import Progress

out = Console()
log = Console(stderr=True)

SECONDS_BETWEEN_LINES: Final = 15.0
"""Of one step, where no terminal can show a bar: rare enough for a log, often enough to wait."""


def print_line(text: str, *, to: Console = out, end: str = "\n", style: str | None = None) -> None:
    """Print as it is: lines stay whole, for copying, and brackets in a path are no markup."""
    to.print(text, end=end, style=style, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def showing_progress() -> Iterator[Progress]:
    """Show the steps of a long command on stderr: bars on a terminal, lines elsewhere."""
    with _bars() if log.is_terminal else _lines() as progress:
        yield progress


def _warn(line: str) -> None:
    print_line(f"Warning: {line}", to=log, style="yellow")


@contextmanager
def _bars() -> Iterator[Progress]:
    """A line for each step, with a bar where its length is known."""
    from resq_onnx.progress import Progress

    columns = (
        bars.SpinnerColumn(),
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.TextColumn("{task.fields[units]}"),
        bars.TimeElapsedColumn(),
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


@contextmanager
def _lines(clock: Callable[[], float] = time.monotonic) -> Iterator[Progress]:
    """A line when a step begins, and within it now and then."""
    from resq_onnx.progress import Progress

    title, began, printed = "", clock(), clock()

    def tell(line: str) -> None:
        nonlocal printed
        printed = clock()
        print_line(line, to=log)

    def step(new: str) -> None:
        nonlocal title, began
        title, began = new, clock()
        tell(title)

    def advance(done: int, total: int) -> None:
        if clock() - printed >= SECONDS_BETWEEN_LINES:
            tell(f"{title} {done}/{total}, {clock() - began:.0f} s")

    yield Progress(step, advance, _warn)
