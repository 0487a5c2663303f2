"""The commands that make a model: export, rewrite and calibrate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from resq_onnx.commands.console import out, reporting
from resq_onnx.commands.recipe_options import (
    basis_options,
    calibration_options,
    output_options,
    quantising_options,
    recipe_for,
)
from resq_onnx.recipe import Recipe


@click.command(context_settings={"show_default": True})
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("path", metavar="OUT.onnx", type=click.Path(path_type=Path))
@basis_options
@calibration_options
@quantising_options
@click.option(
    "--projections",
    type=click.Path(path_type=Path),
    help="Use this file of `resq-onnx calibrate` instead of calibrating.",
)
@output_options
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

    asked = recipe_for(target, recipe)
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
@click.argument("graph", metavar="IN.onnx", type=click.Path(path_type=Path))
@click.argument("path", metavar="OUT.onnx", type=click.Path(path_type=Path))
@click.option(
    "--projections",
    type=click.Path(path_type=Path),
    required=True,
    help="A file that `resq-onnx calibrate` made of the same model.",
)
@click.option(
    "--model",
    type=click.Path(path_type=Path),
    metavar="DIR",
    show_default="IN.onnx's folder",
    help="The directory with the model's config.json and tokenizer.",
)
@basis_options
@quantising_options
@output_options
def rewrite(
    graph: Path,
    path: Path,
    projections: Path,
    model: Path | None,
    target: str,
    save_rotated: Path | None,
    dump_passes: Path | None,
    page: bool,
    **recipe: Any,
) -> None:
    """Quantise IN.onnx, which torch.onnx.export wrote in float32, and write OUT.onnx."""
    from resq_onnx.printing import print_summary

    asked = recipe_for(target, recipe)
    with reporting() as report:
        from resq_onnx import rewriting

        summary = rewriting.rewrite(
            graph,
            path,
            projections,
            asked,
            model=model,
            target=target,
            save_rotated=save_rotated,
            dump_passes=dump_passes,
            page=page,
            report=report,
        )
    print_summary(out, summary)


@click.command(context_settings={"show_default": True})
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("target", metavar="PROJECTIONS.safetensors", type=click.Path(path_type=Path))
@basis_options
@calibration_options
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
