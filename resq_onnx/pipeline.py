"""export(), rewrite(), calibrate(): from a model to a quantised ONNX file. Start reading here.

export   open ─► calibrate ─► trace ─► lift ─┐
rewrite  read ─► name ─► lift ─► measure ────┴► finish
finish   fold ─► float parity ─► quantise ─► write ─► decode parity ─► quality ─► companions
"""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path

import onnx_ir as ir

from resq_onnx.calibration.distributed import is_main_process
from resq_onnx.calibration.measured import (
    ReferenceMeasurements,
    began,
    check_calibrated,
    check_widths,
    find_projections,
    measure,
    measure_graph,
)
from resq_onnx.calibration.reference import Reference, write_tokenizer
from resq_onnx.calibration.threads import limited_threads
from resq_onnx.checkpoint.folder import check_folder, files_of
from resq_onnx.checkpoint.licence import copy_licence_files
from resq_onnx.checkpoint.source import ModelSource, open_model
from resq_onnx.errors import ResqError
from resq_onnx.evaluation.against_float import compare_with_float, observe
from resq_onnx.evaluation.float_model import check_float
from resq_onnx.evaluation.parity import check_decode_parity
from resq_onnx.evaluation.quality_gate import check_quality
from resq_onnx.files import Staging, refuse_overwriting, staged, writing_to
from resq_onnx.graph.files import data_files, save_model
from resq_onnx.graph.names import RECIPE_KEY
from resq_onnx.handoff.output import Output, check_output, staged_output
from resq_onnx.handoff.targets import DEFAULT as DEFAULT_TARGET
from resq_onnx.handoff.targets import target_named
from resq_onnx.passes import NameWeights, exporting, folding, lifting, refuse_other_attention
from resq_onnx.progress import Progress, progress_for
from resq_onnx.projections.file import load_calibration, save_calibration
from resq_onnx.projections.spectra import describe_spectra
from resq_onnx.recipe import Recipe
from resq_onnx.report import FILE_NAME as PAGE_NAME
from resq_onnx.report import write_report
from resq_onnx.report.card import write_card
from resq_onnx.report.summary import Summary, write_summary
from resq_onnx.runtime.decoder import Decoder
from resq_onnx.runtime.library import kernels_run
from resq_onnx.runtime.session import create_session
from resq_onnx.runtime.taps import open_tapped
from resq_onnx.tracing.trace import trace
from resq_onnx.tracing.traced_file import ASKED, TracedFile, check_lifted, read_traced


def export(
    model: str | Path,
    out: str | Path,
    recipe: Recipe | None = None,
    *,
    target: str = DEFAULT_TARGET,
    projections: str | Path | None = None,
    save_rotated: str | Path | None = None,
    dump_passes: str | Path | None = None,
    report: bool = False,
    force: bool = False,
    threads: int | None = None,
    progress: Progress | bool | None = None,
) -> Summary:
    """Quantise a model and write it as ONNX, in a folder that is ready for a runtime.

    Beside the model are its data, tokenizer, chat template, configuration, resq.json, a card, and
    any other file that the target needs.

    Args:
        model: A Hugging Face model directory with safetensors, or a .gguf file.
        out: The .onnx file to write. Nothing is written there unless everything succeeds.
        recipe: What to do; the target's default recipe if None.
        target: The runtime that the folder is for: a name in `resq_onnx.handoff.targets`.
        projections: A file of `calibrate` for this model, which is then not calibrated again.
        save_rotated: Also write the folded, not yet quantised float model to this file.
        dump_passes: Also write the graph after each pass, as text, into this folder.
        report: Also write report.html beside the model.
        force: Write the model even if the quality gate refuses it.
        threads: Of PyTorch, NumPy and ONNX Runtime; the last bits of results may depend on it.
        progress: True prints a line for each step on stderr, False logs warnings only; a Progress
            receives the updates. None is True in a notebook, in IPython and on a terminal.

    Returns:
        The files written, their size and their quality.

    Raises:
        ResqError: The input cannot be used, the target cannot read such a file, parity or a usable
            quality is not reached, or the output cannot be written.
    """
    runtime = target_named(target)
    recipe = recipe or runtime.recipe()
    runtime.accept(recipe)
    check_output(out, save_rotated, Path(model), _inputs(model, recipe, projections))
    asked = (save_rotated, dump_passes, report, force, threads, progress)
    with limited_threads(threads), staged_output(out, runtime, *asked) as output:
        # 1. Check the inputs early. A .gguf file is unpacked first.
        output.progress.step("Reading the model")
        with open_model(model) as source:
            source.check(output.progress.warn)
            check_recipe(recipe, source)

            # 2. Second moments, and from them the bases. PyTorch's model is gone afterwards.
            measured = measure(source, recipe, projections, output.progress)

            # 3. The graph, without weights, with one operator per module.
            output.progress.step("Tracing the graph")
            graph = trace(source)
            output.passes.run(graph, lifting(source.layout))
            return finish(graph, measured, source, output)


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
    report: bool = False,
    force: bool = False,
    threads: int | None = None,
    progress: Progress | bool | None = None,
) -> Summary:
    """Quantise a float32 graph from torch.onnx.export(..., dynamo=True), as `export` does a model.

    Args:
        graph: The .onnx file. Parameters have the names of the checkpoint, possibly prefixed by the
            name of a wrapping module.
        out: As for `export`.
        projections: A file that `calibrate` wrote for the same model.
        recipe: As for `export`.
        model: The directory with the model's config.json and tokenizer; the graph's own folder if
            None. If its weights are there too, the projections are checked against them.
        target: As for `export`.
        save_rotated: As for `export`.
        dump_passes: As for `export`.
        report: As for `export`.
        force: As for `export`.
        threads: As for `export`.
        progress: As for `export`.

    Raises:
        ResqError: As for `export`, or the graph is not as torch.onnx.export writes it.
    """
    runtime, path = target_named(target), Path(graph)
    recipe = recipe or runtime.recipe()
    runtime.accept(recipe)
    folder = Path(model) if model is not None else path.parent
    inputs = [path, *data_files(path), *_inputs(folder, recipe, projections)]
    check_output(out, save_rotated, folder, inputs)
    asked = (save_rotated, dump_passes, report, force, threads, progress)
    with limited_threads(threads), staged_output(out, runtime, *asked) as output:
        output.progress.step("Reading the graph")
        check_folder(folder)
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
        measured = measure_graph(source, recipe, calibration, threads)
        return finish(read, measured, source, output)


