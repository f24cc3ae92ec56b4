"""Serve an embedded store, read-only, over ClickHouse's HTTP protocol.

Only one process may open a chDB folder, so the process that owns it answers everybody else:

```python
from connectors.clickhouse.server import EmbeddedServer
from connectors.clickhouse.store import Store

store = Store.open("chdb:///var/lib/pairflow", source="binance")
server = EmbeddedServer(store)
server.start()  # curl 'http://127.0.0.1:8123/?query=SELECT+count()+FROM+bars'
...
server.stop()
```

Any ClickHouse client that speaks HTTP can ask: curl, clickhouse-connect, the Node and Go clients, Grafana's
data source. Each query runs on a connection of its own, in a thread of its own: a slow one holds up no other.

Users write one table, ``alert_rules``: ``INSERT`` of literals and ``DELETE`` change it here as REST does.

Read-only is more than chDB's ``readonly = 1``, which still lets a query read any file (``file(path)``), write
one (``INTO OUTFILE``), look at Python's variables (``Python(name)``) and kill other queries. So ClickHouse
parses each query first, and only what is known to be harmless runs; see `_Gate`.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hmac
import io
import json
import os
import re
import threading
import uuid
import zlib
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TypeVar
from urllib.parse import urlsplit

from aiohttp import web

from connectors.clickhouse import api, framing
from connectors.clickhouse.formats import STREAMED, Connection, Pipe, escape, pieces
from connectors.clickhouse.native import UnknownTypeError, empty_block, reframe
from connectors.clickhouse.store import Store, StoreError

if TYPE_CHECKING:
    from aiohttp.multipart import BodyPartReader


_K = TypeVar("_K")
_V = TypeVar("_V")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# What a query may use. Grafana's data source asks for its own time limit: that one may change up to a bound.
_SECONDS = 60
_MAX_SECONDS = 300
_MEMORY = min(1_000_000_000, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 8)
_RESULT = 256_000_000
_QUERY_BYTES = 1_000_000
_THREADS = 16
_WAITING = 100

# Answers up to this size are sent whole, with their length; longer ones as they come.
_WHOLE = 1_000_000

_STATEMENTS = _words("""
    SelectWithUnionQuery SelectIntersectExceptQuery Explain DescribeQuery ShowTables ShowColumns
    ShowIndexes ShowFunctions ShowEngineQuery ShowCreateTableQuery ShowCreateViewQuery
    ShowCreateDatabaseQuery ExistsTableQuery ExistsViewQuery ExistsDatabaseQuery
""")

_TABLE_FUNCTIONS = _words("""
    numbers numbers_mt zeros zeros_mt primes generate_series generateseries generaterandom values
    sqlstandardvalues null view
""")

# Functions that reach a file, the network, a dictionary, the log or the machine, or only wait.
_FUNCTIONS = re.compile(
    r"file.*|ai[a-z]+|dict(get|has|isin).*|catboost.*|evalmlmethod|naivebayes.*|address.*|demangle|sleep.*|eval"
    r"|getserver.*|getmacro|getclienthttpheader|showcertificate|structureto.*|logtrace|joinget.*|fuzz.*"
    r"|zookeeper.*|iceberg.*|region.*|tcpport|transaction.*|buildid|serveruuid"
)

_SYSTEM_TABLES = _words("""
    one numbers numbers_mt zeros zeros_mt primes databases tables columns parts parts_columns settings
    functions table_functions table_engines database_engines formats data_type_families
    aggregate_function_combinators collations time_zones keywords licenses contributors build_options
    metrics events asynchronous_metrics merges mutations dictionaries data_skipping_indices projections
    constraints completions clusters macros
""")

_FORMATS = _words("""
    Native RowBinary RowBinaryWithNames RowBinaryWithNamesAndTypes Null Values TSKV Vertical Markdown MD
    XML SQLInsert MsgPack BSONEachRow Avro ORC Parquet Arrow ArrowStream Prometheus LineAsString RawBLOB
    Hash CustomSeparated CustomSeparatedWithNames CustomSeparatedWithNamesAndTypes GeoJSON Npy JSON
    JSONStrings JSONCompact JSONCompactStrings JSONColumns JSONCompactColumns JSONColumnsWithMetadata
    JSONObjectEachRow JSONEachRow NDJSON JSONLines JSONL PrettyJSONEachRow PrettyNDJSON PrettyJSONLines
    JSONStringsEachRow JSONCompactEachRow JSONCompactStringsEachRow JSONCompactEachRowWithNames
    JSONCompactEachRowWithNamesAndTypes JSONCompactStringsEachRowWithNames
    JSONCompactStringsEachRowWithNamesAndTypes JSONEachRowWithProgress JSONStringsEachRowWithProgress
    JSONCompactEachRowWithProgress JSONCompactStringsEachRowWithProgress CSV CSVWithNames
    CSVWithNamesAndTypes
