"""The report of `make gpu`: report.md to read, report.json with the same and every number."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from scripts.gpu_results import (
    Device,
    KernelTime,
    LayerTime,
    by_key,
    device_of,
    kernel_times,
    layer_times,
    summary_of,
)
from scripts.gpu_shapes import Sizes, kernels, layers
from scripts.gpu_stages import Outcome

COMPARE: Final = "compare"
KERNELS: Final = "kernels"
LAYERS: Final = "layers"
HALF: Final = "float16"
NBITS: Final = "matmulnbits"

PROMPT_GOAL: Final = 1.4
STEP_GOAL: Final = 2.5
"""How many times as fast as float16 one layer should be on an H100, reading a prompt of 2048 tokens
and one token after it."""

SLOWEST: Final = 1.0
"""The same of all layers, for a token: never slower than float16."""

TOOLS: Final = ("memcheck", "racecheck", "profile")
MOST_LINES: Final = 80
"""Of a tool's output in report.md; all of it is in a file of its own."""

ABSENT: Final = "–"


@dataclass(frozen=True)
class Report:
    """All that is known after some stages.

    Attributes:
        device: Where it ran; None if no stage got so far.
        outcomes: Of the stages so far, by name.
        kernels: Times of kernels.
        layers: Times of layers.
    """

    device: Device | None
    outcomes: Mapping[str, Outcome]
    kernels: Sequence[KernelTime]
    layers: Sequence[LayerTime]

    @classmethod
    def of(cls, outcomes: Mapping[str, Outcome], sizes: Sizes) -> Report:
        """Read the output of the stages, of which each may be missing or cut off."""
        output = {name: outcome.output for name, outcome in outcomes.items()}
        nbits = by_key(output.get(NBITS, ()))
        half = by_key(output.get(HALF, ()))
        return cls(
            device_of(outcomes, (KERNELS, LAYERS)),
            outcomes,
            list(kernel_times(list(kernels(sizes)), output.get(KERNELS, ()), nbits)),
            list(layer_times(list(layers(sizes)), output.get(LAYERS, ()), half)),
        )

    def write(self, folder: Path) -> None:
        """Write report.md and report.json into an existing folder."""
        lines = "".join(f"{line}\n" for line in self.lines())
        (folder / "report.md").write_text(lines)
        (folder / "report.json").write_text(json.dumps(self.record(), indent=1) + "\n")

    def record(self) -> dict[str, object]:
        """The report as JSON; stages without their output, which has files of its own."""
        stages = [dataclasses.asdict(one) for one in self.outcomes.values()]
        for stage in stages:
            del stage["output"]
        return {
            "device": None if self.device is None else self.device.name,
            "stages": stages,
            "kernels": [dataclasses.asdict(one) | {"share": one.share} for one in self.kernels],
            "layers": [dataclasses.asdict(one) | {"ratio": one.ratio} for one in self.layers],
        }

    def lines(self) -> Iterator[str]:
        """The report as Markdown."""
        yield f"# {self.device.name if self.device else 'No GPU described itself'}"
        yield ""
        if self.device is not None and not self.device.has_clock:
            yield "A rehearsal on a CPU: every measurement is 1 ms, and no time means anything."
            yield ""
        yield from stage_table(self.outcomes)
        if COMPARE in self.outcomes:
            yield ""
            yield summary_of(self.outcomes[COMPARE].output)
        if self.device is not None and self.device.has_clock:
            yield from ("", *goals(self.layers))
        yield from ("", "## Layers", "", *layer_table(self.layers))
        yield from ("", "## Kernels", "", *kernel_table(self.kernels))
        yield from tool_output(self.outcomes)


def stage_table(outcomes: Mapping[str, Outcome]) -> Iterator[str]:
    """How each stage ended."""
    yield "| stage | | seconds | |"
    yield "|---|---|---|---|"
    for one in outcomes.values():
        yield f"| {one.name} | {one.state} | {one.seconds:.1f} | {one.reason.replace('|', '/')} |"


def goals(times: Sequence[LayerTime]) -> Iterator[str]:
    """Whether layers are as much faster than float16 as they should be."""
    for one in times:
        if one.layers > 1:
            goal = None if one.is_prompt else SLOWEST
        else:
            goal = PROMPT_GOAL if one.is_prompt else STEP_GOAL
        if goal is not None and one.ratio is not None:
            met = "met" if one.ratio >= goal else "missed"
            what = f"{one.model}, {_layers(one.layers)}, {one.call}"
            yield f"- {what}: {one.ratio:.2f} times as fast, {goal} {met}"


def tool_output(outcomes: Mapping[str, Outcome]) -> Iterator[str]:
    """The last lines that NVIDIA's tools printed."""
    for one in (outcomes[name] for name in TOOLS if name in outcomes):
        if one.output:
            yield from ("", f"## {one.name}", "", "```")
            yield from one.output[-MOST_LINES:]
            yield "```"


def layer_table(times: Sequence[LayerTime]) -> Iterator[str]:
    """Decoder layers as CUDA graphs, against float16 in PyTorch."""
    yield (
        "| model | layers | call | ours µs | float16 µs | times as fast "
        "| float16's products and attention alone µs | times as fast | bound of ours µs |"
    )
    yield "|---" * 9 + "|"
    for one in times:
        cells = [one.model, f"{one.layers}", one.call, _number(one.us), _number(one.half_us)]
        cells += [_ratio(one.ratio), _number(one.bare_us), _ratio(one.bare_ratio)]
        yield f"| {' | '.join([*cells, _number(one.floor_us)])} |"


def kernel_table(times: Sequence[KernelTime]) -> Iterator[str]:
    """Kernels, and their shares of the bounds in docs/cuda.md."""
    yield "| model | kernel | call | µs | bound µs | share | rate | MatMulNBits µs |"
    yield "|---" * 8 + "|"
    for one in times:
        share = ABSENT if one.share is None else f"{100 * one.share:.0f} %"
        bound = ABSENT if one.floor_us is None else f"{one.floor_us:.2f} {one.limit}"
        cells = [one.model, one.kernel, one.call, _number(one.us), bound, share]
        yield f"| {' | '.join([*cells, one.rate or ABSENT, _number(one.nbits_us)])} |"


def _number(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.2f}"


def _layers(count: int) -> str:
    return "1 layer" if count == 1 else f"{count} layers"


def _ratio(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.2f}"
