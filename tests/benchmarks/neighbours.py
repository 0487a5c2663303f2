"""Decode on all threads while another process computes on one of the cores.

    python -m tests.benchmarks.neighbours FOLDER [--threads 2] [--rounds 3] [--seconds 2]
        [--contexts 512 3584] [--bursts 1 5 20 50]

The other process is busy all the time, or half of the time in bursts of so many milliseconds.
Speeds are relative to one thread without that process. All are measured in turns in one process;
the table shows medians of the rounds.
"""

from __future__ import annotations

import argparse
import os
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from resq_onnx.evaluation.workload import Workload, open_decoder
from resq_onnx.files import find_model
from resq_onnx.runtime import BufferedDecoder
from tests.benchmarks.busy_core import busy_core
from tests.benchmarks.machine import machine_line

STEPS = 64
"""Tokens after which a sample goes back to the end of the prompt, so that contexts stay as long as
they are said to be."""


@dataclass(frozen=True)
class Setting:
    """One line of the table: threads, and what runs beside them."""

    name: str
    threads: int
    busy: bool = False
    burst_ms: int | None = None


def settings_of(threads: int, bursts: list[int]) -> list[Setting]:
    """One thread alone first: all others are compared with it."""
    return [
        Setting("1 thread", 1),
        Setting(f"{threads} threads", threads),
        Setting(f"{threads} threads, one core busy", threads, busy=True),
        *(
            Setting(f"{threads} threads, busy for {ms} of {2 * ms} ms", threads, True, ms)
            for ms in bursts
        ),
    ]


def tokens_per_second(decoder: BufferedDecoder, context: int, seconds: float) -> float:
    """Decode for some time, always behind `context` tokens, which are cached."""
    token, steps = np.zeros((1, 1), np.int64), 0
    start = time.perf_counter()
    while (passed := time.perf_counter() - start) < seconds or steps == 0:
        if steps % STEPS == 0:
            decoder.rewind(context)
        decoder.run(token)
        steps += 1
    return steps / passed


def measure(
    model: Path, context: int, settings: list[Setting], rounds: int, seconds: float
) -> list[float]:
    """Median tokens per second of each setting."""
    decoders = {}
    for threads in {setting.threads for setting in settings}:
        workload = Workload(prompt_tokens=context, new_tokens=STEPS, threads=threads)
        decoders[threads] = open_decoder(model, workload)
        decoders[threads].run(workload.prompt(decoders[threads].signature.vocabulary or 1))
    samples: list[list[float]] = [[] for _ in settings]
    for _ in range(rounds):
        for setting, sample in zip(settings, samples, strict=True):
            with busy_core(setting.burst_ms) if setting.busy else nullcontext():
                sample.append(tokens_per_second(decoders[setting.threads], context, seconds))
    return [median(sample) for sample in samples]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("model", type=Path, metavar="FOLDER")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each sample")
    parser.add_argument("--contexts", type=int, nargs="+", default=[512, 3584])
    parser.add_argument("--bursts", type=int, nargs="+", default=[1, 5, 20, 50])
    options = parser.parse_args()
    model = find_model(options.model)
    settings = settings_of(options.threads, options.bursts)
    print(f"{machine_line()}; tokens/s, medians of {options.rounds} rounds")
    columns = [f" after {context} | of 1 thread |" for context in options.contexts]
    print("| |" + "".join(columns) + "\n|---|" + "---|---|" * len(columns), flush=True)
    speeds = [
        measure(model, context, settings, options.rounds, options.seconds)
        for context in options.contexts
    ]
    for setting, *row in zip(settings, *speeds, strict=True):
        cells = (f" {x:.1f} | {x / one[0]:.2f} |" for x, one in zip(row, speeds, strict=True))
        print(f"| {setting.name} |" + "".join(cells))


if __name__ == "__main__":
    main()