def finish(
    graph: ir.Model, measured: ReferenceMeasurements, source: ModelSource, output: Output
) -> Summary:
    """Fold, quantise and check a lifted graph, and publish its folder.

    Raises:
        ResqError: Parity was not reached, or the output cannot be written.
    """
    layout, bases, recipe = source.layout, measured.projections, measured.recipe
    staging, kept, passes, progress = output.staging, output.kept, output.passes, output.progress

    # 4. Fold the bases into the weights: the function stays the same, and is checked.
    passes.run(graph, folding(layout, recipe, bases))
    progress.step(f"Checking the float graph against {measured.reference}")
    rotated, floats = check_float(graph, measured, output)

    # 5. Quantise; weights are computed while they are written.
    passes.run(graph, exporting(layout, recipe, bases, measured.moments))
    graph.metadata_props[RECIPE_KEY] = json.dumps(recipe.to_json())
    progress.step("Quantising and writing")
    with writing_to(staging.target):
        save_model(graph, staging.model, progress.advance)

    # 6. The file as users will run it: cached decode against prefill.
    progress.step("Checking cached decode against prefill")
    kernels = kernels_run(recipe.dtype)
    decoder = Decoder(create_session(staging.model, output.threads, kernels=kernels))
    decoded = check_decode_parity(decoder, measured.token_ids, measured.logits)
    del decoder

    # 7. The cost of quantisation, in the predictions and after each layer.
    quality, spectra = None, None
    if recipe.how.quantises:
        progress.step("Comparing with the float model")
        tapped = open_tapped(staging.model, recipe.dtype, output.threads)
        with writing_to(staging.target):
            found = observe(tapped, measured.text, staging.folder)
        quality = compare_with_float(floats, found, measured.text)
        check_quality(quality, output.force, progress.warn)
        if measured.moments is not None:
            by_channel = recipe.how.basis == "channels"
            spectra = describe_spectra(layout, measured.moments, bases, by_channel)

    # 8. The files beside the model; then everything is published at once.
    parity = {"float": rotated, "decode": decoded}
    with writing_to(staging.target):
        _write_companions(source, staging)
        copy_licence_files(source.folder, staging, progress.warn)
        name = output.runtime.name
        summary = write_summary(staging, source, recipe, name, parity, quality, spectra)
        if output.report:
            write_report(staging.model, staging.folder / PAGE_NAME)
        output.runtime.write(staging.model, recipe)
        write_card(staging, output.runtime, progress.warn)
    if kept is not None:
        with writing_to(kept.target):
            _write_companions(source, kept)
        kept.publish()
    staging.publish()
    return summary


def _write_companions(source: ModelSource, staging: Staging) -> None:
    source.copy_companions(staging.folder)
    write_tokenizer(source, staging.folder)


def check_recipe(recipe: Recipe, source: ModelSource) -> None:
    """Reject a recipe that cannot be applied to this model.

    Raises:
        ResqError: The recipe does not fit the model.
    """
    check_widths(recipe, source)
    if recipe.form.uses_contrib:
        refuse_other_attention(source.layout)


def calibrate(
    model: str | Path,
    out: str | Path,
    recipe: Recipe | None = None,
    progress: Progress | bool | None = None,
    *,
    threads: int | None = None,
) -> Path | None:
    """Measure second moments, compute projections, and save both for `export`.

    Under `torchrun` every process measures its share of the text and the first one writes.

    Returns:
        The file written, or None in a process that is not the first.

    Raises:
        ResqError: The input cannot be used, or the output cannot be written.
    """
    recipe, progress = recipe or Recipe(), progress_for(progress)
    out = Path(out)
    refuse_overwriting([out], _inputs(model, recipe))
    staging_of_the_first = staged(out) if is_main_process() else nullcontext()
    progress.step("Reading the model")
    with (
        limited_threads(threads),
        staging_of_the_first as staging,
        open_model(model) as source,
    ):
        source.check(progress.warn)
        check_widths(recipe, source)
        reference = Reference(source)
        progress.step("Calibrating")
        moments = reference.moments(recipe, progress.advance, progress.warn).compact()
        if staging is None:
            return None
        bases = find_projections(reference, source.layout, recipe, moments, progress)
        done = began(recipe, reference.opening(recipe.bos))
        save_calibration(staging.model, done, source.digest, moments, bases)
        staging.publish()
    return out


def _inputs(model: str | Path, recipe: Recipe, projections: str | Path | None = None) -> list[Path]:
    """All files that are read, including optional ones."""
    others = [Path(one) for one in (projections, recipe.calibration) if one is not None]
    return [*files_of(model), *others]
