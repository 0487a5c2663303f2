from __future__ import annotations

import dataclasses
import math

import pytest

from resq_onnx.errors import ResqError
from resq_onnx.evaluation.against_float import Quality
from resq_onnx.evaluation.distance import Distance
from resq_onnx.evaluation.quality_gate import MOST_DIVERGENCE, USUAL_DIVERGENCE, check_quality
from resq_onnx.recipe import Recipe

DEFAULTS = Recipe()

SQNR = (40.0, 38.0, 35.0, 34.0, 12.0)
"""Of the embedding, and behind both halves of two layers: the last MLP is noisy."""


def quality(divergence: float) -> Quality:
    distance = Distance(0.5, divergence, 0.25, 750.0, 1.0)
    return Quality(distance, tokens=512, sqnr_db=SQNR)


def warnings_of(divergence: float, force: bool = False, recipe: Recipe = DEFAULTS) -> list[str]:
    found: list[str] = []
    check_quality(quality(divergence), recipe, force, found.append)
    return found


def test_a_usual_model_passes_in_silence() -> None:
    assert warnings_of(USUAL_DIVERGENCE) == []


def test_an_unusual_model_is_warned_of() -> None:
    (line,) = warnings_of(MOST_DIVERGENCE)
    assert "2.00 nats per token away" in line
    assert "top-1 25.0%, perplexity 750 times, on 512 tokens" in line
    assert "layer 1, MLP: 34.0 to 12.0 dB" in line


@pytest.mark.parametrize("divergence", [MOST_DIVERGENCE + 0.01, 9.87, math.inf, math.nan])
def test_a_model_of_no_use_is_refused(divergence: float) -> None:
    with pytest.raises(ResqError, match=r"layer 1, MLP.*nothing was written.*--force"):
        warnings_of(divergence)


@pytest.mark.parametrize("divergence", [9.87, math.nan])
def test_force_writes_it_with_a_warning(divergence: float) -> None:
    (line,) = warnings_of(divergence, force=True)
    assert "because of --force" in line


@pytest.mark.parametrize(
    ("recipe", "remedies"),
    [
        (DEFAULTS, "--low-bits 8 or a --calibration text like your own"),
        (
            Recipe(head_bits=4),
            "--head-bits 8, --low-bits 8 or a --calibration text like your own",
        ),
        (
            Recipe(method="quarot"),
            "--method resq, --low-bits 8 or a --calibration text like your own",
        ),
        (Recipe(low_bits=8), "a --calibration text like your own"),
        (Recipe(target_bits=4.5), "a --calibration text like your own"),
        (
            Recipe(method="rtn", weights="rtn"),
            "--method resq, --weights gptq or --low-bits 8",
        ),
    ],
)
def test_the_options_that_may_help_are_those_that_the_recipe_lacks(
    recipe: Recipe, remedies: str
) -> None:
    (line,) = warnings_of(MOST_DIVERGENCE, recipe=recipe)
    assert line.endswith(f"; {remedies} may help")
    with pytest.raises(ResqError, match=f"; try {remedies}, or write it with --force"):
        warnings_of(math.inf, recipe=recipe)


def test_noise_of_an_attention_is_told_from_that_of_an_mlp() -> None:
    noisy = dataclasses.replace(quality(1.0), sqnr_db=(40.0, 38.0, 35.0, 12.0, 11.0))
    assert noisy.steepest == "layer 1, attention: 35.0 to 12.0 dB"
    assert noisy.layer_sqnr_db == (40.0, 35.0, 11.0)
