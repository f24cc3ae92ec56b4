"""A running query, whose answer comes piece by piece."""

from __future__ import annotations

import contextlib
import json
import os
import re
import threading
from collections.abc import Generator

from connectors.clickhouse.server.connections import Connections
from connectors.clickhouse.server.errors import UNSENDABLE, QueryError, fail
from connectors.clickhouse.server.formats import STREAMED, pieces
from connectors.clickhouse.server.memory import LONGEST_REMEMBERED, remember
from connectors.clickhouse.server.native import UnknownTypeError, empty_block, reframe
from connectors.clickhouse.server.query import Query

# What a query may use. Grafana's data source sends its own time limit: this one may be raised up to a bound.
_SECONDS = 60
_MAX_SECONDS = 300
_MEMORY_BYTES = min(1_000_000_000, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 8)
_RESULT_BYTES = 256_000_000

_WHOLE_BYTES = 1_000_000
"""An answer up to this size is sent as a whole, with its length; a longer one piece by piece."""

# Seconds or milliseconds since the epoch. The type of a column does not depend on them.
_TIMESTAMP = re.compile(r"(?<![\w$.\\])[0-9]{10,13}(?![\w$.])")


class Cursor:
    """A running query: each call of `next_piece` returns the next part of its answer.

    It is made, stepped and closed in worker threads, by one at a time.

    :arg connections: The pool that its connection comes from.
    :arg query: Checked by the gate.
    :arg columns: The blocks of earlier results without rows, by the text of the query without its times.
    :arg at_once: Make the answer as a whole, which acquires the GIL fewer times. A longer answer than is sent
        as a whole then fails.
    :raises QueryError: If a setting has no such value, or there is no such database.
    """

    def __init__(
        self, connections: Connections, query: Query, columns: dict[str, bytes], *, at_once: bool
    ) -> None:
        self._connections = connections
        self._query = query
        self._columns = columns
        self._at_once = at_once or query.whole
        self._limits = _limits(query, str(_WHOLE_BYTES) if at_once else "")
        self._connection = connections.take(self._limits)
        self._pieces = self._run()
        self._is_over = self._is_closed = False
        self._stepping = threading.Lock()

    def first_pieces(self) -> tuple[list[bytes], bool]:
        """Wait until the answer is complete, or longer than is sent as a whole.

        :returns: Its parts, and whether they are all of it; if so, the connection is released.
        :raises QueryError: If the query failed.
        """
        found: list[bytes] = []
        size = 0
        while (piece := self.next_piece()) is not None:
            found.append(piece)
            size += len(piece)
            if size >= _WHOLE_BYTES:
                return found, False
        self.close()
        return found, True

    def next_piece(self) -> bytes | None:
        """Wait for the next part of the answer.

        :returns: The part, or None at the end.
        :raises QueryError: If the query failed.
        """
        with self._stepping:
            piece = next(self._pieces, None)
            self._is_over = piece is None
            return piece

    def close(self) -> None:
        """Release the connection, after a step that runs in another thread."""
        with self._stepping:
            if self._is_closed:
                return
            self._is_closed = True
            if self._is_over:
                self._connections.give_back(self._limits, self._connection)
                return
            with contextlib.suppress(Exception):
                self._pieces.close()
            with contextlib.suppress(Exception):
                self._connection.close()

    def _run(self) -> Generator[bytes, None, None]:
        query = self._query
        # `Execution.kill` finds the query by the comment; it has a line of its own, as the text may end in a
        # comment.
        sql = f"{query.sql.rstrip().rstrip(';')}\n/* {query.id} */"
        try:
            empty = True
            if self._at_once:
                made = self._connection.query(sql, query.format, params=query.parameters).bytes()
                empty = not made
                if made:
                    yield reframe(made, query.revision) if query.format == "Native" else made
            else:
                for piece in pieces(self._connection, sql, query.format, query.parameters, query.revision):
                    empty = False
                    yield piece
            if empty and query.format == "Native":
                yield reframe(self._describe(), query.revision)
        except UnknownTypeError as ex:
            fail(UNSENDABLE, str(ex))
        except Exception as ex:
            raise QueryError.of(ex) from ex

    def _describe(self) -> bytes:
        """Name the columns of a result without rows, as a server's first block does."""
        key = _TIMESTAMP.sub(lambda m: "0" * len(m[0]), f"{self._query.database} {self._query.sql}")
        if self._query.parameters or len(key) > LONGEST_REMEMBERED:
            return self._ask_columns()
        known = self._columns.get(key)
        if known is None:
            known = self._ask_columns()
            # An expression without an alias gives its own text as the column's name, which may hold a time.
            if known and not re.search(rb"[0-9]{10}", known):
                remember(self._columns, key, known)
        return known

    def _ask_columns(self) -> bytes:
        sql = re.sub(
            r"\s+(FORMAT|SETTINGS)\s(?!.*\)).*$", "", self._query.sql.rstrip().rstrip(";"), flags=re.I | re.S
        )
        with contextlib.suppress(Exception):
            described = self._connection.query(
                f"DESCRIBE ({sql}\n)", "JSONCompact", params=self._query.parameters
            )
            return empty_block([(row[0], row[1]) for row in json.loads(described.bytes())["data"]])
        return b""


def _limits(query: Query, most_bytes: str) -> dict[str, str]:
    """Return the limits of a query's connection, and the settings that the query changes below them."""
    settings = {
        "database": query.database,
        "max_execution_time": str(_SECONDS),
        "max_memory_usage": str(_MEMORY_BYTES),
        # Half the cores at most, so that the flow in the same process keeps the others.
        "max_threads": str(max(1, (os.cpu_count() or 2) // 2)),
        # Panels read little data from many places: a thread pool for reading would cost more than it saves.
        "local_filesystem_read_method": "pread",
        # A query must not write to the disk.
        "max_bytes_before_external_sort": "0",
        "max_bytes_before_external_group_by": "0",
        "max_bytes_ratio_before_external_sort": "0",
        "max_bytes_ratio_before_external_group_by": "0",
    }
    if most_bytes:
        settings["max_result_bytes"] = most_bytes
    elif query.format not in STREAMED:
        settings["max_result_bytes"] = str(_RESULT_BYTES)
    for name, value in query.settings.items():
        if name == "max_execution_time":
            value = _at_most(value, _MAX_SECONDS, name)  # noqa: PLW2901
        elif name in ("max_memory_usage", "max_threads", "max_result_bytes") and name in settings:
            value = _at_most(value, int(settings[name]), name)  # noqa: PLW2901
        settings[name] = value
    return settings


def _at_most(value: str, bound: int, name: str) -> str:
    try:
        number = float(value)
    except ValueError:
        raise QueryError(27, f"Setting {name} must be a number, not {value!r}") from None
    # ClickHouse reads 0 as no limit.
    return value if 0 < number <= bound else str(bound)
