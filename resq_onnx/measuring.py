"""What the quantisation takes from the model in PyTorch, which is then let go."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from resq_onnx.calibration.corpus import FILE_SUFFIXES
from resq_onnx.errors import ResqError
from resq_onnx.evaluation.against_float import SEQUENCES, text_length
from resq_onnx.families import ModelLayout
from resq_onnx.moments import Moments
from resq_onnx.projections import Projections, compute_projections
from resq_onnx.projections_file import load_calibration, stored_projections
from resq_onnx.recipe import Recipe
from resq_onnx.reference import Reference
from resq_onnx.reporting import Report
from resq_onnx.source import ModelSource

PARITY_SEQUENCES: Final = 2
PARITY_TOKENS: Final = 48
"""Text on which parity is measured: enough to leave the first tokens, cheap to decode."""


@dataclass(frozen=True)
class Measured:
    """Of one model, everything that only PyTorch could tell.

    Attributes:
        moments: Second moments of the activations; None if the recipe needs none.
        projections: The bases.
        token_ids: A short text, (PARITY_SEQUENCES, PARITY_TOKENS).
        logits: What PyTorch makes of it.
        text: A longer one, (SEQUENCES, tokens), none of which the calibration has seen.
        recipe: The recipe, with the calibration that took place: that of a projections file, and
            by its name alone, for a file that is passed on says nothing of this machine.
    """

    moments: Moments | None
    projections: Projections
    token_ids: NDArray[np.int64]
    logits: NDArray[np.float32]
    text: NDArray[np.int64]
    recipe: Recipe


def check_widths(recipe: Recipe, source: ModelSource) -> None:
    """Refuse a recipe whose parts do not divide the sizes of this model.

    Raises:
        ResqError: They do not.
    """
    recipe.split(source.layout.hidden_size, "the hidden size")
    recipe.table_split(source.layout.hidden_size)
    recipe.split(source.layout.head_dim, "the head size")
    recipe.down_split(source.layout.intermediate_size)


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
        bases = find_projections(reference, source.layout, recipe, moments, report)
    length = text_length(source.layout.vocab_size, source.layout.max_positions)
    text = reference.held_out_text(SEQUENCES, length, calibrated)
    del reference
    gc.collect()
    return Measured(moments, bases, token_ids, logits, text, _carried_out(recipe, calibrated))


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
    if Path(done["calibration"]).suffix in FILE_SUFFIXES:
        done["calibration"] = Path(done["calibration"]).name
    return dataclasses.replace(recipe, **done)
