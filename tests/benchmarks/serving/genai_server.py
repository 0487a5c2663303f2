"""onnxruntime-genai behind a small server: its generators run batches that begin and end together.

python -m tests.benchmarks.serving.genai_server FOLDER SLOTS LENGTH THREADS

Its `Engine`, which would let requests join and leave, needs PagedAttention for that, which ONNX
Runtime has for CUDA and WebGPU alone. A `Generator` takes several texts at once: those that wait
and have prompts of one length.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import socket
import sys
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

og: Any = importlib.import_module("onnxruntime_genai")

GATHERING_SECONDS: Final = 0.02
"""How long the first request waits for others."""


@dataclass(eq=False)
class Waiting:
    """A request; its tokens go to the event loop, and None behind the last one."""

    prompt: list[int]
    new_tokens: int
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    tokens: asyncio.Queue[int | None] = field(default_factory=asyncio.Queue)

    @property
    def shape(self) -> tuple[int, int]:
        """What all requests of a batch have in common."""
        return len(self.prompt), self.new_tokens

    def put(self, token: int | None) -> None:
        """Hand over a token, from any thread."""
        self.loop.call_soon_threadsafe(self.tokens.put_nowait, token)


class Batches:
    """Runs requests in a thread."""

    def __init__(self, model: Any, slots: int) -> None:
        self._model = model
        self._slots = slots
        self._waiting: list[Waiting] = []
        self._changed = threading.Condition()
        threading.Thread(target=self._run, daemon=True).start()

    def add(self, request: Waiting) -> None:
        """Let a request wait for a batch."""
        with self._changed:
            self._waiting.append(request)
            self._changed.notify()

    def _next(self) -> list[Waiting]:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting)
            self._changed.wait_for(lambda: len(self._waiting) >= self._slots, GATHERING_SECONDS)
            shape = self._waiting[0].shape
            batch = [one for one in self._waiting if one.shape == shape][: self._slots]
            self._waiting = [one for one in self._waiting if one not in batch]
        return batch

    def _run(self) -> None:
        while True:
            batch = self._next()
            parameters = og.GeneratorParams(self._model)
            total = sum(batch[0].shape)
            # The smallest length is also the largest: an end-of-text token ends nothing.
            parameters.set_search_options(
                batch_size=len(batch), max_length=total, min_length=total, do_sample=False
            )
            generator = og.Generator(self._model, parameters)
            generator.append_tokens(np.array([one.prompt for one in batch], np.int32))
            for _ in range(batch[0].new_tokens):
                generator.generate_next_token()
                for one, token in zip(batch, generator.get_next_tokens(), strict=True):
                    one.put(int(token))
            for one in batch:
                one.put(None)


def application(batches: Batches, tokenizer: Any) -> Starlette:
    """/v1/completions, for streams alone."""

    async def completions(request: Request) -> StreamingResponse:
        asked = await request.json()
        waiting = Waiting(asked["prompt"], asked["max_tokens"])
        batches.add(waiting)
        return StreamingResponse(stream(waiting), media_type="text/event-stream")

    async def stream(waiting: Waiting) -> AsyncIterator[str]:
        text, count = tokenizer.create_stream(), 0
        while (token := await waiting.tokens.get()) is not None:
            count += 1
            yield event({"choices": [{"index": 0, "text": text.decode(token)}]})
        yield event({"choices": [], "usage": {"completion_tokens": count}})
        yield "data: [DONE]\n\n"

    def event(content: dict[str, Any]) -> str:
        return f"data: {json.dumps(content)}\n\n"

    return Starlette(routes=[Route("/v1/completions", completions, methods=["POST"])])


def main() -> None:
    """Serve until killed."""
    folder, *numbers = sys.argv[1:]
    slots, _, threads = map(int, numbers)  # a batch's buffer is as long as its texts
    config = og.Config(folder)
    session_options = {"intra_op_num_threads": threads}
    config.overlay(json.dumps({"model": {"decoder": {"session_options": session_options}}}))
    model = og.Model(config)
    app = application(Batches(model, slots), og.Tokenizer(model))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        print(f"Serving at http://127.0.0.1:{port}/v1", flush=True)
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
        server.run([listening])


if __name__ == "__main__":
    main()
