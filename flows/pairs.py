"""The dataflow: Binance trades in; bars, pair statistics and signals out, in ClickHouse.

    python -m bytewax.run flows.pairs

Settings are `PAIRFLOW_*` variables or `pairflow.toml`, see `flows.settings`. SIGTERM and SIGINT end a run
gracefully: what was read is stored, open bars stay in the recovery state. Started again on that state, with
`-r`, the run goes on where it ended, and writes the rows of a run that never ended.
"""

import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource
from bytewax.outputs import FixedPartitionedSink
from typing_extensions import override

from connectors import telemetry
from connectors.binance.archive import ArchiveSource
from connectors.binance.endpoints import Endpoints, default_endpoints
from connectors.binance.feed import FeedStatus
from connectors.binance.recording import RecordingError, RecordingSource
from connectors.binance.stream import BinanceSource
from connectors.binance.warm_start import WarmSource
from connectors.clickhouse.sink import ClickHouseSink
from flows.bars import TICKS, BarLogic
from flows.pair_metrics import PairLogic, PairOptions
from flows.run import USER_ERRORS, GuardedSource, SinkWithServices, TimedLogic, end_on_signals
from flows.settings import Settings, SettingsError, load_settings
from kernels.records import METHODS, SECOND, TableRows, Trades

_KEY = "all"
"""One key holds all symbols, and one all pairs: kernels over arrays beat workers over keys."""


class SimulatorSource(WarmSource):
    """Trades of an exchange simulated on this machine, in a process of its own."""

    def __init__(self, symbols: tuple[str, ...], *, market: str, **options: Any) -> None:
        """Init; the exchange starts with the flow, and ends with it.

        :arg symbols: the symbol table.
        :arg market: spot or usdm.
        :arg options: of `WarmSource`.
        """
        self._arguments = ["--symbols", ",".join(symbols), "--market", market, "--exit-with-parent"]
        self._live = partial(WarmSource, symbols, market=market, **options)
        super().__init__(symbols, market=market, endpoints=default_endpoints(market), **options)

    @override
    def build_part(self, step_id: str, for_part: str, resume_state: Any) -> Any:
        exchange = subprocess.Popen(
            [sys.executable, "-m", "connectors.simulator", *self._arguments],
            stdin=subprocess.PIPE,  # closes with this process, and the exchange with it
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C ends the flow first
        )
        assert exchange.stdout is not None
        address = exchange.stdout.readline().decode().rpartition(" ")[2].strip()
        if not address.startswith("http"):
            msg = "the simulated exchange did not start; see above"
            raise RecordingError(msg)
        endpoints = Endpoints(ws=(address.replace("http", "ws", 1),), rest=(address,))
        return self._live(endpoints=endpoints).build_part(step_id, for_part, resume_state)


def make_source(settings: Settings, stop: threading.Event) -> FixedPartitionedSource[Any, Any]:
    """Return the source that the settings name.

    :arg settings: of the run.
    :arg stop: ends the source when set.
    :returns: a source of ``(partition, Trades)``.
    :raises RecordingError: when there is nothing to replay.
    :raises ArchiveError: when the archive has not the days.
    """
    kind, _, paths = settings.source.partition(":")
    market, stream = settings.market, settings.trade_stream
    if kind == "recording":
        return RecordingSource(
            [path for path in paths.split(",") if path],
            settings.symbols,
            speed=settings.replay_speed,
            grace=settings.allowed_lateness,
            stop=stop,
        )
    if kind == "archive":
        first, last = settings.archive_days
        return ArchiveSource(
            first,
            last,
            settings.symbols,
            market=market,
            stream=stream,
            base_url=settings.archive_url,
            folder=settings.archive_folder,
            speed=settings.replay_speed,
            grace=settings.allowed_lateness,
            stop=stop,
        )
    live: dict[str, Any] = {
        "market": market,
        "stream": stream,
        "stop": stop,
        "status": FeedStatus(),
        "timeframes": [length for length in settings.timeframes if length],
        "count": max(*settings.windows, settings.z_window) + 1 if settings.warm_start else 0,
    }
    if kind == "simulator":
        return SimulatorSource(settings.symbols, **live)
    known = default_endpoints(market)
    endpoints = Endpoints(ws=settings.ws_url or known.ws, rest=settings.rest_url or known.rest)
    return WarmSource(settings.symbols, endpoints=endpoints, **live)


