"""API keys: requests to /v1 and /metrics must have one of them."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from resq_onnx.errors import ResqError
from resq_onnx.serving.refusals import wrong_key
from resq_onnx.serving.replies import refusal_response

GUARDED: Final = ("/v1/", "/metrics")
"""Beginnings of paths that need a key; /health does not."""

SCHEME: Final = "bearer"

VARIABLE: Final = "RESQ_API_KEYS"
"""The environment variable with keys, separated by white space."""


def keys_of(environment: Mapping[str, str]) -> tuple[str, ...]:
    """The keys in the environment; none if the variable is not set.

    Raises:
        ResqError: It is set, but holds no key: an empty secret must not admit everybody.
    """
    if VARIABLE not in environment:
        return ()
    keys = tuple(environment[VARIABLE].split())
    if not keys:
        raise ResqError(
            f"{VARIABLE} is set, but holds no key; give it one, or unset it to answer everybody"
        )
    return keys


class ApiKeys:
    """An application that answers only who has a key, if there are keys."""

    def __init__(self, app: ASGIApp, keys: Sequence[str]) -> None:
        """Take the application, and the keys; with none, everybody is answered."""
        self._app = app
        self._digests = [_digest(key.encode("utf-8", "surrogateescape")) for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        guarded = scope["type"] == "http" and scope["path"].startswith(GUARDED)
        if not guarded or not self._digests or self._admits(Headers(scope=scope)):
            await self._app(scope, receive, send)
            return
        await refusal_response(wrong_key())(scope, receive, send)

    def _admits(self, headers: Headers) -> bool:
        """Whether a request has a key; how long this takes says nothing about the keys."""
        scheme, _, key = headers.get("authorization", "").partition(" ")
        given = _digest(key.strip(" \t").encode("latin-1"))  # as it came
        found = [hmac.compare_digest(given, digest) for digest in self._digests]
        return scheme.lower() == SCHEME and any(found)


def _digest(key: bytes) -> bytes:
    """Digests have equal lengths, so comparing them does not tell that of a key."""
    return hashlib.sha256(key).digest()
