"""Read request bodies, with limits on the length and time of each and the memory of all."""

from __future__ import annotations

import asyncio
from typing import Final

from starlette.requests import Request

from resq_onnx.serving.refusals import RefusalError, gone, invalid, no_room, too_slow

MAX_BODY: Final = 4 * 2**20
"""Largest size of a request in bytes: far more text than fits into today's models."""

MAX_BODIES: Final = 16 * MAX_BODY
"""Largest total size of all requests that are being read, in bytes."""

BODY_SECONDS: Final = 60.0
"""Time limit for receiving a body."""


class Bodies:
    """Reads the bodies of requests."""

    def __init__(self) -> None:
        """Start with no body being read."""
        self._held = 0

    async def read(self, request: Request) -> bytes:
        """Read the body of a request.

        A web page can make a browser send a request labelled as JSON only after the browser has
        asked this server for permission (CORS preflight), which only origins get that were named.

        Raises:
            RefusalError: The body is too long, too slow or not labelled as JSON, there are too many
                others, or the client has disconnected.
        """
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise RefusalError(415, "the header Content-Type must be application/json")
        declared = request.headers.get("content-length", "0")
        if not declared.isdecimal():
            raise invalid("the header Content-Length is not a number")
        _check_length(int(declared))
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while await self._read_more(request, body):
                    pass
        except TimeoutError:
            raise too_slow(BODY_SECONDS) from None
        finally:
            self._held -= len(body)
        return bytes(body)

    async def _read_more(self, request: Request, body: bytearray) -> bool:
        """Read a piece; return whether there is more."""
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise gone()
        piece = message.get("body", b"")
        body += piece
        self._held += len(piece)
        _check_length(len(body))
        if self._held > MAX_BODIES:
            raise no_room()
        return bool(message.get("more_body", False))


def _check_length(length: int) -> None:
    if length > MAX_BODY:
        raise RefusalError(
            413, f"the body has more than {MAX_BODY} bytes, which is what this server takes"
        )
