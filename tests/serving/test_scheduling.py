"""Places and queue, with work that waits to be told."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future

import pytest

from resq_onnx.serving.refusals import RefusalError
from resq_onnx.serving.scheduling import Scheduler


class Gate:
    """Work that says it has begun, and ends when the gate is opened."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.saw_cancel = False

    def work(self, cancelled: threading.Event) -> Iterator[str]:
        yield "begun"
        while not self.opened.wait(0.01):
            if cancelled.is_set():
                self.saw_cancel = True
                return
        yield "ended"


async def settle(scheduler: Scheduler, running: int, waiting: int) -> None:
    async with asyncio.timeout(60):
        while (scheduler.running, scheduler.waiting) != (running, waiting):
            await asyncio.sleep(0.01)


def test_as_many_run_as_there_are_places_then_as_many_wait() -> None:
    async def scenario() -> None:
        scheduler, gates = Scheduler(1, 1), [Gate(), Gate(), Gate()]
        first, second = (scheduler.start(gate.work) for gate in gates[:2])
        assert (scheduler.running, scheduler.waiting) == (1, 1)
        with pytest.raises(RefusalError, match="1 requests are running and 1 waiting") as found:
            scheduler.start(gates[2].work)
        assert found.value.status == 429
        gates[1].opened.set()
        gates[0].opened.set()
        assert [item async for item in first] == ["begun", "ended"]
        assert [item async for item in second] == ["begun", "ended"]
        await settle(scheduler, 0, 0)
        assert await scheduler.join(60)

    asyncio.run(scenario())


def test_what_is_cancelled_frees_its_place_in_the_queue_at_once_and_a_running_one_soon() -> None:
    async def scenario() -> None:
        scheduler, gates = Scheduler(1, 1), [Gate(), Gate(), Gate()]
        first, second = (scheduler.start(gate.work) for gate in gates[:2])
        async for _ in first:
            break
        second.cancel()
        await settle(scheduler, 1, 0)
        third = scheduler.start(gates[2].work)
        first.cancel()
        await settle(scheduler, 1, 0)
        assert gates[0].saw_cancel
        gates[2].opened.set()
        assert [item async for item in third] == ["begun", "ended"]
        await settle(scheduler, 0, 0)
        assert await scheduler.join(60)

    asyncio.run(scenario())


def test_an_error_reaches_whoever_waits_and_leaves_the_place_usable() -> None:
    def broken(_: threading.Event) -> Iterator[str]:
        yield "begun"
        raise ZeroDivisionError("of its own")

    async def scenario() -> None:
        scheduler = Scheduler(1, 0)
        items = aiter(scheduler.start(broken))
        assert await anext(items) == "begun"
        with pytest.raises(ZeroDivisionError, match="of its own"):
            await anext(items)
        await settle(scheduler, 0, 0)
        gate = Gate()
        gate.opened.set()
        assert [item async for item in scheduler.start(gate.work)] == ["begun", "ended"]
        assert await scheduler.join(60)

    asyncio.run(scenario())


def test_work_that_hears_nothing_is_waited_for_only_so_long() -> None:
    def deaf(_: threading.Event) -> Iterator[str]:
        yield "begun"
        opened.wait(60)

    async def scenario() -> None:
        scheduler = Scheduler(1, 0)
        running = scheduler.start(deaf)
        async for _ in running:
            break
        running.cancel()
        assert not await scheduler.join(0.1)
        opened.set()
        assert await scheduler.join(60)

    opened = threading.Event()
    asyncio.run(scenario())


def test_work_that_ends_after_the_event_loop_says_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def deaf(_: threading.Event) -> Iterator[str]:
        yield "begun"
        opened.wait(60)

    async def scenario() -> None:
        running = Scheduler(1, 0).start(deaf)
        assert await anext(aiter(running)) == "begun"
        assert running.future is not None
        futures.append(running.future)

    opened, futures = threading.Event(), list[Future[None]]()
    asyncio.run(scenario())
    opened.set()
    assert futures[0].result(60) is None
    for thread in threading.enumerate():
        if thread.name.startswith("generation"):
            thread.join(1)
    assert caplog.records == []
