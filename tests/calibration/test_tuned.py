"""Tuning within minutes: how many steps, what is changed, and what is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from resq_onnx.calibration import trained, tuned
from resq_onnx.calibration.reference import load_model
from resq_onnx.calibration.rounding import rounding_errors
from resq_onnx.calibration.training import Tuning
from resq_onnx.calibration.tuned import ERRORS, TUNED
from resq_onnx.projections.bases import compute_projections
from resq_onnx.recipe import Recipe
from tests.calibration.tuned_run import ASKED, KINDS, Run

ROUNDING = 1e-6
"""Of weights below 1 to which their errors are added, and from which they are subtracted."""


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few steps are tuned with rounding errors, too."""
    monkeypatch.setattr(tuned, "FEW", 0)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(trained, "SAMPLES", 4)
    return Run(tmp_path)


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("kind", KINDS)
def test_the_tuned_model_differs_in_the_matrices_of_its_layers_alone(run: Run, kind: str) -> None:
    source = run.source(kind)
    found, recipe = run(source, tuning_steps=2)
    assert recipe.tuning_steps == 2
    layer = source.layout.family.layer.format(0).removesuffix("0")
    for name, parameter in load_model(source).named_parameters():
        matrix = name.startswith(layer) and parameter.dim() == 2
        if matrix or name in found.weights:
            stored = found.weights[name].float32()
            assert (stored != parameter.detach().numpy()).any() == matrix, name


def test_minutes_become_steps_and_finished_ones_are_kept(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    budgets: list[float] = []

    def steps_within(_tuning: Tuning, seconds: float) -> int:
        budgets.append(seconds)
        return 3

    times = iter([100.0, 130.0])
    monkeypatch.setattr(tuned, "clock", lambda: next(times))
    monkeypatch.setattr(Tuning, "steps_within", steps_within)
    first, recipe = run(run.source(), tuning_minutes=2.0)
    assert budgets == [90.0], "loading the model took half a minute"
    assert recipe.tuning_steps == 3
    assert "Tuning the weights in 3 steps" in run.titles
    run.titles.clear()
    again, _ = run(run.source(), tuning_minutes=2.0)
    assert run.titles == []
    name = "model.layers.1.mlp.down_proj.weight"
    one, two = (found.weights[name].float32() for found in (first, again))
    np.testing.assert_array_equal(one, two)


@pytest.mark.usefixtures("always")
def test_steps_change_rounded_weights_and_what_they_learn_is_added_to_the_float_ones(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, seen = run.source(), dict[str, NDArray[np.float32]]()
    name, learned = "model.layers.1.mlp.up_proj.weight", 0.25

    def learn(tuning: Tuning, *_given: Any) -> None:
        weight = tuning.weights[name].detach()
        seen["rounded"] = weight.numpy().copy()
        weight[3] += learned

    monkeypatch.setattr(Tuning, "run", learn)
    found, _ = run(source, tuning_steps=1)
    before = source.weights[name].float32()
    asked = Recipe(**ASKED)
    bases = compute_projections(asked, source.layout, None)
    errors = rounding_errors(source, bases, asked, None, 1)
    np.testing.assert_allclose(seen["rounded"], before + errors[name], atol=ROUNDING)
    expected = before + learned * (np.arange(len(before)) == 3)[:, None]
    np.testing.assert_allclose(found.weights[name].float32(), expected, atol=ROUNDING)


def test_a_few_steps_are_not_worth_a_rounding(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuned, "FEW", 2)
    run(run.source(), tuning_steps=2)
    assert not any("Rounding" in title for title in run.titles)
    run.work.file(TUNED).unlink()
    run(run.source(), tuning_steps=3)
    assert any("Rounding" in title for title in run.titles)


@pytest.mark.usefixtures("always")
def test_rounded_layers_are_kept_until_the_weights_are_tuned(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounded: list[int] = []

    def stopped_behind_the_first(*given: Any) -> Any:
        rounded.append(given[4])
        if len(rounded) == 2:
            raise KeyboardInterrupt
        return rounding_errors(*given)

    monkeypatch.setattr(tuned, "rounding_errors", stopped_behind_the_first)
    with pytest.raises(KeyboardInterrupt):
        run(run.source(), tuning_steps=1)
    run(run.source(), tuning_steps=1)
    assert rounded == [0, 1, 1]
    assert not [*run.folder.glob("rounding-*")], "their room is given back"
    run.work.save(ERRORS.format(0))
    run(run.source(), tuning_steps=1)
    assert not [*run.folder.glob("rounding-*")], "also if the process was killed before"
