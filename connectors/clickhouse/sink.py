"""Sink that writes rows to a ClickHouse store.

```python
from bytewax import operators as op
from connectors.clickhouse.sink import ClickHouseSink

sink = ClickHouseSink(
    "chdb:///var/lib/pairflow", market="spot", source="binance",
    symbols=["BTCUSDT", "ETHUSDT"], pairs=["ETHUSDT/BTCUSDT"],
)
op.output("store", rows, sink)  # rows: a keyed stream of records.TableRows
```

Rows are collected for a flush interval. They are stored at the latest when Bytewax takes a snapshot, so that
an epoch is committed only after its rows are stored. Writing a row twice changes nothing (see
``clickhouse/tables.sql``), so a restart may repeat the last epoch.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import structlog
from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition
from numpy.typing import NDArray
from typing_extensions import override

from connectors.clickhouse.store import Store, StoreBusyError
from kernels.records import (
    GAP_CAUSES,
    GAP_REPAIRS,
    METHODS,
    MICROSECOND,
    SECOND,
    SIGNALS,
    Block,
    TableRows,
    timeframe_name,
)

if TYPE_CHECKING:
    import pyarrow as pa

# ClickHouse recommends 10,000 to 100,000 rows an insert, and about one insert a second.
_ROWS_PER_INSERT = 100_000

# Memory for collected rows: that of 2 million trades.
_MOST_BYTES = 128_000_000

# Seconds between attempts, doubled each time from the first to the last. A server restarts in some seconds.
_FIRST_DELAY = 0.1
_LAST_DELAY = 5.0

# For how long attempts are repeated after the flow was asked to stop. Supervisors kill a process about 10
# seconds after they asked it to stop.
_STOPPING_SECONDS = 5.0

log = structlog.get_logger()


class Columns:
    """Converts blocks to Arrow tables with the columns of the store, and indexes to names.

    :arg symbols: The run's symbol table.
    :arg pairs: The run's pair table, ``Y/X``.
    """

    def __init__(self, *, market: str, source: str, symbols: Sequence[str], pairs: Sequence[str]) -> None:
        self._market = market
        self._source = source
        self._symbols = list(symbols)
        self._pairs = list(pairs)
        legs = [symbols.index(leg) for pair in pairs for leg in pair.split("/")]
        self._y, self._x = np.array(legs, np.int32).reshape(-1, 2).T
        self._tables: dict[str, Callable[[Block], dict[str, pa.Array]]] = {
            "trades": self._trades,
            "bars": self._bars,
            "pair_metrics": self._pair_metrics,
            "signals": self._signals,
            "gaps": self._gaps,
        }

    def __call__(self, table: str, block: Block) -> pa.Table:
        """Convert a block.

        :arg table: trades, bars, pair_metrics, signals or gaps.
        :arg block: Rows of the matching dtype of ``kernels.records``.
        :returns: The rows, for the table ``stored_<table>``.
        """
        import pyarrow as pa

        columns = self._tables[table](block)
        columns["market"] = _names(np.zeros(len(block), np.int8), [self._market])
        columns["source"] = _names(np.zeros(len(block), np.int8), [self._source])
        return pa.table(columns)

    def _trades(self, block: Block) -> dict[str, pa.Array]:
        return {
            "symbol": _names(block["symbol"], self._symbols),
            "time": _times(block["time"]),
            **_plain(block, "id", "price", "quantity", "buyer_is_maker", "first_id", "last_id", "in_bars"),
        }

    def _bars(self, block: Block) -> dict[str, pa.Array]:
        plain = [name for name in block.dtype.names or () if name not in ("open_time", "timeframe", "symbol")]
        return {
            "symbol": _names(block["symbol"], self._symbols),
            "timeframe": _timeframes(block["timeframe"]),
            "open_time": _times(block["open_time"]),
            "close_time": _times(block["open_time"] + block["timeframe"] - MICROSECOND),
            **_plain(block, *plain),
        }

    def _pair_metrics(self, block: Block) -> dict[str, pa.Array]:
        keys = ("time", "timeframe", "pair", "method")
        return {**self._pair(block), **_plain(block, *(n for n in block.dtype.names or () if n not in keys))}

    def _signals(self, block: Block) -> dict[str, pa.Array]:
        keys = ("time", "timeframe", "pair", "method", "signal")
        lowest = min(SIGNALS)
        names = [SIGNALS[value] for value in sorted(SIGNALS)]
        return {
            **self._pair(block),
            "signal": _names(block["signal"] - lowest, names),
            **_plain(block, *(n for n in block.dtype.names or () if n not in keys)),
        }

    def _pair(self, block: Block) -> dict[str, pa.Array]:
        """Columns that identify a row of statistics."""
        return {
            "pair": _names(block["pair"], self._pairs),
            "y": _names(self._y[block["pair"]], self._symbols),
            "x": _names(self._x[block["pair"]], self._symbols),
            "timeframe": _timeframes(block["timeframe"]),
            "method": _names(block["method"], METHODS),
            "time": _times(block["time"]),
        }

    def _gaps(self, block: Block) -> dict[str, pa.Array]:
        import pyarrow as pa

        ended = block["repaired"] != 0
        return {
            "symbol": _names(block["symbol"], self._symbols),
            "detected": _times(block["detected"]),
            "repaired": pa.array(block["repaired"], mask=~ended).view(pa.timestamp("us", "UTC")),
            "cause": _names(block["cause"], GAP_CAUSES),
            "repair": _names(block["repair"], GAP_REPAIRS),
            "version": pa.array(np.where(ended, block["repaired"], block["restored"])),
            **_plain(block, "first_id", "last_id", "restored"),
        }


def _plain(block: Block, *names: str) -> dict[str, pa.Array]:
    import pyarrow as pa

    return {name: pa.array(np.ascontiguousarray(block[name])) for name in names}


def _times(values: NDArray[np.int64]) -> pa.Array:
    import pyarrow as pa

    return pa.array(np.ascontiguousarray(values)).view(pa.timestamp("us", "UTC"))


def _names(indexes: NDArray[np.integer[Any]], names: Sequence[str]) -> pa.Array:
    """Encode by a dictionary, which ClickHouse takes for a LowCardinality column without reading the rows."""
    import pyarrow as pa

    return pa.DictionaryArray.from_arrays(
        pa.array(np.ascontiguousarray(indexes)), pa.array(list(names), pa.string())
    )


def _timeframes(lengths: NDArray[np.int64]) -> pa.Array:
    known, indexes = np.unique(lengths, return_inverse=True)
    return _names(indexes, [timeframe_name(int(length)) for length in known])


@dataclass
class SinkStatus:
    """What a sink has done and what it waits for; it may be read at any time.

    :arg rows_written: Rows stored, by table.
    :arg rows_waiting: Rows that the sink has received and not stored yet.
    :arg inserts: Number of inserts.
    :arg last_insert_seconds: How long the last insert took.
    :arg last_error: Why the last attempt failed; empty after a success.
    :arg failing_since: Unix time, s, of the first failure since the last success; 0 after a success.
    :arg retries: Number of repeated attempts.
    :arg inserts_by_table: Number of inserts, by table.
    :arg insert_seconds: Total time of inserts, by table.
    :arg bar_lag_seconds: From the end of the newest bar to when it was stored; NaN before the first bar.
    """

    rows_written: Counter[str] = field(default_factory=Counter)
    rows_waiting: int = 0
    inserts: int = 0
    last_insert_seconds: float = 0.0
    last_error: str = ""
    failing_since: float = 0.0
    retries: int = 0
    inserts_by_table: Counter[str] = field(default_factory=Counter)
    insert_seconds: dict[str, float] = field(default_factory=dict)
    bar_lag_seconds: float = float("nan")


class _Writer:
    """Stores blocks in a thread of its own, so that the flow does not wait for inserts.

    An attempt that fails for a temporary reason is repeated with the same rows until it succeeds: if an
    insert is repeated because its answer was lost, each row is still there once. Meanwhile blocks are
    collected up to a limit, and then the flow waits.
    """

    def __init__(
        self,
        insert: Callable[[str, Block], None],
        *,
        flush_interval: float,
        status: SinkStatus,
        stop_retrying: threading.Event,
    ) -> None:
        self._insert = insert
        self._flush_interval = flush_interval
        self._status = status
        self._stop_retrying = stop_retrying
        self._changed = threading.Condition()
        self._blocks: dict[str, list[Block]] = {}
        self._rows = self._bytes = 0
        self._since = 0.0  # when the oldest collected block came
        self._busy = self._flushing = self._closing = False
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="clickhouse-sink", daemon=True)
        self._thread.start()

    def put(self, table: str, block: Block) -> None:
        """Take a block; wait while the memory for collected rows is full.

        :raises StoreError: If storing failed for a reason that is not temporary.
        """
        with self._changed:
            self._wait_for(lambda: self._bytes < _MOST_BYTES)
            if not self._blocks:
                self._since = time.monotonic()
            self._blocks.setdefault(table, []).append(block)
            self._rows += len(block)
            self._bytes += block.nbytes
            self._status.rows_waiting += len(block)
            if self._rows >= _ROWS_PER_INSERT or len(self._blocks) == 1:
                self._changed.notify_all()

    def flush(self) -> None:
        """Wait until all blocks are stored.

        :raises StoreError: If storing failed for a reason that is not temporary.
        """
        with self._changed:
            if self._blocks or self._busy:
                self._flushing = True
                self._changed.notify_all()
            self._wait_for(lambda: not (self._blocks or self._busy))

    def close(self) -> None:
        """Store the remaining blocks, with few attempts, and end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(2 * _STOPPING_SECONDS)

    def _wait_for(self, done: Callable[[], bool]) -> None:
        stopping_seconds = 0.0
        while not self._changed.wait_for(lambda: done() or self._failure is not None, timeout=0.5):
            # An attempt may wait for minutes for a server that accepts it and does not answer.
            stopping_seconds += 0.5 if self._is_stopping() else 0.0
            if stopping_seconds > 2 * _STOPPING_SECONDS:
                msg = f"{self._status.rows_waiting} rows are not stored, as the store does not answer"
                raise StoreBusyError(msg)
        if self._failure is not None:
            raise self._failure

    def _is_stopping(self) -> bool:
        return self._closing or self._stop_retrying.is_set()

    def _rest(self, seconds: float) -> None:
        """Sleep, but no longer than until the flow is asked to stop."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            time.sleep(_FIRST_DELAY)
            if self._is_stopping():
                return

    def _run(self) -> None:
        try:
            while blocks := self._next():
                for table, parts in blocks.items():
                    rows = np.concatenate(parts)
                    for start in range(0, len(rows), _ROWS_PER_INSERT):
                        self._store(table, rows[start : start + _ROWS_PER_INSERT])
                with self._changed:
                    self._busy = False
                    self._changed.notify_all()
        except Exception as ex:
            with self._changed:
                self._failure = ex
                self._changed.notify_all()

    def _next(self) -> dict[str, list[Block]]:
        """Wait until there are blocks to store; return none when the sink is closed."""
        with self._changed:
            while not (self._closing or (self._blocks and self._is_due())):
                left = self._since + self._flush_interval - time.monotonic() if self._blocks else None
                self._changed.wait(left)
            blocks, self._blocks = self._blocks, {}
            # Rows that are being stored no longer count: as many more may be collected meanwhile.
            self._rows = self._bytes = 0
            self._busy = bool(blocks)
            self._flushing = False
            self._changed.notify_all()
            return blocks

    def _is_due(self) -> bool:
        waited = time.monotonic() - self._since >= self._flush_interval
        return self._flushing or self._rows >= _ROWS_PER_INSERT or waited

    def _store(self, table: str, rows: Block) -> None:
        status = self._status
        delay = _FIRST_DELAY
        retry_until = 0.0
        while True:
            start = time.monotonic()
            try:
                self._insert(table, rows)
            except StoreBusyError as ex:
                status.last_error = str(ex)
                if not status.failing_since:
                    status.failing_since = time.time()
                    log.warning("rows wait to be stored", reason=str(ex))
                if self._is_stopping():
                    retry_until = retry_until or time.monotonic() + _STOPPING_SECONDS
                    if time.monotonic() >= retry_until:
                        raise
                self._rest(delay)
                delay = min(2 * delay, _LAST_DELAY)
                status.retries += 1
                continue
            if status.failing_since:
                log.warning(
                    "rows are stored again", after_seconds=round(time.time() - status.failing_since, 1)
                )
            status.last_insert_seconds = time.monotonic() - start
            status.last_error, status.failing_since = "", 0.0
            status.inserts += 1
            status.inserts_by_table[table] += 1
            status.insert_seconds[table] = status.insert_seconds.get(table, 0.0) + status.last_insert_seconds
            if table == "bars":
                newest = int((rows["open_time"] + rows["timeframe"]).max())
                status.bar_lag_seconds = time.time() - newest / SECOND
            status.rows_written[table] += len(rows)
            with self._changed:
                status.rows_waiting -= len(rows)
            return


class _StorePartition(StatefulSinkPartition[TableRows, None]):
    def __init__(self, store: Store, writer: _Writer) -> None:
        self._store = store
        self._writer = writer

    @override
    def write_batch(self, values: list[TableRows]) -> None:
        for table, block in values:
            if len(block):
                self._writer.put(table, block)

    @override
    def snapshot(self) -> None:
        self._writer.flush()

    @override
    def close(self) -> None:
        self._writer.close()
        self._store.close()


class ClickHouseSink(FixedPartitionedSink[TableRows, None]):
    """Write `records.TableRows` to the tables of a store, in one partition.

    After a temporary failure (no answer, a restart, a full disk) the sink tries again until it succeeds, and
    `status` says why it waits. Any other failure stops the flow with a `StoreError`; rows that are not stored
    are emitted again when the flow resumes.

    :arg dsn: ``chdb:///path`` or ``clickhouse://user:password@host:8123/database``.
    :arg market: spot or usdm.
    :arg source: Where the prices are from: binance, recording, archive or simulator.
    :arg symbols: The run's symbol table.
    :arg pairs: The run's pair table, ``Y/X``.
    :arg flush_interval: Seconds over which rows are collected; a snapshot stores them earlier.
    :arg settings: The run's settings without secrets, which are kept in ``runs``.
    :arg cluster: Name of the cluster that the server belongs to; "" for none.
    """

    def __init__(
        self,
        dsn: str,
        *,
        market: str,
        source: str,
        symbols: Sequence[str],
        pairs: Sequence[str],
        flush_interval: float = 1.0,
        settings: Mapping[str, Any] | None = None,
        cluster: str = "",
    ) -> None:
        self.status = SinkStatus()
        self.store: Store | None = None  # while the flow has it open
        self._dsn = dsn
        self._run: dict[str, Any] = {"source": source, "market": market, "symbols": symbols, "pairs": pairs}
        self._flush_interval = flush_interval
        self._settings = settings or {}
        self._cluster = cluster
        self._stop_retrying = threading.Event()

    def stop_retrying(self) -> None:
        """From now on repeat failed attempts for a few seconds only.

        To be called when the flow is asked to stop, so that it does not wait for a store that does not
        answer. It may be called in a signal handler.
        """
        self._stop_retrying.set()

    @override
    def list_parts(self) -> list[str]:
        return ["store"]

    @override
    def build_part(self, step_id: str, for_part: str, resume_state: None) -> _StorePartition:
        self.store = store = Store.open(self._dsn, source=self._run["source"], cluster=self._cluster)
        try:
            store.record_run(**self._run, settings=self._settings)
        except BaseException:
            store.close()
            raise
        columns = Columns(**self._run)
        stream = ""

        def insert(table: str, rows: Block) -> None:
            nonlocal stream
            if table == "trades" and not stream:
                # Ids of aggregate trades are other numbers than those of trades.
                kind = "trade" if (rows["id"] == rows["first_id"]).all() else "aggTrade"
                store.check_stream(self._run["market"], kind)
                stream = kind
            store.insert(f"stored_{table}", columns(table, rows))

        writer = _Writer(
            insert, flush_interval=self._flush_interval, status=self.status, stop_retrying=self._stop_retrying
        )
        return _StorePartition(store, writer)
