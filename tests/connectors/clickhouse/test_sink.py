"""The sink: every row stored once, before its epoch is committed, whatever happens to the store."""

import contextlib
import http.server
import io
import re
import socket
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import bytewax.operators as op
import chdb
import numpy as np
import pyarrow as pa
import pytest
from bytewax.dataflow import Dataflow
from bytewax.errors import BytewaxRuntimeError
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import TestingSource, run_main

from connectors.clickhouse import sink as sink_module
from connectors.clickhouse.sink import ClickHouseSink, SinkStatus, _Writer
from connectors.clickhouse.store import Store, StoreBusyError, StoreError
from kernels.records import BAR, TRADE, Block, TableRows, timeframe_name

RUN: dict[str, Any] = {"market": "spot", "source": "binance", "symbols": ["BTCUSDT"], "pairs": []}


def trades(count: int, *, first: int = 0) -> Block:
    rows = np.zeros(count, TRADE)
    rows["id"] = rows["first_id"] = rows["last_id"] = np.arange(first, first + count)
    rows["time"] = 1_700_000_000_000_000 + rows["id"] * 1_000
    return rows


def counted(dsn: str) -> tuple[Any, ...]:
    with Store.open(dsn) as store:
        return store.query("SELECT count(), sum(id) FROM trades")[0]


@pytest.fixture
def dsn(tmp_path: Path) -> str:
    return f"chdb://{tmp_path}/store"


@pytest.mark.parametrize(
    ("length", "name"),
    [(0, "tick"), (100_000, "100ms"), (1_000_000, "1s"), (60_000_000, "1m"), (90_000_000, "90s"),
     (300_000_000, "5m"), (3_600_000_000, "1h"), (86_400_000_000, "1d")],
)  # fmt: skip
def test_timeframes_are_named_as_users_write_them(length: int, name: str) -> None:
    assert timeframe_name(length) == name


def test_rows_of_a_flow_are_stored_and_the_folder_is_released(dsn: str) -> None:
    bars = np.zeros(2, BAR)
    bars["open_time"], bars["timeframe"] = [0, 1_000_000], 1_000_000
    items = [
        ("a", TableRows("trades", trades(500))),
        ("b", TableRows("bars", bars)),
        ("c", TableRows("trades", trades(0))),
    ]
    sink = ClickHouseSink(dsn, **RUN, settings={"market": "spot"})
    flow = Dataflow("test_flow")
    op.output("store", op.input("rows", flow, TestingSource(items)), sink)
    run_main(flow)  # type: ignore[no-untyped-call]
    with Store.open(dsn) as store:
        assert store.query("SELECT count() FROM trades") == [(500,)]
        assert store.query("SELECT timeframe, count() FROM bars GROUP BY timeframe") == [("1s", 2)]
        assert store.query("SELECT source, symbols FROM runs") == [("binance", ["BTCUSDT"])]
    assert dict(sink.status.rows_written) == {"trades": 500, "bars": 2}
    assert (sink.status.rows_waiting, sink.status.last_error) == (0, "")


class _CountingPartition(StatefulSourcePartition[tuple[str, TableRows], int]):
    def __init__(self, at: int, crash_at: int, end: int) -> None:
        self._at, self._crash_at, self._end = at, crash_at, end

    def next_batch(self) -> list[tuple[str, TableRows]]:
        if self._at >= self._end:
            raise StopIteration
        if self._at == self._crash_at:
            raise RuntimeError("crash")  # noqa: EM101
        self._at += 100
        return [("", TableRows("trades", trades(100, first=self._at - 100)))]

    def snapshot(self) -> int:
        return self._at


class _CountingSource(FixedPartitionedSource[tuple[str, TableRows], int]):
    def __init__(self, crash_at: int = -1) -> None:
        self._crash_at = crash_at

    def list_parts(self) -> list[str]:
        return ["0"]

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> _CountingPartition:
        return _CountingPartition(resume_state or 0, self._crash_at, 2_000)


