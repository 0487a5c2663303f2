"""The server as a deployment of Ray Serve: replicas of one model, more of them under load.

    serve run resq_onnx.serving.ray:app model=/models/smollm2 max_replicas=4

A replica is what `resq-onnx serve` runs, without the socket: Ray's proxies take the requests, send
each to a replica with few of them, and pass on its answer piece by piece.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

from ray import serve
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import Receive, Scope, Send

from resq_onnx.errors import ResqError
from resq_onnx.files import find_model
from resq_onnx.serving.api_keys import keys_of
from resq_onnx.serving.app import Service
from resq_onnx.serving.engine import Engine
from resq_onnx.serving.scheduling import Scheduler

DEFAULTS: Final[dict[str, str]] = {
    "model": "",
    "name": "",
    "max_length": "0",
    "max_concurrent": "8",
    "max_waiting": "16",
    "timeout": "600",
    "threads": "1",
    "speculate": "0",
    "draft": "",
    "min_replicas": "1",
    "max_replicas": "1",
}
"""Arguments of `app`: the options of `resq-onnx serve` with the same names, 0 or nothing for their
defaults, and the bounds of the number of replicas. A replica reserves `threads` CPUs."""

DRAIN_SECONDS: Final = 20.0
"""How long the requests of a replica that is to go may run on."""


async def _forward(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request with the application of the replica that runs this."""
    await serve.get_replica_context().servable_object.service.app(scope, receive, send)


class Replica:
    """One model in a process of its own.

    Attributes:
        service: Its routes.
    """

    def __init__(self, given: dict[str, str]) -> None:
        """Open the model; the arguments are those of `app`, all of them."""
        path, count = find_model(Path(given["model"])), {k: int(given[k]) for k in _COUNTS}
        concurrent = count["max_concurrent"]
        engine = Engine(
            path,
            given["name"] or path.resolve().parent.name,
            concurrent,
            count["max_length"] or None,
            count["threads"],
            most_guesses=count["speculate"],
            draft=find_model(Path(given["draft"])) if given["draft"] else None,
        )
        scheduler = Scheduler(engine, engine.batch, concurrent, count["max_waiting"])
        self.service = Service(engine, scheduler, float(given["timeout"]), keys_of(os.environ))


_COUNTS: Final = ("max_length", "max_concurrent", "max_waiting", "threads", "speculate")


def app(given: dict[str, str]) -> Any:
    """The application of `serve run`, from arguments such as `max_replicas=4`.

    Raises:
        ResqError: An argument is unknown, or there is no model.
    """
    if unknown := set(given) - set(DEFAULTS):
        raise ResqError(f"{min(unknown)}: no such argument; there are {', '.join(DEFAULTS)}")
    found = DEFAULTS | {name: str(value) for name, value in given.items()}
    find_model(Path(found["model"] or "."))
    concurrent = int(found["max_concurrent"])
    ingress = serve.ingress(Starlette(routes=[Mount("/", _forward)]))
    deployment = serve.deployment(ingress(Replica)).options(
        name=Replica.__name__,
        max_ongoing_requests=concurrent + int(found["max_waiting"]),
        graceful_shutdown_timeout_s=DRAIN_SECONDS,
        ray_actor_options={"num_cpus": int(found["threads"])},
        autoscaling_config={
            "min_replicas": int(found["min_replicas"]),
            "max_replicas": max(int(found["max_replicas"]), int(found["min_replicas"])),
            # Running and waiting requests of a replica; with more, another one is started.
            "target_ongoing_requests": concurrent,
        },
    )
    return deployment.bind(found)
