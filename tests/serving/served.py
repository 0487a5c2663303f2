"""A server started by the command line, and requests to it byte by byte."""

from __future__ import annotations

import http.client
import json
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import openai

from tests.command_line import program

PATIENCE: Final = 120.0
"""Seconds until a test gives up; nothing should take a tenth of it."""

CHAT: Final = "/v1/chat/completions"
COMPLETIONS: Final = "/v1/completions"
HELLO: Final = [{"role": "user", "content": "hello"}]
LINE: Final = re.compile(r"POST (\S+) (\d+) (\S*): (\d+) prompt tokens \((\d+) known\), (\d+) new")


@dataclass(frozen=True)
class Line:
    """What the log says of a request."""

    path: str
    status: int
    reason: str
    prompt_tokens: int
    known: int
    new_tokens: int


@dataclass(frozen=True)
class Served:
    """A running server."""

    process: subprocess.Popen[str]
    url: str
    log: Path

    def client(self, **options: Any) -> openai.OpenAI:
        """The real client; it tries nothing twice unless told to."""
        settings: dict[str, Any] = {"max_retries": 0, "timeout": PATIENCE, "api_key": "none"}
        return openai.OpenAI(base_url=self.url, **(settings | options))

    def connect(self) -> http.client.HTTPConnection:
        """A connection on which anything can be sent."""
        address = urlsplit(self.url)
        assert address.hostname is not None
        return http.client.HTTPConnection(address.hostname, address.port, timeout=PATIENCE)

    def post(self, path: str, body: object, **headers: str) -> tuple[int, dict[str, Any]]:
        """Status and JSON of an answer; bytes are sent as they are."""
        connection = self.connect()
        sent = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.request("POST", path, sent, {"Content-Type": "application/json"} | headers)
        response = connection.getresponse()
        found = json.loads(response.read())
        connection.close()
        return response.status, found

    def begin_stream(self, **fields: Any) -> http.client.HTTPConnection:
        """Ask for a chat as a stream, and read the first of it."""
        connection = self.connect()
        body = {"messages": HELLO, "stream": True, "temperature": 0, **fields}
        connection.request("POST", CHAT, json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        assert response.status == 200, response.read()
        assert response.readline().startswith(b"data: ")
        connection.stream = response  # type: ignore[attr-defined]
        return connection

    def health(self) -> dict[str, Any]:
        """What /health says."""
        connection = self.connect()
        connection.request("GET", "/health")
        found: dict[str, Any] = json.loads(connection.getresponse().read())
        connection.close()
        return found

    def lines(self) -> list[Line]:
        """The log so far."""
        found = LINE.findall(self.log.read_text())
        return [
            Line(path, int(status), reason, *map(int, rest))
            for path, status, reason, *rest in found
        ]

    def wait_for_line(self, count: int) -> Line:
        """The line of a request, by its number, once it is there."""
        wait_until(lambda: len(self.lines()) > count)
        return self.lines()[count]

    def wait_for(self, running: int, waiting: int = 0) -> None:
        """Wait until so many requests run and wait."""
        wanted = {"running": running, "waiting": waiting}
        wait_until(lambda: wanted.items() <= self.health().items())

    def stop(self, signal_number: int = signal.SIGTERM) -> int:
        """Stop it, and give its exit status."""
        self.process.send_signal(signal_number)
        return self.process.wait(PATIENCE)


@contextmanager
def served(model: Path, log: Path, *options: object, before: str = "") -> Iterator[Served]:
    """Start `resq-onnx serve` on a free port, after executing `before`; stop it in the end."""
    command = program("serve", model, "--port", 0, "--threads", 1, *options, before=before)
    with (
        log.open("w") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("Serving "), log.read_text()
            yield Served(process, line.split()[-1], log)
        finally:
            process.kill()


def wait_until(true: Callable[[], bool]) -> None:
    """Look again and again."""
    until = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < until, "it never happened"
        time.sleep(0.02)
