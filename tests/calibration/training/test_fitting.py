from typing import Any

import numpy as np
import pytest
import torch

from resq_onnx.calibration.training import fitting
from resq_onnx.calibration.training.fitting import expected_error, fit
from resq_onnx.calibration.training.quantisers import Part, fake_quantise
from resq_onnx.calibration.training.simulation import bases_of
from resq_onnx.calibration.training.turned import Turned, TurnedBases
from resq_onnx.projections.bases import compute_projections
from resq_onnx.recipe import BitSplit, Recipe
from tests.calibration.collected import collect
from tests.calibration.tiny import layout, obvious_moments, sequences, tiny_llama

RECIPE = Recipe(rotations="trained", high_fraction=0.25, down_high=1 / 6)


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_llama()


def test_the_expected_error_is_that_of_rounding() -> None:
    y, part = torch.randn(2000, 32, generator=torch.Generator().manual_seed(0)), Part(32, 4, 0.85)
    error = float((fake_quantise(y, [part]) - y).square().sum())
    assert float(expected_error(y, part)) == pytest.approx(error, rel=0.05)


def test_fitted_bases_round_other_tokens_with_smaller_errors(
    monkeypatch: pytest.MonkeyPatch, model: Any
) -> None:
    monkeypatch.setattr(fitting, "STEPS", 60)
    tokens, of_model = sequences(8, 40), layout(model)
    start = compute_projections(RECIPE, of_model, obvious_moments(model, tokens[:1]))
    turned, others = TurnedBases(start, RECIPE), collect(model, of_model, sequences(4, 40, seed=1))
    done: list[tuple[int, int]] = []
    samples = collect(model, of_model, tokens)
    fit(turned, samples, 0, lambda *step: done.append(step))
    assert done[-1][0] == done[-1][1] == len(done)
    before, after = bases_of(start), bases_of(turned.exact(start))
    head, stream = start.splits.record, start.splits.attention[0]
    for rows, split, names in (
        (others.hidden, stream, "hidden"),
        (others.value, head, "value"),
        (others.key, head, "key"),
    ):
        errors = []
        for bases in (before, after):
            y = rows.float() @ getattr(bases, names)
            low = [Part(split.low, 4), Part(split.high, 8)]
            errors.append(float((fake_quantise(y, low) - y).square().sum()))
        assert errors[1] < 0.95 * errors[0], names


def test_a_block_is_fitted_to_how_it_is_rounded(model: Any) -> None:
    of_model = layout(model)
    start = compute_projections(RECIPE, of_model, obvious_moments(model, sequences(1, 40)))
    turned = TurnedBases(start, RECIPE)
    split, head = start.splits.attention[0], start.splits.record
    assert turned.hidden[0].parts == [
        Part(split.low, 4, RECIPE.activation_clip),
        Part(split.high, 8),
    ]
    assert turned.values[0].parts == turned.keys[0].parts == [Part(head.low, 4), Part(head.high, 8)]


def test_rows_may_be_in_another_place_than_the_bases() -> None:
    """On `meta`, PyTorch refuses operands of another device, as it does on a GPU."""
    basis = Turned(torch.eye(16, device="meta"), [14], BitSplit(14, 2))
    fitting._step([basis], torch.zeros(1, 70, 16), 0.1, np.random.default_rng(0))
    assert basis.rotations[0].device.type == "meta"
