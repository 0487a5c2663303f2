"""Where an export goes while it is made: staged folders, passes to run, somebody to tell."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from resq_onnx.checkpoint.folder import COMPANION_FILES, WEIGHTS
from resq_onnx.errors import ResqError
from resq_onnx.files import Staging, refuse_overwriting, staged
from resq_onnx.files.overwriting import same_file
from resq_onnx.graph.pass_runner import PassRunner
from resq_onnx.handoff.target import Target
from resq_onnx.progress import Progress, progress_for

WRITTEN_BESIDE: Final = (*COMPANION_FILES, "resq.json", "README.md")
"""Names of files that are written beside a model, and that no model can have itself."""


@dataclass(frozen=True)
class Output:
    """Where the result goes, and who is told on the way.

    Attributes:
        staging: Of the quantised model.
        kept: Of the float model, if that is asked for too.
        runtime: What the folder is for.
        passes: Runs the passes.
        report: Whether report.html is asked for.
        force: Whether a model is written too that the quality gate refuses.
        threads: Of ONNX Runtime, when it runs what was written; None for one per core.
        progress: Receives progress updates.
    """

    staging: Staging
    kept: Staging | None
    runtime: Target
    passes: PassRunner
    report: bool
    force: bool
    threads: int | None
    progress: Progress


def check_output(
    out: str | Path, save_rotated: str | Path | None, model: Path, inputs: Sequence[Path]
) -> None:
    """Refuse, before any work, outputs that would replace what is read, or one another.

    Args:
        out: The .onnx file to write.
        save_rotated: That of the float model, or None.
        model: The directory or file of the model.
        inputs: All files that are read.

    Raises:
        ResqError: One would, or the folder is another model's.
    """
    first, second = (
        [] if one is None else [Path(one), Path(f"{one}.data")] for one in (out, save_rotated)
    )
    refuse_overwriting([*first, *second], inputs)
    if any(same_file(one, other) for one in first for other in second):
        raise ResqError(
            f"{save_rotated}: is to hold both models; name another file for --save-rotated"
        )
    for target in (one[0] for one in (first, second) if one):
        if target.name in WRITTEN_BESIDE:
            raise ResqError(
                f"{target}: is the name of a file that is written beside the model; "
                f"name the model otherwise, e.g. {target.with_name('model.onnx')}"
            )
        folder = target.parent
        if any((folder / name).is_file() for name in WEIGHTS) and not same_file(folder, model):
            raise ResqError(
                f"{target}: {folder} holds another model, whose config.json and tokenizer would be "
                "replaced; write into a folder of its own"
            )


@contextmanager
def staged_output(
    out: str | Path,
    runtime: Target,
    save_rotated: str | Path | None,
    dump_passes: str | Path | None,
    report: bool,
    force: bool,
    threads: int | None,
    progress: Progress | bool | None,
) -> Iterator[Output]:
    """Make the folders in which the output is prepared; nothing is left of them afterwards.

    Raises:
        ResqError: A folder cannot be written.
    """
    passes = PassRunner(Path(dump_passes) if dump_passes else None)
    with staged(out) as staging, staged_float(save_rotated) as kept:
        yield Output(staging, kept, runtime, passes, report, force, threads, progress_for(progress))


@contextmanager
def staged_float(target: str | Path | None) -> Iterator[Staging | None]:
    """Stage the float model too, if it is asked for: both appear in the end, or neither."""
    if target is None:
        yield None
        return
    with staged(target) as staging:
        yield staging
