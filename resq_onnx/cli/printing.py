"""Results of the commands, printed as tables or JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from resq_onnx.cli.console import print_line
from resq_onnx.runtime.library import CPU_DTYPES

if TYPE_CHECKING:
    from resq_onnx.evaluation.benchmark import ModelSpeed
    from resq_onnx.evaluation.machine import Machine
    from resq_onnx.evaluation.node_times import NodeTimes
    from resq_onnx.evaluation.workload import Workload
    from resq_onnx.graph.inspection import Inspection
    from resq_onnx.report.summary import Summary


def print_summary(out: Console, summary: Summary) -> None:
    """Print the files that an export wrote, their size, their quality, and how to run them."""
    megabytes, ratio = summary.model_bytes / 1e6, summary.source_bytes / summary.model_bytes
    rotated, decode = summary.parity["float"], summary.parity["decode"]
    rows = {
        "Wrote": f"{summary.path} + {summary.path.name}.data",
        "Size": f"{megabytes:.1f} MB, {ratio:.1f} times less than in float32",
        "Float graph": f"logits within {rotated.relative_error:.1e} of the original's",
        "Cached decode": f"perplexity {decode.perplexity_ratio:.4f} times that of one pass, "
        f"top-1 agreement {decode.top1_agreement:.1%}",
        **_quality_row(summary),
        **_memory_row(summary),
        "Run it": f'resq-onnx generate {summary.path} --prompt "Once upon a time"{_how(summary)}',
    }
    for name, value in rows.items():
        print_line(f"{name:<15}{value}", to=out)


def _how(summary: Summary) -> str:
    """Options that `generate` needs on a machine like this."""
    return "" if summary.dtype in CPU_DTYPES else " --no-kernels"


def _memory_row(summary: Summary) -> dict[str, str]:
    if summary.peak_bytes is None:
        return {}
    return {"Memory": f"at most {summary.peak_bytes / 1e9:.2f} GB during this export"}


def _quality_row(summary: Summary) -> dict[str, str]:
    if summary.quality is None:
        return {}
    distance, tokens = summary.quality.distance, summary.quality.tokens
    return {
        "Against float": f"KL {distance.kl_divergence:.3f} nats, "
        f"top-1 {distance.top1_agreement:.1%}, "
        f"perplexity {distance.perplexity_ratio:.3f} times, on {tokens} tokens"
    }


def print_benchmark(
    out: Console,
    speeds: Sequence[ModelSpeed],
    workload: Workload,
    machine: Machine,
    as_json: bool,
) -> None:
    """Print a row per model; the others are compared with the first."""
    if as_json:
        rows = [_benchmark_row(speed, speeds[0]) for speed in speeds]
        _print_measured(out, workload, machine, rows)
        return
    print_line(_where(workload, machine), to=out)
    table = Table(title=_benchmark_title(workload, len(speeds[0].prefill)), title_justify="left")
    memory = "peak MB" if workload.provider == "cpu" else "peak MB of the host"
    columns = ("prefill", "÷ first", "decode", "÷ first", memory, "load s")
    table.add_column("model", overflow="fold")
    for column in columns:
        table.add_column(column, justify="right")
    for speed in speeds:
        table.add_row(
            escape(str(speed.path)),
            f"{speed.median_prefill:.1f}",
            f"{speed.median_prefill / speeds[0].median_prefill:.2f}",
            f"{speed.median_decode:.1f}",
            f"{speed.median_decode / speeds[0].median_decode:.2f}",
            f"{speed.footprint.peak_bytes / 1e6:.0f}",
            f"{speed.footprint.load_seconds:.2f}",
        )
    out.print(table)


def print_node_times(
    out: Console,
    models: Sequence[NodeTimes],
    workload: Workload,
    machine: Machine,
    as_json: bool,
) -> None:
    """Print a table per model: a row per kind of node, then the rest and the sum."""
    if as_json:
        _print_measured(out, workload, machine, [dataclasses.asdict(model) for model in models])
        return
    print_line(_where(workload, machine), to=out)
    for model in models:
        out.print(_node_table(model, workload))


def _print_measured(
    out: Console, workload: Workload, machine: Machine, models: Sequence[dict[str, Any]]
) -> None:
    """Print as JSON what was measured of each model, by which work, and where."""
    asked = {"workload": dataclasses.asdict(workload), "machine": dataclasses.asdict(machine)}
    print_json(out, {**asked, "models": models})


def _node_table(model: NodeTimes, workload: Workload) -> Table:
    title = (
        f"{escape(str(model.path))}: milliseconds, median, of a prompt of "
        f"{workload.prompt_tokens} tokens and of a token after it"
    )
    table = Table(title=title, title_justify="left")
    table.add_column("operator", overflow="fold")
    table.add_column("node", overflow="fold")
    for column in ("nodes", "prompt", "%", "token", "%"):
        table.add_column(column, justify="right")

    def add(operator: str, name: str, nodes: str, prefill: float, decode: float) -> None:
        of_prompt, of_token = prefill / model.prefill, decode / model.decode
        numbers = (f"{1e3 * prefill:.2f}", f"{of_prompt:.1%}", f"{1e3 * decode:.3f}")
        table.add_row(operator, escape(name.rpartition(".")[2]), nodes, *numbers, f"{of_token:.1%}")

    for kind in model.kinds:
        add(kind.operator, kind.name, str(kind.nodes), kind.prefill, kind.decode)
    prefill = model.prefill - sum(kind.prefill for kind in model.kinds)
    add("between nodes", "", "", prefill, model.decode - sum(kind.decode for kind in model.kinds))
    table.add_section()
    add("all", "", str(sum(kind.nodes for kind in model.kinds)), model.prefill, model.decode)
    return table


def _where(workload: Workload, machine: Machine) -> str:
    """The machine, our kernels, and versions."""
    sets, kernels = ", ".join(machine.instruction_sets), machine.kernels or "of unknown kind"
    place = f"{machine.cpu}, {machine.cores} cores ({sets})"
    if workload.provider == "cuda":
        place, kernels = f"{machine.gpu or 'a GPU unknown to nvidia-smi'}; {place}", "for CUDA"
    used = f"kernels {kernels}" if workload.kernels else "no kernels"
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    return f"{place}; {used}; {versions}"


def _benchmark_title(workload: Workload, turns: int) -> str:
    threads = {None: "a thread per core", 1: "1 thread"}.get(
        workload.threads, f"{workload.threads} threads"
    )
    how = "on the GPU" if workload.provider == "cuda" else threads
    return (
        f"{workload.prompt_tokens} prompt tokens, {workload.new_tokens} new, {how}; "
        f"tokens per second, median of {turns}"
    )


def _benchmark_row(speed: ModelSpeed, first: ModelSpeed) -> dict[str, Any]:
    """JSON record of one model: medians, their ratios to the first model's, and all turns."""
    return {
        "path": str(speed.path),
        "prefill_tokens_per_second": speed.median_prefill,
        "decode_tokens_per_second": speed.median_decode,
        "prefill_ratio": speed.median_prefill / first.median_prefill,
        "decode_ratio": speed.median_decode / first.median_decode,
        "peak_memory_bytes": speed.footprint.peak_bytes,
        "load_seconds": speed.footprint.load_seconds,
        "turns": {"prefill": list(speed.prefill), "decode": list(speed.decode)},
    }


