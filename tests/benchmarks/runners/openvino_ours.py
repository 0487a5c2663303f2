"""A portable file of ours in OpenVINO, which keeps the cache as a state."""

from __future__ import annotations

from pathlib import Path

from resq_onnx.handoff.openvino import StatefulDecoder
from tests.benchmarks.runners import TimeRun, Timing, time_steps


def load(model: Path, threads: int, length: int) -> TimeRun:
    """Open a file that `resq-onnx export --target openvino` wrote."""
    decoder = StatefulDecoder(model, length, threads)

    def run(prompt: list[int], new: int) -> Timing:
        decoder.reset()
        return time_steps(lambda ids: decoder.run(ids)[0], prompt, new)

    return run
