"""Response objects of OpenAI's two endpoints as JSON, whole and in chunks."""

from __future__ import annotations

import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from resq_onnx.serving.events import Called, Event, Finished, Piece
from resq_onnx.serving.logprobs import characters, chat_logprobs, text_logprobs
from resq_onnx.serving.scoring import ScoredToken
from resq_onnx.serving.tool_calls import Arguments, Call


@dataclass
class Outcome:
    """One choice of a whole answer.

    Attributes:
        text: What has been written.
        scores: Of its tokens, if they are asked for.
        calls: Of functions.
        reason: Why it ended.
    """

    text: str = ""
    scores: list[ScoredToken] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    reason: str | None = None

    def add(self, event: Event) -> None:
        """Add what an event says."""
        match event:
            case Piece():
                self.text += event.text
            case Called(call=Call() as call):
                self.calls.append(call)
            case Called(call=Arguments(text)):
                *before, last = self.calls
                self.calls = [*before, replace(last, arguments=last.arguments + text)]
            case Finished():
                self.reason = event.reason
            case _:
                return
        self.scores += event.scores


class Answer(ABC):
    """One answer, with its id and start time."""

    id_prefix: ClassVar[str]
    whole_object: ClassVar[str]
    chunk_object: ClassVar[str]

    def __init__(self, model: str) -> None:
        """Begin an answer of this model."""
        self._head = {
            "id": f"{self.id_prefix}-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": model,
        }

    @abstractmethod
    def first(self, choice: int) -> list[dict[str, Any]]:
        """Chunks before the first piece of a choice."""

    @abstractmethod
    def chunk(self, choice: int, event: Piece | Called | Finished) -> dict[str, Any]:
        """A chunk with what an event says of a choice."""

    @abstractmethod
    def content(self, outcome: Outcome) -> dict[str, Any]:
        """What a choice of a whole answer has of its own."""

    def whole(self, outcomes: Sequence[Outcome], usage: dict[str, Any]) -> dict[str, Any]:
        """The answer in one object."""
        found = [
            self._choice(number, self.content(outcome), outcome.reason)
            for number, outcome in enumerate(outcomes)
        ]
        return self._object(self.whole_object, found) | {"usage": usage}

    def usage(self, usage: dict[str, Any]) -> dict[str, Any]:
        """The last chunk of a stream, if requested."""
        return self._object(self.chunk_object, []) | {"usage": usage}

    def _object(self, name: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return self._head | {"object": name, "choices": choices}

    def _choice(self, index: int, content: dict[str, Any], reason: str | None) -> dict[str, Any]:
        return {"index": index, **content, "finish_reason": reason}


class ChatAnswer(Answer):
    """An answer of /v1/chat/completions."""

    id_prefix = "chatcmpl"
    whole_object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def first(self, choice: int) -> list[dict[str, Any]]:
        """One chunk with the role."""
        return [self._chunk(choice, {"role": "assistant", "content": ""}, None)]

    def chunk(self, choice: int, event: Piece | Called | Finished) -> dict[str, Any]:
        """A chunk with more text, a call, or the reason for the end."""
        delta: dict[str, Any] = {}
        if isinstance(event, Piece):
            delta = {"content": event.text}
        elif isinstance(event, Called):
            delta = {"tool_calls": [{"index": event.number} | _call_delta(event.call)]}
        reason = event.reason if isinstance(event, Finished) else None
        return self._chunk(choice, delta, reason, event.scores)

    def content(self, outcome: Outcome) -> dict[str, Any]:
        """A message."""
        message: dict[str, Any] = {"role": "assistant", "content": outcome.text, "refusal": None}
        if outcome.calls:
            message["content"] = outcome.text or None
            message["tool_calls"] = [_call(call) for call in outcome.calls]
        return {"message": message, "logprobs": chat_logprobs(outcome.scores)}

    def _chunk(
        self,
        choice: int,
        delta: dict[str, Any],
        reason: str | None,
        scores: Sequence[ScoredToken] = (),
    ) -> dict[str, Any]:
        content = {"delta": delta, "logprobs": chat_logprobs(scores)}
        return self._object(self.chunk_object, [self._choice(choice, content, reason)])


class TextAnswer(Answer):
    """An answer of /v1/completions."""

    id_prefix = "cmpl"
    whole_object = chunk_object = "text_completion"

    def __init__(self, model: str) -> None:
        """Begin an answer of this model."""
        super().__init__(model)
        self._offsets: dict[int, int] = {}
        """Characters of each choice so far."""

    def first(self, choice: int) -> list[dict[str, Any]]:
        """No chunks."""
        del choice
        return []

    def chunk(self, choice: int, event: Piece | Called | Finished) -> dict[str, Any]:
        """A chunk with more text, or with the reason for the end."""
        offset = self._offsets.get(choice, 0)
        self._offsets[choice] = offset + characters(event.scores)
        text = event.text if isinstance(event, Piece) else ""
        reason = event.reason if isinstance(event, Finished) else None
        content = {"text": text, "logprobs": text_logprobs(event.scores, offset)}
        return self._object(self.chunk_object, [self._choice(choice, content, reason)])

    def content(self, outcome: Outcome) -> dict[str, Any]:
        """The text."""
        return {"text": outcome.text, "logprobs": text_logprobs(outcome.scores, 0)}


def usage(
    prompt_tokens: int, known: int, new_tokens: int, guessed: int, right: int
) -> dict[str, Any]:
    """Token counts of a request.

    Args:
        prompt_tokens: Tokens of the prompt.
        known: How many of them came from the cache.
        new_tokens: Tokens of all choices.
        guessed: Tokens that were guessed of them.
        right: Guesses that were right.
    """
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": new_tokens,
        "total_tokens": prompt_tokens + new_tokens,
        "prompt_tokens_details": {"cached_tokens": known},
        "completion_tokens_details": {
            "accepted_prediction_tokens": right,
            "rejected_prediction_tokens": guessed - right,
        },
    }


def _call_delta(call: Call | Arguments) -> dict[str, Any]:
    return {"function": {"arguments": call.text}} if isinstance(call, Arguments) else _call(call)


def _call(call: Call) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function}
