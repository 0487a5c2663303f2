"""Where an export goes while it is made: staged folders, passes to run, somebody to tell."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from resq_onnx.errors import ResqError
from resq_onnx.files import Staging, staged
from resq_onnx.graph.pass_runner import PassRunner
from resq_onnx.handoff.target import Target
from resq_onnx.progress import Progress


@dataclass(frozen=True)
class Output:
    """Where the result goes, and who is told on the way.

    Attributes:
        staging: Of the quantised model.
        kept: Of the float model, if that is asked for too.
        runtime: What the folder is for.
        passes: Runs the passes.
        report: Whether report.html is asked for.
        progress: Receives progress updates.
    """

    staging: Staging
    kept: Staging | None
    runtime: Target
    passes: PassRunner
    report: bool
    progress: Progress


@contextmanager
def staged_output(
    out: str | Path,
    runtime: Target,
    save_rotated: str | Path | None,
    dump_passes: str | Path | None,
    report: bool,
    progress: Progress | None,
) -> Iterator[Output]:
    """Make the folders in which the output is prepared; nothing is left of them afterwards.

    Raises:
        ResqError: A folder cannot be written.
    """
    passes = PassRunner(Path(dump_passes) if dump_passes else None)
    with staged(out) as staging, staged_float(save_rotated, out) as kept:
        yield Output(staging, kept, runtime, passes, report, progress or Progress())


@contextmanager
def staged_float(target: str | Path | None, out: str | Path) -> Iterator[Staging | None]:
    """Stage the float model too, if it is asked for: both appear in the end, or neither."""
    if target is None:
        yield None
        return
    if Path(target).absolute() == Path(out).absolute():
        raise ResqError(f"{target}: is to hold both models; name another file for --save-rotated")
    with staged(target) as staging:
        yield staging
