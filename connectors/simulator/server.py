"""The exchange's protocol: WebSocket streams and REST on one port, as Binance documents them."""

import asyncio
import re
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import orjson
from aiohttp import WSMsgType, web

from connectors.simulator.frames import LATENCY, Encoder, Text, text_frame
from connectors.simulator.klines import INTERVALS, Kline, Klines, next_open, open_time, previous_open
from connectors.simulator.market import Market, MarketName, ModelMarket, RecordedMarket, Ticks, aggregate
from kernels.records import SECOND, Block

PUMP_INTERVAL = 0.01


@dataclass(frozen=True)
class Config:
    """What to simulate.

    :arg symbols: symbols of the model market.
    :arg market: ``spot`` or ``usdm``.
    :arg rate: trades per second, all symbols together.
    :arg seed: the same seed gives the same ids, prices and quantities.
    :arg host: address to listen on.
    :arg port: 0 for any free port.
    :arg start: exchange time of the opening, us; None: now.
    :arg speed: exchange seconds per real second.
    :arg quiet: symbols that trade about twice a minute.
    :arg history: seconds of past before the start.
    """

    symbols: tuple[str, ...] = ("BTCUSDT", "ETHUSDT")
    market: MarketName = "spot"
    rate: float = 200.0
    seed: int = 1
    host: str = "127.0.0.1"
    port: int = 0
    start: int | None = None
    speed: float = 1.0
    quiet: tuple[str, ...] = ()
    history: int = 7 * 86_400
    recording: tuple[Path, ...] = ()


class ApiError(Exception):
    """An answer with one of Binance's error bodies."""

    def __init__(self, code: int, text: str, status: int = 400) -> None:
        super().__init__(text)
        self.code, self.text, self.status = code, text, status


_STREAM = re.compile(r"(?P<symbol>[^@]+)@(?P<kind>trade|aggTrade|kline_(?P<interval>\w+))(?P<zone>@\+08:00)?")
WEIGHTS = {
    "ping": 1,
    "time": 1,
    "exchangeInfo": 20,
    "trades": 25,
    "historicalTrades": 25,
    "aggTrades": 4,
    "klines": 2,
}


@dataclass(eq=False)
class _Connection:
    socket: web.WebSocketResponse
    transport: asyncio.Transport
    combined: bool
    micro: bool
    streams: dict[str, None] = field(default_factory=dict)
    trades: frozenset[int] = frozenset()
    aggregates: frozenset[int] = frozenset()


