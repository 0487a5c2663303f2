from __future__ import annotations

import itertools

import pytest

from resq_onnx.cli import console


def test_without_a_terminal_every_step_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert not console.log.is_terminal
    with console.showing_progress() as progress:
        progress.step("Calibrating")
        progress.advance(1, 2)
        progress.warn("a [bracket]")
        progress.step("Writing")
    assert capsys.readouterr().err.splitlines() == [
        "Calibrating",
        "Warning: a [bracket]",
        "Writing",
    ]


def test_a_long_step_without_a_terminal_says_how_far_it_is(
    capsys: pytest.CaptureFixture[str],
) -> None:
    seconds = itertools.count(0.0, console.SECONDS_BETWEEN_LINES / 4)
    with console._lines(lambda: next(seconds)) as progress:
        progress.step("Calibrating")
        for done in range(1, 13):
            progress.advance(done, 12)
    first, *lines = capsys.readouterr().err.splitlines()
    assert first == "Calibrating"
    assert 1 < len(lines) < 12
    assert all(line.startswith("Calibrating ") and "/12, " in line for line in lines)
