"""Losses and divergences of tokens, against naive float64 arithmetic."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import pytest
from numpy.typing import NDArray

from resq_onnx.evaluation.perplexity import (
    PerplexityResult,
    exponential,
    negative_log_likelihood,
    token_differences,
    token_losses,
)

FLOAT64_TOLERANCE: Final = 1e-12
"""Sums of float64 numbers in another order."""

ROWS: Final = (1, 31, 32, 33, 70)
"""Around multiples of the rows that are computed together."""


def probabilities(row: NDArray[np.float32]) -> list[float]:
    total = math.fsum(map(math.exp, row.tolist()))
    return [math.exp(logit) / total for logit in row.tolist()]


def random_logits(rows: int, seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 5, (rows, 11)).astype(np.float32)


@pytest.mark.parametrize("rows", ROWS)
def test_a_loss_is_that_of_naive_arithmetic(rows: int) -> None:
    logits = random_logits(rows, seed=rows)
    targets = np.random.default_rng(rows).integers(0, 11, rows)
    expected = [
        -math.log(probabilities(row)[target])
        for row, target in zip(logits, targets.tolist(), strict=True)
    ]
    np.testing.assert_allclose(token_losses(logits, targets), expected, rtol=FLOAT64_TOLERANCE)
    total = negative_log_likelihood(logits, targets)
    assert total == pytest.approx(math.fsum(expected), rel=FLOAT64_TOLERANCE)


@pytest.mark.parametrize("rows", ROWS)
def test_a_divergence_is_that_of_naive_arithmetic(rows: int) -> None:
    expected, found = random_logits(rows, seed=1), random_logits(rows, seed=2)
    found[0] = expected[0]
    differences = token_differences(expected, found)
    for row in range(rows):
        p, q = probabilities(expected[row]), probabilities(found[row])
        naive = math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        assert differences.divergence[row] == pytest.approx(
            naive, rel=FLOAT64_TOLERANCE, abs=FLOAT64_TOLERANCE
        )
        assert differences.same_choice[row] == (p.index(max(p)) == q.index(max(q)))
    assert differences.divergence[0] == 0.0


def test_the_divergence_is_from_the_reference_and_not_to_it() -> None:
    certain, doubtful = np.log(np.array([[[0.9, 0.1]], [[0.5, 0.5]]])).astype(np.float32)
    forward = token_differences(certain, doubtful).divergence[0]
    assert forward == pytest.approx(0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5))
    assert token_differences(doubtful, certain).divergence[0] > forward


def test_huge_logits_do_not_overflow() -> None:
    logits = np.array([[3e38, 0.0], [-3e38, 0.0]], np.float32)
    np.testing.assert_array_equal(token_losses(logits, np.array([0, 1])), [0.0, 0.0])
    np.testing.assert_array_equal(token_differences(logits, logits).divergence, [0.0, 0.0])


def test_perplexity_is_the_exponential_of_the_mean_loss() -> None:
    found = PerplexityResult.of(np.array([1.0, 2.0, 6.0]), windows=2)
    assert found == PerplexityResult(math.exp(3.0), 3.0, tokens=3, windows=2)


def test_a_hopeless_model_has_infinite_perplexity_and_no_error() -> None:
    assert PerplexityResult.of(np.array([1e4]), windows=1).perplexity == math.inf
    assert exponential(1e4) == math.inf
