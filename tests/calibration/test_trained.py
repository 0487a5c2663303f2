"""Training within minutes: how many steps, what is kept, and when it is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resq_onnx.calibration import trained
from resq_onnx.calibration.reference import load_tokenizer
from resq_onnx.calibration.run import CalibrationRun
from resq_onnx.calibration.trained import trained_bases
from resq_onnx.calibration.training import SimulatedModel, Training
from resq_onnx.checkpoint.source import ModelSource
from resq_onnx.errors import ResqError
from resq_onnx.files.work_folder import WorkFolder
from resq_onnx.progress import Progress
from resq_onnx.projections import Projections
from resq_onnx.projections.bases import compute_projections
from resq_onnx.recipe import Recipe
from resq_onnx.resources import Resources
from tests.tiny_models import write_model

ASKED: dict[str, Any] = {"sequence_length": 24, "method": "spinquant", "calibration": "python-docs"}
"""Bases that need no calibration."""


class Run:
    """Trains a tiny model in a work folder, with a clock that a pass moves on by six seconds."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write_model(folder / "model", "llama", tied=True)
        self.source = ModelSource(folder / "model", "tiny")
        self.work = WorkFolder(folder)
        self.seconds, self.passes, self.titles = 0.0, 0, list[str]()
        self.most_passes: int | None = None
        loss = Training.loss

        def timed(training: Training, number: int = 0) -> float:
            if self.passes == self.most_passes:
                raise KeyboardInterrupt
            self.passes += 1
            self.seconds += 6
            return loss(training, number)

        monkeypatch.setattr(Training, "loss", timed)
        monkeypatch.setattr(trained, "SAMPLES", 4)
        monkeypatch.setattr(trained, "clock", lambda: self.seconds)

    def __call__(self, memory: int | None = None, **recipe: Any) -> tuple[Projections, Recipe]:
        asked = Recipe(**(ASKED | recipe))
        bases = compute_projections(asked, self.source.layout, None)
        told = Progress(step=self.titles.append)
        tokenizer, resources = load_tokenizer(self.source), Resources(max_memory=memory)
        run = CalibrationRun(self.source, tokenizer, self.work, told, resources)
        return trained_bases(run, asked, bases)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    return Run(tmp_path, monkeypatch)


def test_minutes_become_steps_and_these_repeat_the_rotations(run: Run) -> None:
    found, recipe = run(training_minutes=1.0)
    assert recipe.training_steps == 8  # of ten passes two were timed
    assert run.titles[-1] == "Training the rotations in 8 steps"
    run.work.remove()
    run.work.folder.mkdir()
    write_model(run.source.folder, "llama", tied=True)
    again, _ = run(training_steps=8)
    np.testing.assert_array_equal(found.hidden, again.hidden)


def test_more_of_another_text_is_read_than_of_those_of_the_package() -> None:
    numbers = [
        trained.training_samples(Recipe(calibration=text, samples=2))
        for text in ("bundled", "python-docs", "text.txt", "auto", "self")
    ]
    assert numbers == [trained.SAMPLES] * 2 + [trained.SAMPLES_OF_ANOTHER, 2, 2]
    assert trained.SAMPLES_OF_ANOTHER > trained.SAMPLES


def test_too_few_minutes_are_one_step(run: Run) -> None:
    assert run(training_minutes=0.01)[1].training_steps == 1


def test_a_stopped_training_goes_on_with_as_many_steps(run: Run) -> None:
    run.most_passes = 6  # of which two are timed
    with pytest.raises(KeyboardInterrupt):
        run(training_minutes=1.0)
    run.most_passes, run.passes = None, 0
    found, recipe = run(training_minutes=1.0)
    assert (run.passes, recipe.training_steps) == (4, 8)
    run.passes = 0
    assert np.array_equal(run(training_minutes=1.0)[0].value, found.value)
    assert run.passes == 0, "finished rotations are kept too"


def test_layers_are_recomputed_where_memory_is_short(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []

    def spy(*given: Any) -> SimulatedModel:
        seen.append(given[-1])
        return SimulatedModel(*given)

    monkeypatch.setattr(trained, "SimulatedModel", spy)
    for room in (10, 5):
        monkeypatch.setattr(trained, "room_for", lambda *_, room=room: room)
        monkeypatch.setattr(
            trained,
            "bytes_of_training",
            lambda _source, _tokens, recomputes: 4 if recomputes else 8,
        )
        run(training_steps=1)
        run.work.remove()
        run.work.folder.mkdir()
        write_model(run.source.folder, "llama", tied=True)
    assert seen == [False, True]


def test_too_little_memory_is_refused_with_what_is_needed(run: Run) -> None:
    with pytest.raises(ResqError, match=r"takes 0\.\d GB, and 0\.0 may .*--method quarot"):
        run(memory=1_000)
