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
from tests.fuzz.names import strange_name
from tests.fuzz.requests import request_to_serve, request_to_web

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


def _bench(at: Path) -> Sequence[object]:
    asked = ("--prompt-tokens", "4", "--new-tokens", "2", "--repeat", "1", "--threads", "1")
    return ("bench", at / "exported", *asked)


def _web(at: Path) -> Sequence[object]:
    return ("web", at / "exported", "--write", at / "out" / "site")


def _serve(at: Path) -> Sequence[object]:
    """The worker lets it answer two requests, and end."""
    return ("serve", at / "exported", "--port", "0", "--threads", "1")


def _per_layer(at: Path) -> Sequence[object]:
    return (*_evaluate("text.txt")(at), "--per-layer", "--reference", at / "exported")


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


RUN_FILES: Final = tuple(
    f"exported/{name}"
    for name in (
        *("model.onnx", "model.onnx.data", "tokenizer.json", "tokenizer_config.json"),
        *("config.json", "generation_config.json", "chat_template.jinja", "resq.json"),
    )
)
"""Files of an export that the two servers read."""

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
    "tokenizer.model": Kind(("pieces/tokenizer.model",), (_calibrate("pieces"),)),
    "gguf": Kind(("gguf/model.gguf",), (_calibrate("gguf/model.gguf"),), 8),
    "gguf of pieces": Kind(("gguf/pieces.gguf",), (_calibrate("gguf/pieces.gguf"),), 8),
    "onnx": Kind(
        ("exported/model.onnx",), (_inspect, _generate(), _evaluate("text.txt"), _per_layer), 40
    ),
    "data": Kind(("exported/model.onnx.data",), (_inspect, _generate()), 5),
    "bench": Kind(("exported/model.onnx", "exported/model.onnx.data"), (_bench,), 5),
    "site": Kind(RUN_FILES, (_web,)),
    "served": Kind(RUN_FILES, (_serve,)),
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
    "hub name": Kind((), (), 10),
    "serve": Kind((), (), 30),
    "web": Kind((), (), 10),
}

REQUESTS: Final = {"serve": request_to_serve, "web": request_to_web}
"""By kind, what makes a request to that server."""

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
    "bench": ("--prompt-tokens", "--new-tokens", "--against", "--threads"),
    "web": ("--packages", "--port", "--write"),
    "serve": (
        "--host",
        "--name",
        "--max-length",
        "--max-concurrent",
        "--max-waiting",
        "--timeout",
        "--api-key",
    ),
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
        "bench": _bench,
        "web": _web,
        "serve": _serve,
    }
    name = dice.choice(list(good))
    line = list(good[name](at))
    for _ in range(dice.choice([1, 1, 2])):
        if OPTIONS[name] and dice.random() < 0.8:
            line += [dice.choice(OPTIONS[name]), dice.choice(VALUES)]
        else:
            line[dice.choice([1, 1, len(line) - 1])] = dice.choice(VALUES)
    return line


def command_with_a_hub_name(at: Path, dice: random.Random) -> tuple[list[object], str]:
    """A command line that names a model or a data set which is not there."""
    name = strange_name(dice)
    text = ("--calibration", at / "others" / "text.txt")
    line: list[object] = dice.choice(
        [
            ["calibrate", name, at / "out" / "p.safetensors", *QUICK, *text],
            ["export", name, at / "out" / "model.onnx", *CHEAP],
            [*_calibrate("model")(at), "--calibration", name],
            [*_evaluate("text.txt")(at), "--text", name],
            [*_evaluate("text.txt")(at), "--reference", name],
        ]
    )
    return line, f"name {name[:40]!r}"


@dataclass(frozen=True)
class Case:
    """A damaged input.

    Attributes:
        kind: A key of `KINDS`.
        done: What was done, for people.
        command: The command line to run; none for a request to one of the servers.
        sent: Such a request.
    """

    kind: str
    done: str
    command: list[str]
    sent: bytes = b""


def make_case(seed: int, index: int, inputs: Inputs, at: Path, only: Sequence[str] = ()) -> Case:
    """Copy the inputs into the folder `at`, and damage one; the same numbers give the same."""
    dice = random.Random(f"{seed}/{index}")
    kinds = only or list(KINDS)
    kind = dice.choices(kinds, [KINDS[kind].weight for kind in kinds])[0]
    if kind in REQUESTS:
        sent, done = REQUESTS[kind](dice)
        return Case(kind, done, [], sent)
    shutil.copytree(inputs.folder, at)
    (at / "out").mkdir()
    if kind == "values":
        line, done = command_with_strange_values(at, dice), "values"
    elif kind == "hub name":
        line, done = command_with_a_hub_name(at, dice)
    else:
        file = at / dice.choice(KINDS[kind].files)
        done = f"{file.relative_to(at)}: {damage_file(file, dice)}"
        line = list(dice.choice(KINDS[kind].commands)(at))
    return Case(kind, done, [str(word) for word in line])