""").union(
    (
        name + suffix
        for name in ("TSV", "TSVRaw", "TabSeparated", "TabSeparatedRaw", "Raw")
        for suffix in ("", "WithNames", "WithNamesAndTypes")
    ),
    (
        f"Pretty{style}{escapes}{block}"
        for style in ("", "Compact", "Space")
        for escapes in ("", "NoEscapes")
        for block in ("", "MonoBlock")
    ),
)

# Settings a query may change: how results look, and limits of its own. None of them names a file, an address
# or a schema, and none lifts a limit of the server.
_SETTINGS = re.compile(
    r"output_format_(?!schema|avro|protobuf|capn)\w+|format_(csv|tsv|json|custom|binary|display)\w+"
    r"|date_time_\w+|session_timezone|bool_(true|false)_representation|extremes|limit|offset|final|join_use_nulls"
    r"|max_(threads|block_size|result_rows|result_bytes|rows_to_read|bytes_to_read|rows_to_group_by)"
    r"|max_columns_to_read|union_default_mode"
    r"|(result|read|group_by)_overflow_mode|timeout_overflow_mode|max_execution_time|max_memory_usage"
    r"|aggregate_functions_null_for_empty|prefer_column_name_to_alias|group_by_use_nulls|transform_null_in"
    r"|additional_table_filters|additional_result_filter|empty_result_for_aggregation_by_empty_set"
    r"|log_queries|log_comment|use_client_time_zone|cast_keep_nullable|optimize_\w+|enable_analyzer"
    r"|allow_experimental_analyzer|do_not_merge_across_partitions_select_final|decimal_check_overflow"
    r"|any_join_distinct_right_table_keys|count_distinct_implementation|short_circuit_function_evaluation"
    r"|distinct_overflow_mode|enable_positional_arguments"
    r"|async_insert|wait_for_async_insert"  # the Java client sends them with a SELECT, too
)

# Parameters of the HTTP interface itself, which are no settings. Sessions hold nothing here: no query changes
# state.
_TRANSPORT = _words("""
    query database default_format user password quota_key query_id session_id session_timeout
    session_check close_session role compress decompress buffer_size wait_end_of_query
    client_protocol_version enable_http_compression http_zlib_compression_level
    send_progress_in_http_headers http_headers_progress_interval_ms add_http_cors_header stacktrace
    http_write_exception_in_output_format http_response_buffer_size readonly framing
    cancel_http_readonly_queries_on_client_close http_receive_timeout http_send_timeout
    network_compression_method network_zstd_compression_level
