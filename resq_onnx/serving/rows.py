"""Rows of the cache that requests write to, one each: together in one buffer, or each its own.

With prefix caching, the next turn of a conversation reuses the row of the last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from resq_onnx.errors import ResqError
from resq_onnx.runtime.buffered import PREFILL_SLICE, BufferedDecoder
from resq_onnx.runtime.ragged import RaggedDecoder

if TYPE_CHECKING:
    import onnxruntime

SLICE: Final = 4
SLICE_PER_ANSWER: Final = 2
"""Tokens of a prompt that run between two steps: four, and two for each answer that is being
written. That takes 1.5 to 1.6 times as long as the step, so that the time between two tokens stays
below three times what it is without a prompt, also where it varies (SmolLM2-135M, one thread,
AVX-512-VNNI: a step of 1, 2, 4, 8 and 16 answers 11, 12, 15, 20 and 27 ms; slices of 6, 8, 12, 20
and 36 tokens 18, 20, 23, 30 and 44 ms. With AVX2 the slices take 1.5 to 2 times as long)."""

LAST_SLICE: Final = 32
"""A rest of so many tokens runs at once: one longer pause costs less than several slices."""

MOST_GUESSED: Final = 16
"""Tokens of all texts in a call with guesses. With more, the products of matrices wait for
computation instead of memory, and what is guessed wrong costs as much as what is right."""


class Row(Protocol):
    """The place of one text."""

    @property
    def length(self) -> int:
        """Number of its tokens that have been run."""


class Rows(Protocol):
    """The places of all texts that run at once.

    Attributes:
        run_together: Whether one call can run tokens of several texts.
        count: How many texts run at once.
        last_only: Whether there are logits after the last token of a call alone.
    """

    run_together: bool
    count: int
    last_only: bool

    def has_room(self) -> bool:
        """Whether another text can begin."""

    def begin(self, tokens: list[int], max_new_tokens: int, anew: bool = False) -> Any:
        """Give a text a row, whose `length` says how much of its beginning is known already.

        Args:
            tokens: The text, to which its new tokens will be added.
            max_new_tokens: How many these are at most.
            anew: Whether all tokens are to be run, because their logits are needed.
        """

    def end(self, row: Any) -> None:
        """Take the row back."""

    def slice_length(self, rest: int, writing: int, prompts: int) -> int:
        """How much of the rest of a prompt to run next.

        Args:
            rest: Its tokens that have not been run.
            writing: Number of answers that are being written.
            prompts: Number of prompts that are being run.
        """

    def room_for_guesses(self, texts: int) -> int:
        """How many guesses of some texts may run with their next tokens, all of them together."""

    def keep(self, row: Any, length: int) -> None:
        """Forget all but the first `length` tokens of a text."""

    def run(self, rows: Sequence[Any], input_ids: NDArray[np.int64], count: int) -> NDArray[Any]:
        """Run the next tokens (B, S) of texts; B is 1 unless they `run_together`.

        Returns:
            The logits after each of the last `count` tokens, (B, count, vocabulary), valid until
            the next call. `count` is 1 if there are those after the last token alone.
        """

    def run_guessed(
        self, rows: Sequence[Any], texts: Sequence[Sequence[int]]
    ) -> Sequence[NDArray[Any]]:
        """Run the next token of texts, and what is guessed behind it.

        Returns:
            The logits after each token, (tokens, vocabulary), valid until the next call.
        """


@dataclass(eq=False)
class SharedRow:
    """One row of a `RaggedDecoder`.

    Attributes:
        decoder: The decoder.
        index: Number of the row.
        tokens: The row's text, of which the first `length` tokens are cached.
    """

    decoder: RaggedDecoder
    index: int
    tokens: list[int] = field(default_factory=list)

    @property
    def length(self) -> int:
        """Number of cached tokens."""
        return self.decoder.lengths[self.index]

    def shared(self, tokens: Sequence[int]) -> int:
        """Number of tokens of a new text that are cached: never the last, which has to run."""
        known = self.tokens[: self.length]
        pairs = enumerate(zip(known, tokens[:-1], strict=False))
        return next((i for i, (a, b) in pairs if a != b), min(len(known), len(tokens) - 1))


class SharedRows:
    """Rows of one buffer, whose texts run together.

    A new text goes to the idle row that has cached most of its beginning, if that is at least half
    of the row's text. Otherwise, for example if two conversations share their instructions, both
    are kept: the shared beginning is copied to the row that has been idle longest.
    """

    run_together = True

    def __init__(self, session: onnxruntime.InferenceSession, count: int, max_length: int) -> None:
        """Make the rows; their memory is allocated when it is first written to.

        Args:
            session: Of `ragged_session`.
            count: Number of rows.
            max_length: Largest number of tokens of each.

        Raises:
            ResqError: The model is not a decoder, or there is not enough memory.
        """
        try:
            self._decoder = RaggedDecoder(session, max_length, count)
        except MemoryError:
            raise _no_memory(count, max_length) from None
        self.count = count
        self.last_only = self._decoder.signature.last_only
        self._rows = [SharedRow(self._decoder, index) for index in range(count)]
        self._idle = list(self._rows)
        """Longest idle first."""

    def has_room(self) -> bool:
        """Whether a row is idle."""
        return bool(self._idle)

    def begin(self, tokens: list[int], max_new_tokens: int, anew: bool = False) -> SharedRow:
        """Give a text an idle row."""
        del max_new_tokens
        row = self._idle[0] if anew else self._row_for(tokens)
        if anew:
            self._decoder.rewind(row.index, 0)
        self._idle.remove(row)
        row.tokens = tokens
        return row

    def _row_for(self, tokens: list[int]) -> SharedRow:
        """An idle row with what any row has cached of the beginning of a text."""
        best = max(self._rows, key=lambda row: (row.shared(tokens), row in self._idle))
        shared = best.shared(tokens)
        if best in self._idle and 2 * shared >= best.length:
            row = best
            self._decoder.rewind(row.index, shared)
        else:
            row = self._idle[0]
            self._decoder.copy_beginning(row.index, best.index, shared)
        return row

    def end(self, row: SharedRow) -> None:
        """Keep the row's text until the row is needed."""
        self._idle.append(row)

    def slice_length(self, rest: int, writing: int, prompts: int) -> int:
        """As much as possible if nobody writes, else about one and a half times the work of a step.

        More prompts get more, or those who write would take the places of those who wait.
        """
        if not writing:
            return PREFILL_SLICE
        if rest <= LAST_SLICE:
            return rest
        return min((SLICE + SLICE_PER_ANSWER * writing) * prompts, PREFILL_SLICE)

    def room_for_guesses(self, texts: int) -> int:
        """As many as let a call have few tokens."""
        return max(MOST_GUESSED - texts, 0)

    def keep(self, row: SharedRow, length: int) -> None:
        """Forget wrong guesses."""
        self._decoder.rewind(row.index, length)

    def run(
        self, rows: Sequence[SharedRow], input_ids: NDArray[np.int64], count: int
    ) -> NDArray[Any]:
        """Run the next tokens of any of the texts."""
        return self._decoder.run_rows([row.index for row in rows], input_ids, count)

    def run_guessed(
        self, rows: Sequence[SharedRow], texts: Sequence[Sequence[int]]
    ) -> Sequence[NDArray[Any]]:
        """Run the next tokens of any of the texts: as one array, if they are equally many.

        Otherwise each token is a text of its own, which has logits also where a graph gives those
        of the last token alone.
        """
        indices, longest = [row.index for row in rows], max(map(len, texts))
        even = all(len(text) == longest for text in texts)
        if even and not (self.last_only and longest > 1):
            return list(self._decoder.run_rows(indices, np.array(texts, np.int64), longest))
        return self._decoder.run_unequal(indices, texts)


