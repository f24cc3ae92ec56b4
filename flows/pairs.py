"""The dataflow: Binance trades in; bars, pair statistics and signals out, in ClickHouse.

    python -m bytewax.run flows.pairs

Settings are `PAIRFLOW_*` variables or `pairflow.toml` (see `flows.settings`). SIGTERM and SIGINT end the run
gracefully: what was read is stored, open bars stay in the recovery state, nothing is lost or written twice.
"""

import atexit
import os
import signal
import sys
import threading
from datetime import date
from functools import partial
from types import TracebackType

import bytewax.operators as op
import structlog
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource

from connectors.binance.recording import RecordingError, RecordingSource
from connectors.clickhouse.sink import ClickHouseSink
from connectors.clickhouse.store import StoreError
from flows.bars import TICKS, BarLogic
from flows.pair_metrics import PairLogic, PairOptions
from flows.settings import Settings, SettingsError, load_settings
from kernels.records import METHODS, Rows, Trades

KEY = "all"
"""One key holds all symbols, and one all pairs: kernels over arrays beat workers over keys."""


def _source(settings: Settings, stop: threading.Event) -> FixedPartitionedSource:
    kind, _, rest = settings.source.partition(":")
    grace = settings.allowed_lateness
    if kind == "recording":
        paths = [path for path in rest.split(",") if path]
        return RecordingSource(paths, settings.symbols, speed=settings.replay_speed, grace=grace, stop=stop)
    raise NotImplementedError


def _main() -> Dataflow:
    settings = load_settings()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return build(settings, _source(settings, stop))


def build(settings: Settings, source: FixedPartitionedSource) -> Dataflow:
    symbols = settings.symbols
    legs = [pair.split("/") for pair in settings.pair_names]
    options = PairOptions(
        symbols=len(symbols),
        pairs=[(symbols.index(y), symbols.index(x)) for y, x in legs],
        windows=sorted(settings.windows),
        z_window=settings.z_window,
        log_prices=settings.price_scale == "log",
        z_entry=settings.z_entry,
        z_exit=settings.z_exit,
        adf_lag=settings.adf_lag,
    )
    flow = Dataflow("pairs")
    trades = op.input("trades", flow, source)
    trades = op.map("shard", trades, lambda item: (KEY, item[1]))
    bars = op.stateful_batch(
        "bars",
        trades,
        partial(
            BarLogic,
            symbols=len(symbols),
            timeframes=settings.timeframes,
            lateness=settings.allowed_lateness,
        ),
    )
    metrics = op.stateful_batch(
        "pair_metrics", bars, partial(PairLogic, options=options, timeframes=settings.timeframes)
    )

    def rows_of(item: tuple[str, Trades]):
        _, block = item
        if settings.store_trades and len(block.trades):
            yield KEY, Rows("trades", block.trades)
        if len(block.gaps):
            yield KEY, Rows("gaps", block.gaps)

    rows = op.merge(
        "rows",
        op.flat_map("trade_rows", trades, rows_of),
        op.filter("bar_rows", bars, lambda item: item[1].table != TICKS),
        metrics,
    )
    sink = ClickHouseSink(
        settings.dsn,
        market=settings.market,
        source=settings.source_name,
        symbols=symbols,
        pairs=settings.pair_names,
        flush_interval=settings.flush_interval / 1e6,
        settings=settings.public(),
    )
    op.output("clickhouse", rows, sink)
    return flow


flow = _main()
