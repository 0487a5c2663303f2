"""For whom a server on loopback answers: its own names, and pages that it serves itself.

A web page of anywhere can have a name of its own that is made to mean 127.0.0.1 (DNS rebinding). A
browser then lets it read what a server on this machine answers, unless the server looks at the name
by which it was asked. The port does not matter: it may be the one of a tunnel.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

NAMES: Final = frozenset({"localhost", "127.0.0.1", "::1"})

HOST: Final = re.compile(r"(?:\[([0-9a-f:.]{2,45})\]|([a-z0-9._-]{1,253}))(?::\d{1,5})?", re.ASCII)
"""What a Host header looks like: an IPv6 address in brackets, or another address or a name."""


def refused_by(address: str, headers: Mapping[str, str]) -> tuple[HTTPStatus, str] | None:
    """Why a request is not answered, as a status and a sentence; None if it is.

    Args:
        address: Where the server listens; elsewhere than on loopback it may have any name.
        headers: Of the request, by names in lower case.
    """
    if not is_loopback(address):
        return None
    host = headers.get("host", "").lower()
    match = HOST.fullmatch(host)
    if match is None:
        return HTTPStatus.BAD_REQUEST, "the header Host is no host"
    if (match[1] or match[2]) not in NAMES | {address}:
        return (
            HTTPStatus.MISDIRECTED_REQUEST,
            "this server answers for localhost, 127.0.0.1 and [::1] alone, and the header Host "
            "names another; start it with another --host to let others in",
        )
    origin = headers.get("origin")
    if origin is not None and origin.lower() not in (f"http://{host}", f"https://{host}"):
        return (
            HTTPStatus.FORBIDDEN,
            "this server answers no page of another origin; start it with another --host to let "
            "others in",
        )
    return None


def is_loopback(address: str) -> bool:
    """Whether only programs of this machine reach an address."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"
