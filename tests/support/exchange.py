"""A small exchange on the loop-back interface, driven by the test, and a reader of its trades."""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import orjson
from aiohttp import WSMsgType, web

from connectors.binance.endpoints import Endpoints
from connectors.binance.stream import BinanceSource
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
