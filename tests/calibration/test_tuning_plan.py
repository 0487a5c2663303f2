"""Whether weights are tuned: where they were to be, where nobody said, and where it cannot be."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from resq_onnx.calibration import trained, tuned, tuning_plan
from resq_onnx.calibration.recipe_text import CalibrationText
from resq_onnx.calibration.reference import load_tokenizer
from resq_onnx.calibration.run import CalibrationRun
from resq_onnx.calibration.training.memory import bytes_of_matrices
from resq_onnx.calibration.tuned import ERRORS, FEW, TUNED
from resq_onnx.calibration.tuning_plan import TuningPlan, carry_out, check_tuning, planned
from resq_onnx.calibration.tuning_state import STATE, keep_steps, kept_steps
from resq_onnx.checkpoint.source import ADAPTER, ModelSource
from resq_onnx.errors import ResqError
from resq_onnx.files.work_folder import WorkFolder
from resq_onnx.progress import Progress
from resq_onnx.projections.bases import compute_projections
from resq_onnx.recipe import Recipe
from resq_onnx.resources import Resources
from tests.tiny_models import write_model
from tests.usual_tuning import tuning_by_default

STEPS = 5
LITTLE = Resources(max_memory=1_000)


class Planning:
    """Decides for a tiny model."""

    def __init__(self, folder: Path) -> None:
        self.work, self.warnings = WorkFolder(folder), list[str]()
        write_model(folder / "model", "llama", tied=True)
        self.source = ModelSource(folder / "model", "llama")

    def run(self, resources: Resources | None = None) -> CalibrationRun:
        progress, tokenizer = Progress(warn=self.warnings.append), load_tokenizer(self.source)
        return CalibrationRun(self.source, tokenizer, self.work, progress, resources or Resources())

    def __call__(self, recipe: Recipe, resources: Resources | None = None) -> TuningPlan:
        return planned(self.run(resources), recipe, recipe.to_json())

    def check(self, resources: Resources | None = None, others: int = 0) -> bool:
        return check_tuning(self.run(resources), Recipe(), others)


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Planning:
    tuning_by_default(monkeypatch, STEPS)
    monkeypatch.setattr(trained, "SAMPLES", 3)
    return Planning(tmp_path)


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes of disk that each decision asks for."""
    asked: list[int] = []
    monkeypatch.setattr(
        tuning_plan, "check_room", lambda _folder, needed, _what: asked.append(needed)
    )
    return asked


def test_a_few_steps_unless_others_were_asked_for(plan: Planning) -> None:
    usual = plan(Recipe())
    assert usual.recipe.tuning_steps == STEPS
    assert usual.text is not None
    assert usual.text.shape == (3, 512)
    assert plan(Recipe(tuning_steps=2)).recipe.tuning_steps == 2
    for_minutes = plan(Recipe(tuning_minutes=3)).recipe
    assert (for_minutes.tuning_minutes, for_minutes.tuning_steps) == (3, None)
    for recipe in (Recipe(tuning_steps=0), Recipe(method="quarot"), Recipe(format="contrib")):
        assert plan(recipe) == TuningPlan(dataclasses.replace(recipe, tuning_steps=0))
    assert plan.warnings == []


def test_too_little_memory_is_an_error_if_tuning_was_asked_for_and_else_a_warning(
    plan: Planning,
) -> None:
    words = "tuning the weights of this model takes"
    with pytest.raises(ResqError, match=words):
        plan(Recipe(tuning_steps=2), LITTLE)
    assert plan.warnings == []
    assert plan(Recipe(), LITTLE) == TuningPlan(Recipe(tuning_steps=0), left_out=True)
    (warning,) = plan.warnings
    assert warning.startswith(f"the weights are not tuned, which costs quality: {words}")


def test_a_text_that_is_gone_is_an_error(plan: Planning, tmp_path: Path) -> None:
    """It is not read for the calibration where a projections file takes its place."""
    with pytest.raises(ResqError, match=r"gone\.txt"):
        plan(Recipe(calibration=str(tmp_path / "gone.txt")))


def test_a_text_that_the_model_cannot_write_again_is_one_more_reason(
    plan: Planning, monkeypatch: pytest.MonkeyPatch
) -> None:
    def written(_run: CalibrationRun, _recipe: Recipe) -> CalibrationText:
        return CalibrationText(np.zeros((1, 4), np.int64), "bundled")

    monkeypatch.setattr(tuning_plan, "training_text", written)
    words = "the model cannot write the text of the calibration, auto"
    assert plan(Recipe(calibration="auto")).left_out
    assert words in plan.warnings[0]
    with pytest.raises(ResqError, match=f"{words}; use --tune 0"):
        plan(Recipe(calibration="auto", tuning_steps=1))


def test_main_memory_counts_on_a_gpu_too(plan: Planning, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CalibrationRun, "device", "cuda")
    room = {"cuda": 10**12, "cpu": 7}
    monkeypatch.setattr(tuning_plan, "room_for", lambda device, _most: room[device])
    plan.check()
    words = r"main memory, into which it is loaded, and 0\.0 may"
    with pytest.raises(ResqError, match=words):
        plan.check(LITTLE)
    monkeypatch.setattr(tuning_plan, "available_bytes", lambda: 7)
    with pytest.raises(ResqError, match=words):
        plan.check()


