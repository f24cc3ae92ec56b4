"""Archives served over HTTP on the loop-back interface: recorded trades, in the archive's own format."""

import gzip
import hashlib
import io
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import bytewax.operators as op
import numpy as np
import orjson
import pytest
from bytewax.dataflow import Dataflow
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import TestingSink, run_main
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from connectors.binance import archive as module
from connectors.binance.archive import ArchiveError, ArchiveSource
from flows.bars import BarLogic
from kernels.records import GAP, GAP_CAUSES, GAP_REPAIRS, SECOND, TRADE, Block, Trades

SYMBOLS = ["BTCUSDT", "ETHUSDT"]
DAY = date(2024, 8, 8)
DAY_US = 86_400 * SECOND
NEXT = DAY + timedelta(days=1)
HEADERS = {
    "trades": "id,price,qty,quote_qty,time,is_buyer_maker",
    "aggTrades": "agg_trade_id,price,quantity,first_trade_id,last_trade_id,transact_time,is_buyer_maker",
}


class Server:
    """An archive: files by path, and faults by path."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.requests: list[tuple[str, str, str]] = []  # method, path, range
        self.cut: dict[str, list[int]] = {}  # bytes after which the connection breaks, once each
        self.status: dict[str, list[int]] = {}  # answers in place of the file, once each
        self.slow: set[str] = set()  # stop after the first half and wait
        self.ranges = True
        self.released = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                self.answer(body=False)

            def do_GET(self) -> None:
                self.answer(body=True)

            def answer(self, *, body: bool) -> None:
                path = self.path.lstrip("/")
                wanted = self.headers.get("Range", "")
                server.requests.append((self.command, path, wanted))
                wanted = wanted if server.ranges else ""
                if server.status.get(path):
                    return self.refuse(server.status[path].pop(0))
                if path not in server.files:
                    return self.refuse(404)
                data = server.files[path]
                first = int(wanted[6:-1]) if wanted else 0
                if first >= len(data) > 0:
                    return self.refuse(416, f"bytes */{len(data)}")
                self.send_response(206 if wanted else 200)
                if wanted:
                    self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
                self.send_header("Content-Length", str(len(data) - first))
                self.end_headers()
                data = data[first:]
                if not body:
                    return None
                if path in server.slow:
                    self.wfile.write(data[: len(data) // 2])
                    server.released.wait(10)
                    data = data[len(data) // 2 :]
                if server.cut.get(path):
                    self.wfile.write(data[: server.cut[path].pop(0)])
                    self.close_connection = True
                    return None
                self.wfile.write(data)
                return None

            def refuse(self, status: int, content_range: str = "") -> None:
                self.send_response(status)
                if content_range:
                    self.send_header("Content-Range", content_range)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def add(self, path: str, data: bytes) -> None:
        """Publish a file and its checksum."""
        self.files[path] = data
        name = path.rpartition("/")[2]
        self.files[path + ".CHECKSUM"] = f"{hashlib.sha256(data).hexdigest()}  {name}\n".encode()

    def got(self, path: str) -> list[str]:
        """Ranges of a file that were asked for."""
        return [wanted for method, at, wanted in self.requests if at == path and method == "GET"]

    def close(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(module, "_BACKOFF", 0.01)
    made = Server()
    yield made
    made.close()


def place(symbol: str, day: date, kind: str = "trades", market: str = "spot") -> str:
    folder = {"spot": "data/spot/daily", "usdm": "data/futures/um/daily"}[market]
    return f"{folder}/{kind}/{symbol}/{symbol}-{kind}-{day}.zip"


def zipped(text: str | bytes) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("trades.csv", text)
    return data.getvalue()


@cache
def _frames(folder: Path) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {symbol: [] for symbol in SYMBOLS}
    for path in sorted(folder.glob("*.gz")):
        with gzip.open(path) as file:
            for line in file:
                if b'"e":"trade"' in line:
                    data = orjson.loads(line[line.index(b" ") :])["data"]
                    found[data["s"]].append(data)
    return found


@pytest.fixture(scope="session")
def frames(data: Path) -> Callable[[str], dict[str, list[dict[str, Any]]]]:
    """Recorded trades of a market by symbol, as the exchange sent them."""
    return lambda market: _frames(data / "recorded" / market)


Frames = Callable[[str], dict[str, list[dict[str, Any]]]]
Recorded = Callable[[str], Block]


def day_of(trade: dict[str, Any]) -> date:
    return datetime.fromtimestamp(trade["T"] // 1000, UTC).date()


def csv(
    trades: Sequence[dict[str, Any]],
    *,
    header: bool = False,
    capital: bool = True,
    microseconds: bool = False,
    best: bool = True,
) -> str:
    lines = [HEADERS["trades"]] if header else []
    for trade in trades:
        stamp = trade["T"] * 1000 if microseconds else trade["T"]
        maker = str(trade["m"]) if capital else str(trade["m"]).lower()
        quote = f"{float(trade['p']) * float(trade['q']):.8f}"
        line = f"{trade['t']},{trade['p']},{trade['q']},{quote},{stamp},{maker}"
        lines.append(line + (",True" if best else ""))
    return "".join(f"{line}\n" for line in lines)


def chosen(rows: Block, symbol: str, day: date = DAY) -> Block:
    """Rows of one symbol and day; the archives do not say which of them klines leave out."""
    start = (day - date(1970, 1, 1)).days * DAY_US
    rows = rows[
        (rows["symbol"] == SYMBOLS.index(symbol)) & (rows["time"] >= start) & (rows["time"] < start + DAY_US)
    ].copy()
    rows["in_bars"] = rows["price"] != 0
    return rows


def made(ids: Sequence[int], *, start: int = 0, step: int = 10, day: date = DAY) -> str:
    """Rows of made-up trades, in this order; time and price follow from the id."""
    begin = (day - date(1970, 1, 1)).days * 86_400_000
    return "".join(
        f"{i},{100 + i % 7}.50000000,0.{1 + i % 9}0000000,1.0,{begin + start + i * step},True,True\n"
        for i in ids
    )


def source(server: Server, folder: Path, **options: Any) -> ArchiveSource:
    settings: dict[str, Any] = {"first": DAY, "last": DAY, "symbols": ["BTCUSDT"]}
    settings |= {"market": "spot", "stream": "trade", "base_url": server.url, "folder": folder} | options
    return ArchiveSource(settings.pop("first"), settings.pop("last"), settings.pop("symbols"), **settings)


def replay(
    archive: ArchiveSource, resume: Any = None, until: Callable[[int], bool] = lambda n: False
) -> tuple[list[Trades], Any]:
    """Run a partition until its end, or until enough trades came; return its items and its snapshot."""
    partition = archive.build_part("step", "archive", resume)
    return drain(partition, until), partition.snapshot()


def drain(partition: Any, until: Callable[[int], bool] = lambda n: False) -> list[Trades]:
    items: list[Trades] = []
    deadline = time.monotonic() + 30
    try:
        while not until(sum(len(item.trades) for item in items)):
            assert time.monotonic() < deadline, "the replay hangs"
            items += [item for _, item in partition.next_batch()]
    except StopIteration:
        pass
    finally:
        partition.close()
    return items


def joined(items: Sequence[Trades]) -> Block:
    return np.concatenate([np.empty(0, TRADE), *(item.trades for item in items)])


def all_gaps(items: Sequence[Trades]) -> list[tuple[int, int]]:
    gaps = np.concatenate([np.empty(0, GAP), *(item.gaps for item in items)])
    assert (gaps["cause"] == GAP_CAUSES.index("hole")).all()
    assert (gaps["repair"] == GAP_REPAIRS.index("unavailable")).all()
    return list(zip(gaps["first_id"].tolist(), gaps["last_id"].tolist(), strict=True))


@pytest.mark.parametrize("header", [False, True])
@pytest.mark.parametrize("capital", [False, True])
@pytest.mark.parametrize("microseconds", [False, True])
def test_trades_equal_those_of_the_stream_in_every_style_of_the_archive(
    server: Server,
    tmp_path: Path,
    frames: Frames,
    recorded: Recorded,
    header: bool,
    capital: bool,
    microseconds: bool,
) -> None:
    trades = [t for t in frames("spot")["BTCUSDT"] if day_of(t) == DAY]
    text = csv(trades, header=header, capital=capital, microseconds=microseconds)
    server.add(place("BTCUSDT", DAY), zipped(text))
    items, _ = replay(source(server, tmp_path))
    assert np.array_equal(joined(items), chosen(recorded("spot"), "BTCUSDT"))


def test_futures_trades_equal_those_of_the_stream(
    server: Server, tmp_path: Path, frames: Frames, recorded: Recorded
) -> None:
    text = csv(frames("usdm")["BTCUSDT"], header=True, capital=False, best=False)
    server.add(place("BTCUSDT", DAY, market="usdm"), zipped(text))
    items, _ = replay(source(server, tmp_path, market="usdm"))
    assert np.array_equal(joined(items), chosen(recorded("usdm"), "BTCUSDT"))


@pytest.mark.parametrize("market", ["spot", "usdm"])
def test_aggregates_equal_the_trades_that_they_are_made_of(
    server: Server, tmp_path: Path, frames: Frames, recorded: Recorded, market: str
) -> None:
    lines = [HEADERS["aggTrades"] + "\n"] if market == "usdm" else []
    for trade in frames(market)["BTCUSDT"]:
        if day_of(trade) == DAY:  # each stands for three trades, so that no id equals another
            first = 3 * trade["t"]
            maker = f"{trade['m']},True" if market == "spot" else str(trade["m"]).lower()
            head = f"{trade['t']},{trade['p']},{trade['q']},{first},{first + 2}"
            lines.append(f"{head},{trade['T']},{maker}\n")
    server.add(place("BTCUSDT", DAY, "aggTrades", market), zipped("".join(lines)))
    items, _ = replay(source(server, tmp_path, market=market, stream="aggTrade"))
    rows = chosen(recorded(market), "BTCUSDT")
    rows["first_id"] = 3 * rows["id"]
    rows["last_id"] = 3 * rows["id"] + 2
    assert np.array_equal(joined(items), rows)


@pytest.fixture
def both_days(server: Server, frames: Frames, recorded: Recorded) -> Block:
    """Both symbols and days of the recordings, published, by time, symbol, id."""
    for symbol in SYMBOLS:
        for day in (DAY, NEXT):
            trades = [t for t in frames("spot")[symbol] if day_of(t) == day]
            server.add(place(symbol, day), zipped(csv(trades)))
    rows = np.concatenate([recorded("spot")[recorded("spot")["symbol"] == i] for i in (0, 1)])
    latest = np.concatenate([np.maximum.accumulate(rows["time"][rows["symbol"] == i]) for i in (0, 1)])
    sorted_rows: Block = rows[np.argsort(latest, kind="stable")]
    return sorted_rows


def test_symbols_and_days_are_merged_by_time_and_nothing_is_late(
    server: Server, tmp_path: Path, both_days: Block, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CHUNK", 1 << 15)
    items, _ = replay(source(server, tmp_path, last=NEXT, symbols=SYMBOLS, grace=250_000))
    assert len(items) > 20
    assert np.array_equal(joined(items), both_days)
    for before, item in pairwise(items):
        assert before.watermark <= item.watermark
        assert not len(item.trades) or item.trades["time"].min() >= before.watermark
    assert items[-1].watermark == ((NEXT - date(1970, 1, 1)).days + 1) * DAY_US + 250_000


@pytest.mark.parametrize("chunk", [1 << 14, 1 << 21])
def test_a_resumed_replay_goes_on_with_the_very_next_trade(
    server: Server, tmp_path: Path, both_days: Block, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    options = {"last": NEXT, "symbols": SYMBOLS}
    for stop_after in (0, 1, 5_000, 16_000, 30_000, 1_000_000):
        monkeypatch.setattr(module, "_CHUNK", 1 << 14)
        first, state = replay(source(server, tmp_path, **options), until=lambda n, m=stop_after: n >= m)  # type: ignore[misc]
        monkeypatch.setattr(module, "_CHUNK", chunk)
        second, _ = replay(source(server, tmp_path, **options), orjson.loads(orjson.dumps(state)))
        assert np.array_equal(joined([*first, *second]), both_days)
        assert not all_gaps([*first, *second])


def test_a_flow_runs_it_to_the_end(server: Server, tmp_path: Path, both_days: Block) -> None:
    out: list[tuple[str, Trades]] = []
    flow = Dataflow("archive")
    stream = op.input("in", flow, source(server, tmp_path, last=NEXT, symbols=SYMBOLS))
    op.output("out", stream, TestingSink(out))
    run_main(flow)  # type: ignore[no-untyped-call]
    assert {key for key, _ in out} == {"archive"}
    assert np.array_equal(joined([item for _, item in out]), both_days)


def test_bars_close_at_their_time_and_none_is_opened_again(
    server: Server, tmp_path: Path, both_days: Block, recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With no lateness allowed at all; those of the recordings, in order of arrival, are the same."""
    monkeypatch.setattr(module, "_CHUNK", 1 << 15)
    end = int(both_days["time"].max()) + 60 * SECOND

    def bars_of(items: Sequence[Trades], lateness: int) -> Block:
        logic = BarLogic(None, symbols=SYMBOLS, timeframes=(SECOND, 60 * SECOND), lateness=lateness)
        out, _ = logic.on_batch([*items, Trades(np.empty(0, TRADE), end + lateness, np.empty(0, GAP))])
        bars = np.concatenate([rows for table, rows in out if table == "bars"])
        bars = bars[bars["open_time"] < end - 60 * SECOND]
        ordered: Block = bars[np.argsort(bars[["timeframe", "open_time", "symbol"]], kind="stable")]
        return ordered

    items, _ = replay(source(server, tmp_path, last=NEXT, symbols=SYMBOLS))
    bars = bars_of(items[:-1], 0)
    assert len(bars) > 1_000
    assert (bars["version"] == 1).all()
    arrived = [Trades(recorded("spot"), 0, np.empty(0, GAP))]
    assert np.array_equal(bars, bars_of(arrived, 5 * SECOND))


