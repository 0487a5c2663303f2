"""Measure perplexity and size of many exports of one model, for a table of docs/quality.md.

    python scripts/fetch_brown.py build/brown
    python -m scripts.quality_table build/models/SmolLM2-135M-Instruct.Q4_1.gguf
    python -m scripts.quality_table build/models/SmolLM2-135M-Instruct.Q4_1.gguf --table study
    python -m scripts.quality_table build/models/SmolLM2-135M-Instruct.Q4_1.gguf --only low8

Calibrates once per text and size, exports every row through the command line, and evaluates all
files on held-out text. Existing files are reused, so an interrupted run can be resumed.
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

from scripts.quality_rows import DEFAULT, FLOAT, TABLES, Row

RESQ: Final = [sys.executable, "-m", "resq_onnx"]


@dataclass(frozen=True)
class Bench:
    """Common settings of all rows: the model, its texts, and the folder of files."""

    model: Path
    work: Path
    calibration: str
    samples: int
    text: Path
    windows: int

    def export(self, row: Row) -> Path:
        """The row's file, exported if it is missing."""
        target = self.work / row.file / "model.onnx"
        if row.file == "rotated":
            self.export(DEFAULT)
        elif not target.exists():
            rotated = ["--save-rotated", str(self.work / "rotated" / "model.onnx")]
            extra = rotated if row == DEFAULT else []
            text = self._text(row)
            arguments = ["export", str(self.model), str(target), *text, *row.arguments, *extra]
            # The rows that show what is useless are written, too.
            run([*arguments, "--projections", str(self._projections(text)), "--force"])
        return target

    def perplexity(self, row: Row) -> float:
        """Perplexity of the row's file, cached in a file for the next run."""
        model = self.export(row)
        kept = model.with_name(f"perplexity-{self.windows}.json")
        if not kept.exists():
            text = ["--text", str(self.text), "--max-windows", str(self.windows)]
            kept.write_text(run(["evaluate", str(model), *text, "--json"]))
        (result,) = json.loads(kept.read_text())["models"].values()
        return float(result["perplexity"])

    def megabytes(self, row: Row) -> float:
        """Size of the row's model and its data."""
        files = self.export(row).parent.glob("model.onnx*")
        return sum(file.stat().st_size for file in files) / 1e6

    def _text(self, row: Row) -> list[str]:
        text, samples = row.text or self.calibration, row.samples or self.samples
        return ["--calibration", text, "--samples", str(samples)]

    def _projections(self, text: list[str]) -> Path:
        name = f"{Path(text[1]).stem}-{text[3]}.safetensors"
        file = self.work / name
        if not file.exists():
            run(["calibrate", str(self.model), str(file), "--hessians", *text])
        return file


def run(arguments: list[str]) -> str:
    """Run a resq-onnx command; returns its output."""
    done = subprocess.run([*RESQ, *arguments], check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


def print_table(bench: Bench, rows: tuple[Row, ...]) -> None:
    """Print one line per row as Markdown, as soon as it is known."""
    baseline = bench.perplexity(FLOAT)
    print("| export | perplexity | ÷ float | MB |\n|---|---|---|---|")
    for row in rows:
        value, size = bench.perplexity(row), bench.megabytes(row)
        print(f"| {row.label} | {value:.3f} | {value / baseline:.4f} | {size:.1f} |", flush=True)
    versions = ", ".join(version(name) for name in ("onnxruntime", "torch", "transformers"))
    print(
        f"\n{bench.text.name}, {bench.windows} windows of 512 tokens; calibrated on "
        f"{bench.samples}×512 tokens of {Path(bench.calibration).name}. {versions}."
    )


def version(package: str) -> str:
    """Name and version of an installed package."""
    return f"{package} {importlib.metadata.version(package)}"


def main() -> None:
    """Export and evaluate, and print the table as Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--table", choices=TABLES, default="exports")
    parser.add_argument("--only", help="comma-separated names of the rows to print")
    parser.add_argument("--brown", type=Path, default=Path("build/brown"))
    parser.add_argument("--work", type=Path, default=Path("build/quality"))
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--windows", type=int, default=20)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    bench = Bench(
        options.model,
        options.work,
        str(options.brown / "calibration.txt"),
        options.samples,
        options.brown / "held-out.txt",
        options.windows,
    )
    rows = TABLES[options.table]
    if options.only:
        everything = {row.file: row for table in TABLES.values() for row in table}
        unknown = set(options.only.split(",")) - set(everything)
        if unknown:
            parser.error(f"no row {', '.join(sorted(unknown))}; there are {', '.join(everything)}")
        rows = tuple(everything[name] for name in options.only.split(","))
    print_table(bench, rows)


if __name__ == "__main__":
    main()
