"""Commands on a store: ``python -m connectors.clickhouse serve | sql | export | schema | handlers``.

::

    python -m connectors.clickhouse sql "SELECT symbol, count() FROM bars GROUP BY symbol"
    python -m connectors.clickhouse export bars --symbol BTCUSDT --timeframe 1m --format csv -o bars.csv
    python -m connectors.clickhouse serve data

While the flow runs they ask its server; otherwise they open the folder.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import os
import re
import signal
import sys
import threading
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO
from urllib.parse import quote, urlencode

import structlog

from connectors.clickhouse.server.connections import Connection, escape
from connectors.clickhouse.server.formats import pieces
from connectors.clickhouse.store import (
    DATABASE,
    Dsn,
    Store,
    StoreError,
    StoreInUseError,
    explain,
    is_in_use,
)

_CHUNK = 1 << 20
_FORMATS = {"csv": "CSVWithNames", "parquet": "Parquet", "jsonl": "JSONEachRow"}

# By which columns the rows of a table are chosen (symbol or pair, timeframe, time), and in which order they
# are written: that of the sorting key, in which ClickHouse streams rows without sorting them. Six million
# trades then take less than 100 MB of memory, and 300 to 900 MB in any other order.
_TABLES = {
    "trades": ("symbol", None, "time", "market, symbol, id"),
    "bars": ("symbol", "timeframe", "open_time", "market, symbol, timeframe, open_time"),
    "pair_metrics": ("pair", "timeframe", "time", "market, pair, timeframe, window, method, time"),
    "signals": ("pair", "timeframe", "time", "market, pair, timeframe, window, method, time"),
    "gaps": ("symbol", None, "detected", "market, symbol, first_id"),
}
_ALIASES = {"metrics": "pair_metrics"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    :arg arguments: Of the command line; None: those of this process.
    :returns: The exit code.
    """
    parser = argparse.ArgumentParser(
        prog="python -m connectors.clickhouse", description="Commands on a store."
    )
    commands = parser.add_subparsers(required=True, metavar="serve | sql | export | schema | handlers")

    serve = commands.add_parser(
        "serve", help="serve an embedded store over HTTP, read-only, without the flow"
    )
    serve.add_argument("path", help="folder of the store")
    serve.add_argument("--host", default="127.0.0.1", help="where to listen (default: this machine alone)")
    serve.add_argument("--port", type=int, default=8123)
    serve.set_defaults(run=_serve)

    sql = commands.add_parser("sql", help="run one query and print its result")
    sql.add_argument("query", help="the query; - reads it from standard input")
    sql.add_argument(
        "--format", default=None, help="a ClickHouse format (default: a table, or TSV into a pipe)"
    )
    sql.set_defaults(run=_sql)

    export = commands.add_parser("export", help="write rows of a table to a file")
    export.add_argument("table", choices=[*_TABLES, *_ALIASES])
    export.add_argument("--symbol", help="BTCUSDT; for pair_metrics and signals a pair, ETHUSDT/BTCUSDT")
    export.add_argument("--timeframe", help="tick, 1s, 1m, 5m")
    export.add_argument("--from", dest="since", metavar="TIME", help="first time, UTC: 2024-08-09T12:00:00")
    export.add_argument("--to", dest="until", metavar="TIME", help="time of the first row left out")
    export.add_argument("--format", choices=list(_FORMATS), help="default: by the name of the file, else csv")
    export.add_argument("-o", "--output", help="the file; without it, standard output")
    export.set_defaults(run=_export)

    schema = commands.add_parser("schema", help="print the statements that make the schema of a cluster")
    schema.add_argument("--cluster", required=True, help="its name in remote_servers")
    schema.add_argument("--database", default=DATABASE)
    schema.set_defaults(run=_schema)

    handlers = commands.add_parser("handlers", help="print the REST routes as configuration of a server")
    handlers.add_argument("--database", default=DATABASE)
    handlers.set_defaults(run=_handlers)

    for command in (sql, export):
        command.add_argument("--store", default=_default_dsn(), help="DSN (default: that of the flow)")
    given = parser.parse_args(arguments)
    # Standard output is for answers.
    structlog.configure(logger_factory=lambda *_: structlog.PrintLogger(sys.stderr))
    try:
        return int(given.run(given))
    except StoreError as ex:
        sys.stderr.write(f"{ex}\n")
        return 1
    except BrokenPipeError:
        # The reader, as head, has closed the pipe. Python would report it again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130