def test_after_a_crash_no_row_is_missing_and_none_is_double(dsn: str, tmp_path: Path) -> None:
    init_db_dir(tmp_path, 1)  # type: ignore[no-untyped-call]
    for crash_at in (700, 1_500, -1):
        flow = Dataflow("test_flow")
        stream = op.input("rows", flow, _CountingSource(crash_at))
        op.output("store", stream, ClickHouseSink(dsn, **RUN))
        recovery = RecoveryConfig(str(tmp_path))  # type: ignore[no-untyped-call]
        # Bytewax wraps what a step raises in an error of its own.
        with contextlib.suppress(BytewaxRuntimeError, RuntimeError):
            run_main(flow, epoch_interval=timedelta(milliseconds=1), recovery_config=recovery)  # type: ignore[no-untyped-call]
    assert counted(dsn) == (2_000, 2_000 * 1_999 // 2)


def test_a_wrong_source_is_refused_before_anything_flows(dsn: str) -> None:
    with Store.open(dsn, source="simulator") as store:
        columns = sink_module.Columns(market="spot", source="simulator", symbols=["BTCUSDT"], pairs=[])
        store.insert("stored_trades", columns("trades", trades(1)))
    with pytest.raises(StoreError, match="simulated prices"):
        ClickHouseSink(dsn, **RUN).build_part("step", "store", None)


def test_trades_and_aggregate_trades_of_a_market_are_never_in_one_store(dsn: str) -> None:
    aggregates = trades(3)
    aggregates["first_id"] += 100
    aggregates["last_id"] += 105
    for rows, market, fits in (
        (aggregates, "spot", True),
        (trades(2), "spot", False),
        (trades(2), "usdm", True),
        (aggregates, "usdm", False),
        (aggregates, "spot", True),
    ):
        part = ClickHouseSink(dsn, **{**RUN, "market": market}).build_part("step", "store", None)
        part.write_batch([TableRows("trades", rows)])
        if fits:
            part.snapshot()
            part.close()
        else:
            with pytest.raises(
                StoreError, match=r"PAIRFLOW_STREAM=(aggTrade|trade), or PAIRFLOW_STORE_TRADES"
            ):
                part.snapshot()
            with contextlib.suppress(StoreError):
                part.close()
    with Store.open(dsn) as store:
        assert store.query("SELECT market, count() FROM trades GROUP BY market ORDER BY market") == [
            ("spot", 3), ("usdm", 2)
        ]  # fmt: skip


# The writer, with a store that fails as told.


class Flaky:
    """Stands for a store; the failures come in the order given, then all goes well."""

    def __init__(self, *failures: Exception | None) -> None:
        self.failures = list(failures)
        self.stored: list[tuple[str, Block]] = []
        self.open = threading.Event()
        self.open.set()

    def __call__(self, table: str, rows: Block) -> None:
        self.open.wait()
        failure = self.failures.pop(0) if self.failures else None
        if failure is not None:
            raise failure
        self.stored.append((table, rows))


@pytest.fixture
def make() -> Iterator[Callable[..., tuple[_Writer, SinkStatus]]]:
    made: list[_Writer] = []

    def build(insert: Flaky, flush_interval: float = 60) -> tuple[_Writer, SinkStatus]:
        status = SinkStatus()
        made.append(
            _Writer(insert, flush_interval=flush_interval, status=status, stop_retrying=threading.Event())
        )
        return made[-1], status

    yield build
    for writer in made:
        writer.close()


Make = Callable[..., tuple[_Writer, SinkStatus]]


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_rows_wait_for_the_interval_and_no_longer(make: Make) -> None:
    store = Flaky()
    writer, status = make(store, flush_interval=0.2)
    start = time.monotonic()
    for first in (0, 10):
        writer.put("trades", trades(10, first=first))
    assert status.rows_waiting == 20
    wait_for(lambda: store.stored)
    assert time.monotonic() - start >= 0.2
    assert [(table, list(rows["id"])) for table, rows in store.stored] == [("trades", list(range(20)))]


def test_many_rows_are_stored_at_once_in_inserts_of_bounded_size(make: Make) -> None:
    store = Flaky()
    writer, status = make(store)
    writer.put("trades", trades(250_000))
    wait_for(lambda: not status.rows_waiting)
    assert [len(rows) for _, rows in store.stored] == [100_000, 100_000, 50_000]


def test_a_flush_returns_only_when_everything_is_stored(make: Make) -> None:
    store = Flaky()
    writer, status = make(store)
    writer.put("trades", trades(10))
    writer.put("bars", np.zeros(3, BAR))
    writer.flush()
    assert dict(status.rows_written) == {"trades": 10, "bars": 3}
    assert status.rows_waiting == 0
    writer.flush()  # nothing to do


def test_what_passes_is_waited_out_and_visible(make: Make) -> None:
    store = Flaky(*[StoreBusyError("no answer")] * 1_000)
    writer, status = make(store)
    writer.put("trades", trades(10))
    flushing = threading.Thread(target=writer.flush)
    flushing.start()
    wait_for(lambda: status.retries >= 2)
    assert (status.last_error, status.rows_waiting, flushing.is_alive()) == ("no answer", 10, True)
    assert status.failing_since > 0
    store.failures.clear()
    flushing.join()
    assert (status.last_error, status.failing_since) == ("", 0.0)
    assert len(store.stored) == 1


def test_what_does_not_pass_stops_the_flow(make: Make) -> None:
    writer, _ = make(Flaky(StoreError("no such column")))
    writer.put("trades", trades(10))
    with pytest.raises(StoreError, match="no such column"):
        writer.flush()
    with pytest.raises(StoreError, match="no such column"):
        writer.put("trades", trades(10))


def test_the_flow_waits_when_memory_is_full(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sink_module, "_MOST_BYTES", trades(1_000).nbytes)
    store = Flaky()
    store.open.clear()
    writer, status = make(store, flush_interval=0)
    taken = 0

    def produce() -> None:
        nonlocal taken
        for first in range(0, 100_000, 1_000):
            writer.put("trades", trades(1_000, first=first))
            taken += 1

    producing = threading.Thread(target=produce)
    producing.start()
    time.sleep(0.3)
    assert taken <= 3
    assert status.rows_waiting <= 3_000
    store.open.set()
    producing.join()
    writer.flush()
    ids = np.concatenate([rows["id"] for _, rows in store.stored])
    assert np.array_equal(ids, np.arange(100_000))


def test_asked_to_stop_the_sink_loses_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sink_module, "_STOPPING_SECONDS", 0.3)
    store = Flaky(*[StoreBusyError("no answer")] * 1_000)
    stop_retrying = threading.Event()
    writer = _Writer(store, flush_interval=60, status=SinkStatus(), stop_retrying=stop_retrying)
    writer.put("trades", trades(10))
    stop_retrying.set()
    start = time.monotonic()
    with pytest.raises(StoreBusyError, match="no answer"):
        writer.flush()
    assert time.monotonic() - start < 20
    writer.close()