class Simulator:
    """A Binance-compatible exchange.

    Use it as ``async with`` on a running loop, or as ``with`` to run it on a thread of its own.

    :arg config: what to simulate.
    :ivar url: base of REST, such as ``http://127.0.0.1:8080``.
    :ivar ws_url: base of the streams, such as ``ws://127.0.0.1:8080``.
    """

    def __init__(self, config: Config = Config()) -> None:  # noqa: B008
        self.config = config
        self.url = self.ws_url = ""
        start = int(time.time() * SECOND) if config.start is None else config.start
        self.market: Market
        if config.recording:
            self.market = RecordedMarket(config.recording, None, start)
        else:
            self.market = ModelMarket(
                config.symbols, config.rate, config.seed, start, config.market, config.history, config.quiet
            )
        self._index = {s.name: i for i, s in enumerate(self.market.symbols)}
        self._klines = Klines(self.market)
        self._encoder, self._text = Encoder(self.market), Text(self.market)
        self._connections: dict[_Connection, None] = {}
        self._opened = 0.0
        self._sent = start
        self._runner: web.AppRunner | None = None
        self._task: asyncio.Task[None] | None = None
        self._thread: threading.Thread | None = None

    def now(self) -> int:
        """Return the exchange's time, us."""
        return self.market.start + int((time.monotonic() - self._opened) * SECOND * self.config.speed)

    def trades(self, symbol: str, first: int | None = None, last: int | None = None) -> Block:
        """Return the trades of a symbol as a TRADE block: the truth a client's result is compared with.

        :arg first: first id; None: the first since the exchange opened.
        :arg last: last id; None: the last one published.
        """
        index = self._index[symbol]
        begin = self.market.ids_at(index, self.market.start)[0] if first is None else first
        stop = self.market.ids_at(index, self._sent)[0] if last is None else last + 1
        return self.market.block(index, begin, stop)

    async def __aenter__(self) -> Self:
        await self._open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()

    async def _open(self) -> None:
        app = web.Application()
        prefix = "/api/v3" if self.market.name == "spot" else "/fapi/v1"
        app.router.add_get(prefix + "/{endpoint}", self._rest)
        app.router.add_get("/ws", self._stream)
        app.router.add_get("/ws/{streams:.*}", self._stream)
        app.router.add_get("/stream", self._stream)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self.config.host, self.config.port)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url, self.ws_url = f"http://{host}:{port}", f"ws://{host}:{port}"
        self._opened = time.monotonic()
        self._sent = self.market.start
        self._task = asyncio.create_task(self._pump())

    async def _close(self) -> None:
        assert self._task is not None
        assert self._runner is not None
        self._task.cancel()
        for connection in list(self._connections):
            connection.transport.abort()
        await self._runner.cleanup()

    async def _pump(self) -> None:
        while True:
            self._publish(self.now() - LATENCY)
            await asyncio.sleep(PUMP_INTERVAL)

    def _publish(self, until: int) -> None:
        if until <= self._sent:
            return
        ticks = self.market.read(self._sent, until)
        self._sent = until
        if not ticks.id.size:
            return
        done: dict[tuple[object, ...], bytes] = {}
        for connection in self._connections:
            key = (connection.trades, connection.aggregates, connection.combined, connection.micro)
            data = done.get(key)
            if data is None:
                data = b""
                if connection.trades:
                    rows = ticks.take(np.isin(ticks.symbol, list(connection.trades)))
                    data += self._encoder.trades(rows, connection.combined, connection.micro)
                if connection.aggregates:
                    rows = ticks.take(np.isin(ticks.symbol, list(connection.aggregates)))
                    data += self._encoder.aggregates(aggregate(rows), connection.combined, connection.micro)
                done[key] = data
            if data:
                connection.transport.write(data)

    def _subscribe(self, connection: _Connection, names: Iterable[str]) -> None:
        for name in names:
            connection.streams[name] = None
        self._resolve(connection)

    def _resolve(self, connection: _Connection) -> None:
        trades, aggregates = set(), set()
        for name in connection.streams:
            match = _STREAM.fullmatch(name)
            if match is None or match["symbol"] != match["symbol"].lower():
                continue
            index = self._index.get(match["symbol"].upper())
            if index is None:
                continue
            if match["kind"] == "trade":
                trades.add(index)
            elif match["kind"] == "aggTrade":
                aggregates.add(index)
        connection.trades, connection.aggregates = frozenset(trades), frozenset(aggregates)

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        combined = request.path.startswith("/stream")
        socket = web.WebSocketResponse(autoping=False, compress=False)
        await socket.prepare(request)
        assert request.transport is not None
        unit = request.query.get("timeUnit", "MILLISECOND").upper()
        connection = _Connection(socket, request.transport, combined, unit == "MICROSECOND")  # type: ignore[arg-type]
        names = request.query.get("streams", "") if combined else request.match_info.get("streams", "")
        self._subscribe(connection, [n for n in names.split("/") if n])
        self._connections[connection] = None
        try:
            async for message in socket:
                if message.type == WSMsgType.PING:
                    await socket.pong(message.data)
                elif message.type == WSMsgType.TEXT:
                    answer = self._control(connection, message.data)
                    await socket.send_str(answer)
        finally:
            self._connections.pop(connection, None)
        return socket

    def _control(self, connection: _Connection, text: str) -> str:
        body = orjson.loads(text)
        method, params = body.get("method"), body.get("params", [])
        result: Any = None
        if method == "SUBSCRIBE":
            self._subscribe(connection, params)
        elif method == "UNSUBSCRIBE":
            for name in params:
                connection.streams.pop(name, None)
            self._resolve(connection)
        elif method == "LIST_SUBSCRIPTIONS":
            result = list(connection.streams)
        return orjson.dumps({"result": result, "id": body.get("id")}).decode()

    async def _rest(self, request: web.Request) -> web.StreamResponse:
        endpoint = request.match_info["endpoint"]
        unit = 1 if request.headers.get("X-MBX-TIME-UNIT", "").upper() == "MICROSECOND" else 1_000
        try:
            body = self._answer(endpoint, request, unit)
        except ApiError as error:
            return web.Response(
                status=error.status,
                body=orjson.dumps({"code": error.code, "msg": error.text}),
                content_type="application/json",
            )
        return web.Response(body=orjson.dumps(body), content_type="application/json")

    def _answer(self, endpoint: str, request: web.Request, unit: int) -> Any:
        query = request.query
        if endpoint == "ping":
            return {}
        if endpoint == "time":
            return {"serverTime": self.now() // unit}
        if endpoint == "exchangeInfo":
            return {
                "timezone": "UTC",
                "serverTime": self.now() // unit,
                "symbols": [
                    {"symbol": s.name, "status": "TRADING", "baseAsset": s.base, "quoteAsset": s.quote}
                    for s in self.market.symbols
                ],
            }
        if "symbol" not in query:
            raise ApiError(-1102, "Mandatory parameter 'symbol' was not sent, was empty/null, or malformed.")
        index = self._index.get(query["symbol"])
        if index is None:
            raise ApiError(-1121, "Invalid symbol.")
        limit = min(int(query.get("limit", 500)), 1000)
        published = self.market.ids_at(index, self._sent)
        past = self.market.ids_at(index, self.market.earliest(index))
        begin = query.get("startTime")
        end = query.get("endTime")
        begin_us = _micros(int(begin)) if begin else None
        end_us = _micros(int(end)) + unit - 1 if end else None
        if endpoint in ("trades", "historicalTrades"):
            first = (
                int(query["fromId"])
                if endpoint == "historicalTrades" and "fromId" in query
                else published[0] - limit
            )
            first = max(first, past[0])
            ticks = self.market.trades(index, first, min(first + limit, published[0]))
            return [
                {
                    "id": i,
                    "price": self._text.price(index, p),
                    "qty": self._text.quantity(index, q),
                    "quoteQty": self._text.quote(index, p * q),
                    "time": t // unit,
                    "isBuyerMaker": m,
                    "isBestMatch": True,
                }
                for _, i, _, t, p, q, m, _ in zip(*(c.tolist() for c in ticks))
            ]
        if endpoint == "aggTrades":
            stop = published[1]
            if end_us is not None:
                stop = min(stop, self.market.ids_at(index, end_us + 1)[1])
            if "fromId" in query:
                first = int(query["fromId"])
            elif begin_us is not None:
                first = self.market.ids_at(index, begin_us)[1]
            else:
                first = stop - limit
            first = max(first, past[1])
            rows = self.market.aggregates(index, first, min(first + limit, stop))
            return [
                {
                    "a": a,
                    "p": self._text.price(index, p),
                    "q": self._text.quantity(index, q),
                    "f": f,
                    "l": last,
                    "T": t // unit,
                    "m": m,
                    "M": True,
                }
                for _, a, f, last, t, p, q, m in zip(*(c.tolist() for c in rows))
            ]
        if endpoint == "klines":
            interval = query.get("interval", "")
            if interval not in INTERVALS:
                raise ApiError(-1120, "Invalid interval.")
            earliest = self.market.earliest(index)
            last = open_time(min(end_us if end_us is not None else self._sent - 1, self._sent - 1), interval)
            opened: list[int] = []
            if begin_us is not None:
                at = open_time(max(begin_us, earliest), interval)
                if at < begin_us:
                    at = next_open(at, interval)
                while at <= last and len(opened) < limit:
                    opened.append(at)
                    at = next_open(at, interval)
            else:
                at = last
                while at >= open_time(earliest, interval) and len(opened) < limit:
                    opened.append(at)
                    at = previous_open(at, interval)
                opened.reverse()
            return [
                self._row(index, k, unit) for k in self._klines.query(index, interval, 0, opened, self._sent)
            ]
        raise ApiError(-1000, "no such endpoint", 404)

    def _row(self, symbol: int, k: Kline, unit: int) -> list[Any]:
        text = self._text
        return [
            k.open_time // unit,
            text.price(symbol, k.open),
            text.price(symbol, k.high),
            text.price(symbol, k.low),
            text.price(symbol, k.close),
            text.quantity(symbol, k.volume),
            (k.close_time - unit) // unit,
            text.quote(symbol, k.quote),
            k.trades,
            text.quantity(symbol, k.taker_volume),
            text.quote(symbol, k.taker_quote),
            "0",
        ]


def _micros(value: int) -> int:
    """Read a time in ms or us: below the year 2286 in ms has at most 13 digits."""
    return value * 1_000 if value < 10**14 else value
