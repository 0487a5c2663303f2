"""Measure perplexity and size of many exports of one model, for a table of docs/quality.md.

    python scripts/fetch_brown.py build/brown
    python -m scripts.quality_table build/models/SmolLM2-135M-Instruct.Q4_1.gguf
    python -m scripts.quality_table build/models/SmolLM2-135M-Instruct.Q4_1.gguf --table study
    python -m scripts.quality_table build/models/SmolLM2-135M-Instruct.Q4_1.gguf --only low8
    python -m scripts.quality_table MODEL --only resq,tune-15 --seeds 0,1,2,3,4 --divergence

Calibrates once per text and size, exports every row through the command line, and evaluates all
files on held-out text. Existing files are reused, so an interrupted run can be resumed. With
several seeds a line has the mean, and the ratio's standard deviation.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from scripts.quality_rows import DEFAULT, FLOAT, ROTATED, TABLES, Row

RESQ: Final = [sys.executable, "-m", "resq_onnx"]

SEEDLESS: Final = (FLOAT, ROTATED)
"""Rows that are float models, whatever the seed."""


@dataclass(frozen=True)
class Bench:
    """Common settings of all rows: the model, its texts, and the folder of files.

    Attributes:
        divergence: Whether the predictions are compared with those of the float model, too.
    """

    model: Path
    work: Path
    calibration: str
    samples: int
    text: Path
    windows: int
    divergence: bool = False

    def export(self, row: Row) -> Path:
        """The row's file, exported if it is missing."""
        target = self.work / row.file / "model.onnx"
        if row == ROTATED:
            self.export(DEFAULT)
        elif not target.exists():
            rotated = ["--save-rotated", str(self.work / "rotated" / "model.onnx")]
            extra = rotated if row == DEFAULT else []
            text = self._text(row)
            arguments = ["export", str(self.model), str(target), *text, *row.arguments, *extra]
            # The rows that show what is useless are written, too.
            run([*arguments, "--projections", str(self._projections(text)), "--force"])
        return target

    def measured(self, row: Row) -> dict[str, float]:
        """What `evaluate` says of the row's file, cached in a file for the next run."""
        model = self.export(row)
        what = "divergence" if self.divergence else "perplexity"
        kept = model.with_name(f"{what}-{self.windows}.json")
        if not kept.exists():
            arguments = ["--text", str(self.text), "--max-windows", str(self.windows)]
            arguments += ["--reference", str(self.model)] if self.divergence else []
            kept.write_text(run(["evaluate", str(model), *arguments, "--json"]))
        found: dict[str, float]
        (found,) = json.loads(kept.read_text())["models"].values()
        return found

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


def print_table(bench: Bench, rows: Sequence[Row], seeds: Sequence[int] = (0,)) -> None:
    """Print one line per row as Markdown, as soon as it is known."""
    baseline = bench.measured(FLOAT)["perplexity"]
    columns = ["export", "perplexity", "÷ float", "MB"]
    columns += ["KL", "same token"] if bench.divergence else []
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for row in rows:
        alike = [row] if row in SEEDLESS else [row.with_seed(seed) for seed in seeds]
        found = [bench.measured(one) for one in alike]
        perplexities = [one["perplexity"] for one in found]
        ratio = mean_and_spread([perplexity / baseline for perplexity in perplexities])
        size = bench.megabytes(alike[0])
        cells = [row.label, f"{statistics.mean(perplexities):.3f}", ratio, f"{size:.1f}"]
        if bench.divergence:
            cells.append(f"{statistics.mean(one['kl_divergence'] for one in found):.4f}")
            cells.append(f"{statistics.mean(one['top1_agreement'] for one in found):.1%}")
        print(f"| {' | '.join(cells)} |", flush=True)
    versions = ", ".join(version(name) for name in ("onnxruntime", "torch", "transformers"))
    print(
        f"\n{bench.text.name}, {bench.windows} windows of 512 tokens; calibrated on "
        f"{bench.samples}×512 tokens of {Path(bench.calibration).name}, seed "
        f"{', '.join(map(str, seeds))}. {versions}."
    )


def mean_and_spread(values: Sequence[float], digits: int = 4) -> str:
    """The mean and the standard deviation, or a single value with so many digits."""
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}"


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
    parser.add_argument("--seeds", default="0", help="comma-separated")
    parser.add_argument("--divergence", action="store_true", help="from the float model, too")
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
        options.divergence,
    )
    rows = TABLES[options.table]
    if options.only:
        everything = {row.file: row for table in TABLES.values() for row in table}
        unknown = set(options.only.split(",")) - set(everything)
        if unknown:
            parser.error(f"no row {', '.join(sorted(unknown))}; there are {', '.join(everything)}")
        rows = tuple(everything[name] for name in options.only.split(","))
    print_table(bench, rows, [int(seed) for seed in options.seeds.split(",")])


if __name__ == "__main__":
    main()
