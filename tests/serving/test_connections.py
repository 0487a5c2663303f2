"""Clients that connect and say nothing, or say it too slowly."""

from __future__ import annotations

import json
import resource
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from resq_onnx.serving import connections
from resq_onnx.serving.connections import MAX_CONNECTIONS, room_for
from tests.serving.served import COMPLETIONS, Served, served

FLOOD = 2000
"""Silent connections: several times as many as the server takes."""

SLOW = 10
"""Clients that send a header byte by byte."""

PROMPT = json.dumps({"prompt": "a", "max_tokens": 1}).encode()


@contextmanager
def connected(server: Served) -> Iterator[socket.socket]:
    address = urlsplit(server.url)
    assert address.hostname is not None
    with socket.create_connection((address.hostname, address.port or 0), timeout=60) as found:
        yield found


def head(length: int) -> bytes:
    return (
        f"POST {COMPLETIONS} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {length}\r\n\r\n"
    ).encode()


def status_of(found: socket.socket) -> int:
    return int(found.makefile("rb").readline().split()[1])


def send_slowly(server: Served, ended: threading.Event) -> None:
    while not ended.wait(0.1):
        with suppress(OSError), connected(server) as found:  # it closes the slow, and ends
            for letter in b"POST /v1/completions HTTP/1.1\r\nX-Long: " + b"a" * 1000:
                found.sendall(bytes([letter]))
                if ended.wait(0.1):
                    break


@contextmanager
def slow_clients(server: Served) -> Iterator[None]:
    ended = threading.Event()
    with ThreadPoolExecutor(SLOW) as threads:
        sending = [threads.submit(send_slowly, server, ended) for _ in range(SLOW)]
        try:
            yield
        finally:
            ended.set()
    for one in sending:
        one.result()


@pytest.fixture
def many_files() -> Iterator[None]:
    """This process may open as many connections as it needs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 2 * FLOOD)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.slow
@pytest.mark.usefixtures("many_files")
def test_silent_and_slow_clients_make_room_and_nobody_waits_for_them(
    folder: Path, tmp_path: Path
) -> None:
    before = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))"
    with (
        served(folder, tmp_path / "log.txt", before=before) as server,
        slow_clients(server),
        ExitStack() as stack,
    ):
        running = server.begin_stream(max_tokens=8000)
        for i in range(FLOOD):
            silent = stack.enter_context(connected(server))
            if i % 3:
                silent.sendall(b"POST /v1/completions HTTP/1.1\r\nHost:"[: 10 * (i % 4)])
            if i % 100 == 99:
                began = time.monotonic()
                server.health()
                assert time.monotonic() - began < 5  # half a second on a machine without tests
        assert b"data: " in running.stream.readline() + running.stream.readline()  # type: ignore[attr-defined]
        running.close()
        assert server.post(COMPLETIONS, {"prompt": "a", "max_tokens": 1})[0] == 200
        log = server.log.read_text()
        assert "Traceback" not in log
        assert len(log) < 2000
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 5


IMPATIENT = """
from resq_onnx.serving import bodies, connections
connections.HEADER_SECONDS = bodies.BODY_SECONDS = 0.5
connections.SWEEP_SECONDS = 0.1
"""


def test_headers_and_bodies_have_their_time(folder: Path, tmp_path: Path) -> None:
    with served(folder, tmp_path / "log.txt", before=IMPATIENT) as server, ExitStack() as stack:
        silent, slow, half, whole = (stack.enter_context(connected(server)) for _ in range(4))
        half.sendall(head(len(PROMPT)) + PROMPT[:5])
        whole.sendall(head(len(PROMPT)) + PROMPT)
        assert status_of(whole) == 200
        assert status_of(half) == 408
        for letter in head(0):  # a byte at a time, which is never nothing
            try:
                slow.sendall(bytes([letter]))
            except OSError:
                break
            time.sleep(0.05)
        else:
            pytest.fail("headers may take as long as they like")
        assert silent.recv(1) == b""
        while whole.recv(10_000):  # to its end: it was idle after its answer
            pass


def test_headers_without_end_are_refused(server: Served) -> None:
    with connected(server) as found:
        found.sendall(head(1)[:-2] + b"X-Long: " + b"a" * 2 * connections.MAX_HEADER)
        assert status_of(found) == 400


@pytest.mark.parametrize(
    ("soft", "hard", "room", "raised"),
    [(1024, 1024, 276, 1024), (256, 4096, 276, 788), (600, 600, 150, 600), (64, 64, 16, 64)],
)
def test_connections_leave_files_for_all_else(
    soft: int, hard: int, room: int, raised: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = [(soft, hard)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, new: limits.append(new))
    assert room_for(20) == room
    assert limits[-1][0] == raised
    assert MAX_CONNECTIONS + 20 == 276
