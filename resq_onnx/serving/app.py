"""Routes of the server: handle each request from its body to its line in the log."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from resq_onnx.errors import ResqError
from resq_onnx.serving.answers import Answer, ChatAnswer, TextAnswer
from resq_onnx.serving.api_keys import ApiKeys
from resq_onnx.serving.bodies import Bodies
from resq_onnx.serving.chat_page import page_routes
from resq_onnx.serving.cross_origin import allowing
from resq_onnx.serving.deadlines import Deadline, Deadlines, while_connected
from resq_onnx.serving.engine import Engine
from resq_onnx.serving.hosts import refused_by
from resq_onnx.serving.metrics import OUTCOME, Metrics
from resq_onnx.serving.protocol import GenerationRequest, read_chat, read_completion
from resq_onnx.serving.refusals import (
    RefusalError,
    broken,
    model_failed,
    unknown_model,
)
from resq_onnx.serving.replies import Reply, refusal_response
from resq_onnx.serving.scheduling import Scheduler

logger = logging.getLogger("resq_onnx.serving")


class Service:
    """State shared by the routes: the model, its scheduler, and the requests in progress.

    Attributes:
        engine: The model.
        scheduler: Runs a bounded number of requests.
        deadlines: The requests in progress.
        bodies: Reads their bodies.
        metrics: Counts them.
        origins: Other origins whose pages may read answers.
        app: The ASGI application.
    """

    def __init__(
        self,
        engine: Engine,
        scheduler: Scheduler,
        seconds: float,
        keys: Sequence[str] = (),
        origins: Sequence[str] = (),
    ) -> None:
        """Make the application.

        Args:
            engine: The model.
            scheduler: Runs the requests.
            seconds: Time limit of each request.
            keys: API keys, of which a request must have one; none admits everybody.
            origins: As for `cross_origin.check_origins`.
        """
        self.engine = engine
        self.scheduler = scheduler
        self.deadlines = Deadlines(seconds)
        self.bodies = Bodies()
        self.metrics = Metrics(scheduler, engine.batch)
        self._created = int(time.time())
        chat = Endpoint(self, read_chat, ChatAnswer)
        completions = Endpoint(self, read_completion, TextAnswer)
        app = Starlette(
            routes=[
                Route("/v1/chat/completions", chat, methods=["POST"]),
                Route("/v1/completions", completions, methods=["POST"]),
                Route("/v1/models", self._models),
                Route("/v1/models/{name:path}", self._model),
                Route("/health", self._health),
                Route("/metrics", self.metrics.answer),
                *page_routes(),
            ],
            exception_handlers={HTTPException: _refuse_route},
        )
        self.origins = tuple(origins)
        self.app: ASGIApp = allowing(self.metrics.counting(ApiKeys(app, keys)), self.origins)

    async def _models(self, _: Request) -> JSONResponse:
        return JSONResponse({"object": "list", "data": [self._description()]})

    async def _model(self, request: Request) -> JSONResponse:
        name = request.path_params["name"]
        if name != self.engine.name:
            return refusal_response(unknown_model(name, self.engine.name))
        return JSONResponse(self._description())

    async def _health(self, _: Request) -> JSONResponse:
        scheduler, ends = self.scheduler, self.deadlines.refuses
        return JSONResponse(
            {
                "status": "stopping" if ends else "ok",
                "running": scheduler.running,
                "waiting": scheduler.waiting,
            },
            503 if ends else 200,
        )

    def _description(self) -> dict[str, Any]:
        return {
            "id": self.engine.name,
            "object": "model",
            "created": self._created,
            "owned_by": "resq-onnx",
            "max_model_len": self.engine.max_length,
        }


class Endpoint:
    """One of the two routes that generate text."""

    def __init__(
        self,
        service: Service,
        read: Callable[[bytes, str], GenerationRequest],
        answer: type[Answer],
    ) -> None:
        """Take the function that reads requests and the class of the answers."""
        self._service = service
        self._read = read
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; every outcome ends here, with one line in the log."""
        began = time.perf_counter()
        reply = Reply(scope, receive, send, self._answer(self._service.engine.name))
        status = 200
        try:
            try:
                async with self._service.deadlines.one() as deadline:
                    await self._reply(Request(scope, receive), reply, deadline, began)
            except RefusalError as refusal:
                status, reply.reason = refusal.status, refusal.code or refusal.kind
                await reply.refuse(refusal)
            except ResqError as error:  # the model fails, though the request is valid
                logger.error("POST %s: %s", scope["path"], error)
                status, reply.reason = 500, "model_error"
                await reply.refuse(model_failed(str(error)))
            except Exception:
                logger.exception("unexpected error")
                status, reply.reason = 500, "server_error"
                await reply.refuse(broken())
        finally:
            scope[OUTCOME] = status
            logger.info(
                "POST %s %d %s: %d prompt tokens (%d known), %d new, %.3f s",
                scope["path"], status, reply.reason, reply.prompt_tokens, reply.known,
                reply.new_tokens, time.perf_counter() - began,
            )  # fmt: skip

    async def _reply(
        self, request: Request, reply: Reply, deadline: Deadline, began: float
    ) -> None:
        service = self._service
        asked = self._read(await service.bodies.read(request), service.engine.name)
        running = service.scheduler.start(asked)
        events = service.metrics.watched(running, began)
        try:
            async with while_connected(request.receive, deadline):
                if asked.stream:
                    await reply.stream(events, asked.include_usage)
                else:
                    await reply.whole(events)
        finally:
            running.cancel()


async def _refuse_route(_: Request, error: Exception) -> JSONResponse:
    """Refuse an unknown path or method in the usual form."""
    assert isinstance(error, HTTPException)
    paths = "/v1/chat/completions, /v1/completions, /v1/models, /health and /metrics"
    message = f"{error.detail}: there are {paths}"
    return refusal_response(RefusalError(error.status_code, message, headers=error.headers or {}))


class LoopbackOnly:
    """An application that on loopback answers only requests for this machine; see `hosts.py`."""

    def __init__(self, app: ASGIApp, address: str, origins: Sequence[str] = ()) -> None:
        """Take the application, the address at which it listens, and origins that it answers."""
        self._app = app
        self._address = address
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        headers = Headers(scope=scope)
        if (refused := refused_by(self._address, headers, self._origins)) is None:
            await self._app(scope, receive, send)
            return
        status, message = refused
        response = refusal_response(RefusalError(status, message, headers={"Connection": "close"}))
        await response(scope, receive, send)
