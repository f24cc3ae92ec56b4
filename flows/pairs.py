"""The dataflow: Binance trades in; bars, pair statistics and signals out, in ClickHouse.

    python -m bytewax.run flows.pairs

Settings are `PAIRFLOW_*` variables or `pairflow.toml`, see `flows.settings`. SIGTERM and SIGINT end a run
gracefully: what was read is stored, open bars stay in the recovery state. Started again on that state, with
`-r`, the run goes on where it ended, and writes the rows of a run that never ended.
"""

import atexit
import os
import signal
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import bytewax.operators as op
import numpy as np
import structlog
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource
from bytewax.outputs import FixedPartitionedSink
from typing_extensions import override

from connectors import telemetry
from connectors.binance.archive import ArchiveError, ArchiveSource
from connectors.binance.feed import FeedStatus
from connectors.binance.history import WarmSource
from connectors.binance.recording import RecordingError, RecordingSource
from connectors.binance.stream import BinanceSource, Endpoints, default_endpoints
from connectors.clickhouse.server import EmbeddedServer
from connectors.clickhouse.sink import ClickHouseSink, SinkStatus
from connectors.clickhouse.store import Store, StoreError
from flows.bars import TICKS, BarLogic
from flows.pair_metrics import PairLogic, PairOptions
from flows.settings import Settings, SettingsError, load_settings, without_password
from kernels.records import GAP, METHODS, SECOND, TRADE, Rows, Trades, timeframe_name

_KEY = "all"
"""One key holds all symbols, and one all pairs: kernels over arrays beat workers over keys."""

_USER_ERRORS = (StoreError, RecordingError, ArchiveError)
"""What a user can mend; each error's text is one line that says how."""

_LOG = structlog.get_logger()


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
    market, stream = settings.market, settings.stream
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
    sink: FixedPartitionedSink[Rows, Any],
) -> Dataflow:
    """Put the flow together.

    :arg settings: of the run.
    :arg source: of ``(partition, Trades)``.
    :arg sink: of Rows: trades, gaps, bars, pair_metrics and signals.
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
    to_bars = partial(
        BarLogic,
        symbols=settings.symbols,
        timeframes=settings.timeframes,
        lateness=settings.allowed_lateness,
    )
    to_metrics = partial(PairLogic, options=options, timeframes=settings.timeframes)

    def rows_of(trades: Trades) -> Iterator[Rows]:
        if settings.store_trades:
            yield Rows("trades", trades.trades)
        yield Rows("gaps", trades.gaps)

    # Recovery state is kept under the flow's name: positions in one feed mean nothing in another.
    feed = f"{settings.source} {settings.market} {settings.stream}"
    flow = Dataflow(f"pairs_{settings.source_name}_{zlib.crc32(feed.encode()):08x}")
    arrived = op.input("trades", flow, source)
    trades = op.map("shard", arrived, lambda item: (_KEY, item[1]))
    bars = op.stateful_batch("bars", trades, _timed("bars", to_bars))
    metrics = op.stateful_batch("pair_metrics", bars, _timed("pair_metrics", to_metrics))
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


def _timed(step: str, make: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Count the batches of a step, and the time they take.

    :arg step: its name.
    :arg make: builds its logic.
    """
    seconds, batches = telemetry.STEP_SECONDS.labels(step), telemetry.STEP_BATCHES.labels(step)

    def build_logic(state: Any) -> Any:
        logic = make(state)
        on_batch = logic.on_batch

        def on_batch_timed(values: Any) -> Any:
            start = time.perf_counter()
            result = on_batch(values)
            seconds.inc(time.perf_counter() - start)
            batches.inc()
            return result

        logic.on_batch = on_batch_timed
        return logic

    return build_logic


def _count(step_id: str, item: tuple[str, Trades]) -> None:
    telemetry.TRADES.inc(len(item[1].trades))
    telemetry.WATERMARK.set(item[1].watermark / SECOND)


def _watch(settings: Settings) -> Callable[[Rows], Rows]:
    """Return a step that notes the newest bar, and the z-score of the first pair, as rows pass."""
    shortest = next(length for length in settings.timeframes if length)
    window = min(settings.windows)
    method = METHODS.index(settings.methods[0])

    def watch(rows: Rows) -> Rows:
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


