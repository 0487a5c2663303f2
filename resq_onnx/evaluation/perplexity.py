"""Perplexity, and differences between the predictions of two models, token by token.

All sums are in float64 over a few rows at a time, since logits are the largest arrays.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]

ROWS_AT_A_TIME: Final = 32
"""Tokens whose logits are widened to float64 together: 40 MB for a vocabulary of 150,000."""


@dataclass(frozen=True)
class PerplexityResult:
    """Perplexity of a model on a text.

    Attributes:
        perplexity: exp(nll).
        nll: Mean negative log-likelihood of a token, in nats.
        tokens: Number of predicted tokens.
        windows: Number of windows into which the text was cut.
    """

    perplexity: float
    nll: float
    tokens: int
    windows: int

    @classmethod
    def of(cls, losses: Doubles, windows: int) -> PerplexityResult:
        """The result, from the negative log-likelihood of each token."""
        nll = float(losses.mean())
        return cls(exponential(nll), nll, losses.size, windows)


@dataclass(frozen=True)
class Differences:
    """Differences between a model's predictions and a reference's, for each token, (N,).

    Attributes:
        divergence: Kullback-Leibler divergence of the prediction from the reference's,
            sum of p (log p - log q) with p the reference's probabilities, in nats.
        same_choice: Whether both find the same token most likely; the first one on a tie.
    """

    divergence: Doubles
    same_choice: NDArray[np.bool_]


def token_losses(logits: NDArray[np.float32], targets: NDArray[np.int64]) -> Doubles:
    """-log softmax(logits)[target] of each token, in nats.

    Args:
        logits: (N, vocabulary).
        targets: (N,).
    """
    found = np.empty(len(targets))
    for rows in _blocks(len(targets)):
        logs = _log_softmax(logits[rows])
        found[rows] = -np.take_along_axis(logs, targets[rows, None], axis=1)[:, 0]
    return found


def negative_log_likelihood(logits: NDArray[np.float32], targets: NDArray[np.int64]) -> float:
    """The sum of `token_losses`."""
    return float(token_losses(logits, targets).sum())


def token_differences(expected: NDArray[np.float32], found: NDArray[np.float32]) -> Differences:
    """Compare logits (N, vocabulary) with a reference's, `expected`."""
    divergence = np.empty(len(found))
    same_choice = np.empty(len(found), np.bool_)
    for rows in _blocks(len(found)):
        log_p, log_q = _log_softmax(expected[rows]), _log_softmax(found[rows])
        divergence[rows] = (np.exp(log_p) * (log_p - log_q)).sum(axis=1)
        same_choice[rows] = expected[rows].argmax(axis=1) == found[rows].argmax(axis=1)
    return Differences(divergence, same_choice)


def exponential(number: float) -> float:
    """e to this power; infinity on overflow."""
    try:
        return math.exp(number)
    except OverflowError:
        return math.inf


def _log_softmax(logits: NDArray[Any]) -> Doubles:
    rows = logits.astype(np.float64)
    rows -= rows.max(axis=1, keepdims=True)
    rows -= np.log(np.exp(rows).sum(axis=1, keepdims=True))
    return rows


def _blocks(rows: int) -> Iterator[slice]:
    for start in range(0, rows, ROWS_AT_A_TIME):
        yield slice(start, start + ROWS_AT_A_TIME)