""")

_CONTENT_TYPES = {
    "CSV": "text/csv; charset=UTF-8",
    "JSON": "application/json; charset=UTF-8",
    "NDJSON": "application/x-ndjson; charset=UTF-8",
    "Native": "application/octet-stream",
    "RowBinary": "application/octet-stream",
    "Parquet": "application/octet-stream",
    "Arrow": "application/octet-stream",
    "XML": "application/xml; charset=UTF-8",
    "Markdown": "text/markdown; charset=UTF-8",
}

_ALERT_TYPES = {
    "id": "UUID",
    "window": "UInt32",
    "threshold": "Float64",
    "for_seconds": "UInt32",
    "enabled": "Bool",
}

_SYNTAX, _UNKNOWN_SETTING, _READONLY, _WRONG_PASSWORD, _BUSY, _UNKNOWN_FORMAT = 62, 115, 164, 516, 202, 73
_THROWN = 395  # by throwIf
_TOO_LONG = 396
_CUT_OFF = "result_overflow_mode"  # with which a result that is too long is no error
_NAMES = {
    _SYNTAX: "SYNTAX_ERROR",
    _UNKNOWN_SETTING: "UNKNOWN_SETTING",
    _READONLY: "READONLY",
    _WRONG_PASSWORD: "AUTHENTICATION_FAILED",
    _BUSY: "TOO_MANY_SIMULTANEOUS_QUERIES",
    _UNKNOWN_FORMAT: "UNKNOWN_FORMAT",
    44: "ILLEGAL_COLUMN",
    48: "NOT_IMPLEMENTED",
    223: "QUERY_IS_TOO_LARGE",
    _TOO_LONG: "TOO_MANY_ROWS_OR_BYTES",
}

# How ClickHouse answers: 404 for what does not exist, 400 for what is wrong with the query, 500 otherwise.
_STATUS = {
    **dict.fromkeys((46, 47, 50, 56, 60, 63, 73, 81, 115), 404),
    **dict.fromkeys(
        (6, 8, 10, 16, 20, 27, 36, 38, 41, 42, 43, 44, 53, 62, 70, 72, 117, 130, 184, 215, 386, 456, 457), 400
    ),
    **dict.fromkeys((_READONLY, _WRONG_PASSWORD), 403),
    159: 408,
    223: 413,
    48: 501,
    _BUSY: 503,
}


class QueryError(Exception):
    """A refusal or a failure, as ClickHouse words it.

    :arg code: ClickHouse's error code.
    :arg text: What is wrong.
    """

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text

    @classmethod
    def of(cls, ex: Exception) -> QueryError:
        """Read the code out of what chDB raised."""
        text = str(ex)
        found = re.search(r"Code: (\d+)\. DB::Exception: (.*)", text, re.DOTALL)
        if not found:
            return cls(1002, text.splitlines()[0] if text else "unknown error")
        text = re.sub(r"(Code: \d+\. DB::Exception: )+", "", found[2]).strip()
        # The gate's own query around the user's is no news to the user.
        text = re.sub(
            r":? In scope SELECT formatQuerySingleLine\(.*\)\.? (?=\(\w+\)$)", " ", text, flags=re.DOTALL
        )
        return cls(int(found[1]), text)

    def body(self, version: str) -> str:
        """Word it like a server."""
        name = "" if re.search(r"\([A-Z0-9_]+\)$", self.text) else f" ({_NAMES.get(self.code, 'ERROR')})"
        return f"Code: {self.code}. DB::Exception: {self.text}{name} (version {version} (official build))\n"


def _fail(code: int, text: str) -> NoReturn:
    raise QueryError(code, text)


def _refuse(what: str) -> NoReturn:
    _fail(_READONLY, f"{what}. This server answers read-only queries of the store.")


@dataclass
class _Query:
    """A query as it came in."""

    sql: str
    database: str
    format: str = "TabSeparated"
    parameters: dict[str, str] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)
    revision: int = 0
    packed: bool = False  # in ClickHouse's own compressed blocks
    whole: bool = False  # made whole even where the format could come piece by piece
    content_type: str = ""  # where it is not that of the format
    shape: tuple[str, str] | None = None  # what the gate knows it by
    id: str = field(default_factory=lambda: str(uuid.uuid4()))


_PARSE = "SELECT formatQuerySingleLine({q:String})"

# A whole number that is no part of a name. What a dashboard asks again differs in these alone.
_NUMBER = re.compile(r"(?<![\w$.\\])[0-9]+(?![\w$.])")
# A time with its seconds or milliseconds since the epoch, which no column's type depends on.
_TIMESTAMP = re.compile(r"(?<![\w$.\\])[0-9]{10,13}(?![\w$.])")
_MOST_PASSED = 2_000
_LONGEST_PASSED = 10_000


def _remember(memory: dict[_K, _V], key: _K, value: _V) -> None:
    """Keep what was found out of a query, of so many that memory stays bounded."""
    if len(memory) >= _MOST_PASSED:
        memory.clear()
    memory[key] = value


class _Gate:
    """Lets through what only reads the store.

    ClickHouse itself parses the query (``formatQuery`` and ``EXPLAIN AST`` parse, and run nothing), and the
    nodes of the tree are compared with lists of what is allowed.

    That takes some 4 of the 30 ms that a panel of a dashboard takes. So what has passed is remembered: a
    query that differs in whole numbers alone names the same tables, functions and formats. Where a number may
    matter, as in a SETTINGS clause, and where a parameter may be a name, nothing is remembered.
    """

    def __init__(self, connection: Connection) -> None:
        self._passed: dict[tuple[str, str], tuple[str | None, bool]] = {}
        names = connection.query("SELECT lower(name) FROM system.table_functions", "TSVRaw", {}).bytes()
        self._table_functions = frozenset(names.decode().split()) - _TABLE_FUNCTIONS
        names = connection.query("SELECT lower(name) FROM system.functions", "TSVRaw", {}).bytes()
        self._functions = frozenset(names.decode().split())

    def check(self, connection: Connection, query: _Query) -> None:
        """Refuse a query, or set its format and settings from its own clauses.

        :arg connection: That nothing was changed on.
        :raises QueryError: If it does not parse, or is not allowed.
        """
        sql = query.sql
        key = (_NUMBER.sub("0", sql), query.database)
        passed = self._passed.get(key)
        if passed is None:
            passed = self._check_text(connection, query)
            plain = not re.search(r"settings|identifier", sql, re.IGNORECASE)
            if plain and query.sql == sql and len(sql) <= _LONGEST_PASSED:
                _remember(self._passed, key, passed)
        if key in self._passed:
            query.shape = key
        named, whole = passed
        query.format = named or query.format
        query.whole = query.whole or whole
        if query.format not in _FORMATS:
            _fail(_UNKNOWN_FORMAT, f"Format {query.format} is not known or not allowed here")
        self._check_settings(connection, query)

    def _check_text(self, connection: Connection, query: _Query) -> tuple[str | None, bool]:
        """Refuse a query for what it says; return the format it names, and whether it must be made whole."""
        # Alone, formatQuery parses and refuses several statements at once, so what follows parses one
        # statement.
        text = _text(connection, _PARSE, {"q": escape(query.sql)})
        masked = re.sub(
            r"'(?:[^'\\]|\\.|'')*'|`(?:[^`\\]|\\.|``)*`|\"(?:[^\"\\]|\\.)*\"", lambda m: "_" * len(m[0]), text
        )
        if re.search(r"\bINTO OUTFILE\b", masked):
            _refuse("INTO OUTFILE is not allowed")
        found = re.search(r" FORMAT (\w+)(?: SETTINGS .*)?$", masked)
        if found and found[1] in ("Arrow", "Parquet"):
            # These are written here, from a stream of Arrow: the query must not name another format.
            query.sql = text[: found.start()] + text[found.end(1) :]
        for start in re.finditer(r"\bSETTINGS (?=\w+ = )", masked):
            clause = dict(_assignments(text, start.end()))
            if forbidden := [name for name in clause if not _SETTINGS.fullmatch(name)]:
                _refuse(f"Setting {forbidden[0]} cannot be changed")
            query.settings.update(clause)
        tree = _text(connection, f"EXPLAIN AST {query.sql}", query.parameters)
        if not tree.strip():
            _refuse("A query that shows no syntax tree is not allowed")
        self._check_tree(tree, query.database)
        # chDB streams no other statements.
        return (found[1] if found else None), not tree.startswith("Select")

    def _check_settings(self, connection: Connection, query: _Query) -> None:
        for name, value in list(query.settings.items()):
            if not _SETTINGS.fullmatch(name):
                self._check_unchanged(connection, name, value)
                del query.settings[name]
            elif name == "additional_table_filters":
                values = "SELECT arrayJoin(mapValues({v:Map(String, String)}))"
                conditions = _text(connection, values, {"v": value})
                # One condition a line. A line break inside one would leave parts that do not parse, or do and
                # are checked: nothing slips through between lines.
                for condition in conditions.splitlines():
                    self._check_condition(connection, condition, query.database)
            elif name == "additional_result_filter":
                self._check_condition(connection, value, query.database)

    def _check_unchanged(self, connection: Connection, name: str, value: str) -> None:
        """Let a client send a setting that it may not change, if with the value in force, as servers do."""
        sql = "SELECT value FROM system.settings WHERE name = {name:String} FORMAT TSVRaw"
        found = _text(connection, sql, {"name": escape(name)})
        if not found:
            _fail(_UNKNOWN_SETTING, f"Setting {name} is not known")
        as_number = {"true": "1", "false": "0"}
        if as_number.get(value.lower(), value) != found.removesuffix("\n"):
            _refuse(f"Setting {name} cannot be changed")

    def _check_condition(self, connection: Connection, condition: str, database: str) -> None:
        """Conditions given as text are parsed apart from the query, so they are checked apart from it."""
        sql = f"SELECT {condition}"
        _text(connection, _PARSE, {"q": escape(sql)})
        self._check_tree(_text(connection, f"EXPLAIN AST {sql}", {}), database)

    def _check_tree(self, tree: str, database: str) -> None:
        path: list[str] = []
        for line in tree.splitlines():
            node = line.lstrip(" ")
            if not node:
                continue
            kind, _, rest = node.partition(" ")
            del path[len(line) - len(node) :]
            parent = path[-1] if path else ""
            path.append(kind)
            name = rest.split(" (")[0].strip()
            if not parent and kind == "InsertQuery":
                _refuse(
                    "INSERT is not allowed, save of literals into alert_rules: INSERT INTO alert_rules "
                    "(pair, threshold) VALUES ('ETHUSDT/BTCUSDT', 2.5)"
                )
            if not parent and kind not in _STATEMENTS:
                _refuse(f"A statement of this kind ({kind}) is not allowed")
            if kind == "Literal" and parent in _STATEMENTS:
                _refuse("INTO OUTFILE is not allowed")
            if kind == "Function":
                self._check_function(name.lower(), is_table=parent == "TableExpression")
            elif kind in ("Identifier", "TableIdentifier", "StorageID"):
                self._check_table(name, database, is_table=kind != "Identifier")

    def _check_function(self, name: str, *, is_table: bool) -> None:
        forbidden = name in self._table_functions and (is_table or name not in self._functions)
        if forbidden or _FUNCTIONS.fullmatch(name):
            _refuse(f"Function {name} is not allowed")

    def _check_table(self, name: str, database: str, *, is_table: bool) -> None:
        parts = name.split(".")
        qualified = len(parts) > 1
        schema = parts[0] if qualified else database
        if schema != "system" or (not qualified and not is_table):
            return
        if parts[-1 if not qualified else 1] not in _SYSTEM_TABLES:
            _refuse(f"Table {name} is not allowed")


def _text(connection: Connection, sql: str, parameters: Mapping[str, str]) -> str:
    """Run one of the gate's own queries."""
    try:
        return connection.query(sql, "TSVRaw", params=parameters).bytes().decode()
    except Exception as ex:
        raise QueryError.of(ex) from ex


