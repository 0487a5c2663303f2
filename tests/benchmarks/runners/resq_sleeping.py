"""The same as `resq`, but threads that wait sleep: for machines that have other work as well."""

from __future__ import annotations

from pathlib import Path

from resq_onnx.evaluation.workload import Workload
from tests.benchmarks.runners import TimeRun
from tests.benchmarks.runners.resq import in_buffer


def load(model: Path, threads: int, length: int) -> TimeRun:
    """Open a file that `resq-onnx export` wrote."""
    workload = Workload(prompt_tokens=1, new_tokens=length - 1, threads=threads, spinning=False)
    return in_buffer(model, workload)