def _setting(name: str) -> str:
    """Read a setting as the flow does, so that commands find its store."""
    if value := os.environ.get(f"PAIRFLOW_{name.upper()}"):
        return value
    try:
        return str(tomllib.loads(Path("pairflow.toml").read_text()).get(name, ""))
    except (OSError, ValueError):
        return ""


def _default_dsn() -> str:
    """Return the store of the settings or, if they name none, that of make run or make demo."""
    if named := _setting("clickhouse"):
        return named
    folders = [folder for folder in (Path("data"), Path("data-demo")) if folder.exists()]
    folder = next(filter(is_in_use, folders), next(iter(folders), Path("data")))
    return f"chdb://{quote(str(folder.resolve()))}"


def _serve(given: argparse.Namespace) -> int:
    from connectors.clickhouse.server import EmbeddedServer

    path = given.path.removeprefix("chdb://")
    with Store.open(f"chdb://{quote(str(Path(path).resolve()))}", create=False) as store:
        password = os.environ.get("PAIRFLOW_SERVER_PASSWORD", "")
        server = EmbeddedServer(store, host=given.host, port=given.port, password=password)
        stopped = threading.Event()
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, lambda *_: stopped.set())
        server.start()
        sys.stderr.write(f"serving {store.dsn} on http://{given.host}:{server.port}; Ctrl-C ends it\n")
        stopped.wait()
        server.stop()
    return 0


def _schema(given: argparse.Namespace) -> int:
    from connectors.clickhouse.cluster import Cluster

    for statement in Cluster(given.cluster, given.database).schema():
        sys.stdout.write(f"{statement};\n\n")
    return 0


def _handlers(given: argparse.Namespace) -> int:
    from connectors.clickhouse.server.http_handlers import http_handlers

    sys.stdout.write(http_handlers(given.database))
    return 0


def _sql(given: argparse.Namespace) -> int:
    query = sys.stdin.read() if given.query == "-" else given.query
    form = given.format or ("PrettyCompactMonoBlock" if sys.stdout.isatty() else "TSVWithNames")
    with _source(given.store) as source:
        for piece in source.ask(query, {}, form, streamed=False):
            sys.stdout.buffer.write(piece)
        sys.stdout.flush()
    return 0


def _export(given: argparse.Namespace) -> int:
    table = _ALIASES.get(given.table, given.table)
    what, timeframe, moment, order = _TABLES[table]
    if given.timeframe and timeframe is None:
        msg = f"{table} have no timeframe: leave --timeframe out"
        raise StoreError(msg)
    conditions = ["1"]
    parameters: dict[str, str] = {}
    for column, operator, kind, value in (
        (what, "=", "String", given.symbol),
        (timeframe, "=", "String", given.timeframe),
        (moment, ">=", "DateTime64(6, 'UTC')", _time(given.since)),
        (moment, "<", "DateTime64(6, 'UTC')", _time(given.until)),
    ):
        if value is not None:
            name = f"p{len(parameters)}"
            conditions.append(f"{column} {operator} {{{name}:{kind}}}")
            parameters[name] = escape(value)
    suffix = Path(given.output or "").suffix.removeprefix(".")
    form = _FORMATS[given.format or (suffix if suffix in _FORMATS else "csv")]
    where = " AND ".join(conditions)
    with _source(given.store) as source:
        # The table is one of the choices, and every value is a parameter.
        sql = f"SELECT count() FROM {table} WHERE {where}"  # noqa: S608
        count = b"".join(source.ask(sql, parameters, "TSV", streamed=True))
        sql = f"SELECT * FROM {table} WHERE {where} ORDER BY {order}"  # noqa: S608
        with _output(given.output) as file:
            progress = _Progress(int(count))
            for piece in source.ask(sql, parameters, form, streamed=True):
                file.write(piece)
                progress.add(piece, lines=form != "Parquet")
            progress.end(given.output)
    return 0


def _time(text: str | None) -> str | None:
    if text is None:
        return None
    if not re.fullmatch(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d{1,6})?)?Z?)?", text):
        msg = f"{text!r} is not a time: write 2024-08-09 or 2024-08-09T12:00:00 (UTC)"
        raise StoreError(msg)
    text = text.replace("T", " ").removesuffix("Z")
    day, _, clock = text.partition(" ")
    return f"{day} {clock + ':00' if clock.count(':') == 1 else clock or '00:00:00'}"


@contextlib.contextmanager
def _output(path: str | None) -> Iterator[IO[bytes]]:
    """Open the file to write; it gets its name when it is complete."""
    if path is None or path == "-":
        yield sys.stdout.buffer
        sys.stdout.flush()
        return
    part = Path(f"{path}.part")
    try:
        with part.open("wb") as file:
            yield file
        part.replace(path)
    except OSError as ex:
        msg = f"{path} cannot be written ({ex.strerror}): name another file"
        raise StoreError(msg) from None
    finally:
        part.unlink(missing_ok=True)


