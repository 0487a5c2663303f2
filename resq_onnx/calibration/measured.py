"""What the quantisation takes from the model in PyTorch, which is then let go."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from resq_onnx.calibration.corpus import FILE_SUFFIXES, PYTHON_DOCS, calibration_sequences
from resq_onnx.calibration.held_out import SEQUENCES, held_out_sequences, text_length
from resq_onnx.calibration.reference import Reference, load_tokenizer, text_opening
from resq_onnx.checkpoint.source import ModelSource
from resq_onnx.errors import ResqError
from resq_onnx.families import ModelLayout
from resq_onnx.progress import Report
from resq_onnx.projections.bases import Projections, compute_projections
from resq_onnx.projections.file import Calibration, load_calibration, stored_projections
from resq_onnx.projections.moments import Moments
from resq_onnx.projections.splits import down_split
from resq_onnx.recipe import Recipe
from resq_onnx.runtime.plain_graph import PlainGraph
from resq_onnx.tracing.traced_file import TracedFile

PARITY_SEQUENCES: Final = 2
PARITY_TOKENS: Final = 48
"""Text on which parity is measured: enough to leave the first tokens, cheap to decode."""


@dataclass(frozen=True)
class Measured:
    """Of one model, everything that only PyTorch could tell.

    Attributes:
        moments: Second moments of the activations; None if the recipe needs none.
        projections: The bases.
        token_ids: A short text, (PARITY_SEQUENCES, PARITY_TOKENS) unless a graph's sizes are fixed.
        logits: What PyTorch, or the file that is rewritten, makes of it.
        text: A longer one, (SEQUENCES, tokens), none of which the calibration has seen.
        reference: Whose logits they are, for messages.
        recipe: The recipe, with the calibration that took place: that of a projections file, and
            by its name alone, for a file that is passed on says nothing of this machine.
    """

    moments: Moments | None
    projections: Projections
    token_ids: NDArray[np.int64]
    logits: NDArray[np.float32]
    text: NDArray[np.int64]
    recipe: Recipe
    reference: str = "PyTorch"


def check_widths(recipe: Recipe, source: ModelSource) -> None:
    """Refuse a recipe whose parts do not divide the sizes of this model.

    Raises:
        ResqError: They do not.
    """
    recipe.split(source.layout.hidden_size, "the hidden size")
    recipe.table_split(source.layout.hidden_size)
    recipe.split(source.layout.head_dim, "the head size")
    down_split(recipe, source.layout.intermediate_size)


def measure(
    source: ModelSource, recipe: Recipe, saved: str | Path | None, report: Report
) -> Measured:
    """Load the model, calibrate it unless that was done before, and let it go.

    Args:
        source: The model.
        recipe: What is to be done to it.
        saved: A file of `calibrate`, to use instead of calibrating; None for none.
        report: Is told of progress.

    Raises:
        ResqError: PyTorch cannot load the model, or the file is of another one.
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
        report.step("Calibrating")
        moments = reference.moments(recipe, report.progress, report.warn).compact()
    if bases is None:
        bases = find_projections(reference, source.layout, recipe, moments, report)
    text = quality_text(reference.tokenizer, source.layout, calibrated, opening)
    del reference
    gc.collect()
    return Measured(moments, bases, token_ids, logits, text, _carried_out(recipe, calibrated))


def measure_graph(source: TracedFile, recipe: Recipe, calibration: Calibration) -> Measured:
    """What `measure` gives, for a graph that torch.onnx.export wrote: ONNX Runtime runs it.

    Raises:
        ResqError: The graph cannot be run, or the recipe asks for trained rotations that the
            calibration does not have.
    """
    tokenizer, graph = load_tokenizer(source), PlainGraph(source.path)
    opening = text_opening(tokenizer, source, recipe.bos)
    token_ids = parity_text(tokenizer, *graph.sizes(PARITY_SEQUENCES, PARITY_TOKENS), opening)
    bases = stored_projections(calibration, recipe, source.layout)
    if bases is None and recipe.trains:
        raise ResqError(
            "the projections file holds no rotations trained by this recipe; make it by "
            "resq-onnx calibrate with the same options"
        )
    calibrated = calibration.recipe_json
    return Measured(
        calibration.moments,
        bases or compute_projections(recipe, source.layout, calibration.moments),
        token_ids,
        graph.logits(token_ids),
        quality_text(tokenizer, source.layout, calibrated, opening),
        _carried_out(recipe, calibrated),
        reference=source.path.name,
    )


def check_calibrated(source: ModelSource, calibration: Calibration, saved: str | Path) -> None:
    """Refuse a projections file of another model.

    Raises:
        ResqError: It is one.
    """
    if calibration.model_hash != source.digest:
        raise ResqError(
            f"{saved}: made for another model; run resq-onnx calibrate {source.name} {saved}"
        )


def began(recipe: Recipe, opening: Sequence[int]) -> Recipe:
    """A recipe that says whether its calibration's sequences began with special tokens."""
    return dataclasses.replace(recipe, bos=bool(opening))


def parity_text(
    tokenizer: Any, samples: int, length: int, opening: Sequence[int]
) -> NDArray[np.int64]:
    """Token ids of ordinary text, (samples, length)."""
    return calibration_sequences(tokenizer, PYTHON_DOCS, samples, length, seed=0, opening=opening)


def quality_text(
    tokenizer: Any, layout: ModelLayout, calibrated: Mapping[str, Any], opening: Sequence[int]
) -> NDArray[np.int64]:
    """Token ids that a calibration by this recipe has not seen, (SEQUENCES, tokens)."""
    length = text_length(layout.vocab_size, layout.max_positions)
    return held_out_sequences(tokenizer, SEQUENCES, length, calibrated, opening)


def find_projections(
    reference: Reference,
    layout: ModelLayout,
    recipe: Recipe,
    moments: Moments | None,
    report: Report,
) -> Projections:
    """The bases by linear algebra, and trained if the recipe says so."""
    bases = compute_projections(recipe, layout, moments)
    if not recipe.trains:
        return bases
    report.step("Training the rotations")
    return reference.trained(recipe, bases, report.progress, report.warn)


def _carried_out(recipe: Recipe, calibrated: Mapping[str, Any]) -> Recipe:
    done = {name: calibrated[name] for name in ("calibration", "samples", "sequence_length")}
    done["bos"] = calibrated.get("bos", False)  # an older file's sequences began with their text
    if Path(done["calibration"]).suffix in FILE_SUFFIXES:
        done["calibration"] = Path(done["calibration"]).name
    return dataclasses.replace(recipe, **done)
