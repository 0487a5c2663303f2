"""Distance between the logits of two models on the same tokens."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from resq_onnx.evaluation.perplexity import (
    Differences,
    Doubles,
    exponential,
    token_differences,
    token_losses,
)

Logits = NDArray[np.float32]


@dataclass(frozen=True)
class Distance:
    """Distance of a model's predictions from those of a reference.

    Attributes:
        relative_error: Largest difference of logits over the reference's largest absolute logit.
        kl_divergence: Mean Kullback-Leibler divergence KL(reference || model), nats per token.
        top1_agreement: Share of positions at which both models find the same token most likely.
        perplexity_ratio: Perplexity over the reference's, on the same tokens.
        standard_error: Standard error of that ratio, to first order, from the sample standard
            deviation of the differences of token losses, assumed independent; None for fewer
            than two tokens.
    """

    relative_error: float
    kl_divergence: float
    top1_agreement: float
    perplexity_ratio: float
    standard_error: float | None

    @property
    def log_error(self) -> float:
        """Standard error of the log of the perplexity ratio, in nats; 0 if it is unknown."""
        return (self.standard_error or 0.0) / self.perplexity_ratio


@dataclass
class DistanceTally:
    """Accumulates a `Distance` over several texts; keeps a few numbers per token."""

    _largest: float = 0.0
    _error: float = 0.0
    _predictions: list[Differences] = field(default_factory=list)
    _losses: list[Doubles] = field(default_factory=list)

    def add(
        self, expected: Logits, found: Logits, expected_losses: Doubles, losses: Doubles
    ) -> None:
        """Add one text.

        Args:
            expected: Logits of the reference, (N, vocabulary).
            found: Logits of the model, (N, vocabulary).
            expected_losses: The reference's -log p of the next tokens that are known, (M,).
            losses: The same for the model, (M,).
        """
        for one, other in zip(expected, found, strict=True):  # a row at a time: they are large
            # np.maximum keeps a NaN, max() would lose it
            self._largest = float(np.maximum(self._largest, np.abs(one).max()))
            self._error = float(np.maximum(self._error, np.abs(other - one).max()))
        self._predictions.append(token_differences(expected, found))
        self._losses.append(losses - expected_losses)

    def distance(self) -> Distance:
        """The distance over all texts; at least one must have been added."""
        losses = np.concatenate(self._losses)
        ratio = exponential(float(losses.mean())) if losses.size else 1.0
        error = None
        if losses.size > 1:
            error = ratio * float(losses.std(ddof=1)) / losses.size**0.5
        return Distance(
            relative_error=self._error / (self._largest or 1.0),
            kl_divergence=float(np.concatenate([p.divergence for p in self._predictions]).mean()),
            top1_agreement=float(np.concatenate([p.same_choice for p in self._predictions]).mean()),
            perplexity_ratio=ratio,
            standard_error=error,
        )


def compare(expected: Logits, found: Logits, token_ids: NDArray[np.int64]) -> Distance:
    """Compare logits (B, S, vocabulary) on token ids (B, S), each text from its beginning."""
    tally = DistanceTally()
    for ids, *pair in zip(token_ids, expected, found, strict=True):
        losses = [token_losses(logits[:-1], ids[1:]) for logits in pair]
        tally.add(*pair, *losses)
    return tally.distance()