def test_what_transformers_would_load_otherwise_is_not_tuned(plan: Planning) -> None:
    (plan.source.folder / ADAPTER).write_text("{}")
    assert plan(Recipe()).left_out
    assert f"and no {ADAPTER}; correct that, or use --tune 0" in plan.warnings[0]
    (plan.source.folder / ADAPTER).unlink()
    weights = plan.source.folder / "model.safetensors"
    weights.rename(weights.with_name("part.safetensors"))
    with pytest.raises(ResqError, match=r"needs model\.safetensors or its index"):
        plan(Recipe(tuning_steps=1))


def test_a_stopped_export_goes_on_as_it_began(plan: Planning) -> None:
    """Its finished matrices are those of one model: the tuned or the original one."""
    assert plan(Recipe(), LITTLE).left_out
    assert plan(Recipe()).text is not None, "there is memory now, and no matrix is finished"
    without = plan(Recipe(), LITTLE)
    bases = compute_projections(Recipe(method="quarot"), plan.source.layout, None)
    assert carry_out(without, plan.run(), without.recipe, bases, None) == (None, without.recipe)
    assert plan(Recipe()).left_out
    assert "this export began without it; --fresh starts anew" in plan.warnings[-1]
    plan.work.file("untuned").unlink()
    plan.work.save(TUNED)
    assert plan(Recipe(), LITTLE).text is not None, "it is done already"


def test_capped_scores_are_not_tuned(plan: Planning, tmp_path: Path) -> None:
    write_model(tmp_path / "gemma2", "gemma2", tied=True)
    plan.source = ModelSource(tmp_path / "gemma2", "gemma2")
    assert plan(Recipe()) == TuningPlan(Recipe(tuning_steps=0))
    assert plan.warnings == []


def test_memory_decides_whether_layers_are_computed_twice(
    plan: Planning, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ResqError, match=r"takes \d\.\d GB, and 0\.0 may be taken; .*--tune 0"):
        plan.check(LITTLE)
    needed = {False: 8, True: 4}
    monkeypatch.setattr(tuning_plan, "bytes_of_tuning", lambda *of: needed[of[-1]])
    for room, recomputes in ((10, False), (5, True)):
        monkeypatch.setattr(tuning_plan, "room_for", lambda *_, room=room: room)
        assert plan.check() == recomputes
        assert plan(Recipe()).recomputes == recomputes
    monkeypatch.setattr(tuned, "bytes_of_matrices", lambda _layout: 10**18)
    with pytest.raises(ResqError, match=r"tuning the weights of this model takes .* GB of disk"):
        plan.check()
    monkeypatch.setattr(tuned, "bytes_of_matrices", lambda _layout: 0)
    with pytest.raises(ResqError, match="of disk"):
        plan.check(others=10**18)


def test_what_a_stopped_tuning_left_needs_no_more_room(plan: Planning, room: list[int]) -> None:
    matrices = bytes_of_matrices(plan.source.layout)
    plan(Recipe(tuning_steps=FEW))
    plan(Recipe(tuning_steps=FEW + 1))
    plan.work.save(ERRORS.format(1), {"error": np.zeros(1000, np.float32)})
    plan(Recipe(tuning_minutes=15))
    there = plan.work.file(ERRORS.format(1)).stat().st_size
    assert room == [matrices + matrices // 2, 2 * matrices, 2 * matrices - there]


def test_a_kept_state_needs_room_for_the_result_alone(plan: Planning, room: list[int]) -> None:
    matrices = bytes_of_matrices(plan.source.layout)
    left = f"{STATE.format(3)}-00000"
    plan.work.save(left, {"weight": np.zeros(matrices, np.uint8)})
    plan(Recipe(tuning_minutes=15))
    assert not plan.work.has(left), "its state is not complete"
    keep_steps(plan.work, 3, FEW)
    plan.work.save(left, {"weight": np.zeros(matrices // 4, np.uint8)})
    plan(Recipe(tuning_minutes=15))
    there = plan.work.file(left).stat().st_size
    plan.work.save(left, {"weight": np.zeros(3 * matrices, np.uint8)})
    plan(Recipe(tuning_minutes=15))
    assert room == [2 * matrices, matrices + matrices // 2 - there, matrices]


def test_a_tuning_that_was_begun_is_not_left_out(plan: Planning) -> None:
    keep_steps(plan.work, 3, 16)
    with pytest.raises(ResqError, match="tuning the weights of this model takes"):
        plan(Recipe(), LITTLE)
    assert kept_steps(plan.work) == (3, 16)


def test_what_a_tuning_that_is_left_out_had_kept_is_removed(plan: Planning) -> None:
    keep_steps(plan.work, 0, 16)
    plan.work.save(ERRORS.format(0))
    found = plan(Recipe(), LITTLE)
    assert found.left_out
    bases = compute_projections(Recipe(method="quarot"), plan.source.layout, None)
    carry_out(found, plan.run(LITTLE), found.recipe, bases, None)
    assert plan.work.names("tuning*") == plan.work.names("rounding*") == []
