"""Write an answer: from the logits of each step to tokens, and to pieces of text."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from numpy.typing import NDArray

from resq_onnx.runtime.constraints import Constraint
from resq_onnx.runtime.draft import Draw
from resq_onnx.runtime.text_stream import TextStream
from resq_onnx.serving.call_reading import CallReader
from resq_onnx.serving.choosing import Chooser
from resq_onnx.serving.events import Called, Event, Finished, Piece
from resq_onnx.serving.guesses import Guesses
from resq_onnx.serving.scoring import PromptScores, ScoredToken
from resq_onnx.serving.stop_strings import StopStrings
from resq_onnx.serving.tool_calls import Arguments, Call


class Writer:
    """The answer to one request.

    Attributes:
        tokens: The prompt and what has been written so far.
        limit: Largest number of new tokens.
        prompt_scores: Scores of the prompt's tokens; None if they are not asked for.
        guesses: What is guessed of it.
        is_done: Whether the answer is complete.
    """

    def __init__(
        self,
        prompt_ids: Sequence[int],
        limit: int,
        chooser: Chooser,
        text: TextStream,
        stop_ids: Collection[int],
        stops: StopStrings,
        echo: str | None = None,
        prompt_scores: PromptScores | None = None,
        calls: CallReader | None = None,
        call_rule: Constraint | None = None,
        guesses: Guesses | None = None,
    ) -> None:
        """Begin behind a prompt of at least one token.

        Args:
            prompt_ids: The prompt.
            limit: Largest number of new tokens.
            chooser: Chooses the tokens.
            text: Decodes them.
            stop_ids: Tokens that end the answer and are not part of it.
            stops: Strings that do.
            echo: The prompt's text, to begin with; None for the answer alone.
            prompt_scores: The prompt's scores, to begin with.
            calls: Finds calls of functions; None if there are no functions.
            call_rule: What a call has to follow that the model begins; None for anything.
            guesses: What is guessed of it; None for nothing.
        """
        self.tokens = list(prompt_ids)
        self.limit = limit
        self.prompt_scores = prompt_scores
        self.guesses = guesses or Guesses(0, prompt_ids)
        self.is_done = False
        self._prompt_tokens = len(self.tokens)
        self._chooser = chooser
        self._text = text
        self._stop_ids = stop_ids
        self._stops = stops
        self._echo = echo
        self._calls = calls
        self._call_rule = call_rule
        self._scores = list[ScoredToken]()
        """Not sent yet."""

    @property
    def new_tokens(self) -> int:
        """Number of tokens so far."""
        return len(self.tokens) - self._prompt_tokens

    def guess(self, room: int) -> None:
        """Guess the next tokens, at most `room`; the next calls of `take` check them."""
        self.guesses.next(min(room, self.limit - self.new_tokens - 1))

    def ahead(self) -> Draw:
        """Draws the tokens that would be written next, without writing them."""
        return self._chooser.ahead()

    def take(self, logits: NDArray[Any]) -> list[Event]:
        """Write the next token, from the logits (vocabulary,) after the last one.

        Raises:
            ResqError: The logits are not finite.
        """
        events = self._echoed()
        if self.limit == 0:
            return [*events, *self._end("length")]
        token, scores = self._chooser.choose(logits, self.new_tokens, len(self.tokens))
        if token in self._stop_ids:
            return [*events, *self._end("stop", self._text.rest())]
        self.tokens.append(token)
        self._chooser.note(token, self.new_tokens)
        self.guesses.note(token)
        self._scores += scores
        piece = self._text.feed(token)
        if self.new_tokens == self.limit:
            return [*events, *self._end("length", piece, self._text.rest())]
        events += self._pieces(piece)
        if piece and not self._stops.held:
            self._bind_call()
        return [*events, *self._end("stop")] if self._is_complete() else events

    def _bind_call(self) -> None:
        """Hold a call that has begun to its rule; nothing of it may be held back."""
        if self._calls is None or self._call_rule is None or self._chooser.is_bound:
            return
        opened = self._calls.opened
        rule = None if opened is None else self._call_rule.after(opened)
        if rule is not None:
            self._chooser.bind(rule)

    def _is_complete(self) -> bool:
        called = self._calls is not None and self._calls.is_complete
        return self._stops.found or called or self._chooser.is_complete

    def _echoed(self) -> list[Event]:
        """The prompt, before the first token."""
        if self._echo is None:
            return []
        text, self._echo = self._echo, None
        scores = () if self.prompt_scores is None else tuple(self.prompt_scores.found)
        return [Piece(text, 0, scores)]

    def _end(self, reason: str, *last: str) -> list[Event]:
        self.is_done = True
        events = self._pieces(*last)
        if self._stops.found:
            reason = "stop"
        elif held := self._stops.rest():
            events += self._said(held)
        if self._calls is not None:
            events += [self._event(part) for part in self._calls.rest()]
            if self._calls.found and reason == "stop":
                reason = "tool_calls"
        scores, guesses = self._taken_scores(), self.guesses
        return [
            *events,
            Finished(reason, self.new_tokens, scores, guesses.guessed, guesses.right),
        ]

    def _pieces(self, *texts: str) -> list[Event]:
        """What may be sent of some texts, up to a stop string."""
        events: list[Event] = []
        for text in texts:
            if text and not self._stops.found and (certain := self._stops.feed(text)):
                events += self._said(certain)
        return events

    def _said(self, text: str) -> list[Event]:
        parts: Iterable[str | Call | Arguments] = [text]
        if self._calls is not None:
            parts = self._calls.feed(text)
        return [self._event(part) for part in parts]

    def _event(self, part: str | Call | Arguments) -> Event:
        scores = self._taken_scores()
        if isinstance(part, str):
            return Piece(part, self.new_tokens, scores)
        assert self._calls is not None
        return Called(self._calls.found - 1, part, self.new_tokens, scores)

    def _taken_scores(self) -> tuple[ScoredToken, ...]:
        scores, self._scores = tuple(self._scores), []
        return scores