def _assignments(text: str, at: int) -> Iterator[tuple[str, str]]:
    """Read ``name = value, name = value`` from a query that ClickHouse has formatted."""
    value = re.compile(
        r"(\w+) = ('(?:[^'\\]|\\.|'')*'|\{(?:[^{}']|'(?:[^'\\]|\\.|'')*')*\}|\[[^\]]*\]|[\w.+-]+)"
        r"(, (?=\w+ = ))?"
    )
    while found := value.match(text, at):
        raw = found[2]
        if raw.startswith("'"):
            raw = re.sub(r"\\(.)|''", lambda m: m[1] or "'", raw[1:-1])
        yield found[1], raw
        if not found[3]:
            return
        at = found.end()


class _Connections:
    """Connections that wait for their next query.

    To make one takes a millisecond, and three turns at Python's lock, for which the flow beside makes each
    turn wait. One that is limited can be used again: it is read-only, so that each query finds it as made.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._idle: list[tuple[Mapping[str, str] | None, Connection]] = []
        self._lock = threading.Lock()
        self._is_closed = False

    def take(self, limits: Mapping[str, str] | None) -> Connection:
        """Return a connection.

        :arg limits: Settings of the connection, and its database as "database"; then it is read-only. None
            for one as chDB makes it.
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
                    _do(connection, f"USE {_identifier(limits['database'])}")
                changes = (
                    f"{name} = {value if name == 'additional_table_filters' else _literal(value)}"
                    for name, value in limits.items()
                    if name != "database"
                )
                _do(connection, f"SET {', '.join(changes)}, readonly = 1")
            except BaseException:
                connection.close()
                raise
        return connection

    def give_back(self, limits: Mapping[str, str] | None, connection: Connection) -> None:
        """Keep a connection for the next who wants one like it."""
        surplus: Connection | None = connection
        with self._lock:
            if not self._is_closed:
                self._idle.append((limits, connection))
                surplus = self._idle.pop(0)[1] if len(self._idle) > _THREADS else None
        if surplus is not None:
            surplus.close()

    @contextlib.contextmanager
    def plain(self) -> Iterator[Connection]:
        """Lend a connection as chDB makes it."""
        connection = self.take(None)
        try:
            yield connection
        except BaseException:
            connection.close()
            raise
        self.give_back(None, connection)

    def close(self) -> None:
        """Release all; those that are given back later, too."""
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, []
        for _, connection in idle:
            connection.close()

    def _connect(self) -> Connection:
        import chdb

        connection: Connection = chdb.connect(self._path)  # type: ignore[no-untyped-call]
        return connection


def _do(connection: Connection, sql: str) -> None:
    try:
        connection.query(sql, "Null", params={})
    except Exception as ex:
        raise QueryError.of(ex) from ex


