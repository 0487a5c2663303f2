"""Guessed tokens of one answer: which are to be checked, and which were right (speculation)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from resq_onnx.runtime.guessing import Guesser

COST: Final = 0.15
"""Time of each further token in a call, as a share of that of a call with one (SmolLM2-135M, one
thread, AVX-512-VNNI: 12 to 16 %)."""

HOPE: Final = 4
"""Right guesses that an answer is taken to have had before its first one."""


class Guesses:
    """What is guessed of one answer; the answer is the same with and without.

    Attributes:
        guessed: Tokens guessed so far.
        right: How many of them the answer has.
        last_was_right: Whether the last token was guessed, so that the logits after it are known.
    """

    def __init__(self, most: int, prompt_ids: Sequence[int]) -> None:
        """Begin behind a prompt; `most` is the largest number of tokens at a time, or 0."""
        self.guessed = self.right = 0
        self.last_was_right = False
        self._guesser = Guesser(most) if most else None
        if self._guesser is not None:
            self._guesser.extend(prompt_ids)
        self._open = list[int]()
        self._counted = (0, 0)

    def next(self, room: int) -> None:
        """Guess the next tokens, at most `room`; `cut` gives them, `note` checks them."""
        if self._guesser is None:
            return
        guessed, right = self._counted
        self._guesser.learn(self.guessed - guessed, self.right - right)
        self._counted = self.guessed, self.right
        found = self._guesser.guess(room)
        self.guessed += len(found)
        self._open = list(found)

    @property
    def rate(self) -> float:
        """Share of the guesses that were right, a little more at first."""
        return (self.right + HOPE) / (self.guessed - len(self._open) + HOPE)

    @property
    def offered(self) -> int:
        """Number of guesses that are to be checked."""
        return len(self._open)

    def cut(self, count: int) -> list[int]:
        """Keep the first `count` of the guesses that are to be checked."""
        self.guessed -= len(self._open[count:])
        self._open = self._open[:count]
        return list(self._open)

    def note(self, token: int) -> None:
        """Take the next token of the answer."""
        if self._guesser is None:
            return
        self._guesser.extend([token])
        self.last_was_right = self._open[:1] == [token]
        self._open = self._open[1:] if self.last_was_right else []
        self.right += self.last_was_right


def worthwhile(offers: Sequence[Guesses]) -> int:
    """How many guesses of each text to check in a call, whose rows are of equal length.

    A guess costs a token in every row, and time that all texts wait: of `count` texts, each right
    one has to bring as much as `count` tokens of the call cost.
    """
    count = len(offers)
    for width in range(max(one.offered for one in offers), 0, -1):
        right = sum(one.rate * min(one.offered, width) for one in offers)
        if right >= COST * count * count * width:
            return width
    return 0
