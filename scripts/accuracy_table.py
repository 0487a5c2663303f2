"""Measure zero-shot accuracy of exports on the tasks from WordNet, for docs/quality.md.

    python scripts/fetch_brown.py build/brown
    python -m scripts.wordnet_tasks build/wordnet
    python -m scripts.accuracy_table build/models/SmolLM2-135M-Instruct.Q4_1.gguf

Exports the rows as `scripts.quality_table` does, whose files it shares, and answers the questions
with lm-evaluation-harness. What was measured is kept, so an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from scripts.quality_rows import TABLES
from scripts.quality_table import Bench, version

TASKS: Final = ("wordnet_definitions", "wordnet_kinds")

ROWS: Final = "float,resq,head4,paper,quarot,rtn-gptq,contrib"
"""Of `scripts/quality_rows.py`."""

Accuracies = dict[str, tuple[float, float]]
"""Accuracy and its standard error, of each task."""


def accuracies_in(results: dict[str, dict[str, float]]) -> Accuracies:
    """What the harness wrote about `TASKS`."""
    return {task: (results[task]["acc,none"], results[task]["acc_stderr,none"]) for task in TASKS}


def measured(model: Path, tasks: Path) -> Accuracies:
    """The accuracies of one file, cached beside it for the next run."""
    kept = model.with_name("accuracy.json")
    if not kept.exists():
        command = [sys.executable, "-m", "resq_onnx.harness", "--model", "resq-onnx"]
        command += ["--model_args", f"path={model}", "--include_path", str(tasks)]
        with tempfile.TemporaryDirectory() as folder:
            command += ["--tasks", ",".join(TASKS), "--output_path", folder]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            (written,) = Path(folder).rglob("results_*.json")
            kept.write_text(json.dumps(json.loads(written.read_text())["results"]))
    return accuracies_in(json.loads(kept.read_text()))


def line(label: str, found: Accuracies) -> str:
    """A row of the table, in per cent."""
    cells = (f"{100 * found[task][0]:.1f} ± {100 * found[task][1]:.1f}" for task in TASKS)
    return f"| {label} | {' | '.join(cells)} |"


def main() -> None:
    """Export, ask, and print the table as Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--rows", default=ROWS)
    parser.add_argument("--tasks", type=Path, default=Path("build/wordnet"))
    parser.add_argument("--brown", type=Path, default=Path("build/brown"))
    parser.add_argument("--work", type=Path, default=Path("build/quality"))
    options = parser.parse_args()
    texts = [options.brown / name for name in ("calibration.txt", "held-out.txt")]
    bench = Bench(options.model, options.work, str(texts[0]), 32, texts[1], 20)
    options.work.mkdir(parents=True, exist_ok=True)
    rows = {row.file: row for table in TABLES.values() for row in table}
    print(f"| export | {' | '.join(TASKS)} |")
    print("|---" * (1 + len(TASKS)) + "|")
    for name in options.rows.split(","):
        print(line(rows[name].label, measured(bench.export(rows[name]), options.tasks)), flush=True)
    print(f"\nAccuracy in per cent and its standard error. {version('lm_eval')}.")


if __name__ == "__main__":
    main()
