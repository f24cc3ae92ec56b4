"""What surrounds the dataflow in its process: errors in one line, what runs beside it, and its end.

Errors in `USER_ERRORS` are printed as one line instead of the engine's traceback. Once the store is open,
background services run beside the flow: the status line, Prometheus metrics, SQL and REST over HTTP. They
stop after the last row is stored.
"""

import atexit
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import structlog
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.operators import StatefulBatchLogic
from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition
from typing_extensions import override

from connectors import telemetry
from connectors.binance.archive_files import ArchiveError
from connectors.binance.feed import FeedStatus
from connectors.binance.recording import RecordingError
from connectors.clickhouse.server import EmbeddedServer
from connectors.clickhouse.sink import ClickHouseSink, SinkStatus
from connectors.clickhouse.store import Store, StoreError
from flows.settings import Settings, without_password
from kernels.records import GAP, SECOND, TRADE, TableRows, Trades, timeframe_name

USER_ERRORS = (StoreError, RecordingError, ArchiveError)
"""What a user can mend; each error's text is one line that says how."""

Arrived = tuple[str, Trades]
"""What a source emits: the partition, and its trades."""

_LOG = structlog.get_logger()


@contextmanager
def one_line() -> Iterator[None]:
    """End the process with one line at an error of `USER_ERRORS`, as abruptly as a kill would.

    The recovery state is made for that.
    """
    try:
        yield
    except USER_ERRORS as error:
        print(f"pairflow: {error}", file=sys.stderr, flush=True)
        os._exit(1)


class GuardedSource(FixedPartitionedSource[Arrived, Any]):
    """A source whose `USER_ERRORS` end the process with one line."""

    def __init__(self, source: FixedPartitionedSource[Arrived, Any]) -> None:
        """Init.

        :arg source: the source.
        """
        self._source = source

    @override
    def list_parts(self) -> list[str]:
        with one_line():
            return self._source.list_parts()

    @override
    def build_part(self, step_id: str, for_part: str, resume_state: Any) -> "_SourcePartition":
        with one_line():
            return _SourcePartition(self._source.build_part(step_id, for_part, resume_state), for_part)


class _SourcePartition(StatefulSourcePartition[Arrived, Any]):
    def __init__(self, partition: StatefulSourcePartition[Arrived, Any], name: str) -> None:
        self._partition = partition
        # The engine opens the store when a first item gets there: begin with a block of nothing.
        self._first = [(name, Trades(np.empty(0, TRADE), 0, np.empty(0, GAP)))]

    @override
    def next_batch(self) -> Any:
        if self._first:
            return [self._first.pop()]
        with one_line():
            return self._partition.next_batch()

    @override
    def next_awake(self) -> Any:
        return self._partition.next_awake()

    @override
    def snapshot(self) -> Any:
        with one_line():
            return self._partition.snapshot()

    @override
    def close(self) -> None:
        with one_line():
            self._partition.close()


class SinkWithServices(FixedPartitionedSink[TableRows, None]):
    """The sink of a run, with what runs beside the flow for as long as the store is open.

    Its `USER_ERRORS` end the process with one line.
    """

    def __init__(self, sink: ClickHouseSink, settings: Settings, feed: FeedStatus | None) -> None:
        """Init.

        :arg sink: the sink.
        :arg settings: of the run.
        :arg feed: state of a live feed.
        """
        self._sink = sink
        self._settings = settings
        self._feed = feed

    @override
    def list_parts(self) -> list[str]:
        return self._sink.list_parts()

    @override
    def build_part(self, step_id: str, for_part: str, resume_state: None) -> "_SinkPartition":
        with one_line():
            partition = self._sink.build_part(step_id, for_part, resume_state)
            store = self._sink.store
            assert store is not None
            services = _start_background_services(self._settings, store, self._sink.status, self._feed)
        return _SinkPartition(partition, services)


class _SinkPartition(StatefulSinkPartition[TableRows, None]):
    def __init__(
        self, partition: StatefulSinkPartition[TableRows, None], background_services: list[Callable[[], None]]
    ) -> None:
        self._partition = partition
        self._background_services = background_services

    @override
    def write_batch(self, values: list[TableRows]) -> None:
        with one_line():
            self._partition.write_batch(values)

    @override
    def snapshot(self) -> None:
        with one_line():
            self._partition.snapshot()

    @override
    def close(self) -> None:
        for stop in self._background_services:
            stop()
        with one_line():
            self._partition.close()


class TimedLogic(StatefulBatchLogic[Any, TableRows, bytes]):
    """The logic of a step that is neither notified nor ends, with its batches and their time counted."""

    def __init__(self, logic: StatefulBatchLogic[Any, TableRows, bytes], step: str) -> None:
        """Init.

        :arg logic: of the step.
        :arg step: its name.
        """
        self._logic = logic
        self._seconds = telemetry.STEP_SECONDS.labels(step)
        self._batches = telemetry.STEP_BATCHES.labels(step)

    @override
    def on_batch(self, values: list[Any]) -> Any:
        start = time.perf_counter()
        result = self._logic.on_batch(values)
        self._seconds.inc(time.perf_counter() - start)
        self._batches.inc()
        return result

    @override
    def snapshot(self) -> bytes:
        return self._logic.snapshot()


def end_on_signals(stop: threading.Event, stop_retrying: Callable[[], None]) -> None:
    """Let SIGTERM and SIGINT end the run gracefully, and at once when asked twice.

    :arg stop: ends the source when set.
    :arg stop_retrying: called then: nobody waits for a server that does not come back.
    """

    def end(number: int, _frame: object) -> None:
        if stop.is_set():
            os._exit(128 + number)
        stop.set()
        stop_retrying()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)


def _start_background_services(
    settings: Settings, store: Store, sink: SinkStatus, feed: FeedStatus | None
) -> list[Callable[[], None]]:
    """Start what runs beside the flow; return how each ends, in this order, before the store closes."""
    store.keep_rules(settings.alert_rules)
    recorder = telemetry.Recorder(store)
    recorder.start()
    background_services = [recorder.stop]
    if settings.http_port and store.dsn.path is not None:
        server = EmbeddedServer(store, port=settings.http_port)
        # Who asks needs Python's lock some four times a query, and would wait 5 ms for it each time.
        sys.setswitchinterval(0.001)
        try:
            server.start()
            background_services.insert(0, server.stop)
        except StoreError as error:
            _LOG.warning("no SQL over HTTP: set PAIRFLOW_HTTP_PORT to a free port, or 0", reason=str(error))
    if settings.status_interval:
        name = {"simulator": "SIMULATED PRICES"}.get(settings.source_name, settings.source_name)
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
    return background_services


def _summarise(settings: Settings, sink: SinkStatus) -> None:
    """Say what was written, and where."""
    counts = ", ".join(f"{count:,} {table}" for table, count in sink.rows_written.items()) or "nothing"
    where = without_password(settings.dsn)
    query = 'python -m connectors.clickhouse sql "SELECT * FROM pair_ranking"'
    print(f"stored {counts} in {where}", file=sys.stderr)
    print(f"try: PAIRFLOW_CLICKHOUSE={where} {query}", file=sys.stderr, flush=True)
