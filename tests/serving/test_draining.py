"""What runs when SIGTERM comes may complete; what comes later is refused."""

from __future__ import annotations

import http.client
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.serving.served import COMPLETIONS, Served, served, wait_until

HOLDING = """
import os, time
from resq_onnx.runtime.ragged import RaggedDecoder
run_rows, calls = RaggedDecoder.run_rows, []
def held(self, rows, ids, count):
    calls.append(ids.shape)
    while len(calls) > 3 and not os.path.exists({path!r}):
        time.sleep(0.01)
    return run_rows(self, rows, ids, count)
RaggedDecoder.run_rows = held
"""
"""A model that stops after three calls until a file is there."""


@contextmanager
def holding(folder: Path, tmp_path: Path, drain: float) -> Iterator[tuple[Served, Path]]:
    go = tmp_path / "go"
    before = HOLDING.format(path=str(go))
    with served(folder, tmp_path / "log.txt", "--drain", drain, before=before) as found:
        yield found, go


def rest_of(connection: http.client.HTTPConnection) -> str:
    text: str = connection.stream.read().decode()  # type: ignore[attr-defined]
    connection.close()
    return text


def test_an_answer_is_completed_while_new_requests_are_refused(
    folder: Path, tmp_path: Path
) -> None:
    with holding(folder, tmp_path, 600) as (server, go):
        running = server.begin_stream(max_tokens=20)
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: server.health()["status"] == "stopping")
        code, found = server.post(COMPLETIONS, {"prompt": "a"})
        assert (code, found["error"]["code"]) == (503, "shutting_down")
        go.touch()
        assert rest_of(running).endswith("data: [DONE]\n\n")
        assert server.process.wait(60) == 0
        assert "have not ended" not in server.log.read_text()


def test_a_second_signal_ends_what_runs(folder: Path, tmp_path: Path) -> None:
    with holding(folder, tmp_path, 600) as (server, _):
        running = server.begin_stream(max_tokens=20)
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: server.health()["status"] == "stopping")
        assert server.stop(signal.SIGTERM) == 0
        assert "the server is shutting down" in rest_of(running)


def test_without_requests_it_ends_at_once(folder: Path, tmp_path: Path) -> None:
    with served(folder, tmp_path / "log.txt", "--drain", 600) as server:
        assert server.stop(signal.SIGTERM) == 0


def test_those_that_run_longer_are_ended_and_counted(folder: Path, tmp_path: Path) -> None:
    with holding(folder, tmp_path, 0.1) as (server, go):
        running = server.begin_stream(max_tokens=20)
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: "1 requests have not ended" in server.log.read_text())
        go.touch()
        assert "the server is shutting down" in rest_of(running)
        assert server.process.wait(60) == 0
