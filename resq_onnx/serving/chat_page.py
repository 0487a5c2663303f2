"""The chat page at /: a few files, which use the server's API as any client does.

It looks like the page of `resq-onnx web`, whose style sheet and icon it has.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

OWN: Final = ("index.html", "chat.css", "chat.js", "events.js")
SHARED: Final = ("style.css", "icon.svg")
"""Files of the folders `serving/page` and `web/page`."""

HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
"""Nothing is loaded from elsewhere, and no other page may show this one in a frame."""


def page_routes() -> list[Route]:
    """The page at /, and what it needs under /page/."""
    package = files("resq_onnx")
    found = {name: package / "serving" / "page" / name for name in OWN}
    found |= {name: package / "web" / "page" / name for name in SHARED}
    contents = {name: path.read_bytes() for name, path in found.items()}
    index = contents.pop("index.html")
    routes = [_route("/", "index.html", index)]
    return [*routes, *(_route(f"/page/{name}", name, data) for name, data in contents.items())]


def _route(path: str, name: str, content: bytes) -> Route:
    kind = TYPES[name[name.rindex(".") :]]

    async def answer(_: Request) -> Response:
        return Response(content, media_type=kind, headers=HEADERS)

    return Route(path, answer)
