"""`resq-onnx serve`: how it begins, and how it ends."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import pytest

from resq_onnx.serving.server import Address, listen
from tests.command_line import error_line, run, run_process
from tests.serving.served import COMPLETIONS, served


@pytest.mark.parametrize(
    ("number", "drain"), [(signal.SIGINT, 600), (signal.SIGTERM, 0), (signal.SIGTERM, 0.3)]
)
def test_a_signal_ends_it_in_order_while_it_streams(
    folder: Path, tmp_path: Path, number: int, drain: float
) -> None:
    options = ("--max-concurrent", 1, "--drain", drain)
    with served(folder, tmp_path / "log.txt", *options) as server:
        reading = server.begin_stream(max_tokens=8000)
        # One that is waiting, and one whose body never comes.
        others = [server.connect() for _ in range(2)]
        for other in others:
            other.putrequest("POST", COMPLETIONS)
            other.putheader("Content-Type", "application/json")
            other.putheader("Content-Length", "15")
            other.endheaders(b'{"prompt": "a"}' if other is others[0] else b"{")
        server.wait_for(running=1, waiting=1)
        assert server.stop(number) == 0
        last = reading.stream.read().decode()  # type: ignore[attr-defined]
        assert "the server is shutting down" in last.splitlines()[-2]
        refused = others[0].getresponse()
        assert (refused.status, b"shutting_down" in refused.read()) == (503, True)
        for connection in (reading, *others):
            connection.close()
        assert [line.status for line in server.lines()] == [503] * 3
        ended = server.lines()[0]
        assert server.log.read_text().endswith("stopped\n")
        assert "Traceback" not in server.log.read_text()
        assert ended.new_tokens < 8000


def test_it_listens_on_loopback_unless_told_otherwise(folder: Path, tmp_path: Path) -> None:
    with served(folder, tmp_path / "log.txt") as server:
        assert server.url.startswith("http://127.0.0.1:")
    with listen(Address("::1", 0))[0] as opened:
        assert opened.getsockname()[0] == "::1"


@pytest.mark.parametrize("option", ["--timeout", "--drain"])
def test_a_time_that_is_no_number_is_refused(tmp_path: Path, option: str) -> None:
    result = run("serve", tmp_path, option, "nan")
    assert result.exit_code == 2
    assert f"Invalid value for '{option}': nan is not a number" in result.stderr


def test_a_port_that_is_taken_is_refused_before_the_model_is_opened(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no model")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run("serve", tmp_path, "--port", port)
    assert result.exit_code == 1
    assert f"cannot listen on 127.0.0.1 port {port}" in error_line(result.stderr)


def test_a_model_that_cannot_be_served_is_refused(folder: Path, tmp_path: Path) -> None:
    for arguments, reason in {
        (tmp_path,): "holds no .onnx file",
        (tmp_path / "a.onnx",): "a.onnx: no such file",
        (folder, "--max-length", 9000): "--max-length is 9000, and the model has 8192 positions",
    }.items():
        result = run("serve", "--port", 0, *arguments)
        assert result.exit_code == 1
        assert reason in error_line(result.stderr).replace("\n", " ")


def test_without_its_packages_it_says_what_to_install(folder: Path) -> None:
    result = run_process("serve", folder, before="import sys; sys.modules['starlette'] = None")
    assert result.returncode == 1
    assert "serving a model needs starlette" in error_line(result.stderr)
    assert "resq-onnx[serve]" in result.stderr
