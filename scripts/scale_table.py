"""Export models, and print the rows of docs/scale.md: peak memory and time of each.

    python -m scripts.scale_table FOLDER=SAMPLES... [--out DIR]

Each export runs in a process of its own, with `--tune 0`, because tuning needs the whole model in
memory, and with `--force`, because random models predict nothing.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from resq_onnx.evaluation.machine import describe_machine

HEADER = "| model | layers | samples | peak memory | time | file |\n|---|---|---|---|---|---|"


def row(model: Path, samples: int, out: Path) -> str:
    """Export a model, and return its row."""
    target = out / model.name / "model.onnx"
    shutil.rmtree(target.parent, ignore_errors=True)
    command = [sys.executable, "-m", "resq_onnx", "export", str(model), str(target)]
    command += ["--tune", "0", "--force"]
    begin = time.monotonic()
    subprocess.run([*command, "--samples", str(samples)], check=True, stdout=subprocess.DEVNULL)
    seconds = time.monotonic() - begin
    said: dict[str, Any] = json.loads((target.parent / "resq.json").read_text())
    config = json.loads((target.parent / "config.json").read_text())
    return (
        f"| {model.name} | {config['num_hidden_layers']} | {samples}×512 | "
        f"{said['peak_memory_bytes'] / 1e9:.2f} GB | {_duration(seconds)} | "
        f"{said['bytes']['total'] / 1e6:,.0f} MB |"
    )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", metavar="FOLDER=SAMPLES")
    parser.add_argument("--out", type=Path, default=Path("build/scale"))
    options = parser.parse_args()
    machine = describe_machine()
    print(f"{machine.cores} cores of {machine.cpu}, kernels: {machine.kernels}", flush=True)
    print(HEADER, flush=True)
    for asked in options.models:
        model, _, samples = asked.rpartition("=")
        print(row(Path(model), int(samples), options.out), flush=True)


if __name__ == "__main__":
    main()
