"""A model whose weights are tuned, for a recipe and within its minutes.

The number of steps is decided once, after a few were timed, and becomes part of the recipe, so the
same weights can be tuned again. The tuned matrices are a part of the work folder.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Final

import numpy as np
from numpy.typing import NDArray

from resq_onnx.calibration.distributed import share_of_this_process
from resq_onnx.calibration.heap import give_back
from resq_onnx.calibration.run import CalibrationRun
from resq_onnx.calibration.trained import loaded
from resq_onnx.calibration.training import Tuning
from resq_onnx.checkpoint.source import ModelSource
from resq_onnx.projections import Projections
from resq_onnx.recipe import Recipe

clock: Final = time.monotonic

MATRICES: Final = "tuned-matrices"
TUNED: Final = "tuned"
"""Parts of the work folder: the matrices by their parameters' names, and in how many steps."""


def tuned_model(
    run: CalibrationRun,
    recipe: Recipe,
    bases: Projections,
    text: NDArray[np.int64],
    recomputes: bool = False,
) -> tuple[ModelSource, Recipe]:
    """Tune the weights of a model, in the first process; the others wait for it.

    Args:
        run: The calibration; the tuned matrices are kept in its work folder.
        recipe: The settings; its bits and minutes, or steps, are used.
        bases: In which activations and cache are rounded.
        text: Token ids, (samples, tokens); a step reads a sequence.
        recomputes: Whether layers are computed twice, so that less memory is needed.

    Returns:
        The tuned model, and the recipe with the number of steps.
    """
    share, work, progress = share_of_this_process(), run.work, run.progress
    if share.rank == 0 and not work.has(TUNED):
        began = clock()
        tuning = Tuning(loaded(run, recipe, bases, text, recomputes))
        steps = recipe.tuning_steps
        if steps is None:
            assert recipe.tuning_minutes is not None, "minutes or steps are given"
            steps = tuning.steps_within(60 * recipe.tuning_minutes - (clock() - began))
        progress.step("Running the float model on the text of the steps")
        tuning.expect(steps, progress.advance)
        progress.step(f"Tuning the weights in {steps} steps")
        tuning.run(steps, progress.advance)
        matrices = _arrays(tuning)
        del tuning
        work.save(MATRICES, matrices)
        work.save(TUNED, {"steps": np.array(steps)})
        del matrices
        give_back()
    share.wait()
    steps = int(work.load(TUNED)["steps"].item())
    tuned = dataclasses.replace(run.source, changed=work.file(MATRICES))
    return tuned, dataclasses.replace(recipe, tuning_steps=steps)


def _arrays(tuning: Tuning) -> dict[str, NDArray[np.float32]]:
    return {name: one.detach().cpu().numpy() for name, one in tuning.weights.items()}
