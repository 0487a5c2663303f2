import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from resq_onnx.calibration.training import train_rotations
from resq_onnx.calibration.training.rotations import next_token_loss
from resq_onnx.calibration.training.simulation import bases_of, parts_by_recipe, simulated
from resq_onnx.projections.bases import Projections, compute_projections
from resq_onnx.recipe import Recipe
from tests.calibration.tiny import layout, obvious_moments, sequences, tiny_llama

STEPS = 30

ORTHOGONAL = 1e-12
"""float64: what training returns is rounded to the nearest orthogonal matrix."""


def _recipe(method: Any) -> Recipe:
    rotations: Any = "trained" if method == "resq" else "random"
    return Recipe(
        method=method,
        rotations=rotations,
        training_steps=STEPS,
        high_fraction=0.25,
        down_high=1 / 6,
    )


def _loss(model: Any, recipe: Recipe, bases: Projections, tokens: Any) -> float:
    parts = parts_by_recipe(recipe, bases)
    with (
        torch.inference_mode(),
        simulated(model, layout(model), bases, parts, lambda: bases_of(bases)),
    ):
        return float(next_token_loss(model, torch.from_numpy(tokens)))


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_llama()


@pytest.mark.parametrize("method", ["resq", "spinquant"])
def test_training_lowers_the_loss_and_keeps_bases_orthogonal(model: Any, method: Any) -> None:
    tokens, recipe = sequences(2, 24), _recipe(method)
    start = compute_projections(recipe, layout(model), obvious_moments(model, tokens))
    trained = train_rotations(model, layout(model), recipe, start, tokens)
    assert _loss(model, recipe, trained, tokens) < _loss(model, recipe, start, tokens) - 0.01
    for name in ("hidden", "value"):
        basis = getattr(trained, name)
        eye = np.broadcast_to(np.eye(basis.shape[-1]), basis.shape)
        np.testing.assert_allclose(basis @ np.swapaxes(basis, -1, -2), eye, atol=ORTHOGONAL)


def test_training_turns_inside_the_parts_alone(model: Any) -> None:
    tokens, recipe = sequences(2, 24), _recipe("resq")
    start = compute_projections(recipe, layout(model), obvious_moments(model, tokens))
    trained = train_rotations(model, layout(model), recipe, start, tokens)
    low = start.splits.attention[0].low
    mixed = start.hidden.T @ trained.hidden
    assert np.abs(mixed[:low, low:]).max() < ORTHOGONAL
    assert np.abs(mixed[:low, :low] - np.eye(low)).max() > 1e-3
    for field in dataclasses.fields(Projections):
        if field.name not in ("hidden", "value"):
            assert getattr(trained, field.name) is getattr(start, field.name), field.name


def test_the_same_start_gives_the_same_rotations_and_the_model_stays(model: Any) -> None:
    tokens, recipe = sequences(3, 12), _recipe("spinquant")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    start = compute_projections(recipe, layout(model), None)
    steps: list[tuple[int, int]] = []
    first = train_rotations(
        model, layout(model), recipe, start, tokens, lambda *done: steps.append(done)
    )
    second = train_rotations(model, layout(model), recipe, start, tokens)
    np.testing.assert_array_equal(first.hidden, second.hidden)
    assert steps == [(step, STEPS) for step in range(1, STEPS + 1)]
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())
