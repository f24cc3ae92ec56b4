"""What the pipeline tells about itself: Prometheus metrics, the status line, the logs.

Each part counts what it does by the metrics below, in Prometheus' default registry; the status line reads the
same ones, so that the terminal and the dashboards never disagree.
"""

from __future__ import annotations

import contextlib
import logging
import math
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import structlog
from prometheus_client import REGISTRY, Counter, Gauge, start_http_server
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from typing_extensions import override

from connectors.binance.feed import FeedStatus
from connectors.clickhouse.sink import SinkStatus
from connectors.clickhouse.store import Store, StoreError

if TYPE_CHECKING:
    import pyarrow as pa

TRADES = Counter("pairflow_trades", "Trades that entered the flow.")
WATERMARK = Gauge("pairflow_watermark_seconds", "Exchange time up to which the flow has seen the market.")
LATE_TRADES = Counter(
    "pairflow_late_trades", "Trades too late for their bar, counted once per timeframe; they are stored."
)
BAR_TIME = Gauge("pairflow_last_bar_seconds", "Open time of the newest bar of the shortest timeframe.")
Z_SCORE = Gauge("pairflow_z_score", "Newest z-score of the first pair, at the shortest timeframe.")
Z_SCORE.set(math.nan)
STEP_SECONDS = Counter("pairflow_step_seconds", "Time spent in a step of the flow.", ["step"])
STEP_BATCHES = Counter("pairflow_step_batches", "Batches that a step of the flow took.", ["step"])

_RECORDED = ("pairflow_", "process_resident_memory_bytes", "process_cpu_seconds_total")
"""Samples that are kept in the store, by how their names begin."""


def configure_logs(level: str) -> None:
    """Write logs to stderr, one line an event: time, level, event, and what it is about as key=value.

    :arg level: debug, info, warning or error.
    """
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.LogfmtRenderer(
                key_order=["timestamp", "level", "event"], drop_missing=True, bool_as_flag=False
            ),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )


def serve(port: int, host: str = "127.0.0.1") -> None:
    """Serve the metrics to Prometheus.

    :arg port: TCP port.
    :arg host: address to listen on.
    :raises OSError: when the port is in use, or the address is not of this machine.
    """
    start_http_server(port, addr=host)


def value(name: str, **labels: str) -> float:
    """Return the present value of a metric of this process, NaN where it has none.

    :arg name: of the sample, as in ``pairflow_trades_total``.
    :arg labels: of the sample.
    """
    found = REGISTRY.get_sample_value(name, labels)
    return float("nan") if found is None else found


class _Statuses(Collector):
    """Shows what feed and sink say of themselves, at the moment it is asked."""

    def __init__(self, sink: SinkStatus, feed: FeedStatus | None) -> None:
        self._sink = sink
        self._feed = feed

    @override
    def collect(self) -> Iterator[Metric]:
        sink = self._sink
        rows = CounterMetricFamily("pairflow_rows_written", "Rows stored in ClickHouse.", labels=["table"])
        for table, count in sink.rows_written.items():
            rows.add_metric([table], count)
        yield rows
        yield GaugeMetricFamily("pairflow_rows_waiting", "Rows taken and not stored yet.", sink.rows_waiting)
        yield CounterMetricFamily("pairflow_inserts", "Inserts done.", sink.inserts)
        yield CounterMetricFamily(
            "pairflow_insert_failures", "Inserts that failed and were tried again.", sink.retries
        )
        yield GaugeMetricFamily(
            "pairflow_insert_seconds", "How long the last insert took.", sink.last_insert_seconds
        )
        inserts = CounterMetricFamily("pairflow_table_inserts", "Inserts done, by table.", labels=["table"])
        seconds = CounterMetricFamily(
            "pairflow_table_insert_seconds", "Time that inserts took, by table.", labels=["table"]
        )
        for table, count in sink.inserts_by_table.items():
            inserts.add_metric([table], count)
            seconds.add_metric([table], sink.insert_seconds[table])
        yield inserts
        yield seconds
        yield GaugeMetricFamily(
            "pairflow_bar_lag_seconds",
            "From the end of the newest bar to when it was stored.",
            sink.bar_lag_seconds,
        )
        failing = time.time() - sink.failing_since if sink.failing_since else 0.0
        yield GaugeMetricFamily(
            "pairflow_insert_failing_seconds", "How long inserts have been failing.", failing
        )
        if self._feed is not None:
            yield from self._feed_metrics(self._feed)

    def _feed_metrics(self, feed: FeedStatus) -> Iterator[Metric]:
        states = GaugeMetricFamily(
            "pairflow_connection", "1 for the state a connection is in.", labels=["name", "state"]
        )
        for name, state in dict(feed.connections).items():
            states.add_metric([name, state], 1)
        yield states
        frames = CounterMetricFamily("pairflow_frames", "Frames decoded, by what they were.", labels=["kind"])
        for kind in ("trades", "other", "malformed", "unknown_symbol", "slow"):
            frames.add_metric([kind], getattr(feed.decode, kind))
        yield frames
        counters = {
            "reconnections": (
                feed.reconnections,
                "Connections opened because another was lost or had to end.",
            ),
            "duplicates": (feed.duplicates, "Trades dropped because their id had come before."),
            "overflows": (feed.overflows, "Messages dropped because the queue was full; fetched by REST."),
            "restored_trades": (feed.restored, "Trades that came by REST."),
            "unavailable_trades": (feed.unavailable, "Trades that never came and never will."),
            "rest_requests": (feed.rest_requests, "REST requests made."),
            "received_bytes": (feed.bytes, "Bytes received."),
        }
        for name, (count, text) in counters.items():
            yield CounterMetricFamily(f"pairflow_{name}", text, count)
        gauges: dict[str, tuple[float, str]] = {
            "open_gaps": (feed.open_gaps, "Ranges of ids that are missing now."),
            "held_trades": (feed.held, "Trades that wait for lower ids."),
            "buffered_bytes": (feed.buffered_bytes, "Bytes received and not decoded yet."),
            "weight_used": (feed.weight_used, "Request weight used this minute, of the exchange's 6,000."),
            "message_age_seconds": (feed.age, "Time since the last message."),
            "receive_lag_seconds": (
                feed.lag,
                "Local time of receipt minus event time, clock difference included.",
            ),
        }
        for name, (level, text) in gauges.items():
            yield GaugeMetricFamily(f"pairflow_{name}", text, level)


