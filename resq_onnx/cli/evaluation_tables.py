"""Output of `evaluate`: a table of models side by side, and the noise of their layers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from resq_onnx.cli.printing import print_json

if TYPE_CHECKING:
    from resq_onnx.evaluation import Windowing
    from resq_onnx.evaluation.side_by_side import FileEvaluation

NOTHING = "–"
"""Table entry for a missing number."""


@dataclass(frozen=True)
class EvaluationRequest:
    """The conditions under which the figures were measured.

    Attributes:
        text: The file that was read.
        reference: The model the others are compared with; None for none.
        windowing: How the text was cut.
        token_by_token: Whether exported files ran one token per call.
    """

    text: Path
    reference: Path | None
    windowing: Windowing
    token_by_token: bool

    @property
    def way(self) -> str:
        """How the models ran, in words."""
        return "token by token" if self.token_by_token else "one pass"


def print_evaluations(
    out: Console, found: Sequence[FileEvaluation], asked: EvaluationRequest, as_json: bool
) -> None:
    """Print a row per model, and if measured a second table with a row per layer."""
    if as_json:
        print_json(out, _json(found, asked))
        return
    out.print(_model_table(found, asked))
    if any(_sqnr(one) for one in found):
        out.print(_layer_table(found))


def _model_table(found: Sequence[FileEvaluation], asked: EvaluationRequest) -> Table:
    """Without a reference, perplexities are compared with the first one."""
    window, step = asked.windowing.window, asked.windowing.step
    title = f"{asked.text.name}: windows of {window} tokens, stride {step}, {asked.way}"
    table = Table(title=title, title_justify="left")
    if asked.reference is not None:
        table.caption = (
            f"KL (nats/token), top-1 and ÷ reference: against {escape(str(asked.reference))}"
        )
        table.caption_justify = "left"
    table.add_column("model", overflow="fold")
    compared = ("÷ first",) if asked.reference is None else ("÷ reference", "KL", "top-1")
    for column in ("perplexity", *compared, "tokens", "MB"):
        table.add_column(column, justify="right", no_wrap=True)
    first = found[0].evaluation.perplexity.perplexity
    for one in found:
        result, distance = one.evaluation.perplexity, one.evaluation.distance
        if distance is None:
            figures = [f"{result.perplexity / first:.4f}"]
        else:
            error = distance.standard_error
            figures = [
                f"{distance.perplexity_ratio:.4f} ± {NOTHING if error is None else f'{error:.4f}'}",
                f"{distance.kl_divergence:.4f}",
                f"{distance.top1_agreement:.1%}",
            ]
        size = f"{one.bytes / 1e6:.1f}"
        tokens = str(result.tokens)
        table.add_row(escape(str(one.path)), f"{result.perplexity:.4f}", *figures, tokens, size)
    return table


def _layer_table(found: Sequence[FileEvaluation]) -> Table:
    table = Table(title="Signal to quantisation noise of the residual stream, dB",
                  title_justify="left")  # fmt: skip
    table.add_column("after")
    for one in found:
        table.add_column(escape(str(one.path)), justify="right", overflow="fold")
    ratios = [_sqnr(one) for one in found]
    for place in range(max(map(len, ratios))):
        name = f"layer {place - 1}" if place else "embedding"
        table.add_row(name, *(_decibels(some[place]) for some in ratios))
    return table


def _sqnr(one: FileEvaluation) -> tuple[float, ...]:
    return one.evaluation.layer_sqnr_db or ()


def _decibels(ratio: float) -> str:
    return f"{ratio:.1f}" if math.isfinite(ratio) else NOTHING


def _json(found: Sequence[FileEvaluation], asked: EvaluationRequest) -> dict[str, Any]:
    models = {}
    for one in found:
        row: dict[str, Any] = dataclasses.asdict(one.evaluation.perplexity) | {"bytes": one.bytes}
        if one.evaluation.distance is not None:
            row |= dataclasses.asdict(one.evaluation.distance)
            row["layer_sqnr_db"] = list(map(_finite, _sqnr(one))) or None
        models[str(one.path)] = {name: _finite(value) for name, value in row.items()}
    return {
        "text": asked.text,
        "window": asked.windowing.window,
        "stride": asked.windowing.step,
        "way": asked.way,
        "reference": asked.reference,
        "models": models,
    }


def _finite(value: Any) -> Any:
    """JSON has no infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
