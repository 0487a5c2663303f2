from __future__ import annotations

import re

import click
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


def test_verbose_says_what_each_step_took(capsys: pytest.CaptureFixture[str]) -> None:
    with (
        click.Context(click.Command("export"), obj=console.VERBOSE),
        console.showing_progress() as progress,
    ):
        progress.step("Calibrating")
        progress.advance(1, 2)
        progress.step("Writing")
    began, calibrated, _, wrote = capsys.readouterr().err.splitlines()
    assert began == "Calibrating"
    figures = r"\d+\.\d s; memory: [\d,]+ MB now, [\d,]+ MB at most"
    assert re.fullmatch(f"  Calibrating: {figures}", calibrated)
    assert re.fullmatch(f"  Writing: {figures}", wrote)


def test_quiet_shows_warnings_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with console.showing_progress(quiet=True) as progress:
        progress.step("Calibrating")
        progress.advance(1, 2)
        progress.warn("a [bracket]")
    assert capsys.readouterr().err == "Warning: a [bracket]\n"


def test_a_line_is_printed_whole_and_its_brackets_are_no_markup(
    capsys: pytest.CaptureFixture[str],
) -> None:
    long = "a [red]path[/red] " * 20
    console.print_line(long)
    console.print_line("to the log", to=console.log, end="")
    assert capsys.readouterr() == (f"{long}\n", "to the log")
