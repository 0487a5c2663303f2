"""A model whose weights are tuned, for a recipe and within its minutes.

If there are more than a few steps:

1. The matrices of each layer are rounded once. What that changes in them is kept, layer by layer.
2. The matrices are tuned with these errors in them, so that what they learn makes up for these.
3. What they have learned is added to the float matrices. These are rounded when all is exported,
   which makes much the same errors again.

The number of steps is decided once, after a few were timed, and becomes part of the recipe, so the
same weights can be tuned again. The tuned matrices are a part of the work folder, and so is the
state of a tuning that takes long.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from resq_onnx.calibration.distributed import Share, share_of_this_process
from resq_onnx.calibration.heap import give_back, often_given_back
from resq_onnx.calibration.rounding import rounding_errors
from resq_onnx.calibration.run import CalibrationRun
from resq_onnx.calibration.trained import loaded
from resq_onnx.calibration.training import Tuning
from resq_onnx.calibration.training.memory import bytes_of_matrices
from resq_onnx.calibration.tuning_state import (
    StateKeeper,
    bytes_of_state,
    keep_steps,
    kept_steps,
    remove_state,
    restore_state,
)
from resq_onnx.checkpoint.source import ModelSource
from resq_onnx.projections import Projections
from resq_onnx.projections.moments import SecondMoments
from resq_onnx.recipe import Recipe

clock: Final = time.monotonic

MATRICES: Final = "tuned-matrices"
TUNED: Final = "tuned"
"""Parts of the work folder: the matrices by their parameters' names, and in how many steps."""

FEW: Final = 32
"""Steps up to which rounding errors are left out: of SmolLM2-135M, 16 steps end alike with and
without them, and 60 better with them (docs/quality.md). To round takes as long as 15 steps."""

ERRORS: Final = "rounding-{:05}"
"""Parts of the work folder: the rounding errors of a layer's matrices, until all are tuned."""


def tuned_model(
    run: CalibrationRun,
    recipe: Recipe,
    bases: Projections,
    moments: SecondMoments | None,
    text: NDArray[np.int64],
    recomputes: bool = False,
) -> tuple[ModelSource, Recipe]:
    """Tune the weights of a model, in the first process; the others help to round them first.

    Args:
        run: The calibration; the tuned matrices are kept in its work folder.
        recipe: The settings; its bits and minutes, or steps, are used.
        bases: In which activations and cache are rounded.
        moments: Second moments for GPTQ; None where the recipe needs none.
        text: Token ids, (samples, tokens); a step reads a sequence.
        recomputes: Whether layers are computed twice, so that less memory is needed.

    Returns:
        The tuned model, and the recipe with the number of steps.
    """
    share, work = share_of_this_process(), run.work
    if not share.first(int(work.has(TUNED))):
        tuning, steps = None, 0
        if share.rank == 0:
            began = clock()
            tuning = Tuning(loaded(run, recipe, bases, text, recomputes))
            known = known_steps(run, recipe)
            steps = known or _steps_within(recipe, tuning, clock() - began)
            if known is None:
                keep_steps(work, 0, steps)
        if puts_errors(share.first(steps)):
            _round_once(run, recipe, bases, moments, share)
        if tuning is not None:
            matrices = _tune(run, tuning, steps)
            del tuning  # with what Adam keeps
            work.save(MATRICES, matrices)
            work.save(TUNED, {"steps": np.array(steps)})
            del matrices
            give_back()
        share.wait()
    if share.rank == 0:
        remove_leftovers(run)
    steps = int(work.load(TUNED)["steps"].item())
    tuned = dataclasses.replace(run.source, changed=work.file(MATRICES))
    return tuned, dataclasses.replace(recipe, tuning_steps=steps)


def puts_errors(steps: int | None) -> bool:
    """Whether weights are tuned with their rounding errors in them; None for as many as fit."""
    return steps is None or steps > FEW


def _steps_within(recipe: Recipe, tuning: Tuning, passed: float) -> int:
    """How many steps fit into what is left of a recipe's minutes."""
    assert recipe.tuning_minutes is not None, "minutes or steps are given"
    return tuning.steps_within(60 * recipe.tuning_minutes - passed)


def _tune(run: CalibrationRun, tuning: Tuning, steps: int) -> dict[str, NDArray[np.float32]]:
    """Tune; returns the matrices by their parameters' names."""
    progress, (done, _) = run.progress, kept_steps(run.work)
    progress.step("Running the float model on the text of the steps")
    tuning.expect(steps, progress.advance, done)
    progress.step(
        f"Tuning the weights in {steps} steps" + (f", from step {done + 1} on" if done else "")
    )
    with _rounded(tuning.weights, run) if puts_errors(steps) else nullcontext():
        if done:
            restore_state(run.work, tuning)
        tuning.run(steps, progress.advance, StateKeeper(run, tuning, steps), done)
    return {name: one.detach().cpu().numpy() for name, one in tuning.weights.items()}


def known_steps(run: CalibrationRun, recipe: Recipe) -> int | None:
    """The number of steps, if a stopped tuning or the recipe has it."""
    _, kept = kept_steps(run.work)
    return kept or recipe.tuning_steps


def bytes_to_write(run: CalibrationRun, recipe: Recipe) -> int:
    """How much room on the disk a tuning needs, and an export after it.

    At most two of these lie there at once: the tuned matrices with their rounding errors, and then
    with the integers and the file, of half their size. What a stopped tuning left is there already;
    it is removed when the matrices are written.
    """
    matrices = bytes_of_matrices(run.source.layout)
    errors = puts_errors(known_steps(run, recipe))
    whole = 2 * matrices if errors else matrices + matrices // 2
    names = [MATRICES, *map(ERRORS.format, range(run.source.layout.num_layers))]
    parts = (run.work.file(name) for name in names if run.work.has(name))
    there = sum(part.stat().st_size for part in parts) + bytes_of_state(run.work)
    return max(matrices, whole - there)


def remove_leftovers(run: CalibrationRun) -> None:
    """Give back the room of rounding errors, and of the state of a tuning."""
    for layer in range(run.source.layout.num_layers):
        run.work.remove_part(ERRORS.format(layer))
    remove_state(run.work)


def _round_once(
    run: CalibrationRun,
    recipe: Recipe,
    bases: Projections,
    moments: SecondMoments | None,
    share: Share,
) -> None:
    """Keep the rounding errors of this process's layers, and wait for the others'."""
    own = range(run.source.layout.num_layers)[share.rank :: share.size]
    run.progress.step("Rounding the weights, to tune them with the errors")
    with often_given_back():
        for done, layer in enumerate(own, start=1):
            if not run.work.has(ERRORS.format(layer)):
                of_layer = (run.source, bases, recipe, moments, layer, run.device)
                run.work.save(ERRORS.format(layer), rounding_errors(*of_layer))
                give_back()
            run.progress.advance(done, len(own))
    share.wait()


@contextmanager
def _rounded(weights: Mapping[str, torch.Tensor], run: CalibrationRun) -> Iterator[None]:
    """Add the rounding errors inside the context, and subtract them behind it."""
    _add_errors(weights, run, 1)
    yield
    _add_errors(weights, run, -1)


@torch.no_grad()
def _add_errors(weights: Mapping[str, torch.Tensor], run: CalibrationRun, sign: int) -> None:
    for layer in range(run.source.layout.num_layers):
        for name, error in run.work.load(ERRORS.format(layer)).items():
            weights[name].add_(torch.from_numpy(error).to(weights[name].device), alpha=sign)