def print_inspection(out: Console, inspection: Inspection, as_json: bool) -> None:
    """Print the sizes, operators, tensors and cache of one file."""
    if as_json:
        print_json(out, dataclasses.asdict(inspection))
        return
    total = (inspection.graph_bytes + inspection.data_bytes) / 1e6
    print_line(f"{inspection.path}: {total:.1f} MB", to=out)
    if inspection.recipe:
        recipe = ", ".join(f"{name} {value}" for name, value in inspection.recipe.items())
        print_line(f"recipe: {recipe}", to=out)
    if inspection.layer_weight_bits is not None:
        bits = f"{inspection.layer_weight_bits:.3f} bits on average"
        print_line(f"layer weights: {bits}, scales not counted", to=out)
    cache = f"cache: {inspection.cache_bytes_per_token} bytes per token"
    float16 = inspection.cache_bytes_per_token_float16
    if float16:
        cache += f" (float16: {float16}, {float16 / inspection.cache_bytes_per_token:.2f} times)"
    print_line(cache, to=out)
    nodes = ", ".join(f"{count} {name}" for name, count in inspection.operators.items())
    print_line(f"nodes: {nodes}", to=out)
    if inspection.matrices:
        out.print(_matrix_table(inspection))


def _matrix_table(inspection: Inspection) -> Table:
    """Table of how the columns of each kind of matrix are stored; the last row is the rest."""
    table = Table()
    for column in ("matrix", "count", "columns", "MB"):
        justify: Literal["left", "right"] = "right" if column in ("count", "MB") else "left"
        table.add_column(column, justify=justify, overflow="fold")
    for kind in inspection.matrices:
        columns = " + ".join(f"{n} in {bits} bits" for bits, n in sorted(kind.columns.items()))
        name = kind.name.rpartition("*.")[2]
        table.add_row(name, str(kind.count), columns, f"{kind.bytes / 1e6:.1f}")
    matrices = sum(kind.bytes for kind in inspection.matrices)
    rest = sum(group.bytes for group in inspection.groups) - matrices
    table.add_row("everything else", "", "in float", f"{rest / 1e6:.1f}")
    return table


def print_json(out: Console, content: Any) -> None:
    """Print as JSON; values without a JSON form, such as paths, become text."""
    text = json.dumps(content, indent=2, default=lambda value: str(value))
    print_line(text, to=out)
