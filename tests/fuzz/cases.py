"""What is damaged, and which commands then have to say so: one row a kind of input."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.fuzz.damage import damage_file
from tests.fuzz.inputs import CHEAP, QUICK, Inputs

Command = Callable[[Path], Sequence[object]]
"""The command line for a folder with the copied inputs; it may write to `out` in it."""


def _calibrate(model: str, text: str = "text.txt") -> Command:
    def command(at: Path) -> Sequence[object]:
        options = (*QUICK, "--calibration", at / "others" / text)
        return ("calibrate", at / model, at / "out" / "p.safetensors", *options)

    return command


def _export(at: Path) -> Sequence[object]:
    return ("export", at / "model", at / "out" / "model.onnx", *CHEAP)


def _inspect(at: Path) -> Sequence[object]:
    return ("inspect", at / "exported" / "model.onnx")


def _report(at: Path) -> Sequence[object]:
    files = ("--evaluation", at / "others/evaluation.json", "--benchmark")
    made = (*files, at / "others/benchmark.json", "--out", at / "out" / "page.html")
    return ("report", at / "exported" / "model.onnx", *made)


def _generate(*options: str) -> Command:
    def command(at: Path) -> Sequence[object]:
        asked = ("--prompt", "The sea", "--max-new-tokens", "2", "--threads", "1", *options)
        return ("generate", at / "exported" / "model.onnx", *asked)

    return command


def _evaluate(text: str) -> Command:
    def command(at: Path) -> Sequence[object]:
        asked = ("--text", at / "others" / text, "--window", "8", "--max-windows", "1")
        return ("evaluate", at / "exported" / "model.onnx", *asked, "--threads", "1")

    return command


def _rewrite(at: Path) -> Sequence[object]:
    projections = ("--projections", at / "others" / "projections.safetensors")
    return ("rewrite", at / "exported/model.onnx", at / "out" / "model.onnx", *projections)


@dataclass(frozen=True)
class Kind:
    """One kind of input.

    Attributes:
        files: The files of which one is damaged.
        commands: Of which one is run.
        weight: How often, against the others.
    """

    files: tuple[str, ...]
    commands: tuple[Command, ...]
    weight: int = 10


KINDS: Final = {
    "config.json": Kind(("model/config.json",), (_calibrate("model"),), 30),
    "generation_config.json": Kind(("model/generation_config.json",), (_calibrate("model"),), 5),
    "tokenizer": Kind(
        ("model/tokenizer.json", "model/tokenizer_config.json"), (_calibrate("model"),)
    ),
    "safetensors": Kind(("model/model.safetensors",), (_calibrate("model"),), 30),
    "index": Kind(
        ("sharded/model.safetensors.index.json", "sharded/config.json"), (_calibrate("sharded"),)
    ),
    "gguf": Kind(("gguf/model.gguf",), (_calibrate("gguf/model.gguf"),), 8),
    "onnx": Kind(("exported/model.onnx",), (_inspect, _generate(), _evaluate("text.txt")), 40),
    "data": Kind(("exported/model.onnx.data",), (_inspect, _generate()), 5),
    "exported tokenizer": Kind(
        ("exported/tokenizer.json", "exported/tokenizer_config.json"), (_generate(),)
    ),
    "exported config": Kind(
        ("exported/config.json", "exported/generation_config.json"), (_inspect, _generate())
    ),
    "template": Kind(("exported/chat_template.jinja",), (_generate("--chat"),)),
    "resq.json": Kind(("exported/resq.json",), (_report,), 20),
    "measurements": Kind(("others/evaluation.json", "others/benchmark.json"), (_report,), 20),
    "projections": Kind(("others/projections.safetensors",), (_rewrite,), 20),
    "text": Kind(
        ("others/text.txt", "others/text.jsonl", "others/chat.json"),
        (
            _calibrate("model", "text.jsonl"),
            _calibrate("model", "chat.json"),
            _evaluate("text.txt"),
        ),
    ),
    "table": Kind(("others/text.csv",), (_calibrate("model", "text.csv"),), 2),
    "export": Kind(("model/config.json", "model/tokenizer.json"), (_export,), 1),
    "values": Kind((), (), 30),
}

VALUES: Final = (
    *(
        "",
        "x",
        "-1",
        "0",
        "1",
        "2",
        "3",
        "1e9",
        "0.5",
        "nan",
        "inf",
        "-inf",
        "99999999999999999999",
    ),
    *("caf\udce9", "\udcff", "x" * 5000, ".", "/", "/dev/null/x", "hf://a/b", "a/b", "https://x/y"),
    *("model", "exported", "others/decoy.txt", "../..", "é", "[bold]", "--help", "wikitext", "a:b"),
)
"""What may be given as the value of any option or argument; some are files there."""

OPTIONS: Final = {
    "calibrate": (
        *("--calibration", "--samples", "--sequence-length", "--method", "--seed", "--low-bits"),
        *("--high-fraction", "--down-high", "--target-bits", "--training-steps", "--rotations"),
    ),
    "generate": ("--prompt", "--max-new-tokens", "--temperature", "--top-p", "--seed", "--threads"),
    "evaluate": ("--text", "--window", "--stride", "--max-windows", "--reference"),
    "inspect": (),
    "report": ("--evaluation", "--benchmark", "--out"),
    "rewrite": ("--projections", "--model", "--format", "--target"),
}


def command_with_strange_values(at: Path, dice: random.Random) -> list[object]:
    """A good command line, of which one or two values are others."""
    good = {
        "calibrate": _calibrate("model"),
        "generate": _generate(),
        "evaluate": _evaluate("text.txt"),
        "inspect": _inspect,
        "report": _report,
        "rewrite": _rewrite,
    }
    name = dice.choice(list(good))
    line = list(good[name](at))
    for _ in range(dice.choice([1, 1, 2])):
        if OPTIONS[name] and dice.random() < 0.8:
            line += [dice.choice(OPTIONS[name]), dice.choice(VALUES)]
        else:
            line[dice.choice([1, 1, len(line) - 1])] = dice.choice(VALUES)
    return line


@dataclass(frozen=True)
class Case:
    """A damaged input.

    Attributes:
        kind: A key of `KINDS`.
        done: What was done, for people.
        command: The command line to run.
    """

    kind: str
    done: str
    command: list[str]


def make_case(seed: int, index: int, inputs: Inputs, at: Path) -> Case:
    """Copy the inputs into the folder `at`, and damage one; the same numbers give the same."""
    dice = random.Random(f"{seed}/{index}")
    kind = dice.choices(list(KINDS), [kind.weight for kind in KINDS.values()])[0]
    shutil.copytree(inputs.folder, at)
    (at / "out").mkdir()
    if kind == "values":
        line, done = command_with_strange_values(at, dice), "values"
    else:
        file = at / dice.choice(KINDS[kind].files)
        done = f"{file.relative_to(at)}: {damage_file(file, dice)}"
        line = list(dice.choice(KINDS[kind].commands)(at))
    return Case(kind, done, [str(word) for word in line])
