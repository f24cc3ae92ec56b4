"""The live feed against an exchange on the loop-back interface: real sockets, real frames, real faults."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import orjson
import pytest
from aiohttp import WSMsgType, web
from structlog.testing import capture_logs

from connectors.binance.stream import BinanceSource, Endpoints, default_endpoints
from kernels.records import GAP, GAP_CAUSES, GAP_REPAIRS, TRADE, Trades

REST, UNAVAILABLE = GAP_REPAIRS.index("rest"), GAP_REPAIRS.index("unavailable")


class Exchange:
    """A small exchange: a thread with HTTP and WebSocket on one port, driven by the test."""

    def __init__(self) -> None:
        self.history: dict[str, list[dict[str, Any]]] = {}
        self.sockets: dict[web.WebSocketResponse, list[str]] = {}
        self.requests: list[str] = []
        self.listed = ["AAAUSDT", "BBBUSDT"]
        self.refuse = False
        self.rest_status = 200
        self.clock = 0  # us that this exchange is ahead
        self.loop = asyncio.new_event_loop()
        self.port = 0
        self._thread = threading.Thread(target=self._run)
        self._started = threading.Event()
        self._thread.start()
        self._started.wait()

    @property
    def endpoints(self) -> Endpoints:
        return Endpoints((f"ws://127.0.0.1:{self.port}",), (f"http://127.0.0.1:{self.port}",))

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        app = web.Application()
        app.router.add_get("/stream", self._stream)
        app.router.add_get("/api/v3/{path}", self._rest)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        self.loop.run_until_complete(self._runner.setup())
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        self.loop.run_until_complete(site.start())
        self.port = self._runner.addresses[0][1]
        self._started.set()
        self.loop.run_forever()
        self.loop.run_until_complete(self._runner.cleanup())
        self.loop.close()

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()

    def call(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(10)

    async def _stream(self, request: web.Request) -> web.WebSocketResponse:
        if self.refuse:
            raise web.HTTPServiceUnavailable
        socket = web.WebSocketResponse(compress=False)
        await socket.prepare(request)
        self.sockets[socket] = request.query["streams"].split("/")
        try:
            async for message in socket:
                if message.type == WSMsgType.TEXT:
                    body = orjson.loads(message.data)
                    self.sockets[socket] += body["params"]
                    await socket.send_json({"result": None, "id": body["id"]})
        finally:
            self.sockets.pop(socket, None)
        return socket

    async def _rest(self, request: web.Request) -> web.Response:
        self.requests.append(str(request.rel_url))
        if self.rest_status != 200:
            return web.json_response({"code": -1, "msg": "no"}, status=self.rest_status)
        path = request.match_info["path"]
        if path == "time":
            return web.json_response({"serverTime": time.time_ns() // 1000 + self.clock})
        if path == "exchangeInfo":
            return web.json_response(
                {"symbols": [{"symbol": name, "status": "TRADING"} for name in self.listed]}
            )
        first = int(request.query["fromId"])
        rows = [t for t in self.history.get(request.query["symbol"], []) if t["t"] >= first][:1000]
        body = [
            {"id": t["t"], "price": t["p"], "qty": t["q"], "time": t["T"], "isBuyerMaker": t["m"]}
            for t in rows
        ]
        return web.json_response(body)

    def trade(self, symbol: str, *ids: int, send: bool = True, known: bool = True) -> None:
        """Let trades happen: remembered for REST (``known``), sent to whoever subscribed (``send``)."""
        now = time.time_ns() // 1000 + self.clock
        frames = []
        for id_ in ids:
            trade = {"e": "trade", "E": now, "s": symbol, "t": id_, "p": "1.5", "q": "2", "T": now, "m": True}
            trade["M"] = True
            if known:
                self.history.setdefault(symbol, []).append(trade)
            name = f"{symbol.lower()}@trade"
            frames.append((name, orjson.dumps({"stream": name, "data": trade}).decode()))

        async def broadcast() -> None:
            for socket, streams in list(self.sockets.items()):
                for name, frame in frames:
                    if name in streams:
                        await socket.send_str(frame)

        if send:
            self.call(broadcast())

    def drop(self) -> None:
        """Cut all connections without a word."""

        async def cut() -> None:
            for socket in list(self.sockets):
                assert socket._req is not None
                assert socket._req.transport is not None
                socket._req.transport.abort()

        self.call(cut())


class Reader:
    """Polls a partition as the dataflow does and keeps what it gave."""

    def __init__(self, source: BinanceSource, resume: Any = None) -> None:
        self.partition = source.build_part("trades", "0", resume)
        self.blocks: list[Trades] = []

    def until(self, condition: Callable[[], bool], timeout: float = 10.0) -> None:
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                msg = f"timed out; trades {self.ids()}, gaps {self.gaps()}"
                raise TimeoutError(msg)
            for key, trades in self.partition.next_batch():
                assert key == "0"
                self.blocks.append(trades)
            time.sleep(0.001)

    def wait_for(self, *ids: int, symbol: int = 0) -> None:
        self.until(lambda: len(self.ids(symbol)) >= len(ids))
        assert self.ids(symbol) == list(ids)

    def ids(self, symbol: int = 0) -> list[int]:
        trades = np.concatenate([np.empty(0, TRADE), *(block.trades for block in self.blocks)])
        return [int(id_) for id_ in trades["id"][trades["symbol"] == symbol]]

    def gaps(self) -> list[tuple[int, int, str, str, int]]:
        rows = np.concatenate([np.empty(0, GAP), *(block.gaps for block in self.blocks)])
        return [
            (
                int(row["first_id"]),
                int(row["last_id"]),
                GAP_CAUSES[row["cause"]],
                GAP_REPAIRS[row["repair"]],
                int(row["restored"]),
            )
            for row in rows
        ]


@pytest.fixture
def exchange() -> Iterator[Exchange]:
    exchange = Exchange()
    yield exchange
    exchange.close()


@pytest.fixture
def readers() -> Iterator[list[Reader]]:
    readers: list[Reader] = []
    yield readers
    for reader in readers:
        reader.partition.close()


def start(
    exchange: Exchange, readers: list[Reader], symbols: list[str], resume: Any = None, **options: Any
) -> Reader:
    options.setdefault("endpoints", exchange.endpoints)
    source = BinanceSource(symbols, stop=threading.Event(), **options)
    reader = Reader(source, resume)
    readers.append(reader)
    return reader


def connected(exchange: Exchange, count: int = 1) -> Callable[[], bool]:
    return lambda: len(exchange.sockets) == count


def test_trades_come_in_order_from_the_first_live_one(exchange: Exchange, readers: list[Reader]) -> None:
    reader = start(exchange, readers, ["AAAUSDT", "BBBUSDT"])
    reader.until(connected(exchange))
    exchange.trade("AAAUSDT", 7, 8)
    exchange.trade("BBBUSDT", 100)
    exchange.trade("AAAUSDT", 9)
    reader.wait_for(7, 8, 9)
    reader.wait_for(100, symbol=1)
    assert reader.gaps() == []


def test_a_lost_connection_is_healed_by_rest_in_order(exchange: Exchange, readers: list[Reader]) -> None:
    reader = start(exchange, readers, ["AAAUSDT"])
    reader.until(connected(exchange))
    exchange.trade("AAAUSDT", 1, 2)
    reader.wait_for(1, 2)
    exchange.refuse = True
    exchange.drop()
    reader.until(connected(exchange, 0))
    exchange.trade("AAAUSDT", *range(3, 1500))
    exchange.refuse = False
    reader.until(connected(exchange))
    exchange.trade("AAAUSDT", 1500, 1501)
    reader.wait_for(*range(1, 1502))
    reader.until(lambda: len(reader.gaps()) >= 2)
    assert reader.gaps() == [
        (3, 1499, "disconnect", "open", 0),
        (3, 1499, "disconnect", "rest", 1497),
    ]


def test_a_restart_goes_on_behind_what_was_handed_out(exchange: Exchange, readers: list[Reader]) -> None:
    first = start(exchange, readers, ["AAAUSDT", "BBBUSDT"])
    first.until(connected(exchange))
    exchange.trade("AAAUSDT", 1, 2)
    first.wait_for(1, 2)
    exchange.trade("AAAUSDT", 3)  # received, perhaps, but never handed out
    state = first.partition.snapshot()
    assert state["last_ids"] == {"AAAUSDT": 2}
    first.partition.close()
    exchange.trade("AAAUSDT", 4, send=False)
    second = start(exchange, readers, ["BBBUSDT", "AAAUSDT"], state)
    second.wait_for(3, 4, symbol=1)
    exchange.trade("AAAUSDT", 5)
    second.wait_for(3, 4, 5, symbol=1)
    second.until(lambda: len(second.gaps()) >= 2)
    assert second.gaps() == [(3, 4, "restart", "open", 0), (3, 4, "restart", "rest", 2)]


def test_the_thread_ends_and_the_stop_is_graceful(exchange: Exchange, readers: list[Reader]) -> None:
    stop = threading.Event()
    reader = Reader(BinanceSource(["AAAUSDT"], endpoints=exchange.endpoints, stop=stop))
    reader.until(connected(exchange))
    stop.set()
    with pytest.raises(StopIteration):
        reader.partition.next_batch()
    reader.partition.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "binance-feed"]


def test_without_a_network_one_line_says_so(readers: list[Reader]) -> None:
    nowhere = Endpoints(("ws://127.0.0.1:9",), ("http://127.0.0.1:9",))
    with capture_logs() as logs:
        reader = Reader(BinanceSource(["AAAUSDT"], endpoints=nowhere, stop=threading.Event()))
        readers.append(reader)
        until = time.monotonic() + 1.5
        reader.until(lambda: time.monotonic() > until)
    warnings = [log["event"] for log in logs if log["log_level"] == "warning"]
    assert len(warnings) == 1
    assert "make demo" in warnings[0]
    assert reader.blocks == []


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="unknown stream 'kline'"):
        BinanceSource(["AAAUSDT"], stream="kline", stop=threading.Event())
    with pytest.raises(ValueError, match="at least one symbol"):
        BinanceSource([], stop=threading.Event())
    with pytest.raises(ValueError, match="unknown market 'coinm'"):
        default_endpoints("coinm")
