"""What a refusal is: one clear line, a non-zero exit, and an output folder that has not changed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from resq_onnx.files.work_folder import usual_folder
from tests.command_line import contents, error_line, run

OLD_EXPORT: Final = {"out.onnx": b"graph", "out.onnx.data": b"data", "tokenizer.json": b"old"}
"""What is in the output folder before; only its bytes matter."""

FAST: Final = ("--method", "quarot", "--weights", "rtn")
"""A recipe without a calibration, for exports that fail after it."""


def refusal(out: Path, *arguments: object) -> str:
    """Run an export to `out` that must be refused; returns the line that says why."""
    result = run("export", *arguments[:1], out, *arguments[1:])
    assert result.exit_code == 1
    assert result.stdout == ""
    assert_untouched(out, result.stderr)
    return error_line(result.stderr)


def assert_untouched(out: Path, stderr: str) -> None:
    """All is as it was, but for finished layers in a folder of their own, of which is told."""
    work = usual_folder(out)
    assert work.exists() == (f"{work}: holds what is finished" in stderr)
    shutil.rmtree(work, ignore_errors=True)
    assert contents(out.parent) == OLD_EXPORT
    assert {path.name for path in out.parent.iterdir()} == OLD_EXPORT.keys()
