"""Signals end a command in order, and with one line."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from resq_onnx import cli
from tests.command_line import error_line, run_process
from tests.runtime import toy


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_command_ends_with_130(tmp_path: Path, number: signal.Signals) -> None:
    raise_it = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "import resq_onnx.graph.inspection\n"
        f"resq_onnx.graph.inspection.inspect_model = lambda _: signal.raise_signal({int(number)})"
    )
    result = run_process("inspect", toy.save_toy(tmp_path / "toy.onnx"), before=raise_it)
    assert result.returncode == cli.INTERRUPTED == 130
    assert error_line(result.stderr) == "Interrupted."


SIGNALLED = """
import os, signal
from resq_onnx.cli import main

@main.command()
def wait():
    os.kill(os.getpid(), signal.{name})
    signal.pause() if signal.getsignal(signal.{name}) is not signal.SIG_IGN else None
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_the_end_of_a_session_or_a_terminal_interrupts_a_command(name: str) -> None:
    # Where the tests run under nohup, a signal is ignored at first.
    default = f"import signal; signal.signal(signal.{name}, signal.SIG_DFL)"
    done = run_process("wait", before=f"{default}\n{SIGNALLED.format(name=name)}")
    assert done.returncode == 130
    assert error_line(done.stderr) == "Interrupted; nothing was written."


@pytest.mark.slow
def test_a_server_that_still_loads_ends_at_once_and_says_nothing_of_files(tmp_path: Path) -> None:
    loading = (
        "import signal\n"
        "import resq_onnx.serving.engine\n"
        "resq_onnx.serving.engine.Engine = lambda *_: signal.raise_signal(signal.SIGTERM)"
    )
    done = run_process("serve", toy.save_toy(tmp_path / "toy.onnx"), "--port", 0, before=loading)
    assert done.returncode == 130
    assert error_line(done.stderr) == "Interrupted."


def test_nohup_is_respected() -> None:
    before = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)"
    done = run_process("wait", before=before + SIGNALLED.format(name="SIGHUP"))
    assert done.returncode == 0, done.stderr
