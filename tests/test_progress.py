from __future__ import annotations

import itertools
import logging
import sys
import types

import pytest

from resq_onnx.progress import SECONDS_BETWEEN_LINES, Progress, print_steps, progress_for


def test_a_long_step_says_how_far_it_is_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    seconds = itertools.count(0.0, SECONDS_BETWEEN_LINES / 4)
    progress = print_steps(lambda: next(seconds))
    progress.step("Calibrating")
    for done in range(1, 13):
        progress.advance(done, 12)
    first, *lines = capsys.readouterr().err.splitlines()
    assert first == "Calibrating"
    assert 1 < len(lines) < 12
    assert all(line.startswith("Calibrating ") and "/12, " in line for line in lines)


def test_the_time_left_is_that_of_what_this_run_has_to_do(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Twenty layers were finished by an earlier run; a layer takes 20 seconds."""
    now = 0.0
    progress = print_steps(lambda: now)
    progress.step("Calibrating")
    for done in range(21, 33):
        now += 20.0
        progress.advance(done, 32)
    _, *lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Calibrating 21/32, 20 s"
    assert lines[1] == "Calibrating 22/32, 40 s, about 200 s left"
    assert lines[-1] == "Calibrating 32/32, 240 s, about 0 s left"


def test_a_progress_of_the_callers_own_is_taken_as_it_is() -> None:
    own = Progress()
    assert progress_for(own) is own


@pytest.mark.parametrize("asked", [False, None])
def test_where_nobody_watches_steps_are_silent_and_warnings_logged(
    asked: bool | None, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    progress = progress_for(asked)
    progress.step("Calibrating")
    progress.warn("the text is short")
    assert capsys.readouterr().err == ""
    assert caplog.record_tuples == [("resq_onnx", logging.WARNING, "the text is short")]


def test_lines_are_printed_where_they_are_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    progress = progress_for(True)
    progress.step("Calibrating")
    progress.warn("the text is short")
    assert capsys.readouterr().err == "Calibrating\nWarning: the text is short\n"


def test_a_terminal_gets_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    progress_for(None).step("Calibrating")
    progress_for(False).step("Writing")
    assert capsys.readouterr().err == "Calibrating\n"


@pytest.mark.parametrize("shell", [None, "a notebook's"])
def test_a_notebook_gets_lines_though_it_is_no_terminal(
    shell: str | None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ipython = types.ModuleType("IPython")
    ipython.get_ipython = lambda: shell  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    progress_for(None).step("Calibrating")
    assert capsys.readouterr().err == ("Calibrating\n" if shell else "")
