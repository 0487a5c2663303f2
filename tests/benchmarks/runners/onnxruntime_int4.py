"""MatMulNBits (4 bits, block 32, accuracy level 4) and GroupQueryAttention in ONNX Runtime.

The graph is the one that onnxruntime-genai's builder writes, run without onnxruntime-genai, with
a cache of fixed length that GroupQueryAttention writes to.
"""

from __future__ import annotations

from pathlib import Path

from resq_onnx.evaluation.workload import Workload
from tests.benchmarks.runners import TimeRun
from tests.benchmarks.runners.resq import in_buffer


def load(model: Path, threads: int, length: int) -> TimeRun:
    """Open a folder with model.onnx and genai_config.json."""
    workload = Workload(prompt_tokens=1, new_tokens=length - 1, threads=threads, kernels=False)
    return in_buffer(model / "model.onnx", workload)
