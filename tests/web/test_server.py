"""The server: its headers, ranges, and what it does not serve."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from resq_onnx.errors import ResqError
from resq_onnx.web import server as server_module
from resq_onnx.web.server import HEADERS, make_server
from resq_onnx.web.site import Site

BYTES = bytes(range(256)) * 8


Ask = Callable[..., tuple[int, dict[str, str], bytes]]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    files = {
        "index.html": b"<p>Hello",
        "vendor/a.mjs": b"export {};",
        "vendor/a.wasm": b"\0asm",
        "model/a.onnx": BYTES,
    }
    found = {}
    for address, content in files.items():
        found[address] = tmp_path / address.replace("/", "-")
        found[address].write_bytes(content)
    (tmp_path / "secret.txt").write_text("not to be served")
    return Site(found, {"name": "a model"})


@pytest.fixture
def ask(site: Site) -> Iterator[Ask]:
    """Ask the server for an address: status, headers, body."""
    with make_server(site, 0) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()

        def ask(
            address: str, method: str = "GET", **headers: str
        ) -> tuple[int, dict[str, str], bytes]:
            connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1])
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, address, headers=named)
            answer = connection.getresponse()
            found = answer.status, dict(answer.getheaders()), answer.read()
            connection.close()
            return found

        yield ask
        server.shutdown()
        thread.join()


def test_the_page_is_at_the_root_and_files_have_their_types(ask: Ask) -> None:
    expected = {
        "/": ("text/html; charset=utf-8", b"<p>Hello"),
        "/index.html?prompt=Hello": ("text/html; charset=utf-8", b"<p>Hello"),
        "/vendor/a.mjs": ("text/javascript; charset=utf-8", b"export {};"),
        "/vendor/a.wasm": ("application/wasm", b"\0asm"),
        "/model/a.onnx": ("application/octet-stream", BYTES),
    }
    for address, (kind, content) in expected.items():
        status, headers, body = ask(address)
        assert (status, headers["Content-Type"], body) == (200, kind, content)


def test_every_answer_isolates_the_page(ask: Ask) -> None:
    for address in ("/", "/vendor/a.wasm", "/manifest.json", "/missing"):
        _, headers, _ = ask(address)
        assert headers.items() >= HEADERS.items()
        assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert headers["Cross-Origin-Embedder-Policy"] == "require-corp"


def test_the_manifest_is_json(ask: Ask) -> None:
    status, headers, body = ask("/manifest.json")
    assert (status, headers["Content-Type"]) == (200, "application/json")
    assert json.loads(body) == {"name": "a model"}


@pytest.mark.parametrize(
    "address", ["/secret.txt", "/../secret.txt", "/model/../secret.txt", "/%2e%2e/etc/passwd"]
)
def test_nothing_else_is_served(ask: Ask, address: str) -> None:
    status, _, body = ask(address)
    assert status == 404
    assert b"not to be" not in body


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [("bytes=0-9", 0, 10), ("bytes=2000-", 2000, 2048), ("bytes=-8", 2040, 2048),
     ("bytes=2040-9999", 2040, 2048)],
)  # fmt: skip
def test_a_range_is_answered_with_its_bytes(ask: Ask, asked: str, start: int, end: int) -> None:
    status, headers, body = ask("/model/a.onnx", Range=asked)
    assert (status, body) == (206, BYTES[start:end])
    assert headers["Content-Range"] == f"bytes {start}-{end - 1}/{len(BYTES)}"
    assert headers["Content-Length"] == str(end - start)


def test_a_range_behind_the_end_is_refused_and_a_strange_one_ignored(ask: Ask) -> None:
    status, headers, _ = ask("/model/a.onnx", Range="bytes=5000-6000")
    assert (status, headers["Content-Range"]) == (416, f"bytes */{len(BYTES)}")
    assert ask("/model/a.onnx", Range="lines=1-2")[::2] == (200, BYTES)
    assert ask("/model/a.onnx", Range=f"bytes={'9' * 5000}-")[::2] == (200, BYTES)


def test_head_tells_the_size_alone(ask: Ask) -> None:
    status, headers, body = ask("/model/a.onnx", "HEAD")
    assert (status, headers["Content-Length"], body) == (200, str(len(BYTES)), b"")


def test_a_file_that_the_browser_has_is_not_sent_again(ask: Ask, site: Site) -> None:
    tag = ask("/model/a.onnx")[1]["ETag"]
    assert ask("/model/a.onnx", If_None_Match=tag)[::2] == (304, b"")
    site.files["model/a.onnx"].write_bytes(b"another model")
    assert ask("/model/a.onnx", If_None_Match=tag)[::2] == (200, b"another model")


def test_a_file_that_is_gone_is_not_found(ask: Ask, site: Site) -> None:
    site.files["model/a.onnx"].unlink()
    assert ask("/model/a.onnx")[0] == 404


def test_another_name_for_this_machine_is_refused(ask: Ask) -> None:
    assert ask("/", Host="evil.example:8000")[0] == 421
    assert ask("/", Host="localhost:8000")[0] == 200
    assert ask("/", Host="localhost:8000", Origin="http://localhost:8000")[0] == 200
    assert ask("/", Host="localhost:8000", Origin="http://evil.example")[0] == 403


@pytest.mark.parametrize(
    "host", ["[", "[::1", "a b", "localhost:", "localhost:x", "", "@localhost"]
)
def test_a_host_that_is_none_is_refused(ask: Ask, host: str) -> None:
    status, _, body = ask("/", Host=host)
    assert (status, body) == (400, b"the header Host is not a host name\n")


@pytest.mark.parametrize("address", ["//[", "/%ff", "/\\"])
def test_an_address_that_is_none_is_not_found(ask: Ask, address: str) -> None:
    assert ask(address)[0] == 404


def test_more_connections_than_there_is_room_for_are_closed(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "CONNECTIONS", 2)
    with make_server(site, 0) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        address = ("127.0.0.1", server.server_address[1])
        silent = [socket.create_connection(address) for _ in range(2)]
        with socket.create_connection(address) as third:
            assert third.recv(1) == b""
        for connection in silent:
            connection.close()
        for _ in range(20):  # the next ones find room again
            with socket.create_connection(address) as next_one:
                next_one.sendall(b"HEAD / HTTP/1.0\r\nHost: localhost\r\n\r\n")
                try:
                    found = next_one.recv(8)
                except ConnectionResetError:
                    found = b""
            if found:
                break
            time.sleep(0.05)
        assert found == b"HTTP/1.1"
        server.shutdown()
        thread.join()


def test_a_port_that_is_taken_is_refused(site: Site) -> None:
    with make_server(site, 0) as server:
        port = server.server_address[1]
        with pytest.raises(ResqError, match=f"cannot listen on 127.0.0.1:{port}: .*--port"):
            make_server(site, port)
