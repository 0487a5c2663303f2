"""A tuning that is stopped goes on from its last state."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from resq_onnx.calibration import memory, trained, tuned, tuning_state
from resq_onnx.calibration.training import Tuning
from resq_onnx.calibration.tuning_state import STATE, kept_steps, remove_state
from resq_onnx.errors import ResqError
from resq_onnx.files.work_folder import WorkFolder
from tests.calibration.tuned_run import Run

STEPS = 5


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """With rounding errors; each step but the last one leaves its state."""
    monkeypatch.setattr(trained, "SAMPLES", 4)
    monkeypatch.setattr(tuned, "FEW", 0)
    monkeypatch.setattr(tuning_state, "EVERY", 0.0)
    monkeypatch.setattr(tuning_state, "PATIENCE", 0.0)
    return Run(tmp_path)


def stop_behind(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next tuning is stopped in the step after this one."""
    take = Tuning._step

    def stopping(tuning: Tuning, number: int, rate: float) -> None:
        if number == step:
            monkeypatch.setattr(Tuning, "_step", take)
            raise KeyboardInterrupt
        take(tuning, number, rate)

    monkeypatch.setattr(Tuning, "_step", stopping)


@pytest.mark.parametrize("few", [0, 32], ids=["with errors", "without"])
def test_it_ends_where_it_would_have_ended(
    run: Run, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    monkeypatch.setattr(tuned, "FEW", few)
    source = run.source()
    whole = Run(run.folder / "whole")
    whole.folder.mkdir()
    expected, _ = whole(source, tuning_steps=STEPS)
    for step in (2, 4):
        stop_behind(step, monkeypatch)
        with pytest.raises(KeyboardInterrupt):
            run(source, tuning_steps=STEPS)
        assert kept_steps(run.work) == (step, STEPS)
    assert run.finished == [3, 4], "two steps were finished before"
    found, _ = run(source, tuning_steps=STEPS)
    assert run.titles[-1] == f"Tuning the weights in {STEPS} steps, from step 5 on"
    assert run.finished == [STEPS]
    assert found.changed is not None
    assert expected.changed is not None
    assert found.changed.read_bytes() == expected.changed.read_bytes()
    assert run.work.names("tuning*") == [], "its room is given back"


@pytest.mark.parametrize("finished", [0, 2])
def test_its_number_of_steps_is_the_one_it_had(
    run: Run, monkeypatch: pytest.MonkeyPatch, finished: int
) -> None:
    monkeypatch.setattr(Tuning, "steps_within", lambda *_: STEPS)
    stop_behind(finished, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        run(run.source(), tuning_minutes=1.0)
    monkeypatch.setattr(Tuning, "steps_within", lambda *_: 100)
    _, recipe = run(run.source(), tuning_minutes=1.0)
    assert recipe.tuning_steps == STEPS


def test_a_state_is_there_until_the_next_one_is_whole(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = WorkFolder.save

    def cut_off(work: WorkFolder, name: str, *given: Any) -> None:
        if name == f"{STATE.format(2)}-00003":
            monkeypatch.setattr(WorkFolder, "save", save)
            raise KeyboardInterrupt
        save(work, name, *given)

    monkeypatch.setattr(WorkFolder, "save", cut_off)
    with pytest.raises(KeyboardInterrupt):
        run(run.source(), tuning_steps=STEPS)
    assert kept_steps(run.work) == (1, STEPS)
    assert len(run.work.names("tuning-000002*")) == 3, "of a state that was cut off"
    stop_behind(3, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        run(run.source(), tuning_steps=STEPS)
    assert run.finished == [2, 3]
    assert {name[:13] for name in run.work.names("tuning-*")} == {STATE.format(3)}


def test_the_room_of_a_finished_tuning_is_given_back_after_a_kill(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(_work: WorkFolder) -> None:
        monkeypatch.setattr(tuned, "remove_state", remove_state)
        raise KeyboardInterrupt

    monkeypatch.setattr(tuned, "remove_state", killed)
    with pytest.raises(KeyboardInterrupt):
        run(run.source(), tuning_steps=STEPS)
    assert run.work.names("tuning*")
    run(run.source(), tuning_steps=STEPS)
    assert run.work.names("tuning*") == []


@pytest.mark.parametrize(
    ("writing", "kept"),
    [(1.0, [3, 6, 9, 12]), (50.0, [3, 13])],
    ids=["states are rare", "and more so on a slow disk"],
)
def test_states_take_a_small_part_of_the_time(
    run: Run, monkeypatch: pytest.MonkeyPatch, writing: float, kept: list[int]
) -> None:
    """A step takes 100 seconds here, and nothing else but writing a state takes any."""
    now, done = 0.0, list[int]()

    def step(*_given: Any) -> None:
        nonlocal now
        now += 100

    def keep_state(_work: WorkFolder, _tuning: Tuning, finished: int, _steps: int) -> None:
        nonlocal now
        now += writing
        done.append(finished)

    monkeypatch.setattr(tuning_state, "clock", lambda: now)
    monkeypatch.setattr(tuning_state, "EVERY", 300.0)
    monkeypatch.setattr(tuning_state, "PATIENCE", 20.0)
    monkeypatch.setattr(tuning_state, "keep_state", keep_state)
    monkeypatch.setattr(Tuning, "_step", step)
    run(run.source(), tuning_steps=14)
    assert done == kept


def test_what_a_full_disk_cut_off_is_removed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    save = WorkFolder.save

    def full(work: WorkFolder, name: str, *given: Any) -> None:
        if name.endswith("-00003") and not name.startswith(STATE.format(1)):
            raise ResqError("no space left")
        save(work, name, *given)

    monkeypatch.setattr(WorkFolder, "save", full)
    stop_behind(4, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        run(run.source(), tuning_steps=STEPS)
    assert kept_steps(run.work) == (1, STEPS)
    assert {name[:13] for name in run.work.names("tuning-*")} == {STATE.format(1)}
    assert [line.partition(":")[0] for line in run.warnings] == [
        "if this is stopped, the tuning goes back to step 1"
    ]


def test_a_full_disk_costs_the_state_alone(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    free = shutil.disk_usage(run.folder)._replace(free=1000)
    monkeypatch.setattr(memory, "shutil", SimpleNamespace(disk_usage=lambda _: free))
    _, recipe = run(run.source(), tuning_steps=STEPS)
    assert recipe.tuning_steps == STEPS
    (line,) = run.warnings
    assert "if this is stopped, the tuning begins again" in line
    assert "GB of disk there" in line
