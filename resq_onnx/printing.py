"""What the commands print when they are done."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from resq_onnx.evaluation.perplexity import PerplexityResult
    from resq_onnx.inspection import Inspection
    from resq_onnx.summary import Summary


def print_summary(out: Console, summary: Summary) -> None:
    """What an export wrote, how large, how good, and how to run it."""
    megabytes, ratio = summary.model_bytes / 1e6, summary.source_bytes / summary.model_bytes
    table = Table.grid(padding=(0, 2))
    table.add_row("Wrote", f"{summary.path} + {summary.path.name}.data")
    table.add_row("Size", f"{megabytes:.1f} MB, {ratio:.1f} times less than in float32")
    decode = summary.parity["decode"]
    table.add_row(
        "Float graph",
        f"logits within {summary.parity['float'].relative_error:.1e} of PyTorch's",
    )
    table.add_row(
        "Cached decode",
        f"perplexity {decode.perplexity_ratio:.4f} times that of one pass, "
        f"top-1 agreement {decode.top1_agreement:.1%}",
    )
    table.add_row("Run it", f'resq-onnx generate {summary.path} --prompt "Once upon a time"')
    out.print(table, soft_wrap=True)


def print_perplexities(
    out: Console,
    results: Mapping[str, PerplexityResult],
    window: int,
    token_by_token: bool,
    as_json: bool,
) -> None:
    """A row per model; the first is what the others are compared with."""
    way = "token by token" if token_by_token else "one pass"
    if as_json:
        rows = {name: dataclasses.asdict(result) for name, result in results.items()}
        _print_json(out, {"window": window, "way": way, "models": rows})
        return
    first = next(iter(results.values())).perplexity
    table = Table(title=f"Perplexity, windows of {window} tokens, {way}", title_justify="left")
    for column in ("model", "perplexity", "÷ first", "tokens"):
        table.add_column(column, justify="left" if column == "model" else "right")
    for name, result in results.items():
        table.add_row(
            name,
            f"{result.perplexity:.4f}",
            f"{result.perplexity / first:.4f}",
            f"{result.tokens}",
        )
    out.print(table)


def print_inspection(out: Console, inspection: Inspection, as_json: bool) -> None:
    """Sizes, operators, tensors and the cache of one file."""
    if as_json:
        _print_json(out, dataclasses.asdict(inspection))
        return
    total = (inspection.graph_bytes + inspection.data_bytes) / 1e6
    out.print(f"{inspection.path}: {total:.1f} MB", highlight=False)
    if inspection.recipe:
        out.print("recipe: " + ", ".join(f"{k} {v}" for k, v in inspection.recipe.items()),
                  highlight=False)  # fmt: skip
    if inspection.layer_weight_bits is not None:
        out.print(f"layer weights: {inspection.layer_weight_bits:.3f} bits on average, "
                  "scales not counted", highlight=False)  # fmt: skip
    cache = f"cache: {inspection.cache_bytes_per_token} bytes per token"
    float16 = inspection.cache_bytes_per_token_float16
    if float16:
        cache += f" (float16: {float16}, {float16 / inspection.cache_bytes_per_token:.2f} times)"
    out.print(cache, highlight=False)
    nodes = ", ".join(f"{count} {name}" for name, count in inspection.operators.items())
    out.print(f"nodes: {nodes}", highlight=False)
    table = Table()
    for column in ("tensors", "count", "type", "values", "MB"):
        table.add_column(column, justify="left" if column in ("tensors", "type") else "right")
    for group in inspection.groups:
        table.add_row(group.name, str(group.count), group.dtype, f"{group.values:,}",
                      f"{group.bytes / 1e6:.3f}")  # fmt: skip
    out.print(table)


def _print_json(out: Console, content: Any) -> None:
    text = json.dumps(content, indent=2, default=lambda value: str(value))
    out.print(text, markup=False, highlight=False, soft_wrap=True)
