"""The store: one ClickHouse database, embedded (chDB) or on a server, behind one data source name.

```python
from connectors.clickhouse.store import Store

with Store.open("chdb:///var/lib/pairflow", source="binance") as store:
    print(store.query("SELECT symbol, count() FROM bars GROUP BY symbol"))
```

Opening a store creates what is missing and upgrades what is older, to the schema in ``clickhouse/``. What can
go wrong outside the program is raised as `StoreError`, whose text is one line for the user.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import platform
import re
import socket
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import unquote, urlsplit

from connectors.clickhouse.errors import StoreBusyError, StoreError, StoreInUseError, no_space
from connectors.clickhouse.metadata import repair
from connectors.clickhouse.schema import load
from connectors.clickhouse.upgrade import Upgrade

if TYPE_CHECKING:
    import pyarrow as pa
    from clickhouse_connect.driver.client import Client

    from connectors.clickhouse.alert_rules import AlertRule

__all__ = [
    "DATABASE",
    "SIMULATED",
    "Dsn",
    "Store",
    "StoreBusyError",
    "StoreError",
    "StoreInUseError",
    "explain",
    "is_in_use",
]

DATABASE = "pairflow"
"""Database of a store whose DSN names none."""

SIMULATED = frozenset({"simulator"})
"""Sources whose prices are invented. A store has rows of these or of the other sources, never of both."""

_ROW_TABLES = ("stored_trades", "stored_bars", "stored_pair_metrics", "stored_signals")

# A server accepts a connection within milliseconds; after this time the address is taken to be wrong.
_CONNECT_SECONDS = 10

# Errors of ClickHouse that may be gone at the next attempt: timeouts, too many queries or parts, memory,
# read-only replicas, unknown status of an insert, cancellation, file system, Keeper, overload.
_PASSING = frozenset({74, 75, 76, 159, 160, 202, 209, 210, 225, 241, 242, 252, 279, 285, 286, 319, 364, 394})
_PASSING |= {425, 458, 479, 499, 631, 745, 999, 1000, 1001, 1002}

# clickhouse-connect logs the errors that it raises; without a handler Python would print them to stderr.
logging.getLogger("clickhouse_connect").addHandler(logging.NullHandler())


@dataclass(frozen=True)
class Dsn:
    """A parsed data source name.

    :arg path: Folder of an embedded store; None for a server.
    :arg host: Name or address of the server, with ``port`` and ``secure`` (TLS).
    :arg database: Database of the tables.
    """

    database: str
    path: str | None = None
    host: str = ""
    port: int = 0
    secure: bool = False
    user: str = "default"
    password: str = ""

    @classmethod
    def parse(cls, dsn: str) -> Self:
        """Read ``chdb:///path`` or ``clickhouse://user:password@host:8123/db`` (``clickhouses`` for TLS).

        :arg dsn: The data source name.
        :returns: Its parts.
        :raises StoreError: If it has another form.
        """
        expected = "expected chdb:///path/to/folder or clickhouse://user:password@host:8123/database"
        try:
            parts = urlsplit(dsn)
            port = parts.port
        except ValueError as ex:
            msg = f"the ClickHouse DSN cannot be read ({ex}): {expected}"
            raise StoreError(msg) from None
        if parts.scheme == "chdb":
            return cls(database=DATABASE, path=_folder(dsn, expected))
        if parts.scheme in ("clickhouse", "clickhouses"):
            database = unquote(parts.path.strip("/")) or DATABASE
            if not parts.hostname or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", database):
                msg = f"the ClickHouse DSN names no server or no plain database name: {expected}"
                raise StoreError(msg)
            secure = parts.scheme == "clickhouses"
            return cls(
                database=database,
                host=parts.hostname,
                port=port or (8443 if secure else 8123),
                secure=secure,
                user=unquote(parts.username or "default"),
                password=unquote(parts.password or ""),
            )
        msg = f"the ClickHouse DSN has the unknown scheme {parts.scheme!r}: {expected}"
        raise StoreError(msg)

    def __str__(self) -> str:
        """Show where the store is, without the password."""
        if self.path is not None:
            return self.path
        return f"{self.host}:{self.port}/{self.database}"


def _folder(dsn: str, expected: str) -> str:
    """Return the absolute path that a chdb DSN names.

    The path is taken as it is written, `#` and all. Percent-escapes are decoded where the folder that would
    hold it does not exist as written.
    """
    written = dsn.partition("://")[2]
    if not written.startswith("/") or not written.strip("/"):
        msg = f"{dsn!r} does not name a folder: {expected}, with three slashes and the absolute path"
        raise StoreError(msg)
    path = written if Path(written).parent.is_dir() else unquote(written)
    if "?" in path:
        msg = (
            f"{path} cannot hold a store: the embedded engine takes what follows a ? for its options; "
            f"{expected}, without a ?"
        )
        raise StoreError(msg)
    return os.path.realpath(path)


class Store:
    """An open store.

    It may be used from several threads, as clickhouse-connect's client: calls run one after another.
    """

    def __init__(self, dsn: Dsn, client: Client, cluster: str = "") -> None:
        self.dsn = dsn
        self.client = client
        self.cluster = cluster

    @classmethod
    def open(cls, dsn: str, *, source: str | None = None, create: bool = True, cluster: str = "") -> Store:
        """Connect, bring the schema up to date, and check that the store has rows of the same kind of source.

        :arg dsn: ``chdb:///path`` or ``clickhouse://user:password@host:8123/database``.
        :arg source: Source of the rows that will be written (binance, simulator, recording, archive); None if
            the store is only read.
        :arg create: False: raise an error if there is no store yet, and do not create one.
        :arg cluster: Name of the cluster that the server belongs to; "" for none.
        :returns: The store.
        :raises StoreError: With one line for the user.
        """
        parsed = Dsn.parse(dsn)
        if cluster and parsed.path is not None:
            msg = (
                f"the store in {parsed} is embedded and belongs to no cluster: leave "
                "PAIRFLOW_CLICKHOUSE_CLUSTER empty, or name a server in PAIRFLOW_CLICKHOUSE"
            )
            raise StoreError(msg)
        repaired = parsed.path is not None and _prepare_folder(Path(parsed.path), parsed.database, create)
        store = cls(parsed, _connect(parsed), cluster)
        try:
            with store._explained("preparing the database"):
                folder = Path(parsed.path) if parsed.path is not None else None
                Upgrade(store.client, parsed, cluster, folder).run(create=create, repaired=repaired)
                if source is not None:
                    store._check_source(source)
            if parsed.path is not None:
                _merge_when_idle()
        except BaseException:
            store.close()
            raise
        return store

    def insert(self, table: str, rows: pa.Table) -> None:
        """Write rows; they are stored when this returns.

        :arg table: Name of a table with the columns of ``rows``.
        :arg rows: Any number of rows; 10,000 or more at once are written fastest.
        :raises StoreError: If they could not be written.
        """
        with self._explained(f"writing {rows.num_rows} rows to {table}"):
            # By default, since ClickHouse 26.3, servers first collect inserts in memory.
            settings = {"async_insert": "0"}
            if table in ("stored_trades", "stored_pair_metrics"):
                # Rows with the same key are removed when they are read. To do it here, too, costs a tenth of
                # the time of an insert of trades, and a third of that of statistics.
                settings["optimize_on_insert"] = "0"
            if self.cluster:
                # By default a Distributed table answers before the rows are in their shards.
                settings["distributed_foreground_insert"] = "1"
            self.client.insert_arrow(table, rows, database=self.dsn.database, settings=settings)

    def query(self, sql: str, parameters: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        """Run a query and return its rows.

        :arg sql: The query, with ``{name:Type}`` where parameters go.
        :arg parameters: Their values.
        :returns: One tuple a row.
        :raises StoreError: With the server's message.
        """
        with self._explained("running a query"):
            return [
                tuple(row) for row in self.client.query(sql, parameters=dict(parameters or {})).result_rows
            ]

    def record_run(
        self,
        *,
        source: str,
        market: str,
        symbols: Sequence[str],
        pairs: Sequence[str],
        settings: Mapping[str, Any],
    ) -> str:
        """Add a row to ``runs`` for a run that starts.

        :arg settings: The run's settings, free of secrets.
        :returns: The run's identifier.
        :raises StoreError: If it could not be written.
        """
        run = str(uuid.uuid4())
        packages = {
            name: version(name) for name in ("bytewax", "chdb", "clickhouse-connect", "numba", "numpy")
        }
        row = {
            "run": run,
            "started": datetime.now(UTC),
            "source": source,
            "market": market,
            "symbols": list(symbols),
            "pairs": list(pairs),
            "settings": json.dumps(settings, default=str, sort_keys=True),
            "versions": {"python": platform.python_version(), **packages},
            "host": socket.gethostname(),
            "pid": os.getpid(),
        }
        with self._explained("writing the run"):
            self.client.insert(
                "runs", [list(row.values())], column_names=list(row), database=self.dsn.database
            )
        return run

    def check_stream(self, market: str, stream: str) -> None:
        """Refuse to store trades and aggregate trades of the same market: each trade would be counted twice.

        :arg market: spot or usdm.
        :arg stream: Stream of the trades that will be written: trade or aggTrade.
        :raises StoreError: If trades of the other stream are stored.
        """
        sql = "SELECT id = first_id FROM stored_trades WHERE market = {market:String} LIMIT 1"
        for (is_trade,) in self.query(sql, {"market": market}):
            stored = "trade" if is_trade else "aggTrade"
            if stored != stream:
                msg = (
                    f"the store in {self.dsn} holds {market} trades of the stream {stored}, and these are "
                    f"of {stream}, which would count each twice: set PAIRFLOW_STREAM={stored}, or "
                    "PAIRFLOW_STORE_TRADES=false, or name another store in PAIRFLOW_CLICKHOUSE"
                )
                raise StoreError(msg)

    def keep_rules(self, rules: Sequence[AlertRule]) -> None:
        """Replace the alert rules that came from settings by others, and leave those of users as they are.

        A rule keeps its id from run to run for as long as it stays the same.

        :arg rules: Of the settings.
        :raises StoreError: If they could not be written.
        """
        wanted = {rule.settings_id: rule for rule in rules}
        known = {row[0] for row in self.query("SELECT id FROM alert_rules WHERE origin = 'settings'")}
        with self._explained("writing the alert rules of the settings"):
            for rule in known - set(wanted):
                self.client.command("DELETE FROM alert_rules WHERE id = {id:UUID}", {"id": str(rule)})
            for rule in set(wanted) - known:
                row = {"id": str(rule), "origin": "settings", **wanted[rule].model_dump()}
                self.client.insert(
                    "alert_rules", [list(row.values())], column_names=list(row), database=self.dsn.database
                )

    def close(self) -> None:
        """Release the connection, and with the last one of the process the folder of an embedded store."""
        self.client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _explained(self, doing: str) -> Iterator[None]:
        from clickhouse_connect.driver.exceptions import ClickHouseError
        from urllib3.exceptions import HTTPError

        try:
            yield
        except (ClickHouseError, HTTPError, OSError) as ex:
            raise explain(ex, self.dsn, doing) from ex

    def _check_source(self, source: str) -> None:
        """Refuse to mix real and simulated prices."""
        # One row of each table is enough, as a store never has both kinds.
        parts = " UNION ALL ".join(f"(SELECT source FROM {table} LIMIT 1)" for table in _ROW_TABLES)  # noqa: S608
        for (stored,) in self.client.query(parts).result_rows:
            if (stored in SIMULATED) != (source in SIMULATED):
                kinds = {True: "simulated prices", False: "real prices"}
                msg = (
                    f"the store in {self.dsn} holds {kinds[stored in SIMULATED]} (source {stored!r}) and the "
                    f"source {source!r} gives {kinds[source in SIMULATED]}: name another folder or database "
                    "in PAIRFLOW_CLICKHOUSE"
                )
                raise StoreError(msg)


def explain(ex: Exception, dsn: Dsn, doing: str) -> StoreError:
    """Turn an exception of the driver into an error of one line for the user.

    :arg ex: The exception.
    :arg dsn: Which store.
    :arg doing: What was being done, as in "writing 5 rows to trades".
    :returns: The error to raise.
    """
    from clickhouse_connect.driver.exceptions import DataError, ProgrammingError

    text = str(ex)
    code = getattr(ex, "code", None)
    if code is None and (found := re.search(r"Code: (\d+)\.", text)):
        code = int(found[1])
    if "NOT_ENOUGH_SPACE" in text or "No space left on device" in text or code == 243:
        return no_space(dsn, doing)
    if code in (192, 193, 194, 516):
        return StoreError(f"{dsn} refused user {dsn.user!r}: check user and password in PAIRFLOW_CLICKHOUSE")
    if code == 497:
        return StoreError(f"user {dsn.user!r} may not do this on {dsn}: {_first_line(text)}")
    if code is None and dsn.path is None and not isinstance(ex, (ProgrammingError, DataError)):
        reason = re.search(r"\[Errno -?\d+\] ([^'\")]+)|timed out|certificate verify failed", text)
        why = (reason[1] or reason[0]) if reason else _first_line(text)
        return StoreBusyError(
            f"no answer from ClickHouse at {dsn} ({why.strip()}): check that it runs and that "
            "PAIRFLOW_CLICKHOUSE is right"
        )
    error = StoreBusyError if code in _PASSING else StoreError
    return error(f"ClickHouse ({dsn}) failed while {doing}: {_first_line(text)}")


def _first_line(text: str) -> str:
    """Keep the server's own words, without its version, its stack and the driver's wrapping."""
    found = re.search(r"DB::Exception: (.*)", text)
    line = (found[1] if found else text).splitlines()[0] if text else "no reason given"
    return re.sub(r"\s*\(version [^)]*\)+|, Stack trace.*", "", line)[:400]


def _connect(dsn: Dsn) -> Client:
    import clickhouse_connect
    from clickhouse_connect.driver.exceptions import ClickHouseError

    try:
        if dsn.path is not None:
            # Merges share the cores with the flow and with queries, which go first.
            path = f"{dsn.path}?os_threads_nice_value_merge_mutate=19"
            return clickhouse_connect.get_client(interface="chdb", path=path)
        return clickhouse_connect.get_client(
            host=dsn.host,
            port=dsn.port,
            interface="https" if dsn.secure else "http",
            username=dsn.user,
            password=dsn.password,
            connect_timeout=_CONNECT_SECONDS,
            # A session is locked while a query of it runs, so a repeated insert would be refused.
            autogenerate_session_id=False,
        )
    except (ClickHouseError, OSError) as ex:
        raise explain(ex, dsn, "connecting") from ex


def _merge_when_idle() -> None:
    """Let the engine's merges run only on a core that has nothing else to do, where the system can do this.

    With a low priority alone, a merge keeps its core for some milliseconds when another thread wakes up, and
    the system moves no other thread there. If merges fall behind for long, the engine slows inserts down,
    from 1,000 parts on.
    """
    if not hasattr(os, "SCHED_IDLE"):
        return
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # the thread may have ended
            if (task / "comm").read_text().startswith("MergeMutate"):
                os.sched_setscheduler(int(task.name), os.SCHED_IDLE, os.sched_param(0))


def _prepare_folder(path: Path, database: str, create: bool) -> bool:
    """Check the folder of an embedded store, and make definitions again that a full disk has cut off.

    :returns: Whether any were made again.
    :raises StoreError: In place of a stack trace of the engine.
    """
    if not path.exists() and not create:
        msg = f"there is no store in {path}: start the flow first, or name another folder"
        raise StoreError(msg)
    if path.exists() and not path.is_dir():
        msg = f"{path} is a file: PAIRFLOW_CLICKHOUSE must name a folder, as in chdb:///path/to/folder"
        raise StoreError(msg)
    try:
        path.mkdir(parents=True, exist_ok=True)
        writable = os.access(path, os.W_OK | os.X_OK)
    except OSError:
        writable = False
    if not writable:
        msg = f"the folder {path} cannot be written: change its permissions or PAIRFLOW_CLICKHOUSE"
        raise StoreError(msg)
    owner = _owner(path)
    if owner is not None and owner != os.getpid():
        msg = (
            f"the folder {path} is in use by another process: stop it, ask it over HTTP "
            f"(http://127.0.0.1:8123), or name another folder in PAIRFLOW_CLICKHOUSE"
        )
        raise StoreInUseError(msg)
    return owner is None and repair(path, database, load())


def is_in_use(path: Path) -> bool:
    """Tell whether another process has the folder of an embedded store open.

    :arg path: The folder.
    """
    return _owner(path) not in (None, os.getpid())


def _owner(path: Path) -> int | None:
    """Return the process that has the folder of an embedded store open; None for none.

    The engine locks the file ``status`` and writes its process id there. It is not asked itself, as it prints
    its refusal on stderr.
    """
    with suppress(OSError), (path / "status").open() as status:
        try:
            fcntl.flock(status, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            found = re.search(r"PID: (\d+)", status.read())
            return int(found[1]) if found else 0
    return None
