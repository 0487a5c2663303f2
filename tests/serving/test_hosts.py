"""A server on loopback, asked by other names and for other pages."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

from resq_onnx.serving.hosts import is_loopback, refused_by
from tests.serving.served import COMPLETIONS, Served

BODY = '{"prompt": "a", "max_tokens": 1}'

POST = (
    f"POST {COMPLETIONS} HTTP/1.1\r\nHost: {{host}}\r\nContent-Type: application/json\r\n"
    f"Content-Length: {len(BODY)}\r\n{{more}}\r\n" + BODY.replace("{", "{{").replace("}", "}}")
)

GET = "GET /v1/models HTTP/1.1\r\nHost: {host}\r\n{more}\r\n"


def status_of(server: Served, request: str) -> int:
    address = urlsplit(server.url)
    assert address.hostname is not None
    with socket.create_connection((address.hostname, address.port or 0), timeout=60) as found:
        found.sendall(request.encode())
        return int(found.makefile("rb").readline().split()[1])


def test_on_loopback_only_its_own_names_and_pages_are_answered(server: Served) -> None:
    port = urlsplit(server.url).port
    for host, more, expected in (
        (f"127.0.0.1:{port}", "", 200),
        (f"LOCALHOST:{port}", "", 200),
        (f"[::1]:{port}", "", 200),
        ("localhost", "Origin: http://localhost\r\n", 200),
        ("evil.example", "", 421),
        (f"evil.example:{port}", f"Origin: http://evil.example:{port}\r\n", 421),
        ("localhost.evil.example", "", 421),
        ("[", "", 400),
        ("localhost", "Origin: http://evil.example\r\n", 403),
        ("localhost", "Origin: null\r\n", 403),
        ("localhost", "Origin: http://localhost:1\r\n", 403),
    ):
        for request in (POST, GET):
            assert status_of(server, request.format(host=host, more=more)) == expected, host


def test_the_refusal_of_a_page_names_the_option_that_admits_it() -> None:
    refused = refused_by("127.0.0.1", {"host": "localhost", "origin": "https://chat.example"})
    assert refused is not None
    assert "--cors-origin" in refused[1]
    assert "--host" not in refused[1]


def test_elsewhere_than_on_loopback_any_name_is_answered() -> None:
    for address in ("0.0.0.0", "::", "192.168.1.5"):
        assert not is_loopback(address)
        assert refused_by(address, {"host": "a.example", "origin": "http://b.example"}) is None
    for address in ("127.0.0.1", "::1", "127.0.0.2", "localhost"):
        assert is_loopback(address)
        assert refused_by(address, {"host": "a.example"}) is not None
    assert refused_by("127.0.0.2", {"host": "127.0.0.2:80"}) is None
