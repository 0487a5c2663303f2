"""What a report is made from: files that other commands wrote, read and checked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from resq_onnx.errors import blaming
from resq_onnx.files.contents import read_json
from resq_onnx.graph.inspection import Inspection
from resq_onnx.report.summary import FILE_NAME

EVALUATE: Final = "resq-onnx evaluate --json"
BENCH: Final = "resq-onnx bench --json"
EXPORT: Final = "resq-onnx export"


@dataclass(frozen=True)
class Evaluated:
    """One model of an evaluation; a number that was not measured, or not finite, is None.

    Attributes:
        path: As it was given to `evaluate`.
        perplexity: On the evaluation's text.
        ratio: To the reference's perplexity, or to the first model's where there is none.
        tokens: That were predicted.
        kl_divergence: From the reference's predictions, nats per token.
        top1_agreement: With them, a share.
        layer_sqnr_db: Signal over noise of the embedding and of each layer's output.
    """

    path: str
    perplexity: float | None
    ratio: float | None
    tokens: int
    kl_divergence: float | None
    top1_agreement: float | None
    layer_sqnr_db: tuple[float, ...]


@dataclass(frozen=True)
class Evaluation:
    """What `resq-onnx evaluate --json` printed."""

    text: str
    window: int
    way: str
    reference: str | None
    models: tuple[Evaluated, ...]


@dataclass(frozen=True)
class Benched:
    """One model of a benchmark: speeds in tokens per second, ratios to the first model's."""

    path: str
    prefill: float
    prefill_ratio: float
    decode: float
    decode_ratio: float
    peak_bytes: int
    load_seconds: float


@dataclass(frozen=True)
class Benchmark:
    """What `resq-onnx bench --json` printed."""

    prompt_tokens: int
    new_tokens: int
    threads: int | None
    kernels: str
    machine: str
    models: tuple[Benched, ...]


def read_evaluation(path: Path) -> Evaluation:
    """Read what `resq-onnx evaluate --json` printed.

    Raises:
        ResqError: There is no such file, or it holds something else.
    """
    content = read_json(path, again(EVALUATE))
    with refusals(path, EVALUATE):
        first = _number(next(iter(content["models"].values()))["perplexity"])
        reference = content.get("reference")
        return Evaluation(
            text=Path(str(content.get("text") or "")).name,
            window=int(content["window"]),
            way=str(content["way"]),
            reference=None if reference is None else str(reference),
            models=tuple(_evaluated(name, row, first) for name, row in content["models"].items()),
        )


def read_benchmark(path: Path) -> Benchmark:
    """Read what `resq-onnx bench --json` printed.

    Raises:
        ResqError: There is no such file, or it holds something else.
    """
    content = read_json(path, again(BENCH))
    with refusals(path, BENCH):
        workload, machine = content["workload"], content["machine"]
        threads, gpu = workload["threads"], machine.get("gpu")
        cpu = f"{machine['cpu']}, {int(machine['cores'])} cores"
        kernels = "for CUDA" if gpu else str(machine["kernels"])
        return Benchmark(
            prompt_tokens=int(workload["prompt_tokens"]),
            new_tokens=int(workload["new_tokens"]),
            threads=None if threads is None else int(threads),
            kernels=kernels if workload["kernels"] else "none",
            machine=f"{gpu['name']}; {cpu}" if gpu else cpu,
            models=tuple(_benched(row) for row in content["models"]),
        )


def read_summary(inspection: Inspection) -> dict[str, Any]:
    """What the resq.json beside a model says; nothing if there is none, or it is another's.

    A folder may hold several models, and resq.json describes one of them: that of these sizes.

    Raises:
        ResqError: It cannot be read.
    """
    path = inspection.path.parent / FILE_NAME
    if not path.is_file():
        return {}
    content = read_json(path, again(EXPORT))
    with refusals(path, EXPORT):
        sizes = (content["bytes"]["graph"], content["bytes"]["data"])
    return content if sizes == (inspection.graph_bytes, inspection.data_bytes) else {}


def _evaluated(name: str, row: Mapping[str, Any], first: float | None) -> Evaluated:
    perplexity, ratio = _number(row["perplexity"]), _number(row.get("perplexity_ratio"))
    if ratio is None and perplexity is not None and first is not None:
        ratio = perplexity / first
    layers = row.get("layer_sqnr_db") or ()  # all null where there is no noise, in the reference
    return Evaluated(
        path=name,
        perplexity=perplexity,
        ratio=ratio,
        tokens=int(row["tokens"]),
        kl_divergence=_number(row.get("kl_divergence")),
        top1_agreement=_number(row.get("top1_agreement")),
        layer_sqnr_db=() if None in layers else tuple(map(float, layers)),
    )


def _benched(row: Mapping[str, Any]) -> Benched:
    return Benched(
        path=str(row["path"]),
        prefill=float(row["prefill_tokens_per_second"]),
        prefill_ratio=float(row["prefill_ratio"]),
        decode=float(row["decode_tokens_per_second"]),
        decode_ratio=float(row["decode_ratio"]),
        peak_bytes=int(row["peak_memory_bytes"]),
        load_seconds=float(row["load_seconds"]),
    )


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def again(command: str) -> str:
    """What to do with a damaged file that a command writes."""
    return f"make it again with `{command}`"


@contextmanager
def refusals(path: Path, command: str) -> Iterator[None]:
    """Say of which command a file should have been."""
    with blaming(path, f"not what `{command}` writes", again(command)):
        yield