class _Cursor:
    """A running query: pieces of its answer, one call of `next_piece` after another.

    Made, stepped and closed in worker threads, by one at a time.

    :arg connections: Where it takes its connection from.
    :arg query: Checked by the gate.
    :arg columns: The blocks of earlier results without rows, by what was asked but for its times.
    :arg at_once: Make the answer whole, which takes fewer turns at Python's lock; one longer than `_WHOLE`
        fails then.
    :raises QueryError: If a setting has no such value, or there is no such database.
    """

    def __init__(
        self, connections: _Connections, query: _Query, columns: dict[str, bytes], *, at_once: bool
    ) -> None:
        self._connections = connections
        self._query = query
        self._columns = columns
        self._at_once = at_once or query.whole
        self._limits = self._limit(str(_WHOLE) if at_once else "")
        self._connection = connections.take(self._limits)
        self._pieces = self._run()
        self._is_over = self._is_closed = False
        self._stepping = threading.Lock()

    def _limit(self, most_bytes: str) -> dict[str, str]:
        """Return the limits, and what the query may change below them."""
        settings = {
            "database": self._query.database,
            "max_execution_time": str(_SECONDS),
            "max_memory_usage": str(_MEMORY),
            # Half the cores at most, so that the flow in the same process keeps the others.
            "max_threads": str(max(1, (os.cpu_count() or 2) // 2)),
            # Panels read little, in many places: no thread needs to be woken for each.
            "local_filesystem_read_method": "pread",
            # The in-memory formats of chDB and spilling to disk have no place here.
            "max_bytes_before_external_sort": "0",
            "max_bytes_before_external_group_by": "0",
            "max_bytes_ratio_before_external_sort": "0",
            "max_bytes_ratio_before_external_group_by": "0",
        }
        if most_bytes:
            settings["max_result_bytes"] = most_bytes
        elif self._query.format not in STREAMED:
            settings["max_result_bytes"] = str(_RESULT)
        for name, value in self._query.settings.items():
            if name == "max_execution_time":
                value = _at_most(value, _MAX_SECONDS, name)  # noqa: PLW2901
            elif name in ("max_memory_usage", "max_threads", "max_result_bytes") and name in settings:
                value = _at_most(value, int(settings[name]), name)  # noqa: PLW2901
            settings[name] = value
        return settings

    def _run(self) -> Generator[bytes, None, None]:
        query = self._query
        # The comment is how `kill` finds the query; on a line of its own, as the text may end in a comment.
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
            _fail(44, str(ex))
        except Exception as ex:
            raise QueryError.of(ex) from ex

    def _describe(self) -> bytes:
        """Name the columns of a result without rows, as a server's first block does."""
        key = _TIMESTAMP.sub(lambda m: "0" * len(m[0]), f"{self._query.database} {self._query.sql}")
        if self._query.parameters or len(key) > _LONGEST_PASSED:
            return self._ask_columns()
        known = self._columns.get(key)
        if known is None:
            known = self._ask_columns()
            # A column that has no name of its own is named by what it says, a time maybe.
            if known and not re.search(rb"[0-9]{10}", known):
                _remember(self._columns, key, known)
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

    def first_pieces(self) -> tuple[list[bytes], bool]:
        """Wait for so much of the answer as is sent whole.

        :returns: Its parts, and whether they are all of it; then the connection is released, too.
        :raises QueryError: If the query failed.
        """
        found: list[bytes] = []
        size = 0
        while (piece := self.next_piece()) is not None:
            found.append(piece)
            size += len(piece)
            if size >= _WHOLE:
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
        """Release the connection, once a step that another thread is in has ended."""
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


def _at_most(value: str, bound: int, name: str) -> str:
    try:
        number = float(value)
    except ValueError:
        raise QueryError(27, f"Setting {name} must be a number, not {value!r}") from None
    # ClickHouse reads 0 as no limit.
    return value if 0 < number <= bound else str(bound)


def _identifier(name: str) -> str:
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"


def _literal(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


class _Compressor(Protocol):
    def compress(self, data: bytes) -> bytes: ...

    def flush(self) -> bytes: ...


def _compressor(name: str) -> _Compressor:
    """Make a compressor for a Content-Encoding, at its fastest level: most clients are on this machine."""
    if name in ("lz4", "zstd"):
        return _ArrowCompressor(name)
    return zlib.compressobj(1, zlib.DEFLATED, 31 if name == "gzip" else 15)


class _BlockCompressor:
    """ClickHouse's own framing."""

    def compress(self, data: bytes) -> bytes:
        return framing.compress(data)

    def flush(self) -> bytes:
        return b""


class _ArrowCompressor:
    """Arrow's codecs: Python 3.11 has neither lz4 nor zstd."""

    def __init__(self, name: str) -> None:
        import pyarrow as pa

        self._packed = Pipe()
        self._stream = pa.CompressedOutputStream(pa.PythonFile(self._packed, mode="w"), name)

    def compress(self, data: bytes) -> bytes:
        self._stream.write(data)
        self._stream.flush()
        return self._packed.take()

    def flush(self) -> bytes:
        self._stream.close()
        return self._packed.take()


def _accepted(request: web.Request) -> str | None:
    """Choose the cheapest encoding that a client accepts."""
    if request.query.get("enable_http_compression", "1") in ("0", "false"):
        return None
    parts = [part.strip() for part in request.headers.get("Accept-Encoding", "").split(",")]
    offered = {part.split(";")[0] for part in parts if not re.search(r"q=0(\.0*)?$", part)}
    return next((name for name in ("lz4", "zstd", "gzip", "deflate") if name in offered), None)


def _decompress(body: bytes, encoding: str) -> bytes:
    if encoding == "lz4":
        import pyarrow as pa

        with pa.CompressedInputStream(io.BytesIO(body), "lz4") as stream:
            return bytes(stream.read(_QUERY_BYTES))
    return body


class EmbeddedServer:
    """An HTTP server, in a thread of its own, for the store this process has open.

    :arg store: An open embedded store; it must stay open until the server is stopped.
    :arg host: Address to listen on. Other than a loopback address needs a password.
    :arg port: Port to listen on; 0 takes a free one, then shown by `port`.
    :arg password: Asked of every client where given.
    """

    def __init__(
        self, store: Store, *, host: str = "127.0.0.1", port: int = 8123, password: str = ""
    ) -> None:
        if store.dsn.path is None:
            msg = f"{store.dsn} is a server itself: only an embedded store can be served"
            raise StoreError(msg)
        if not _is_loopback(host) and not password:
            msg = (
                f"listening on {host}, which others can reach, needs a password: set PAIRFLOW_SERVER_PASSWORD"
            )
            raise StoreError(msg)
        self.host = host
        self.port = port
        self._path = store.dsn.path
        self._database = store.dsn.database
        self._password = password
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="query")
        # Ending a query must not wait for a thread behind the query it ends.
        self._killers = ThreadPoolExecutor(1, thread_name_prefix="query-end")
        self._running: dict[str, _Query] = {}
        self._stopping = False
        self._loop = asyncio.new_event_loop()
        self._thread: threading.Thread | None = None
        self._stop = asyncio.Event()
        self._connections = _Connections(self._path)
        self._columns: dict[str, bytes] = {}
        self._short: dict[tuple[str, str], bool] = {}  # by a query's shape: was its answer sent whole
        with self._connections.plain() as connection:
            self._gate = _Gate(connection)
            self._version = _text(connection, "SELECT version()", {}).strip()
            self._timezone = _text(connection, "SELECT timezone()", {}).strip()

    def start(self) -> None:
        """Listen.

        :raises StoreError: If the port is taken, in one line; nothing is running then.
        """
        ready: threading.Event = threading.Event()
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
            self._connections.close()
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
            self._threads.shutdown(wait=True)
            self._killers.shutdown(wait=True)
        self._connections.close()

    async def _serve(self, ready: threading.Event, failed: list[OSError]) -> None:
        app = web.Application(client_max_size=_QUERY_BYTES)
        app.router.add_get("/ping", self._ok)
        app.router.add_get("/replicas_status", self._ok)
        for route in api.ROUTES:
            path = api.PREFIX + route.path
            for each in {path, path.removesuffix("/")}:
                app.router.add_get(each, partial(self._rows, route))
        app.router.add_post(f"{api.PREFIX}/alerts", self._add_alert)
        app.router.add_delete(f"{api.PREFIX}/alerts/{{id}}", self._remove_alert)
        app.router.add_get(f"{api.PREFIX}/openapi.json", self._openapi)
        app.router.add_get("/docs", self._docs)
        app.router.add_get(f"{api.PREFIX}/docs", self._docs)
        app.router.add_route("*", "/", self._handle)
        app.router.add_route("*", "/query", self._handle)
        # A client that goes away cancels the handler, which ends its query.
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
        # No handler goes on to another query; those that run are ended all at once.
        self._stopping = True
        await self._loop.run_in_executor(self._killers, self._kill, *self._running)
        await runner.cleanup()

    async def _in_thread(self, call: Callable[..., Any], *args: Any) -> Any:
        return await self._loop.run_in_executor(self._threads, call, *args)

    async def _ok(self, request: web.Request) -> web.Response:
        return web.Response(text="Ok.\n")

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        query_id = ""
        try:
            self._authorize(request)
            if request.method not in ("GET", "POST"):
                _fail(501, f"Method {request.method} is not allowed: use GET or POST")
            query = await self._read(request)
            if not query.sql.strip():
                return web.Response(text="Ok.\n")
            query_id = query.id
            if await self._change_rules(request, query):
                return web.Response(headers=self._headers(query))
            return await self._answer(request, query)
        except QueryError as ex:
            headers = {"X-ClickHouse-Exception-Code": str(ex.code), "X-ClickHouse-Query-Id": query_id}
            return web.Response(
                status=_STATUS.get(ex.code, 500),
                text=ex.body(self._version),
                headers={**headers, "X-ClickHouse-Server-Display-Name": "pairflow"},
            )

    async def _change_rules(self, request: web.Request, query: _Query) -> bool:
        """Run the statements that change the user's alert rules, the one table that users write."""
        try:
            rules = api.inserted_rules(query.sql, self._database)
        except (api.RequestError, ValueError) as ex:
            raise QueryError(_SYNTAX, str(ex)) from None
        condition = None if rules is not None else api.deleted_rules(query.sql, self._database)
        if rules is None and condition is None:
            return False
        if request.method != "POST":
            _refuse("A GET changes nothing: send the statement by POST")
        made: list[str] = []
        try:
            for rule in rules or ():
                identified = {"id": str(uuid.uuid4()), **rule}
                await self._in_thread(self._insert_alert, identified)
                made.append(identified["id"])
        except QueryError:
            for rule_id in made:  # all rules of a statement, or none
                await self._in_thread(self._delete_alert, rule_id)
            raise
        if condition is not None:
            # The condition is looked at as that of any query; what is deleted, is deleted by id.
            chosen = _Query(f"SELECT id FROM alert_rules WHERE ({condition}\n)", self._database, "TSVRaw")  # noqa: S608
            chosen.parameters = query.parameters
            for rule_id in await self._in_thread(self._ids, chosen):
                await self._in_thread(self._delete_alert, rule_id)
        return True

    def _ids(self, query: _Query) -> list[str]:
        self._check(query)
        cursor = self._open(query)
        try:
            text = b"".join(iter(cursor.next_piece, None)).decode()
        finally:
            cursor.close()
        return [str(uuid.UUID(line)) for line in text.split()]

    async def _rows(self, route: api.Route, request: web.Request) -> web.StreamResponse:
        """Answer a REST route with rows."""
        try:
            self._authorize(request)
            form = request.query.get("format", "json")
            if form not in api.FORMATS:
                return _problem(400, f"format={form!r} is not known: expected {', '.join(api.FORMATS)}")
            query = _Query(route.sql, self._database, api.FORMATS[form])
            values = route.bind(request.match_info, request.query)
            query.parameters = {name: escape(value) for name, value in values.items()}
            query.settings = dict(route.settings(form))
            if form == "json":
                query.whole = True
                query.content_type = _CONTENT_TYPES["JSON"]
            return await self._answer(request, query)
        except api.RequestError as ex:
            return _problem(400, str(ex))
        except QueryError as ex:
            if ex.code == _THROWN:
                # A view says that what the path names is not there.
                return _problem(404, ex.text.partition(": while executing")[0])
            return _problem(_STATUS.get(ex.code, 500), ex.text)

    async def _add_alert(self, request: web.Request) -> web.Response:
        try:
            self._authorize(request)
            # A web page cannot send this type to another origin unasked.
            if request.content_type != "application/json":
                return _problem(415, "expected Content-Type: application/json")
            rule = {"id": str(uuid.uuid4()), **api.read_rule(await request.read())}
            await self._in_thread(self._insert_alert, rule)
        except api.RequestError as ex:
            return _problem(400, str(ex))
        except QueryError as ex:
            return _problem(403 if ex.code == _READONLY else 400, ex.text)
        return web.json_response(rule, status=201)

    def _insert_alert(self, rule: Mapping[str, Any]) -> None:
        columns = ", ".join(rule)
        values = ", ".join(f"{{{name}:{_ALERT_TYPES.get(name, 'String')}}}" for name in rule)
        # The names are those of api.ALERT_FIELDS, and the values are parameters.
        sql = f"INSERT INTO {self._database}.alert_rules ({columns}) SELECT {values}"
        self._write(
            sql,
            {
                name: escape(str(value).lower() if value in (True, False) else str(value))
                for name, value in rule.items()
            },
        )

    async def _remove_alert(self, request: web.Request) -> web.Response:
        try:
            self._authorize(request)
            rule = str(uuid.UUID(request.match_info["id"]))
            if not await self._in_thread(self._delete_alert, rule):
                return _problem(404, f"there is no alert rule {rule}")
        except ValueError:
            return _problem(400, f"{request.match_info['id']!r} is not the id of an alert rule")
        except QueryError as ex:
            return _problem(403 if ex.code == _READONLY else 400, ex.text)
        return web.Response(status=204)

    def _delete_alert(self, rule: str) -> bool:
        table = f"{self._database}.alert_rules"
        with self._connections.plain() as connection:
            known = _text(connection, f"SELECT count() FROM {table} WHERE id = {{id:UUID}}", {"id": rule})  # noqa: S608
        if known.strip() == "0":
            return False
        self._write(f"DELETE FROM {table} WHERE id = {{id:UUID}}", {"id": rule})  # noqa: S608
        return True

    def _write(self, sql: str, parameters: Mapping[str, str]) -> None:
        """Run one of the few statements that write, all of them made here."""
        with self._connections.plain() as connection:
            _text(connection, sql, parameters)

    async def _openapi(self, request: web.Request) -> web.Response:
        return web.json_response(api.openapi())

    async def _docs(self, request: web.Request) -> web.Response:
        return web.Response(text=api.DOCS.read_text(), content_type="text/html")

    def _authorize(self, request: web.Request) -> None:
        """Check the password, and that no web page is behind the request.

        A page that a browser has open may send requests to this machine, and read the answers once its own
        name resolves here. Such requests carry the page's Origin, or its name as Host.
        """
        if self._password:
            given = request.headers.get("X-ClickHouse-Key") or request.query.get("password") or ""
            header = request.headers.get("Authorization", "")
            if header.startswith("Basic "):
                with contextlib.suppress(ValueError):
                    given = base64.b64decode(header[6:]).decode().partition(":")[2]
            if not hmac.compare_digest(given.encode(), self._password.encode()):
                _fail(_WRONG_PASSWORD, "default: Authentication failed: password is incorrect")
            return
        names = [request.headers.get("Host", "")]
        if "Origin" in request.headers:
            names.append(urlsplit(request.headers["Origin"]).netloc)
        for name in names:
            if name and not _is_loopback(urlsplit(f"//{name}").hostname or ""):
                _refuse(f"A request for or from {name} is not answered without a password")

    async def _read(self, request: web.Request) -> _Query:
        """Read a query from its URL, its body or its form."""
        given = dict(request.query)
        body = ""
        if request.method == "POST":
            if request.content_type == "multipart/form-data":
                given.update(await _form(request))
            else:
                body = await self._body(request, given)
        sql = "\n".join(part for part in (given.get("query", ""), body) if part)
        database = given.get("database") or request.headers.get("X-ClickHouse-Database") or self._database
        query = _Query(sql, database, packed=given.get("compress", "0") not in ("0", "false"))
        query.format = (
            given.get("default_format") or request.headers.get("X-ClickHouse-Format") or query.format
        )
        with contextlib.suppress(ValueError):
            query.revision = int(given.get("client_protocol_version", "0"))
        if re.fullmatch(r"[\w.:-]{1,100}", given.get("query_id", "")):
            query.id = given["query_id"]
        for name, value in given.items():
            if name.startswith("param_"):
                query.parameters[name.removeprefix("param_")] = value
            elif name not in _TRANSPORT:
                query.settings[name] = value
        return query

    async def _body(self, request: web.Request, given: Mapping[str, str]) -> str:
        try:
            data = await request.read()
            if given.get("decompress", "0") not in ("0", "false"):
                return framing.decompress(data, _QUERY_BYTES).decode()
            return _decompress(data, request.headers.get("Content-Encoding", "")).decode()
        except web.HTTPRequestEntityTooLarge:
            raise QueryError(223, f"The query is longer than {_QUERY_BYTES} bytes") from None
        except (ValueError, OSError, RuntimeError, web.HTTPException) as ex:
            raise QueryError(_SYNTAX, f"The body cannot be read as a query: {ex}") from None

    async def _answer(self, request: web.Request, query: _Query) -> web.StreamResponse:
        if len(self._running) >= _WAITING:
            _fail(_BUSY, f"Too many simultaneous queries: {_WAITING}. Try again")
        if query.id in self._running:
            query.id = str(uuid.uuid4())
        self._running[query.id] = query
        unfinished: _Cursor | None = None
        try:
            beginning = self._threads.submit(self._begin, query)
            try:
                cursor, pieces, whole = await asyncio.wrap_future(beginning)
            except asyncio.CancelledError:
                beginning.add_done_callback(_close_begun)
                raise
            unfinished = None if whole else cursor
            headers = self._headers(query)
            packer: _Compressor | None = None
            if query.packed:
                packer = _BlockCompressor()
            elif pieces and (encoding := _accepted(request)):
                headers["Content-Encoding"] = encoding
                packer = _compressor(encoding)
            if whole:
                data = b"".join(pieces)
                if packer is not None:
                    data = await self._in_thread(packer.compress, data) + packer.flush()
                return web.Response(body=data, headers=headers)
            return await self._stream(request, cursor, pieces, headers, packer)
        except asyncio.CancelledError:
            # The client went away. The worker thread still waits for chDB: tell chDB.
            self._killers.submit(self._kill, query.id)
            raise
        finally:
            self._running.pop(query.id, None)
            if unfinished is not None:
                self._threads.submit(unfinished.close)

    async def _stream(
        self,
        request: web.Request,
        cursor: _Cursor,
        pieces: list[bytes],
        headers: dict[str, str],
        packer: _Compressor | None,
    ) -> web.StreamResponse:
        tag = uuid.uuid4().hex[:16]
        response = web.StreamResponse(headers={**headers, "X-ClickHouse-Exception-Tag": tag})
        if request.version >= (1, 1):
            response.enable_chunked_encoding()
        await response.prepare(request)
        piece: bytes | None = b"".join(pieces)
        try:
            while piece is not None:
                await response.write(await self._in_thread(packer.compress, piece) if packer else piece)
                piece = await self._in_thread(cursor.next_piece)
        except QueryError as ex:
            # Part of the answer is on its way: the error goes behind it, between the marks a server puts
            # there, and the connection is cut, so that no client takes the part for the whole.
            text = ex.body(self._version)
            mark = (
                f"\r\n__exception__\r\n{tag}\r\n{text}\n{len(text) + 1} {tag}\r\n__exception__\r\n".encode()
            )
            with contextlib.suppress(ConnectionError):
                await response.write(packer.compress(mark) + packer.flush() if packer else mark)
            if request.transport is not None:
                request.transport.close()
            return response
        if packer:
            await response.write(packer.flush())
        await response.write_eof()
        return response

    def _headers(self, query: _Query) -> dict[str, str]:
        kind = query.content_type or _CONTENT_TYPES.get(query.format)
        if kind is None:
            family = re.match(
                r"(JSONEachRow|JSONCompactEachRow|JSONStringsEachRow|ND|JSONL)|(JSON)|(CSV)|(TSV|Tab)",
                query.format,
            )
            by_family = ("application/x-ndjson", "application/json", "text/csv", "text/tab-separated-values")
            kind = by_family[(family.lastindex or 1) - 1] if family else "text/plain"
            kind += "; charset=UTF-8"
        summary = dict.fromkeys(
            ("read_rows", "read_bytes", "written_rows", "written_bytes", "total_rows_to_read", "result_rows"),
            "0",
        )
        return {
            "Content-Type": kind,
            "X-ClickHouse-Query-Id": query.id,
            "X-ClickHouse-Format": query.format,
            "X-ClickHouse-Timezone": self._timezone,
            "X-ClickHouse-Server-Display-Name": "pairflow",
            "X-ClickHouse-Summary": json.dumps(summary, separators=(",", ":")),
            "X-Content-Type-Options": "nosniff",
        }

    def _open(self, query: _Query, *, at_once: bool = False) -> _Cursor:
        return _Cursor(self._connections, query, self._columns, at_once=at_once)

    def _check(self, query: _Query) -> None:
        if self._stopping:
            _fail(_BUSY, "The server is being stopped")
        with self._connections.plain() as connection:
            self._gate.check(connection, query)

    def _begin(self, query: _Query) -> tuple[_Cursor, list[bytes], bool]:
        """Run a query up to as much of its answer as is sent whole, in one turn of a worker thread.

        Each turn waits for Python's lock, which the flow beside holds most of the time.
        """
        self._check(query)
        if (
            query.shape
            and self._short.get(query.shape)
            and query.format == "Native"
            and _CUT_OFF not in query.settings
        ):
            try:
                return self._first_pieces(self._open(query, at_once=True))
            except QueryError as ex:
                if ex.code != _TOO_LONG:
                    raise
        cursor, found, whole = self._first_pieces(self._open(query))
        if query.shape is not None:
            _remember(self._short, query.shape, whole)
        return cursor, found, whole

    @staticmethod
    def _first_pieces(cursor: _Cursor) -> tuple[_Cursor, list[bytes], bool]:
        try:
            return cursor, *cursor.first_pieces()
        except BaseException:
            cursor.close()
            raise

    def _kill(self, *query_ids: str) -> None:
        """End queries whose clients are gone."""
        marks = [f"/* {query_id} */" for query_id in query_ids]
        sql = "KILL QUERY WHERE arrayExists(mark -> endsWith(query, mark), {marks:Array(String)}) ASYNC"
        with contextlib.suppress(Exception), self._connections.plain() as connection:
            connection.query(sql, "Null", params={"marks": str(marks)})


async def _form(request: web.Request) -> dict[str, str]:
    """Read a form, as clients send it whose parameters are too long for a URL."""
    fields: dict[str, str] = {}
    size = 0
    async for part in await request.multipart():
        reader: BodyPartReader = part  # type: ignore[assignment]
        if reader.filename is not None:
            _refuse("A table sent along with the query is not allowed")
        text = await reader.text()
        size += len(text)
        if size > _QUERY_BYTES:
            _fail(223, f"The query is longer than {_QUERY_BYTES} bytes")
        fields[reader.name or ""] = text
    return fields


def _close_begun(beginning: Future[tuple[_Cursor, list[bytes], bool]]) -> None:
    """Close a cursor that was opened for a client that has gone away meanwhile."""
    if not beginning.cancelled() and beginning.exception() is None:
        beginning.result()[0].close()


def _problem(status: int, text: str) -> web.Response:
    return web.json_response({"error": text}, status=status)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
