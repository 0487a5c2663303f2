"""A copy of the model whose weights are tuned, for a recipe and within its minutes.

The number of steps is decided once, after a few were timed, and becomes part of the recipe, so the
same weights can be tuned again. The copy is a model folder inside the work folder.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from pathlib import Path
from typing import Any, Final

import numpy as np

from resq_onnx.calibration.distributed import share_of_this_process
from resq_onnx.calibration.heap import give_back
from resq_onnx.calibration.memory import check_room, room_for
from resq_onnx.calibration.reference import load_model
from resq_onnx.calibration.trained import training_text
from resq_onnx.calibration.training import Tuning
from resq_onnx.calibration.training.memory import bytes_of_tuning, must_recompute
from resq_onnx.calibration.working import torch_device
from resq_onnx.checkpoint.quiet import quiet_libraries
from resq_onnx.checkpoint.source import ModelSource
from resq_onnx.files import copy_file, writing_to
from resq_onnx.files.work_folder import WorkFolder
from resq_onnx.progress import Progress
from resq_onnx.projections import Projections
from resq_onnx.recipe import Recipe
from resq_onnx.resources import Resources

clock: Final = time.monotonic

TUNED: Final = "tuned"


def tuned_model(
    source: ModelSource,
    tokenizer: Any,
    recipe: Recipe,
    bases: Projections,
    work: WorkFolder,
    progress: Progress,
    resources: Resources,
) -> tuple[ModelSource, Recipe]:
    """Tune the weights of a model, in the first process; the others wait for it.

    Args:
        source: The model.
        tokenizer: Its Hugging Face tokenizer.
        recipe: The settings; its text, bits and minutes, or steps, are used.
        bases: In which activations and cache are rounded.
        work: Where the tuned model is kept.
        progress: Receives progress updates.
        resources: Device and memory.

    Returns:
        The tuned model, and the recipe with the number of steps.

    Raises:
        ResqError: The memory or the disk does not suffice.
    """
    share, began = share_of_this_process(), clock()
    text = training_text(source, tokenizer, recipe, work, progress, resources)
    if share.rank == 0 and not work.has(TUNED):
        device = torch_device(resources.device)
        check_room(work.folder, source.float32_bytes)
        needed = {again: bytes_of_tuning(source, text.shape, again) for again in (False, True)}
        room = room_for(device, resources.max_memory)
        recomputes = must_recompute(needed, room, "tuning the weights", "no --tune")
        progress.step("Loading the whole model")
        model = load_model(source).to(device)
        tuning = Tuning(model, source.layout, recipe, bases, text, device, recomputes)
        steps = recipe.tuning_steps
        if steps is None:
            assert recipe.tuning_minutes is not None, "minutes or steps are given"
            steps = tuning.steps_within(60 * recipe.tuning_minutes - (clock() - began))
        progress.step("Running the float model on the text of the steps")
        tuning.expect(steps, progress.advance)
        progress.step(f"Tuning the weights in {steps} steps")
        tuning.run(steps, progress.advance)
        _write(model, source, work.folder / TUNED)
        work.save(TUNED, {"steps": np.array(steps)})
        del model, tuning
        give_back()
    share.wait()
    steps = int(work.load(TUNED, "steps")["steps"].item())
    tuned = ModelSource(work.folder / TUNED, source.name, max_length=source.max_length)
    return tuned, dataclasses.replace(recipe, tuning_steps=steps)


def _write(model: Any, source: ModelSource, folder: Path) -> None:
    """Write a model's weights, beside the configuration of the original."""
    shutil.rmtree(folder, ignore_errors=True)
    with writing_to(folder), quiet_libraries():
        model.cpu().save_pretrained(folder)
        copy_file(source.folder / "config.json", folder / "config.json")
