"""Prometheus metrics, in the default registry, and the server that shows them on 127.0.0.1.

Each part of the pipeline counts what it does by the metrics below; the status line reads the same ones.
"""

from prometheus_client import Counter, Gauge, Histogram, start_http_server

TRADES = Counter("pairflow_trades", "Trades that entered the flow.")
WATERMARK = Gauge("pairflow_watermark_seconds", "Exchange time up to which the flow has seen the market.")
LATE_TRADES = Counter(
    "pairflow_late_trades", "Trades too late for their bar, counted once per timeframe; they are stored."
)
FRAMES = Counter("pairflow_frames", "Raw frames read, by what they were.", ["kind"])
ROWS = Counter("pairflow_rows_written", "Rows written to ClickHouse.", ["table"])
WAITING = Gauge("pairflow_rows_waiting", "Rows collected and not yet written to ClickHouse.")
INSERT_SECONDS = Histogram("pairflow_insert_seconds", "Time of one insert into ClickHouse.", ["table"])
INSERT_FAILURES = Counter(
    "pairflow_insert_failures", "Inserts into ClickHouse that failed and were tried again."
)


def serve(port: int) -> None:
    """Serve the metrics on 127.0.0.1.

    :arg port: TCP port.
    :raises OSError: when the port is in use.
    """
    start_http_server(port, addr="127.0.0.1")
