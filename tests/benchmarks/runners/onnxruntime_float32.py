"""The float32 model in ONNX Runtime: what `resq-onnx export --method none` writes.

Its cache grows by concatenation and stays with ONNX Runtime from one call to the next: no copies
but the concatenation itself. A long prompt runs in slices, as ours does, which takes a fraction of
the memory and less time.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from resq_onnx.graph.names import cache_names
from resq_onnx.runtime import create_session
from resq_onnx.runtime.buffered import PREFILL_SLICE
from tests.benchmarks.runners import TimeRun, Timing, time_steps


def load(model: Path, threads: int, length: int) -> TimeRun:
    """Open a file; its length is not limited."""
    del length
    session = create_session(model, threads)

    def run(prompt: list[int], new: int) -> Timing:
        text = _Text(session)

        def step(ids: NDArray[np.int64]) -> NDArray[Any]:
            starts = range(0, ids.shape[1], PREFILL_SLICE)
            return [text.step(ids[:, start : start + PREFILL_SLICE]) for start in starts][-1]

        return time_steps(step, prompt, new)

    return run


class _Text:
    """One text: its cache so far."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        inputs = {entry.name: entry for entry in session.get_inputs()}
        self._session = session
        self._past, present = cache_names(sum(name.endswith(".key") for name in inputs))
        self._outputs = ["logits", *present]
        shapes = [inputs[name].shape for name in self._past]  # (batch, kv heads, past, head_dim)
        self._caches = [_value(np.zeros((1, s[1], 0, s[3]), np.float32)) for s in shapes]
        self._length = 0

    def step(self, ids: NDArray[np.int64]) -> NDArray[Any]:
        """Token ids (1, S) to the last one's logits, (vocabulary,)."""
        new = ids.shape[1]
        total = self._length + new
        feeds = {
            "input_ids": _value(np.ascontiguousarray(ids)),
            "attention_mask": _value(np.ones((1, total), np.int64)),
            "position_ids": _value(np.arange(self._length, total)[None]),
            **dict(zip(self._past, self._caches, strict=True)),
        }
        logits, *self._caches = self._session.run_with_ort_values(self._outputs, feeds)
        self._length = total
        last: NDArray[Any] = logits.numpy()[0, -1]
        return last


def _value(array: NDArray[Any]) -> Any:
    return onnxruntime.OrtValue.ortvalue_from_numpy(array)
