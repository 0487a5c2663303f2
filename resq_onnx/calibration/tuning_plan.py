"""Whether the weights of a model are tuned: decided before its layers run, which takes long."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from resq_onnx.calibration.built_in import SELF, shares_of
from resq_onnx.calibration.distributed import share_of_this_process
from resq_onnx.calibration.memory import check_room, room_for
from resq_onnx.calibration.run import CalibrationRun
from resq_onnx.calibration.trained import SAMPLES
from resq_onnx.calibration.training.memory import (
    bytes_of_matrices,
    bytes_of_tuning,
    must_recompute,
)
from resq_onnx.calibration.tuned import TUNED
from resq_onnx.errors import ResqError
from resq_onnx.recipe import Recipe

STEPS: int = 16
"""Of a tuning that was not asked for. They take SmolLM2-135M about as long as all the rest of an
export, and twice as many are worth no more than the seeds' spread (docs/quality.md)."""

UNTUNED: Final = "untuned"
"""Part of the work folder: a stopped export goes on without tuning, as it began."""


def planned(
    run: CalibrationRun, recipe: Recipe, calibrated: Mapping[str, Any]
) -> tuple[Recipe, bool]:
    """Decide in the first process, for all.

    Args:
        run: The calibration; its progress is warned where a tuning that was not asked for is left
            out.
        recipe: The settings.
        calibrated: The recipe of the calibration, as `Recipe.to_json` gives it.

    Returns:
        The recipe, with the calibration's text, and with the steps that were left to the program: 0
        where weights are not tuned; and whether layers are computed twice, to save memory.

    Raises:
        ResqError: The tuning was asked for, and text, memory or disk does not permit it.
    """
    by_default, without = not recipe.must_tune, dataclasses.replace(recipe, tuning_steps=0)
    if not recipe.tunes:
        return recipe, False
    if by_default and (STEPS == 0 or run.source.layout.softcap is not None):
        return without, False
    share, recomputes = share_of_this_process(), False
    if by_default:
        recipe = dataclasses.replace(recipe, tuning_steps=STEPS)
    permitted = not (by_default and run.work.has(UNTUNED))
    try:
        recipe = dataclasses.replace(recipe, calibration=text_of(recipe, calibrated))
        if share.rank == 0 and permitted and not run.work.has(TUNED):
            recomputes = check_tuning(run, recipe)
    except ResqError as reason:
        if not by_default:
            raise
        run.progress.warn(f"the weights are not tuned, which costs quality: {reason}")
        permitted = False
    if not share.first(permitted):
        if share.rank == 0:
            run.work.save(UNTUNED)
        return without, False
    return recipe, recomputes


def check_tuning(run: CalibrationRun, recipe: Recipe) -> bool:
    """Whether layers must be computed twice.

    Raises:
        ResqError: The memory or the disk does not suffice.
    """
    check_room(run.work.folder, bytes_of_matrices(run.source.layout), "tuning the weights of")
    shape = (min(SAMPLES, recipe.tuning_steps or SAMPLES), recipe.sequence_length)
    needed = {again: bytes_of_tuning(run.source, shape, again) for again in (False, True)}
    room = room_for(run.device, run.resources.max_memory)
    return must_recompute(needed, room, "tuning the weights", "--tune 0")


def text_of(recipe: Recipe, calibrated: Mapping[str, Any]) -> str:
    """The calibration text of a recipe, which is that with which it was calibrated.

    Raises:
        ResqError: A projections file was made from another one.
    """
    asked, fields = recipe.to_json(), ("calibration", "samples", "sequence_length")
    names = [[Path(str(one[name])).name for name in fields] for one in (asked, calibrated)]
    others = [name for name, one, two in zip(fields, *names, strict=True) if one != two]
    written = SELF in shares_of(recipe.calibration, recipe.samples)
    if others == ["calibration"] and written:  # the model could not write its text
        return str(calibrated["calibration"])
    if others:
        raise ResqError(
            f"the projections file was made with another {', '.join(others)}; tuning reads the "
            "text of the calibration: give the options of the file, no --projections, or --tune 0"
        )
    return recipe.calibration
