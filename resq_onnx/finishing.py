"""finish(): from a lifted float graph to the folder that is published.

fold ─► float parity and quantisation, layer by layer ─► write ─► decode parity ─► quality ─►
companions
"""

from __future__ import annotations

import json

import onnx_ir as ir

from resq_onnx.calibration.distributed import share_of_this_process
from resq_onnx.calibration.heap import give_back
from resq_onnx.calibration.measured import ReferenceMeasurements
from resq_onnx.calibration.reference import write_tokenizer
from resq_onnx.checkpoint.licence import copy_licence_files
from resq_onnx.checkpoint.source import ModelSource
from resq_onnx.evaluation.against_float import Quality, compare_with_float, observations
from resq_onnx.evaluation.distance import Distance
from resq_onnx.evaluation.float_model import WHOLE_BYTES, check_float
from resq_onnx.evaluation.layer_by_layer import LayerByLayer
from resq_onnx.evaluation.parity import check_decode_parity
from resq_onnx.evaluation.quality_gate import check_quality
from resq_onnx.files import Staging, writing_to
from resq_onnx.files.work_folder import WorkFolder
from resq_onnx.graph.files import save_model
from resq_onnx.graph.names import RECIPE_KEY
from resq_onnx.handoff.output import Output
from resq_onnx.passes import Statistics, exporting, folding
from resq_onnx.projections.spectra import describe_spectra
from resq_onnx.report import FILE_NAME as PAGE_NAME
from resq_onnx.report import write_report
from resq_onnx.report.card import write_card
from resq_onnx.report.summary import Summary, write_summary
from resq_onnx.runtime.decoder import Decoder
from resq_onnx.runtime.library import kernels_run
from resq_onnx.runtime.outputs import ModelOutputs
from resq_onnx.runtime.session import create_session
from resq_onnx.runtime.taps import open_tapped


def finish(
    graph: ir.Model,
    measured: ReferenceMeasurements,
    source: ModelSource,
    output: Output,
    work: WorkFolder | None = None,
    device: str = "cpu",
    tuned: ir.Model | None = None,
) -> Summary:
    """Fold, quantise and check a lifted graph, and publish its folder.

    Args:
        graph: The graph.
        measured: What is known of the float model.
        source: The model.
        output: Where it goes.
        work: Where finished layers are kept; None for a graph whose float outputs PyTorch has not
            computed.
        device: Where PyTorch quantises, by its name in PyTorch.
        tuned: The folded graph of the tuned model, whose layers' matrices are then rounded.

    Raises:
        ResqError: Parity was not reached, or the output cannot be written.
    """
    layout, bases, recipe = source.layout, measured.projections, measured.recipe
    staging, passes, progress = output.staging, output.passes, output.progress

    # 4. Fold the bases into the weights: the function stays the same, and is checked. The layers
    # are quantised on the way, unless their weights are computed when the file is written.
    passes.run(graph, folding(layout, recipe, bases))
    asked = (source, output, work, device, tuned)
    rotated, floats, statistics = _check_floats(graph, measured, *asked)

    # 5. Quantise, and write.
    passes.run(graph, exporting(layout, recipe, bases, statistics))
    graph.metadata_props[RECIPE_KEY] = json.dumps(recipe.to_json())
    give_back()
    progress.step("Writing")
    with writing_to(staging.target):
        save_model(graph, staging.model, progress.advance)

    # 6. The file as users will run it, against itself and against the float model.
    decoded, quality = _check_file(measured, output, floats)
    spectra = None
    if quality is not None and measured.sums is not None:
        spectra = describe_spectra(measured.sums, bases, recipe.how.basis == "channels")

    # 7. The files beside the model; then everything is published at once.
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
    _publish(source, output)
    return summary


def _check_floats(
    graph: ir.Model,
    measured: ReferenceMeasurements,
    source: ModelSource,
    output: Output,
    work: WorkFolder | None,
    device: str,
    tuned: ir.Model | None,
) -> tuple[Distance, ModelOutputs, Statistics]:
    """Check the folded graph; returns its distance, the float outputs, and what quantises it."""
    progress, long = output.progress, measured.long
    whole = f"Checking the float graph against {measured.reference}"
    if work is None or long is None:
        progress.step(whole)
        distance, floats = check_float(graph, measured, output)
        assert floats is not None, "the whole graph was observed"
        statistics = Statistics(measured.moments, measured.sums, device=device)
        return distance, floats, statistics
    # The layers first: an error is then reported with the layer, and the weight.
    progress.step(
        "Checking and quantising the layers"
        if measured.recipe.how.quantises
        else "Checking the layers"
    )
    share, threads = share_of_this_process(), output.threads
    layers = LayerByLayer(graph, source, measured, work, threads, share, device, tuned)
    distance = layers.run(progress.advance)
    if output.kept is not None or source.float32_bytes <= WHOLE_BYTES:
        progress.step(whole)
        distance, _ = check_float(graph, measured, output)
    statistics = Statistics(sums=measured.sums, matrices=layers.matrix, device=device)
    return distance, long, statistics


def _check_file(
    measured: ReferenceMeasurements, output: Output, floats: ModelOutputs
) -> tuple[Distance, Quality | None]:
    """Compare cached decode with prefill, and the quantised model with the float one."""
    recipe, path, progress = measured.recipe, output.staging.model, output.progress
    progress.step("Checking cached decode against prefill")
    kernels = kernels_run(recipe.dtype)
    decoder = Decoder(create_session(path, output.threads, kernels=kernels))
    decoded = check_decode_parity(decoder, measured.token_ids, measured.logits)
    del decoder
    if not recipe.how.quantises:
        return decoded, None
    give_back()
    progress.step("Comparing with the float model")
    tapped = open_tapped(path, recipe.dtype, output.threads)
    basis = None if measured.long is None else measured.stream_basis
    found = observations(tapped, measured.text)
    quality = compare_with_float(floats, found, measured.text, basis)
    check_quality(quality, recipe, output.force, progress.warn)
    return decoded, quality


def _publish(source: ModelSource, output: Output) -> None:
    kept = output.kept
    if kept is not None:
        with writing_to(kept.target):
            _write_companions(source, kept)
        kept.publish()
    output.staging.publish()


def _write_companions(source: ModelSource, staging: Staging) -> None:
    source.copy_companions(staging.folder)
    write_tokenizer(source, staging.folder)
