import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from resq_onnx.projections.moments import Moments
from resq_onnx.recipe import Recipe
from scripts.simulated_study import Study
from scripts.simulated_variants import VARIANTS, Variant
from scripts.simulated_weights import fold_gains
from tests.calibration.tiny import layout, sequences, tiny_qwen2
from tests.calibration.whole_model import collect_moments

TEXT, CALIBRATION = sequences(3, 20), sequences(8, 20, seed=1)

NEARLY = 0.03
"""How near 8 bits everywhere come to the float model's perplexity, on a random model."""


@pytest.fixture(scope="module")
def moments() -> Moments:
    model = tiny_qwen2()
    return collect_moments(model, layout(model), CALIBRATION)


def _study(moments: Moments) -> Study:
    model = tiny_qwen2()
    reference: Any = SimpleNamespace(model=model)
    return Study(reference, layout(model), moments)


FRACTIONS = {0.0: 0.0, 1 / 16: 1 / 18, None: 1 / 6, 1 / 4: 1 / 3}
"""Of 36 coefficients, in the place of those of a real width; and below, of 24 and of 8."""

RANKS = {1 / 16: 0.0, 1 / 8: 1 / 4, 1 / 4: 1 / 2}


def _fitting(variant: Variant) -> Variant:
    """The variant with fractions that divide the widths of a tiny model."""
    recipe = dataclasses.replace(
        variant.recipe,
        high_fraction=RANKS[variant.recipe.high_fraction],
        down_high=FRACTIONS[variant.recipe.down_high],
    )
    return dataclasses.replace(variant, recipe=recipe)


def test_folding_the_gains_changes_no_logits() -> None:
    model = tiny_qwen2()
    with torch.inference_mode():
        before = model(input_ids=torch.from_numpy(TEXT)).logits
        fold_gains(model, layout(model))
        after = model(input_ids=torch.from_numpy(TEXT)).logits
    torch.testing.assert_close(before, after, rtol=0, atol=1e-4 * float(before.abs().max()))


def test_eight_bits_come_near_to_the_float_model(moments: Moments) -> None:
    study = _study(moments)
    recipe = Recipe(low_bits=8, high_fraction=0.25, down_high=1 / 6)
    values = [
        study.perplexity(variant, TEXT, CALIBRATION)
        for variant in (None, Variant("8 bits", recipe), None)
    ]
    assert values[0] == values[2], "weights are put back"
    assert 0 < abs(values[1] / values[0] - 1) < NEARLY


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_differs_from_the_default(name: str, moments: Moments) -> None:
    study = _study(moments)
    default = study.perplexity(_fitting(VARIANTS["default"]), TEXT, CALIBRATION)
    value = study.perplexity(_fitting(VARIANTS[name]), TEXT, CALIBRATION)
    assert np.isfinite(value)
    assert (value == default) == (name == "default")
