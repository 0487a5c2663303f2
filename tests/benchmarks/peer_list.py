"""Who is compared: one record for each runtime, and what it needs to be installed."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final


@dataclass(frozen=True)
class Peer:
    """One runtime with one form of the model.

    Attributes:
        name: In tables, and on the command line.
        runner: Module of `tests.benchmarks.runners`.
        form: Of the model, in `peer_models`.
        file: In the form's folder; empty for the folder itself.
        packages: Distributions it runs with, by the interpreter that runs it.
        ours: Whether the interpreter of this program runs it, not the peers' one.
        builders: Distributions that make its model, by the peers' interpreter.
        busy_only: Whether it is of interest only beside other work.
        handed_over: Whether it is our model in another runtime or format.
    """

    name: str
    runner: str
    form: str
    packages: tuple[str, ...]
    file: str = ""
    ours: bool = False
    builders: tuple[str, ...] = ()
    busy_only: bool = False
    handed_over: bool = False

    def missing(self, own: Mapping[str, str], peers: Mapping[str, str]) -> str | None:
        """Why it cannot run, given each interpreter's packages; None if it can."""
        running = own if self.ours else peers
        absent = [name for name in self.packages if name not in running]
        absent += [name for name in self.builders if name not in peers and name not in absent]
        return f"not installed: {', '.join(absent)}" if absent else None


GENAI_BUILDER: Final = ("onnxruntime-genai", "torch", "transformers")

OURS: Final = Peer("resq-onnx", "resq", "ours", ("onnxruntime",), "model.onnx", ours=True)

PEERS: Final = (
    OURS,
    replace(OURS, name="resq-onnx, threads sleep", runner="resq_sleeping", busy_only=True),
    Peer(
        "onnxruntime float32",
        "onnxruntime_float32",
        "float32",
        ("onnxruntime",),
        "model.onnx",
        ours=True,
    ),
    Peer(
        "onnxruntime int4",
        "onnxruntime_int4",
        "genai",
        ("onnxruntime",),
        ours=True,
        builders=GENAI_BUILDER,
    ),
    Peer("onnxruntime-genai int4", "genai", "genai", GENAI_BUILDER),
    Peer("llama.cpp Q4_0", "llama_cpp", "llama_cpp", ("xllamacpp",), "model.gguf"),
    Peer("openvino int4", "openvino_int4", "openvino", ("openvino", "openvino-genai")),
    Peer("torch dynamic int8", "torch_int8", "huggingface", ("torch", "transformers")),
    replace(
        OURS,
        name="onnxruntime-genai, --target genai",
        runner="genai",
        form="ours_genai",
        packages=("onnxruntime", "onnxruntime-genai"),
        file="",
        handed_over=True,
    ),
    replace(
        OURS,
        name="openvino, --target openvino",
        runner="openvino_ours",
        form="ours_openvino",
        packages=("openvino",),
        handed_over=True,
    ),
    replace(
        OURS,
        name="onnxruntime, --target portable",
        form="ours_portable",
        handed_over=True,
    ),
    replace(
        OURS,
        name="onnxruntime, --format contrib",
        form="ours_contrib",
        handed_over=True,
    ),
    replace(
        OURS,
        name="onnxruntime, --format contrib --cache int8",
        form="ours_contrib_int8",
        handed_over=True,
    ),
)
"""Ours first: all others are compared with it."""


def installed_packages(python: str) -> dict[str, str]:
    """Version of each distribution that an interpreter has, by its name in lower case.

    Raises:
        RuntimeError: There is no such interpreter.
    """
    program = (
        "import importlib.metadata as m, json; "
        "print(json.dumps({d.name.lower(): d.version for d in m.distributions()}))"
    )
    try:
        printed = subprocess.run(
            [python, "-c", program], check=True, capture_output=True, text=True
        ).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise RuntimeError(f"{python}: not a Python interpreter that runs: {error}") from None
    versions: dict[str, str] = json.loads(printed)
    return versions