class _Progress:
    """Shows on a terminal how many rows of an export are written."""

    def __init__(self, rows: int) -> None:
        self._total = rows
        self._rows = self._bytes = 0
        self._shown = time.monotonic()

    def add(self, piece: bytes, *, lines: bool) -> None:
        self._bytes += len(piece)
        self._rows += piece.count(b"\n") if lines else 0
        if sys.stderr.isatty() and time.monotonic() - self._shown > 0.2:
            self._shown = time.monotonic()
            done = f"{min(self._rows, self._total):,} of " if lines else ""
            sys.stderr.write(f"\r{done}{self._total:,} rows, {self._bytes / 1e6:,.1f} MB ")
            sys.stderr.flush()

    def end(self, path: str | None) -> None:
        line = f"{self._total:,} rows, {self._bytes / 1e6:,.1f} MB written to {path or 'standard output'}"
        sys.stderr.write(f"{chr(13) if sys.stderr.isatty() else ''}{line}\n")


class _Embedded:
    """Answers from a folder that this process opened itself, so that it may write, too."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def ask(self, sql: str, parameters: Mapping[str, str], form: str, *, streamed: bool) -> Iterator[bytes]:
        import chdb

        connection: Connection = chdb.connect(self._store.dsn.path)  # type: ignore[no-untyped-call]
        try:
            connection.query(f"USE {self._store.dsn.database}", "Null", params={})
            if streamed:
                yield from pieces(connection, sql, form, parameters)
            else:
                # The query may name a format, so its answer is not changed.
                yield connection.query(sql, form, params=parameters).bytes()
        except Exception as ex:
            raise explain(ex, self._store.dsn, "running the query") from ex
        finally:
            connection.close()


class _Http:
    """Answers from a server, or from the process that has the folder open."""

    def __init__(self, url: str, dsn: Dsn) -> None:
        self._url = url
        self._dsn = dsn

    def ask(self, sql: str, parameters: Mapping[str, str], form: str, *, streamed: bool) -> Iterator[bytes]:
        given = {"database": self._dsn.database, "default_format": form, "max_execution_time": "300"}
        given.update({f"param_{name}": value for name, value in parameters.items()})
        headers = {"X-ClickHouse-User": self._dsn.user, "X-ClickHouse-Key": self._dsn.password}
        if self._dsn.path is not None:
            headers["X-ClickHouse-Key"] = os.environ.get("PAIRFLOW_SERVER_PASSWORD", "")
        request = urllib.request.Request(f"{self._url}/?{urlencode(given)}", sql.encode(), headers)  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=330) as response:  # noqa: S310
                while piece := response.read(_CHUNK):
                    yield piece
        except urllib.error.HTTPError as ex:
            raise explain(RuntimeError(ex.read().decode()), self._dsn, "running the query") from ex
        except (OSError, http.client.HTTPException) as ex:
            msg = f"no answer from {self._url} ({getattr(ex, 'reason', ex)})"
            raise StoreError(msg) from ex


@contextlib.contextmanager
def _source(dsn: str) -> Iterator[_Embedded | _Http]:
    parsed = Dsn.parse(dsn)
    if parsed.path is None:
        yield _Http(f"{'https' if parsed.secure else 'http'}://{parsed.host}:{parsed.port}", parsed)
        return
    try:
        store = Store.open(dsn, create=False)
    except StoreInUseError as ex:
        yield _served(parsed, ex)
        return
    with store:
        yield _Embedded(store)


def _served(dsn: Dsn, in_use: StoreInUseError) -> _Http:
    """Return the server of the process that has the folder open."""
    url = os.environ.get("PAIRFLOW_SERVER_URL") or f"http://127.0.0.1:{_setting('http_port') or 8123}"
    source = _Http(url, dsn)
    # The server at that address may have another store open.
    sql = "SELECT data_paths[1] FROM system.tables WHERE database = currentDatabase() AND name = 'runs'"
    try:
        path = b"".join(source.ask(sql, {}, "TSVRaw", streamed=True)).decode()
    except StoreError as ex:
        msg = f"{in_use}; and its server does not answer: {ex}"
        raise StoreError(msg) from None
    if not path.startswith(f"{dsn.path}/"):
        msg = f"{in_use}; {url} serves another store: set PAIRFLOW_SERVER_URL"
        raise StoreError(msg)
    return source


if __name__ == "__main__":
    sys.exit(main())
