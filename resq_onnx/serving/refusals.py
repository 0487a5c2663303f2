"""Errors sent to clients: OpenAI's error objects, by cause."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

RETRY_SECONDS: Final = 2
"""Time after which a client may retry when the server is full."""


@dataclass(eq=False)
class RefusalError(Exception):
    """A request ends without an answer, or without the rest of one.

    Attributes:
        status: Status of the HTTP response, if its head has not been sent yet.
        message: What is wrong and what to do, for the author of the request.
        kind: `type` of the error object.
        param: The field of the request that it is about.
        code: A machine-readable code.
        headers: Further headers of the response.
    """

    status: int
    message: str
    kind: str = "invalid_request_error"
    param: str | None = None
    code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.message

    def to_json(self) -> dict[str, Any]:
        """The body of the response, or the data of a last event."""
        error = {
            "message": self.message,
            "type": self.kind,
            "param": self.param,
            "code": self.code,
        }
        return {"error": error}


def invalid(message: str, param: str | None = None, code: str | None = None) -> RefusalError:
    """The request itself is wrong."""
    return RefusalError(400, message, param=param, code=code)


def unknown_model(name: str, served: str) -> RefusalError:
    """The request is for another model."""
    return RefusalError(
        404,
        f"the model {name!r} is not served here; this is {served!r}",
        param="model",
        code="model_not_found",
    )


def wrong_key() -> RefusalError:
    """The request has no valid API key."""
    return RefusalError(
        401,
        "this server needs an API key: send it in the header Authorization, as `Bearer KEY`",
        code="invalid_api_key",
        headers={"WWW-Authenticate": "Bearer", "Connection": "close"},
    )


def busy(running: int, waiting: int) -> RefusalError:
    """All rows are taken and the queue is full."""
    return RefusalError(
        429,
        f"{running} requests are running and {waiting} waiting, which is as many as this server "
        f"takes; try again in {RETRY_SECONDS} seconds",
        kind="rate_limit_error",
        code="rate_limit_exceeded",
        headers={"Retry-After": str(RETRY_SECONDS)},
    )


def timed_out(seconds: float) -> RefusalError:
    """The request exceeded its time limit; a retry would only add to the load."""
    return RefusalError(
        504,
        f"the request took longer than {seconds:g} seconds, which is what this server allows; "
        f"ask for fewer tokens",
        kind="timeout_error",
        code="timeout",
        headers={"x-should-retry": "false"},
    )


def too_slow(seconds: float) -> RefusalError:
    """The body of the request arrives too slowly."""
    return RefusalError(
        408,
        f"the body of the request was not complete after {seconds:g} seconds",
        kind="timeout_error",
        code="timeout",
        headers={"Connection": "close"},
    )


def no_room() -> RefusalError:
    """Too many bodies are being read at once."""
    return RefusalError(
        503,
        f"too many requests are being sent at once; try again in {RETRY_SECONDS} seconds",
        kind="server_error",
        headers={"Retry-After": str(RETRY_SECONDS), "Connection": "close"},
    )


def stopping() -> RefusalError:
    """The server is being shut down."""
    return RefusalError(
        503,
        "the server is shutting down",
        kind="server_error",
        code="shutting_down",
        headers={"Connection": "close"},
    )


def gone() -> RefusalError:
    """The client has closed the connection: nothing is sent; the log says 499, by convention."""
    return RefusalError(499, "the client has closed the connection", kind="client_closed_request")


def model_failed(message: str) -> RefusalError:
    """The model failed: its logits are not finite, or ONNX Runtime reports an error."""
    return RefusalError(500, message, kind="server_error", code="model_error")


def broken() -> RefusalError:
    """A defect of this program; its log has the traceback."""
    return RefusalError(500, "unexpected error; the server's log has it", kind="server_error")
