"""export(): from a model directory to a quantised ONNX file. Start reading here.

open ─► calibrate ─► trace ─► lift ─► fold ─► float parity ─► quantise ─► write ─► decode parity
─► quality
"""

from __future__ import annotations

import gc
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import InlinePass

from resq_onnx.calibration.distributed import is_main_process
from resq_onnx.errors import ResqError
from resq_onnx.evaluation.against_float import (
    SEQUENCES,
    Observed,
    compare_with_float,
    observe,
    text_length,
)
from resq_onnx.evaluation.parity import Agreement, check_decode_parity, check_float_parity
from resq_onnx.graph import RECIPE_KEY
from resq_onnx.moments import Moments
from resq_onnx.passes import CleanUp, KeepLastLogits, folding, lifting, quantising
from resq_onnx.projections import Projections, compute_projections
from resq_onnx.projections_file import load_calibration, save_calibration, stored_projections
from resq_onnx.recipe import Recipe
from resq_onnx.reference import Reference
from resq_onnx.report import FILE_NAME as PAGE_NAME
from resq_onnx.report import write_report
from resq_onnx.reporting import Report
from resq_onnx.runtime.session import Decoder, create_session, kernels_are_built
from resq_onnx.runtime.taps import TappedDecoder, tapped_session
from resq_onnx.source import ModelSource, open_model
from resq_onnx.spectra import describe_spectra
from resq_onnx.staging import Staging, staged, writing_to
from resq_onnx.summary import Summary, write_summary
from resq_onnx.tracing import trace
from resq_onnx.writing import save_model

PARITY_SEQUENCES: Final = 2
PARITY_TOKENS: Final = 48
"""Text on which parity is measured: enough to leave the first tokens, cheap to decode."""


@dataclass(frozen=True)
class _Calibrated:
    """What the quantisation takes from the model in PyTorch."""

    moments: Moments | None
    projections: Projections
    token_ids: NDArray[np.int64]  # (PARITY_SEQUENCES, PARITY_TOKENS)
    logits: NDArray[np.float32]  # of token_ids
    text: NDArray[np.int64]  # (SEQUENCES, tokens), none of which the calibration has seen


def export(
    model: str | Path,
    out: str | Path,
    recipe: Recipe | None = None,
    *,
    projections: str | Path | None = None,
    save_rotated: str | Path | None = None,
    dump_passes: str | Path | None = None,
    page: bool = False,
    report: Report | None = None,
) -> Summary:
    """Quantise a model and write it as ONNX, with its data, tokenizer and resq.json beside it.

    Args:
        model: A Hugging Face model directory with safetensors, or a .gguf file.
        out: The .onnx file to write. Nothing appears there unless everything succeeded.
        recipe: What to do; the default recipe if None.
        projections: A file that `calibrate` wrote for this model: the model is then not
            calibrated again.
        save_rotated: Also write the folded, not yet quantised float model to this file.
        dump_passes: Also write the graph after each pass, as text, into this folder.
        page: Also write report.html beside the model.
        report: Is told of progress.

    Returns:
        What was written, how large, how good.

    Raises:
        ResqError: The input cannot be used, parity was not reached, or the output cannot be
            written.
    """
    recipe, report = recipe or Recipe(), report or Report()
    passes = _PassRunner(Path(dump_passes) if dump_passes else None)
    with (
        staged(out) as staging,
        _staged_float(save_rotated, out) as kept,
        open_model(model) as source,
    ):
        # 1. Refuse early what cannot work.
        report.step("Reading the model")
        source.check()
        _check_widths(recipe, source)

        # 2. Second moments, and from them the bases. PyTorch's model is gone afterwards.
        calibrated = _calibrate(source, recipe, projections, report)
        bases = calibrated.projections

        # 3. The graph, without weights, with one operator per module.
        report.step("Tracing the graph")
        graph = trace(source)
        passes.run(graph, lifting(source.layout))

        # 4. Fold the bases into the weights: the function stays the same, and is checked.
        if recipe.method != "none":
            passes.run(graph, folding(source.layout, recipe, bases))
        report.step("Checking the float graph against PyTorch")
        rotated, floats = _check_float(graph, calibrated, staging, kept)

        # 5. Quantise; weights are computed while they are written.
        if recipe.logits == "last":
            passes.run(graph, [KeepLastLogits(source.layout)])
        if recipe.method != "none":
            passes.run(graph, quantising(source.layout, recipe, bases, calibrated.moments))
        if recipe.format == "qdq":
            passes.run(graph, [InlinePass()])
        passes.run(graph, [CleanUp()])
        graph.metadata_props[RECIPE_KEY] = json.dumps(recipe.to_json())
        report.step("Quantising and writing")
        with writing_to(staging.target):
            save_model(graph, staging.model, report.progress)

        # 6. The file as users will run it: cached decode against prefill.
        report.step("Checking cached decode against prefill")
        decoder = Decoder(create_session(staging.model, kernels=kernels_are_built()))
        decoded = check_decode_parity(decoder, calibrated.token_ids, calibrated.logits)
        del decoder

        # 7. What quantisation cost, in the predictions and after each layer.
        quality, spectra = None, None
        if recipe.method != "none":
            report.step("Comparing with the float model")
            found = observe(_open_tapped(staging.model), calibrated.text)
            quality = compare_with_float(floats, found, calibrated.text)
            if calibrated.moments is not None:
                spectra = describe_spectra(calibrated.moments, bases, recipe.method == "outlier")

        # 8. What belongs beside the model; then everything appears at once.
        source.copy_companions(staging.folder)
        parity = {"float": rotated, "decode": decoded}
        summary = write_summary(staging, source, recipe, parity, quality, spectra)
        if page:
            write_report(staging.model, staging.folder / PAGE_NAME)
        if kept is not None:
            source.copy_companions(kept.folder)
            kept.publish()
        staging.publish()
    return summary