def build(
    settings: Settings,
    source: FixedPartitionedSource[Any, Any],
    sink: FixedPartitionedSink[TableRows, Any],
) -> Dataflow:
    """Put the flow together.

    :arg settings: of the run.
    :arg source: of ``(partition, Trades)``.
    :arg sink: of TableRows: trades, gaps, bars, pair_metrics and signals.
    :returns: the dataflow.
    """
    options = PairOptions(
        symbols=settings.symbols,
        pairs=settings.pair_names,
        windows=sorted(settings.windows),
        z_window=settings.z_window,
        log_prices=settings.price_scale == "log",
        z_entry=settings.z_entry,
        z_exit=settings.z_exit,
        adf_lag=settings.adf_lag,
        methods=settings.methods,
        kalman_q=settings.kalman_q,
        kalman_r=settings.kalman_r,
    )

    def to_bars(state: bytes | None) -> TimedLogic:
        lateness = settings.allowed_lateness
        logic = BarLogic(state, symbols=settings.symbols, timeframes=settings.timeframes, lateness=lateness)
        return TimedLogic(logic, "bars")

    def to_metrics(state: bytes | None) -> TimedLogic:
        return TimedLogic(PairLogic(state, options=options, timeframes=settings.timeframes), "pair_metrics")

    def rows_of(trades: Trades) -> Iterator[TableRows]:
        if settings.store_trades:
            yield TableRows("trades", trades.trades)
        yield TableRows("gaps", trades.gaps)

    # Recovery state is kept under the flow's name: positions in one feed mean nothing in another.
    feed = f"{settings.source} {settings.market} {settings.trade_stream}"
    flow = Dataflow(f"pairs_{settings.source_name}_{zlib.crc32(feed.encode()):08x}")
    arrived = op.input("trades", flow, source)
    trades = op.map("key", arrived, lambda item: (_KEY, item[1]))
    bars = op.stateful_batch("bars", trades, to_bars)
    metrics = op.stateful_batch("pair_metrics", bars, to_metrics)
    stored = op.merge(
        "rows",
        op.flat_map_value("trade_rows", trades, rows_of),
        op.filter_value("bar_rows", bars, lambda rows: rows.table != TICKS),
        metrics,
    )
    watched = op.map_value("watch", stored, _watch(settings))
    op.inspect("count", trades, _count)
    op.output("clickhouse", watched, sink)
    return flow


def _count(step_id: str, item: tuple[str, Trades]) -> None:
    telemetry.TRADES.inc(len(item[1].trades))
    telemetry.WATERMARK.set(item[1].watermark / SECOND)


def _watch(settings: Settings) -> Callable[[TableRows], TableRows]:
    """Return a step that notes the newest bar, and the z-score of the first pair, as rows pass."""
    shortest = next(length for length in settings.timeframes if length)
    window = min(settings.windows)
    method = METHODS.index(settings.methods[0])

    def watch(rows: TableRows) -> TableRows:
        table, block = rows
        if table == "bars":
            times = block["open_time"][block["timeframe"] == shortest]
            if len(times):
                telemetry.BAR_TIME.set(times[-1] / SECOND)
        elif table == "pair_metrics":
            mine = (block["pair"] == 0) & (block["window"] == window) & (block["method"] == method)
            mine &= block["timeframe"] == shortest
            if mine.any():
                telemetry.Z_SCORE.set(block["z_score"][mine][-1])
        return rows

    return watch


def _start(settings: Settings) -> Dataflow:
    stop = threading.Event()
    source = make_source(settings, stop)
    sink = ClickHouseSink(
        settings.dsn,
        market=settings.market,
        source=settings.source_name,
        symbols=settings.symbols,
        pairs=settings.pair_names,
        flush_interval=settings.flush_interval / SECOND,
        settings=settings.public(),
        cluster=settings.clickhouse_cluster,
    )
    end_on_signals(stop, sink.stop_retrying)
    feed = source.status if isinstance(source, BinanceSource) else None
    return build(settings, GuardedSource(source), SinkWithServices(sink, settings, feed))


def _load() -> Dataflow:
    try:
        settings = load_settings()
    except SettingsError as error:
        for fault in error.faults:
            print(f"pairflow: {fault}", file=sys.stderr)
        sys.exit(2)
    telemetry.configure_logs(settings.log_level)
    try:
        return _start(settings)
    except USER_ERRORS as error:
        print(f"pairflow: {error}", file=sys.stderr)
        sys.exit(1)


flow = _load()
