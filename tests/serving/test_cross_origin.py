"""Pages of other origins: which may ask, and what their browser is told."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from resq_onnx.errors import ResqError
from resq_onnx.serving.cross_origin import check_origins
from tests.serving.served import COMPLETIONS, Served, served

PAGE: Final = "https://chat.example"
KEY: Final = "secret"


@pytest.fixture(scope="module")
def named(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    log = tmp_path_factory.mktemp("log") / "log.txt"
    options = ("--cors-origin", PAGE, "--cors-origin", "http://localhost:3000", "--api-key", KEY)
    with served(folder, log, *options) as found:
        yield found


def ask(server: Served, method: str, origin: str, **headers: str) -> http.client.HTTPResponse:
    connection = server.connect()
    body = json.dumps({"prompt": "a", "max_tokens": 1}) if method == "POST" else None
    kind = {"Content-Type": "application/json"} if body else {}
    connection.request(method, COMPLETIONS, body, {"Origin": origin} | kind | headers)
    response = connection.getresponse()
    response.read()
    connection.close()
    return response


def preflight(server: Served, origin: str) -> http.client.HTTPResponse:
    return ask(
        server,
        "OPTIONS",
        origin,
        **{
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type,x-stainless-os",
        },
    )


@pytest.mark.parametrize("origin", [PAGE, "http://localhost:3000"])
def test_a_named_page_may_ask_and_read_without_cookies(named: Served, origin: str) -> None:
    allowed = preflight(named, origin)
    assert allowed.status == 200
    assert allowed.headers["Access-Control-Allow-Origin"] == origin
    assert "x-stainless-os" in allowed.headers["Access-Control-Allow-Headers"]
    assert "POST" in allowed.headers["Access-Control-Allow-Methods"]
    answered = ask(named, "POST", origin, Authorization=f"Bearer {KEY}")
    assert answered.status == 200
    assert answered.headers["Access-Control-Allow-Origin"] == origin
    for response in (allowed, answered):
        assert "Access-Control-Allow-Credentials" not in response.headers


def test_a_named_page_can_read_why_it_is_refused(named: Served) -> None:
    refused = ask(named, "POST", PAGE)
    assert refused.status == 401
    assert refused.headers["Access-Control-Allow-Origin"] == PAGE


@pytest.mark.parametrize("origin", ["https://chat.example.evil", "http://chat.example", "null"])
def test_another_page_gets_no_permission(named: Served, origin: str) -> None:
    for response in (preflight(named, origin), ask(named, "POST", origin)):
        assert response.status == 403
        assert "Access-Control-Allow-Origin" not in response.headers


def test_a_star_lets_all_pages_read_and_none_send_cookies(folder: Path, tmp_path: Path) -> None:
    with served(folder, tmp_path / "log.txt", "--cors-origin", "*") as server:
        for response in (
            preflight(server, PAGE),
            ask(server, "POST", PAGE),
            ask(server, "POST", "null"),
        ):
            assert response.status == 200
            assert response.headers["Access-Control-Allow-Origin"] == "*"
            assert "Access-Control-Allow-Credentials" not in response.headers


def test_without_the_option_nobody_gets_permission(server: Served) -> None:
    response = preflight(server, PAGE)
    assert response.status == 403
    assert "Access-Control-Allow-Origin" not in response.headers


@pytest.mark.parametrize(
    "origin",
    ["chat.example", "https://chat.example/", "https://Chat.example", "ftp://a", "null", "", "**"],
)
def test_what_is_no_origin_is_refused(origin: str) -> None:
    with pytest.raises(ResqError, match="is not an origin"):
        check_origins(["https://chat.example", origin])
