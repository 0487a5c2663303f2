"""Guessed tokens of one answer: which are to be checked, and which were right (speculation)."""

from __future__ import annotations

from collections.abc import Sequence

from resq_onnx.runtime.guessing import Guesser


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

    def next(self, room: int) -> list[int]:
        """Guess the next tokens, at most `room`; `note` then says whether they are right."""
        if self._guesser is None:
            return []
        guessed, right = self._counted
        self._guesser.learn(self.guessed - guessed, self.right - right)
        self._counted = self.guessed, self.right
        found = self._guesser.guess(room)
        self.guessed += len(found)
        self._open = list(found)
        return found

    def note(self, token: int) -> None:
        """Take the next token of the answer."""
        if self._guesser is None:
            return
        self._guesser.extend([token])
        self.last_was_right = self._open[:1] == [token]
        self._open = self._open[1:] if self.last_was_right else []
        self.right += self.last_was_right
