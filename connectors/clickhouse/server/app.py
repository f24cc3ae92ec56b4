"""The HTTP server of an embedded store: its life, its routes, and SQL over HTTP."""

from __future__ import annotations

import asyncio
import threading

from aiohttp import web

from connectors.clickhouse.server.access import authorize, is_loopback
from connectors.clickhouse.server.alert_rules import RuleWriter
from connectors.clickhouse.server.answers import SERVER_NAME, Answers
from connectors.clickhouse.server.errors import QueryError, fail
from connectors.clickhouse.server.execution import Execution
from connectors.clickhouse.server.query import LONGEST_QUERY_BYTES, read_query
from connectors.clickhouse.server.rest import Rest
from connectors.clickhouse.store import Store, StoreError


class EmbeddedServer:
    """An HTTP server, in a thread of its own, for the store that this process has open.

    :arg store: An open embedded store; it must stay open until the server is stopped.
    :arg host: Address to listen on. One that is not a loopback address needs a password.
    :arg port: Port to listen on; 0 takes a free one, which `port` then shows.
    :arg password: Expected of every client; "" for none.
    :raises StoreError: If the store is a server itself, or a password is missing.
    """

    def __init__(
        self, store: Store, *, host: str = "127.0.0.1", port: int = 8123, password: str = ""
    ) -> None:
        if store.dsn.path is None:
            msg = f"{store.dsn} is a server itself: only an embedded store can be served"
            raise StoreError(msg)
        if not is_loopback(host) and not password:
            msg = (
                f"listening on {host}, which others can reach, needs a password: set PAIRFLOW_SERVER_PASSWORD"
            )
            raise StoreError(msg)
        self.host = host
        self.port = port
        self._database = store.dsn.database
        self._password = password
        self._loop = asyncio.new_event_loop()
        self._thread: threading.Thread | None = None
        self._stop = asyncio.Event()
        self._execution = Execution(store.dsn.path)
        self._answers = Answers(self._execution)
        self._rules = RuleWriter(self._execution, self._database)

    def start(self) -> None:
        """Listen.

        :raises StoreError: If the port is taken; nothing runs then.
        """
        ready = threading.Event()
        failed: list[OSError] = []

        def run() -> None:
            asyncio.set_event_loop(self._loop)
            self._loop.run_until_complete(self._serve(ready, failed))
            self._loop.close()

        self._thread = threading.Thread(target=run, name="clickhouse-http", daemon=True)
        self._thread.start()
        ready.wait()
        if failed:
            self._thread.join()
            self._thread = None
            self._execution.close()
            msg = (
                f"cannot serve the store on {self.host}:{self.port} ({failed[0].strerror or failed[0]}): "
                "another program may be using the port; name another, or go on without it"
            )
            raise StoreError(msg)

    def stop(self) -> None:
        """Stop listening, end running queries and release the connections. Calling it again does nothing."""
        if self._thread is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()
            self._thread = None
        self._execution.close()

    async def _serve(self, ready: threading.Event, failed: list[OSError]) -> None:
        app = web.Application(client_max_size=LONGEST_QUERY_BYTES)
        app.router.add_get("/ping", self._ok)
        app.router.add_get("/replicas_status", self._ok)
        Rest(self._answers, self._rules, self._database, self._password).add_to(app.router)
        app.router.add_route("*", "/", self._handle)
        app.router.add_route("*", "/query", self._handle)
        # When a client goes away, its handler is cancelled, which ends its query.
        runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=1)
        await runner.setup()
        try:
            await web.TCPSite(runner, self.host, self.port).start()
        except OSError as ex:
            failed.append(ex)
            await runner.cleanup()
            return
        finally:
            if not failed and runner.addresses:
                self.port = runner.addresses[0][1]
            ready.set()
        await self._stop.wait()
        await self._execution.end_all(self._answers.running)
        await runner.cleanup()

    async def _ok(self, request: web.Request) -> web.Response:
        return web.Response(text="Ok.\n")

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        """Answer SQL that came in by GET or POST."""
        query_id = ""
        try:
            authorize(request, self._password)
            if request.method not in ("GET", "POST"):
                fail(501, f"Method {request.method} is not allowed: use GET or POST")
            query = await read_query(request, self._database)
            if not query.sql.strip():
                return web.Response(text="Ok.\n")
            query_id = query.id
            if await self._rules.change(query, is_post=request.method == "POST"):
                return web.Response(headers=self._answers.headers(query))
            return await self._answers.answer(request, query)
        except QueryError as ex:
            headers = {"X-ClickHouse-Exception-Code": str(ex.code), "X-ClickHouse-Query-Id": query_id}
            return web.Response(
                status=ex.status, text=ex.body(self._execution.version), headers={**headers, **SERVER_NAME}
            )
