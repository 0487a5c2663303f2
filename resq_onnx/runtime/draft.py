"""Guess the next tokens of texts with a draft: a smaller model of the same vocabulary.

A draft runs its guesses token by token, which pays if it is much faster than the model that checks
them in one call (Leviathan et al., "Fast Inference from Transformers via Speculative Decoding",
arXiv 2211.17192). Its tokens are drawn as the text's own will be, with the same random numbers: a
draft that gives the same probabilities is always right, at any temperature.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from resq_onnx.errors import ResqError
from resq_onnx.runtime.buffered import PREFILL_SLICE
from resq_onnx.runtime.guessing import Pace
from resq_onnx.runtime.positions import positions_of
from resq_onnx.runtime.ragged import RaggedDecoder
from resq_onnx.runtime.ragged_graph import ragged_session
from resq_onnx.runtime.sampling import Sampler
from resq_onnx.runtime.tokenizer import Tokenizer

if TYPE_CHECKING:
    import onnxruntime

FEW: Final = 16
"""Tokens that a draft may lack of a text and guess nevertheless; more are read slice by slice."""

SHARED_SLICE: Final = 64
"""Tokens of one text that a draft reads while other texts wait."""

Draw = Callable[[NDArray[Any]], int | None]
"""The token that a text would draw next from logits (vocabulary,); None if it cannot go on."""


@dataclass(frozen=True)
class Wish:
    """A text that wants guesses.

    Attributes:
        row: Its row.
        tokens: The text so far.
        count: How many guesses, at most.
        draw: Draws them, one after another.
    """

    row: int
    tokens: Sequence[int]
    count: int
    draw: Draw


@dataclass
class _Turn:
    """A wish that is being fulfilled.

    Attributes:
        wish: The wish.
        known: How many tokens of its text the row has cached.
        guesses: So far.
    """

    wish: Wish
    known: int
    guesses: list[int] = field(default_factory=list)

    @property
    def missing(self) -> int:
        """Tokens of the text that the draft has not run; at least the last one."""
        return len(self.wish.tokens) - self.known


class Draft:
    """A draft with a row of its cache for each of several texts; one thread at a time."""

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        rows: int,
        max_length: int,
        vocabulary: int,
        stop_ids: Collection[int] = (),
    ) -> None:
        """Make the rows.

        Args:
            session: Of `ragged_session`.
            rows: Number of texts.
            max_length: Of the longest text of which anything is guessed.
            vocabulary: Number of logits of the model that checks the guesses.
            stop_ids: Tokens that end a text; they are not guessed.

        Raises:
            ResqError: The graph is not a decoder.
            MemoryError: There is not enough memory.
        """
        self._decoder = RaggedDecoder(session, max_length, rows)
        self._own = self._decoder.signature.vocabulary or 0
        self._vocabulary = vocabulary
        self._stop_ids = frozenset(stop_ids)
        self._cached = [list[int]() for _ in range(rows)]
        """The tokens of each row, guesses that may have been wrong included."""
        self._certain = [0] * rows
        """How many of them were no guesses."""

    def guess(self, wishes: Sequence[Wish]) -> list[list[int]]:
        """Guess the next tokens of texts: fewer than wished, or none, where it cannot.

        A text that the draft hardly knows is read first: a slice of one text at a time, and nothing
        is guessed of it until it has been read.
        """
        turns = [_Turn(wish, self._known(wish)) for wish in wishes]
        able = [turn for turn in turns if self._room(turn) and self._can_read(turn)]
        behind = [turn for turn in able if turn.missing > FEW]
        if behind:
            self._read(behind[0], PREFILL_SLICE if len(wishes) == 1 else SHARED_SLICE)
        self._guess([turn for turn in able if turn not in behind])
        return [turn.guesses for turn in turns]

    def read(self, wish: Wish) -> None:
        """Read all of a text that has to be read before anything is guessed of it."""
        turn = _Turn(wish, self._known(wish))
        while self._room(turn) and self._can_read(turn) and turn.missing > FEW:
            self._read(turn, PREFILL_SLICE)

    def _guess(self, going: Sequence[_Turn]) -> None:
        """Draw a token of each text in a call, as long as there is one that wants more."""
        turns, ids, made = going, self._last_tokens(going), 0
        while going:
            logits = self._decoder.run([turn.wish.row for turn in going], ids)
            for turn, after in zip(going, logits, strict=True):
                turn.guesses += self._drawn(turn.wish, after)
            made += 1
            going = [turn for turn in going if made == len(turn.guesses) < self._room(turn)]
            ids = np.array([turn.guesses[-1:] for turn in going], np.int64)
        for turn in turns:
            row, text = turn.wish.row, [*turn.wish.tokens, *turn.guesses]
            self._cached[row] = text[: self._decoder.lengths[row]]
            self._certain[row] = len(turn.wish.tokens)

    def _last_tokens(self, turns: Sequence[_Turn]) -> NDArray[np.int64]:
        """Tokens (texts, count) to run now: equally many of each, so some run once more."""
        if not turns:
            return np.zeros((0, 1), np.int64)
        count = min(max(t.missing for t in turns), min(len(t.wish.tokens) for t in turns))
        for turn in turns:
            if turn.missing > count:
                self._read(turn, turn.missing - count)
            self._decoder.rewind(turn.wish.row, len(turn.wish.tokens) - count)
        return np.array([turn.wish.tokens[-count:] for turn in turns], np.int64)

    def _read(self, turn: _Turn, most: int) -> None:
        """Run the next tokens of a text, but never its last one."""
        row, end = turn.wish.row, min(turn.known + most, len(turn.wish.tokens) - 1)
        self._decoder.rewind(row, turn.known)
        self._decoder.run([row], np.array([turn.wish.tokens[turn.known : end]], np.int64))
        self._cached[row], self._certain[row] = list(turn.wish.tokens[:end]), end
        turn.known = end

    def _drawn(self, wish: Wish, logits: NDArray[Any]) -> list[int]:
        """The next token of a text; none if it ends, or if the draft cannot go on."""
        fitted = logits[: self._vocabulary]
        if len(fitted) < self._vocabulary:
            fitted = np.pad(fitted, (0, self._vocabulary - len(fitted)), constant_values=-np.inf)
        token = wish.draw(fitted) if np.isfinite(fitted.max()) else None
        return [] if token is None or token in self._stop_ids or token >= self._own else [token]

    def _room(self, turn: _Turn) -> int:
        """How many tokens to guess: the last one is not cached."""
        rest = self._decoder.max_length - len(turn.wish.tokens) + 1
        return max(min(turn.wish.count, rest), 0)

    def _can_read(self, turn: _Turn) -> bool:
        """Whether the draft has all tokens of the text; some vocabularies are padded further."""
        return max(turn.wish.tokens[turn.known :]) < self._own

    def _known(self, wish: Wish) -> int:
        """Number of tokens at the beginning of a text that its row has cached, never the last."""
        cached, certain = self._cached[wish.row], self._certain[wish.row]
        end = min(len(cached), len(wish.tokens) - 1)
        known = min(certain, end)
        if cached[:known] != list(wish.tokens[:known]):
            known = 0
        while known < end and cached[known] == wish.tokens[known]:
            known += 1
        return known


class DraftGuesser:
    """Guesses one text with a draft, for `generate`.

    Attributes:
        guessed: Tokens guessed so far.
        right: How many of them were right.
    """

    def __init__(self, draft: Draft, most: int) -> None:
        """Begin an empty text in the first row; `most` is the largest number of tokens to guess."""
        self.guessed = self.right = 0
        self._draft = draft
        self._pace = Pace(most)
        self._tokens: list[int] = []

    def extend(self, tokens: Iterable[int]) -> None:
        """Add tokens to the text."""
        self._tokens += tokens

    def guess(self, room: int, sampler: Sampler) -> list[int]:
        """The likely next tokens, at most `room`; `sampler` is about to draw them."""
        size = min(self._pace.size(len(self._tokens)), room)
        if size <= 0:
            return []
        wish = Wish(0, self._tokens, size, copy.deepcopy(sampler).choose)
        self._draft.read(wish)
        return self._draft.guess([wish])[0]

    def learn(self, guessed: int, right: int) -> None:
        """Note how many of the last guesses were right; the next are more or fewer."""
        self.guessed += guessed
        self.right += right
        self._pace.learn(guessed, right, len(self._tokens))


def open_draft(
    path: Path,
    tokenizer: Tokenizer,
    vocabulary: int,
    rows: int,
    max_length: int,
    threads: int | None = None,
) -> Draft:
    """Open a model as the draft of another one.

    Args:
        path: Its .onnx file, with its tokenizer beside it.
        tokenizer: Of the model that checks the guesses.
        vocabulary: Number of that model's logits.
        rows: Number of texts.
        max_length: Of the longest text.
        threads: As for `create_session`.

    Raises:
        ResqError: It cannot be opened, its tokens are others, or its results depend on how many
            tokens run together.
    """
    _check_tokens(path, Tokenizer.load(path.parent), tokenizer)
    session = ragged_session(path, threads)
    if session is None:
        raise ResqError(
            f"{path}: this file cannot be a draft: that takes one that is quantised in weights, "
            f"activations and cache, in the format custom; export it so, or leave out --draft"
        )
    length = min(max_length, positions_of(path.parent) or max_length)
    try:
        return Draft(session, rows, length, vocabulary, tokenizer.stop_ids)
    except MemoryError:
        raise ResqError(
            f"{path}: there is no memory for the draft's {rows} caches of {length} tokens"
        ) from None


def _check_tokens(path: Path, own: Tokenizer, other: Tokenizer) -> None:
    """Refuse a draft whose token ids mean something else."""
    ours, theirs = own.backend.get_vocab(), other.backend.get_vocab()
    if ours == theirs:
        return
    token, number = min(set(theirs.items()) ^ set(ours.items()), key=lambda entry: entry[1])
    owner = "the draft" if ours.get(token) == number else other.folder
    raise ResqError(
        f"{path}: has another vocabulary than {other.folder}: token {number} is {token!r} for "
        f"{owner} alone; a draft needs the same tokenizer, as smaller models of a family have it"
    )
