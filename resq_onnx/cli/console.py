"""What the commands share: where they print, and how a long one tells what it is doing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from resq_onnx.progress import Report

out = Console()
log = Console(stderr=True)


@contextmanager
def reporting() -> Iterator[Report]:
    """Show the steps of a long command, on stderr, with a bar where its length is known."""
    from resq_onnx.progress import Report

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[units]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=log) as bars:

        def step(title: str) -> None:
            finish()
            bars.add_task(title, total=None, units="")

        def advance(done: int, total: int) -> None:
            bars.update(bars.task_ids[-1], completed=done, total=total, units=f"{done}/{total}")

        def warn(line: str) -> None:
            bars.console.print(f"Warning: {line}", style="yellow", markup=False, highlight=False)

        def finish() -> None:
            for task in bars.tasks:
                bars.update(task.id, completed=task.total or 1, total=task.total or 1)

        yield Report(step, advance, warn)
        finish()
