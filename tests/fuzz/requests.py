"""Requests to the two servers, byte by byte: good ones, of which one or two things are damaged."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from typing import Any, Final

from tests.fuzz.damage import DEEP, damage_bytes, damage_value

CHAT: Final = "/v1/chat/completions"

BODIES: Final[tuple[tuple[str, dict[str, Any]], ...]] = (
    (
        CHAT,
        {
            "model": "tiny",
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": [{"type": "text", "text": "The sea"}]},
            ],
            "max_tokens": 2,
            "temperature": 0.5,
            "top_p": 0.9,
            "seed": 1,
            "stop": ["x", "yy"],
            "stream": True,
            "stream_options": {"include_usage": True},
        },
    ),
    (
        CHAT,
        {
            "messages": [
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [
                        {
                            "id": "a",
                            "type": "function",
                            "function": {"name": "f", "arguments": "{}"},
                        }
                    ],
                },
                {"role": "tool", "tool_call_id": "a", "content": "4"},
            ],
            "max_tokens": 2,
            "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
            "tool_choice": "none",
            "parallel_tool_calls": True,
            "logprobs": True,
            "top_logprobs": 3,
        },
    ),
    (
        "/v1/completions",
        {
            "prompt": "The sea",
            "max_tokens": 3,
            "logprobs": 2,
            "echo": True,
            "response_format": {
                "type": "json_schema",
                "json_schema": {
                    "name": "a",
                    "schema": {
                        "type": "object",
                        "properties": {"a": {"enum": [1, "b"]}, "c": {"$ref": "#"}},
                        "required": ["a"],
                        "additionalProperties": False,
                    },
                },
            },
        },
    ),
    ("/v1/completions", {"prompt": "The sea", "max_tokens": 2, "stop": "x", "logit_bias": {}}),
    ("/v1/completions", {"prompt": [5, 6, 7], "max_tokens": 1, "n": 1, "echo": False, "user": "a"}),
)
"""By path, what is asked for there."""

PATHS: Final = (
    *("/", "/health", "/v1/models", "/v1/models/tiny", "/v1/models/%00", "/v1/embeddings", "*"),
    *("", "//", "/../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/v1/models/" + "a" * 20_000),
    *("/v1/models/\u00e9", "/%ff", "/?%", "/#", "http://evil.example/", "/ ", "/\x00", CHAT + "/"),
    *("/index.html", "/manifest.json", "/model/model.onnx", "/model/model.onnx.data", "/style.css"),
    *("/model/../../resq.json", "/model%2fmodel.onnx", "/model/", "/%", "/%zz", "/model/resq.json"),
)

METHODS: Final = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "CONNECT", "get", "", "G\x00")

HEADERS: Final = (
    *("Host: evil.example", "Host: [", "Host: ", "Host: localhost", "Host: a\x00b", "Host: \u00e9"),
    *("Origin: http://evil.example", "Origin: null", "Origin: http://localhost"),
    *("Content-Length: -1", "Content-Length: 0", "Content-Length: 99999999999999999999"),
    *("Content-Length: 5", "Content-Length: x", "Content-Length: \u0665", "Content-Length: 1, 2"),
    *("Transfer-Encoding: chunked", "Transfer-Encoding: gzip, chunked", "Transfer-Encoding: x"),
    *("Content-Type: text/plain", "Content-Type: application/json; charset=latin1"),
    *("Content-Type: ", "Content-Encoding: gzip", "Expect: 100-continue", "Expect: x"),
    *("Upgrade: websocket", "Upgrade: h2c", "Connection: keep-alive", "Connection: upgrade"),
    *("Range: bytes=0-1", "Range: bytes=5-1", "Range: bytes=-5", "Range: bytes=-", "Range: x"),
    *("Range: bytes=99999999999999999999-", "Range: bytes=0-0,2-3", "If-None-Match: *"),
    *("Authorization: \u00ff", "Cookie: " + "a" * 20_000, "no colon", ": no name", " folded: x"),
    *("X-Bell: \x07", "X: " + "\t" * 100, "Accept: " + "*/*," * 500),
)


@dataclass
class Request:
    """A request in parts, all of which can be wrong."""

    method: str = "GET"
    path: str = "/"
    version: str = "HTTP/1.1"
    headers: list[str] = field(default_factory=list)
    body: bytes = b""

    def encode(self) -> bytes:
        """As it is sent."""
        lines = [f"{self.method} {self.path} {self.version}", *self.headers, "", ""]
        return "\r\n".join(lines).encode("utf-8", "surrogateescape") + self.body


def request_to_serve(dice: random.Random) -> tuple[bytes, str]:
    """A request to the server of the API, and what was done to it."""
    path, good = dice.choice(BODIES)
    content: Any = json.loads(json.dumps(good))
    done = []
    if dice.random() < 0.7:
        content, said = damage_value(content, dice)
        done.append(said)
    body = json.dumps(content).encode()
    if dice.random() < 0.2:
        body, said = _damaged_body(body, dice)
        done.append(said)
    asked = Request("POST", path, body=body)
    asked.headers = ["Host: localhost", "Content-Type: application/json", "Connection: close"]
    asked.headers.append(f"Content-Length: {len(body)}")
    return _sent(asked, done, dice, 0.25)


def request_to_web(dice: random.Random) -> tuple[bytes, str]:
    """A request to the server of the page, and what was done to it."""
    asked = Request("GET", dice.choice(PATHS), headers=["Host: localhost", "Connection: close"])
    return _sent(asked, [f"path {asked.path[:40]!r}"], dice, 0.8)


def _damaged_body(body: bytes, dice: random.Random) -> tuple[bytes, str]:
    match what := dice.choice(["bytes", "bytes", "deep", "long", "chunks", "digits"]):
        case "bytes":
            data = bytearray(body)
            what = damage_bytes(data, dice)
            body = bytes(data)
        case "deep":
            body = b'{"prompt": ' + b"[" * DEEP
        case "long":
            size = dice.choice([10**4, 10**6, 4 * 2**20 - 20, 5 * 10**6])
            body = b'{"prompt": "' + b"a " * (size // 2) + b'"}'
        case "chunks":
            body = b"5\r\n{}   \r\n" + dice.choice(
                [b"0\r\n\r\n", b"-1\r\n", b"ffffffffffffffff\r\n"]
            )
        case "digits":
            body = b'{"prompt": "a", "seed": ' + b"1" * 5000 + b"}"
    return body, what


def _sent(asked: Request, done: list[str], dice: random.Random, share: float) -> tuple[bytes, str]:
    """The bytes of a request; in some share of all, its head is damaged first."""
    if dice.random() < share:
        done.append(_damage_head(asked, dice))
    data = bytearray(asked.encode())
    if dice.random() < share / 5:
        done.append(damage_bytes(data, dice))
    if dice.random() < share / 10:
        data *= 2
        done.append("twice")
    return bytes(data), ", ".join(done)


def _damage_head(asked: Request, dice: random.Random) -> str:
    match dice.choice(["method", "path", "version", "header", "header", "header", "none"]):
        case "method":
            asked.method = dice.choice(METHODS)
            return f"method {asked.method!r}"
        case "path":
            asked.path = dice.choice(PATHS)
            return f"path {asked.path[:40]!r}"
        case "version":
            asked.version = dice.choice(["HTTP/1.0", "HTTP/2.0", "HTTP/9", "", "x", "HTTP/1.1 x"])
            return f"version {asked.version!r}"
        case "header":
            header = dice.choice(HEADERS)
            if asked.headers and dice.random() < 0.5:
                asked.headers[dice.randrange(len(asked.headers))] = header
            else:
                asked.headers.append(header)
            return f"header {header[:40]!r}"
    kept = dice.randrange(len(asked.headers) + 1)
    del asked.headers[kept:]
    return f"{kept} headers"
