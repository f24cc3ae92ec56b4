"""The live feed against an exchange on the loop-back interface: real sockets, real frames, real faults."""

import asyncio
import base64
import contextlib
import hashlib
import pickle
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import bytewax.operators as op
import numpy as np
import orjson
import pytest
from aiohttp import WSMsgType, web
from bytewax.dataflow import Dataflow
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import TestingSink, run_main
from structlog.testing import capture_logs
from websockets.exceptions import InvalidURI

from connectors.binance import feed, stream
from connectors.binance.stream import BinanceSource, Endpoints, default_endpoints
from connectors.simulator import Config, Simulator
from kernels.records import GAP, GAP_CAUSES, GAP_REPAIRS, TRADE, Trades


class Exchange:
    """A small exchange: a thread with HTTP and WebSocket on one port, driven by the test."""

    def __init__(self) -> None:
        self.history: dict[str, list[dict[str, Any]]] = {}
        self.sockets: dict[web.WebSocketResponse, list[str]] = {}
        self.requests: list[str] = []
        self.listed = ["AAAUSDT", "BBBUSDT"]
        self.refuse = False
        self.mute = False
        self.pings = 0
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
        """Where it listens."""
        return Endpoints((f"ws://127.0.0.1:{self.port}",), (f"http://127.0.0.1:{self.port}",))

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        app = web.Application()
        app.router.add_get("/stream", self._stream)
        app.router.add_get("/api/v3/{path}", self._rest)
        app.router.add_get("/fapi/v1/{path}", self._rest)
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
        """End the thread."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()

    def call(self, coroutine: Any) -> Any:
        """Run a coroutine in the exchange's thread."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(10)

    async def _stream(self, request: web.Request) -> web.WebSocketResponse:
        if self.refuse:
            raise web.HTTPServiceUnavailable
        socket = web.WebSocketResponse(compress=False, autoping=False)
        await socket.prepare(request)
        self.sockets[socket] = request.query["streams"].split("/")
        try:
            async for message in socket:
                if message.type == WSMsgType.PING:
                    self.pings += 1
                    if not self.mute:
                        await socket.pong(message.data)
                elif message.type == WSMsgType.TEXT:
                    body = orjson.loads(message.data)
                    self.sockets[socket] += body["params"]
                    await socket.send_json({"result": None, "id": body["id"]})
        finally:
            self.sockets.pop(socket, None)
        return socket

    async def _rest(self, request: web.Request) -> web.Response:
        self.requests.append(str(request.rel_url))
        if self.rest_status != 200:
            headers = {"Retry-After": "2"}
            return web.json_response({"code": -1, "msg": "no"}, status=self.rest_status, headers=headers)
        path = request.match_info["path"]
        if path == "time":
            return web.json_response({"serverTime": time.time_ns() // 1000 + self.clock})
        if path == "exchangeInfo":
            return web.json_response(
                {"symbols": [{"symbol": name, "status": "TRADING"} for name in self.listed]}
            )
        if "/fapi/" in request.path and path == "historicalTrades":
            return web.json_response({"code": -2014, "msg": "API-key format invalid."}, status=401)
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

    def say(self, text: str) -> None:
        """Send a message to every connection."""

        async def send() -> None:
            for socket in list(self.sockets):
                await socket.send_str(text)

        self.call(send())

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
        self.status = source.status
        self.blocks: list[Trades] = []

    def until(self, condition: Callable[[], bool], timeout: float = 10.0) -> None:
        """Poll until something is so."""
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
        """Poll until so many trades of a symbol came; they must be these."""
        self.until(lambda: len(self.ids(symbol)) >= len(ids))
        assert self.ids(symbol) == list(ids)

    def ids(self, symbol: int = 0) -> list[int]:
        """Return the ids of a symbol that came so far."""
        trades = np.concatenate([np.empty(0, TRADE), *(block.trades for block in self.blocks)])
        return [int(id_) for id_ in trades["id"][trades["symbol"] == symbol]]

    def poll_for(self, seconds: float) -> None:
        """Poll for a while."""
        until = time.monotonic() + seconds
        self.until(lambda: time.monotonic() > until)

    @property
    def watermark(self) -> int:
        """The last watermark that came, 0 before the first."""
        return self.blocks[-1].watermark if self.blocks else 0

    def gaps(self) -> list[tuple[int, int, str, str, int]]:
        """Return the gap rows that came so far: first id, last id, cause, repair, restored."""
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


def test_after_an_outage_quiet_and_busy_symbols_come_in_step(
    exchange: Exchange, readers: list[Reader]
) -> None:
    first = start(exchange, readers, ["AAAUSDT", "BBBUSDT"])
    first.until(connected(exchange))
    exchange.trade("AAAUSDT", 0)
    exchange.trade("BBBUSDT", 0)
    first.wait_for(0)
    first.wait_for(0, symbol=1)
    state = first.partition.snapshot()
    first.partition.close()
    # While nobody listened, AAA traded 4,000 times, BBB 40 times, over the same 8 s.
    began = exchange.history["AAAUSDT"][0]["T"]
    exchange.trade("AAAUSDT", *range(1, 4001), send=False)
    exchange.trade("BBBUSDT", *range(1, 41), send=False)
    for symbol, count in (("AAAUSDT", 4000), ("BBBUSDT", 40)):
        for trade in exchange.history[symbol][1:]:
            trade["T"] = began + trade["t"] * 8_000_000 // count
    second = start(exchange, readers, ["AAAUSDT", "BBBUSDT"], state)
    second.until(connected(exchange))
    exchange.clock = 8_100_000
    exchange.trade("BBBUSDT", 41)
    exchange.trade("AAAUSDT", 4001)
    half_way = None
    while len(second.ids()) < 4001:
        second.poll_for(0.002)
        if half_way is None and second.ids():
            half_way = second.partition.snapshot()["last_ids"]
    second.wait_for(*range(1, 4002))
    second.wait_for(*range(1, 42), symbol=1)
    times = np.concatenate([block.trades["time"] for block in second.blocks])
    assert (np.diff(times) >= 0).all()
    assert half_way is not None
    assert abs(half_way["AAAUSDT"] - 100 * half_way["BBBUSDT"]) <= 200


def test_a_pause_for_the_weight_limit_does_not_try_the_patience(
    exchange: Exchange, readers: list[Reader]
) -> None:
    first = start(exchange, readers, ["AAAUSDT", "BBBUSDT"])
    first.until(connected(exchange))
    exchange.trade("AAAUSDT", 1)
    exchange.trade("BBBUSDT", 1)
    first.wait_for(1)
    first.wait_for(1, symbol=1)
    state = first.partition.snapshot()
    first.partition.close()
    exchange.trade("AAAUSDT", 2, send=False)
    exchange.rest_status = 429
    second = start(exchange, readers, ["AAAUSDT", "BBBUSDT"], state, patience=0.5)
    second.until(connected(exchange))
    exchange.trade("BBBUSDT", 2)
    second.poll_for(1.3)
    exchange.rest_status = 200
    assert second.ids(1) == []
    second.wait_for(2)
    second.wait_for(2, symbol=1)
    symbols = np.concatenate([block.trades["symbol"] for block in second.blocks])
    assert symbols.tolist() == [0, 1]


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
        reader.poll_for(1.5)
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


def test_a_missing_id_holds_up_its_own_symbol_only(exchange: Exchange, readers: list[Reader]) -> None:
    reader = start(exchange, readers, ["AAAUSDT", "BBBUSDT"])
    reader.until(connected(exchange))
    exchange.trade("AAAUSDT", 1)
    reader.wait_for(1)
    exchange.rest_status = 503
    exchange.trade("AAAUSDT", 2, send=False)
    exchange.trade("AAAUSDT", 3)
    exchange.trade("BBBUSDT", 50, 51)
    reader.wait_for(50, 51, symbol=1)
    assert reader.ids() == [1]
    assert (reader.status.held, reader.status.open_gaps) == (1, 1)
    exchange.rest_status = 200
    reader.wait_for(1, 2, 3)
    reader.until(lambda: len(reader.gaps()) == 2)
    assert reader.gaps() == [(2, 2, "hole", "open", 0), (2, 2, "hole", "rest", 1)]
    assert reader.status.restored == 1


def test_ids_that_the_exchange_does_not_have_are_given_up(exchange: Exchange, readers: list[Reader]) -> None:
    reader = start(exchange, readers, ["AAAUSDT"])
    reader.until(connected(exchange))
    exchange.trade("AAAUSDT", 1)
    exchange.trade("AAAUSDT", 2, send=False)
    exchange.trade("AAAUSDT", 3, 4, send=False, known=False)
    exchange.trade("AAAUSDT", 5)
    reader.wait_for(1, 2, 5)
    reader.until(lambda: not reader.status.open_gaps)
    assert reader.gaps() == [
        (2, 4, "hole", "open", 0),
        (2, 2, "hole", "rest", 1),
        (3, 4, "hole", "unavailable", 0),
    ]
    assert reader.status.unavailable == 2


def test_what_cannot_be_had_without_a_key_is_given_up_and_life_goes_on(
    exchange: Exchange, readers: list[Reader]
) -> None:
    reader = start(exchange, readers, ["AAAUSDT"], market="usdm")
    reader.until(connected(exchange))
    with capture_logs() as logs:
        exchange.trade("AAAUSDT", 1, 2, 5)
        exchange.trade("AAAUSDT", 6, 8)
        reader.wait_for(1, 2, 5, 6, 8)
        reader.until(lambda: not reader.status.open_gaps)
    (reason,) = [log["reason"] for log in logs if log["log_level"] == "warning"]  # once, not for each gap
    assert "PAIRFLOW_STREAM=aggTrade" in reason
    assert [gap for gap in reader.gaps() if gap[3] != "open"] == [
        (3, 4, "hole", "unavailable", 0),
        (7, 7, "hole", "unavailable", 0),
    ]


@pytest.mark.parametrize(
    "message",
    [
        '{"e":"serverShutdown","E":1}',
        '{"stream":"!serverShutdown","data":{"e":"serverShutdown","E":1}}',
    ],
    ids=["raw", "combined"],
)
def test_the_next_connection_is_made_before_the_exchange_shuts_the_old_one(
    exchange: Exchange, readers: list[Reader], message: str
) -> None:
    reader = start(exchange, readers, ["AAAUSDT"])
    reader.until(connected(exchange))
    exchange.trade("AAAUSDT", 1)
    exchange.say(message)
    reader.until(connected(exchange, 2))
    exchange.trade("AAAUSDT", 2, 3)
    reader.wait_for(1, 2, 3)
    reader.until(lambda: reader.status.duplicates == 2)
    reader.until(connected(exchange, 1))
    exchange.trade("AAAUSDT", 4)
    reader.wait_for(1, 2, 3, 4)
    assert reader.gaps() == []
    assert reader.status.reconnections == 1


def test_a_connection_is_replaced_before_its_life_ends(exchange: Exchange, readers: list[Reader]) -> None:
    reader = start(exchange, readers, ["AAAUSDT"], life=0.5)
    reader.until(connected(exchange))
    id_ = 0
    while reader.status.reconnections < 3:
        id_ += 1
        exchange.trade("AAAUSDT", id_)
        reader.poll_for(0.02)
    reader.wait_for(*range(1, id_ + 1))
    assert reader.gaps() == []


def test_ids_out_of_order_between_two_connections_are_no_gap(
    exchange: Exchange, readers: list[Reader]
) -> None:
    reader = start(exchange, readers, ["AAAUSDT"])
    reader.until(connected(exchange))
    exchange.trade("AAAUSDT", 1)
    exchange.say('{"e":"serverShutdown","E":1}')
    reader.until(
        lambda: list(reader.status.connections.values()).count("live") == 1 and len(exchange.sockets) == 2
    )
    exchange.trade("AAAUSDT", 3)
    reader.poll_for(0.1)
    exchange.trade("AAAUSDT", 2)
    reader.wait_for(1, 2, 3)
    assert reader.gaps() == []


def test_a_silent_market_follows_the_clock_of_the_exchange(exchange: Exchange, readers: list[Reader]) -> None:
    exchange.clock = -1_300_000
    reader = start(exchange, readers, ["AAAUSDT"], grace=0.2)
    reader.until(connected(exchange))
    exchange.trade("AAAUSDT", 1)
    reader.wait_for(1)
    behind = reader.watermark
    reader.until(lambda: reader.watermark > behind + 1_000_000)
    now = time.time_ns() // 1000 + exchange.clock
    assert now - 2_000_000 < reader.watermark <= now - 200_000
    outputs = len(reader.blocks)
    reader.poll_for(1.0)
    assert 0 < len(reader.blocks) - outputs <= 10


def test_the_watermark_stands_still_without_a_connection(exchange: Exchange, readers: list[Reader]) -> None:
    reader = start(exchange, readers, ["AAAUSDT"], grace=0.1)
    reader.until(connected(exchange))
    exchange.trade("AAAUSDT", 1)
    reader.until(lambda: len(reader.blocks) > 2)
    exchange.refuse = True
    exchange.drop()
    gone = time.time_ns() // 1000
    exchange.trade("AAAUSDT", 2)
    missed = exchange.history["AAAUSDT"][-1]["T"]
    reader.poll_for(0.8)
    assert reader.watermark < gone
    assert reader.watermark < missed
    exchange.refuse = False
    reader.wait_for(1, 2)
    [block] = [block for block in reader.blocks if 2 in block.trades["id"]]
    before = max(b.watermark for b in reader.blocks[: [b is block for b in reader.blocks].index(True)])
    assert before < missed
    reader.until(lambda: reader.watermark > missed)


def test_the_watermark_waits_for_missing_trades_but_not_for_ever(
    exchange: Exchange, readers: list[Reader]
) -> None:
    reader = start(exchange, readers, ["AAAUSDT"], patience=1.0)
    reader.until(connected(exchange))
    exchange.trade("AAAUSDT", 1)
    reader.wait_for(1)
    exchange.rest_status = 503
    first = exchange.history["AAAUSDT"][-1]["T"]
    exchange.trade("AAAUSDT", 2, send=False)
    time.sleep(0.01)
    exchange.trade("AAAUSDT", 3)
    reader.poll_for(0.6)
    assert reader.watermark <= first
    reader.until(lambda: reader.watermark > first)
    assert reader.ids() == [1]
    exchange.rest_status = 200
    reader.wait_for(1, 2, 3)


def test_a_full_queue_is_dropped_and_healed_by_rest(exchange: Exchange, readers: list[Reader]) -> None:
    reader = start(exchange, readers, ["AAAUSDT"], queue_bytes=2_000)
    reader.until(connected(exchange))
    exchange.trade("AAAUSDT", 1)
    reader.wait_for(1)
    for id_ in range(2, 200):
        exchange.trade("AAAUSDT", id_)
    time.sleep(0.2)
    assert reader.status.overflows > 100
    reader.wait_for(*range(1, 200))
    reader.until(lambda: len(reader.gaps()) >= 2)
    first, last, cause, repair, restored = reader.gaps()[-1]
    assert (cause, repair, last - first + 1) == ("overflow", "rest", restored)


def test_a_stream_that_stopped_sending_is_found_out_by_rest(
    exchange: Exchange, readers: list[Reader], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "_SILENCE", 1.0)
    monkeypatch.setattr(stream, "_FRESH", 100_000)
    reader = start(exchange, readers, ["AAAUSDT"])
    reader.until(connected(exchange))
    exchange.trade("AAAUSDT", 1)
    reader.wait_for(1)
    exchange.trade("AAAUSDT", 2, 3, send=False)
    reader.wait_for(1, 2, 3)
    reader.until(lambda: len(reader.gaps()) >= 2 and reader.status.reconnections == 1)
    assert reader.gaps()[-1] == (2, 3, "stale", "rest", 2)


def test_a_connection_that_does_not_answer_is_given_up_and_its_trades_are_fetched(
    exchange: Exchange, readers: list[Reader]
) -> None:
    reader = start(exchange, readers, ["AAAUSDT"], stale=0.5)
    reader.until(connected(exchange))
    exchange.trade("AAAUSDT", 1)
    reader.wait_for(1)
    exchange.mute = True
    exchange.trade("AAAUSDT", 2, send=False)
    reader.until(lambda: reader.status.reconnections == 1)
    exchange.mute = False
    reader.wait_for(1, 2)
    reader.until(lambda: len(reader.gaps()) == 2)
    assert reader.gaps()[-1] == (2, 2, "stale", "rest", 1)


def test_a_silent_market_is_pinged_less_often_than_the_exchange_allows(
    exchange: Exchange, readers: list[Reader]
) -> None:
    reader = start(exchange, readers, ["AAAUSDT"])
    reader.until(connected(exchange))
    reader.poll_for(0.6)
    before = exchange.pings
    reader.poll_for(2.0)
    assert 2 <= exchange.pings - before <= 2 * 4


def test_attempts_to_connect_stay_below_the_limit_of_the_exchange() -> None:
    async def times() -> list[float]:
        attempts = feed._Attempts(limit=3, period=0.4)
        taken = []
        for _ in range(8):
            await attempts.take()
            taken.append(time.monotonic())
        return taken

    taken = asyncio.run(times())
    assert all(later - earlier >= 0.4 for earlier, later in zip(taken, taken[3:]))


def test_symbols_outside_ascii_are_received(exchange: Exchange, readers: list[Reader]) -> None:
    reader = start(exchange, readers, ["币安人生USDT"])
    reader.until(connected(exchange))
    exchange.trade("币安人生USDT", 1)
    exchange.trade("币安人生USDT", 2, send=False)
    exchange.trade("币安人生USDT", 3)
    reader.wait_for(1, 2, 3)


def test_ids_that_start_again_are_followed_and_said_so(exchange: Exchange, readers: list[Reader]) -> None:
    reader = start(exchange, readers, ["AAAUSDT"])
    reader.until(connected(exchange))
    exchange.trade("AAAUSDT", 1000)
    reader.wait_for(1000)
    exchange.clock = 5_000_000
    with capture_logs() as logs:
        exchange.trade("AAAUSDT", 7, 8)
        reader.wait_for(1000, 7, 8)
    assert [log["event"] for log in logs if log["log_level"] == "warning"] == [
        "trade ids start again; what came between cannot be told"
    ]


def test_symbols_that_do_not_exist_are_named_and_left_out(exchange: Exchange, readers: list[Reader]) -> None:
    with capture_logs() as logs:
        reader = start(exchange, readers, ["AAAUSDT", "NOPEUSDT"])
        reader.until(lambda: any("NOPEUSDT" in log["event"] for log in logs))
    assert [log["event"] for log in logs if log["log_level"] == "warning"] == [
        "no such symbol on Binance spot: NOPEUSDT; left out"
    ]
    exchange.trade("AAAUSDT", 1)
    reader.wait_for(1)


def test_many_symbols_are_spread_over_connections(exchange: Exchange, readers: list[Reader]) -> None:
    symbols = [f"S{i}USDT" for i in range(1030)]
    exchange.listed = symbols
    reader = start(exchange, readers, symbols)
    reader.until(lambda: list(reader.status.connections.values()) == ["live", "live"])
    subscribed = sorted(len(streams) for streams in exchange.sockets.values())
    assert subscribed == [6, 1024]
    exchange.trade("S0USDT", 5)
    exchange.trade("S1023USDT", 6)
    exchange.trade("S1029USDT", 7)
    reader.wait_for(5)
    reader.wait_for(6, symbol=1023)
    reader.wait_for(7, symbol=1029)


def test_endpoints_are_tried_in_turn(exchange: Exchange, readers: list[Reader]) -> None:
    both = Endpoints(
        ("ws://127.0.0.1:9", *exchange.endpoints.ws), ("http://127.0.0.1:9", *exchange.endpoints.rest)
    )
    reader = start(exchange, readers, ["AAAUSDT"], endpoints=both)
    reader.until(connected(exchange))
    exchange.trade("AAAUSDT", 1, 3)
    exchange.trade("AAAUSDT", 2, send=False)
    exchange.history["AAAUSDT"].sort(key=lambda trade: int(trade["t"]))
    reader.wait_for(1, 2, 3)
    assert reader.status.endpoint == exchange.endpoints.ws[0]


def test_an_error_of_the_thread_reaches_the_dataflow(readers: list[Reader]) -> None:
    reader = Reader(
        BinanceSource(["AAAUSDT"], endpoints=Endpoints(("nonsense",), ()), stop=threading.Event())
    )
    readers.append(reader)
    with pytest.raises(InvalidURI):
        reader.poll_for(5)


def test_a_dataflow_that_is_stopped_and_resumed_misses_nothing(tmp_path: Path) -> None:
    init_db_dir(tmp_path, 1)  # type: ignore[no-untyped-call]
    symbols = ["BTCUSDT", "ETHUSDT", "SOLUSDT"]
    out: list[tuple[str, Trades]] = []
    with Simulator(Config(symbols=tuple(symbols), rate=500.0)) as simulator:
        endpoints = Endpoints((simulator.ws_url,), (simulator.url,))
        for _ in range(3):
            stop = threading.Event()
            flow = Dataflow("feed")
            trades = op.input("trades", flow, BinanceSource(symbols, endpoints=endpoints, stop=stop))
            op.output("out", trades, TestingSink(out))
            ender = threading.Timer(1.5, stop.set)
            ender.start()
            recovery = RecoveryConfig(tmp_path)  # type: ignore[no-untyped-call]
            run_main(  # type: ignore[no-untyped-call]
                flow, epoch_interval=timedelta(seconds=0.1), recovery_config=recovery
            )
            ender.join()
            time.sleep(0.3)
        every = np.concatenate([item.trades for _, item in out])
        for symbol, name in enumerate(symbols):
            mine = every[every["symbol"] == symbol]
            truth = simulator.trades(name, int(mine["id"][0]), int(mine["id"][-1]))
            assert len(mine) > 100
            for column in ("id", "time", "price", "quantity", "buyer_is_maker"):
                assert (mine[column] == truth[column]).all()
    watermarks = [item.watermark for _, item in out]
    assert watermarks == sorted(watermarks)


def test_a_position_of_another_stream_is_not_taken_up(exchange: Exchange, readers: list[Reader]) -> None:
    first = start(exchange, readers, ["AAAUSDT"])
    first.until(connected(exchange))
    exchange.trade("AAAUSDT", 1)
    first.wait_for(1)
    state = first.partition.snapshot()
    assert pickle.loads(pickle.dumps(state)) == state
    with capture_logs() as logs:
        other = start(exchange, readers, ["AAAUSDT"], state, stream="aggTrade")
    assert other.partition.snapshot()["last_ids"] == {}
    assert "another feed" in logs[0]["event"]


def _frame(payload: bytes, opcode: int = 1, fin: bool = True) -> bytes:
    """Build a WebSocket frame as a server sends it."""
    head = bytes([(0x80 if fin else 0) | opcode])
    size = len(payload)
    if size < 126:
        return head + bytes([size]) + payload
    if size < 65536:
        return head + bytes([126]) + size.to_bytes(2, "big") + payload
    return head + bytes([127]) + size.to_bytes(8, "big") + payload


@pytest.mark.parametrize("seed", range(4))
def test_messages_survive_any_cut_of_the_byte_stream(seed: int, readers: list[Reader]) -> None:
    draw = random.Random(seed)
    ids = range(1, 301)
    sent = bytearray()
    pings = 0
    for id_ in ids:
        trade = {
            "e": "trade",
            "E": id_,
            "s": "AAAUSDT",
            "t": id_,
            "p": "1",
            "q": "1",
            "T": id_,
            "m": True,
            "M": True,
        }
        payload = orjson.dumps({"stream": "aaausdt@trade", "data": trade})
        kind = draw.random()
        if kind < 0.1:
            cut = draw.randrange(len(payload))
            sent += _frame(payload[:cut], fin=False) + _frame(b"?", 9) + _frame(payload[cut:], 0)
            pings += 1
        else:
            sent += _frame(payload)
        if kind > 0.95:
            sent += _frame(b'{"e":"' + b"x" * draw.choice([10, 200, 70_000]) + b'"}')
        elif kind > 0.9:
            sent += _frame(b"?", 9)
            pings += 1
    answers = bytearray()

    async def serve(incoming: asyncio.StreamReader, outgoing: asyncio.StreamWriter) -> None:
        head = await incoming.readuntil(b"\r\n\r\n")
        key = re.search(rb"Sec-WebSocket-Key: (\S+)", head)
        assert key is not None
        accept = base64.b64encode(hashlib.sha1(key[1] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
        response = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        response += b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
        rest = response + bytes(sent)
        while rest:
            size = draw.choice([1, 2, 3, 50, 1000, 100_000])
            outgoing.write(rest[:size])
            rest = rest[size:]
            await outgoing.drain()
            if draw.random() < 0.5:
                await asyncio.sleep(0)
        with contextlib.suppress(ConnectionError):
            while data := await incoming.read(4096):
                answers.extend(data)
        outgoing.close()

    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(asyncio.start_server(serve, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    port = server.sockets[0].getsockname()[1]
    nowhere = ("http://127.0.0.1:9",)
    source = BinanceSource(
        ["AAAUSDT"], endpoints=Endpoints((f"ws://127.0.0.1:{port}",), nowhere), stop=threading.Event()
    )
    reader = Reader(source)
    try:
        reader.wait_for(*ids)
        assert reader.gaps() == []
        assert reader.status.decode.malformed == 0
        # Each ping was answered: 2 bytes of header, 4 of mask, 1 of payload.
        reader.until(lambda: len(answers) >= 7 * pings)
    finally:
        reader.partition.close()
        loop.call_soon_threadsafe(server.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.run_until_complete(asyncio.sleep(0.05))
        loop.close()
