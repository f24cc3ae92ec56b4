"""Connections of chDB that wait in a pool for their next query."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from connectors.clickhouse.server.errors import QueryError


class Result(Protocol):
    """What chDB answers."""

    def bytes(self) -> bytes:
        """Copy the answer."""


class Connection(Protocol):
    """A connection of chDB: one query at a time, in any thread."""

    def query(self, sql: str, format: str, params: Mapping[str, str]) -> Result:  # noqa: A002
        """Run a query and wait for all of its answer."""

    def send_query(self, sql: str, format: str, params: Mapping[str, str]) -> Any:  # noqa: A002
        """Run a query and iterate over the blocks of its answer."""

    def close(self) -> None:
        """Release the connection."""


def escape(text: str) -> str:
    """Write a parameter's text as chDB and servers read it: as a field of TabSeparated.

    :arg text: The value of a parameter.
    """
    return text.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")


def ask_text(connection: Connection, sql: str, parameters: Mapping[str, str]) -> str:
    """Run one of the server's own queries and return its answer as text.

    :arg connection: Where it runs.
    :arg sql: The query.
    :arg parameters: Values of its parameters, each as `escape` writes it.
    :returns: Fields with tabs between, without escaping.
    :raises QueryError: If it fails.
    """
    try:
        return connection.query(sql, "TSVRaw", params=parameters).bytes().decode()
    except Exception as ex:
        raise QueryError.of(ex) from ex


class Connections:
    """A pool of connections to one folder.

    To open a connection takes a millisecond and acquires the GIL three times, and each time the query waits
    for the flow in the same process. A connection with limits can be used again: it is read-only, so that no
    query changes anything for the next one.

    :arg path: Folder of the store.
    :arg most_idle: Number of connections that are kept while nobody uses them.
    """

    def __init__(self, path: str, most_idle: int) -> None:
        self._path = path
        self._most_idle = most_idle
        self._idle: list[tuple[Mapping[str, str] | None, Connection]] = []
        self._lock = threading.Lock()
        self._is_closed = False

    def take(self, limits: Mapping[str, str] | None) -> Connection:
        """Return a connection.

        :arg limits: Settings of the connection, and its database as "database"; the connection is then
            read-only. None for a connection without limits.
        :raises QueryError: If a setting has no such value, or there is no such database.
        """
        with self._lock:
            for at in range(len(self._idle) - 1, -1, -1):
                if self._idle[at][0] == limits:
                    return self._idle.pop(at)[1]
        connection = self._connect()
        if limits is not None:
            try:
                if limits["database"]:
                    _run(connection, f"USE {_identifier(limits['database'])}")
                changes = (
                    f"{name} = {value if name == 'additional_table_filters' else _literal(value)}"
                    for name, value in limits.items()
                    if name != "database"
                )
                _run(connection, f"SET {', '.join(changes)}, readonly = 1")
            except BaseException:
                connection.close()
                raise
        return connection

    def give_back(self, limits: Mapping[str, str] | None, connection: Connection) -> None:
        """Keep a connection for the next query that needs one with the same limits.

        :arg limits: With which it was taken.
        :arg connection: On which no query runs.
        """
        surplus: Connection | None = connection
        with self._lock:
            if not self._is_closed:
                self._idle.append((limits, connection))
                surplus = self._idle.pop(0)[1] if len(self._idle) > self._most_idle else None
        if surplus is not None:
            surplus.close()

    @contextlib.contextmanager
    def unlimited(self) -> Iterator[Connection]:
        """Lend a connection without limits, for statements that the server itself makes."""
        connection = self.take(None)
        try:
            yield connection
        except BaseException:
            connection.close()
            raise
        self.give_back(None, connection)

    def close(self) -> None:
        """Close all idle connections, and from now on each one that is given back."""
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, []
        for _, connection in idle:
            connection.close()

    def _connect(self) -> Connection:
        import chdb

        connection: Connection = chdb.connect(self._path)  # type: ignore[no-untyped-call]
        return connection


def _run(connection: Connection, sql: str) -> None:
    try:
        connection.query(sql, "Null", params={})
    except Exception as ex:
        raise QueryError.of(ex) from ex


def _identifier(name: str) -> str:
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"


def _literal(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
