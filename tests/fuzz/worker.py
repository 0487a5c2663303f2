"""A process that runs cases one after the other, and says of each what happened."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

from click.testing import Result

from resq_onnx.cli import main as main_command
from resq_onnx.serving import fields
from resq_onnx.web import server as web_server
from tests.command_line import run
from tests.fuzz.cases import make_case
from tests.fuzz.inputs import DECOY, Inputs
from tests.fuzz.servers import Servers, serve_briefly

FAULT_VARIABLE: Final = "RESQ_FUZZ_FAULT"
"""The environment variable that names a fault to plant."""

MEMORY: Final = 3 << 30
"""Bytes of address space that a case may take beyond what the libraries have."""


def findings(result: Result, before: dict[Path, str], after: dict[Path, str]) -> list[str]:
    """What is wrong with how a command ended."""
    wrong = []
    lines = result.stderr.splitlines()
    errors = [line for line in lines if line.startswith("Error:")]
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        wrong.append(f"raised {type(result.exception).__name__}: {result.exception}")
    if "Traceback" in result.output:
        wrong.append("a traceback")
    if result.exit_code and len(errors) != 1:
        wrong.append(f"exit {result.exit_code} with {len(errors)} lines of error")
    if not result.exit_code and errors:
        wrong.append("status 0 with an error")
    if any(line.startswith("Error: unexpected") for line in errors):
        wrong.append(errors[0])
    changed = [
        path.name
        for path, digest in before.items()
        if after.get(path) != digest and path.name != DECOY
    ]
    if changed:
        wrong.append(f"has changed: {', '.join(sorted(changed))}")
    return wrong


def digests(folder: Path) -> dict[Path, str]:
    """Of each file."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@dataclass(frozen=True)
class Asked:
    """What a worker is to do: cases of a seed, perhaps of some kinds alone."""

    inputs: Inputs
    seed: int
    only: Sequence[str]


def run_case(asked: Asked, index: int, servers: Servers) -> dict[str, object]:
    """Run one case in a folder of its own, which is the working directory meanwhile."""
    folder = Path(tempfile.mkdtemp(prefix="resq-fuzz-"))
    try:
        at = folder / "at"
        case = make_case(asked.seed, index, asked.inputs, at, asked.only)
        if not case.command:
            code, wrong, last = servers.ask(case.kind, case.sent)
        else:
            os.chdir(at)
            before = digests(at)
            servers.errors.clear()
            result = run(*case.command)
            wrong = [*findings(result, before, digests(at)), *servers.errors]
            code, last = result.exit_code, (result.stderr.strip().splitlines() or [""])[-1]
        said = {"index": index, "kind": case.kind, "done": case.done, "code": code}
        return {**said, "command": case.command, "wrong": wrong, "last": last}
    finally:
        os.chdir("/")
        shutil.rmtree(folder, ignore_errors=True)


def plant(fault: str) -> None:
    """Spoil the command inspect or a server, so that the fuzzer has something to find."""
    if not fault:
        return

    def raise_error(*_given: object) -> NoReturn:
        raise IndexError("planted")

    used_by: Any = {"serve": fields, "web": web_server}.get(fault)
    if fault == "serve":
        used_by.parse_object = raise_error
    if fault == "web":
        used_by.unquote = raise_error

    def inspect(model: Path, **_options: object) -> None:
        match fault:
            case "raise":
                raise_error()
            case "hang":
                time.sleep(1000)
            case "crash":
                os.abort()
            case "change":
                model.write_text("planted")

    main_command.commands["inspect"].callback = inspect


def limit_memory() -> None:
    """Refuse what a case asks for beyond all measure, instead of giving it the machine."""
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, taken + MEMORY))


def main() -> None:
    """Answer each number on stdin by a line of JSON on stdout."""
    folder, seed, *only = sys.argv[1:]
    asked = Asked(Inputs(Path(folder)), int(seed), only)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    os.environ["XDG_CACHE_HOME"] = str(asked.inputs.cache)
    warm_up(asked.inputs)
    servers = Servers(asked.inputs)
    serve_briefly()
    plant(os.environ.get(FAULT_VARIABLE, ""))
    limit_memory()
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(run_case(asked, int(line), servers)), file=answers, flush=True)


def warm_up(inputs: Inputs) -> None:
    """Import everything, which takes seconds and address space."""
    import torch

    torch.set_num_threads(1)
    run("inspect", inputs.exported / "model.onnx")
    with tempfile.TemporaryDirectory() as folder:
        text = ("--calibration", inputs.others / "text.txt", "--samples", "1")
        target = Path(folder) / "p.safetensors"
        run("calibrate", inputs.model, target, *text, "--sequence-length", "8")
        run("generate", inputs.exported / "model.onnx", "--prompt", "a", "--max-new-tokens", "1")


if __name__ == "__main__":
    main()
