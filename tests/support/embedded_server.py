"""Requests to an embedded server, as clients send them."""

import json
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from connectors.clickhouse.server import EmbeddedServer

TRADES = 200_000


SECRET = "a line of a file that is nobody's business"


SLOW = "SELECT sum(sipHash64(number)) FROM numbers(100000000000)"


def ask(
    server: EmbeddedServer, sql: str | bytes, headers: dict[str, str] | None = None, **parameters: str | int
) -> tuple[int, dict[str, str], bytes]:
    """Send a query as curl does."""
    url = f"http://{server.host}:{server.port}/?{urllib.parse.urlencode(parameters)}"
    data = sql if isinstance(sql, bytes) else sql.encode()
    request = urllib.request.Request(url, data or None, headers or {})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, dict(response.headers), response.read()
    except urllib.error.HTTPError as ex:
        with ex:
            return ex.code, dict(ex.headers), ex.read()


def rest(
    server: EmbeddedServer,
    path: str,
    *,
    method: str = "GET",
    body: object = None,
    headers: dict[str, str] | None = None,
) -> tuple[int, Any]:
    """Send a request to a REST route; return its status and its JSON."""
    url = f"http://{server.host}:{server.port}/api/v1{path}"
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(
        url, data, {"Content-Type": "application/json", **(headers or {})}, method=method
    )
    try:
        with urllib.request.urlopen(request) as response:
            text = response.read()
            return response.status, json.loads(text) if text else None
    except urllib.error.HTTPError as ex:
        with ex:
            return ex.code, json.loads(ex.read())


def wait_for_queries(server: EmbeddedServer, count: int) -> None:
    """Wait until so many queries run, this one not counted."""
    deadline = time.monotonic() + 30
    while int(ask(server, "SELECT value FROM system.metrics WHERE metric = 'Query'")[2]) != count + 1:
        assert time.monotonic() < deadline
        time.sleep(0.05)
