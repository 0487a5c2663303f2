"""Deadlines: end a request when its time is up, its client disconnects or the server stops."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.types import Receive

from resq_onnx.serving.refusals import RefusalError, gone, stopping, timed_out


class Deadline:
    """The deadline of one request, which can be moved to now."""

    def __init__(self, timeout: asyncio.Timeout, reason: RefusalError) -> None:
        """Take a timeout that is already running.

        Args:
            timeout: The timeout around the whole request.
            reason: The error when the timeout expires.
        """
        self._timeout = timeout
        self.reason = reason

    def end(self, reason: RefusalError) -> None:
        """End the request at once."""
        self.reason = reason
        self._timeout.reschedule(asyncio.get_running_loop().time())


class Deadlines:
    """The requests in progress.

    Attributes:
        refuses: Whether new ones are refused, because the server ends.
    """

    def __init__(self, seconds: float) -> None:
        """Set the time limit of every request."""
        self._seconds = seconds
        self._open: set[Deadline] = set()
        self.refuses = False

    def __len__(self) -> int:
        """Number of requests in progress."""
        return len(self._open)

    @asynccontextmanager
    async def one(self) -> AsyncIterator[Deadline]:
        """Context of a whole request.

        Raises:
            RefusalError: The request was ended.
        """
        if self.refuses:
            raise stopping()
        deadline = None
        try:
            async with asyncio.timeout(self._seconds) as timeout:
                deadline = Deadline(timeout, timed_out(self._seconds))
                self._open.add(deadline)
                yield deadline
        except TimeoutError:
            if deadline is None or not timeout.expired():
                raise
            raise deadline.reason from None
        finally:
            self._open.discard(deadline)

    def stop(self) -> None:
        """End all requests, including future ones."""
        self.refuses = True
        for deadline in self._open:
            deadline.end(stopping())


@asynccontextmanager
async def while_connected(receive: Receive, deadline: Deadline) -> AsyncIterator[None]:
    """End a request whose body has been read when its client closes the connection."""

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        deadline.end(gone())

    watcher = asyncio.create_task(watch())
    try:
        yield
    finally:
        watcher.cancel()
