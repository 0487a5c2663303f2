"""The command evaluate: measure perplexity and the distance from a reference."""

from __future__ import annotations

from pathlib import Path

import click

from resq_onnx.cli.console import out, showing_progress
from resq_onnx.cli.options import bos_option, quiet_option, session_options


@click.command(context_settings={"show_default": True})
@click.argument(
    "models", metavar="MODEL...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option(
    "--text",
    required=True,
    type=click.Path(path_type=Path),
    help="A text the model was not calibrated on: a file as for --calibration of export.",
)
@click.option(
    "--reference",
    type=click.Path(path_type=Path),
    metavar="MODEL",
    help="Also measure the distance from this model's predictions.",
)
@click.option(
    "--per-layer",
    is_flag=True,
    help="Also measure the noise in each layer's output; needs --reference.",
)
@click.option("--window", type=click.IntRange(min=2), default=512, help="Tokens per window.")
@click.option(
    "--stride",
    type=click.IntRange(min=1),
    help="Tokens from one window to the next; shared tokens serve only as context.  "
    "[default: the window, no overlap]",
)
@bos_option
@click.option("--max-windows", type=click.IntRange(min=1), help="Default: the whole text.")
@click.option(
    "--token-by-token",
    is_flag=True,
    help="Decode with the cache instead of one pass; original models run in one pass.",
)
@session_options
@quiet_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")  # fmt: skip
def evaluate(
    models: tuple[Path, ...],
    text: Path,
    reference: Path | None,
    per_layer: bool,
    window: int,
    stride: int | None,
    bos: bool | None,
    max_windows: int | None,
    token_by_token: bool,
    threads: int | None,
    no_kernels: bool,
    provider: str,
    quiet: bool,
    as_json: bool,
) -> None:
    """Measure the perplexity of models on a text, and their distance from a reference.

    MODEL is a folder that export wrote, the .onnx file in it, or an original model, a Hugging Face
    directory or a .gguf file, which runs in PyTorch in float32. With --reference, KL is the mean
    divergence of the predictions from the reference's in nats per token, top-1 is how often both
    rank the same token first. --per-layer gives the signal-to-noise ratio of the residual stream
    after every layer: both models read the same tokens, so it includes the noise of all earlier
    layers.
    """
    from resq_onnx.calibration.corpus import SEPARATOR
    from resq_onnx.calibration.texts import load_text
    from resq_onnx.cli.evaluation_tables import EvaluationRequest, print_evaluations
    from resq_onnx.evaluation import Windowing
    from resq_onnx.evaluation.side_by_side import evaluate_files
    from resq_onnx.evaluation.subjects import HowToRun

    if per_layer and reference is None:
        raise click.UsageError("--per-layer needs --reference MODEL, a model without the noise")
    document = SEPARATOR.join(load_text(str(text), "text"))
    windowing = Windowing(window, stride, max_windows)
    how = HowToRun(threads, not no_kernels, provider, token_by_token, per_layer, bos)
    with showing_progress(quiet) as progress:
        found = evaluate_files(models, document, windowing, how, reference, progress)
    print_evaluations(
        out, found, EvaluationRequest(text, reference, windowing, token_by_token), as_json
    )
