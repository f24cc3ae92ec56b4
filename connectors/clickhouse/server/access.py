"""Who may ask: passwords, and requests that a web page sends from a user's browser."""

from __future__ import annotations

import base64
import contextlib
import hmac
from ipaddress import ip_address
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from connectors.clickhouse.server.errors import WRONG_PASSWORD, fail, refuse

if TYPE_CHECKING:
    from aiohttp import web


def authorize(request: web.Request, password: str) -> None:
    """Check the password or, where there is none, that no web page sent the request.

    A page that a browser has open may send requests to this machine, and it may read the answers if its own
    name resolves to this machine. Such a request has the page's address as Origin, or its name as Host.

    :arg request: What the client sent.
    :arg password: Expected of every client; "" for none.
    :raises QueryError: If the request is refused.
    """
    if password:
        given = request.headers.get("X-ClickHouse-Key") or request.query.get("password") or ""
        header = request.headers.get("Authorization", "")
        if header.startswith("Basic "):
            with contextlib.suppress(ValueError):
                given = base64.b64decode(header[6:]).decode().partition(":")[2]
        if not hmac.compare_digest(given.encode(), password.encode()):
            fail(WRONG_PASSWORD, "default: Authentication failed: password is incorrect")
        return
    names = [f"//{request.headers['Host']}"] if request.headers.get("Host") else []
    # A page without an address of its own, as a frame in a sandbox or a file, sends "null".
    names += request.headers.getall("Origin", [])
    for name in names:
        if not is_loopback(_hostname(name)):
            shown = name.removeprefix("//") or "nowhere"
            refuse(f"A request for or from {shown} is not answered without a password")


def _hostname(url: str) -> str:
    """Return the host that a URL names; "" for none."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def is_loopback(host: str) -> bool:
    """Tell whether a host name or address means this machine alone.

    :arg host: Name or address, without a port.
    """
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
