"""Benchmark models side by side: speed, memory and load time.

Speed is measured in this process with all models open, in turns (A B A B ...), so that a slow
minute of the machine affects all models. Memory and load time are measured in one process per
model.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from resq_onnx.errors import ResqError
from resq_onnx.evaluation.fresh_process import Footprint, measure_footprint
from resq_onnx.evaluation.workload import Timing, Workload, open_decoder, run_once
from resq_onnx.runtime.buffered import BufferedDecoder
from resq_onnx.runtime.providers import CPU

PAUSE: Final = 0.05
"""Seconds between turns: threads of the previous session may still be spinning."""

WARM_UP_TOKENS: Final = 8
"""New tokens of the warm-up run."""


@dataclass(frozen=True)
class ModelSpeed:
    """Measurements of one model.

    Attributes:
        path: The .onnx file.
        prefill: Tokens per second of the prompt, one number for each turn.
        decode: Tokens per second of the continuation, one number for each turn.
        footprint: Load time and peak memory.
    """

    path: Path
    prefill: tuple[float, ...]
    decode: tuple[float, ...]
    footprint: Footprint

    @property
    def median_prefill(self) -> float:
        """Median tokens per second of the prompt."""
        return statistics.median(self.prefill)

    @property
    def median_decode(self) -> float:
        """Median tokens per second of the continuation."""
        return statistics.median(self.decode)


def benchmark(
    paths: Sequence[Path],
    workload: Workload,
    repeat: int,
    progress: Callable[[int, int], None] | None = None,
) -> list[ModelSpeed]:
    """Measure models against each other.

    Args:
        paths: The .onnx files.
        workload: The work of each model in each turn.
        repeat: Number of measured turns; a warm-up turn precedes them.
        progress: Called with the number of finished steps and their total; a step is a turn or a
            process.

    Raises:
        ResqError: A file is not a decoder, or cannot run this workload.
    """
    if repeat < 1:
        raise ResqError(f"repeat is {repeat}; it must be at least 1")
    done, steps = 0, len(paths) * (repeat + 2)
    timings: list[list[Timing]] = [[] for _ in paths]

    def advance() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, steps)

    decoders = [open_decoder(path, workload) for path in paths]
    # The same prompt for all models: ids below the smallest vocabulary.
    vocabulary = min(decoder.signature.vocabulary or 1 for decoder in decoders)
    prompt = workload.prompt(vocabulary)
    for decoder in decoders:
        _warm_up(decoder, prompt, workload)
        advance()
    for _ in range(repeat):
        for decoder, found in zip(decoders, timings, strict=True):
            time.sleep(PAUSE)
            found.append(run_once(decoder, prompt, workload.new_tokens))
            advance()
    decoders.clear()  # free their memory for the processes
    speeds = []
    for path, found in zip(paths, timings, strict=True):
        footprint = measure_footprint(path, workload)
        speeds.append(_speed(path, found, workload, footprint))
        advance()
    return speeds


def _warm_up(decoder: BufferedDecoder, prompt: NDArray[np.int64], workload: Workload) -> None:
    """Run the first slice, and the last one if it is shorter: a GPU prepares for each length."""
    some, new = decoder.prefill_slice, min(WARM_UP_TOKENS, workload.new_tokens)
    run_once(decoder, prompt[:, :some], new)
    rest = workload.prompt_tokens % some
    if workload.provider != CPU and workload.prompt_tokens > some and rest:
        run_once(decoder, prompt[:, :rest], new)


def _speed(
    path: Path, timings: Sequence[Timing], workload: Workload, footprint: Footprint
) -> ModelSpeed:
    return ModelSpeed(
        path,
        prefill=tuple(workload.prompt_tokens / timing.prefill for timing in timings),
        decode=tuple(workload.new_tokens / timing.decode for timing in timings),
        footprint=footprint,
    )
