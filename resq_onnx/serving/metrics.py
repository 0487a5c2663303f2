"""Metrics for Prometheus: load, tokens and times of a server, at /metrics."""

from __future__ import annotations

import time
from collections.abc import AsyncIterable, AsyncIterator, Iterator
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from resq_onnx.serving.batch import Batch
from resq_onnx.serving.events import Event, Started
from resq_onnx.serving.scheduling import Scheduler

OUTCOME: Final = "resq_onnx.outcome"
"""Key of an ASGI scope: the status that a request ended with, if that is another than it began
with, such as an error in the middle of a stream."""

PATHS: Final = frozenset(
    {"/", "/v1/chat/completions", "/v1/completions", "/v1/models", "/health", "/metrics"}
)
"""Paths that are counted by name; clients must not be able to make up new labels."""

FIRST_TOKEN_SECONDS: Final = (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120)
BETWEEN_TOKENS_SECONDS: Final = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.5, 1, 2)
"""Upper bounds of the buckets."""


class _Guesses(Collector):
    """Counters of a batch, whose requests may end without an answer."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch

    def collect(self) -> Iterator[CounterMetricFamily]:
        """The counters now."""
        prefix, batch = "resq_onnx_guessed_tokens", self._batch
        yield CounterMetricFamily(prefix, "Tokens guessed by speculation", batch.guessed)
        yield CounterMetricFamily(
            f"{prefix}_accepted", "Guessed tokens that were right", batch.right
        )


class Metrics:
    """The counters of one server, apart from those of others in the same process."""

    def __init__(self, scheduler: Scheduler, batch: Batch) -> None:
        """Start at zero; running and waiting requests and rows are read when they are asked for."""
        self._registry = CollectorRegistry()
        self._gauge("requests_running", "Requests that run").set_function(lambda: scheduler.running)
        self._gauge("requests_waiting", "Requests that wait").set_function(
            lambda: scheduler.waiting
        )
        self._gauge("cache_rows", "Rows of the cache").set(batch.rows)
        self._gauge("cache_rows_in_use", "Rows of the cache whose texts run").set_function(
            lambda: batch.rows_in_use
        )
        self._requests = Counter(
            "resq_onnx_requests_total", "Requests that have ended",
            ("path", "status"), registry=self._registry,
        )  # fmt: skip
        self._prompt = self._counter("prompt_tokens_total", "Tokens of prompts")
        self._known = self._counter(
            "prompt_tokens_cached_total", "Tokens of prompts that were in the cache"
        )
        self._generated = self._counter("generated_tokens_total", "Tokens of answers")
        self._registry.register(_Guesses(batch))
        self._first = self._histogram(
            "time_to_first_token_seconds", "From a request to the first piece of its answer",
            FIRST_TOKEN_SECONDS,
        )  # fmt: skip
        self._between = self._histogram(
            "time_between_tokens_seconds", "Between pieces of an answer, for each token",
            BETWEEN_TOKENS_SECONDS,
        )  # fmt: skip

    def counting(self, app: ASGIApp) -> ASGIApp:
        """The application, with its requests counted by path and status."""

        async def counted(scope: Scope, receive: Receive, send: Send) -> None:
            status = 0

            async def noting(message: Message) -> None:
                nonlocal status
                status = message.get("status", status)
                await send(message)

            try:
                await app(scope, receive, noting)
            finally:
                path = scope["path"] if scope["path"] in PATHS else "other"
                self._requests.labels(path, str(scope.get(OUTCOME, status))).inc()

        return counted

    async def watched(
        self, events: AsyncIterable[tuple[int, Event]], began: float
    ) -> AsyncIterator[tuple[int, Event]]:
        """The events of a request, counted as they pass.

        Args:
            events: By choice.
            began: Time of the request, of `time.perf_counter`.
        """
        seen: dict[int, tuple[float, int]] = {}
        async for choice, event in events:
            if not isinstance(event, Started):
                now = time.perf_counter()
                last, before = seen.get(choice, (began, 0))
                if (new := event.new_tokens - before) > 0:
                    self._note_tokens(new, now - last, is_first=before == 0)
                    seen[choice] = now, event.new_tokens
            elif not event.copies:
                self._prompt.inc(event.prompt_tokens)
                self._known.inc(event.known)
            yield choice, event

    async def answer(self, _: Request) -> Response:
        """Answer /metrics, in Prometheus' text format."""
        return Response(generate_latest(self._registry), media_type=CONTENT_TYPE_LATEST)

    def _note_tokens(self, new: int, seconds: float, *, is_first: bool) -> None:
        self._generated.inc(new)
        if is_first:
            self._first.observe(seconds)
            return
        for _ in range(new):
            self._between.observe(seconds / new)

    def _gauge(self, name: str, help_text: str) -> Gauge:
        return Gauge(f"resq_onnx_{name}", help_text, registry=self._registry)

    def _counter(self, name: str, help_text: str) -> Counter:
        return Counter(f"resq_onnx_{name}", help_text, registry=self._registry)

    def _histogram(self, name: str, help_text: str, bounds: tuple[float, ...]) -> Histogram:
        return Histogram(f"resq_onnx_{name}", help_text, buckets=bounds, registry=self._registry)
