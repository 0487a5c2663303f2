"""A case as an ONNX Runtime session, and its time.

A model holds several copies of the node, each with weights (or a cache) of its own, as a model
has layers: together they are larger than the last cache, so a call finds what it reads in main
memory, and what a call of the session itself costs is shared by all.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from resq_onnx.runtime import create_session
from tests.benchmarks.kernel_cases import Case
from tests.functions.engines import PER_CALL, add_node, empty_model

MOST_COPIES: Final = 256
SECONDS_PER_SAMPLE: Final = 0.05
PAUSE: Final = 0.02
"""Seconds before a sample: threads of the session before may still be awake."""

Array = NDArray[Any]


def copies_beyond(case: Case, cache_bytes: int) -> int:
    """So many copies that what they store is twice a cache; one if a node stores nothing."""
    if not case.stored_bytes:
        return 1
    return min(MOST_COPIES, 1 + 2 * cache_bytes // case.stored_bytes)


class CaseSession:
    """A session on copies of one case's node, with inputs and outputs bound to fixed memory.

    Attributes:
        case: What it runs.
        copies: How often in one call of the session.
    """

    def __init__(self, case: Case, copies: int, threads: int, kernels: bool) -> None:
        """Write the model, open it, bind.

        Args:
            case: The node.
            copies: At least 1.
            threads: Of the session.
            kernels: Whether the compiled operators run, instead of the function bodies.
        """
        self.case = case
        self.copies = copies
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            self._write(path)
            # The files stay until the session that maps them is closed.
            self._session = create_session(path, threads, kernels=kernels, fold_weights=not kernels)
        self._binding: Any = self._session.io_binding()
        self._bind()
        self.run()

    def _write(self, path: Path) -> None:
        model = empty_model()
        for copy in range(self.copies):
            add_node(model, self.case.form, self.case.arrays, self.case.attributes, _prefix(copy))
        ir.save(model, path, external_data="model.onnx.data")

    def _bind(self) -> None:
        shared = {name: a for name, a in self.case.arrays.items() if name in PER_CALL}
        outputs = [parameter.name for parameter in self.case.form.outputs()]
        result = _result_of(self.case)
        self._memory = [result]
        for copy in range(self.copies):
            for name, array in shared.items():
                is_cache = name.startswith("past_")
                own = array.copy() if is_cache else array
                self._memory.append(own)
                self._bind_one(_prefix(copy) + name, own)
                if is_cache:
                    present = name.replace("past_", "present_")
                    self._bind_one(_prefix(copy) + present, own, output=True)
            self._bind_one(_prefix(copy) + outputs[0], result, output=True)

    def _bind_one(self, name: str, array: Array, *, output: bool = False) -> None:
        bind = self._binding.bind_output if output else self._binding.bind_input
        bind(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)

    def run(self) -> None:
        """One call."""
        self._session.run_with_iobinding(self._binding)

    def sample(self) -> float:
        """Seconds of one node, on average over as many calls as take long enough to time."""
        time.sleep(PAUSE)
        self.run()  # The caches belonged to another session.
        calls = 0
        started = time.perf_counter()
        while calls == 0 or time.perf_counter() - started < SECONDS_PER_SAMPLE:
            self.run()
            calls += 1
        return (time.perf_counter() - started) / calls / self.copies


def _prefix(copy: int) -> str:
    return f"copy{copy}_"


def _result_of(case: Case) -> Array:
    """Memory for the first output, which all copies write to."""
    arrays = case.arrays
    if "QKV" in arrays:
        attributes = case.form.attributes()
        heads, shared = (int(attributes[name]) for name in ("num_heads", "kv_num_heads"))
        batch, new, width = arrays["QKV"].shape
        return np.zeros((batch, new, width * heads // (heads + 2 * shared)), np.float32)
    width = len(arrays["S_low"]) if "S_low" in arrays else arrays["gate_up"].shape[1] // 2
    return np.zeros((case.rows, width), np.float32)
