"""The command inspect: show the contents of an exported file."""

from __future__ import annotations

from pathlib import Path

import click

from resq_onnx.cli.console import out


@click.command()
@click.argument("model", metavar="FOLDER", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
def inspect(model: Path, as_json: bool) -> None:
    """Show how each part is quantised, its size, and the cache's bytes per token.

    FOLDER is one that export wrote, or the .onnx file in it.
    """
    from resq_onnx.cli.printing import print_inspection
    from resq_onnx.files import find_model
    from resq_onnx.graph.inspection import inspect_model

    print_inspection(out, inspect_model(find_model(model)), as_json)
