"""Calibrate a model in PyTorch: second moments, bases, and reference logits."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from resq_onnx.calibration.corpus import calibration_sequences
from resq_onnx.calibration.held_out import held_out_sequences, text_shape
from resq_onnx.calibration.reference import Reference, load_tokenizer, text_opening
from resq_onnx.calibration.texts import FILE_SUFFIXES, PYTHON_DOCS
from resq_onnx.checkpoint.source import ModelSource
from resq_onnx.errors import ResqError
from resq_onnx.families import ModelLayout
from resq_onnx.progress import Progress
from resq_onnx.projections.bases import Projections, compute_projections
from resq_onnx.projections.file import Calibration, load_calibration, stored_projections
from resq_onnx.projections.moments import Moments
from resq_onnx.projections.splits import down_split, split_of, table_split
from resq_onnx.recipe import Recipe
from resq_onnx.runtime.plain_graph import PlainGraph
from resq_onnx.tracing.traced_file import TracedFile

PARITY_SEQUENCES: Final = 2
PARITY_TOKENS: Final = 48
"""Size of the text on which parity is measured: long enough to go past the first tokens, cheap to
decode."""


@dataclass(frozen=True)
class ReferenceMeasurements:
    """Measurements of the original model: moments, bases, and reference logits on two texts.

    Attributes:
        moments: Second moments of the activations; None if the recipe needs none.
        projections: The bases.
        token_ids: A short text, (PARITY_SEQUENCES, PARITY_TOKENS) unless a graph's sizes are fixed.
        logits: The logits of PyTorch, or of the graph that is rewritten, for these tokens.
        text: A longer text, of the shape of `text_shape`, which the calibration has not seen.
        reference: The source of the logits, for messages.
        recipe: The recipe, with the calibration that was actually used, such as that of a
            projections file. Its text is given by name only, so that a published file reveals no
            path of this machine.
    """

    moments: Moments | None
    projections: Projections
    token_ids: NDArray[np.int64]
    logits: NDArray[np.float32]
    text: NDArray[np.int64]
    recipe: Recipe
    reference: str = "PyTorch"


def check_widths(recipe: Recipe, source: ModelSource) -> None:
    """Reject a recipe whose parts do not divide the sizes of this model.

    Raises:
        ResqError: A size is not divisible.
    """
    split_of(recipe, source.layout.hidden_size, "the hidden size")
    table_split(recipe, source.layout.hidden_size)
    split_of(recipe, source.layout.head_dim, "the head size")
    down_split(recipe, source.layout.intermediate_size)


def measure(
    source: ModelSource, recipe: Recipe, saved: str | Path | None, progress: Progress
) -> ReferenceMeasurements:
    """Load the model, calibrate it unless that was done before, and free it.

    Args:
        source: The model.
        recipe: The settings.
        saved: A file of `calibrate`, to use instead of calibrating; None for none.
        progress: Receives progress updates.

    Raises:
        ResqError: PyTorch cannot load the model, or the file belongs to another model.
    """
    reference = Reference(source)
    opening = reference.opening(recipe.bos)
    token_ids = parity_text(reference.tokenizer, PARITY_SEQUENCES, PARITY_TOKENS, opening)
    logits = reference.logits(token_ids)
    moments, bases, calibrated = None, None, began(recipe, opening).to_json()
    if saved is not None:
        calibration = load_calibration(saved)
        check_calibrated(source, calibration, saved)
        moments, bases = calibration.moments, stored_projections(calibration, recipe, source.layout)
        calibrated = calibration.recipe_json
    elif recipe.needs_calibration:
        progress.step("Calibrating")
        moments = reference.moments(recipe, progress.advance, progress.warn).compact()
    if bases is None:
        bases = find_projections(reference, source.layout, recipe, moments, progress)
    text = quality_text(reference.tokenizer, source.layout, calibrated, opening)
    del reference
    gc.collect()
    return ReferenceMeasurements(
        moments, bases, token_ids, logits, text, _carried_out(recipe, calibrated)
    )


def measure_graph(
    source: TracedFile, recipe: Recipe, calibration: Calibration, threads: int | None = None
) -> ReferenceMeasurements:
    """Measure a graph that torch.onnx.export wrote, as `measure` does a model, in ONNX Runtime.

    Raises:
        ResqError: The graph cannot be run, or the recipe requires trained rotations that the
            calibration does not have.
    """
    tokenizer, graph = load_tokenizer(source), PlainGraph(source.path, threads)
    opening = text_opening(tokenizer, source, recipe.bos)
    token_ids = parity_text(tokenizer, *graph.sizes(PARITY_SEQUENCES, PARITY_TOKENS), opening)
    bases = stored_projections(calibration, recipe, source.layout)
    if bases is None and recipe.trains:
        raise ResqError(
            "the projections file holds no rotations trained by this recipe; make it by "
            "resq-onnx calibrate with the same options"
        )
    calibrated = calibration.recipe_json
    return ReferenceMeasurements(
        calibration.moments,
        bases or compute_projections(recipe, source.layout, calibration.moments),
        token_ids,
        graph.logits(token_ids),
        quality_text(tokenizer, source.layout, calibrated, opening),
        _carried_out(recipe, calibrated),
        reference=source.path.name,
    )


def check_calibrated(source: ModelSource, calibration: Calibration, saved: str | Path) -> None:
    """Reject a projections file of another model.

    Raises:
        ResqError: The file belongs to another model.
    """
    if calibration.model_hash != source.digest:
        others = "" if source.layout.longrope is None else ", or for other RoPE factors"
        length = "" if source.max_length is None else f" --max-length {source.max_length}"
        raise ResqError(
            f"{saved}: made for another model{others}; run resq-onnx calibrate {source.name} "
            f"{saved}{length}"
        )


def began(recipe: Recipe, opening: Sequence[int]) -> Recipe:
    """The recipe, with `bos` set if its calibration's sequences began with special tokens."""
    return dataclasses.replace(recipe, bos=bool(opening))


def parity_text(
    tokenizer: Any, samples: int, length: int, opening: Sequence[int]
) -> NDArray[np.int64]:
    """Token ids of ordinary text, (samples, length)."""
    return calibration_sequences(tokenizer, PYTHON_DOCS, samples, length, seed=0, opening=opening)


def quality_text(
    tokenizer: Any, layout: ModelLayout, calibrated: Mapping[str, Any], opening: Sequence[int]
) -> NDArray[np.int64]:
    """Token ids that this recipe's calibration has not seen, of the shape of `text_shape`."""
    shape = text_shape(layout.max_positions)
    return held_out_sequences(tokenizer, *shape, calibrated, opening)


def find_projections(
    reference: Reference,
    layout: ModelLayout,
    recipe: Recipe,
    moments: Moments | None,
    progress: Progress,
) -> Projections:
    """Compute the bases by linear algebra, and train them if the recipe says so."""
    bases = compute_projections(recipe, layout, moments)
    if not recipe.trains:
        return bases
    progress.step("Training the rotations")
    return reference.trained(recipe, bases, progress.advance, progress.warn)


def _carried_out(recipe: Recipe, calibrated: Mapping[str, Any]) -> Recipe:
    done = {name: calibrated[name] for name in ("calibration", "samples", "sequence_length")}
    done["bos"] = calibrated.get("bos", False)  # older files: no special tokens
    if Path(done["calibration"]).suffix in FILE_SUFFIXES:
        done["calibration"] = Path(done["calibration"]).name
    return dataclasses.replace(recipe, **done)
