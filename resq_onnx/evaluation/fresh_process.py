"""Load time and peak memory of one model, in a process that does nothing else.

That process runs `main` here: its argument and what it prints are one line of JSON. What was
measured in a process that had opened other models, or that had imported what makes them, would be
theirs as well.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from resq_onnx.errors import ResqError
from resq_onnx.evaluation.workload import Workload, decoder_on, open_session, run_once
from resq_onnx.resources import peak_bytes
from resq_onnx.runtime.processes import python_running


@dataclass(frozen=True)
class Footprint:
    """What a model costs before and beside its speed.

    Attributes:
        load_seconds: Time of opening the session; imports are not in it.
        peak_bytes: The most memory that was resident at once, of the whole process: Python and
            its libraries are in it, and the pages of the weights' file that were read.
    """

    load_seconds: float
    peak_bytes: int


def measure_footprint(path: Path, workload: Workload) -> Footprint:
    """Run one workload on one model in a process of its own.

    Raises:
        ResqError: The process fails; says why.
    """
    asked = json.dumps({"path": str(path), **dataclasses.asdict(workload)})
    done = subprocess.run(
        [*python_running(__name__), asked], capture_output=True, text=True, check=False
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1]
        raise ResqError(f"{path}: measuring its memory in a process of its own failed: {reason}")
    return Footprint(**json.loads(done.stdout))


def main() -> None:
    """What the process does: load, one prompt, its continuation, print."""
    asked = json.loads(sys.argv[1])
    path, workload = Path(asked.pop("path")), Workload(**asked)
    import onnxruntime  # noqa: F401 - before the clock starts

    start = time.perf_counter()
    session = open_session(path, workload)
    load_seconds = time.perf_counter() - start
    decoder = decoder_on(session, path, workload)
    assert decoder.signature.vocabulary is not None
    run_once(decoder, workload.prompt(decoder.signature.vocabulary), workload.new_tokens)
    print(json.dumps(dataclasses.asdict(Footprint(load_seconds, peak_bytes()))))
