"""Write an answer: from the logits of each step to tokens, and to pieces of text."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from numpy.typing import NDArray

from resq_onnx.runtime.generation import choose
from resq_onnx.runtime.penalties import Penalties
from resq_onnx.runtime.sampling import Sampler
from resq_onnx.runtime.text_stream import TextStream
from resq_onnx.serving.events import Event, Finished, Piece
from resq_onnx.serving.stop_strings import StopStrings


class Writer:
    """The answer to one request.

    Attributes:
        tokens: The prompt and what has been written so far.
        limit: Largest number of new tokens.
        is_done: Whether the answer is complete.
    """

    def __init__(
        self,
        prompt_ids: Sequence[int],
        limit: int,
        sampler: Sampler,
        penalties: Penalties,
        text: TextStream,
        stop_ids: Collection[int],
        stops: StopStrings,
    ) -> None:
        """Begin behind a prompt of at least one token.

        Args:
            prompt_ids: The prompt.
            limit: Largest number of new tokens.
            sampler: Chooses the tokens.
            penalties: Change the logits before.
            text: Decodes them.
            stop_ids: Tokens that end the answer and are not part of it.
            stops: Strings that do.
        """
        self.tokens = list(prompt_ids)
        self.limit = limit
        self.is_done = False
        self._prompt_tokens = len(self.tokens)
        self._sampler = sampler
        self._penalties = penalties
        self._text = text
        self._stop_ids = stop_ids
        self._stops = stops

    @property
    def new_tokens(self) -> int:
        """Number of tokens so far."""
        return len(self.tokens) - self._prompt_tokens

    def take(self, logits: NDArray[Any]) -> list[Event]:
        """Write the next token, from the logits (vocabulary,) after the last one.

        Raises:
            ResqError: The logits are not finite.
        """
        changed = self._penalties.applied(logits)
        token = choose(self._sampler, changed, self.new_tokens, len(self.tokens))
        if token in self._stop_ids:
            return self._end("stop", self._text.rest())
        self.tokens.append(token)
        self._penalties.note(token)
        piece = self._text.feed(token)
        if self.new_tokens == self.limit:
            return self._end("length", piece, self._text.rest())
        events = self._pieces(piece)
        return [*events, *self._end("stop")] if self._stops.found else events

    def _end(self, reason: str, *last: str) -> list[Event]:
        self.is_done = True
        events = self._pieces(*last)
        if self._stops.found:
            reason = "stop"
        elif held := self._stops.rest():
            events.append(Piece(held, self.new_tokens))
        return [*events, Finished(reason, self.new_tokens)]

    def _pieces(self, *texts: str) -> list[Event]:
        """What may be sent of some texts, up to a stop string."""
        events: list[Event] = []
        for text in texts:
            if text and not self._stops.found and (certain := self._stops.feed(text)):
                events.append(Piece(certain, self.new_tokens))
        return events
