"""The command line as a user has it: in this process, or in one of its own."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from click.testing import CliRunner, Result

from resq_onnx.cli import main

CALL_MAIN: Final = "import sys; from resq_onnx.cli import main; main(prog_name='resq-onnx')"

QUICK: Final = ("--samples", "4", "--sequence-length", "64")
"""A calibration of which only the existence matters."""


def run(*arguments: object) -> Result:
    """Run `resq-onnx` in this process; imports are then paid for once."""
    with _keeping_signal_handlers():
        return CliRunner().invoke(main, [str(argument) for argument in arguments])


def run_successfully(*arguments: object) -> Result:
    """As `run`, for a command that has to succeed."""
    result = run(*arguments)
    assert result.exit_code == 0, result.stderr
    return result


def program(*arguments: object, before: str = "") -> list[str]:
    """The command line of a process of its own, which first executes `before`."""
    return [sys.executable, "-c", f"{before}\n{CALL_MAIN}", *map(str, arguments)]


def run_process(*arguments: object, before: str = "") -> subprocess.CompletedProcess[str]:
    """Run `resq-onnx` in a process of its own."""
    return subprocess.run(program(*arguments, before=before), capture_output=True, text=True)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file under a folder, hidden ones too."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def repeatable(folder: Path) -> dict[str, Any]:
    """The files of an export, without the only thing that a repetition changes: its peak memory.

    Hashes, and what resq.json says: pytest takes an hour to show where two models' bytes differ.
    """
    found: dict[str, Any] = {
        name: hashlib.sha256(content).hexdigest() for name, content in contents(folder).items()
    }
    found["resq.json"] = json.loads((folder / "resq.json").read_text())
    del found["resq.json"]["peak_memory_bytes"]
    return found


def error_line(stderr: str) -> str:
    """The one line that says what went wrong, which is the last and has no traceback above it."""
    assert "Traceback" not in stderr
    lines = stderr.strip().splitlines()
    errors = [line for line in lines if line.startswith(("Error:", "Interrupted"))]
    assert len(errors) == 1, stderr
    assert lines[-1] == errors[0], stderr
    return errors[0]


@contextmanager
def _keeping_signal_handlers() -> Iterator[None]:
    """The command line takes two signals for itself; the tests' process must not keep that."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
