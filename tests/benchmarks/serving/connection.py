"""One HTTP request over a connection of its own, read line by line as it comes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any
from urllib.parse import urlsplit


class StatusError(Exception):
    """A status other than 200.

    Attributes:
        status: The status; 0 if the server closed the connection without an answer.
        body: What it said.
    """

    def __init__(self, status: int, body: str) -> None:
        super().__init__(f"status {status}: {body}")
        self.status = status
        self.body = body


async def lines(url: str, body: Mapping[str, Any]) -> AsyncGenerator[bytes]:
    """Post JSON, and yield the lines of the body; closing the iterator closes the connection.

    Raises:
        StatusError: The status is not 200.
    """
    address, sent = urlsplit(url), json.dumps(body).encode()
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        writer.write(
            f"POST {address.path} HTTP/1.1\r\nHost: {address.netloc}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(sent)}\r\n"
            "Connection: close\r\n\r\n".encode()
            + sent
        )
        words = (await reader.readline()).split()
        status = int(words[1]) if words else 0
        while (await reader.readline()).strip():
            pass  # headers
        if status != 200:
            raise StatusError(status, (await reader.read()).decode())
        async for line in reader:
            yield line
    finally:
        writer.close()


async def events(url: str, body: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any]]:
    """Post JSON that asks for a stream, and yield its events; errors are those of `lines`."""
    async with aclosing(lines(url, body)) as found:
        async for line in found:
            if line.startswith(b"data: {"):
                event: dict[str, Any] = json.loads(line[6:])
                yield event
