"""Reproduce the README's table: perplexity and size of every method on one model.

    python scripts/fetch_brown.py build/brown
    python scripts/quality_table.py build/models/SmolLM2-135M-Instruct.Q4_1.gguf

Calibrates once, exports every row through the command line, and evaluates all files on text that
was not calibrated on. Files that exist are not made again, so an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

RESQ: Final = [sys.executable, "-m", "resq_onnx"]


@dataclass(frozen=True)
class Row:
    """One line of the table: a name, and the options of its export."""

    label: str
    file: str
    options: tuple[str, ...]


ROWS: Final = (
    Row("float32, as traced", "float", ("--method", "none")),
    Row("float32, rotated (`--save-rotated`)", "rotated", ()),
    Row("`resq` (default)", "resq", ()),
    Row("`resq --head-bits 4`", "head4", ("--head-bits", "4")),
    Row("`resq --tables separate`", "separate", ("--tables", "separate")),
    Row("`resq --activation-clip 1`", "unclipped", ("--activation-clip", "1")),
    Row(
        "`resq --activations float --cache float`, weights alone",
        "weights",
        ("--activations", "float", "--cache", "float"),
    ),
    Row("`resq --down-high 0`, as in the paper", "paper", ("--down-high", "0")),
    Row("`outlier`", "outlier", ("--method", "outlier")),
    Row("`quarot`", "quarot", ("--method", "quarot")),
    Row("`rtn`, GPTQ weights", "rtn-gptq", ("--method", "rtn")),
    Row("`rtn --weights rtn`", "rtn", ("--method", "rtn", "--weights", "rtn")),
)


def run(arguments: list[str]) -> str:
    """Run a resq-onnx command; returns what it printed."""
    done = subprocess.run([*RESQ, *arguments], check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


def export_all(model: Path, folder: Path, calibration: Path, samples: int) -> None:
    """Write what is missing of every row's file."""
    projections = folder / "projections.safetensors"
    shared = ["--calibration", str(calibration), "--samples", str(samples)]
    if not projections.exists():
        run(["calibrate", str(model), str(projections), *shared])
    for row in ROWS:
        target = folder / row.file / "model.onnx"
        if target.exists() or row.file == "rotated":
            continue
        rotated = ["--save-rotated", str(folder / "rotated" / "model.onnx")]
        extra = rotated if row.file == "resq" else []
        arguments = ["export", str(model), str(target), "--projections", str(projections)]
        run([*arguments, *shared, *row.options, *extra])


def evaluate(folder: Path, row: Row, text: Path, windows: int) -> float:
    """Perplexity of a row's file; kept in a file for the next run."""
    kept = folder / row.file / f"perplexity-{windows}.json"
    if not kept.exists():
        model = str(folder / row.file / "model.onnx")
        arguments = ["evaluate", model, "--text", str(text), "--max-windows", str(windows)]
        kept.write_text(run([*arguments, "--json"]))
    (result,) = json.loads(kept.read_text())["models"].values()
    return float(result["perplexity"])


def main() -> None:
    """Make the files, and print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--brown", type=Path, default=Path("build/brown"))
    parser.add_argument("--work", type=Path, default=Path("build/quality"))
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--windows", type=int, default=20)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    export_all(options.model, options.work, options.brown / "calibration.txt", options.samples)
    print("| export | perplexity | ÷ float | MB |\n|---|---|---|---|")
    baseline = None
    for row in ROWS:
        value = evaluate(options.work, row, options.brown / "held-out.txt", options.windows)
        baseline = baseline or value
        files = (options.work / row.file).glob("model.onnx*")
        size = sum(file.stat().st_size for file in files) / 1e6
        print(f"| {row.label} | {value:.3f} | {value / baseline:.4f} | {size:.1f} |")
    print(
        f"\nBrown corpus, {options.windows} windows of 512 tokens of held-out documents; "
        f"calibrated on {options.samples}×512 tokens of the others. {version('onnxruntime')}, "
        f"{version('torch')}, {version('transformers')}."
    )


def version(package: str) -> str:
    """Name and version of an installed package."""
    return f"{package} {importlib.metadata.version(package)}"


if __name__ == "__main__":
    main()
