"""SmolLM2, exported once by the default recipe: what every test of a real model begins with.

It is kept in build/test-models, under a name that is made of everything the export depends on, so
that the second half of the tests finds what the first half made. The text is Python's language
reference: three quarters of its topics calibrate the model, the others are held out. It is shorter
than the default's, and weights are tuned in fewer steps.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from pydoc_data.topics import topics
from typing import Final

from resq_onnx.runtime import library
from tests.command_line import program
from tests.once import once

REPOSITORY: Final = Path(__file__).parents[1]

SAMPLES: Final = 8
STEPS: Final = 4

CODE: Final = ("resq_onnx", "passes")
"""Folders whose Python files decide what is exported, with this file and the library."""

PACKAGES: Final = ("numpy", "onnx-ir", "onnxruntime", "onnxscript", "torch", "transformers")

BEFORE: Final = """
import atexit, pathlib
from resq_onnx import pipeline
from resq_onnx.evaluation.fresh_process import peak_bytes
from resq_onnx.projections.file import save_calibration

folder, measure = pathlib.Path({folder!r}), pipeline.measure

def measure_and_keep(source, recipe, *others):
    found = measure(source, recipe, *others)
    save_calibration(
        folder / "projections.safetensors",
        recipe,
        source.digest,
        source.layout,
        found.sums,
        found.projections,
        found.moments,
    )
    return found

pipeline.measure = measure_and_keep
atexit.register(lambda: (folder / "peak.txt").write_text(str(peak_bytes())))
"""
"""Run by the process itself: what wait4 says of memory includes the process it came from. The
calibration is kept for other exports of the same model."""


@dataclass(frozen=True)
class Exported:
    """The exported file, the float model beside it, and what the export took.

    Attributes:
        out: The file.
        rotated: The float model of the same export.
        projections: Its calibration, for other exports.
        held_out: Text that the calibration has not seen.
        memory: Bytes, at the most.
        seconds: Of all cores together.
    """

    out: Path
    rotated: Path
    projections: Path
    held_out: Path
    memory: int
    seconds: float


def exported(model: Path) -> Exported:
    """The export of this model by this code, made if it is not there."""
    top = REPOSITORY / "build" / "test-models"
    folder = once(top / f"smollm2-{_name(model)}", lambda made: _replace(model, made))
    took = json.loads((folder / "took.json").read_text())
    return Exported(
        folder / "model.onnx",
        folder / "float.onnx",
        folder / "projections.safetensors",
        folder / "held_out.txt",
        took["memory"],
        took["seconds"],
    )


def _name(model: Path) -> str:
    files = [model, Path(__file__), library.library_path()]
    for folder in CODE:
        files += sorted((REPOSITORY / folder).rglob("*.py"))
    digest = hashlib.sha256(repr([sys.version, *map(version, PACKAGES)]).encode())
    for file in files:
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:12]


def _replace(model: Path, folder: Path) -> None:
    """Export into a new folder, and remove what was made by code that has changed since.

    It runs in one process at a time, so that no two remove the same files.
    """
    for other in folder.parent.glob("smollm2-*"):
        if other.is_dir():
            shutil.rmtree(other)
    _export(model, folder)


def _export(model: Path, folder: Path) -> None:
    folder.mkdir()
    texts = [topics[name] for name in sorted(topics)]
    split = len(texts) * 3 // 4
    calibration = folder / "calibration.txt"
    calibration.write_text("\n\n".join(texts[:split]))
    (folder / "held_out.txt").write_text("\n\n".join(texts[split:]))

    options = ("--calibration", calibration, "--samples", SAMPLES, "--tuning-steps", STEPS)
    command = program(
        *("export", model, folder / "model.onnx", *options),
        *("--save-rotated", folder / "float.onnx"),
        before=BEFORE.format(folder=str(folder)),
    )
    log = folder / "log.txt"
    with log.open("w") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream)
        # wait4 instead of Popen.wait: it tells the time of this process alone.
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, log.read_text()
    took = {
        "memory": int((folder / "peak.txt").read_text()),
        "seconds": usage.ru_utime + usage.ru_stime,
    }
    (folder / "took.json").write_text(json.dumps(took))
