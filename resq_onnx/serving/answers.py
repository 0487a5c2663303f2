"""Response objects of OpenAI's two endpoints as JSON, whole and in chunks."""

from __future__ import annotations

import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar


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
    def piece(self, choice: int, text: str, reason: str | None = None) -> dict[str, Any]:
        """A chunk with more text of a choice, or with the reason for its end."""

    @abstractmethod
    def content(self, text: str) -> dict[str, Any]:
        """A whole text as a choice has it."""

    def whole(self, choices: Sequence[tuple[str, str]], usage: dict[str, Any]) -> dict[str, Any]:
        """The answer in one object; of each choice its text and the reason for its end."""
        found = [
            self._choice(number, self.content(text), reason)
            for number, (text, reason) in enumerate(choices)
        ]
        return self._object(self.whole_object, found) | {"usage": usage}

    def usage(self, usage: dict[str, Any]) -> dict[str, Any]:
        """The last chunk of a stream, if requested."""
        return self._object(self.chunk_object, []) | {"usage": usage}

    def _object(self, name: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return self._head | {"object": name, "choices": choices}

    def _choice(self, index: int, content: dict[str, Any], reason: str | None) -> dict[str, Any]:
        return {"index": index, **content, "logprobs": None, "finish_reason": reason}


class ChatAnswer(Answer):
    """An answer of /v1/chat/completions."""

    id_prefix = "chatcmpl"
    whole_object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def first(self, choice: int) -> list[dict[str, Any]]:
        """One chunk with the role."""
        return [self._chunk(choice, {"role": "assistant", "content": ""}, None)]

    def piece(self, choice: int, text: str, reason: str | None = None) -> dict[str, Any]:
        """A chunk with more text, or with the reason for the end."""
        return self._chunk(choice, {"content": text} if text else {}, reason)

    def content(self, text: str) -> dict[str, Any]:
        """A message."""
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

    def _chunk(self, choice: int, delta: dict[str, Any], reason: str | None) -> dict[str, Any]:
        return self._object(self.chunk_object, [self._choice(choice, {"delta": delta}, reason)])


class TextAnswer(Answer):
    """An answer of /v1/completions, which does not repeat the prompt."""

    id_prefix = "cmpl"
    whole_object = chunk_object = "text_completion"

    def first(self, choice: int) -> list[dict[str, Any]]:
        """No chunks."""
        del choice
        return []

    def piece(self, choice: int, text: str, reason: str | None = None) -> dict[str, Any]:
        """A chunk with more text, or with the reason for the end."""
        return self._object(self.chunk_object, [self._choice(choice, self.content(text), reason)])

    def content(self, text: str) -> dict[str, Any]:
        """The text."""
        return {"text": text}


def usage(prompt_tokens: int, known: int, new_tokens: int) -> dict[str, Any]:
    """Token counts of a request; `known` tokens of the prompt came from the cache."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": new_tokens,
        "total_tokens": prompt_tokens + new_tokens,
        "prompt_tokens_details": {"cached_tokens": known},
    }
