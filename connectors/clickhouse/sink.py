"""Sink that writes rows to a ClickHouse store.

```python
from bytewax import operators as op
from connectors.clickhouse.sink import ClickHouseSink

sink = ClickHouseSink(
    "chdb:///var/lib/pairflow", market="spot", source="binance",
    symbols=["BTCUSDT", "ETHUSDT"], pairs=["ETHUSDT/BTCUSDT"],
)
op.output("store", rows, sink)  # rows: a keyed stream of records.Rows
```

Rows are collected over a flush interval and stored, at the latest, when Bytewax takes a snapshot: an epoch
is committed only after the rows it emitted are stored. Writing a row twice changes nothing (see the schema),
so a restart may repeat the last epoch freely.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition
from numpy.typing import NDArray
from typing_extensions import override

from connectors.clickhouse.store import Store
from kernels.records import (
    GAP_CAUSES,
    GAP_REPAIRS,
    METHODS,
    MICROSECOND,
    MILLISECOND,
    SECOND,
    SIGNALS,
    Block,
    Rows,
)

if TYPE_CHECKING:
    import pyarrow as pa

# ClickHouse's guidance is blocks of 10,000 to 100,000 rows, about one insert a second.
_ROWS_PER_INSERT = 100_000

_UNITS = (
    (86_400 * SECOND, "d"),
    (3_600 * SECOND, "h"),
    (60 * SECOND, "m"),
    (SECOND, "s"),
    (MILLISECOND, "ms"),
    (MICROSECOND, "us"),
)


def timeframe_name(length: int) -> str:
    """Name a timeframe as users write it: ``1s``, ``5m``, ``tick``.

    :arg length: Length, us; 0 for tick.
    :returns: Its name, in the largest unit that divides it.
    """
    if length == 0:
        return "tick"
    unit, letter = next((unit, letter) for unit, letter in _UNITS if length % unit == 0)
    return f"{length // unit}{letter}"


class Columns:
    """Turns blocks into Arrow tables with the columns of the store, indexes into names.

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
    """Arrow's dictionary encoding is what LowCardinality columns take without looking at the rows."""
    import pyarrow as pa

    return pa.DictionaryArray.from_arrays(
        pa.array(np.ascontiguousarray(indexes)), pa.array(list(names), pa.string())
    )


def _timeframes(lengths: NDArray[np.int64]) -> pa.Array:
    known, indexes = np.unique(lengths, return_inverse=True)
    return _names(indexes, [timeframe_name(int(length)) for length in known])


class _StorePartition(StatefulSinkPartition[Rows, None]):
    def __init__(self, store: Store, columns: Columns, flush_interval: float) -> None:
        self._store = store
        self._columns = columns
        self._flush_interval = flush_interval
        self._blocks: dict[str, list[Block]] = {}
        self._rows = 0
        self._flushed = time.monotonic()

    @override
    def write_batch(self, values: list[Rows]) -> None:
        for table, block in values:
            if len(block):
                self._blocks.setdefault(table, []).append(block)
                self._rows += len(block)
        if self._rows >= _ROWS_PER_INSERT or time.monotonic() - self._flushed >= self._flush_interval:
            self._flush()

    @override
    def snapshot(self) -> None:
        self._flush()

    @override
    def close(self) -> None:
        try:
            self._flush()
        finally:
            self._store.close()

    def _flush(self) -> None:
        for table in list(self._blocks):
            block = np.concatenate(self._blocks[table])
            for start in range(0, len(block), _ROWS_PER_INSERT):
                self._store.insert(
                    f"stored_{table}", self._columns(table, block[start : start + _ROWS_PER_INSERT])
                )
            del self._blocks[table]
        self._rows = 0
        self._flushed = time.monotonic()


class ClickHouseSink(FixedPartitionedSink[Rows, None]):
    """Write `records.Rows` to the tables of a store, in one partition.

    :arg dsn: ``chdb:///path`` or ``clickhouse://user:password@host:8123/database``.
    :arg market: spot or usdm.
    :arg source: Where the prices are from: binance, recording, archive or simulator.
    :arg symbols: The run's symbol table.
    :arg pairs: The run's pair table, ``Y/X``.
    :arg flush_interval: Seconds over which rows are collected; a snapshot stores them earlier.
    :arg settings: The run's settings, free of secrets, kept in ``runs``.
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
    ) -> None:
        self._dsn = dsn
        self._run: dict[str, Any] = {"source": source, "market": market, "symbols": symbols, "pairs": pairs}
        self._flush_interval = flush_interval
        self._settings = settings or {}

    @override
    def list_parts(self) -> list[str]:
        return ["store"]

    @override
    def build_part(self, step_id: str, for_part: str, resume_state: None) -> _StorePartition:
        store = Store.open(self._dsn, source=self._run["source"])
        store.record_run(**self._run, settings=self._settings)
        return _StorePartition(store, Columns(**self._run), self._flush_interval)
