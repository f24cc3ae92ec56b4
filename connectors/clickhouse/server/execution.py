"""Runs checked queries on the connections of a store, in worker threads."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

from connectors.clickhouse.server.connections import Connections, ask_text
from connectors.clickhouse.server.cursor import Cursor
from connectors.clickhouse.server.errors import BUSY, TOO_LONG, QueryError, fail
from connectors.clickhouse.server.gate import Gate
from connectors.clickhouse.server.memory import remember
from connectors.clickhouse.server.query import Query, Shape

_THREADS = 16

# With this setting a result that is too long is cut off and is no error.
_CUT_OFF = "result_overflow_mode"

_T = TypeVar("_T")


class Begun(NamedTuple):
    """A query that has begun to answer.

    :arg cursor: Gives what is still to come.
    :arg pieces: The first parts of the answer.
    :arg is_whole: Whether they are all of it; the cursor is closed then.
    """

    cursor: Cursor
    pieces: list[bytes]
    is_whole: bool


class Execution:
    """Runs queries of one store.

    :arg path: Folder of the store, which this process has open.
    """

    def __init__(self, path: str) -> None:
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="query")
        # To end a query must not wait for a thread that the query itself occupies.
        self._killers = ThreadPoolExecutor(1, thread_name_prefix="query-end")
        self._stopping = False
        self._connections = Connections(path, most_idle=_THREADS)
        self._columns: dict[str, bytes] = {}
        self._was_whole: dict[Shape, bool] = {}
        with self._connections.unlimited() as connection:
            self._gate = Gate(connection)
            self.version = ask_text(connection, "SELECT version()", {}).strip()
            self.timezone = ask_text(connection, "SELECT timezone()", {}).strip()

    async def in_thread(self, call: Callable[..., _T], *args: Any) -> _T:
        """Run a function in a worker thread.

        :arg call: The function, with ``args``.
        :returns: Its result.
        """
        return await asyncio.get_running_loop().run_in_executor(self._threads, call, *args)

    async def begin(self, query: Query) -> Begun:
        """Check a query and run it as far as its answer is sent as a whole.

        :arg query: As it came in.
        :raises QueryError: If it is refused or fails.
        """
        beginning = self._threads.submit(self._begin, query)
        try:
            return await asyncio.wrap_future(beginning)
        except asyncio.CancelledError:
            beginning.add_done_callback(_close_begun)
            raise

    async def read(self, query: Query) -> str:
        """Check a query, run it and return its whole answer as text.

        :arg query: Made by this server from what a user sent.
        :raises QueryError: If it is refused or fails.
        """
        return await self.in_thread(self._read, query)

    async def run_unchecked(self, sql: str, parameters: Mapping[str, str]) -> str:
        """Run one of the few statements that this server makes itself, some of which write.

        :arg sql: A constant text.
        :arg parameters: Values of its parameters, each as `connections.escape` writes it.
        :returns: The answer, tabs between fields.
        :raises QueryError: If it fails.
        """
        return await self.in_thread(self._run_unchecked, sql, parameters)

    def abandon(self, query: Query) -> None:
        """End a running query whose client has gone away, without waiting for it."""
        self._killers.submit(self._kill, query.id)

    def close_later(self, cursor: Cursor) -> None:
        """Close a cursor in a worker thread."""
        self._threads.submit(cursor.close)

    async def end_all(self, query_ids: list[str]) -> None:
        """Refuse further queries and end those that run.

        :arg query_ids: Of the running queries.
        """
        self._stopping = True
        await asyncio.get_running_loop().run_in_executor(self._killers, self._kill, *query_ids)

    def close(self) -> None:
        """Wait for the worker threads and release the connections. Calling it again does nothing."""
        self._threads.shutdown(wait=True)
        self._killers.shutdown(wait=True)
        self._connections.close()

    def _check(self, query: Query) -> None:
        if self._stopping:
            fail(BUSY, "The server is being stopped")
        with self._connections.unlimited() as connection:
            self._gate.check(connection, query)

    def _begin(self, query: Query) -> Begun:
        """Check and run a query in one task of a worker thread.

        Each further task would have to acquire the GIL, which the flow in the same process holds most of the
        time.
        """
        self._check(query)
        if (
            query.shape
            and self._was_whole.get(query.shape)
            and query.format == "Native"
            and _CUT_OFF not in query.settings
        ):
            try:
                return self._first_pieces(self._open(query, at_once=True))
            except QueryError as ex:
                if ex.code != TOO_LONG:
                    raise
        begun = self._first_pieces(self._open(query))
        if query.shape is not None:
            remember(self._was_whole, query.shape, begun.is_whole)
        return begun

    def _open(self, query: Query, *, at_once: bool = False) -> Cursor:
        return Cursor(self._connections, query, self._columns, at_once=at_once)

    @staticmethod
    def _first_pieces(cursor: Cursor) -> Begun:
        try:
            return Begun(cursor, *cursor.first_pieces())
        except BaseException:
            cursor.close()
            raise

    def _read(self, query: Query) -> str:
        self._check(query)
        cursor = self._open(query)
        try:
            return b"".join(iter(cursor.next_piece, None)).decode()
        finally:
            cursor.close()

    def _run_unchecked(self, sql: str, parameters: Mapping[str, str]) -> str:
        with self._connections.unlimited() as connection:
            return ask_text(connection, sql, parameters)

    def _kill(self, *query_ids: str) -> None:
        """End queries, which `Cursor` marked with their ids."""
        marks = [f"/* {query_id} */" for query_id in query_ids]
        sql = "KILL QUERY WHERE arrayExists(mark -> endsWith(query, mark), {marks:Array(String)}) ASYNC"
        with contextlib.suppress(Exception), self._connections.unlimited() as connection:
            connection.query(sql, "Null", params={"marks": str(marks)})


def _close_begun(beginning: Future[Begun]) -> None:
    """Close the cursor of a query whose client went away while it began."""
    if not beginning.cancelled() and beginning.exception() is None:
        beginning.result().cursor.close()
