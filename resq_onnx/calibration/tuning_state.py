"""The state of a tuning in its work folder, from which a stopped one goes on.

A state is a part for each matrix, so that little is in memory twice, and then one with the numbers
of steps: a kill in between leaves the state before as it was.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Final

import numpy as np
import torch

from resq_onnx.calibration.memory import check_room
from resq_onnx.calibration.run import CalibrationRun
from resq_onnx.calibration.training import Tuning
from resq_onnx.errors import ResqError
from resq_onnx.files.work_folder import WorkFolder

clock: Final = time.monotonic

STEPS: Final = "tuning"
STATE: Final = "tuning-{:06}"
"""Parts of the work folder: the numbers of finished steps and of all; and, by the first of these
and the matrix's number, a matrix with Adam's averages."""

EVERY: Final = 300.0
PATIENCE: Final = 20.0
"""Time between two states: at least so many seconds, and so many times what writing the last one
took. That of a billion parameters is 12 GB."""

STATES: Final = 4
"""Times the size of the matrices that must be free: three for a state, one for the result."""


def kept_steps(work: WorkFolder) -> tuple[int, int]:
    """How many steps a stopped tuning had finished, and of how many; 0 if nothing was kept."""
    if not work.has(STEPS):
        return 0, 0
    found = work.load(STEPS)
    return int(found["done"].item()), int(found["of"].item())


def keeper(run: CalibrationRun, tuning: Tuning, steps: int) -> Callable[[int], None]:
    """What keeps the state of a tuning at times, told after each step how many are finished."""
    due = clock() + EVERY

    def keep(done: int) -> None:
        nonlocal due
        began = clock()
        if done == steps or began < due:
            return
        try:
            needed = STATES * sum(weight.nbytes for weight in tuning.weights.values())
            check_room(run.work.folder, needed, "keeping the state of")
            keep_state(run.work, tuning, done, steps)
            due = clock() + max(EVERY, PATIENCE * (clock() - began))
        except ResqError as error:
            due = math.inf
            _remove_matrices(run.work, but=kept_steps(run.work)[0])
            run.progress.warn(f"if this is stopped, the tuning begins again: {error}")

    return keep


def keep_state(work: WorkFolder, tuning: Tuning, done: int, steps: int) -> None:
    """Keep what the next steps depend on; the state before is removed afterwards.

    Raises:
        ResqError: It cannot be written.
    """
    for place, name in enumerate(tuning.weights):
        state = {key: one.cpu().numpy() for key, one in tuning.state(name).items()}
        work.save(_part(done, place), state)
    work.save(STEPS, {"done": np.array(done), "of": np.array(steps)})
    _remove_matrices(work, but=done)


def restore_state(work: WorkFolder, tuning: Tuning) -> None:
    """Set a tuning to the state that was kept, if any.

    Raises:
        ResqError: It cannot be read.
    """
    done, _ = kept_steps(work)
    for place, name in enumerate(tuning.weights if done else ()):
        arrays = work.load(_part(done, place))
        state = {key: torch.from_numpy(array) for key, array in arrays.items()}
        tuning.go_on_from(name, state, done)


def remove_state(work: WorkFolder) -> None:
    """Give back the room of what was kept."""
    work.remove_part(STEPS)
    _remove_matrices(work)


def _part(done: int, place: int) -> str:
    return f"{STATE.format(done)}-{place:05}"


def _remove_matrices(work: WorkFolder, but: int | None = None) -> None:
    """Remove the matrices of all states, but of the one after so many steps."""
    for name in work.names("tuning-*"):
        if but is None or not name.startswith(STATE.format(but)):
            work.remove_part(name)
