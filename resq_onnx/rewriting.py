"""rewrite(): from a float32 graph of torch.onnx.export's to a quantised ONNX file.

read ─► name ─► lift ─► measure ─► as every export goes on (pipeline.py)
"""

from __future__ import annotations

from pathlib import Path

from resq_onnx.calibration.measured import check_calibrated, measure_graph
from resq_onnx.errors import ResqError
from resq_onnx.handoff.output import staged_output
from resq_onnx.handoff.targets import DEFAULT as DEFAULT_TARGET
from resq_onnx.handoff.targets import target_named
from resq_onnx.passes import NameWeights, lifting
from resq_onnx.pipeline import check_recipe, finish
from resq_onnx.progress import Report
from resq_onnx.projections.file import load_calibration
from resq_onnx.recipe import Recipe
from resq_onnx.report.summary import Summary
from resq_onnx.tracing.traced_file import ASKED, TracedFile, check_lifted, read_traced


def rewrite(
    graph: str | Path,
    out: str | Path,
    projections: str | Path,
    recipe: Recipe | None = None,
    *,
    model: str | Path | None = None,
    target: str = DEFAULT_TARGET,
    save_rotated: str | Path | None = None,
    dump_passes: str | Path | None = None,
    page: bool = False,
    report: Report | None = None,
) -> Summary:
    """As `export`, of a float32 graph that torch.onnx.export(..., dynamo=True) wrote.

    Args:
        graph: The .onnx file. Parameters have the names of the checkpoint, perhaps behind that of
            a module the model was wrapped in.
        out: As for `export`.
        projections: A file that `calibrate` wrote for the same model.
        recipe: As for `export`.
        model: The directory with the model's config.json and tokenizer; the graph's own folder if
            None. If its weights are there too, the projections are checked to be theirs.
        target: As for `export`.
        save_rotated: As for `export`.
        dump_passes: As for `export`.
        page: As for `export`.
        report: As for `export`.

    Raises:
        ResqError: As for `export`, or the graph is not as torch.onnx.export writes it.
    """
    runtime, path = target_named(target), Path(graph)
    recipe = recipe or runtime.recipe()
    runtime.accept(recipe)
    if path.resolve() == Path(out).resolve():
        raise ResqError(f"{out}: is the file to rewrite; name another one for the result")
    with staged_output(out, runtime, save_rotated, dump_passes, page, report) as output:
        output.report.step("Reading the graph")
        folder = Path(model) if model is not None else path.parent
        calibration = load_calibration(projections)
        source = TracedFile(folder, str(folder), path, calibration.model_hash)
        check_calibrated(source, calibration, projections)
        check_recipe(recipe, source)
        read = read_traced(source)
        try:
            output.passes.run(read, [NameWeights(source.layout), *lifting(source.layout)])
        except ValueError as error:
            raise ResqError(f"{path}: not as expected: {error}; {ASKED}") from error
        check_lifted(read, path)
        measured = measure_graph(source, recipe, calibration)
        return finish(read, measured, source, output)
