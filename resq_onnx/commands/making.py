"""The commands that make a model: export and calibrate."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import click

from resq_onnx.commands.console import out, reporting
from resq_onnx.handoff.targets import DEFAULT as DEFAULT_TARGET
from resq_onnx.handoff.targets import TARGETS
from resq_onnx.recipe import (
    Format,
    Logits,
    Method,
    Precision,
    Recipe,
    Rotations,
    Tables,
    WeightMethod,
)

DEFAULTS = Recipe()


def _recipe_options(command: Any) -> Any:
    """The options that `export` and `calibrate` share: one for each field of a Recipe."""
    choice = click.Choice
    options = [
        click.option("--method", type=choice(get_args(Method)), default=DEFAULTS.method,
                     help="How the 4/8-bit bases are found; all but resq are baselines."),
        click.option("--rotations", type=choice(get_args(Rotations)), default=DEFAULTS.rotations,
                     help="Whether the rotations inside resq's parts are random or learned."),
        click.option("--training-steps", type=int, default=DEFAULTS.training_steps,
                     help="Steps of learning rotations, for `trained` and for spinquant."),
        click.option("--calibration", default=DEFAULTS.calibration,
                     help="A .txt or .jsonl file, a name known to `datasets`, or python-docs."),
        click.option("--samples", type=int, default=DEFAULTS.samples,
                     help="Calibration sequences."),
        click.option("--sequence-length", type=int, default=DEFAULTS.sequence_length,
                     help="Tokens per calibration sequence."),
        click.option("--high-fraction", type=float, default=DEFAULTS.high_fraction,
                     help="Share of the coefficients kept in the high number of bits."),
        click.option("--down-high", type=float, default=DEFAULTS.down_high,
                     help="The same for the input of down_proj; 0 is the paper's scheme."),
        click.option("--activation-clip", type=float, default=DEFAULTS.activation_clip,
                     help="Share of its range that a 4-bit activation's integers span."),
        click.option("--target-bits", type=float, default=DEFAULTS.target_bits,
                     help="Mean bits of the layers' weights: ranks are then chosen by spectra."),
        click.option("--low-bits", type=int, default=DEFAULTS.low_bits,
                     help="Bits of the low part."),
        click.option("--high-bits", type=int, default=DEFAULTS.high_bits,
                     help="Bits of the high part."),
        click.option("--seed", type=int, default=DEFAULTS.seed,
                     help="Seeds rotations and the choice of calibration sequences."),
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


@click.command(context_settings={"show_default": True})
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("path", metavar="OUT.onnx", type=click.Path(path_type=Path))
@click.option(
    "--target",
    type=click.Choice(list(TARGETS)),
    default=DEFAULT_TARGET,
    help="The runtime that the folder of OUT.onnx is for.",
)
@_recipe_options
@click.option(
    "--weights",
    type=click.Choice(get_args(WeightMethod)),
    default=DEFAULTS.weights,
    help="How weights are rounded.",
)
@click.option(
    "--format",
    type=click.Choice(get_args(Format)),
    show_default="the target's",
    help="Keep the ai.resq operators, write plain ONNX with QDQ nodes, or use ONNX Runtime's own "
    "operators, for any machine (contrib) or for browsers.",
)
@click.option(
    "--logits",
    type=click.Choice(get_args(Logits)),
    show_default="the target's",
    help="Compute logits for all tokens of a call, or for the last one, as generation needs.",
)
@click.option(
    "--activations",
    type=click.Choice(get_args(Precision)),
    default=DEFAULTS.activations,
    help="Quantise what linear layers read, or leave it in float: only weights have few bits.",
)
@click.option(
    "--cache",
    type=click.Choice(get_args(Precision)),
    default=DEFAULTS.cache,
    help="Store keys and values in few bits, or in float.",
)
@click.option(
    "--tables",
    type=click.Choice(get_args(Tables)),
    default=DEFAULTS.tables,
    help="One table for a tied embedding and lm_head, or one for each.",
)
@click.option("--head-bits", type=int, default=DEFAULTS.head_bits,
              help="Bits of embedding and lm_head; with 4, their high part keeps 8.")  # fmt: skip
@click.option(
    "--projections",
    type=click.Path(path_type=Path),
    help="Use this file of `resq-onnx calibrate` instead of calibrating.",
)
@click.option(
    "--save-rotated",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Also write the folded, not yet quantised float model.",
)
@click.option("--dump-passes", type=click.Path(path_type=Path), metavar="DIR",
              help="Also write the graph after each pass, as text.")  # fmt: skip
@click.option("--report", "page", is_flag=True,
              help="Also write report.html beside the model: a page for people.")  # fmt: skip
def export(
    model: Path,
    path: Path,
    target: str,
    projections: Path | None,
    save_rotated: Path | None,
    dump_passes: Path | None,
    page: bool,
    **recipe: Any,
) -> None:
    """Quantise MODEL, a Hugging Face directory or a .gguf file, and write OUT.onnx."""
    from resq_onnx.printing import print_summary

    chosen = {name: value for name, value in recipe.items() if value is not None}
    asked = TARGETS[target].recipe(**chosen)  # before the imports that take seconds
    with reporting() as report:
        from resq_onnx import pipeline

        summary = pipeline.export(
            model,
            path,
            asked,
            target=target,
            projections=projections,
            save_rotated=save_rotated,
            dump_passes=dump_passes,
            page=page,
            report=report,
        )
    print_summary(out, summary)


@click.command(context_settings={"show_default": True})
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("target", metavar="PROJECTIONS.safetensors", type=click.Path(path_type=Path))
@_recipe_options
def calibrate(model: Path, target: Path, **recipe: Any) -> None:
    """Measure MODEL's activations once; exports then reuse the file with --projections.

    Runs data-parallel under torchrun.
    """
    asked = Recipe(**recipe)
    with reporting() as report:
        from resq_onnx import pipeline

        written = pipeline.calibrate(model, target, asked, report)
    if written is not None:
        size = written.stat().st_size / 1e6
        lines = (
            f"Wrote {written} ({size:.1f} MB)",
            f"Use it: resq-onnx export {model} OUT.onnx --projections {written}",
        )
        out.print(*lines, sep="\n", markup=False, highlight=False, soft_wrap=True)
