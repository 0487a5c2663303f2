"""The command calibrate: measure a model's activations once, for many exports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from resq_onnx.cli.console import print_line, showing_progress
from resq_onnx.cli.options import (
    basis_options,
    calibration_options,
    length_option,
    quiet_option,
    resource_options,
    resources_from,
    threads_option,
)
from resq_onnx.cli.recipes import calibration_for, recipe_option
from resq_onnx.files.recipe_file import RecipeFile


@click.command(context_settings={"show_default": True})
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("target", metavar="PROJECTIONS.safetensors", type=click.Path(path_type=Path))
@recipe_option
@basis_options
@calibration_options
@click.option(
    "--hessians",
    is_flag=True,
    help="Keep the second moments of every layer too: large, but GPTQ needs no second pass.",
)
@length_option
@resource_options
@threads_option
@quiet_option
def calibrate(
    model: Path,
    target: Path,
    said: RecipeFile,
    hessians: bool,
    threads: int | None,
    quiet: bool,
    **recipe: Any,
) -> None:
    """Measure MODEL's activations once; exports then reuse the file with --projections.

    Runs data-parallel under torchrun.
    """
    resources = resources_from(recipe)
    asked = calibration_for(said, recipe, target)
    with showing_progress(quiet) as progress:
        from resq_onnx import pipeline

        written = pipeline.calibrate(
            model,
            target,
            asked,
            progress,
            hessians=hessians,
            threads=threads,
            resources=resources,
        )
    if written is not None:
        size = written.stat().st_size / 1e6
        print_line(f"Wrote {written} ({size:.1f} MB)")
        print_line(f"Use it: resq-onnx export {model} OUT.onnx --projections {written}")
