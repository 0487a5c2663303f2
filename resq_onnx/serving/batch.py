"""Continuous batching: which tokens run next, of which requests.

Requests join and leave between two steps. A step runs one token of every answer that is being
written, in one call if the rows allow it, and before that a slice of one prompt. All of it is
executed by one thread.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resq_onnx.runtime.draft import Draft, Wish
from resq_onnx.serving.events import End, Event, Started
from resq_onnx.serving.guesses import worthwhile
from resq_onnx.serving.refusals import gone
from resq_onnx.serving.rows import Row, Rows, SharedRow
from resq_onnx.serving.writing import Writer


class Generation:
    """One request on its way from the prompt to the end of its answer.

    Attributes:
        writer: The prompt, and the answer so far.
        cancelled: Set by another thread to end it soon.
        after: A request with the same prompt, which runs it first; None if there is none.
        row: Its row; None while it waits for one.
    """

    def __init__(
        self, writer: Writer, cancelled: threading.Event, after: Generation | None = None
    ) -> None:
        """Begin with nothing run."""
        self.writer = writer
        self.cancelled = cancelled
        self.after = after
        self.row: Row | None = None


Told = tuple[Generation, Event | End]
"""An event, and whose it is."""


class Batch:
    """All requests that run or wait for a row.

    Attributes:
        guessed: Tokens guessed of requests that have ended; other threads may ask.
        right: How many of them were right.
    """

    def __init__(self, rows: Rows, draft: Draft | None = None) -> None:
        """Begin with none.

        Args:
            rows: Nobody else may use them.
            draft: Guesses tokens, with as many rows; None if the texts themselves do.
        """
        self._rows = rows
        self._draft = draft
        self._waiting: deque[Generation] = deque()
        self._prompts: list[Generation] = []
        self._turn = 0
        self._writing: list[Generation] = []
        self._told: list[Told] = []
        self.guessed = self.right = 0

    @property
    def is_idle(self) -> bool:
        """Whether there is no request."""
        return not (self._waiting or self._prompts or self._writing)

    @property
    def rows(self) -> int:
        """How many requests can run at once."""
        return self._rows.count

    @property
    def rows_in_use(self) -> int:
        """How many run; other threads may ask."""
        return len(self._prompts) + len(self._writing)

    def add(self, generation: Generation) -> None:
        """Let a request wait for a row."""
        self._waiting.append(generation)

    def advance(self) -> list[Told]:
        """Run a slice and a step; return the events since the last call.

        Every request that was added gets one `End` in the end, with the exception that ended it.
        """
        self._drop_cancelled()
        self._admit()
        self._run_slice()
        self._run_step()
        told, self._told = self._told, []
        return told

    def end_all(self, error: BaseException) -> list[Told]:
        """End all requests."""
        for one in [*self._waiting, *self._prompts, *self._writing]:
            self._end(one, error)
        told, self._told = self._told, []
        return told

    def _drop_cancelled(self) -> None:
        for one in [*self._waiting, *self._prompts, *self._writing]:
            if one.cancelled.is_set():
                self._end(one, gone())

    def _admit(self) -> None:
        ready = [one for one in self._waiting if self._is_ready(one)]
        while ready and self._rows.has_room():
            one = ready.pop(0)
            try:
                row = self._rows.begin(one.writer.tokens, one.writer.limit, _begins_anew(one))
            except BaseException as error:  # pass on any exception to whoever waits
                self._end(one, error)
                continue
            self._waiting.remove(one)
            self._prompts.append(one)
            one.row = row
            copies = one.after is not None
            self._told.append((one, Started(len(one.writer.tokens), row.length, copies)))

    def _is_ready(self, one: Generation) -> bool:
        """Whether nobody is about to run the same prompt, of which a copy is then made."""
        return one.after not in (*self._waiting, *self._prompts)

    def _run_slice(self) -> None:
        """Run a slice of a prompt."""
        if not self._prompts:
            return
        one = self._next_prompt()
        rest = self._rest(one)
        length = self._rows.slice_length(len(rest), len(self._writing), len(self._prompts))
        ids = np.array([rest[:length]], np.int64)
        count = ids.size if _is_scored(one) else 1
        for logits in self._computed([one], lambda: self._rows.run([one.row], ids, count)):
            if _is_scored(one) and not self._score(one, logits):
                return
            if length >= len(rest):
                self._prompts.remove(one)
                self._writing.append(one)
                self._write(one, logits[-1])

    def _next_prompt(self) -> Generation:
        """The oldest prompt and the one with the shortest rest take turns.

        So no short prompt waits for a long one, most answers begin early, and each begins.
        """
        self._turn += 1
        if self._turn % 2:
            return self._prompts[0]
        return min(self._prompts, key=lambda one: len(self._rest(one)))

    def _rest(self, one: Generation) -> list[int]:
        """The tokens of a prompt that have not been run."""
        assert one.row is not None
        return one.writer.tokens[one.row.length :]

    def _run_step(self) -> None:
        """Run one token of every answer, and behind it what is guessed to follow."""
        writing = [one for one in self._writing if one.row is not None]
        together = self._rows.run_together
        for group in [writing] if together and writing else [[one] for one in writing]:
            rows = [one.row for one in group]
            lengths = [row.length for row in rows if row is not None]
            run = partial(self._run_guessed, group, rows)
            found = zip(group, rows, lengths, self._computed(group, run), strict=False)
            for one, row, length, logits in found:
                taken = self._write_guessed(one, logits)
                self._rows.keep(row, length + taken)

    def _run_guessed(
        self, group: Sequence[Generation], rows: Sequence[Row | None]
    ) -> Sequence[NDArray[Any]]:
        """The logits after the last token of each answer, and after each guess behind it."""
        return self._rows.run_guessed(rows, self._with_guesses(group))

    def _with_guesses(self, group: Sequence[Generation]) -> list[list[int]]:
        """The last token of each answer, with the guesses behind it that are worth a try."""
        room = self._rows.room_for_guesses(len(group))
        for one in group:
            one.writer.guess(room)
        guesses = [one.writer.guesses for one in group]
        counts = worthwhile(guesses, room)
        if self._draft is not None:
            self._draft_guesses(self._draft, group, counts)
        found = zip(group, guesses, counts, strict=True)
        return [[one.writer.tokens[-1], *some.cut(count)] for one, some, count in found]

    def _draft_guesses(
        self, draft: Draft, group: Sequence[Generation], counts: Sequence[int]
    ) -> None:
        """Let the draft guess so many tokens of each answer; it has the rows that we have."""
        wishes = [
            Wish(one.row.index, one.writer.tokens, count, one.writer.ahead())
            for one, count in zip(group, counts, strict=True)
            if count and isinstance(one.row, SharedRow)
        ]
        guessed = iter(draft.guess(wishes))
        for one, count in zip(group, counts, strict=True):
            if count:
                one.writer.guesses.put(next(guessed))

    def _computed(
        self, group: Sequence[Generation], run: Callable[[], Iterable[NDArray[Any]]]
    ) -> Iterable[NDArray[Any]]:
        """What a run of the model gives; nothing if it fails: that ends those who are in it."""
        try:
            return run()
        except BaseException as error:  # pass on any exception to whoever waits
            for one in group:
                self._end(one, error)
            return ()

    def _score(self, one: Generation, logits: NDArray[Any]) -> bool:
        """Score the tokens of a prompt that logits (tokens, vocabulary) predict, if they can."""
        assert one.writer.prompt_scores is not None
        try:
            one.writer.prompt_scores.take(logits)
        except BaseException as error:  # pass on any exception to whoever waits
            self._end(one, error)
            return False
        return True

    def _write_guessed(self, one: Generation, logits: NDArray[Any]) -> int:
        """Write a token, and more while each was guessed; return their number.

        Args:
            one: The answer.
            logits: After its last token and after each guess, (1 + guesses, vocabulary).
        """
        taken = 0
        for after in logits:
            self._write(one, after)
            taken += 1
            if one not in self._writing or not one.writer.guesses.last_was_right:
                break
        return taken

    def _write(self, one: Generation, logits: NDArray[Any]) -> None:
        try:
            events = one.writer.take(logits)
        except BaseException as error:  # pass on any exception to whoever waits
            self._end(one, error)
            return
        self._told.extend((one, event) for event in events)
        if one.writer.is_done:
            self._end(one, None)

    def _end(self, one: Generation, error: BaseException | None) -> None:
        for place in (self._waiting, self._prompts, self._writing):
            if one in place:
                place.remove(one)
        if one.row is not None:
            self._rows.end(one.row)
        self.guessed += one.writer.guesses.guessed
        self.right += one.writer.guesses.right
        self._told.append((one, End(error)))


def _is_scored(one: Generation) -> bool:
    """Whether the logits of its prompt are needed."""
    scores = one.writer.prompt_scores
    return scores is not None and not scores.is_complete


def _begins_anew(one: Generation) -> bool:
    """Whether all of its prompt has to run; then scores begin anew as well."""
    if not _is_scored(one):
        return False
    assert one.writer.prompt_scores is not None
    one.writer.prompt_scores.restart()
    return True