def _one_line(function: Callable[..., Any]) -> Callable[..., Any]:
    """End the process with one line where the engine would answer a user's mistake with its stack."""

    def call(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except _USER_ERRORS as error:
            print(f"pairflow: {error}", file=sys.stderr, flush=True)
            os._exit(1)  # as abrupt as a kill, which the recovery state is made for

    return call


def _guarded(connector: Any, then: Callable[[Any], None]) -> Any:
    """Let the errors that a connector has words for end the process with those words.

    :arg connector: a source or sink.
    :arg then: called with its partition.
    """
    build_part = connector.build_part

    def build_guarded(*arguments: Any) -> Any:
        part = build_part(*arguments)
        then(part)
        for name in ("next_batch", "write_batch", "snapshot", "close"):
            if hasattr(part, name):
                setattr(part, name, _one_line(getattr(part, name)))
        return part

    connector.build_part = _one_line(build_guarded)
    return connector


def _announce(part: Any) -> None:
    """Let a source begin with a block of nothing: the engine opens the store when a first item gets there."""
    read = part.next_batch

    def next_batch() -> Any:
        part.next_batch = read
        return [(_KEY, Trades(np.empty(0, TRADE), 0, np.empty(0, GAP)))]

    part.next_batch = next_batch


def _end_on_signals(stop: threading.Event, hurry: Callable[[], None]) -> None:
    def end(number: int, _frame: object) -> None:
        if stop.is_set():
            os._exit(128 + number)  # asked twice: at once
        stop.set()
        hurry()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)


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
    _end_on_signals(stop, sink.hurry)

    def begin(part: Any) -> None:
        _begin(settings, sink.status, source.status if isinstance(source, BinanceSource) else None)
        assert sink.store is not None
        _record(sink.store, part)
        if settings.http_port and sink.store.dsn.path is not None:
            _serve(sink.store, settings.http_port, part)

    return build(settings, _guarded(source, _announce), _guarded(sink, begin))


def _record(store: Store, part: Any) -> None:
    """Keep the metrics of this run in its store, until the store closes."""
    recorder = telemetry.Recorder(store)
    recorder.start()
    close = part.close

    def stop_and_close() -> None:
        recorder.stop()
        close()

    part.close = stop_and_close


def _serve(store: Store, port: int, part: Any) -> None:
    """Let other programs ask the embedded store for as long as this process has it open."""
    server = EmbeddedServer(store, port=port)
    try:
        server.start()
    except StoreError as error:
        _LOG.warning("no SQL over HTTP: set PAIRFLOW_HTTP_PORT to a free port, or 0", reason=str(error))
        return
    close = part.close

    def stop_and_close() -> None:
        server.stop()
        close()

    part.close = stop_and_close


def _begin(settings: Settings, sink: SinkStatus, feed: FeedStatus | None) -> None:
    """Start what accompanies a run, once its store is open."""
    name = {"simulator": "SIMULATED PRICES"}.get(settings.source_name, settings.source_name)
    if settings.status_interval:
        telemetry.StatusLine(
            settings.status_interval / SECOND,
            f"{name} {settings.market}",
            next(iter(settings.pair_names), ""),
            timeframe_name(next(length for length in settings.timeframes if length)),
            sink,
            feed,
        ).start()
    telemetry.expose(sink, feed)
    if settings.metrics_port:
        try:
            telemetry.serve(settings.metrics_port, settings.metrics_host)
        except OSError as error:
            _LOG.warning(
                "no metrics for Prometheus: set PAIRFLOW_METRICS_PORT to a free port, or 0",
                host=settings.metrics_host,
                port=settings.metrics_port,
                reason=error.strerror,
            )
    atexit.register(_summarise, settings, sink)


def _summarise(settings: Settings, sink: SinkStatus) -> None:
    """Say what was written, and where."""
    counts = ", ".join(f"{count:,} {table}" for table, count in sink.rows_written.items()) or "nothing"
    where = without_password(settings.dsn)
    query = 'python -m connectors.clickhouse sql "SELECT * FROM pair_ranking"'
    print(f"stored {counts} in {where}", file=sys.stderr)
    print(f"try: PAIRFLOW_CLICKHOUSE={where} {query}", file=sys.stderr, flush=True)


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
    except _USER_ERRORS as error:
        print(f"pairflow: {error}", file=sys.stderr)
        sys.exit(1)


flow = _load()
