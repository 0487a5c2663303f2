"""Send an answer: as one JSON object, as a stream of events, or as an error."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterable
from contextlib import suppress
from typing import Any, Final

from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from resq_onnx.serving.answers import Answer, Outcome, usage
from resq_onnx.serving.events import Event, Finished, Started
from resq_onnx.serving.refusals import RefusalError

EVENT_STREAM: Final = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # a proxy must not buffer the pieces
]

LAST_WORDS_SECONDS: Final = 1.0
"""How long a client that reads nothing may delay the time-out message."""


class Reply:
    """The reply to one request.

    Attributes:
        prompt_tokens: Tokens of the prompts so far.
        known: How many of them came from the cache.
        new_tokens: Tokens of all choices so far.
        reason: Why each choice ended, once it has.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, answer: Answer) -> None:
        """Send nothing yet.

        Args:
            scope: ASGI scope of the request.
            receive: ASGI channel from the client.
            send: ASGI channel to the client.
            answer: Builds the JSON objects.
        """
        self._scope = scope
        self._receive = receive
        self._send = send
        self._answer = answer
        self._streams = False
        self.prompt_tokens = self.known = self.new_tokens = 0
        self.reason = ""
        self._guessed = self._right = 0
        self._reasons: dict[int, str] = {}
        self._new_tokens: dict[int, int] = {}

    async def whole(self, events: AsyncIterable[tuple[int, Event]]) -> None:
        """Send an answer when all its choices are complete."""
        outcomes: dict[int, Outcome] = {}
        async for choice, event in events:
            self._note(choice, event)
            outcomes.setdefault(choice, Outcome()).add(event)
        found = [outcome for _, outcome in sorted(outcomes.items())]
        answer = self._answer.whole(found, self._usage())
        await JSONResponse(answer)(self._scope, self._receive, self._send)

    async def stream(self, events: AsyncIterable[tuple[int, Event]], include_usage: bool) -> None:
        """Send an answer piece by piece; nothing is sent until the prompt has been validated.

        With `include_usage` every chunk has the field `usage`, and an extra last one its value.
        """
        none_yet: dict[str, Any] = {"usage": None} if include_usage else {}
        async for choice, event in events:
            self._note(choice, event)
            if isinstance(event, Started):
                await self._begin_stream()
                chunks = self._answer.first(choice)
            else:
                chunks = [self._answer.chunk(choice, event)]
            for chunk in chunks:
                await self._send_event(chunk | none_yet)
        if include_usage:
            await self._send_event(self._answer.usage(self._usage()))
        await self._end_stream(b"data: [DONE]\n\n")

    async def refuse(self, refusal: RefusalError) -> None:
        """Send the error, instead of the answer or of its rest."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORDS_SECONDS):
                if self._streams:
                    await self._end_stream(_event(refusal.to_json()))
                else:
                    await refusal_response(refusal)(self._scope, self._receive, self._send)

    def _note(self, choice: int, event: Event) -> None:
        if isinstance(event, Started):
            if not event.copies:
                self.prompt_tokens += event.prompt_tokens
                self.known += event.known
            return
        self._new_tokens[choice] = event.new_tokens
        self.new_tokens = sum(self._new_tokens.values())
        if isinstance(event, Finished):
            self._reasons[choice] = event.reason
            self._guessed += event.guessed
            self._right += event.right
            self.reason = ",".join(reason for _, reason in sorted(self._reasons.items()))

    def _usage(self) -> dict[str, Any]:
        return usage(self.prompt_tokens, self.known, self.new_tokens, self._guessed, self._right)

    async def _begin_stream(self) -> None:
        if self._streams:
            return
        self._streams = True
        head = {"type": "http.response.start", "status": 200, "headers": EVENT_STREAM}
        await self._send(head)

    async def _send_event(self, content: dict[str, Any]) -> None:
        body = _event(content)
        await self._send({"type": "http.response.body", "body": body, "more_body": True})

    async def _end_stream(self, body: bytes) -> None:
        await self._send({"type": "http.response.body", "body": body, "more_body": False})


def refusal_response(refusal: RefusalError) -> JSONResponse:
    """An error as a complete response."""
    return JSONResponse(refusal.to_json(), refusal.status, dict(refusal.headers))


def _event(content: dict[str, Any]) -> bytes:
    """A server-sent event. JSON has no line breaks of its own, so it is one line of data."""
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n".encode()
