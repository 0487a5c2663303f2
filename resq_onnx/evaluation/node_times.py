"""Where the time of a model goes: each kind of node, by ONNX Runtime's profiler."""

from __future__ import annotations

import bisect
import json
import math
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

from resq_onnx.errors import ResqError
from resq_onnx.evaluation.workload import Workload, decoder_on, open_session, run_once
from resq_onnx.graph.inspection import LAYER
from resq_onnx.runtime.providers import CPU

ENDING: Final = "_kernel_time"
"""What the profiler appends to the name of a node."""

Kind = tuple[str, str]
"""Operator, and the node's name with `*` for the layer's number."""


@dataclass(frozen=True)
class NodeTime:
    """Time of all nodes of one kind.

    Attributes:
        operator: Their operator.
        name: Their name, with `*` for the layer's number.
        nodes: How many there are.
        prefill: Seconds that they take for the prompt.
        decode: Seconds that they take for a new token.
    """

    operator: str
    name: str
    nodes: int
    prefill: float
    decode: float


@dataclass(frozen=True)
class NodeTimes:
    """Times of a model, medians over the prompts and over the new tokens.

    Attributes:
        path: The .onnx file.
        kinds: The longest in decoding first.
        prefill: Seconds of the whole graph for the prompt; what no node takes is ONNX Runtime's.
        decode: The same for a new token.
    """

    path: Path
    kinds: tuple[NodeTime, ...]
    prefill: float
    decode: float


def node_times(path: Path, workload: Workload, repeat: int) -> NodeTimes:
    """Run a workload under ONNX Runtime's profiler.

    The profiler itself takes a few microseconds of each node.

    Args:
        path: The .onnx file.
        workload: What it runs, on the CPU.
        repeat: How often, after one run that is not counted.

    Raises:
        ResqError: The file cannot run it, it is more than the profiler can record, or the
            workload is not one of the CPU.
    """
    if workload.provider != CPU:
        raise ResqError(
            "on a GPU ONNX Runtime's profiler sees when a node was started, and not how long it "
            "ran; use --per-node without --provider, or NVIDIA's Nsight Systems"
        )
    with tempfile.TemporaryDirectory() as folder:
        session = open_session(path, workload, profile=Path(folder) / "profile")
        decoder = decoder_on(session, path, workload)
        prompt = workload.prompt(decoder.signature.vocabulary or 1)
        for _ in range(repeat + 1):
            run_once(decoder, prompt, workload.new_tokens)
        events = json.loads(Path(session.end_profiling()).read_text())
    slices = math.ceil(workload.prompt_tokens / decoder.prefill_slice)
    return _summary(path, _runs(events, path), slices, workload.new_tokens, repeat)


@dataclass(frozen=True)
class _Run:
    """One run of the graph: its seconds, and those of each kind of node."""

    seconds: float
    of_kinds: Mapping[Kind, float]
    nodes: Mapping[Kind, int]


def _runs(events: Sequence[Mapping[str, Any]], path: Path) -> list[_Run]:
    """The runs that the profiler has recorded, in order."""
    whole = sorted((e for e in events if e.get("name") == "model_run"), key=lambda e: e["ts"])
    starts = [event["ts"] for event in whole]
    seconds: list[Counter[Kind]] = [Counter() for _ in whole]
    nodes: list[Counter[Kind]] = [Counter() for _ in whole]
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(ENDING):
            place = bisect.bisect_right(starts, event["ts"]) - 1
            if place < 0:
                continue
            name = LAYER.sub(".*.", event["name"].removesuffix(ENDING))
            kind = (event["args"]["op_name"], "" if name.startswith("_inlfunc") else name)
            seconds[place][kind] += event["dur"]
            nodes[place][kind] += 1
    return [
        _Run(event["dur"] / 1e6, {kind: time / 1e6 for kind, time in one.items()}, count)
        for event, one, count in zip(whole, seconds, nodes, strict=True)
    ]


def _summary(
    path: Path, runs: Sequence[_Run], slices: int, new_tokens: int, repeat: int
) -> NodeTimes:
    """Medians over the prompts, each of which is several runs, and over the tokens."""
    turn = slices + new_tokens
    if len(runs) != turn * (repeat + 1):
        raise ResqError(
            f"{path}: ONNX Runtime's profiler has recorded {len(runs)} of {turn * (repeat + 1)} "
            "runs; use fewer --new-tokens, or a smaller --repeat"
        )
    turns = [runs[start : start + turn] for start in range(turn, len(runs), turn)]
    prompts = [one[:slices] for one in turns]
    tokens = [run for one in turns for run in one[slices:]]
    nodes = {kind: count for run in (*prompts[0], tokens[0]) for kind, count in run.nodes.items()}
    kinds = [
        NodeTime(
            *kind,
            count,
            median(sum(run.of_kinds.get(kind, 0.0) for run in prompt) for prompt in prompts),
            median(run.of_kinds.get(kind, 0.0) for run in tokens),
        )
        for kind, count in nodes.items()
    ]
    return NodeTimes(
        path,
        tuple(sorted(kinds, key=lambda kind: (-kind.decode, -kind.prefill))),
        median(sum(run.seconds for run in prompt) for prompt in prompts),
        median(run.seconds for run in tokens),
    )
