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
    names = [request.headers.get("Host", "")]
    if "Origin" in request.headers:
        names.append(urlsplit(request.headers["Origin"]).netloc)
    for name in names:
        if name and not is_loopback(urlsplit(f"//{name}").hostname or ""):
            refuse(f"A request for or from {name} is not answered without a password")


def is_loopback(host: str) -> bool:
    """Tell whether a host name or address means this machine alone.

    :arg host: Name or address, without a port.
    """
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