def calibrate(
    model: str | Path,
    out: str | Path,
    recipe: Recipe | None = None,
    report: Report | None = None,
) -> Path | None:
    """Measure second moments, compute projections, and save both for `export`.

    Under `torchrun` every process measures its share of the text and the first one writes.

    Returns:
        The file written, or None in a process that is not the first.

    Raises:
        ResqError: The input cannot be used, or the output cannot be written.
    """
    recipe, report = recipe or Recipe(), report or Report()
    with staged(out) as staging, open_model(model) as source:
        report.step("Reading the model")
        source.check()
        _check_widths(recipe, source)
        reference = Reference(source)
        report.step("Calibrating")
        moments = reference.moments(recipe, report.progress, report.warn).compact()
        if not is_main_process():
            return None
        bases = _bases(reference, source, recipe, moments, report)
        save_calibration(staging.model, recipe, source.digest, moments, bases)
        staging.publish()
    return Path(out)


def _check_widths(recipe: Recipe, source: ModelSource) -> None:
    recipe.split(source.layout.hidden_size, "the hidden size")
    recipe.table_split(source.layout.hidden_size)
    recipe.split(source.layout.head_dim, "the head size")
    recipe.down_split(source.layout.intermediate_size)


def _calibrate(
    source: ModelSource, recipe: Recipe, saved: str | Path | None, report: Report
) -> _Calibrated:
    reference = Reference(source)
    token_ids = reference.text(PARITY_SEQUENCES, PARITY_TOKENS)
    logits = reference.logits(token_ids)
    moments, bases, calibrated = None, None, recipe.to_json()
    if saved is not None:
        calibration = load_calibration(saved)
        if calibration.model_hash != source.digest:
            raise ResqError(
                f"{saved}: made for another model; run resq-onnx calibrate {source.name} {saved}"
            )
        moments, bases = calibration.moments, stored_projections(calibration, recipe, source.layout)
        calibrated = calibration.recipe_json
    elif recipe.needs_calibration:
        report.step("Calibrating")
        moments = reference.moments(recipe, report.progress, report.warn).compact()
    if bases is None:
        bases = _bases(reference, source, recipe, moments, report)
    length = text_length(source.layout.vocab_size, source.layout.max_positions)
    text = reference.held_out_text(SEQUENCES, length, calibrated)
    del reference
    gc.collect()
    return _Calibrated(moments, bases, token_ids, logits, text)


def _bases(
    reference: Reference,
    source: ModelSource,
    recipe: Recipe,
    moments: Moments | None,
    report: Report,
) -> Projections:
    """The projections by linear algebra, and trained if the recipe says so."""
    bases = compute_projections(recipe, source.layout, moments)
    if not recipe.trains:
        return bases
    report.step("Training the rotations")
    return reference.trained(recipe, bases, report.progress, report.warn)


@contextmanager
def _staged_float(target: str | Path | None, out: str | Path) -> Iterator[Staging | None]:
    """Stage the float model too, if it is asked for: both appear in the end, or neither."""
    if target is None:
        yield None
        return
    if Path(target).absolute() == Path(out).absolute():
        raise ResqError(f"{target}: is to hold both models; name another file for --save-rotated")
    with staged(target) as staging:
        yield staging


def _check_float(
    graph: ir.Model, calibrated: _Calibrated, staging: Staging, kept: Staging | None
) -> tuple[Agreement, Observed]:
    """Write the float model, to where it is kept or for the moment, and compare its logits.

    Returns:
        How near they are to PyTorch's, and what the float model makes of the text on which it is
        to be compared with the quantised one.
    """
    with tempfile.TemporaryDirectory(dir=staging.folder) as scratch:
        target, path = staging.target, Path(scratch) / "float.onnx"
        if kept is not None:
            target, path = kept.target, kept.model
        with writing_to(target):
            save_model(graph, path)
        tapped = _open_tapped(path)
        found, _ = tapped.decoder.run(calibrated.token_ids)
        agreement = check_float_parity(calibrated.logits, found, calibrated.token_ids)
        return agreement, observe(tapped, calibrated.text)


def _open_tapped(path: Path) -> TappedDecoder:
    return TappedDecoder(tapped_session(path, kernels=kernels_are_built()))


class _PassRunner:
    """Runs passes one by one, and writes the graph after each if asked to."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._count = 0
        if folder is not None:
            with writing_to(folder):
                folder.mkdir(parents=True, exist_ok=True)

    def run(self, graph: ir.Model, passes: list[ir.passes.PassBase]) -> None:
        for one in passes:
            one(graph)
            self._count += 1
            if self._folder is not None:
                file = self._folder / f"{self._count:02}_{type(one).__name__}.txt"
                with writing_to(file):
                    file.write_text(str(graph.graph))
