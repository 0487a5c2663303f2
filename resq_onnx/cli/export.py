"""The command export: quantise a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from resq_onnx.cli.console import out, showing_progress
from resq_onnx.cli.options import (
    basis_options,
    calibration_options,
    length_option,
    output_options,
    quantising_options,
    quiet_option,
    resource_options,
    resources_from,
    threads_option,
    tuning_options,
)
from resq_onnx.cli.recipes import recipe_for, recipe_option
from resq_onnx.files.recipe_file import RecipeFile


@click.command(context_settings={"show_default": True})
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("path", metavar="OUT.onnx", type=click.Path(path_type=Path))
@recipe_option
@basis_options
@calibration_options
@quantising_options
@tuning_options
@length_option
@click.option(
    "--projections",
    type=click.Path(path_type=Path),
    help="Use this file of `resq-onnx calibrate` instead of calibrating.",
)
@output_options
@resource_options
@threads_option
@quiet_option
def export(
    model: Path,
    path: Path,
    said: RecipeFile,
    target: str,
    projections: Path | None,
    save_rotated: Path | None,
    dump_passes: Path | None,
    report: bool,
    force: bool,
    threads: int | None,
    quiet: bool,
    **recipe: Any,
) -> None:
    """Quantise MODEL, a Hugging Face directory or a .gguf file, and write OUT.onnx.

    Under torchrun, processes share out the calibration text and the layers.
    """
    from resq_onnx.cli.printing import print_summary

    resources = resources_from(recipe)
    target, asked = recipe_for(said, recipe, target, path, calibrates=projections is None)
    with showing_progress(quiet) as progress:
        from resq_onnx import pipeline
        from resq_onnx.calibration.distributed import is_main_process

        shared: dict[str, Any] = {
            "target": target,
            "projections": projections,
            "threads": threads,
            "resources": resources,
        }
        if not is_main_process():
            pipeline.join_export(model, path, asked, **shared)
            return
        summary = pipeline.export(
            model,
            path,
            asked,
            **shared,
            save_rotated=save_rotated,
            dump_passes=dump_passes,
            report=report,
            force=force,
            progress=progress,
        )
    print_summary(out, summary)
