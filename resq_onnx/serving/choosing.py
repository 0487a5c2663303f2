"""Choose the tokens of an answer: penalties change the logits, a sampler draws, a scorer scores."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from resq_onnx.runtime.generation import choose
from resq_onnx.runtime.penalties import Penalties
from resq_onnx.runtime.sampling import Sampler
from resq_onnx.serving.scoring import ScoredToken, Scorer


class Chooser:
    """The choices of one answer."""

    def __init__(
        self, sampler: Sampler, penalties: Penalties, scorer: Scorer | None = None
    ) -> None:
        """Begin an answer.

        Args:
            sampler: Draws the tokens.
            penalties: Change the logits before.
            scorer: Scores the tokens, if that is asked for.
        """
        self._sampler = sampler
        self._penalties = penalties
        self._scorer = scorer

    def choose(
        self, logits: NDArray[Any], made: int, position: int
    ) -> tuple[int, tuple[ScoredToken, ...]]:
        """The next token, and its score if that is asked for.

        Args:
            logits: After the last token, (vocabulary,).
            made: As for `resq_onnx.runtime.generation.choose`.
            position: As for `resq_onnx.runtime.generation.choose`.

        Raises:
            ResqError: The logits are not finite.
        """
        token = choose(self._sampler, self._penalties.applied(logits), made, position)
        return token, () if self._scorer is None else (self._scorer.score(logits, token),)

    def note(self, token: int) -> None:
        """Take a token into the answer."""
        self._penalties.note(token)
