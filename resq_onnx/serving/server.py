"""Run the server: open a socket, start uvicorn, and shut down within seconds of a signal."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import FrameType
from typing import Any, Final

import uvicorn

from resq_onnx.errors import ResqError
from resq_onnx.serving.app import LoopbackOnly, Service, logger
from resq_onnx.serving.connections import MAX_HEADER, Connections, lacks_room, room_for
from resq_onnx.serving.tls import Tls

GRACE_SECONDS: Final = 3
"""How long a client that reads nothing may delay the shutdown."""

JOIN_SECONDS: Final = 1
"""How long a busy thread may delay it, such as one that is running a large model."""

BACKLOG: Final = 128
"""Backlog: connections that the operating system keeps until they are accepted."""


@dataclass(frozen=True)
class Address:
    """The address to listen on.

    Attributes:
        host: An address or a name of this machine.
        port: The port; 0 for a free one.
    """

    host: str
    port: int


def listen(address: Address, scheme: str = "http") -> tuple[socket.socket, str]:
    """Open the socket, so that a port in use is reported before a model is loaded.

    Args:
        address: Where to listen.
        scheme: Of the URL.

    Returns:
        The socket, which queues connections from now on, and its URL.

    Raises:
        ResqError: The address is not available.
    """
    try:
        (family, *_, target), *_ = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        opened = socket.create_server(target[:2], family=family, backlog=BACKLOG)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ResqError(
            f"cannot listen on {address.host} port {address.port}: {reason}; give another --host "
            f"or --port (0 picks a free one)"
        ) from None
    host, port = opened.getsockname()[:2]
    return opened, f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def run(
    service: Service,
    listening: socket.socket,
    ready: Callable[[], None],
    tls: Tls | None = None,
    drain: float = 0.0,
) -> None:
    """Serve until SIGINT or SIGTERM.

    After SIGTERM new requests are refused, and those in progress may run on for a while. After
    SIGINT, or a second signal, they end with an error.

    Args:
        service: What to serve.
        listening: The socket.
        ready: Called once the server is ready.
        tls: The certificate; None for plain HTTP.
        drain: Seconds after SIGTERM in which requests may complete.
    """
    _log_to_stderr()
    connections = Connections(room_for(service.scheduler.places))
    config = uvicorn.Config(
        LoopbackOnly(service.app, listening.getsockname()[0], service.origins),
        http=connections.protocol(),
        h11_max_incomplete_event_size=MAX_HEADER,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="critical",  # our own log has the relevant lines
        access_log=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=GRACE_SECONDS,
        **(tls.options() if tls else {}),
    )
    server = _Server(config, service, connections, ready, drain)
    with suppress(KeyboardInterrupt):  # uvicorn raises the signal again after a clean shutdown
        server.run([listening])
    logger.info("stopped")
    if not server.all_ended:  # Python would wait for its threads
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


class _Server(uvicorn.Server):
    """Ends requests itself before uvicorn waits for them.

    Attributes:
        all_ended: Whether all threads have finished, once the server has stopped.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        service: Service,
        connections: Connections,
        ready: Callable[[], None],
        drain: float,
    ) -> None:
        super().__init__(config)
        self._service = service
        self._connections = connections
        self._ready = ready
        self._drain = drain
        self._drained_at: float | None = None
        self.all_ended = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._note_error)
        await super().startup(sockets)
        self._sweeping = loop.create_task(self._connections.sweep())
        self._ready()

    def _note_error(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Log the event loop's errors; only count those of missing resources, as they flood."""
        if lacks_room(context):
            self._connections.unaccepted += 1
        else:
            logger.error("unexpected: %s", context["message"], exc_info=context.get("exception"))

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take a signal: the first SIGTERM lets requests complete, any other ends them."""
        if sig == signal.SIGTERM and self._drained_at is None and self._drain > 0:
            self._service.deadlines.refuses = True
            self._drained_at = time.monotonic() + self._drain
        else:
            super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        """Whether to stop, asked several times a second."""
        if self._drained_at is not None and not self.should_exit:
            left = len(self._service.deadlines)
            if not left or time.monotonic() >= self._drained_at:
                if left:
                    logger.info("%d requests have not ended after SIGTERM", left)
                super().handle_exit(signal.SIGTERM, None)
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._sweeping.cancel()
        self._service.deadlines.stop()
        await super().shutdown(sockets)
        self.all_ended = await self._service.scheduler.join(JOIN_SECONDS)


def _log_to_stderr() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
