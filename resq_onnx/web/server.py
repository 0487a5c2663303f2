"""A small HTTP server for the chat page, by default on this machine only.

It serves a fixed list of addresses and nothing else. Two headers isolate the page from others,
which browsers require before WebAssembly may use threads.
"""

from __future__ import annotations

import json
import re
import sys
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, BinaryIO, Final
from urllib.parse import unquote

from resq_onnx.errors import ResqError
from resq_onnx.serving.hosts import refused_by
from resq_onnx.web.site import MANIFEST, Site

LOOPBACK: Final = "127.0.0.1"

TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".wasm": "application/wasm",
}
"""Content types by suffix; other files are bytes. Browsers compile WebAssembly while it loads only
if it has this type."""

HEADERS: Final = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self' blob:; "
        "style-src 'self'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
"""Headers of every response. With `no-cache`, a browser keeps a file but revalidates it."""

RANGE: Final = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)

CHUNK: Final = 1 << 20
"""Largest number of bytes of a file in memory."""

CONNECTIONS: Final = 128
"""Open at once; a browser opens six."""

SECONDS: Final = 60.0
"""Time after which an idle connection is closed."""


def make_server(site: Site, port: int, host: str = LOOPBACK) -> ThreadingHTTPServer:
    """Listen for requests; `serve_forever` then answers them.

    Args:
        site: The site to serve.
        port: Port number; 0 for any free port.
        host: The address of this machine to listen on.

    Raises:
        ResqError: The server cannot listen there, for example because another program does.
    """
    handler = type("Handler", (_Handler,), {"site": site, "host": host})
    try:
        return _Server((host, port), handler)
    except OSError as error:
        raise ResqError(
            f"cannot listen on {host}:{port}: {error.strerror or error}; choose another --port"
        ) from None


class _Server(ThreadingHTTPServer):
    """One thread per connection; none of them keeps the program alive."""

    daemon_threads = True

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._room = threading.Semaphore(CONNECTIONS)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start a thread, or close a connection for which there is no room."""
        if self._room.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """The thread of a connection."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore browsers that disconnect in the middle of a file."""
        if not isinstance(sys.exception(), (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD for the addresses of a site."""

    site: Site
    host: str
    protocol_version = "HTTP/1.1"
    server_version = "resq-onnx"
    sys_version = ""
    timeout = SECONDS

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def log_message(self, *_: object) -> None:
        """Log nothing, since the page requests a dozen files."""

    def _answer(self, *, with_body: bool) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        if (refused := refused_by(self.host, headers)) is not None:
            status, reason = refused
            self._send(status, "text/plain", f"{reason}\n".encode(), with_body=with_body)
            return
        address = unquote(self.path.partition("?")[0]).removeprefix("/") or "index.html"
        if address == MANIFEST:
            body = json.dumps(self.site.manifest).encode()
            self._send(HTTPStatus.OK, TYPES[".json"], body, with_body=with_body)
        elif address in self.site.files:
            self._send_file(self.site.files[address], with_body=with_body)
        else:
            body = b"Not found.\n"
            self._send(HTTPStatus.NOT_FOUND, "text/plain", body, with_body=with_body)

    def _send(self, status: HTTPStatus, kind: str, body: bytes, *, with_body: bool) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def _send_file(self, path: Path, *, with_body: bool) -> None:
        try:
            stream = path.open("rb")
        except OSError:
            body = b"This file no longer exists.\n"
            self._send(HTTPStatus.NOT_FOUND, "text/plain", body, with_body=with_body)
            return
        with stream:
            status = path.stat()
            tag = f'"{status.st_mtime_ns:x}-{status.st_size:x}"'
            if self.headers.get("If-None-Match") == tag:
                self.send_response(HTTPStatus.NOT_MODIFIED)
                self.send_header("ETag", tag)
                self.end_headers()
                return
            asked = self._range(status.st_size)
            if asked is None:
                self.send_response(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
                self.send_header("Content-Range", f"bytes */{status.st_size}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            start, end = asked
            whole = end - start == status.st_size
            self.send_response(HTTPStatus.OK if whole else HTTPStatus.PARTIAL_CONTENT)
            if not whole:
                self.send_header("Content-Range", f"bytes {start}-{end - 1}/{status.st_size}")
            self.send_header("Content-Type", TYPES.get(path.suffix, "application/octet-stream"))
            self.send_header("Content-Length", str(end - start))
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("ETag", tag)
            self.end_headers()
            if with_body:
                stream.seek(start)
                self._copy(stream, end - start)

    def _copy(self, stream: BinaryIO, count: int) -> None:
        while count > 0 and (chunk := stream.read(min(count, CHUNK))):
            self.wfile.write(chunk)
            count -= len(chunk)

    def _range(self, size: int) -> tuple[int, int] | None:
        """Start and end of the requested range, by default all bytes; None if it is empty."""
        match = RANGE.fullmatch(self.headers.get("Range", ""))
        if match is None or match.groups() == ("", ""):
            return 0, size
        first, last = match.groups()
        if not first:  # the last bytes, by number
            start, end = max(size - int(last), 0), size
        else:
            start, end = int(first), min(int(last) + 1 if last else size, size)
        return (start, end) if start < end else None

    def end_headers(self) -> None:
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()