def test_the_speed_is_that_of_the_market_when_asked_for(server: Server, tmp_path: Path) -> None:
    server.add(place("BTCUSDT", DAY), zipped(made(range(100))))  # 10 ms apart: 0.99 s
    archive = source(server, tmp_path, speed=2.0)
    began = time.monotonic()
    items, _ = replay(archive)
    assert time.monotonic() - began >= 0.495
    assert len(joined(items)) == 100
    assert len(items) > 3


def test_a_flow_that_is_stopped_goes_on_by_its_recovery_state(
    server: Server, tmp_path: Path, both_days: Block, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CHUNK", 1 << 15)
    store = tmp_path / "recovery"
    store.mkdir()
    init_db_dir(store, 1)  # type: ignore[no-untyped-call]
    out: list[tuple[str, Trades]] = []
    for most in (5_000, 20_000, 1_000_000):
        stop = threading.Event()
        flow = Dataflow("archive")
        stream = op.input("in", flow, source(server, tmp_path, last=NEXT, symbols=SYMBOLS, stop=stop))

        def count(item: tuple[str, Trades], stop: threading.Event = stop, most: int = most) -> Any:
            if sum(len(before.trades) for _, before in out) > most:
                stop.set()
            return item

        op.output("out", op.map("count", stream, count), TestingSink(out))
        run_main(flow, epoch_interval=timedelta(0), recovery_config=RecoveryConfig(store))  # type: ignore[no-untyped-call]
        assert stop.is_set() == (most < len(both_days))
    assert np.array_equal(joined([item for _, item in out]), both_days)


def test_ids_that_no_file_has_are_a_gap_right_before_the_next_trade(server: Server, tmp_path: Path) -> None:
    ids = [i for i in range(1, 2_000) if i not in (500, 501, 502, 900)]
    server.add(place("BTCUSDT", DAY), zipped(made(ids)))
    server.add(place("BTCUSDT", NEXT), zipped(made(range(2_010, 2_100), day=NEXT)))
    server.add(place("ETHUSDT", DAY), zipped(made(range(1, 2_000), start=5)))
    server.add(place("ETHUSDT", NEXT), zipped(made(range(2_000, 2_100), day=NEXT)))
    archive = source(server, tmp_path, last=NEXT, symbols=SYMBOLS)
    items, _ = replay(archive)
    assert all_gaps(items) == [(500, 502), (900, 900), (2_000, 2_009)]
    for item in items:
        if len(item.gaps):
            assert item.gaps["symbol"].tolist() == [0]
            assert item.trades["symbol"][0] == 0
            assert item.trades["id"][0] == item.gaps["last_id"][0] + 1
            assert item.gaps["detected"][0] == item.gaps["repaired"][0] == item.trades["time"][0]
            assert item.gaps["restored"][0] == 0
    assert archive.status.missing == 14
    trades = joined(items)
    assert (np.diff(trades["time"]) >= 0).all()


def test_a_gap_is_told_once_when_the_replay_is_resumed(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CHUNK", 1 << 12)
    ids = [i for i in range(1, 3_000) if i % 300]
    server.add(place("BTCUSDT", DAY), zipped(made(ids)))
    whole, _ = replay(source(server, tmp_path))
    gaps = all_gaps(whole)
    assert gaps == [(i, i) for i in range(300, 3_000, 300)]
    for stop_after in range(100, 3_000, 250):
        first, state = replay(source(server, tmp_path), until=lambda n, m=stop_after: n >= m)  # type: ignore[misc]
        second, _ = replay(source(server, tmp_path), state)
        assert all_gaps([*first, *second]) == gaps
        assert np.array_equal(joined([*first, *second]), joined(whole))


def test_a_file_that_holds_everything_twice_counts_once(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CHUNK", 1 << 12)
    ids = [*range(1, 1_001), *range(1, 1_001)]
    server.add(place("BTCUSDT", DAY), zipped(made(ids)))
    archive = source(server, tmp_path)
    items, _ = replay(archive)
    assert joined(items)["id"].tolist() == list(range(1, 1_001))
    assert archive.status.duplicates == 1_000
    assert not all_gaps(items)


def test_two_ranges_of_ids_in_turns_are_sorted(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As in BTCUSDT-aggTrades of futures, 2023-10: each second line is of another range of ids.
    monkeypatch.setattr(module, "_CHUNK", 1 << 12)
    ids = [i for pair in zip(range(1, 2_001), range(2_001, 4_001), strict=True) for i in pair]
    server.add(place("BTCUSDT", DAY), zipped(made(ids)))
    items, _ = replay(source(server, tmp_path))
    assert joined(items)["id"].tolist() == list(range(1, 4_001))
    assert (np.diff(joined(items)["time"]) >= 0).all()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), chunk=st.sampled_from([100, 300, 2_000, 1 << 20]))
def test_any_disorder_duplicates_and_holes_give_each_id_once_in_order_or_a_gap(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, chunk: int
) -> None:
    days = (DAY, NEXT)
    kept = [data.draw(st.sets(st.integers(1 + 60 * i, 60 + 60 * i), min_size=1)) for i in range(2)]
    files = []
    for day, ids in zip(days, kept, strict=True):
        rows = data.draw(st.permutations(sorted(ids))) if data.draw(st.booleans()) else sorted(ids)
        extra = data.draw(st.lists(st.sampled_from(sorted(ids)), max_size=8))
        at = data.draw(st.integers(0, len(rows)))
        rows = [*rows[:at], *extra, *rows[at:]]
        if day == DAY:  # what follows upon the first row is known by its id; what is before it is not
            rows = [min(ids), *rows]
        files.append(rows)
    folder = tmp_path_factory.mktemp("folder")
    for day, rows in zip(days, files, strict=True):
        path = folder / place("BTCUSDT", day)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(zipped(made(rows, day=day)))
    with pytest.MonkeyPatch.context() as patch, capture_logs():
        patch.setattr(module, "_CHUNK", chunk)
        patch.setattr(module, "_LEAST_CHUNK", chunk)
        archive = ArchiveSource(*days, ["BTCUSDT"], market="spot", stream="trade", folder=folder)
        items, _ = replay(archive)
        there = sorted(kept[0] | kept[1])
        assert joined(items)["id"].tolist() == there
        lost = {i for first, last in all_gaps(items) for i in range(first, last + 1)}
        assert lost == set(range(there[0], there[-1] + 1)) - set(there)
        assert archive.status.duplicates == sum(map(len, files)) - len(there)
        at = data.draw(st.integers(0, len(there)))
        first, state = replay(archive, until=lambda n: n >= at)
        second, _ = replay(archive, state)
        assert np.array_equal(joined([*first, *second]), joined(items))
        assert all_gaps([*first, *second]) == all_gaps(items)


def test_ids_that_begin_anew_are_told(server: Server, tmp_path: Path) -> None:
    server.add(place("BTCUSDT", DAY), zipped(made(range(1_000, 2_000))))
    server.add(place("BTCUSDT", NEXT), zipped(made(range(100), day=NEXT)))
    archive = source(server, tmp_path, last=NEXT)
    with capture_logs() as logs:
        items, _ = replay(archive)
    assert len(joined(items)) == 1_000
    assert archive.status.duplicates == 100
    assert sum("anew" in log["event"] for log in logs) == 1


def test_rows_too_far_out_of_order_leave_a_gap_not_an_endless_wait(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CHUNK", 1 << 12)
    monkeypatch.setattr(module, "_LEAST_CHUNK", 1 << 12)
    monkeypatch.setattr(module, "_MOST_WAITING", 500)
    server.add(place("BTCUSDT", DAY), zipped(made([1, *range(3, 2_000), 2])))
    with capture_logs() as logs:
        items, _ = replay(source(server, tmp_path))
    assert joined(items)["id"].tolist() == [1, *range(3, 2_000)]
    assert all_gaps(items) == [(2, 2)]
    assert any("too far out of order" in log["event"] for log in logs)


number = st.one_of(
    st.decimals(0, 10**9, places=8, allow_nan=False, allow_infinity=False).map(lambda d: f"{d:f}"),
    st.decimals(0, 10**17, places=12, allow_nan=False, allow_infinity=False).map(lambda d: f"{d:f}"),
    st.floats(0, 1e25, allow_subnormal=False).map(repr),
    st.sampled_from(["0", "0.00000000", "1000000000.00000000", "9007199254740993", "5e-8", "00012.50"]),
)


@given(st.lists(st.tuples(number, number), min_size=1, max_size=20))
def test_numbers_are_those_that_python_reads(numbers: list[tuple[str, str]]) -> None:
    text = "".join(f"{i},{p},{q},0.1,1723161255208,False,True\r\n" for i, (p, q) in enumerate(numbers))
    rows, malformed = module._parse_text(text.encode(), "trade")
    assert malformed == []
    assert rows["price"].tobytes() == np.array([float(p) for p, _ in numbers]).tobytes()
    assert rows["quantity"].tobytes() == np.array([float(q) for _, q in numbers]).tobytes()
    assert rows["in_bars"].tolist() == [float(p) != 0 for p, _ in numbers]


@settings(max_examples=300)
@given(
    st.sampled_from(["trade", "aggTrade"]),
    st.lists(
        st.tuples(
            st.sampled_from(
                [b"7,1.50,0.2,8,1723161255208,True,False", b"7,1.5,2,8,9,1723161255208123,false"]
            ),
            st.integers(0, 45),
            st.integers(0, 3),
            st.binary(max_size=3) | st.text('0123456789.,-eTrueFalse\r"', max_size=3).map(str.encode),
        ),
        max_size=8,
    ),
)
def test_a_damaged_line_is_read_by_the_compiled_pass_as_by_a_plain_one(
    stream: str, damages: list[tuple[bytes, int, int, bytes]]
) -> None:
    lines = [line[:at] + extra + line[at + gone :] for line, at, gone, extra in damages]
    lines = [part for line in lines for part in line.split(b"\n") if part]
    rows, malformed = module._parse_text(b"".join(line + b"\n" for line in lines), stream)
    plain = [module._parse_slowly(line, stream) for line in lines]
    assert rows.tolist() == [row for row in plain if row is not None]
    assert malformed == [line for line, row in zip(lines, plain, strict=True) if row is None]


@pytest.mark.parametrize(
    "line",
    [
        "x,1.0,1.0,1.0,1723161255208,True,True",
        "5,1.0,1.0,1.0,1723161255208,yes,True",
        "5,1.0,1.0,1.0,1723161255208",
        "5,1.0,1.0,1.0,1723161255208,True,True,True",
        "5,nan,1.0,1.0,1723161255208,True,True",
        "5,1.0.0,1.0,1.0,1723161255208,True,True",
        "5,1.0,1e999,1.0,1723161255208,True,True",
        "5,1.0,-,1.0,1723161255208,True,True",
        "5,-1.0,1.0,1.0,1723161255208,True,True",
        "5,1.0,1.0,1.0,172316125520.8,True,True",
        "5,1.0,1.0,1.0,1723161255208,Trueish,True",
        "5,1.0,1.0,1.0,1523161255208,True,True",
        "\x005,1.0",
        ",,,,,,",
    ],
)
def test_a_line_that_is_no_trade_of_the_day_is_counted_and_its_id_missing(
    server: Server, tmp_path: Path, line: str
) -> None:
    text = made(range(1, 5)) + line + "\n" + made(range(6, 9))
    server.add(place("BTCUSDT", DAY), zipped(text))
    archive = source(server, tmp_path)
    with capture_logs() as logs:
        items, _ = replay(archive)
    assert joined(items)["id"].tolist() == [1, 2, 3, 4, 6, 7, 8]
    assert all_gaps(items) == [(5, 5)]
    assert archive.status.malformed == 1
    assert sum("no trades of the day" in log["event"] for log in logs) == 1


@pytest.mark.parametrize("text", ["", HEADERS["trades"] + "\n", "\n", made([1])[:-1]])
def test_a_day_with_few_or_no_trades_is_fine(server: Server, tmp_path: Path, text: str) -> None:
    server.add(place("BTCUSDT", DAY), zipped(text))
    items, _ = replay(source(server, tmp_path))
    assert joined(items)["id"].tolist() == ([1] if text.startswith("1,") else [])
    assert items[-1].watermark == ((DAY - date(1970, 1, 1)).days + 1) * DAY_US


def test_a_file_of_another_kind_says_what_was_expected(server: Server, tmp_path: Path) -> None:
    server.add(place("BTCUSDT", DAY), zipped(made(range(9))))
    server.add(place("BTCUSDT", DAY, "aggTrades"), zipped(made(range(9))))
    with pytest.raises(ArchiveError, match="expected lines of id, price, quantity, first id"):
        replay(source(server, tmp_path, stream="aggTrade"))


def test_files_of_the_folder_need_no_network(tmp_path: Path) -> None:
    path = tmp_path / place("BTCUSDT", DAY)
    path.parent.mkdir(parents=True)
    path.write_bytes(zipped(made(range(1, 100))))
    archive = ArchiveSource(
        DAY,
        DAY,
        ["BTCUSDT"],
        market="spot",
        stream="trade",
        folder=tmp_path,
        base_url="http://127.0.0.1:1",
    )
    items, _ = replay(archive)
    assert len(joined(items)) == 99
    assert sorted(p.name for p in path.parent.iterdir()) == [path.name]


def test_downloads_are_kept_with_their_checksum_and_used_again(server: Server, tmp_path: Path) -> None:
    server.add(place("BTCUSDT", DAY), zipped(made(range(1, 100))))
    replay(source(server, tmp_path))
    path = tmp_path / place("BTCUSDT", DAY)
    assert path.read_bytes() == server.files[place("BTCUSDT", DAY)]
    assert (tmp_path / (place("BTCUSDT", DAY) + ".CHECKSUM")).read_bytes() == server.files[
        place("BTCUSDT", DAY) + ".CHECKSUM"
    ]
    assert len(list(path.parent.iterdir())) == 2
    server.requests.clear()
    items, _ = replay(source(server, tmp_path))
    assert len(joined(items)) == 99
    assert server.requests == []


def test_a_kept_file_that_was_changed_is_downloaded_again(server: Server, tmp_path: Path) -> None:
    server.add(place("BTCUSDT", DAY), zipped(made(range(1, 100))))
    replay(source(server, tmp_path))
    path = tmp_path / place("BTCUSDT", DAY)
    path.write_bytes(path.read_bytes()[:-50])
    with capture_logs() as logs:
        items, _ = replay(source(server, tmp_path))
    assert len(joined(items)) == 99
    assert any("checksum" in log["event"] for log in logs)


def test_a_broken_download_goes_on_where_it_stopped(server: Server, tmp_path: Path) -> None:
    data = zipped(made(range(1, 20_000)))
    server.add(place("BTCUSDT", DAY), data)
    server.cut[place("BTCUSDT", DAY)] = [1_000, 0, 2_000]
    server.status[place("BTCUSDT", DAY) + ".CHECKSUM"] = [503, 429]
    with capture_logs():
        items, _ = replay(source(server, tmp_path))
    assert len(joined(items)) == 19_999
    assert server.got(place("BTCUSDT", DAY)) == ["", "bytes=1000-", "bytes=1000-", "bytes=3000-"]


@pytest.mark.parametrize("there", [0, 777, -1])
def test_a_part_of_an_earlier_run_is_continued(server: Server, tmp_path: Path, there: int) -> None:
    data = zipped(made(range(1, 20_000)))
    server.add(place("BTCUSDT", DAY), data)
    there = there if there >= 0 else len(data)
    part = tmp_path / (place("BTCUSDT", DAY) + ".part")
    part.parent.mkdir(parents=True)
    part.write_bytes(data[:there])
    items, _ = replay(source(server, tmp_path))
    assert len(joined(items)) == 19_999
    assert server.got(place("BTCUSDT", DAY)) == ([f"bytes={there}-"] if there else [""])


def test_a_server_that_knows_no_ranges_sends_all_again(server: Server, tmp_path: Path) -> None:
    server.add(place("BTCUSDT", DAY), zipped(made(range(1, 20_000))))
    server.cut[place("BTCUSDT", DAY)] = [1_000]
    server.ranges = False
    with capture_logs():
        items, _ = replay(source(server, tmp_path))
    assert len(joined(items)) == 19_999
    assert server.got(place("BTCUSDT", DAY)) == ["", "bytes=1000-"]


@pytest.mark.parametrize("size", [500, 1_000_000])
def test_a_part_of_another_file_is_found_out(server: Server, tmp_path: Path, size: int) -> None:
    server.add(place("BTCUSDT", DAY), zipped(made(range(1, 20_000))))
    part = tmp_path / (place("BTCUSDT", DAY) + ".part")
    part.parent.mkdir(parents=True)
    part.write_bytes(bytes(size))
    with capture_logs():
        items, _ = replay(source(server, tmp_path))
    assert len(joined(items)) == 19_999
    assert server.got(place("BTCUSDT", DAY)) == [f"bytes={size}-", ""]


def test_a_wrong_checksum_is_an_error_only_the_second_time(server: Server, tmp_path: Path) -> None:
    path = place("BTCUSDT", DAY)
    server.add(path, zipped(made(range(1, 100))))
    server.files[path + ".CHECKSUM"] = b"0" * 64 + b"  x.zip\n"
    with capture_logs() as logs, pytest.raises(ArchiveError, match="published checksum") as error:
        replay(source(server, tmp_path))
    assert "\n" not in str(error.value)
    assert len(server.got(path)) == 2
    assert sum("wrong checksum" in log["event"] for log in logs) == 1
    assert not (tmp_path / path).exists()


def test_a_file_without_a_published_checksum_is_used_with_a_warning(server: Server, tmp_path: Path) -> None:
    server.files[place("BTCUSDT", DAY)] = zipped(made(range(1, 100)))
    with capture_logs() as logs:
        items, _ = replay(source(server, tmp_path))
    assert len(joined(items)) == 99
    assert any("no checksum is published" in log["event"] for log in logs)


def test_a_day_that_is_not_published_yet_says_so_before_anything_is_downloaded(
    server: Server, tmp_path: Path
) -> None:
    today = datetime.now(UTC).date()
    yesterday = today - timedelta(days=1)
    for symbol in SYMBOLS:
        server.add(place(symbol, yesterday), zipped(made(range(9), day=yesterday)))
    server.add(place("BTCUSDT", today), zipped(made(range(9, 20), day=today)))
    with pytest.raises(ArchiveError, match=f"no trades of ETHUSDT .* for {today} yet: .* next day"):
        source(server, tmp_path, first=yesterday, last=today, symbols=SYMBOLS)
    assert not list(tmp_path.iterdir())


def test_a_symbol_that_the_archive_does_not_have_is_named(server: Server, tmp_path: Path) -> None:
    server.add(place("BTCUSDT", DAY), zipped(made(range(9))))
    with pytest.raises(ArchiveError, match=r"no trades of TYPOUSDT \(spot\) for 2024-08-08: expected"):
        source(server, tmp_path, symbols=["BTCUSDT", "TYPOUSDT"])


def test_a_missing_day_between_others_is_a_gap(server: Server, tmp_path: Path) -> None:
    last = DAY + timedelta(days=2)
    server.add(place("BTCUSDT", DAY), zipped(made(range(1, 100))))
    server.add(place("BTCUSDT", last), zipped(made(range(200, 300), day=last)))
    with capture_logs() as logs:
        items, _ = replay(source(server, tmp_path, last=last))
    assert all_gaps(items) == [(100, 199)]
    assert [log["day"] for log in logs if "no file of this day" in log["event"]] == [str(NEXT)]


@pytest.mark.parametrize("text", [None, "", "id,price\n"])
def test_a_symbol_that_rests_for_days_holds_nobody_up(
    server: Server, tmp_path: Path, text: str | None
) -> None:
    days = [DAY + timedelta(days=i) for i in range(5)]
    for i, day in enumerate(days):
        server.add(place("BTCUSDT", day), zipped(made(range(10 * i, 10 * i + 10), day=day)))
    for day in days[1:4]:
        if text is not None:
            server.add(place("ETHUSDT", day), zipped(text))
    server.add(place("ETHUSDT", days[0]), zipped(made(range(10))))
    server.add(place("ETHUSDT", days[4]), zipped(made(range(10, 20), day=days[4])))
    with capture_logs():
        items, _ = replay(source(server, tmp_path, last=days[4], symbols=SYMBOLS))
    trades = joined(items)
    assert trades["id"][trades["symbol"] == 0].tolist() == list(range(50))
    assert trades["id"][trades["symbol"] == 1].tolist() == list(range(20))
    assert (np.diff(trades["time"]) >= 0).all()


def test_without_network_there_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BACKOFF", 0.01)
    nowhere = "http://127.0.0.1:1"
    with capture_logs() as logs, pytest.raises(ArchiveError, match="check the network, or put the") as error:
        ArchiveSource(DAY, DAY, ["BTCUSDT"], market="spot", stream="trade", folder=tmp_path, base_url=nowhere)
    assert "\n" not in str(error.value)
    assert str(tmp_path / place("BTCUSDT", DAY)) in str(error.value)
    assert {log["event"] for log in logs} == {"download interrupted; trying again"}


def test_a_refusal_is_not_tried_again(server: Server, tmp_path: Path) -> None:
    server.add(place("BTCUSDT", DAY), zipped(made(range(9))))
    server.status[place("BTCUSDT", DAY)] = [451] * 9
    with pytest.raises(ArchiveError, match=r"refuses .* 451"):
        source(server, tmp_path)
    assert len(server.requests) == 1


def test_a_full_disk_is_told(server: Server, tmp_path: Path) -> None:
    server.add(place("BTCUSDT", DAY), zipped(made(range(1, 20_000))))
    part = tmp_path / (place("BTCUSDT", DAY) + ".part")
    part.parent.mkdir(parents=True)
    part.symlink_to("/dev/full")
    with pytest.raises(ArchiveError, match="No space left on device; free some space"):
        replay(source(server, tmp_path))


def test_a_folder_that_is_none_is_told(server: Server, tmp_path: Path) -> None:
    server.add(place("BTCUSDT", DAY), zipped(made(range(9))))
    (tmp_path / "data").write_text("")
    with pytest.raises(ArchiveError, match=r"cannot write .* choose another folder"):
        replay(source(server, tmp_path))


@pytest.mark.parametrize("damage", ["cut", "flipped", "text", "two"])
def test_a_damaged_file_says_what_to_do(server: Server, tmp_path: Path, damage: str) -> None:
    data = bytearray(zipped(made(range(1, 20_000))))
    if damage == "cut":
        del data[len(data) // 2 :]
    elif damage == "flipped":
        data[len(data) // 2] ^= 0xFF
    elif damage == "text":
        data[:] = b"<html>"
    else:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("a.csv", "")
            archive.writestr("b.csv", "")
        data[:] = file.getvalue()
    path = tmp_path / place("BTCUSDT", DAY)
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    with capture_logs(), pytest.raises(ArchiveError, match=str(path)) as error:
        replay(source(server, tmp_path))
    assert "\n" not in str(error.value)


def test_two_replays_share_one_download(server: Server, tmp_path: Path) -> None:
    path = place("BTCUSDT", DAY)
    server.add(path, zipped(made(range(1, 50_000))))
    server.slow.add(path)
    partitions = [source(server, tmp_path).build_part("step", "archive", None) for _ in range(2)]
    time.sleep(0.2)
    server.released.set()
    for partition in partitions:
        assert len(joined(drain(partition))) == 49_999
    assert server.got(path) == [""]


def test_days_are_downloaded_one_ahead_of_the_replay_and_no_more(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CHUNK", 1 << 12)
    days = [DAY + timedelta(days=i) for i in range(4)]
    for i, day in enumerate(days):
        server.add(place("BTCUSDT", day), zipped(made(range(i * 1_000, i * 1_000 + 1_000), day=day)))
    archive = source(server, tmp_path, last=days[-1])
    partition = archive.build_part("step", "archive", None)
    while not partition.next_batch():
        pass
    time.sleep(0.4)
    assert server.got(place("BTCUSDT", days[1])) == [""]
    assert server.got(place("BTCUSDT", days[2])) == []
    partition.close()
    items, _ = replay(archive)
    assert joined(items)["id"].tolist() == list(range(4_000))
    assert archive.status.done


def test_a_stop_ends_it_at_once_even_in_a_download(server: Server, tmp_path: Path) -> None:
    stop = threading.Event()
    path = place("BTCUSDT", DAY)
    server.add(path, zipped(made(range(1, 50_000))))
    server.slow.add(path)
    archive = source(server, tmp_path, stop=stop)
    partition = archive.build_part("step", "archive", None)
    deadline = time.monotonic() + 10
    while not archive.status.downloading and time.monotonic() < deadline:
        assert partition.next_batch() == []
    have, total = archive.status.downloading[path.rpartition("/")[2]]
    assert 0 < have < total == len(server.files[path])
    stop.set()
    began = time.monotonic()
    with pytest.raises(StopIteration):
        partition.next_batch()
    assert partition.snapshot() == {}
    partition.close()
    assert time.monotonic() - began < 5  # the server would go on in 10
    assert (tmp_path / (path + ".part")).stat().st_size == have


@pytest.mark.parametrize(("name", "value"), [("market", "coinm"), ("stream", "trades")])
def test_an_unknown_market_or_stream_is_named(tmp_path: Path, name: str, value: str) -> None:
    options: dict[str, Any] = {"market": "spot", "stream": "trade", "folder": tmp_path} | {name: value}
    with pytest.raises(ValueError, match=f"unknown {name} '{value}'"):
        ArchiveSource(DAY, DAY, ["BTCUSDT"], **options)


def test_days_in_the_wrong_order_are_told(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="earlier day first"):
        ArchiveSource(NEXT, DAY, ["BTCUSDT"], market="spot", stream="trade", folder=tmp_path)
