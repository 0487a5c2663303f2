"""The command rewrite: quantise a graph that torch.onnx.export wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from resq_onnx.cli.console import out, showing_progress
from resq_onnx.cli.options import (
    basis_options,
    length_option,
    output_options,
    quantising_options,
    quiet_option,
    threads_option,
)
from resq_onnx.cli.recipes import recipe_for, recipe_option
from resq_onnx.files.recipe_file import RecipeFile


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
@recipe_option
@basis_options
@quantising_options
@length_option
@output_options
@threads_option
@quiet_option
def rewrite(
    graph: Path,
    path: Path,
    projections: Path,
    model: Path | None,
    said: RecipeFile,
    target: str,
    save_rotated: Path | None,
    dump_passes: Path | None,
    report: bool,
    force: bool,
    threads: int | None,
    quiet: bool,
    **recipe: Any,
) -> None:
    """Quantise IN.onnx, which torch.onnx.export wrote in float32, and write OUT.onnx."""
    from resq_onnx.cli.printing import print_summary

    target, asked = recipe_for(said, recipe, target, path, calibrates=False, tunes=False)
    with showing_progress(quiet) as progress:
        from resq_onnx import pipeline

        summary = pipeline.rewrite(
            graph,
            path,
            projections,
            asked,
            model=model,
            target=target,
            save_rotated=save_rotated,
            dump_passes=dump_passes,
            report=report,
            force=force,
            threads=threads,
            progress=progress,
        )
    print_summary(out, summary)
