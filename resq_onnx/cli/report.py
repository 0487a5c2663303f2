"""The command report: write an HTML page about an exported model."""

from __future__ import annotations

from pathlib import Path

import click

from resq_onnx.cli.console import print_line


@click.command(context_settings={"show_default": True})
@click.argument("model", metavar="FOLDER", type=click.Path(path_type=Path))
@click.option(
    "--evaluation",
    "evaluations",
    multiple=True,
    metavar="FILE.json",
    type=click.Path(path_type=Path),
    help="What `resq-onnx evaluate --json` printed; may be given several times.",
)
@click.option(
    "--benchmark",
    "benchmarks",
    multiple=True,
    metavar="FILE.json",
    type=click.Path(path_type=Path),
    help="What `resq-onnx bench --json` printed; may be given several times.",
)
@click.option(
    "--out",
    "target",
    type=click.Path(path_type=Path),
    metavar="FILE.html",
    help="Default: report.html beside the model.",
)
def report(
    model: Path,
    evaluations: tuple[Path, ...],
    benchmarks: tuple[Path, ...],
    target: Path | None,
) -> None:
    """Write one HTML page about an exported model, in one file that needs no network.

    FOLDER is one that export wrote, or the .onnx file in it.

    It shows the sizes, the bits of each part and the recipe, and from the resq.json beside the
    model the distribution of the activations' energy and the error after each layer.
    """
    from resq_onnx.files import find_model
    from resq_onnx.report import FILE_NAME, write_report

    model = find_model(model)
    target = target or model.parent / FILE_NAME
    write_report(model, target, evaluations, benchmarks)
    print_line(f"Wrote {target}")
