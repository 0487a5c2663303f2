"""An exported model with this project's kernels, in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

from resq_onnx.evaluation.workload import Workload, open_decoder
from tests.benchmarks.runners import TimeRun, Timing, time_steps


def load(model: Path, threads: int, length: int) -> TimeRun:
    """Open a file that `resq-onnx export` wrote."""
    return in_buffer(model, Workload(prompt_tokens=1, new_tokens=length - 1, threads=threads))


def in_buffer(model: Path, workload: Workload) -> TimeRun:
    """Run a graph that writes new keys and values into a cache of fixed length."""
    decoder = open_decoder(model, workload)

    def run(prompt: list[int], new: int) -> Timing:
        decoder.reset()
        return time_steps(lambda ids: decoder.run(ids)[0], prompt, new)

    return run
