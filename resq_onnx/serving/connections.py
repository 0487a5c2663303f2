"""Limits on open connections: their number, and how long each may keep the server waiting.

uvicorn limits requests, but not clients that connect and send nothing, or one byte at a time. When
there is no room for a new connection, the one that has kept the server waiting longest is closed.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import resource
import time
from typing import Any, ClassVar, Final

from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_CONNECTIONS: Final = 256
"""Connections that may be open besides those of running and waiting requests."""

HEADER_SECONDS: Final = 10.0
"""Time limit for the headers of a request, from the connection or its last answer on."""

LAST_BYTES_SECONDS: Final = 30.0
"""Further time for a client to fetch the rest of its last answer."""

SWEEP_SECONDS: Final = 1.0

TELL_SECONDS: Final = 10.0
"""Time between two log lines, however many connections are closed."""

MAX_HEADER: Final = 2**14
"""Largest size of a request's headers, in bytes."""

OTHER_FILES: Final = 512
"""File descriptors for everything else: the model, templates, connections not counted yet."""

NO_ROOM: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\n"
    b"retry-after: 2\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
)

logger = logging.getLogger("resq_onnx.serving")

OUT_OF_ROOM: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Connections:
    """The open connections of a server.

    Attributes:
        limit: Largest number of connections.
        unaccepted: Connections that the operating system had no room for, since the last log line.
    """

    def __init__(self, limit: int) -> None:
        """Bound the number of connections."""
        self.limit = limit
        self.unaccepted = 0
        self._closed = 0
        self._told = 0.0
        self._open: set[Connection] = set()

    def protocol(self) -> type[Connection]:
        """The protocol class for uvicorn, which makes one object per connection."""
        return type("Connection", (Connection,), {"guard": self})

    def admit(self, new: Connection) -> None:
        """Admit a connection; close another if there is no room."""
        self._open.add(new)
        if len(self._open) <= self.limit:
            return
        self._closed += 1
        waiting = [one for one in self._open if one.keeps_waiting and one is not new]
        if waiting:
            longest = min(waiting, key=lambda one: (one.uploads, one.since))
            self._open.discard(longest)
            longest.transport.abort()
        else:
            self._open.discard(new)
            new.transport.write(NO_ROOM)
            new.transport.close()

    def discard(self, connection: Connection) -> None:
        """Forget a closed connection."""
        self._open.discard(connection)

    async def sweep(self) -> None:
        """Close connections that keep the server waiting too long; run forever."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            now = time.monotonic()
            for one in [one for one in self._open if one.is_idle]:
                if now - one.since > HEADER_SECONDS + LAST_BYTES_SECONDS:
                    one.transport.abort()
                elif now - one.since > HEADER_SECONDS and not one.transport.is_closing():
                    self._closed += 1
                    one.transport.close()
            if now - self._told > TELL_SECONDS and (self._closed or self.unaccepted):
                logger.warning(
                    "closed %d connections that kept the server waiting; %d times the system had "
                    "no room for another", self._closed, self.unaccepted,
                )  # fmt: skip
                self._closed, self.unaccepted, self._told = 0, 0, now


class Connection(H11Protocol):
    """One connection, with the time since which it has kept the server waiting.

    Attributes:
        guard: All connections of the server.
        since: Time at which the connection was opened, or its last answer completed.
    """

    guard: ClassVar[Connections]
    since: float

    @property
    def is_idle(self) -> bool:
        """Whether there is no request, or only a part of its headers."""
        return self.cycle is None or self.cycle.response_complete

    @property
    def uploads(self) -> bool:
        """Whether a request's body is incomplete."""
        return not self.is_idle and self.cycle.more_body

    @property
    def keeps_waiting(self) -> bool:
        """Whether the server is waiting for the client."""
        return self.is_idle or self.uploads

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Admit the connection."""
        super().connection_made(transport)
        self.since = time.monotonic()
        self.guard.admit(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self.guard.discard(self)
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        self.since = time.monotonic()
        super().on_response_complete()


def room_for(requests: int) -> int:
    """Largest number of connections, including those of this many requests in progress.

    The limit on open files is raised as far as allowed, and bounds the result.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_CONNECTIONS + requests
    if soft < wanted + OTHER_FILES:
        soft = min(wanted + OTHER_FILES, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max(min(wanted, soft - OTHER_FILES), soft // 4, 8)


def lacks_room(context: dict[str, Any]) -> bool:
    """Whether an event loop reports that it lacks resources to accept a connection."""
    error = context.get("exception")
    return isinstance(error, OSError) and error.errno in OUT_OF_ROOM
