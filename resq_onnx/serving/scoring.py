"""Log-probabilities of tokens, as the model gives them.

They are the log-softmax, in float64, of the model's own logits: before temperature, penalties,
biases and constraints, so they do not depend on how the tokens are drawn.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from resq_onnx.errors import ResqError

LEAST: Final = -9999.0
"""Instead of minus infinity, which JSON cannot write; as in OpenAI's API."""


@dataclass(frozen=True)
class Alternative:
    """A token at its place, with the logarithm of its probability."""

    token: bytes
    log_probability: float


@dataclass(frozen=True)
class ScoredToken:
    """A token of a text.

    Attributes:
        token: Its bytes.
        log_probability: Of this token after the ones before it; None for the first of a text.
        alternatives: The likeliest tokens at its place, the likeliest first.
        hidden: Whether it is no part of the text, as special tokens of an answer are not.
    """

    token: bytes
    log_probability: float | None
    alternatives: tuple[Alternative, ...] = ()
    hidden: bool = False


class Scorer:
    """Scores the tokens of one answer."""

    def __init__(
        self, names: Mapping[int, bytes], alternatives: int, hidden: Collection[int] = ()
    ) -> None:
        """Begin.

        Args:
            names: The bytes of each token.
            alternatives: How many of the likeliest tokens to name at each place.
            hidden: Tokens that are no part of the text.
        """
        self._names = names
        self._hidden = hidden
        self._alternatives = alternatives

    def score(self, logits: NDArray[Any], token: int) -> ScoredToken:
        """Score a token, from the logits (vocabulary,) that predict it.

        Raises:
            ResqError: The logits are not finite.
        """
        widened = logits.astype(np.float64)
        highest = widened.max()
        if not np.isfinite(highest):
            raise ResqError("the model computes logits that are not finite; export it again")
        widened -= highest
        log_probabilities = widened - np.log(np.exp(widened).sum())
        best = likeliest(log_probabilities, self._alternatives)
        return ScoredToken(
            self._name(token),
            _finite(log_probabilities[token]),
            tuple(Alternative(self._name(one), _finite(log_probabilities[one])) for one in best),
            token in self._hidden,
        )

    def first(self, token: int, hidden: bool) -> ScoredToken:
        """The first token of a text, which nothing predicts."""
        return ScoredToken(self._name(token), None, (), hidden)

    def _name(self, token: int) -> bytes:
        return self._names.get(token, b"")


class PromptScores:
    """Scores of a prompt's tokens, which come slice by slice; the choices of a request share them.

    Attributes:
        found: Of the first tokens.
    """

    def __init__(self, scorer: Scorer, token_ids: Sequence[int], opened: bool) -> None:
        """Begin with none.

        Args:
            scorer: Scores them.
            token_ids: The prompt.
            opened: Whether the tokenizer has added the first of them.
        """
        self.found = [scorer.first(token_ids[0], opened)]
        self._scorer = scorer
        self._token_ids = list(token_ids)

    @property
    def is_complete(self) -> bool:
        """Whether each token has a score."""
        return len(self.found) == len(self._token_ids)

    def restart(self) -> None:
        """Forget all but the first, because the prompt is run again."""
        del self.found[1:]

    def take(self, logits: NDArray[Any]) -> None:
        """Score the next tokens, from the logits (tokens, vocabulary) that predict them.

        The last logits after a whole prompt predict the answer, and are not used here.
        """
        targets = self._token_ids[len(self.found) :]
        self.found += [
            self._scorer.score(row, token) for row, token in zip(logits, targets, strict=False)
        ]


def likeliest(values: NDArray[np.float64], count: int) -> list[int]:
    """The places of the largest values, the largest first, and the first of equal ones."""
    count = min(count, len(values))
    if not count:
        return []
    least = np.partition(values, -count)[-count]
    found = np.flatnonzero(values >= least)
    return [int(place) for place in found[np.argsort(-values[found], kind="stable")][:count]]


def _finite(value: float) -> float:
    return max(float(value), LEAST)
