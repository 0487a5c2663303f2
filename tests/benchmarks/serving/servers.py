"""The servers that are compared, each started as a program of its own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from resq_onnx.runtime import Tokenizer
from tests.benchmarks.peer_models import ROOT
from tests.benchmarks.serving.clients import LONG, Endpoint

LEAST_BIAS: Final = -100.0
"""As much as OpenAI's API takes: a token with it is never the likeliest."""


@dataclass(frozen=True)
class Job:
    """What a server is to do.

    Attributes:
        model: File or folder.
        slots: How many requests run at once.
        length: Tokens of a prompt and its answer, at most.
        threads: That it may compute with.
    """

    model: Path
    slots: int
    length: int
    threads: int


@dataclass(frozen=True)
class Server:
    """One server.

    Attributes:
        name: In the table.
        form: Of the model, in `peer_models`; with `file` in it.
        packages: Distributions that it runs with, by the interpreter that runs it.
        command: Its arguments to the interpreter.
        fields: Of every request, given the tokens that end a text: see `Endpoint`.
    """

    name: str
    form: str
    file: str
    packages: tuple[str, ...]
    command: Callable[[Job], list[str]]
    fields: Callable[[Tokenizer], Mapping[str, Any]]

    @contextmanager
    def started(self, python: str, job: Job, tokenizer: Tokenizer) -> Iterator[Endpoint]:
        """Run it.

        Raises:
            RuntimeError: It ended before it served.
        """
        environment = {**os.environ, "OMP_NUM_THREADS": str(job.threads)}
        command = [python, *self.command(job)]
        with subprocess.Popen(
            command, cwd=ROOT, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        ) as process:  # fmt: skip
            try:
                assert process.stdout is not None
                lines = (line for line in process.stdout if line.startswith("Serving "))
                if (line := next(lines, None)) is None:
                    raise RuntimeError(f"{' '.join(command)} did not start")
                yield Endpoint(line.split()[-1], self.fields(tokenizer))
            finally:
                process.kill()


def _ours(job: Job) -> list[str]:
    command = ["-m", "resq_onnx", "serve", str(job.model), "--port", "0", "--name", "served"]
    command += ["--threads", str(job.threads), "--max-length", str(job.length)]
    return [*command, "--max-concurrent", str(job.slots), "--max-waiting", str(LONG)]


def _program(module: str) -> Callable[[Job], list[str]]:
    """A program of this folder."""

    def command(job: Job) -> list[str]:
        numbers = map(str, (job.slots, job.length, job.threads))
        return ["-m", f"tests.benchmarks.serving.{module}", str(job.model), *numbers]

    return command


OURS: Final = Server(
    "resq-onnx",
    "ours",
    "model.onnx",
    ("onnxruntime",),
    _ours,
    lambda tokenizer: {
        "model": "served",
        "logit_bias": {str(token): LEAST_BIAS for token in tokenizer.stop_ids},
    },
)

LLAMA_CPP: Final = Server(
    "llama.cpp",
    "llama_cpp",
    "model.gguf",
    ("xllamacpp",),
    _program("llama_cpp_server"),
    lambda _: {"ignore_eos": True, "cache_prompt": False},
)

GENAI: Final = Server(
    "onnxruntime-genai, static batches",
    "genai",
    "",
    ("onnxruntime", "onnxruntime-genai"),
    _program("genai_server"),
    lambda _: {},
)

SERVERS: Final = (OURS, LLAMA_CPP, GENAI)
