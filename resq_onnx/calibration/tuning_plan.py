"""Whether the weights of a model are tuned: decided before its layers run, which takes long."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from resq_onnx.calibration.distributed import share_of_this_process
from resq_onnx.calibration.known import check_text
from resq_onnx.calibration.memory import check_room, room_for
from resq_onnx.calibration.run import CalibrationRun
from resq_onnx.calibration.trained import training_samples, training_text
from resq_onnx.calibration.training.memory import bytes_of_tuning, must_recompute
from resq_onnx.calibration.tuned import (
    TUNED,
    bytes_to_write,
    remove_leftovers,
    tuned_model,
)
from resq_onnx.calibration.tuning_state import kept_steps, remove_other_states
from resq_onnx.checkpoint.folder import WEIGHTS
from resq_onnx.checkpoint.source import ADAPTER, ModelSource
from resq_onnx.errors import ResqError
from resq_onnx.projections import Projections
from resq_onnx.projections.moments import SecondMoments
from resq_onnx.recipe import Recipe
from resq_onnx.resources import available_bytes

TUNING: Final = "tuning the weights"
REMEDY: Final = "--tune 0"

UNTUNED: Final = "untuned"
"""Part of the work folder: the matrices in it are those of the original model."""


@dataclass(frozen=True)
class TuningPlan:
    """What was decided.

    Attributes:
        recipe: With the calibration's text, and the number of steps unless minutes decide it: 0
            where weights are not tuned.
        text: What is tuned on, (samples, tokens); None for no tuning.
        recomputes: Whether layers are computed twice, so that less memory is needed.
        left_out: Whether the machine or the text did not permit a tuning by default.
    """

    recipe: Recipe
    text: NDArray[np.int64] | None = None
    recomputes: bool = False
    left_out: bool = False


def planned(
    run: CalibrationRun, recipe: Recipe, calibrated: Mapping[str, Any], others: int = 0
) -> TuningPlan:
    """Decide in the first process, for all.

    Args:
        run: The calibration; its progress is warned where a tuning that was not asked for is left
            out.
        recipe: The settings.
        calibrated: The recipe of the calibration, as `Recipe.to_json` gives it.
        others: Bytes that will be written into the work folder before the weights are tuned.

    Raises:
        ResqError: Text, memory or disk does not permit the tuning, and it was asked for, or a
            stopped export has begun it.
    """
    by_default, without = not recipe.must_tune, dataclasses.replace(recipe, tuning_steps=0)
    if not recipe.tunes or (by_default and run.source.layout.softcap is not None):
        return TuningPlan(without)
    if by_default:
        recipe = dataclasses.replace(recipe, tuning_steps=recipe.how.tuning_steps)
    share, recomputes, reason = share_of_this_process(), False, ""
    try:
        check_text(recipe, calibrated, TUNING, REMEDY)
        recipe = dataclasses.replace(recipe, calibration=calibrated["calibration"])
        if share.rank == 0 and not run.work.has(TUNED):
            if by_default and run.work.has(UNTUNED):
                raise ResqError("this export began without it; --fresh starts anew")
            recomputes = check_tuning(run, recipe, others)
    except ResqError as error:
        if not by_default or kept_steps(run.work)[0]:
            raise
        reason = str(error)
    permitted = share.first(int(not reason))
    text = training_text(run, recipe) if permitted else None
    if text is not None and text.spec != recipe.calibration:
        reason = f"the model cannot write the text of the calibration, {recipe.calibration}"
        if not by_default:
            raise ResqError(f"{reason}; use --tune 0")
        text = None
    if text is None:
        run.progress.warn(f"the weights are not tuned, which costs quality: {reason}")
        return TuningPlan(without, left_out=True)
    return TuningPlan(recipe, text.token_ids, recomputes)


def carry_out(
    plan: TuningPlan,
    run: CalibrationRun,
    recipe: Recipe,
    bases: Projections,
    moments: SecondMoments | None,
) -> tuple[ModelSource | None, Recipe]:
    """Tune the weights, if that was decided.

    Else this export quantises the original model's matrices from here on, though it be stopped.

    Returns:
        The tuned model, if there is one, and the recipe with the number of steps.
    """
    if plan.text is not None:
        return tuned_model(run, recipe, bases, moments, plan.text, plan.recomputes)
    if plan.left_out and share_of_this_process().rank == 0:
        run.work.save(UNTUNED)
        remove_leftovers(run)
    return None, recipe


def check_tuning(run: CalibrationRun, recipe: Recipe, others: int = 0) -> bool:
    """Whether layers must be computed twice.

    Args:
        run: The calibration.
        recipe: Its steps and sequence length are used.
        others: Bytes that will be written into the work folder before the weights are tuned.

    Raises:
        ResqError: The memory or the disk does not suffice, or transformers would not load the same
            model.
    """
    source, device, most = run.source, run.device, run.resources.max_memory
    standard = any((source.folder / name).exists() for name in WEIGHTS)
    if not standard or (source.folder / ADAPTER).exists():
        raise ResqError(
            f"{source.name}: tuning loads the whole model by transformers, which needs "
            f"{WEIGHTS[0]} or its index, and no {ADAPTER}; correct that, or use {REMEDY}"
        )
    remove_other_states(run.work)
    needed = others + bytes_to_write(run, recipe)
    check_room(run.work.folder, needed, "tuning the weights of")
    samples = training_samples(recipe)
    shape = (min(samples, recipe.tuning_steps or samples), recipe.sequence_length)
    memory = {again: bytes_of_tuning(source, shape, again) for again in (False, True)}
    if device != "cpu":
        _check_loading(source.whole_bytes, most)
    return must_recompute(memory, room_for(device, most), TUNING, REMEDY)


def _check_loading(loaded: int, most: int | None) -> None:
    """Refuse a model that does not fit into main memory, from where a GPU gets it."""
    room = available_bytes() if most is None else room_for("cpu", most)
    if room is not None and loaded > room:
        raise ResqError(
            f"{TUNING} of this model takes {loaded / 1e9:.1f} GB of main memory, into which it is "
            f"loaded, and {max(room, 0) / 1e9:.1f} may be taken; use --max-memory, or {REMEDY}"
        )
