"""Scheduler: bounds how many requests run and wait, and brings their events to the event loop."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Final, Protocol

from resq_onnx.serving.batch import Batch, Generation, Told
from resq_onnx.serving.events import End, Event
from resq_onnx.serving.loop import Loop
from resq_onnx.serving.protocol import GenerationRequest
from resq_onnx.serving.refusals import busy, invalid

JOIN_POLL_SECONDS: Final = 0.02

PREPARING: Final = 4
"""Threads that tokenise prompts, each of which one request may occupy for seconds."""


class Preparing(Protocol):
    """What the scheduler needs of an engine."""

    def prepare(self, asked: GenerationRequest, cancelled: threading.Event) -> list[Generation]:
        """Turn a request into work for the batch, in a thread; `cancelled` ends that early."""


class Running:
    """A request as seen by the event loop: an iterator over the events of its choices."""

    def __init__(self, choices: int) -> None:
        """Attach to the running event loop."""
        self.choices = choices
        self.loop = asyncio.get_running_loop()
        self.cancelled = threading.Event()
        self.preparing: Future[None] | None = None
        self._events: asyncio.Queue[tuple[int, Event | End]] = asyncio.Queue()

    def cancel(self) -> None:
        """End the request soon. Do not iterate over its events after that."""
        self.cancelled.set()
        if self.preparing is not None:
            self.preparing.cancel()

    def put(self, choice: int, event: Event | End) -> None:
        """Hand over an event, in the event loop."""
        self._events.put_nowait((choice, event))

    async def __aiter__(self) -> AsyncIterator[tuple[int, Event]]:
        """Yield choices and events as they come; raise the exception that ended one of them."""
        unfinished = self.choices
        while unfinished:
            choice, event = await self._events.get()
            if not isinstance(event, End):
                yield choice, event
                continue
            unfinished -= 1
            if event.error is not None:
                raise event.error


Found = tuple[Running, int, Event | End]
"""A request, the number of a choice, and its event."""


class Scheduler:
    """The way of all requests: prepared by a few threads, then run by one together."""

    def __init__(self, engine: Preparing, batch: Batch, concurrent: int, waiting: int) -> None:
        """Start the thread that runs the model.

        Args:
            engine: Prepares the requests.
            batch: Runs them; nobody else may use it.
            concurrent: Number of requests that run at once.
            waiting: Number of further requests that may wait.
        """
        self._engine = engine
        self._concurrent = concurrent
        self._waiting = waiting
        self._unfinished = 0
        self._running: dict[Generation, tuple[Running, int]] = {}
        self._executor = ThreadPoolExecutor(PREPARING, thread_name_prefix="preparation")
        self._loop = Loop(batch, self._deliver)

    @property
    def places(self) -> int:
        """Largest number of running and waiting requests."""
        return self._concurrent + self._waiting

    @property
    def running(self) -> int:
        """Number of running requests."""
        return min(self._unfinished, self._concurrent)

    @property
    def waiting(self) -> int:
        """Number of waiting requests."""
        return self._unfinished - self.running

    def start(self, asked: GenerationRequest) -> Running:
        """Run a request as soon as there is room.

        Raises:
            RefusalError: The queue is full, or has no room for so many choices in any case.
        """
        if asked.answers > self.places:
            field = "prompt" if asked.further else "n"
            raise invalid(
                f"the request is for {asked.answers} answers, n to each prompt; this server takes "
                f"at most {self.places} at once",
                field,
            )
        if self._unfinished + asked.answers > self.places:
            raise busy(self.running, self.waiting)
        running = Running(asked.answers)
        self._unfinished += asked.answers
        running.preparing = self._executor.submit(self._prepare, asked, running)
        running.preparing.add_done_callback(
            lambda future: self._end(running) if future.cancelled() else None
        )
        return running

    async def join(self, seconds: float) -> bool:
        """Wait until all threads have finished; no new request can be started.

        Returns:
            Whether all finished within `seconds`.
        """
        self._executor.shutdown(wait=False, cancel_futures=True)
        self._loop.stop()
        until = time.monotonic() + seconds
        while self._unfinished and time.monotonic() < until:
            await asyncio.sleep(JOIN_POLL_SECONDS)
        return not self._unfinished

    def _prepare(self, asked: GenerationRequest, running: Running) -> None:
        """Prepare a request, in a thread."""
        try:
            generations = self._engine.prepare(asked, running.cancelled)
        except BaseException as error:  # pass on any exception to the waiting task
            self._end(running, error)
            return
        for choice, generation in enumerate(generations):
            self._running[generation] = running, choice
        for generation in generations:
            self._loop.submit(generation)

    def _end(self, running: Running, error: BaseException | None = None) -> None:
        """End a request that does not get as far as the batch, in any thread."""
        self._put([(running, choice, End(error)) for choice in range(running.choices)])

    def _deliver(self, told: Sequence[Told]) -> None:
        """Hand over the events of a step, in the thread that runs the model."""
        found = [(*self._running[generation], event) for generation, event in told]
        for generation, event in told:
            if isinstance(event, End):
                del self._running[generation]
        self._put(found)

    def _put(self, found: Sequence[Found]) -> None:
        """Hand over events, in any thread."""
        if found:
            _call_soon(found[0][0].loop, self._receive, found)

    def _receive(self, found: Sequence[Found]) -> None:
        """Take events, in the event loop."""
        for running, choice, event in found:
            running.put(choice, event)
            self._unfinished -= isinstance(event, End)


def _call_soon(loop: asyncio.AbstractEventLoop, function: Callable[..., None], *given: Any) -> None:
    """Call a function in the event loop, unless that has ended before this thread."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(function, *given)
