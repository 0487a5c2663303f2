"""Measure what calibration texts are worth on several kinds of text, for docs/quality.md.

    python scripts/fetch_brown.py build/brown
    python -m scripts.calibration_table build/models/SmolLM2-135M-Instruct.Q4_1.gguf
    python -m scripts.calibration_table MODEL --texts python-docs,self --seeds 0,1,2,3,4
    python -m scripts.calibration_table MODEL --texts bundled --options="--tune 0"

Exports the model once for each text and seed, and evaluates the files on prose (the held-out part
of the Brown corpus), Python code (modules of the standard library) and chat (the float model's
answers to prompts that no calibration has, in its template). What was measured is kept, so an
interrupted run goes on; exported files are removed.
"""

from __future__ import annotations

import argparse
import fractions
import ipaddress
import json
import shlex
import shutil
import statistics
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from resq_onnx.calibration.own_text import rendered
from resq_onnx.calibration.reference import Reference
from resq_onnx.calibration.writing import Row, Vocabulary, write_rows
from resq_onnx.checkpoint.source import open_model
from scripts.quality_table import mean_and_spread, run

MODULES: Final = (argparse, fractions, ipaddress, statistics, tarfile)
"""Whose source is the code."""

TEXTS: Final = "prose,python-docs,python-code,bundled,self,auto"

KINDS: Final = ("prose", "code", "chat")

ANSWER: Final = 512
"""Tokens of a prompt and its answer."""

PROMPTS: Final = (
    "My dog ate half a loaf of rye bread. Should I worry?",
    "Explain recursion with a small example in Python.",
    "I have a job interview at a bakery tomorrow. What may they ask me?",
    "Write a poem about a lighthouse keeper who is afraid of the dark.",
    "Why is the sky red at sunset?",
    "Fix this code: for i in range(10) print(i)",
    "Was ist der Unterschied zwischen einem See und einem Meer?",
    "A train leaves at 9:40 and arrives at 13:05. How long is the journey?",
    "Write an email to my landlord: the heating has been off for four days.",
    "Which planets have rings, and what are they made of?",
    "Write a shell script that makes a backup of a folder every night.",
    "What should I see in Lisbon on a rainy day?",
)
"""Written by hand; the calibration's are made by rule (`calibration.prompts`)."""


@dataclass(frozen=True)
class Bench:
    """What all exports share: the model, the folder of results, sizes of texts, and options."""

    model: Path
    work: Path
    samples: int
    windows: int
    options: tuple[str, ...] = ()

    def held_out(self, brown: Path) -> dict[str, Path]:
        """The files of text, made if they are missing; a model without a template has no chat."""
        files = {kind: self.work / f"{kind}.txt" for kind in KINDS}
        files["prose"] = brown / "held-out.txt"
        pieces = [Path(str(module.__file__)).read_text(encoding="utf-8") for module in MODULES]
        files["code"].write_text("\n\n".join(pieces), encoding="utf-8")
        if not files["chat"].exists():
            files["chat"].write_text(written_chats(self.model), encoding="utf-8")
        return {kind: file for kind, file in files.items() if file.stat().st_size}

    def measured(self, text: str | None, seed: int, files: dict[str, Path]) -> dict[str, float]:
        """Perplexity on each file, and `seconds` of the export; None exports the float model."""
        others = "".join(self.options).replace("/", "-")
        stem = f"{Path(text).stem}{others}" if text else "float"
        kept = self.work / f"{stem}-{self.samples}-{seed}.json"
        if not kept.exists():
            folder = self.work / "export"
            recipe = ["--method", "none"]
            if text:
                recipe = ["--calibration", text, "--samples", str(self.samples), *self.options]
            began = time.monotonic()
            target = folder / "model.onnx"
            run(["export", str(self.model), str(target), *recipe, "--seed", str(seed)])
            found = {"seconds": time.monotonic() - began}
            found |= {kind: self._perplexity(target, file) for kind, file in files.items()}
            shutil.rmtree(folder)
            kept.write_text(json.dumps(found))
        known: dict[str, float] = json.loads(kept.read_text())
        return known

    def _perplexity(self, model: Path, text: Path) -> float:
        options = ["--text", str(text), "--max-windows", str(self.windows), "--json"]
        (result,) = json.loads(run(["evaluate", str(model), *options]))["models"].values()
        return float(result["perplexity"])


def written_chats(model: Path) -> str:
    """The float model's answers to `PROMPTS`; empty if it has no chat template."""
    with open_model(model) as source:
        reference = Reference(source)
        tokenizer: Any = reference.tokenizer
        if not tokenizer.chat_template:
            return ""
        vocabulary = Vocabulary.of(tokenizer, source.layout.vocab_size)
        ids = rendered(tokenizer, PROMPTS, source.layout.vocab_size)
        turned = [[*ids[place:], *ids[:place]] for place in range(len(ids))]
        rows = [Row(iter(3 * prompts), may_end=True) for prompts in turned]
        written = write_rows(reference.model, rows, ANSWER, vocabulary, seed=0)
        return "\n\n".join(tokenizer.batch_decode(written))


def print_table(bench: Bench, texts: list[str], seeds: list[int], brown: Path) -> None:
    """Print one line per text as Markdown: mean and standard deviation over the seeds."""
    files = bench.held_out(brown)
    float_model = bench.measured(None, 0, files)
    print(f"| calibration | {' | '.join(f'{kind} ÷ float' for kind in files)} | seconds |")
    print("|---" * (len(files) + 2) + "|")
    for text in texts:
        rows = [bench.measured(text, seed, files) for seed in seeds]
        cells = []
        for kind in files:
            ratios = [row[kind] / float_model[kind] for row in rows]
            cells.append(mean_and_spread(ratios, digits=3))
        seconds = statistics.mean(row["seconds"] for row in rows)
        print(f"| `{Path(text).name}` | {' | '.join(cells)} | {seconds:.0f} |", flush=True)
    print(
        f"\n{bench.samples}×512 tokens, {len(seeds)} seeds, {bench.windows} windows of each kind."
    )


def main() -> None:
    """Export, evaluate, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--texts", default=TEXTS, help="comma-separated")
    parser.add_argument("--seeds", default="0,1", help="comma-separated")
    parser.add_argument("--brown", type=Path, default=Path("build/brown"))
    parser.add_argument("--work", type=Path, default=Path("build/calibration-texts"))
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--windows", type=int, default=12)
    parser.add_argument("--options", default="", help="of each export, in one word")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    others = tuple(shlex.split(options.options))
    bench = Bench(options.model, options.work, options.samples, options.windows, others)
    seeds = [int(seed) for seed in options.seeds.split(",")]
    print_table(bench, options.texts.split(","), seeds, options.brown)


if __name__ == "__main__":
    main()