def expose(sink: SinkStatus, feed: FeedStatus | None) -> None:
    """Show the statuses of a run among the metrics.

    :arg sink: of the sink.
    :arg feed: of the live feed, if the run has one.
    """
    REGISTRY.register(_Statuses(sink, feed))


class Recorder:
    """Keeps samples of the metrics in the store, so that a dashboard needs no Prometheus."""

    def __init__(self, store: Store, interval: float = 5.0) -> None:
        """Init.

        :arg store: to write to; open until `stop` has returned.
        :arg interval: seconds between samples.
        """
        self._store = store
        self._interval = interval
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)

    def start(self) -> None:
        """Begin to write samples, in a thread of its own."""
        self._thread.start()

    def stop(self) -> None:
        """Write a last sample and end."""
        self._stop.set()
        self._thread.join(10)

    def _run(self) -> None:
        stopping = False
        while True:
            # The sink says what is wrong with the store, and these samples are not worth waiting for.
            with contextlib.suppress(StoreError):
                self._store.insert("pipeline_metrics", _samples())
            if stopping:
                return
            stopping = self._stop.wait(self._interval)


def _samples() -> pa.Table:
    import pyarrow as pa

    samples = [
        sample
        for metric in REGISTRY.collect()
        for sample in metric.samples
        if sample.name.startswith(_RECORDED) and not sample.name.endswith("_created")
    ]
    return pa.table(
        {
            "time": pa.array([time.time_ns() // 1_000_000] * len(samples), pa.timestamp("ms", "UTC")),
            "name": [sample.name for sample in samples],
            "labels": pa.array(
                [list(sample.labels.items()) for sample in samples], pa.map_(pa.string(), pa.string())
            ),
            "value": [float(sample.value) for sample in samples],
        }
    )


class StatusLine:
    """Prints, every few seconds, how the run is doing."""

    def __init__(
        self,
        interval: float,
        source: str,
        pair: str,
        timeframe: str,
        sink: SinkStatus,
        feed: FeedStatus | None,
    ) -> None:
        """Init.

        :arg interval: seconds between lines.
        :arg source: what the prices are, in front of every line.
        :arg pair: the pair whose z-score is shown.
        :arg timeframe: its timeframe.
        :arg sink: what the sink says of itself.
        :arg feed: what a live feed says of itself; None where exchange time does not follow the clock.
        """
        self._interval = interval
        self._source = source
        self._pair = pair
        self._timeframe = timeframe
        self._sink = sink
        self._feed = feed
        self._trades = 0.0
        self._time = time.monotonic()

    def start(self) -> None:
        """Begin to print, until the process ends."""
        threading.Thread(target=self._run, name="status", daemon=True).start()

    def line(self) -> str:
        """Return the line for now; rates are since the last one."""
        now, trades = time.monotonic(), value("pairflow_trades_total")
        rate = (trades - self._trades) / max(now - self._time, 1e-9)
        self._trades, self._time = trades, now
        parts = [f"{self._source}: {trades:,.0f} trades, {rate:,.0f}/s"]
        watermark, bar = value("pairflow_watermark_seconds"), value("pairflow_last_bar_seconds")
        if watermark > 0:
            parts.append(
                f"lag {time.time() - watermark:.1f} s"
                if self._feed is not None
                else f"market time {datetime.fromtimestamp(watermark, UTC):%Y-%m-%d %H:%M:%S}"
            )
        if bar > 0:
            parts.append(f"last bar {datetime.fromtimestamp(bar, UTC):%H:%M:%S}")
        z_score = value("pairflow_z_score")
        if not math.isnan(z_score):
            parts.append(f"{self._pair} z {z_score:+.2f} ({self._timeframe})")
        sink = self._sink
        parts.append(f"{sink.rows_written.total():,} rows stored")
        if sink.failing_since:
            parts.append(f"{sink.rows_waiting:,} WAIT: {sink.last_error}")
        if self._feed is not None:
            parts += self._feed_words(self._feed)
        return " | ".join(parts)

    def _feed_words(self, feed: FeedStatus) -> Iterator[str]:
        states = list(feed.connections.values())
        yield f"{states.count('live')}/{len(states)} connections"
        if feed.open_gaps:
            yield f"{feed.open_gaps} open gaps, {feed.held:,} trades wait for them"

    def _run(self) -> None:
        while True:
            time.sleep(self._interval)
            print(self.line(), file=sys.stderr, flush=True)
