"""Choose the tokens of an answer: penalties and a constraint change the logits, a sampler draws."""

from __future__ import annotations

import copy
from typing import Any

from numpy.typing import NDArray

from resq_onnx.errors import ResqError
from resq_onnx.runtime.constraints import Constraint
from resq_onnx.runtime.draft import Draw
from resq_onnx.runtime.generation import choose
from resq_onnx.runtime.penalties import Penalties
from resq_onnx.runtime.sampling import Sampler
from resq_onnx.serving.refusals import RefusalError, invalid
from resq_onnx.serving.scoring import ScoredToken, Scorer


class Chooser:
    """The choices of one answer."""

    def __init__(
        self,
        sampler: Sampler,
        penalties: Penalties,
        scorer: Scorer | None = None,
        constraint: Constraint | None = None,
        param: str = "response_format",
    ) -> None:
        """Begin an answer.

        Args:
            sampler: Draws the tokens.
            penalties: Change the logits before.
            scorer: Scores the tokens, if that is asked for.
            constraint: Allows only some of them.
            param: The field of the request that it comes from.
        """
        self._sampler = sampler
        self._penalties = penalties
        self._scorer = scorer
        self._constraint = constraint
        self._param = param
        self._passes = False
        """Whether what is drawn later is free again."""

    @property
    def is_complete(self) -> bool:
        """Whether nothing can follow."""
        return self._constraint is not None and self._constraint.is_complete

    @property
    def is_bound(self) -> bool:
        """Whether only some tokens may follow."""
        return self._constraint is not None

    def bind(self, constraint: Constraint) -> None:
        """Allow only what a constraint allows, until that is complete."""
        self._constraint, self._passes = constraint, True

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
            RefusalError: The constraint takes too much work.
        """
        changed = self._constrained(self._penalties.applied(logits), made)
        token = choose(self._sampler, changed, made, position)
        return token, () if self._scorer is None else (self._scorer.score(logits, token),)

    def note(self, token: int, made: int) -> None:
        """Take a token into the answer, which then has `made` of them.

        Raises:
            RefusalError: The constraint takes too much work.
        """
        self._penalties.note(token)
        if self._constraint is None:
            return
        try:
            self._constraint.note(token)
        except ResqError as error:
            raise self._unfollowable(error, made) from None
        if self._passes and self._constraint.is_complete:
            self._constraint = None

    def ahead(self) -> Draw:
        """Draws the tokens that would be chosen and noted next; nothing changes here."""
        constraint = None if self._constraint is None else self._constraint.copy()
        sampler, penalties = copy.deepcopy(self._sampler), copy.deepcopy(self._penalties)
        copied = Chooser(sampler, penalties, constraint=constraint)
        copied._passes = self._passes

        def draw(logits: NDArray[Any]) -> int | None:
            try:
                token, _ = copied.choose(logits, 0, 0)
                copied.note(token, 0)
            except (ResqError, RefusalError):  # said when it comes to that
                return None
            return token

        return draw

    def _constrained(self, logits: NDArray[Any], made: int) -> NDArray[Any]:
        if self._constraint is None:
            return logits
        try:
            return self._constraint.applied(logits)
        except ResqError as error:
            raise self._unfollowable(error, made) from None

    def _unfollowable(self, error: ResqError, made: int) -> RefusalError:
        message = f"the schema cannot be followed after {made} tokens: {error}"
        return invalid(message, self._param)
