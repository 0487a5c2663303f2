"""Guess the next tokens of a text from the text itself.

Where a text repeats itself, as summaries, edited code and lists do, the tokens that followed the
same few tokens earlier often follow again (prompt lookup, a form of speculative decoding: Leviathan
et al., arXiv 2211.17192). A model checks several guesses in one call, which reads its weights once.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Protocol

from resq_onnx.runtime.sampling import Sampler

LONGEST: Final = 5
SHORTEST: Final = 3
"""Tokens at the end of a text that are looked up; with two, most guesses on prose are wrong."""

FIRST: Final = 2
"""Tokens guessed at first; twice as many after guesses that were all right, half as many after
those that were all wrong."""

TRIAL: Final = 24
WORTH: Final = 0.25
REST: Final = 64
"""After so many guesses of which less than this share was right, nothing is guessed for so many
tokens. Each guess makes a call of SmolLM2 longer by an eighth of that of one token (AVX-512)."""


class TokenGuesser(Protocol):
    """What `generate` needs of a guesser of one text.

    Attributes:
        guessed: Tokens guessed so far.
        right: How many of them were right.
    """

    guessed: int
    right: int

    def extend(self, tokens: Iterable[int]) -> None:
        """Add tokens to the text."""

    def guess(self, room: int, sampler: Sampler) -> list[int]:
        """The likely next tokens, at most `room`; `sampler` is about to draw them."""

    def learn(self, guessed: int, right: int) -> None:
        """Note how many of the last guesses were right."""


class Pace:
    """How many tokens of a text to guess at a time, by how many were right."""

    def __init__(self, most: int) -> None:
        """Begin; `most` is the largest number of tokens to guess, 1 or more."""
        self._most = most
        self._size = min(FIRST, most)
        self._trial = (0, 0)
        self._rests_until = 0

    def size(self, length: int) -> int:
        """How many to guess behind a text of `length` tokens; 0 while that is not worth it."""
        return 0 if length < self._rests_until else self._size

    def learn(self, guessed: int, right: int, length: int) -> None:
        """Note how many of the last guesses were right, in a text of `length` tokens by now."""
        tried, found = self._trial[0] + guessed, self._trial[1] + right
        if tried >= TRIAL:
            if found < WORTH * tried:
                self._rests_until = length + REST
            tried, found = 0, 0
        self._trial = tried, found
        if guessed and right == guessed:
            self._size = min(2 * self._size, self._most)
        elif guessed and not right:
            self._size = max(self._size // 2, 1)


class Guesser:
    """The tokens of a text, and what followed where."""

    def __init__(self, most: int) -> None:
        """Begin an empty text; `most` is the largest number of tokens to guess, 1 or more."""
        self._pace = Pace(most)
        self._tokens: list[int] = []
        self._followed: dict[tuple[int, ...], int] = {}
        """By the last tokens of a beginning of the text, where the text went on."""
        self.guessed = self.right = 0

    def extend(self, tokens: Iterable[int]) -> None:
        """Add tokens to the text."""
        for token in tokens:
            end = len(self._tokens)
            for length in range(SHORTEST, min(LONGEST, end) + 1):
                self._followed[tuple(self._tokens[end - length :])] = end
            self._tokens.append(token)

    def guess(self, room: int, sampler: Sampler | None = None) -> list[int]:
        """The likely next tokens, at most `room`; none if the end of the text is new."""
        del sampler  # the text itself says what follows
        end = len(self._tokens)
        size = min(self._pace.size(end), room)
        if size <= 0:
            return []
        for length in range(min(LONGEST, end), SHORTEST - 1, -1):
            start = self._followed.get(tuple(self._tokens[end - length :]))
            if start is not None:
                return self._tokens[start : start + size]
        return []

    def learn(self, guessed: int, right: int) -> None:
        """Note how many of the last guesses were right; the next are more or fewer."""
        self.guessed += guessed
        self.right += right
        self._pace.learn(guessed, right, len(self._tokens))