# A server: chDB behind HTTP and writable, as clickhouse-connect's HTTP client sees a ClickHouse server, and
# between both a proxy that misbehaves as told.


class Server(http.server.ThreadingHTTPServer):
    """An embedded store behind HTTP, that takes inserts as a ClickHouse server does."""

    daemon_threads = True

    def __init__(self, folder: Path, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.folder = folder
        self.engine: Any = chdb.connect(f"{folder}/store")  # type: ignore[no-untyped-call]
        self.lock = threading.Lock()
        self.inserts = 0
        self.failure = ""
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        self.shutdown()
        self.server_close()
        self.engine.close()

    def run(self, given: dict[str, str], body: bytes) -> bytes:
        if given.get("database"):
            self.engine.query(f"USE {given['database']}")
        # A statement in the URL with the data as body, or both in the body, a line break between them.
        statement, data = given.get("query", ""), body
        if not statement:
            first, _, data = body.partition(b"\n")
            statement = first.decode()
        if not re.fullmatch(r"INSERT INTO .* FORMAT \w+", statement.strip()):
            params = {name[6:]: value for name, value in given.items() if name.startswith("param_")}
            sql = "\n".join(part for part in (given.get("query", ""), body.decode()) if part)
            answer: bytes = self.engine.query(sql, "TabSeparated", params=params).bytes()
            return answer
        if self.failure:
            raise RuntimeError(self.failure)
        self.inserts += 1
        file = self.folder / f"insert-{self.inserts}"
        file.write_bytes(data)
        statement, _, form = statement.strip().rpartition(" FORMAT ")
        self.engine.query(f"{statement} FROM INFILE '{file}' FORMAT {form}")
        return b""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Stay quiet."""

    def do_POST(self) -> None:
        given = dict(urllib.parse.parse_qsl(self.path.partition("?")[2]))
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            length = int(self.headers.get("Content-Length", 0))
            body = self.rfile.read(length)
            if len(body) < length:  # cut off on the way: ClickHouse, too, inserts nothing then
                self.close_connection = True
                return
        if self.headers.get("Content-Encoding") == "lz4":
            with pa.CompressedInputStream(io.BytesIO(body), "lz4") as stream:
                body = stream.read()
        status, headers = 200, {}
        with self.server.lock:
            try:
                answer = self.server.run(given, body)
            except Exception as ex:
                status, answer = 500, str(ex).encode()
                headers = {
                    "X-ClickHouse-Exception-Code": str(ex).partition("Code: ")[2].partition(".")[0] or "1"
                }
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(answer))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_POST  # noqa: N815


class _Proxy:
    """Passes bytes on, or does what `mode` says with connections that carry an insert."""

    def __init__(self, port: int) -> None:
        self.target = port
        self.mode: list[str] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with (
            client,
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", self.target)) as server,
        ):
            state = {"mode": ""}

            def up() -> None:
                with contextlib.suppress(OSError):
                    while data := client.recv(65_536):
                        if b"INSERT" in data and b"stored_" in data:
                            state["mode"] = self.mode.pop(0) if self.mode else ""
                        if state["mode"] == "cut the request":
                            server.sendall(data[: len(data) // 2])
                            break
                        if state["mode"] == "delay":
                            time.sleep(0.5)
                        server.sendall(data)
                    server.shutdown(socket.SHUT_WR)

            threading.Thread(target=up, daemon=True).start()
            while (data := server.recv(65_536)) and state["mode"] != "swallow the answer":
                client.sendall(data[:10] if state["mode"] == "cut the answer" else data)
                if state["mode"] == "cut the answer":
                    break
            client.shutdown(socket.SHUT_RDWR)  # also wakes `up`


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Server, _Proxy]]:
    server = Server(tmp_path)
    proxy = _Proxy(server.server_address[1])
    yield server, proxy
    proxy.close()
    server.stop()


def test_faults_between_sink_and_server_lose_and_double_nothing(served: tuple[Server, _Proxy]) -> None:
    server, proxy = served
    sink = ClickHouseSink(f"clickhouse://127.0.0.1:{proxy.port}/pairflow", **RUN)
    part = sink.build_part("step", "store", None)
    faults = ["cut the request", "swallow the answer", "cut the answer", "delay", ""] * 2
    proxy.mode = faults.copy()
    for first in range(0, 6_000, 1_000):
        part.write_batch([TableRows("trades", trades(1_000, first=first))])
        part.snapshot()
    assert sink.status.retries >= 4
    assert server.inserts > 6 + 1  # some were stored and their answer lost; the first is of the run
    assert (
        server.engine.query("SELECT count(), sum(id) FROM pairflow.trades", "TSV").bytes()
        == b"6000\t17997000\n"
    )
    assert sink.status.rows_written["trades"] == 6_000
    part.close()


def test_a_restart_of_the_server_is_waited_out(tmp_path: Path) -> None:
    server = Server(tmp_path)
    port = server.server_address[1]
    sink = ClickHouseSink(f"clickhouse://127.0.0.1:{port}/pairflow", **RUN)
    part = sink.build_part("step", "store", None)
    part.write_batch([TableRows("trades", trades(10))])
    part.snapshot()
    server.stop()
    part.write_batch([TableRows("trades", trades(10, first=10))])
    flushing = threading.Thread(target=part.snapshot)
    flushing.start()
    wait_for(lambda: sink.status.last_error)
    assert flushing.is_alive()
    assert "no answer from ClickHouse" in sink.status.last_error
    server = Server(tmp_path, port)
    flushing.join()
    assert server.engine.query("SELECT count() FROM pairflow.trades", "TSV").bytes() == b"20\n"
    part.close()
    server.stop()


def test_a_full_disk_is_waited_out_and_a_wrong_table_is_not(served: tuple[Server, _Proxy]) -> None:
    server, proxy = served
    sink = ClickHouseSink(f"clickhouse://127.0.0.1:{proxy.port}/pairflow", **RUN)
    part = sink.build_part("step", "store", None)
    server.failure = "Code: 243. DB::Exception: Cannot reserve 1.00 MiB, not enough space. (NOT_ENOUGH_SPACE)"
    part.write_batch([TableRows("trades", trades(10))])
    flushing = threading.Thread(target=part.snapshot)
    flushing.start()
    wait_for(lambda: sink.status.last_error)
    assert "no space left on the disk" in sink.status.last_error
    server.failure = ""
    flushing.join()
    server.failure = "Code: 16. DB::Exception: No such column. (NO_SUCH_COLUMN_IN_TABLE)"
    part.write_batch([TableRows("trades", trades(10))])
    with pytest.raises(StoreError, match="No such column"):
        part.snapshot()
    part.close()