class SeparateRows:
    """A decoder for each text, where what is computed depends on what else is in a call."""

    run_together = False

    def __init__(self, session: onnxruntime.InferenceSession, count: int, max_length: int) -> None:
        """Check that a decoder can be made; arguments and errors are those of `SharedRows`."""
        try:
            decoder = BufferedDecoder(session, max_length)
        except MemoryError:
            raise _no_memory(count, max_length) from None
        self._slice = decoder.prefill_slice
        self.last_only = decoder.signature.last_only
        self._session = session
        self.count = self._free = count

    def has_room(self) -> bool:
        """Whether fewer texts run than may."""
        return self._free > 0

    def begin(self, tokens: list[int], max_new_tokens: int, anew: bool = False) -> BufferedDecoder:
        """Make a decoder of the text's length, because function bodies copy a whole cache."""
        del anew
        decoder = BufferedDecoder(self._session, len(tokens) + max_new_tokens)
        self._free -= 1
        return decoder

    def end(self, row: BufferedDecoder) -> None:
        """Forget the text."""
        del row
        self._free += 1

    def slice_length(self, rest: int, writing: int, prompts: int) -> int:
        """As `generate` cuts a prompt: its results depend on that."""
        del rest, writing, prompts
        return self._slice

    def room_for_guesses(self, texts: int) -> int:
        """None: what is computed depends on how many tokens run together."""
        del texts
        return 0

    def keep(self, row: BufferedDecoder, length: int) -> None:
        """Forget what is behind; nothing is."""
        row.rewind(length)

    def run(
        self, rows: Sequence[BufferedDecoder], input_ids: NDArray[np.int64], count: int
    ) -> NDArray[Any]:
        """Run the next tokens of one text."""
        (decoder,) = rows
        return decoder.run_rows(input_ids, count)

    def run_guessed(
        self, rows: Sequence[BufferedDecoder], texts: Sequence[Sequence[int]]
    ) -> Sequence[NDArray[Any]]:
        """Run the next token of one text."""
        return list(self.run(rows, np.array(texts, np.int64), 1))


def _no_memory(count: int, max_length: int) -> ResqError:
    return ResqError(
        f"there is no memory for {count} caches of {max_length} tokens; give a smaller "
        f"--max-length or --max-concurrent"
    )
