from __future__ import annotations

import os
import select
import sys
from pathlib import Path

from scripts.gpu_stages import ABSENT, Stage, run

LONG = 60.0


def python(code: str, seconds: float = LONG, lines: tuple[str, ...] = ()) -> Stage:
    return Stage("stage", (sys.executable, "-c", code), seconds, lines)


def test_a_stage_gets_its_lines_and_its_output_is_kept(tmp_path: Path) -> None:
    found = run(python("print(input().upper())", lines=("a line",)), tmp_path)
    assert (found.state, found.output, found.reason) == ("passed", ("A LINE",), "")
    assert (tmp_path / "stage.out").read_text() == "A LINE\n"


def test_a_program_that_is_not_installed_is_absent(tmp_path: Path) -> None:
    found = run(Stage("stage", ("no-such-program",), LONG), tmp_path)
    assert (found.state, found.reason) == ("absent", "no no-such-program on the path")


def test_a_program_that_misses_something_is_absent_and_says_what(tmp_path: Path) -> None:
    found = run(
        python(f"import sys; print('no onnx', file=sys.stderr); sys.exit({ABSENT})"), tmp_path
    )
    assert (found.state, found.reason) == ("absent", f"exit code {ABSENT}: no onnx")


def test_a_failure_is_told_by_its_code_and_last_line(tmp_path: Path) -> None:
    found = run(python("import sys; print('first'); sys.exit('last words')"), tmp_path)
    assert (found.state, found.reason) == ("failed", "exit code 1: last words")
    assert found.output == ("first",)


def test_a_stage_that_takes_too_long_ends_with_its_children_and_keeps_its_output(
    tmp_path: Path,
) -> None:
    child = "import signal; signal.pause()"
    code = (
        "import subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}])\n"
        "print(child.pid, flush=True)\n"
        "child.wait()"
    )
    for seconds in (2.0, 8.0, 32.0):  # until there is time enough for two programs to begin
        found = run(python(code, seconds), tmp_path)
        assert (found.state, found.reason) == ("cut off", f"after its {seconds:.0f} s")
        if found.output:
            break
    wait_for_end_of(int(found.output[0]))


def wait_for_end_of(pid: int) -> None:
    """Fails if a process, which need not be a child, still runs after a minute."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([process], [], [], LONG)[0]
    finally:
        os.close(process)


def test_half_a_line_is_not_output(tmp_path: Path) -> None:
    found = run(python("import sys; sys.stdout.write('us=1.5\\nus=2.')"), tmp_path)
    assert found.output == ("us=1.5",)


def test_a_stage_that_no_time_is_left_for_does_not_begin(tmp_path: Path) -> None:
    found = run(python("print('begun')"), tmp_path, left=0.0)
    assert (found.state, found.output) == ("cut off", ())
    assert not (tmp_path / "stage.out").exists()
