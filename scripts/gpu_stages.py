"""Stages of `make gpu`: programs with a time limit, whose output is kept if they are cut off."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

State = Literal["passed", "failed", "cut off", "absent"]

ABSENT: Final = 77
"""Exit code of a program that finds what it needs missing, as automake's tests have it."""


@dataclass(frozen=True)
class Stage:
    """A program that `make gpu` runs.

    Attributes:
        name: Name in the report and of the files with its output.
        command: The program and its arguments.
        seconds: Time limit.
        lines: Its standard input.
        environment: Variables that are set for it.
    """

    name: str
    command: tuple[str, ...]
    seconds: float
    lines: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """How a stage ended.

    Attributes:
        name: Of the stage.
        state: `absent` if the program, or something it needs, is not installed.
        seconds: That it took.
        output: Whole lines of its standard output, up to where it was cut off.
        reason: The last line of standard error, if it did not pass.
    """

    name: str
    state: State
    seconds: float
    output: tuple[str, ...] = ()
    reason: str = ""


def run(stage: Stage, folder: Path, left: float = float("inf")) -> Outcome:
    """Run a stage, and end it, with all that it started, when its time is over.

    Args:
        stage: The stage.
        folder: Existing folder for its output, `NAME.out` and `NAME.err`.
        left: Seconds that all remaining stages have.
    """
    program = shutil.which(stage.command[0])
    if program is None:
        return Outcome(stage.name, "absent", 0.0, reason=f"no {stage.command[0]} on the path")
    limit = min(stage.seconds, left)
    if limit <= 0:
        return Outcome(stage.name, "cut off", 0.0, reason="no time was left for it")
    begin = time.monotonic()
    out, err = folder / f"{stage.name}.out", folder / f"{stage.name}.err"
    with out.open("w") as stdout, err.open("w") as stderr:
        code = _wait(stage, program, limit, stdout.fileno(), stderr.fileno())
    seconds = time.monotonic() - begin
    text = out.read_text(errors="replace")
    output = tuple(text[: text.rfind("\n") + 1].splitlines())  # a line that was cut off is none
    if code == 0:
        return Outcome(stage.name, "passed", seconds, output)
    if code is None:
        return Outcome(stage.name, "cut off", seconds, output, f"after its {limit:.0f} s")
    state: State = "absent" if code == ABSENT else "failed"
    lines = err.read_text(errors="replace").splitlines() or output or ("",)
    return Outcome(stage.name, state, seconds, output, f"exit code {code}: {lines[-1]}"[:300])


def _wait(stage: Stage, program: str, limit: float, stdout: int, stderr: int) -> int | None:
    """The exit code of a program, or None if it was cut off."""
    process = subprocess.Popen(
        [program, *stage.command[1:]],
        stdin=subprocess.PIPE,
        stdout=stdout,
        stderr=stderr,
        env={**os.environ, **stage.environment},
        text=True,
        start_new_session=True,  # a group of its own, to end with its children
    )
    try:
        process.communicate("".join(f"{line}\n" for line in stage.lines), timeout=limit)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return None
    return process.returncode
