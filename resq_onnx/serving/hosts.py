"""Host and Origin checks of a server on loopback, against DNS rebinding.

Any web page can have a host name that is made to resolve to 127.0.0.1 (DNS rebinding). A browser
then lets it read the answers of a server on this machine, unless the server checks the name in the
request. The port does not matter: it may be that of a tunnel.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Mapping
from http import HTTPStatus
from typing import Final

NAMES: Final = frozenset({"localhost", "127.0.0.1", "::1"})

HOST: Final = re.compile(r"(?:\[([0-9a-f:.]{2,45})\]|([a-z0-9._-]{1,253}))(?::\d{1,5})?", re.ASCII)
"""Form of a Host header: an IPv6 address in brackets, or another address or a name."""


def refused_by(
    address: str, headers: Mapping[str, str], origins: Collection[str] = ()
) -> tuple[HTTPStatus, str] | None:
    """The status and message with which a request is refused; None if it is answered.

    Args:
        address: The address at which the server listens; off loopback any host name is allowed.
        headers: The request's headers, by lower-case names.
        origins: Further origins whose pages are answered; `*` for all.
    """
    if not is_loopback(address):
        return None
    host = headers.get("host", "").lower()
    match = HOST.fullmatch(host)
    if match is None:
        return HTTPStatus.BAD_REQUEST, "the header Host is not a host name"
    if (match[1] or match[2]) not in NAMES | {address}:
        return (
            HTTPStatus.MISDIRECTED_REQUEST,
            "this server answers for localhost, 127.0.0.1 and [::1] alone, and the header Host "
            "names another; start it with another --host to let others in",
        )
    origin = headers.get("origin")
    allowed = (f"http://{host}", f"https://{host}", *origins)
    if origin is not None and origin.lower() not in allowed and "*" not in origins:
        return (
            HTTPStatus.FORBIDDEN,
            "this server answers no page of this origin; start it with --cors-origin to let "
            "the page ask",
        )
    return None


def is_loopback(address: str) -> bool:
    """Whether only programs on this machine can reach an address."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"
