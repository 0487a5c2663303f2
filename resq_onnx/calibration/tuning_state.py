"""The state of a tuning in its work folder, from which a stopped one goes on.

A state is a part for each matrix, so that little is in memory twice, and then one with the numbers
of steps: a kill in between leaves the state before as it was.
"""

from __future__ import annotations

import time
from typing import Final

import numpy as np
import torch

from resq_onnx.calibration.memory import check_room
from resq_onnx.calibration.run import CalibrationRun
from resq_onnx.calibration.training import Tuning
from resq_onnx.calibration.training.memory import bytes_of_matrices
from resq_onnx.errors import ResqError
from resq_onnx.files.work_folder import WorkFolder

clock: Final = time.monotonic

STEPS: Final = "tuning"
"""Part of the work folder: the numbers of finished steps and of all."""

STATE: Final = "tuning-{:06}"
"""How the names of the parts of a state begin, by its number of finished steps: there is one for
each matrix, with Adam's averages."""

EVERY: Final = 300.0
PATIENCE: Final = 20.0
"""Time between two states: at least so many seconds, and so many times what writing the last one
took. A state of a billion parameters is 12 GB."""

ROOM: Final = 4
"""Free disk space for a state, in sizes of all matrices: three are its own, one is the result's."""


class StateKeeper:
    """Keeps the state of a tuning when it is time."""

    def __init__(self, run: CalibrationRun, tuning: Tuning, steps: int) -> None:
        """Take a tuning of so many steps, which begins or goes on now."""
        self._run, self._tuning, self._steps = run, tuning, steps
        self._due, self._warned = clock() + EVERY, False

    def __call__(self, done: int) -> None:
        """Keep the state if it is time; so many steps are finished."""
        began, work = clock(), self._run.work
        if done == self._steps or began < self._due:
            return
        try:
            needed = ROOM * bytes_of_matrices(self._run.source.layout)
            check_room(work.folder, needed, "keeping the state of")
            keep_state(work, self._tuning, done, self._steps)
        except ResqError as error:
            remove_other_states(work)
            self._warn(error)
        self._due = clock() + max(EVERY, PATIENCE * (clock() - began))

    def _warn(self, error: ResqError) -> None:
        """Say once what a kill costs from here on."""
        if not self._warned:
            done, _ = kept_steps(self._run.work)
            back = f"goes back to step {done}" if done else "begins again"
            self._run.progress.warn(f"if this is stopped, the tuning {back}: {error}")
        self._warned = True


def kept_steps(work: WorkFolder) -> tuple[int, int]:
    """How many steps a stopped tuning had finished, and of how many; 0 if nothing was kept."""
    if not work.has(STEPS):
        return 0, 0
    found = work.load(STEPS)
    return int(found["done"].item()), int(found["of"].item())


def keep_steps(work: WorkFolder, done: int, steps: int) -> None:
    """Keep how many steps are finished, and of how many; with 0, no more than their number.

    Raises:
        ResqError: It cannot be written.
    """
    work.save(STEPS, {"done": np.array(done), "of": np.array(steps)})


def bytes_of_state(work: WorkFolder) -> int:
    """How much room the kept state takes."""
    return sum(work.file(name).stat().st_size for name in work.names("tuning-*"))


def keep_state(work: WorkFolder, tuning: Tuning, done: int, steps: int) -> None:
    """Keep what the next steps depend on; the state before is removed afterwards.

    Raises:
        ResqError: It cannot be written.
    """
    for number, name in enumerate(tuning.weights):
        state = {key: one.cpu().numpy() for key, one in tuning.state(name).items()}
        work.save(_part(done, number), state)
    keep_steps(work, done, steps)
    remove_other_states(work)


def restore_state(work: WorkFolder, tuning: Tuning) -> None:
    """Set a tuning to the kept state.

    Raises:
        ResqError: It cannot be read.
    """
    done, _ = kept_steps(work)
    for number, name in enumerate(tuning.weights):
        arrays = work.load(_part(done, number))
        state = {key: torch.from_numpy(array) for key, array in arrays.items()}
        tuning.go_on_from(name, state, done)


def remove_other_states(work: WorkFolder) -> None:
    """Remove what a kill or a full disk left of other states than the kept one."""
    kept = STATE.format(kept_steps(work)[0])
    for name in work.names("tuning-*"):
        if not name.startswith(kept):
            work.remove_part(name)


def remove_state(work: WorkFolder) -> None:
    """Give back the room of the kept state."""
    work.remove_part(STEPS)
    remove_other_states(work)


def _part(done: int, number: int) -> str:
    return f"{STATE.format(done)}-{number:05}"
