"""What the programs of `make gpu` print, read back and set beside lower bounds of the times."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from scripts.cuda_block import layer_floor
from scripts.cuda_roofline import Gpu, card, floor
from scripts.gpu_shapes import Layers, Measurement
from scripts.gpu_stages import Outcome

SUMMARY: Final = "compare_cuda on "
DEVICE: Final = "device "
"""Beginnings of lines that compare_cuda prints."""


@dataclass(frozen=True)
class Device:
    """The GPU, as `compare_cuda --time` describes it.

    Attributes:
        name: Its name.
        has_clock: Whether times mean anything: not where a CPU acts as the GPU.
        card: Its peak figures, if they are known.
    """

    name: str
    has_clock: bool
    card: Gpu | None

    @classmethod
    def parse(cls, line: str) -> Device:
        """From the first line of the program's output.

        Raises:
            ValueError: It is another line.
        """
        words, found, name = line.partition(" name=")
        if not found or not words.startswith(DEVICE):
            raise ValueError(f"{line!r} does not describe a device")
        values = dict(word.split("=") for word in words.split()[1:])
        return cls(name, values["clock"] == "1", card(name))


@dataclass(frozen=True)
class KernelTime:
    """Time of a kernel, and its lower bound in microseconds, with what limits it."""

    model: str
    kernel: str
    call: str
    us: float
    floor_us: float | None
    limit: str
    rate: str
    """Of what limits it: GB/s of memory, or T/s of operations."""
    nbits_us: float | None
    """Of MatMulNBits with the same sizes."""

    @property
    def share(self) -> float | None:
        """Of the lower bound: 1 is as fast as the card allows."""
        return None if self.floor_us is None else self.floor_us / self.us


@dataclass(frozen=True)
class LayerTime:
    """Time of some layers: ours, in float16 in PyTorch, and the bound of ours, in microseconds."""

    model: str
    layers: int
    call: str
    is_prompt: bool
    us: float | None
    half_us: float | None
    bare_us: float | None
    """Of float16's products and attention alone."""
    floor_us: float | None

    @property
    def ratio(self) -> float | None:
        """How many times as fast as float16 ours is."""
        return None if self.us is None or self.half_us is None else self.half_us / self.us

    @property
    def bare_ratio(self) -> float | None:
        """The same, of float16 without the kernels between its products."""
        return None if self.us is None or self.bare_us is None else self.bare_us / self.us


def device_of(outcomes: Mapping[str, Outcome], stages: Iterable[str]) -> Device | None:
    """The device, from the first of these stages that described one."""
    found = (answers_of(outcomes[stage].output)[0] for stage in stages if stage in outcomes)
    return next((device for device in found if device is not None), None)


def answers_of(output: Sequence[str]) -> tuple[Device | None, list[float | None]]:
    """The device and the times that `compare_cuda --time` printed; None and none before that."""
    for place, line in enumerate(output):
        if line.startswith(DEVICE):
            return Device.parse(line), [time_of(answer) for answer in output[place + 1 :]]
    return None, []


def time_of(line: str) -> float | None:
    """Microseconds in an answer such as `us=1.5`; None if it is `error=REASON`."""
    name, _, value = line.partition("=")
    return float(value) if name == "us" else None


def by_key(output: Sequence[str]) -> dict[str, Any]:
    """Times that a program printed as JSON, by what was timed."""
    records = [json.loads(line) for line in output if line.startswith("{")]
    return {record["key"]: record["us"] for record in records if "key" in record}


def kernel_times(
    measurements: Sequence[Measurement], output: Sequence[str], nbits: Mapping[str, float]
) -> Iterator[KernelTime]:
    """The kernels that were timed before the output ends."""
    device, answers = answers_of(output)
    if device is None:
        return
    begin = 0
    for one in measurements:
        times = answers[begin : begin + len(one.lines)]
        begin += len(one.lines)
        found = [time for time in times if time is not None]
        if len(found) == len(one.lines):
            yield _kernel_time(one, sum(found), device, nbits)


def _kernel_time(
    one: Measurement, us: float, device: Device, nbits: Mapping[str, float]
) -> KernelTime:
    other = nbits.get(f"{one.model}, {one.kernel}, {one.call}")
    if device.card is None or not device.has_clock:
        return KernelTime(one.model, one.kernel, one.call, us, None, "", "", other)
    work = one.work[0 if device.card.has_int4 else 1]
    bound = floor(work, device.card)
    is_memory = bound.limit == "memory"
    amount = work.moved / 1e9 if is_memory else sum(work.operations.values()) / 1e12
    rate = f"{amount / us * 1e6:.0f} {'GB/s' if is_memory else 'T/s'}"
    floor_us = 1e6 * bound.seconds
    return KernelTime(one.model, one.kernel, one.call, us, floor_us, bound.limit, rate, other)


def layer_times(
    items: Sequence[Layers], output: Sequence[str], half: Mapping[str, Any]
) -> Iterator[LayerTime]:
    """The layers that any of both programs timed."""
    device, answers = answers_of(output)
    known = dict(zip((item.key for item in items), answers, strict=False))
    for item in items:
        ours, other = known.get(item.key), half.get(item.key) or {}
        bound = None
        if device is not None and device.card is not None and device.has_clock:
            one = layer_floor(item.model, item.call, device.card)
            bound = 1e6 * one.ours * item.layers
        if ours is not None or other:
            yield LayerTime(
                item.model.name,
                item.layers,
                item.call_name,
                item.call.tokens > 1,
                ours,
                other.get("whole"),
                other.get("bare"),
                bound,
            )


def summary_of(output: Sequence[str]) -> str:
    """The last line of compare_cuda, or what it printed instead."""
    lines = [line for line in output if line.startswith(SUMMARY)]
    return lines[-1] if lines else "no summary: it was cut off"
