"""Scheduler: a bounded number of worker threads, a queue, and results for the event loop."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from resq_onnx.serving.refusals import busy

Item = TypeVar("Item")
Work = Callable[[threading.Event], Iterator[Item]]
"""A function that runs in a thread, and ends soon after the event is set."""

JOIN_POLL_SECONDS: Final = 0.02


@dataclass(frozen=True)
class _End:
    error: BaseException | None = None


class Running(Generic[Item]):
    """A piece of work as seen by the event loop: an iterator over the thread's items."""

    def __init__(self, work: Work[Item]) -> None:
        """Attach to the running event loop."""
        self._work = work
        self._loop = asyncio.get_running_loop()
        self._items: asyncio.Queue[Item | _End] = asyncio.Queue()
        self._cancelled = threading.Event()
        self.future: Future[None] | None = None

    def run(self) -> None:
        """Do the work, in a thread."""
        error: BaseException | None = None
        try:
            with closing(self._work(self._cancelled)) as items:  # type: ignore[type-var]
                for item in items:
                    self._tell(item)
        except BaseException as found:  # pass on any exception to the waiting task
            error = found
        self._tell(_End(error))

    def cancel(self) -> None:
        """End the work soon, or keep it from starting. Do not iterate over its items after that."""
        self._cancelled.set()
        if self.future is not None:
            self.future.cancel()

    async def __aiter__(self) -> AsyncIterator[Item]:
        """Yield the work's items as they come, and raise its exceptions."""
        while not isinstance(item := await self._items.get(), _End):
            yield item
        if item.error is not None:
            raise item.error

    def _tell(self, item: Item | _End) -> None:
        _call_soon(self._loop, self._items.put_nowait, item)


class Scheduler:
    """Runs pieces of work in a bounded number of threads, in the order in which they came."""

    def __init__(self, concurrent: int, waiting: int) -> None:
        """Start no thread yet.

        Args:
            concurrent: Number of pieces that run at once.
            waiting: Number of further pieces that may wait.
        """
        self._concurrent = concurrent
        self._waiting = waiting
        self._unfinished = 0
        self._executor = ThreadPoolExecutor(concurrent, thread_name_prefix="generation")

    @property
    def places(self) -> int:
        """Largest number of running and waiting pieces."""
        return self._concurrent + self._waiting

    @property
    def running(self) -> int:
        """Number of running pieces."""
        return min(self._unfinished, self._concurrent)

    @property
    def waiting(self) -> int:
        """Number of waiting pieces."""
        return self._unfinished - self.running

    def start(self, work: Work[Item]) -> Running[Item]:
        """Run work as soon as a thread is free.

        Raises:
            RefusalError: The queue is full.
        """
        if self._unfinished >= self.places:
            raise busy(self.running, self.waiting)
        running = Running(work)
        loop = asyncio.get_running_loop()
        self._unfinished += 1
        running.future = self._executor.submit(running.run)
        running.future.add_done_callback(lambda _: _call_soon(loop, self._finish))
        return running

    async def join(self, seconds: float) -> bool:
        """Wait until all threads have finished; no new work can be started.

        Returns:
            Whether all finished within `seconds`.
        """
        self._executor.shutdown(wait=False, cancel_futures=True)
        until = time.monotonic() + seconds
        while self._unfinished and time.monotonic() < until:
            await asyncio.sleep(JOIN_POLL_SECONDS)
        return not self._unfinished

    def _finish(self) -> None:
        self._unfinished -= 1


def _call_soon(loop: asyncio.AbstractEventLoop, function: Callable[..., None], *given: Any) -> None:
    """Call a function in the event loop, unless that has ended before this thread."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(function, *given)
