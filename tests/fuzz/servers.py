"""Both servers in this process, and what is wrong with how they answer damaged requests."""

from __future__ import annotations

import json
import logging
import re
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from starlette.testclient import TestClient

from resq_onnx.serving import bodies, connections, server
from resq_onnx.serving.app import Service
from resq_onnx.serving.engine import Engine
from resq_onnx.serving.scheduling import Scheduler
from resq_onnx.serving.server import Address, listen, run
from resq_onnx.web import server as web_server
from resq_onnx.web.site import make_site
from tests.fuzz.inputs import Inputs

BRIEF: Final = 1.0
"""Seconds that a server waits here for the rest of a request, instead of ten and sixty."""

PATIENCE: Final = 20.0
"""Seconds until an answer or the end of the connection has to be there."""

GOOD: Final = {"serve": "/health", "web": "/manifest.json"}
"""By server, an address that it answers at once, whatever was asked before."""

STATUS: Final = re.compile(rb"HTTP/1\.[01] (\d{3})[ \r]")


class _Defects(logging.Handler):
    """Notes what a server logs with a traceback."""

    def __init__(self, errors: list[str]) -> None:
        super().__init__(logging.ERROR)
        self._errors = errors

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            self._errors.append(f"{record.getMessage()}: {record.exc_info[1]!r}")


class Servers:
    """The servers of one worker; both run until the process ends."""

    def __init__(self, inputs: Inputs) -> None:
        """Start them."""
        connections.HEADER_SECONDS = bodies.BODY_SECONDS = BRIEF  # type: ignore[misc]
        self.errors: list[str] = []
        self._ports = {"serve": self._start_serve(inputs), "web": self._start_web(inputs)}

    def ask(self, name: str, sent: bytes) -> tuple[int, list[str], str]:
        """Send a request.

        Returns:
            As a command's status 0 if it was answered, or 1; what is wrong; and the answer's
            beginning.
        """
        self.errors.clear()
        wrong: list[str] = []
        answer = self._exchange(name, sent, wrong)
        found = STATUS.match(answer)
        status = int(found[1]) if found else 0
        # A request line that Python's own server cannot read gets an answer without a head.
        if answer and not found and name != "web":
            wrong.append(f"an answer that is none: {answer[:80]!r}")
        if status >= 500 and status not in (501, 503, 505):
            wrong.append(f"status {status}")
        if b"Traceback" in answer:
            wrong.append("a traceback in the answer")
        wrong += _wrong_with_body(answer)
        good = f"GET {GOOD[name]} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        if b" 200 " not in self._exchange(name, good.encode(), wrong)[:20]:
            wrong.append(f"{GOOD[name]} is not answered any more")
        wrong += self.errors
        return int(not 100 <= status < 400), wrong, answer[:80].decode("latin1")

    def _exchange(self, name: str, sent: bytes, wrong: list[str]) -> bytes:
        """All that comes back until the connection ends."""
        answer, until = b"", time.monotonic() + PATIENCE
        with (
            suppress(ConnectionError),  # of an answer, what came before counts
            socket.create_connection(("127.0.0.1", self._ports[name]), PATIENCE) as connection,
        ):
            # A server that refuses a long request answers before it has read all of it.
            sending = threading.Thread(target=_send, args=(connection, sent), daemon=True)
            sending.start()
            try:
                while piece := connection.recv(1 << 16):
                    answer += piece
                    if time.monotonic() > until:
                        raise TimeoutError
            except TimeoutError:
                wrong.append(f"no end of the connection in {PATIENCE:g} s")
        return answer

    def _start_serve(self, inputs: Inputs) -> int:
        logging.getLogger("resq_onnx.serving").addHandler(_Defects(self.errors))
        listening, url = listen(Address("127.0.0.1", 0))
        engine = Engine(inputs.exported / "model.onnx", "tiny", 2, threads=1)
        scheduler = Scheduler(engine, engine.batch, 2, 4)
        service, ready = Service(engine, scheduler, 10.0), threading.Event()
        serving = (service, listening, ready.set)
        threading.Thread(target=run, args=serving, daemon=True).start()
        ready.wait()
        return int(url.rpartition(":")[2])

    def _start_web(self, inputs: Inputs) -> int:
        site = make_site(inputs.exported, {})
        pages = web_server.make_server(site, 0)
        pages.RequestHandlerClass.timeout = BRIEF  # type: ignore[attr-defined]
        # What the server itself lets pass, after those of clients that went.
        socketserver.BaseServer.handle_error = (  # type: ignore[method-assign]
            lambda *_: self.errors.append(f"web raised {sys.exception()!r}")
        )
        threading.Thread(target=pages.serve_forever, daemon=True).start()
        return int(pages.server_address[1])


def serve_briefly() -> None:
    """Let the command serve answer two requests, and end."""

    def answer(
        service: Service, listening: socket.socket, ready: Callable[[], None], *_: Any
    ) -> None:
        listening.close()
        ready()
        client = TestClient(service.app)
        asked = {"messages": [{"role": "user", "content": "The sea"}], "max_tokens": 2}
        client.post("/v1/chat/completions", json=asked)
        client.post("/v1/completions", json={"prompt": "The sea", "max_tokens": 2})

    server.run = answer  # type: ignore[assignment]


def _send(connection: socket.socket, sent: bytes) -> None:
    with suppress(OSError):
        connection.sendall(sent)


def _wrong_with_body(answer: bytes) -> list[str]:
    """What is labelled as JSON has to be it, and an error to say something."""
    head, _, body = answer.partition(b"\r\n\r\n")
    if b"application/json" not in head or not body or b"\r\n\r\n" in body:
        return []
    try:
        content = json.loads(body)
    except ValueError:
        return [f"a body that is no JSON: {body[:80]!r}"]
    error = content.get("error") if isinstance(content, dict) else None
    if error is not None and (not error["message"] or "unexpected error" in error["message"]):
        return [f"an error that says {error['message']!r}"]
    return []
