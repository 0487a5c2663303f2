"""Guessed tokens of one answer: which are to be checked, and which were right (speculation)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from resq_onnx.runtime.guessing import Guesser, Pace

ANSWER_COST: Final = 0.12
GUESS_COST: Final = 0.18
"""Time of each further answer, and of each guess beside several of them, as a share of that of a
call with one token (SmolLM2-135M, one thread, AVX-512-VNNI: with 1, 4, 8 and 16 tokens 14, 19, 29
and 49 ms)."""

HOPE: Final = 2
"""Right guesses that an answer is taken to have had before its first one."""

REMEMBERED: Final = 32
"""Guesses that say how many of the next will be right: what was long ago counts less."""

DRIFT: Final = 0.25
"""Right guesses that a draft is taken to have made where it was not asked, so that it is again."""


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
        self._unchecked = list[int]()
        self._counted = (0, 0)
        self._rated = float(HOPE), float(HOPE)
        """Guesses that are remembered, and how many of them were right."""

    def next(self, room: int) -> None:
        """Guess the next tokens, at most `room`; `cut` gives them, `note` checks them."""
        if self._guesser is None:
            return
        guessed, right = self._since_last()
        self._guesser.learn(guessed, right)
        self._rate(guessed, right)
        self.put(self._guesser.guess(room))

    def put(self, tokens: Sequence[int]) -> None:
        """Take guesses of the next tokens."""
        self.guessed += len(tokens)
        self._open = list(tokens)

    @property
    def rate(self) -> float:
        """Share of the last guesses that were right, a little more at first."""
        guessed, right = self._rated
        return right / guessed

    @property
    def offered(self) -> int:
        """Number of guesses that are to be checked."""
        return len(self._open)

    def cut(self, count: int) -> list[int]:
        """Keep the first `count` of the guesses that are to be checked."""
        self.guessed -= len(self._open[count:])
        self._unchecked = self._open[:1] if count == 0 else []
        self._open = self._open[:count]
        return list(self._open)

    def note(self, token: int) -> None:
        """Take the next token of the answer."""
        if self._guesser is not None:
            self._guesser.extend([token])
        self.last_was_right = self._open[:1] == [token]
        self._open = self._open[1:] if self.last_was_right else []
        self.right += self.last_was_right
        if self._unchecked:
            self._rate(1, self._unchecked == [token])
            self._unchecked = []

    def _rate(self, guessed: float, right: float) -> None:
        """Remember how many guesses were right, whether they were checked or not."""
        guessed, right = self._rated[0] + guessed, self._rated[1] + right
        share = min(REMEMBERED / guessed, 1.0)
        self._rated = share * guessed, share * right

    def _since_last(self) -> tuple[int, int]:
        """How many tokens were guessed, and right, since this was last asked."""
        guessed, right = self._counted
        self._counted = self.guessed, self.right
        return self.guessed - guessed, self.right - right


class DraftedGuesses(Guesses):
    """What a draft guesses: how many tokens is decided before it runs, which costs time."""

    def __init__(self, most: int, prompt_ids: Sequence[int]) -> None:
        """Begin behind a prompt; `most` is the largest number of tokens at a time, 1 or more."""
        super().__init__(0, prompt_ids)
        self._pace = Pace(most)
        self._length = len(prompt_ids)
        self._wanted = 0

    def next(self, room: int) -> None:
        """Decide how many tokens to guess, at most `room`; `put` takes them."""
        guessed, right = self._since_last()
        self._pace.learn(guessed, right, self._length)
        self._rate(guessed, right)
        if self._wanted and not guessed:
            self._rate(DRIFT, DRIFT)
        self._open = []
        self._wanted = max(min(self._pace.size(self._length), room), 0)

    @property
    def offered(self) -> int:
        """Number of guesses that are wanted."""
        return self._wanted

    def note(self, token: int) -> None:
        """Take the next token of the answer."""
        super().note(token)
        self._length += 1


def new_guesses(most: int, prompt_ids: Sequence[int], *, drafted: bool) -> Guesses:
    """What is guessed behind a prompt, by a draft or by the text itself."""
    return DraftedGuesses(most, prompt_ids) if drafted else Guesses(most, prompt_ids)


def worthwhile(offers: Sequence[Guesses], room: int) -> list[int]:
    """How many guesses of each text to check in a call; all together at most `room`.

    A guess makes the call longer for all texts. It is worth that if it is right as often as the
    tokens without guesses would be made in that time; of those that are, the surest come first.
    """
    count = len(offers)
    least = count * GUESS_COST / (1 + ANSWER_COST * (count - 1))
    found = [0] * count
    for place in sorted(range(count), key=lambda place: -offers[place].rate):
        if offers[place].rate >= least:
            found[place] = min(offers[place].offered, room)
            room -= found[place]
    return found
