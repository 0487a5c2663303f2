"""Places and queue, with a batch whose requests wait to be told."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest

from resq_onnx.serving.batch import Batch, Generation, Told
from resq_onnx.serving.events import End, Finished, Started
from resq_onnx.serving.protocol import GenerationRequest
from resq_onnx.serving.refusals import RefusalError, gone
from resq_onnx.serving.scheduling import Running, Scheduler

BEGUN, ENDED = Started(1, 0), Finished("stop", 1)


class Gate:
    """A request that begins when there is room, and ends when the gate is opened."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.opened = threading.Event()
        self.cancelled = threading.Event()
        self.error = error
        self.has_begun = False
        self.answers = 1


class Gates:
    """Engine and batch in one: some requests run at once."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._gates: list[Gate] = []

    @property
    def is_idle(self) -> bool:
        return not self._gates

    def prepare(self, asked: Gate, cancelled: threading.Event) -> list[Gate]:
        asked.cancelled = cancelled
        return [asked]

    def add(self, gate: Gate) -> None:
        self._gates.append(gate)

    def advance(self) -> list[Any]:
        told: list[Any] = []
        for gate in self._gates[: self._room]:
            if not gate.has_begun:
                gate.has_begun = True
                told.append((gate, BEGUN))
            if gate.opened.is_set():
                told += [(gate, ENDED)] if gate.error is None else []
                told.append((gate, End(gate.error)))
        told += [(gate, End(gone())) for gate in self._gates if gate.cancelled.is_set()]
        ended = [gate for gate, event in told if isinstance(event, End)]
        self._gates = [gate for gate in self._gates if gate not in ended]
        threading.Event().wait(0.005)
        return told

    def end_all(self, error: BaseException) -> list[Any]:
        ended, self._gates = self._gates, []
        return [(gate, End(error)) for gate in ended]


@contextmanager
def scheduling(room: int, waiting: int, gates: Gates | None = None) -> Iterator[Scheduler]:
    gates = gates or Gates(room)
    yield Scheduler(cast(Any, gates), cast(Batch, gates), room, waiting)


def start(scheduler: Scheduler, gate: Gate) -> Running:
    return scheduler.start(cast(GenerationRequest, gate))


async def settle(scheduler: Scheduler, running: int, waiting: int) -> None:
    async with asyncio.timeout(60):
        while (scheduler.running, scheduler.waiting) != (running, waiting):
            await asyncio.sleep(0.01)


def in_a_loop(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(scenario())


def test_as_many_run_as_there_are_places_then_as_many_wait() -> None:
    async def scenario() -> None:
        with scheduling(1, 1) as scheduler:
            gates = [Gate(), Gate(), Gate()]
            first, second = (start(scheduler, gate) for gate in gates[:2])
            assert (scheduler.running, scheduler.waiting) == (1, 1)
            with pytest.raises(RefusalError, match="1 requests are running and 1 waiting") as found:
                start(scheduler, gates[2])
            assert found.value.status == 429
            gates[1].opened.set()
            gates[0].opened.set()
            assert [event async for _, event in first] == [BEGUN, ENDED]
            assert [event async for _, event in second] == [BEGUN, ENDED]
            await settle(scheduler, 0, 0)
            assert await scheduler.join(60)

    in_a_loop(scenario)


def test_what_is_cancelled_frees_its_place() -> None:
    async def scenario() -> None:
        with scheduling(1, 1) as scheduler:
            gates = [Gate(), Gate(), Gate()]
            first, second = (start(scheduler, gate) for gate in gates[:2])
            async for _ in first:
                break
            second.cancel()
            await settle(scheduler, 1, 0)
            third = start(scheduler, gates[2])
            first.cancel()
            await settle(scheduler, 1, 0)
            gates[2].opened.set()
            assert [event async for _, event in third] == [BEGUN, ENDED]
            await settle(scheduler, 0, 0)
            assert await scheduler.join(60)

    in_a_loop(scenario)


def test_an_error_reaches_whoever_waits_and_leaves_the_place_usable() -> None:
    async def scenario() -> None:
        with scheduling(1, 0) as scheduler:
            gate = Gate(ZeroDivisionError("of its own"))
            events = aiter(start(scheduler, gate))
            assert await anext(events) == (0, BEGUN)
            gate.opened.set()
            with pytest.raises(ZeroDivisionError, match="of its own"):
                await anext(events)
            await settle(scheduler, 0, 0)
            gate = Gate()
            gate.opened.set()
            assert [event async for _, event in start(scheduler, gate)] == [BEGUN, ENDED]
            assert await scheduler.join(60)

    in_a_loop(scenario)


class Broken(Gates):
    """A batch with a defect."""

    def advance(self) -> list[Told]:
        raise ZeroDivisionError("of the batch")


def test_a_defect_of_the_batch_ends_its_requests_and_not_the_thread() -> None:
    async def scenario() -> None:
        with scheduling(1, 0, Broken(1)) as scheduler:
            for _ in range(2):
                with pytest.raises(ZeroDivisionError, match="of the batch"):
                    await anext(aiter(start(scheduler, Gate())))
                await settle(scheduler, 0, 0)
            assert await scheduler.join(60)

    in_a_loop(scenario)


class Refusing(Gates):
    """An engine that prepares nothing."""

    def prepare(self, asked: Gate, cancelled: threading.Event) -> list[Gate]:
        raise RefusalError(400, "not this one")


def test_a_request_that_cannot_be_prepared_is_refused_and_frees_its_place() -> None:
    async def scenario() -> None:
        with scheduling(1, 0, Refusing(1)) as scheduler:
            with pytest.raises(RefusalError, match="not this one"):
                await anext(aiter(start(scheduler, Gate())))
            await settle(scheduler, 0, 0)
            assert await scheduler.join(60)

    in_a_loop(scenario)


class Deaf(Gates):
    """A batch of which one step takes long."""

    def __init__(self, room: int) -> None:
        super().__init__(room)
        self.steps = 0
        self.stepping, self.stepped = threading.Event(), threading.Event()

    def advance(self) -> list[Told]:
        told = super().advance()
        self.steps += 1
        if self.steps > 1:
            self.stepping.set()
            self.stepped.wait(60)
        return told


def test_a_step_that_takes_long_is_waited_for_only_so_long() -> None:
    async def scenario() -> None:
        with scheduling(1, 0, deaf) as scheduler:
            running = start(scheduler, Gate())
            async for _ in running:
                break
            running.cancel()
            assert await asyncio.to_thread(deaf.stepping.wait, 60)
            assert not await scheduler.join(0.1)
            deaf.stepped.set()
            assert await scheduler.join(60)

    deaf = Deaf(1)
    in_a_loop(scenario)


def test_requests_that_run_when_the_server_stops_are_ended() -> None:
    async def scenario() -> None:
        with scheduling(1, 1) as scheduler:
            gates = [Gate(), Gate()]
            first, second = (aiter(start(scheduler, gate)) for gate in gates)
            assert await anext(first) == (0, BEGUN)
            assert await scheduler.join(60)
            for events in (first, second):
                with pytest.raises(RefusalError, match="shutting down"):
                    await anext(events)

    in_a_loop(scenario)


def test_events_after_the_event_loop_are_dropped(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        with scheduling(1, 0, deaf) as scheduler:
            assert await anext(aiter(start(scheduler, gate))) == (0, BEGUN)
            schedulers.append(scheduler)

    deaf, gate, schedulers = Deaf(1), Gate(), list[Scheduler]()
    in_a_loop(scenario)
    gate.opened.set()
    deaf.stepped.set()
    schedulers[0]._loop.stop()
    schedulers[0]._loop.join(60)
    assert caplog.records == []


def test_a_generation_can_be_a_key() -> None:
    """By which the scheduler finds whose event it is."""
    first, second = (Generation(cast(Any, None), threading.Event()) for _ in range(2))
    assert len({first, second}) == 2
