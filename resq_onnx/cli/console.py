"""Console output of the commands: results, and progress bars of long ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich import progress as bars
from rich.console import Console

from resq_onnx.progress import Progress, print_steps

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
    elif log.is_terminal:
        with _bars() as progress:
            yield progress
    else:
        yield print_steps()


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
