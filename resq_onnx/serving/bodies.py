"""Reading the bodies of requests, with bounds on the length and time of one and the room of all."""

from __future__ import annotations

import asyncio
from typing import Final

from starlette.requests import Request

from resq_onnx.serving.refusals import RefusalError, gone, invalid, no_room, too_slow

MAX_BODY: Final = 4 * 2**20
"""Bytes of a request: the text of far more tokens than a model of today has positions."""

MAX_BODIES: Final = 16 * MAX_BODY
"""Bytes of all requests that are being read."""

BODY_SECONDS: Final = 60.0
"""For a body to come."""


class Bodies:
    """Reads the bodies of requests."""

    def __init__(self) -> None:
        """None is being read."""
        self._held = 0

    async def read(self, request: Request) -> bytes:
        """The body of a request.

        A web page can make a browser send JSON here only if it says so, which the browser then
        asks this server about, and this server does not agree to.

        Raises:
            RefusalError: It is too long, too slow or is not said to be JSON, there are too many
                others, or the client has gone.
        """
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise RefusalError(415, "the header Content-Type must be application/json")
        declared = request.headers.get("content-length", "0")
        if not declared.isdecimal():
            raise invalid("the header Content-Length is no number")
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
        """Read a piece; whether there is more."""
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
