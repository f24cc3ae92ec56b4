"""Serve an embedded store, read-only, over ClickHouse's HTTP protocol.

Only one process may open a chDB folder, so the process that owns it answers for everybody else:

```python
from connectors.clickhouse.server import EmbeddedServer
from connectors.clickhouse.store import Store

store = Store.open("chdb:///var/lib/pairflow", source="binance")
server = EmbeddedServer(store)
server.start()  # curl 'http://127.0.0.1:8123/?query=SELECT+count()+FROM+bars'
...
server.stop()
```

Any ClickHouse client that speaks HTTP can send queries: curl, clickhouse-connect, the Node and Go clients,
Grafana's data source. Each query runs in a thread and on a connection of its own, so that a slow query does
not delay the others.

Users can write to one table, ``alert_rules``: ``INSERT`` of literals and ``DELETE`` change it, as REST does.

=================  ==============================================================================
``app``            the HTTP server: its life, its routes, SQL over HTTP
``rest``           handlers of the REST routes; ``api`` declares them, ``openapi`` describes them
``access``         who may ask: passwords, and requests that a web page sends
``query``          a query as it came in, read from a request
``gate``           what a reader may ask: lists of what is allowed, and the check of a query
``execution``      runs checked queries: threads, connections, and how a query is ended
``connections``    a pool of chDB connections
``cursor``         a running query, whose answer comes piece by piece
``answers``        an answer on its way to the client: whole or in pieces, compressed, with headers
``formats``        answers of chDB in each format; ``native`` and ``framing`` are ClickHouse's own
``alert_rules``    INSERT and DELETE of alert rules
``http_handlers``  the same REST routes as configuration of a ClickHouse server
=================  ==============================================================================
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from connectors.clickhouse.server.app import EmbeddedServer

__all__ = ["EmbeddedServer"]


def __getattr__(name: str) -> Any:
    # The commands import `formats` and `connections` only: without a server they need no aiohttp, which takes
    # 0.2 s to import.
    if name == "EmbeddedServer":
        from connectors.clickhouse.server.app import EmbeddedServer

        return EmbeddedServer
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
