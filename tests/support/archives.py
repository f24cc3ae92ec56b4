"""Archives served over HTTP on the loop-back interface, and replays of them."""

import hashlib
import io
import threading
import time
import zipfile
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

from connectors.binance.archive import ArchiveSource
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


def place(symbol: str, day: date, kind: str = "trades", market: str = "spot") -> str:
    folder = {"spot": "data/spot/daily", "usdm": "data/futures/um/daily"}[market]
    return f"{folder}/{kind}/{symbol}/{symbol}-{kind}-{day}.zip"


def zipped(text: str | bytes) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("trades.csv", text)
    return data.getvalue()


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
