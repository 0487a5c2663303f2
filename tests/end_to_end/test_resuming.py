"""An export that is killed goes on from its last finished layer, and writes the same bytes."""

from __future__ import annotations

import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest

from resq_onnx.files import work_folder
from resq_onnx.files.work_folder import usual_folder
from tests.command_line import QUICK, program, repeatable, run_successfully
from tests.tiny_models import write_model

pytestmark = pytest.mark.slow

KILLED: Final = """
import os
from dataclasses import replace
from resq_onnx.files.work_folder import WorkFolder
from resq_onnx.methods import METHODS

METHODS["resq"] = replace(METHODS["resq"], tuning_steps=0)  # as in the tests' own process
saved, save = [], WorkFolder.save

def save_or_die(self, name, *others):
    saved.append(name)
    if len(saved) == {count}:
        os.kill(os.getpid(), 9)
    save(self, name, *others)

WorkFolder.save = save_or_die
"""
"""Kills the process before it has finished so many parts."""

OFTEN: Final = """
from resq_onnx.calibration import tuning_state

tuning_state.EVERY = tuning_state.PATIENCE = 0.0
"""
"""Keeps the state of a tuning after each step."""

POINTS: Final = {1: "", 2: "from layer 1 on", 5: "has run already", 13: "has run already"}
"""Parts before which an export of two layers is killed (two layers, logits, sums, rotations, then
four matrices and an error for each), and what the next run says."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resuming") / "model"
    write_model(folder, "llama", tied=True)
    return folder


@pytest.fixture(scope="module")
def finished(model: Path) -> Path:
    """The folder of an export that was never stopped."""
    out = model.with_name("whole") / "model.onnx"
    run_successfully("export", model, out, *QUICK)
    return out.parent


@pytest.fixture(scope="module")
def whole(finished: Path) -> dict[str, Any]:
    """What is in that folder."""
    return repeatable(finished)


def kill(model: Path, out: Path, count: int, *options: object, before: str = "") -> str:
    """Export until so many parts are nearly finished; returns what was printed on stderr."""
    before += KILLED.format(count=count)
    command = program("export", model, out, *QUICK, *options, before=before)
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    return done.stderr


@pytest.mark.parametrize("count", POINTS)
def test_the_same_command_goes_on_and_writes_the_same_files(
    model: Path, whole: dict[str, Any], tmp_path: Path, count: int
) -> None:
    out = tmp_path / "out" / "model.onnx"
    kill(model, out, count)
    assert not out.exists()
    result = run_successfully("export", model, out, *QUICK)
    assert POINTS[count] in result.stderr
    assert repeatable(out.parent) == whole


def test_what_was_there_stays_until_the_end(
    model: Path, finished: Path, whole: dict[str, Any], tmp_path: Path
) -> None:
    out = tmp_path / "model.onnx"
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    kill(model, out, 6, "--seed", 1)
    found = repeatable(tmp_path)
    assert {name: found[name] for name in whole} == whole


@pytest.mark.parametrize("options", [("--seed", 1), ("--dtype-compute", "bfloat16")])
def test_another_recipe_starts_anew_and_says_what_has_changed(
    model: Path, tmp_path: Path, options: tuple[object, ...]
) -> None:
    out = tmp_path / "model.onnx"
    kill(model, out, 6)
    result = run_successfully("export", model, out, *QUICK, *options)
    assert "holds parts of another run (recipe changed); they are removed" in result.stderr
    assert "from layer" not in result.stderr
    assert not usual_folder(out).exists()


def test_another_version_of_the_package_starts_anew(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "model.onnx"
    kill(model, out, 6)
    monkeypatch.setattr(work_folder, "__version__", "99.0")
    result = run_successfully("export", model, out, *QUICK)
    assert "holds parts of another run (version changed); they are removed" in result.stderr
    assert "from layer" not in result.stderr


def test_fresh_starts_anew(model: Path, whole: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "out" / "model.onnx"
    kill(model, out, 6)
    result = run_successfully("export", model, out, *QUICK, "--fresh")
    assert "has run already" not in result.stderr
    assert repeatable(out.parent) == whole


def test_the_work_folder_may_be_on_another_disk(
    model: Path, whole: dict[str, Any], tmp_path: Path
) -> None:
    out, work = tmp_path / "out" / "model.onnx", tmp_path / "disk" / "work"
    kill(model, out, 6, "--work", work)
    assert any(work.iterdir())
    shutil.rmtree(out.parent)  # with a hidden folder that the next run would remove
    result = run_successfully("export", model, out, *QUICK, "--work", work)
    assert "has run already" in result.stderr
    assert repeatable(out.parent) == whole
    assert not work.exists()


@pytest.mark.parametrize("spec", ["self", "auto"])
def test_a_text_that_the_model_wrote_is_that_of_the_next_run(
    model: Path, tmp_path: Path, spec: str
) -> None:
    outs, options = [tmp_path / name / "model.onnx" for name in ("a", "b")], ("--calibration", spec)
    run_successfully("export", model, outs[0], *QUICK, *options)
    kill(model, outs[1], 3, *options)  # the text, a layer, and not the next one
    result = run_successfully("export", model, outs[1], *QUICK, *options)
    assert "Writing calibration text" not in result.stderr
    assert "from layer 1 on" in result.stderr
    assert repeatable(outs[1].parent) == repeatable(outs[0].parent)


def test_a_training_goes_on_from_the_bases_with_which_it_began(model: Path, tmp_path: Path) -> None:
    outs, options = [tmp_path / name / "model.onnx" for name in ("a", "b")], ("--training-steps", 3)
    run_successfully("export", model, outs[0], *QUICK, *options)
    kill(model, outs[1], 8, *options)  # two layers, logits, sums, fitted rotations, two steps
    result = run_successfully("export", model, outs[1], *QUICK, *options)
    assert "Fitting" not in result.stderr
    assert "Training the rotations in 3 steps" in result.stderr
    assert repeatable(outs[1].parent) == repeatable(outs[0].parent)


def test_tuned_weights_are_kept(model: Path, tmp_path: Path) -> None:
    outs, options = [tmp_path / name / "model.onnx" for name in ("a", "b")], ("--tuning-steps", 33)
    run_successfully("export", model, outs[0], *QUICK, *options)
    # Two layers, logits, sums, rotations, the first layer's rounding errors; then the second's, a
    # state after each step, of 14 matrices and the numbers of steps; then the tuned matrices, and
    # their steps.
    kill(model, outs[1], 7, *options)
    kill(model, outs[1], 1 + 2 * 15 + 8, *options, before=OFTEN)
    printed = kill(model, outs[1], 3, *options)
    assert "Tuning the weights in 33 steps, from step 3 on" in printed
    result = run_successfully("export", model, outs[1], *QUICK, *options)
    assert "Tuning" not in result.stderr
    assert repeatable(outs[1].parent) == repeatable(outs[0].parent)


def test_a_calibration_goes_on_too(model: Path, tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("whole.safetensors", "resumed.safetensors")]
    run_successfully("calibrate", model, files[0], *QUICK)
    killed = program("calibrate", model, files[1], *QUICK, before=KILLED.format(count=2))
    assert subprocess.run(killed, capture_output=True, timeout=300, check=False).returncode == -9
    assert "from layer 1 on" in run_successfully("calibrate", model, files[1], *QUICK).stderr
    assert files[0].read_bytes() == files[1].read_bytes()
