"""What the pipeline tells about itself: Prometheus metrics, the status line, the logs.

Each part counts what it does by the metrics below, in Prometheus' default registry; the status line reads the
same ones, so that the terminal and the dashboards never disagree.
"""

import logging
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

import structlog
from prometheus_client import REGISTRY, Counter, Gauge, Histogram, start_http_server

TRADES = Counter("pairflow_trades", "Trades that entered the flow.")
WATERMARK = Gauge("pairflow_watermark_seconds", "Exchange time up to which the flow has seen the market.")
LATE_TRADES = Counter(
    "pairflow_late_trades", "Trades too late for their bar, counted once per timeframe; they are stored."
)
BAR_TIME = Gauge("pairflow_last_bar_seconds", "Open time of the newest bar of the shortest timeframe.")
Z_SCORE = Gauge("pairflow_z_score", "Newest z-score of the first pair, at each timeframe.", ["timeframe"])
ROWS = Counter("pairflow_rows_written", "Rows written to ClickHouse.", ["table"])
WAITING = Gauge("pairflow_rows_waiting", "Rows collected and not yet written to ClickHouse.")
INSERT_SECONDS = Histogram("pairflow_insert_seconds", "Time of one insert into ClickHouse.", ["table"])
INSERT_FAILURES = Counter("pairflow_insert_failures", "Inserts that failed and were tried again.")

_TABLES = ("trades", "bars", "pair_metrics", "signals", "gaps")


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


def serve(port: int) -> None:
    """Serve the metrics on 127.0.0.1.

    :arg port: TCP port.
    :raises OSError: when the port is in use.
    """
    start_http_server(port, addr="127.0.0.1")


def value(name: str, **labels: str) -> float:
    """Return the present value of a metric of this process, NaN where it has none.

    :arg name: of the sample, as in ``pairflow_trades_total``.
    :arg labels: of the sample.
    """
    found = REGISTRY.get_sample_value(name, labels)
    return float("nan") if found is None else found


def rows_written() -> dict[str, int]:
    """Return how many rows this process has written to each table."""
    counts = {table: value("pairflow_rows_written_total", table=table) for table in _TABLES}
    return {table: int(count) for table, count in counts.items() if count > 0}


class StatusLine:
    """Prints, every few seconds, how the run is doing."""

    def __init__(
        self, interval: float, source: str, pair: str, timeframe: str, describe: Callable[[], str], live: bool
    ) -> None:
        """Init.

        :arg interval: seconds between lines.
        :arg source: what the prices are, in front of every line.
        :arg pair: the pair whose z-score is shown.
        :arg timeframe: its timeframe.
        :arg describe: what the source has to say of itself; may be empty.
        :arg live: whether exchange time follows the clock, so that a lag means something.
        """
        self._interval = interval
        self._source = source
        self._pair = pair
        self._timeframe = timeframe
        self._describe = describe
        self._live = live
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
                if self._live
                else f"market time {datetime.fromtimestamp(watermark, UTC):%Y-%m-%d %H:%M:%S}"
            )
        if bar > 0:
            parts.append(f"last bar {datetime.fromtimestamp(bar, UTC):%H:%M:%S}")
        z_score = value("pairflow_z_score", timeframe=self._timeframe)
        if z_score == z_score:
            parts.append(f"{self._pair} z {z_score:+.2f} ({self._timeframe})")
        parts.append(f"{sum(rows_written().values()):,} rows written")
        waiting = value("pairflow_rows_waiting")
        if waiting > 0:
            parts.append(f"{waiting:,.0f} waiting")
        return " | ".join([*parts, *filter(None, [self._describe()])])

    def _run(self) -> None:
        while True:
            time.sleep(self._interval)
            print(self.line(), file=sys.stderr, flush=True)
