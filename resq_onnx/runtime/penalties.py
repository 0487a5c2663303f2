"""Change the logits of single tokens before sampling: by request, or because they were said.

As OpenAI's API defines it: of a token that the answer has n times, `frequency` is subtracted n
times and `presence` once; `bias` is added in any case. Prompts do not count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Penalties:
    """The changes of one answer."""

    def __init__(
        self, presence: float = 0.0, frequency: float = 0.0, bias: Mapping[int, float] | None = None
    ) -> None:
        """Begin an answer.

        Args:
            presence: Subtracted once from the logit of a token that has been said.
            frequency: Subtracted each time.
            bias: Added to the logits of these tokens, which must be in the vocabulary.
        """
        self._presence = presence
        self._frequency = frequency
        self._bias = dict(bias or {})
        self._said: Counter[int] = Counter()

    def note(self, token: int) -> None:
        """Count a token of the answer."""
        if self._presence or self._frequency:
            self._said[token] += 1

    def applied(self, logits: NDArray[Any]) -> NDArray[Any]:
        """The changed logits (vocabulary,); the same array if nothing changes."""
        if not self._bias and not self._said:
            return logits
        changed = logits.astype(np.float64)
        for token, bias in self._bias.items():
            changed[token] += bias
        for token, times in self._said.items():
            changed[token] -= self._presence + self._frequency * times
        return changed
