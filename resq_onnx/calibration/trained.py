"""Bases with trained rotations, for a recipe and within its minutes.

Training begins with the bases of `fitted`; the minutes are those of the steps, of loading the model
and of choosing how many steps there are, and not those of the fit.
How many steps fit into the minutes depends on the machine. Their number is decided once, after a
few passes were timed, and becomes part of the recipe, so the same rotations can be trained again.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from resq_onnx.calibration.built_in import BUILT_IN, SELF, shares_of
from resq_onnx.calibration.distributed import share_of_this_process
from resq_onnx.calibration.heap import give_back
from resq_onnx.calibration.memory import room_for
from resq_onnx.calibration.recipe_text import CalibrationText, calibration_text
from resq_onnx.calibration.reference import load_model
from resq_onnx.calibration.run import CalibrationRun
from resq_onnx.calibration.training import SimulatedModel, Training
from resq_onnx.calibration.training.memory import bytes_of_training, must_recompute
from resq_onnx.calibration.training.turned import keep_turned, kept_turned
from resq_onnx.projections import Projections
from resq_onnx.recipe import Recipe

clock: Final = time.monotonic

SAMPLES: Final = 192
"""Sequences of a training text that this package has; there are few more, and some of Python's
documentation are left to measure quality."""

SAMPLES_OF_ANOTHER: Final = 512
"""Of any other text: `--tune 15` of SmolLM2 on two cores reads two thirds of them, none twice."""

TIMED: Final = 2
"""Passes that are timed; the fastest counts."""

KEPT: Final = 10
"""How often the state is kept in the work folder, so that a stopped export goes on from there."""

TRAINING: Final = "training the rotations"

STATE: Final = "training"
TRAINED: Final = "trained"


def trained_bases(
    run: CalibrationRun, recipe: Recipe, bases: Projections
) -> tuple[Projections, Recipe]:
    """Train the rotations of bases, in the first process; the others wait for them.

    Args:
        run: The calibration; the rotations are kept in its work folder.
        recipe: The settings; its text, bits and minutes, or steps, are used.
        bases: Start values.

    Returns:
        The trained bases, and the recipe with the number of steps.

    Raises:
        ResqError: The memory does not suffice.
    """
    share, began = share_of_this_process(), clock()
    text = training_text(run, recipe).token_ids
    if share.rank == 0 and not run.work.has(TRAINED):
        tokens, room = text.shape[1], room_for(run.device, run.resources.max_memory)
        needed = {again: bytes_of_training(run.source, tokens, again) for again in (False, True)}
        recomputes = must_recompute(needed, room, TRAINING, without_training(recipe))
        training = Training(loaded(run, recipe, bases, text, recomputes))
        steps = _train(training, run, recipe, began)
        keep_turned(run.work, TRAINED, training.result(), steps=np.array(steps))
        del training
        give_back()
    share.wait()
    done = int(run.work.load(TRAINED, "steps")["steps"].item())
    recipe = dataclasses.replace(recipe, training_steps=done)
    return kept_turned(run.work, TRAINED, bases), recipe


def training_samples(recipe: Recipe) -> int:
    """How many sequences of a recipe's text are trained on, if it has so many.

    That does not depend on the number of steps; after the last sequence the first comes again. A
    text that the model writes is no longer than that of the calibration.
    """
    texts = shares_of(recipe.calibration, SAMPLES).keys()
    if SELF in texts:
        return recipe.samples
    return SAMPLES if texts <= BUILT_IN.keys() else SAMPLES_OF_ANOTHER


def without_training(recipe: Recipe) -> str:
    """The option that trains no rotations, for messages."""
    return "--method quarot" if recipe.how.training == "always" else "--rotations fitted"


def training_text(run: CalibrationRun, recipe: Recipe) -> CalibrationText:
    """What is trained on: `training_samples` of the calibration's text.

    A shorter text is no reason for a warning: it is read again. Under torchrun every process calls
    this.
    """
    asked = dataclasses.replace(recipe, samples=training_samples(recipe))
    return calibration_text(run, asked, may_be_short=True)


def loaded(
    run: CalibrationRun,
    recipe: Recipe,
    bases: Projections,
    text: NDArray[np.int64],
    recomputes: bool,
) -> SimulatedModel:
    """Load the whole model, to be trained on a text by a recipe and its bases."""
    run.progress.step("Loading the whole model")
    model = load_model(run.source).to(run.device)
    return SimulatedModel(model, run.source.layout, recipe, bases, text, run.device, recomputes)


def _train(training: Training, run: CalibrationRun, recipe: Recipe, began: float) -> int:
    """Train from where a stopped export was; returns the number of steps of both together."""
    work, progress = run.work, run.progress
    first, steps = 0, recipe.training_steps
    if work.has(STATE):
        state = _tensors(work.load(STATE))
        first, steps = int(state["done"]), int(state["of"])
        training.go_on_from(state)
    if steps is None:
        a_step = _seconds_of_a_step(training)
        steps = max(1, int((60 * recipe.training_minutes - (clock() - began)) / a_step))
    progress.step(f"Training the rotations in {steps} steps")
    every = -(-steps // KEPT)

    def keep(done: int, state: Mapping[str, torch.Tensor]) -> None:
        if done % every == 0:
            numbers = {"done": np.array(done), "of": np.array(steps)}
            work.save(STATE, {name: one.cpu().numpy() for name, one in state.items()} | numbers)

    training.run(steps, progress.advance, keep, first)
    return steps


def _seconds_of_a_step(training: Training) -> float:
    """Time passes whose gradients are not used."""
    times = []
    for _ in range(TIMED):
        began = clock()
        training.loss()
        times.append(clock() - began)
    training.forget()
    return max(min(times), 1e-6)


def _tensors(arrays: Mapping[str, NDArray[Any]]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(one) for name, one in arrays.items()}
