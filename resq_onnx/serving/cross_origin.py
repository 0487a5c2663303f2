"""Pages of other origins that may read answers (CORS), named by `--cors-origin`.

A browser asks before it sends JSON or a key for a page of another origin (preflight). No origin is
allowed to send cookies or a browser's stored passwords: keys come from the page itself.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from resq_onnx.errors import ResqError

ANY: Final = "*"

ORIGIN: Final = re.compile(r"https?://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:\d{1,5})?", re.ASCII)


def check_origins(origins: Collection[str]) -> None:
    """Check origins as browsers write them.

    Raises:
        ResqError: One has another form, such as a path behind it.
    """
    for origin in origins:
        if origin != ANY and not ORIGIN.fullmatch(origin):
            raise ResqError(
                f"--cors-origin {origin!r} is not an origin: give scheme, name and port in lower "
                f"case, as https://chat.example or http://localhost:3000, or * for all pages"
            )


def allowing(app: ASGIApp, origins: Collection[str]) -> ASGIApp:
    """The application, whose answers pages of these origins may read; none changes nothing."""
    if not origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=("GET", "POST"),
        allow_headers=(ANY,),
        allow_credentials=False,
        expose_headers=("Retry-After",),
    )
