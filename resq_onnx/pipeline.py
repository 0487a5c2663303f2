"""export(), rewrite(), calibrate(): from a model to a quantised ONNX file. Start reading here.

export   open ─► calibrate ─► trace ─► lift ─┐
rewrite  read ─► name ─► lift ─► measure ────┴► finishing.finish
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir

from resq_onnx.calibration.distributed import is_main_process, share_of_this_process
from resq_onnx.calibration.known import began, check_calibrated
from resq_onnx.calibration.layer_pass import Texts
from resq_onnx.calibration.measured import (
    ReferenceMeasurements,
    check_layout,
    find_projections,
    measure,
    measure_graph,
    new_pass,
    run_pass,
)
from resq_onnx.calibration.recipe_text import calibration_text
from resq_onnx.calibration.reference import load_tokenizer, text_opening
from resq_onnx.calibration.run import CalibrationRun
from resq_onnx.calibration.threads import limited_threads
from resq_onnx.calibration.working import opened_work, torch_device
from resq_onnx.checkpoint.folder import check_folder, files_of
from resq_onnx.checkpoint.source import ModelSource, open_model
from resq_onnx.errors import ResqError
from resq_onnx.evaluation.layer_by_layer import LayerByLayer
from resq_onnx.files import refuse_overwriting, staged
from resq_onnx.finishing import finish
from resq_onnx.graph.files import data_files
from resq_onnx.handoff.output import check_output, staged_output
from resq_onnx.handoff.targets import DEFAULT as DEFAULT_TARGET
from resq_onnx.handoff.targets import target_named
from resq_onnx.passes import NameWeights, folding, lifting, refuse_other_attention
from resq_onnx.progress import Progress, progress_for
from resq_onnx.projections.file import load_calibration, save_calibration
from resq_onnx.recipe import Recipe
from resq_onnx.report.summary import Summary
from resq_onnx.resources import Resources
from resq_onnx.tracing.trace import trace, with_weights
from resq_onnx.tracing.traced_file import (
    ASKED,
    TracedFile,
    check_factors,
    check_lifted,
    read_traced,
)


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
    resources: Resources | None = None,
) -> Summary:
    """Quantise a model and write it as ONNX, in a folder with all that its runtime needs.

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
        resources: Device, memory and work folder.

    Returns:
        The files written, their size and their quality.

    Raises:
        ResqError: The input cannot be used, the target cannot read such a file, parity or a usable
            quality is not reached, or the output cannot be written.
    """
    runtime = target_named(target)
    recipe, resources = recipe or runtime.recipe(), resources or Resources()
    runtime.accept(recipe)
    check_output(out, save_rotated, Path(model), _inputs(model, recipe, projections))
    asked = (save_rotated, dump_passes, report, force, threads, progress)
    with limited_threads(threads), staged_output(out, runtime, *asked) as output:
        # 1. Check the inputs early. A .gguf file is unpacked first.
        output.progress.step("Reading the model")
        with open_model(model, recipe.max_length) as source:
            source.check(output.progress.warn)
            check_recipe(recipe, source)
            of_work = (Path(out), source, recipe, resources, output.progress, projections)
            with opened_work(*of_work) as work:
                # 2. Second moments, and from them the bases; one layer is in memory at a time. Then
                #    the weights are tuned, if all layers fit into memory.
                measured = measure(source, recipe, projections, work, output.progress, resources)
                # 3. The graph, without weights, with one operator per module.
                output.progress.step("Tracing the graph")
                graph = trace(source)
                device, tuned = torch_device(resources.device), _folded_tuned(graph, measured)
                output.passes.run(graph, lifting(source.layout))
                return finish(graph, measured, source, output, work, device, tuned)


def join_export(
    model: str | Path,
    out: str | Path,
    recipe: Recipe | None = None,
    *,
    target: str = DEFAULT_TARGET,
    projections: str | Path | None = None,
    threads: int | None = None,
    resources: Resources | None = None,
) -> None:
    """Do the share of a process of torchrun that is not the first, which calls `export`.

    It runs its share of the calibration sequences, and checks and quantises its share of the
    layers. Arguments and errors are those of `export`; the work folder is the same for all.
    """
    recipe, resources = recipe or target_named(target).recipe(), resources or Resources()
    silent = Progress()
    with (
        limited_threads(threads),
        open_model(model, recipe.max_length) as source,
        opened_work(Path(out), source, recipe, resources, silent, projections) as work,
    ):
        measured = measure(source, recipe, projections, work, silent, resources)
        graph = trace(source)
        tuned = _folded_tuned(graph, measured)
        _fold(graph, measured)
        share, device = share_of_this_process(), torch_device(resources.device)
        LayerByLayer(graph, source, measured, work, threads, share, device, tuned).finish_layers()
        share.wait()


def _fold(traced: ir.Model, measured: ReferenceMeasurements) -> None:
    """Lift a traced graph, and fold the bases into its weights."""
    layout = measured.layout
    for one in (*lifting(layout), *folding(layout, measured.recipe, measured.projections)):
        one(traced)


def _folded_tuned(traced: ir.Model, measured: ReferenceMeasurements) -> ir.Model | None:
    """The folded graph of the tuned model, if there is one, made from a copy of a traced graph."""
    if measured.tuned is None:
        return None
    tuned = with_weights(traced, measured.tuned)
    _fold(tuned, measured)
    return tuned


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
        digest, length = calibration.model_hash, recipe.max_length
        source = TracedFile(folder, str(folder), path, digest, max_length=length)
        check_factors(source)
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


def check_recipe(recipe: Recipe, source: ModelSource) -> None:
    """Reject a recipe that cannot be applied to this model.

    Raises:
        ResqError: The recipe does not fit the model.
    """
    check_layout(recipe, source)
    if recipe.form.uses_contrib:
        refuse_other_attention(source.layout)


def calibrate(
    model: str | Path,
    out: str | Path,
    recipe: Recipe | None = None,
    progress: Progress | bool | None = None,
    *,
    hessians: bool = False,
    threads: int | None = None,
    resources: Resources | None = None,
) -> Path | None:
    """Measure second moments, compute projections, and save both for `export`.

    Under `torchrun` every process measures its share of the text and the first one writes.

    Args:
        model: As for `export`.
        out: The file to write.
        recipe: Its method, bits, fractions, seed and calibration are used.
        progress: As for `export`.
        hessians: Whether the second moments of every layer are kept too, in which case GPTQ needs
            no second pass. The file then has 13 MB for a layer of SmolLM2-135M, and 500 MB for one
            of Llama-3-8B.
        threads: As for `export`.
        resources: As for `export`.

    Returns:
        The file written, or None in a process that is not the first.

    Raises:
        ResqError: The input cannot be used, or the output cannot be written.
    """
    recipe, progress = recipe or Recipe(), progress_for(progress)
    resources, out = resources or Resources(), Path(out)
    refuse_overwriting([out], _inputs(model, recipe))
    first = staged(out) if is_main_process() else nullcontext()
    progress.step("Reading the model")
    with limited_threads(threads), first as staging, open_model(model, recipe.max_length) as source:
        source.check(progress.warn)
        check_layout(recipe, source)
        tokenizer, layout = load_tokenizer(source), source.layout
        none = np.empty((0, 0), np.int64)
        with opened_work(out, source, recipe, resources, progress) as work:
            run = CalibrationRun(source, tokenizer, work, progress, resources)
            text = calibration_text(run, recipe)
            recipe = replace(recipe, calibration=text.spec)
            texts = Texts(text.token_ids, none, none)
            layer_pass = new_pass(run, texts, recipe.dtype_compute, fits=recipe.fits)
            run_pass(run, layer_pass)
            moments, sums = layer_pass.moments(), layer_pass.sums()
            assert sums is not None, "a calibration text has tokens"
            bases, recipe = find_projections(run, recipe, moments, sums, layer_pass)
            if staging is None:
                return None
            done = began(recipe, text_opening(tokenizer, source, recipe.bos))
            kept = moments if hessians else None
            save_calibration(staging.model, done, source.digest, layout, sums, bases, kept)
            staging.publish()
    return out


def _inputs(model: str | Path, recipe: Recipe, projections: str | Path | None = None) -> list[Path]:
    """All files that are read, including optional ones."""
    others = [Path(one) for one in (projections, recipe.calibration) if one is not None]
    return [*files_of(model), *others]
