from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from resq_onnx.calibration.training.quantisers import Part
from resq_onnx.calibration.training.simulation import (
    Bases,
    Parts,
    bases_of,
    parts_by_recipe,
    simulated,
)
from resq_onnx.checkpoint.source import ModelSource
from resq_onnx.errors import ResqError
from resq_onnx.families import ModelLayout
from resq_onnx.projections.bases import compute_projections
from resq_onnx.recipe import Recipe
from tests import tiny_models
from tests.calibration.tiny import layout, obvious_moments, sequences, tiny_llama, tiny_qwen2
from tests.calibration.whole_model import collect_moments

RECIPE = Recipe(high_fraction=0.25, down_high=1 / 6)

FLOAT32 = 1e-4
"""Logits of two layers in float32, relative to the largest: turning there and back adds up."""


def _logits(model: Any, tokens: Any) -> torch.Tensor:
    with torch.inference_mode():
        return cast(torch.Tensor, model(input_ids=torch.from_numpy(tokens)).logits)


def _without_rounding(layers: int) -> Parts:
    none: tuple[tuple[Part, ...], ...] = ((),) * layers
    return Parts(none, none, none, none, ())


@pytest.mark.parametrize("method", ["resq", "quarot", "outlier"])
@pytest.mark.parametrize("make", [tiny_llama, tiny_qwen2])
def test_without_rounding_the_function_stays_the_same(make: Callable[[], Any], method: Any) -> None:
    model, tokens = make(), sequences(2, 9)
    recipe = Recipe(method=method, high_fraction=0.25, down_high=1 / 6)
    bases = compute_projections(recipe, layout(model), obvious_moments(model, tokens))
    expected = _logits(model, tokens)
    with simulated(model, layout(model), bases, _without_rounding(2), lambda: bases_of(bases)):
        found = _logits(model, tokens)
    largest = float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=0, atol=FLOAT32 * largest)
    assert torch.equal(_logits(model, tokens), expected), "the model is as it was"


def test_every_site_changes_the_logits_when_it_is_rounded() -> None:
    model, tokens = tiny_llama(), sequences(1, 9)
    bases = compute_projections(RECIPE, layout(model), obvious_moments(model, tokens))
    full, none = parts_by_recipe(RECIPE, bases), _without_rounding(2)
    expected = _logits(model, tokens)
    for site in ("attention", "mlp", "attention_out", "down", "record"):
        parts = Parts(**{**vars(none), site: getattr(full, site)})
        with simulated(model, layout(model), bases, parts, lambda: bases_of(bases)):
            found = _logits(model, tokens)
        change = float((found - expected).abs().max() / expected.abs().max())
        assert change > 10 * FLOAT32, site


def test_more_bits_bring_the_logits_nearer_to_the_float_models() -> None:
    model, tokens = tiny_llama(), sequences(2, 9)
    moments = obvious_moments(model, tokens)
    expected = _logits(model, tokens)
    errors = []
    for bits in (4, 8):
        recipe = Recipe(low_bits=bits, high_fraction=0.25, down_high=1 / 6)
        bases = compute_projections(recipe, layout(model), moments)
        parts = parts_by_recipe(recipe, bases)
        with simulated(model, layout(model), bases, parts, lambda b=bases: bases_of(b)):  # type: ignore[misc]
            errors.append(float((_logits(model, tokens) - expected).square().mean()))
    assert errors[1] < errors[0] / 50  # sixteen times finer steps: 256 times in the mean


def test_recipes_in_float_round_nothing() -> None:
    model, tokens = tiny_llama(), sequences(1, 9)
    bases = compute_projections(RECIPE, layout(model), obvious_moments(model, tokens))
    recipe = Recipe(high_fraction=0.25, down_high=1 / 6, activations="float", cache="float")
    assert parts_by_recipe(recipe, bases) == _without_rounding(2)


def test_a_stack_of_hidden_bases_gives_each_layer_its_own() -> None:
    turn = torch.from_numpy(np.linalg.qr(np.random.default_rng(0).standard_normal((3, 4, 4)))[0])
    assert torch.equal(Bases(turn, turn, turn).hidden_of(2), turn[2])
    assert torch.equal(Bases(turn[0], turn, turn).hidden_of(2), turn[0])


def _case(folder: Path, kind: str) -> tuple[Any, ModelLayout]:
    model = tiny_models.write_model(folder, kind, tied=True)
    return model, ModelSource(folder, kind).layout


@pytest.mark.parametrize("kind", ["mistral", "smollm3", "phi3_partly_rotary", "gemma3"])
def test_the_function_stays_the_same_with_windows_and_gains_less_one(
    tmp_path: Path, kind: str
) -> None:
    model, of_model = _case(tmp_path, kind)
    tokens = sequences(2, 3 * tiny_models.WINDOW)
    bases = compute_projections(Recipe(), of_model, collect_moments(model, of_model, tokens))
    expected = _logits(model, tokens)
    with simulated(model, of_model, bases, _without_rounding(2), lambda: bases_of(bases)):
        found = _logits(model, tokens)
    largest = float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=0, atol=FLOAT32 * largest)


def test_a_model_with_capped_scores_is_refused(tmp_path: Path) -> None:
    model, of_model = _case(tmp_path, "gemma2")
    bases = compute_projections(Recipe(method="quarot"), of_model, None)
    parts = _without_rounding(2)
    with (
        pytest.raises(ResqError, match=r"can be trained for Gemma 2.*--rotations fitted"),
        simulated(model, of_model, bases, parts, lambda: bases_of(bases)),
    ):
        pass


def test_weights_get_the_same_gradient_whether_or_not_the_bases_are_trained() -> None:
    """A fixed basis passes gradients straight through; there and back is the identity."""
    model, tokens = tiny_llama(), sequences(1, 9)
    projections = compute_projections(RECIPE, layout(model), obvious_moments(model, tokens))
    parts, fixed = parts_by_recipe(RECIPE, projections), bases_of(projections)
    trained = Bases(*(basis.clone().requires_grad_() for basis in vars(fixed).values()))
    gradients = []
    for bases in (fixed, trained):
        with simulated(model, layout(model), projections, parts, lambda b=bases: b):  # type: ignore[misc]
            logits = model(input_ids=torch.from_numpy(tokens)).logits
        gradients.append(torch.autograd.grad(logits.square().mean(), list(model.parameters())))
    assert trained.hidden.requires_grad
    for one, other in zip(*gradients, strict=True):
        largest = float(other.abs().max())
        torch.testing.assert_close(one, other, rtol=0, atol=FLOAT32 * largest)
