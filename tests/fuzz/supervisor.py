"""Starts a worker, gives it cases, and starts another where one hangs or crashes."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from tests.fuzz.inputs import Inputs

PATIENCE: Final = 60.0
"""Seconds that a case may take; most take a twentieth of one, on a busy machine too."""

SETTLING: Final = 5.0
"""Seconds that a process which closed its output may take to end."""

STARTING: Final = 300.0
"""Seconds that a worker may take for its imports."""

CASES_OF_A_WORKER: Final = 3000
"""Then another is started: no case is to depend on what thousands before it have left."""

ENVIRONMENT: Final = {
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONWARNINGS": "ignore",
}


class Worker:
    """A process of `tests.fuzz.worker`."""

    def __init__(self, inputs: Inputs, seed: int, only: Sequence[str]) -> None:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115, closed with the worker
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz.worker", str(inputs.folder), str(seed), *only],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            cwd=Path(__file__).parents[2],
            env=os.environ | ENVIRONMENT,
            bufsize=0,
        )
        if self._answer(STARTING) != b"ready\n":
            raise RuntimeError(f"the worker does not start: {self.last_words()}")

    def run(self, index: int) -> dict[str, Any] | None:
        """What happened in a case; None if no answer came, and the worker is gone."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{index}\n".encode())
        answer = self._answer(PATIENCE)
        if not answer:
            return None
        found: dict[str, Any] = json.loads(answer)
        return found

    def end(self) -> tuple[int, str]:
        """Kill it; returns its status, which is 0 if it was running, and its last words."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            status = self._process.wait(SETTLING)
        except subprocess.TimeoutExpired:
            status = 0
            self._process.kill()
            self._process.wait()
        words = self.last_words()
        self._process.stdout.close()
        self._said.close()
        return status, words

    def last_words(self) -> str:
        """The end of what it printed."""
        self._said.seek(0)
        return self._said.read().decode(errors="replace")[-500:].strip()

    def _answer(self, patience: float) -> bytes:
        assert self._process.stdout is not None
        line, until = b"", time.monotonic() + patience
        while not line.endswith(b"\n"):
            left = until - time.monotonic()
            ready, _, _ = select.select([self._process.stdout], [], [], max(left, 0))
            piece = self._process.stdout.read(1 << 16) if ready else b""
            if not piece:
                return b""
            line += piece
        return line


def run_cases(
    inputs: Inputs, seed: int, indices: Iterable[int], only: Sequence[str] = ()
) -> Iterator[dict[str, Any]]:
    """What happened in each case, in their order; `only` names the kinds of which they are."""
    worker, ran = Worker(inputs, seed, only), 0
    try:
        for index in indices:
            if ran >= CASES_OF_A_WORKER:
                worker.end()
                worker, ran = Worker(inputs, seed, only), 0
            begun = time.monotonic()
            found = worker.run(index)
            if found is None:
                took = time.monotonic() - begun
                status, words = worker.end()
                wrong = f"crashed ({status}): {words}" if status else f"no end in {took:.0f} s"
                found = {"index": index, "kind": "?", "done": "?", "wrong": [wrong], "code": None}
                worker, ran = Worker(inputs, seed, only), 0
            ran += 1
            yield found
    finally:
        worker.end()
