from typing import Any

import numpy as np
import pytest
import torch

from resq_onnx.calibration.training import SimulatedModel, Tuning, tuning
from resq_onnx.projections.bases import compute_projections
from resq_onnx.recipe import Recipe
from tests.calibration.tiny import layout, obvious_moments, sequences, tiny_llama

RECIPE = Recipe(high_fraction=0.25, down_high=1 / 6)
STEPS = 40
MATRICES = 7
"""Of a layer: q, k, v, o, gate, up and down."""


def _tuning(model: Any, recomputes: bool = False) -> Tuning:
    tokens, of_model = sequences(2, 24), layout(model)
    start = compute_projections(RECIPE, of_model, obvious_moments(model, tokens))
    simulated = SimulatedModel(model, of_model, RECIPE, start, tokens, recomputes=recomputes)
    return Tuning(simulated)


def _tuned(steps: int, recomputes: bool = False) -> dict[str, torch.Tensor]:
    model = tiny_llama()
    found = _tuning(model, recomputes)
    found.expect(steps)
    found.run(steps)
    return dict(model.state_dict())


def _stop_after(last: int) -> Any:
    def stop(done: int) -> None:
        if done == last:
            raise KeyboardInterrupt

    return stop


def _loss(found: Tuning) -> float:
    return float(np.mean([found.loss(number) for number in range(2)]))


def test_tuning_lowers_the_divergence_by_the_matrices_of_the_layers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The tiny model's weights are random, and its gradients large: larger steps are safe."""
    monkeypatch.setattr(tuning, "RATE", 4e-3)
    model, done = tiny_llama(), list[tuple[int, int]]()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = _tuning(model)
    found.expect(STEPS)
    divergence = _loss(found)
    model.zero_grad()
    found.run(STEPS, lambda *of: done.append(of))
    assert _loss(found) < 0.8 * divergence
    changed = [
        name for name, tensor in model.state_dict().items() if (tensor != before[name]).any()
    ]
    assert len(changed) == MATRICES * layout(model).num_layers
    assert all(".layers." in name and "norm" not in name for name in changed)
    assert done == [(step, STEPS) for step in range(1, STEPS + 1)]
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_recomputed_layers_give_the_same_weights() -> None:
    whole, again = _tuned(3), _tuned(3, recomputes=True)
    for name, tensor in whole.items():
        assert (tensor == again[name]).all(), name


def test_a_tuning_goes_on_from_the_state_of_another() -> None:
    stopped, resumed = _tuning(tiny_llama()), _tuning(tiny_llama())
    stopped.expect(4)
    with pytest.raises(KeyboardInterrupt):
        stopped.run(4, keep=_stop_after(3))
    resumed.expect(4, first=3)
    for name in resumed.weights:
        resumed.go_on_from(name, stopped.state(name), 3)
    done: list[tuple[int, int]] = []
    resumed.run(4, lambda *of: done.append(of), first=3)
    assert done == [(4, 4)]
    whole = _tuned(4)
    for name, weight in resumed.weights.items():
        assert (weight == whole[name]).all(), name


def test_a_tuning_that_goes_on_expects_what_it_will_read() -> None:
    found, read = _tuning(tiny_llama()), list[tuple[int, int]]()
    found.expect(4, lambda *of: read.append(of), first=3)
    assert read == [(1, 1)], "of two sequences the fourth step reads the second"
    found.run(4, first=3)


def test_timing_changes_neither_the_weights_nor_what_follows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A pass takes a second, one with gradients 2.5; two are timed, each on a new sequence."""
    seconds = 0.0

    def taking(function: Any, time: float) -> Any:
        def run(*given: Any) -> Any:
            nonlocal seconds
            seconds += time
            return function(*given)

        return run

    model = tiny_llama()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = _tuning(model)
    monkeypatch.setattr(tuning, "clock", lambda: seconds)
    monkeypatch.setattr(SimulatedModel, "float_hidden", taking(SimulatedModel.float_hidden, 1.0))
    monkeypatch.setattr(Tuning, "loss", taking(Tuning.loss, 2.5))
    timed, a_step, others = 2 * (1.0 + 2.5), 2.5, 2 * 1.0
    assert found.steps_within(timed + others + 5 * a_step) == 5
    assert found.steps_within(0.0) == 1
    assert all((before[name] == tensor).all() for name, tensor in model.state_dict().items())
    monkeypatch.undo()
    found.run(3)
    for name, tensor in _tuned(3).items():
        assert (tensor == model.state_dict()[name]).all(), name
