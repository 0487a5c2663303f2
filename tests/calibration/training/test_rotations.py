import dataclasses
from typing import Any

import numpy as np
import pytest

from resq_onnx.calibration.training import SimulatedModel, Training
from resq_onnx.projections.bases import Projections, compute_projections
from resq_onnx.recipe import Recipe
from tests.calibration.tiny import layout, obvious_moments, sequences, tiny_llama

STEPS = 30

ORTHOGONAL = 1e-12
"""float64: what training returns is rounded to the nearest orthogonal matrix."""


def _recipe(method: Any, **changes: Any) -> Recipe:
    rotations: Any = "trained" if method == "resq" else "random"
    return Recipe(
        method=method, rotations=rotations, high_fraction=0.25, down_high=1 / 6, **changes
    )


def _training(model: Any, recipe: Recipe, recomputes: bool = False) -> Training:
    tokens, of_model = sequences(2, 24), layout(model)
    start = compute_projections(recipe, of_model, obvious_moments(model, tokens))
    simulated = SimulatedModel(model, of_model, recipe, start, tokens, recomputes=recomputes)
    return Training(simulated)


def _loss(training: Training) -> float:
    return float(np.mean([training.loss(number) for number in range(2)]))


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_llama()


@pytest.mark.parametrize("method", ["resq", "spinquant"])
def test_training_lowers_the_loss_and_keeps_bases_orthogonal(model: Any, method: Any) -> None:
    training = _training(model, _recipe(method))
    before = _loss(training)
    training.forget()
    training.run(STEPS)
    trained = training.result()
    assert _loss(training) < before - 0.01
    for name in ("hidden", "value", "key"):
        basis = getattr(trained, name)
        eye = np.broadcast_to(np.eye(basis.shape[-1]), basis.shape)
        np.testing.assert_allclose(basis @ np.swapaxes(basis, -1, -2), eye, atol=ORTHOGONAL)


def test_training_turns_inside_the_parts_alone(model: Any) -> None:
    training = _training(model, _recipe("resq"))
    start = training.result()
    training.run(STEPS)
    trained, low = training.result(), start.splits.attention[0].low
    mixed = start.hidden.T @ trained.hidden
    assert np.abs(mixed[:low, low:]).max() < ORTHOGONAL
    assert np.abs(mixed[:low, :low] - np.eye(low)).max() > 1e-3
    for field in dataclasses.fields(Projections):
        if field.name not in ("hidden", "value", "key"):
            assert getattr(trained, field.name) is getattr(start, field.name), field.name


def test_keys_of_spinquant_stay(model: Any) -> None:
    training = _training(model, _recipe("spinquant"))
    start = training.result()
    training.run(2)
    assert training.result().key is start.key


def test_bases_in_which_nothing_is_rounded_stay(model: Any) -> None:
    training = _training(model, _recipe("resq", activations="float"))
    start = training.result()
    training.run(2)
    assert training.result().hidden is start.hidden
    assert not np.array_equal(training.result().value, start.value)


def test_recomputed_layers_and_a_stop_give_the_same_rotations_and_the_model_stays(
    model: Any,
) -> None:
    recipe, before = _recipe("resq"), {n: t.clone() for n, t in model.state_dict().items()}
    steps: list[tuple[int, int]] = []
    states: list[Any] = []
    whole = _training(model, recipe)
    whole.run(
        4,
        lambda *done: steps.append(done),
        lambda _done, state: states.append({n: t.clone() for n, t in state.items()}),
    )
    assert steps == [(step, 4) for step in range(1, 5)]
    again = _training(model, recipe, recomputes=True)
    again.go_on_from(states[1])
    again.run(4, first=2)
    for name in ("hidden", "value", "key"):
        np.testing.assert_array_equal(
            getattr(whole.result(), name), getattr(again.result(), name), err_msg=name
        )
    assert all((before[n] == t).all() for n, t in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())
    assert all("forward" not in vars(module) for module in model.modules())
