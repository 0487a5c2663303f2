"""Calibrate a model in PyTorch: second moments, bases, and reference logits."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from resq_onnx.calibration.built_in import PYTHON_DOCS
from resq_onnx.calibration.corpus import calibration_sequences
from resq_onnx.calibration.distributed import share_of_this_process
from resq_onnx.calibration.fitted import fitted_bases
from resq_onnx.calibration.held_out import held_out_sequences, text_shape
from resq_onnx.calibration.known import (
    began,
    calibration_fields,
    carried_out,
    check_text,
    known_calibration,
)
from resq_onnx.calibration.layer_pass import LayerPass, Texts
from resq_onnx.calibration.layered import LayeredModel
from resq_onnx.calibration.memory import batch_within, check_room
from resq_onnx.calibration.recipe_text import calibration_text
from resq_onnx.calibration.reference import load_tokenizer, text_opening
from resq_onnx.calibration.run import CalibrationRun
from resq_onnx.calibration.trained import SAMPLES as TRAINED_SAMPLES
from resq_onnx.calibration.trained import TRAINING, trained_bases, without_training
from resq_onnx.calibration.training import check_attention
from resq_onnx.calibration.tuning_plan import carry_out, planned
from resq_onnx.checkpoint.source import ModelSource
from resq_onnx.errors import ResqError
from resq_onnx.families import ModelLayout
from resq_onnx.files.work_folder import WorkFolder
from resq_onnx.progress import Progress
from resq_onnx.projections.bases import Projections, compute_projections
from resq_onnx.projections.file import Calibration, differing_fields, stored_projections
from resq_onnx.projections.moments import SecondMoments
from resq_onnx.projections.splits import down_split, split_of, table_split
from resq_onnx.projections.sums import BasisSums
from resq_onnx.recipe import ComputeDtype, Recipe
from resq_onnx.resources import Resources
from resq_onnx.runtime.outputs import ModelOutputs
from resq_onnx.runtime.plain_graph import PlainGraph
from resq_onnx.tracing.traced_file import TracedFile

PARITY_SEQUENCES: Final = 2
PARITY_TOKENS: Final = 48
"""Size of the text on which parity is measured: long enough to go past the first tokens, cheap to
decode."""


@dataclass(frozen=True)
class ReferenceMeasurements:
    """Measurements of the original model: moments, bases, and float outputs on two texts.

    Attributes:
        layout: Of the model.
        moments: Second moments of the activations; None if the recipe needs none.
        sums: The sums of these; None if the recipe needs none.
        projections: The bases.
        token_ids: A short text, (PARITY_SEQUENCES, PARITY_TOKENS) unless a graph's sizes are fixed.
        logits: The logits of PyTorch, or of the graph that is rewritten, for these tokens.
        text: A longer text, of the shape of `text_shape`, which the calibration has not seen.
        recipe: The recipe, with the calibration that was actually used, such as that of a
            projections file. Its text is given by name only, so that a published file reveals no
            path of this machine.
        short: PyTorch's outputs on `token_ids`; None for a graph that is rewritten.
        long: PyTorch's outputs on `text`; None for a graph that is rewritten.
        reference: The source of the logits, for messages.
        tuned: The model whose layers' matrices are rounded; None for the original's.
    """

    layout: ModelLayout
    moments: SecondMoments | None
    sums: BasisSums | None
    projections: Projections
    token_ids: NDArray[np.int64]
    logits: NDArray[np.float32]
    text: NDArray[np.int64]
    recipe: Recipe
    short: ModelOutputs | None = None
    long: ModelOutputs | None = None
    reference: str = "PyTorch"
    tuned: ModelSource | None = None

    @property
    def stream_basis(self) -> NDArray[np.float64] | None:
        """U_A if the graph's residual stream is PyTorch's times U_A; None if they are equal."""
        turned = self.recipe.how.quantises and not self.layout.turns_inputs
        return self.projections.hidden if turned else None


def check_layout(recipe: Recipe, source: ModelSource) -> None:
    """Reject a recipe that does not suit the sizes or the attention of this model.

    Raises:
        ResqError: A size is not divisible into its parts, or the model cannot be trained.
    """
    split_of(recipe, source.layout.hidden_size, "the hidden size")
    table_split(recipe, source.layout.hidden_size)
    split_of(recipe, source.layout.head_dim, "the head size")
    down_split(recipe, source.layout.intermediate_size)
    if recipe.trains or recipe.must_tune:
        check_attention(source.layout)


def measure(
    source: ModelSource,
    recipe: Recipe,
    saved: str | Path | None,
    work: WorkFolder,
    progress: Progress,
    resources: Resources,
) -> ReferenceMeasurements:
    """Run the model layer by layer, and calibrate it unless that was done before.

    Args:
        source: The model.
        recipe: The settings.
        saved: A file of `calibrate`, to use instead of calibrating; None for none.
        work: Where finished layers are kept.
        progress: Receives progress updates.
        resources: What may be used.

    Raises:
        ResqError: PyTorch cannot load the model, or the file belongs to another model.
    """
    tokenizer, layout = load_tokenizer(source), source.layout
    run = CalibrationRun(source, tokenizer, work, progress, resources)
    opening = text_opening(tokenizer, source, recipe.bos)
    known, calibrated = known_calibration(source, began(recipe, opening), saved)
    bases = None if known is None else stored_projections(known, recipe, layout)
    fits = recipe.fits and bases is None
    lacks = known is None or fits or (known.moments is None and _needs_layers(recipe, bases))
    if recipe.trains and bases is None:
        check_text(recipe, calibrated, TRAINING, without_training(recipe))
    asked = dataclasses.replace(recipe, **calibration_fields(calibrated))
    calibration = np.empty((0, 0), np.int64)
    if recipe.needs_calibration and lacks:
        found = calibration_text(run, asked)
        calibration, calibrated["calibration"] = found.token_ids, found.spec
    text = quality_text(tokenizer, layout, calibrated, opening)
    token_ids = parity_text(tokenizer, PARITY_SEQUENCES, PARITY_TOKENS, opening)
    texts = Texts(calibration, token_ids, text)
    layer_pass = new_pass(run, texts, asked.dtype_compute, fits=fits)
    to_write = 0 if layer_pass.is_finished else layer_pass.bytes_to_write
    plan = planned(run, recipe, calibrated, to_write)
    recipe = dataclasses.replace(plan.recipe, calibration=calibrated["calibration"])
    run_pass(run, layer_pass)
    moments = layer_pass.moments() or (None if known is None else known.moments)
    sums = known.sums_for(layout) if known else layer_pass.sums()
    if bases is None:
        bases, recipe = find_projections(run, recipe, moments, sums, layer_pass)
    tuned, recipe = carry_out(plan, run, recipe, bases, moments)
    short, long = layer_pass.outputs()
    done = carried_out(recipe, calibrated)
    return ReferenceMeasurements(
        *(layout, moments, sums, bases, token_ids, short.logits, text, done, short, long),
        tuned=tuned,
    )


def new_pass(
    run: CalibrationRun, texts: Texts, dtype: ComputeDtype, *, fits: bool = False
) -> LayerPass:
    """A pass of texts through the layers, some of which may be finished in the work folder.

    Args:
        run: The calibration.
        texts: What is run.
        dtype: Type in which the calibration text is run.
        fits: Whether it keeps the rows to which rotations are fitted.

    Raises:
        ResqError: The memory does not suffice.
    """
    layout, length = run.source.layout, texts.calibration.shape[1]
    batch = batch_within(layout, length, run.resources.max_memory, fits=fits)
    return LayerPass(layout, run.work, texts, share_of_this_process(), batch, dtype, fits)


def run_pass(run: CalibrationRun, layer_pass: LayerPass) -> None:
    """Run the layers of a pass that are not finished.

    Raises:
        ResqError: The disk does not suffice, or as for `LayerPass.run`.
    """
    progress = run.progress
    if layer_pass.is_finished:
        progress.step("The float model has run already")
        return
    check_room(run.work.folder, layer_pass.bytes_to_write)
    done = layer_pass.finished
    what = "Calibrating" if layer_pass.tokens else "Running the float model"
    progress.step(f"{what}, from layer {done} on" if done else what)
    layer_pass.run(LayeredModel(run.source, run.device), progress.advance)


def measure_graph(
    source: TracedFile, recipe: Recipe, calibration: Calibration, threads: int | None = None
) -> ReferenceMeasurements:
    """Measure a graph that torch.onnx.export wrote, as `measure` does a model, in ONNX Runtime.

    Raises:
        ResqError: The graph cannot be run, or the recipe requires fitted or trained rotations that
            the calibration does not have.
    """
    tokenizer, graph = load_tokenizer(source), PlainGraph(source.path, threads)
    layout, needed = source.layout, recipe.needs_calibration
    opening = text_opening(tokenizer, source, recipe.bos)
    token_ids = parity_text(tokenizer, *graph.sizes(PARITY_SEQUENCES, PARITY_TOKENS), opening)
    bases = stored_projections(calibration, recipe, layout)
    if needed and calibration.moments is None and _needs_layers(recipe, bases):
        raise ResqError(
            "the projections file holds no second moments of the layers, which this recipe needs; "
            "make it by resq-onnx calibrate --hessians, or use --weights rtn"
        )
    recipe = dataclasses.replace(recipe, tuning_steps=0)  # a graph's weights stay
    if bases is None and recipe.trains:
        raise ResqError(
            "the projections file holds no rotations trained by this recipe; make it by "
            "resq-onnx calibrate with the same options"
        )
    if bases is None and recipe.fits:
        names = ", ".join(differing_fields(calibration, recipe))
        raise ResqError(
            f"the projections file's rotations were fitted with another {names}; use "
            "--rotations random, or make the file by resq-onnx calibrate with the same options"
        )
    calibrated, sums = calibration.recipe_json, calibration.sums_for(layout)
    return ReferenceMeasurements(
        layout,
        calibration.moments,
        sums,
        bases or compute_projections(recipe, layout, calibration.moments, sums),
        token_ids,
        graph.logits(token_ids),
        quality_text(tokenizer, layout, calibrated, opening),
        carried_out(recipe, calibrated),
        reference=source.path.name,
    )


def parity_text(
    tokenizer: Any, samples: int, length: int, opening: Sequence[int]
) -> NDArray[np.int64]:
    """Token ids of ordinary text, (samples, length)."""
    return calibration_sequences(tokenizer, PYTHON_DOCS, samples, length, seed=0, opening=opening)


def quality_text(
    tokenizer: Any,
    layout: ModelLayout,
    calibrated: Mapping[str, Any],
    opening: Sequence[int],
) -> NDArray[np.int64]:
    """Token ids of the shape of `text_shape` that a recipe's calibration has not seen.

    Nor has a training or a tuning on the same text, if there is one.
    """
    shape = text_shape(layout.max_positions)
    return held_out_sequences(tokenizer, *shape, calibrated, opening, TRAINED_SAMPLES)


def find_projections(
    run: CalibrationRun,
    recipe: Recipe,
    moments: SecondMoments | None,
    sums: BasisSums | None,
    layer_pass: LayerPass,
) -> tuple[Projections, Recipe]:
    """Compute the bases by linear algebra, and fit and train them if the recipe says so.

    Returns:
        The bases, and the recipe with the number of steps that trained them.

    Raises:
        ResqError: The recipe needs moments that are not there, or as for `trained_bases`.
    """
    bases = compute_projections(recipe, run.source.layout, moments, sums, run.device)
    if recipe.fits:
        bases = fitted_bases(run, recipe, bases, layer_pass)
    if recipe.trains:
        return trained_bases(run, recipe, bases)
    return bases, recipe


def _needs_layers(recipe: Recipe, bases: Projections | None) -> bool:
    """Whether a recipe needs the second moments of each layer, and not only their sums."""
    allocates = bases is None and recipe.target_bits is not None
    return recipe.weights == "gptq" or allocates
