"""The exchange's protocol: WebSocket streams and REST on one port, as Binance documents them.

The market runs on the exchange's clock, which may run faster than real time. What a client waits for by its own
clock (pings, limits, Retry-After, the life of a connection) runs in real seconds.
"""

import asyncio
import heapq
import itertools
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, NoReturn, Self, TypeVar
from urllib.parse import unquote

import numpy as np
import orjson
import structlog
from aiohttp import WSMsgType, web
from numpy.typing import NDArray

from connectors.simulator.faults import (
    CONNECTION_KINDS,
    FRAME_KINDS,
    REST_KINDS,
    SYMBOL_KINDS,
    Fault,
    fault_of,
    schedule,
)
from connectors.simulator.frames import LATENCY, Encoder, Text, frame, wrap
from connectors.simulator.klines import INTERVALS, MINUTE, Kline, Klines, next_open, open_time
from connectors.simulator.market import (
    NO_TICKS,
    Market,
    MarketName,
    ModelMarket,
    RecordedMarket,
    Symbol,
    Ticks,
    aggregate,
)
from kernels.records import SECOND, Block

T = TypeVar("T")

PUMP_INTERVAL = 0.005
"""Real seconds between two looks at the market."""

BUFFER_LIMIT = 64 * 2**20
"""Bytes a client may leave unread before it is dropped."""

MAX_STREAMS = 1024
MESSAGES_PER_SECOND = 5
CONNECT_WINDOW = 300.0  # seconds in which the attempts are counted
BAN_AFTER = 20
"""Requests answered with 429 in one minute before the ban; Binance says "repeatedly"."""
BAN_SECONDS = (120.0, 3 * 86_400.0)

POLICY = 1008
"""Close code where the client broke a rule or did not answer pings, as observed of Binance."""

_log = structlog.get_logger()


@dataclass(frozen=True)
class Config:
    """What to simulate.

    :arg symbols: symbols of the model market.
    :arg market: ``spot`` or ``usdm``.
    :arg rate: trades per second, all symbols together, on average.
    :arg seed: the same seed gives the same ids, prices and quantities.
    :arg host: address to listen on.
    :arg port: 0 for any free port.
    :arg start: exchange time of the opening, us; None: now.
    :arg speed: exchange seconds per real second.
    :arg quiet: symbols that trade about twice a minute whatever the rate.
    :arg history: seconds of past before the start.
    :arg recording: files to play back instead of the model, as `RecordedMarket` takes them.
    :arg keep_times: play a recording at its own times; else its times are shifted to now by whole minutes.
    :arg clock_offset: seconds that the exchange's clock is ahead of the local one.
    :arg faults: faults with a time of their own.
    :arg fault_seed: seed of a schedule of faults; None: none.
    :arg ping_interval: real seconds between pings.
    :arg pong_timeout: real seconds after which a connection without a pong is closed.
    :arg life: real seconds that a connection lives.
    :arg connect_limit: WebSocket connection attempts per five minutes.
    :arg weight_limit: request weight per minute; None: the market's own (6,000 spot, 2,400 USD-M).
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
    recording: tuple[str | Path, ...] = ()
    keep_times: bool = False
    clock_offset: float = 0.0
    faults: tuple[Fault, ...] = ()
    fault_seed: int | None = None
    ping_interval: float = 20.0
    pong_timeout: float = 60.0
    life: float = 86_400.0
    connect_limit: int = 300
    weight_limit: int | None = None

    def __post_init__(self) -> None:
        for name in ("speed", "ping_interval", "pong_timeout", "life"):
            if not getattr(self, name) > 0:
                msg = f"{name} {getattr(self, name)}: expected more than 0"
                raise ValueError(msg)
        if self.seed < 0:
            msg = f"seed {self.seed}: expected 0 or more"
            raise ValueError(msg)
        if self.history < 0:
            msg = f"history {self.history}: expected seconds, 0 or more"
            raise ValueError(msg)


class ApiError(Exception):
    """An answer with one of Binance's error bodies (errors.md)."""

    def __init__(self, code: int, text: str, status: int = 400, wait: float | None = None) -> None:
        super().__init__(text)
        self.code, self.text, self.status, self.wait = code, text, status, wait


class _Endpoint(NamedTuple):
    weight: int
    parameters: frozenset[str]
    limit: int = 500
    most: int = 1000


class _Api(NamedTuple):
    prefix: str
    weight_limit: int
    endpoints: Mapping[str, _Endpoint]


_PAGE = frozenset({"symbol", "limit"})
_FROM_ID = _PAGE | {"fromId"}
_AGGREGATES = _FROM_ID | {"startTime", "endTime"}
_KLINES = _PAGE | {"interval", "startTime", "endTime"}
_INFO = frozenset({"symbol", "symbols", "permissions", "showPermissionSets", "symbolStatus"})

_APIS: dict[MarketName, _Api] = {
    # rest-api.md of 2026-07.
    "spot": _Api(
        "/api/v3",
        6_000,
        {
            "ping": _Endpoint(1, frozenset()),
            "time": _Endpoint(1, frozenset()),
            "exchangeInfo": _Endpoint(20, _INFO),
            "trades": _Endpoint(25, _PAGE),
            "historicalTrades": _Endpoint(25, _FROM_ID),
            "aggTrades": _Endpoint(4, _AGGREGATES),
            "klines": _Endpoint(2, _KLINES | {"timeZone"}),
            "uiKlines": _Endpoint(2, _KLINES | {"timeZone"}),
        },
    ),
    # USD-M: klines weigh by limit; old trades need a key and cost 200 since 2026-07-29, as ccxt's table has it.
    "usdm": _Api(
        "/fapi/v1",
        2_400,
        {
            "ping": _Endpoint(1, frozenset()),
            "time": _Endpoint(1, frozenset()),
            "exchangeInfo": _Endpoint(1, frozenset()),
            "trades": _Endpoint(5, _PAGE),
            "historicalTrades": _Endpoint(200, _FROM_ID, 100, 500),
            "aggTrades": _Endpoint(20, _AGGREGATES),
            "klines": _Endpoint(0, _KLINES, 500, 1500),
        },
    ),
}
_MARKET_WIDE = ("ping", "time", "exchangeInfo")

_SYMBOL_RANGE = r"^[\w\-._&&[^a-z]]{1,50}$"
_NUMBER_RANGE = "^[0-9]{1,20}$"

_STREAM = re.compile(
    r"(?P<symbol>[^@]+)@(?P<kind>trade|aggTrade|kline_(?P<interval>\w+)(?P<zone>@\+08:00)?)",
)


class _KlineStream(NamedTuple):
    stream: str
    symbol: int
    interval: str
    offset: int


@dataclass
class _FrameFault:
    """A frame fault under way on one connection."""

    kind: str
    symbol: str | None
    left: int
    held: list[tuple[str, bytes]] = field(default_factory=list)

    def hit(self, symbol: str, payload: bytes) -> list[tuple[str, bytes]]:
        """Return what is sent in place of a trade frame."""
        sent = [(symbol, payload)]
        if not self.left or self.symbol not in (None, symbol):
            return sent
        self.left -= 1
        if self.kind == "duplicate":
            return sent * 2
        if self.kind == "truncate":
            return [(symbol, payload[: len(payload) // 2])]
        if self.kind == "hole":
            return []
        self.held += sent
        return [] if self.left else self.held[::-1]


@dataclass(eq=False)
class _Connection:
    number: int
    socket: web.WebSocketResponse
    transport: asyncio.Transport
    combined: bool
    micro: bool
    opened: float
    streams: dict[str, None] = field(default_factory=dict)
    trades: frozenset[int] = frozenset()
    aggregates: frozenset[int] = frozenset()
    klines: tuple[_KlineStream, ...] = ()
    received: deque[float] = field(default_factory=deque)
    pings: dict[bytes, float] = field(default_factory=dict)
    next_ping: float = 0.0
    # Faults under way.
    silent: bool = False
    delay: float = 0.0
    bytes_per_second: float = 0.0
    waiting: deque[tuple[float, bytes]] = field(default_factory=deque)
    frames: list["_FrameFault"] = field(default_factory=list)

    def send(self, data: bytes, now: float) -> None:
        """Send frames, or hold them back where a fault says so."""
        if self.silent or self.transport.is_closing():
            return
        if self.delay or self.bytes_per_second or self.waiting:
            due = max(now + self.delay, self.waiting[-1][0] if self.waiting else 0.0)
            if self.bytes_per_second:
                # In pieces of a tenth of a second, each due when the line has become free.
                piece = max(1, int(self.bytes_per_second / 10))
                for at in range(0, len(data), piece):
                    part = data[at : at + piece]
                    due = max(due, now) + len(part) / self.bytes_per_second
                    self.waiting.append((due, part))
            else:
                self.waiting.append((due, data))
            return
        self.transport.write(data)

    def release(self, now: float) -> None:
        """Send what was held back and is due."""
        while self.waiting and self.waiting[0][0] <= now and not self.silent:
            self.transport.write(self.waiting.popleft()[1])

    def tamper(self, payloads: list[tuple[str, bytes]]) -> bytes:
        """Return trade frames as the frame faults under way leave them.

        :arg payloads: symbol and payload of each.
        """
        for fault in self.frames:
            payloads = [sent for symbol, payload in payloads for sent in fault.hit(symbol, payload)]
        self.frames = [fault for fault in self.frames if fault.left]
        return b"".join(frame(payload) for _, payload in payloads)


class Simulator:
    """A Binance-compatible exchange.

    Use it as ``async with`` on a running loop, or as ``with`` to run it on a thread of its own; its methods may be
    called from any thread.

    :arg config: what to simulate.
    :raises ValueError: when the market cannot be made.
    :ivar url: base of REST, such as ``http://127.0.0.1:8080``.
    :ivar ws_url: base of the streams, such as ``ws://127.0.0.1:8080``.
    :ivar market: what is traded.
    """

    def __init__(self, config: Config | None = None) -> None:
        self.config = config = config or Config()
        self.url = self.ws_url = ""
        now = int(time.time() * SECOND + config.clock_offset * SECOND)
        start = config.start if config.start is not None else now
        self.market: Market
        if config.recording:
            self.market = RecordedMarket(
                config.recording, 0 if config.keep_times else None, None if config.keep_times else start
            )
        else:
            self.market = ModelMarket(
                config.symbols, config.rate, config.seed, start, config.market, config.history, config.quiet
            )
        self._api = _APIS[self.market.name]
        self._index = {s.name: i for i, s in enumerate(self.market.symbols)}
        self._status = ["TRADING"] * len(self._index)
        self._klines = Klines(self.market)
        self._encoder, self._text = Encoder(self.market), Text(self.market)
        # A model opens on a whole second; the clock goes on from where it was asked to start.
        self._origin = (
            self.market.start if config.recording and config.keep_times else max(start, self.market.start)
        )
        self._opened = 0.0
        self._jumped = 0
        self._sent = self.market.start
        self._connections: dict[_Connection, None] = {}
        self._numbers = itertools.count()
        self._attempts: deque[float] = deque()
        self._hanging = 0
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._rest_faults: list[tuple[Fault, list[int]]] = []
        self._applied: list[Fault] = []
        self._schedule: Iterator[Fault] = iter(())
        self._minute, self._weight, self._refused = 0, 0, 0
        self._bans, self._banned_until = 0, 0.0
        self._runner: web.AppRunner | None = None
        self._listener: asyncio.Server | None = None
        self._refusing = 0
        self._port = config.port
        self._task: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closing: asyncio.Event | None = None

    # -- Python API --------------------------------------------------------------------------------------------

    def now(self) -> int:
        """Return the exchange's time, us."""
        if not self._opened:
            return self._origin
        elapsed = (time.monotonic() - self._opened) * self.config.speed
        return self._origin + self._jumped + int(elapsed * SECOND)

    def trades(self, symbol: str, first: int | None = None, last: int | None = None) -> Block:
        """Return the trades of a symbol as a TRADE block: the truth that a client's result is compared with.

        :arg first: first id; None: the first since the exchange opened.
        :arg last: last id; None: the last one published.
        """

        def read() -> Block:
            index = self._index[symbol]
            begin = self.market.ids_at(index, self.market.start)[0] if first is None else first
            stop = self.market.ids_at(index, self._sent)[0]
            return self.market.block(index, begin, stop if last is None else min(last + 1, stop))

        return self._call(read)

    def inject(self, *faults: Fault) -> None:
        """Apply faults, now or at their time.

        :raises ValueError: for a symbol that is not traded, or a halt of a recording.
        """
        self._call(lambda: self._plan(faults))

    @property
    def connections(self) -> int:
        """How many WebSocket connections are open."""
        return len(self._connections)

    @property
    def applied(self) -> tuple[Fault, ...]:
        """The faults applied so far, in order."""
        return tuple(self._applied)

    async def __aenter__(self) -> Self:
        await self._open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()

    def __enter__(self) -> Self:
        ready: Future[None] = Future()

        async def serve() -> None:
            try:
                await self._open()
            except BaseException as error:
                ready.set_exception(error)
                return
            self._closing = asyncio.Event()
            ready.set_result(None)
            await self._closing.wait()
            await self._close()

        self._thread = threading.Thread(target=lambda: asyncio.run(serve()), name="simulator", daemon=True)
        self._thread.start()
        ready.result()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._loop is not None
        assert self._closing is not None
        assert self._thread is not None
        self._loop.call_soon_threadsafe(self._closing.set)
        self._thread.join()

    def _call(self, function: Callable[[], T]) -> T:
        """Call a function where the exchange's state may be touched."""
        loop = self._loop
        if loop is None or not loop.is_running():
            return function()
        try:
            if asyncio.get_running_loop() is loop:
                return function()
        except RuntimeError:
            pass

        async def run() -> T:
            return function()

        return asyncio.run_coroutine_threadsafe(run(), loop).result()

    # -- life ---------------------------------------------------------------------------------------------------

    async def _open(self) -> None:
        app = web.Application()
        app.router.add_get(self._api.prefix + "/{endpoint}", self._rest)
        for prefix in {"/api/v3", "/fapi/v1", "/dapi/v1"} - {self._api.prefix}:
            # Clients such as ccxt ask every market what it lists, and the others list nothing here.
            app.router.add_get(prefix + "/exchangeInfo", self._nothing_listed)
        # USD-M streams moved under /market and /public; the bare paths stay for clients that have not.
        for base in ("", "/market", "/public") if self.market.name == "usdm" else ("",):
            app.router.add_get(base + "/ws", self._stream)
            app.router.add_get(base + "/ws/{streams:.*}", self._stream)
            app.router.add_get(base + "/stream", self._stream)
        app.router.add_get("/simulator", self._show)
        app.router.add_post("/simulator/faults", self._order_faults)
        self._loop = asyncio.get_running_loop()
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        try:
            await self._listen()
        except OSError as error:
            await self._runner.cleanup()
            self._loop = None
            msg = f"cannot listen on {self.config.host}:{self.config.port}: {error.strerror}"
            raise ValueError(msg) from None
        host = f"[{self.config.host}]" if ":" in self.config.host else self.config.host
        self.url, self.ws_url = f"http://{host}:{self._port}", f"ws://{host}:{self._port}"
        self._opened = time.monotonic()
        self._plan(self.config.faults)
        if self.config.fault_seed is not None:
            self._schedule = schedule(self.config.fault_seed, [s.name for s in self.market.symbols])
            self._plan([next(self._schedule)])
        self._task = asyncio.create_task(self._pump())

    async def _listen(self) -> None:
        assert self._runner is not None
        assert self._runner.server is not None
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(
            self._runner.server, self.config.host, self._port, reuse_address=True, backlog=1024
        )
        self._port = self._listener.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        assert self._task is not None
        assert self._runner is not None
        self._task.cancel()
        for task in self._tasks:
            task.cancel()
        if self._listener is not None:
            self._listener.close()
        for connection in list(self._connections):
            connection.transport.abort()
        await asyncio.gather(self._task, *self._tasks, return_exceptions=True)
        await self._runner.cleanup()
        self._loop = None

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _pump(self) -> None:
        while True:
            try:
                self._publish(self.now() - LATENCY)
                now = time.monotonic()
                for connection in list(self._connections):
                    self._tend(connection, now)
            except Exception:
                # The market must not stop in silence: say why, and let every client see the connection end.
                _log.exception("the simulated market stopped")
                for connection in list(self._connections):
                    connection.transport.abort()
                raise
            await asyncio.sleep(PUMP_INTERVAL)

    # -- market -------------------------------------------------------------------------------------------------

    def _publish(self, until: int) -> None:
        """Send what happened up to a time, with the scheduled events and kline updates between."""
        while True:
            while self._events and self._events[0][0] <= self._sent:
                heapq.heappop(self._events)[2]()
            if self._sent >= until:
                return
            stop = min(until, self._events[0][0]) if self._events else until
            if any(c.klines for c in self._connections):
                stop = min(stop, (self._sent // SECOND + 1) * SECOND)
            self._publish_trades(stop)
            if stop % SECOND == 0:
                self._publish_klines()

    def _publish_trades(self, until: int) -> None:
        ticks = self.market.read(self._sent, until)
        self._sent = until
        self._klines.add(ticks, until)
        if not ticks.id.size or not self._connections:
            return
        now = time.monotonic()
        done: dict[tuple[object, ...], bytes] = {}
        for connection in self._connections:
            if connection.frames:
                connection.send(self._tampered(connection, ticks), now)
                continue
            key = (connection.trades, connection.aggregates, connection.combined, connection.micro)
            data = done.get(key)
            if data is None:
                data = b""
                form = connection.combined, connection.micro
                if connection.trades:
                    data += self._encoder.trades(self._of(ticks, connection.trades), *form)
                if connection.aggregates:
                    data += self._encoder.aggregates(aggregate(self._of(ticks, connection.aggregates)), *form)
                done[key] = data
            if data:
                connection.send(data, now)

    def _of(self, ticks: Ticks, symbols: frozenset[int]) -> Ticks:
        if len(symbols) == len(self.market.symbols):
            return ticks
        chosen: NDArray[np.bool_] = np.zeros(len(self.market.symbols), np.bool_)
        chosen[list(symbols)] = True
        return ticks.take(chosen[ticks.symbol])

    def _tampered(self, connection: _Connection, ticks: Ticks) -> bytes:
        form = connection.combined, connection.micro
        rows = self._of(ticks, connection.trades) if connection.trades else NO_TICKS
        pairs = list(zip(rows.symbol.tolist(), self._encoder.trade_payloads(rows, *form)))
        merged = aggregate(self._of(ticks, connection.aggregates) if connection.aggregates else NO_TICKS)
        pairs += zip(merged.symbol.tolist(), self._encoder.aggregate_payloads(merged, *form))
        return connection.tamper([(self.market.symbols[i].name, payload) for i, payload in pairs])

    def _publish_klines(self) -> None:
        """Send the kline updates of a whole second: 1 s klines when they close, others every 2 s and at their end."""
        now = time.monotonic()
        found: dict[tuple[int, str, int, int], Kline | None] = {}

        def kline(wanted: _KlineStream, time: int) -> Kline | None:
            opened = open_time(time, wanted.interval, wanted.offset)
            key = (wanted.symbol, wanted.interval, wanted.offset, opened)
            if key not in found:
                rows = self._klines.query(wanted.symbol, wanted.interval, wanted.offset, [opened], self._sent)
                found[key] = rows[0] if rows else None
            return found[key]

        for connection in self._connections:
            for wanted in connection.klines:
                ended = open_time(self._sent, wanted.interval, wanted.offset) == self._sent
                current = self._sent % (2 * SECOND) == 0 and wanted.interval != "1s"
                times = [self._sent - 1] * ended + [self._sent] * (current and not ended)
                for at in times:
                    row = kline(wanted, at)
                    if row is not None:
                        form = connection.combined, connection.micro
                        stream, symbol, interval, _ = wanted
                        payload = self._encoder.kline(symbol, stream, interval, row, self._sent, *form)
                        connection.send(frame(payload), now)

    # -- streams ------------------------------------------------------------------------------------------------

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        now = time.monotonic()
        while self._attempts and self._attempts[0] < now - CONNECT_WINDOW:
            self._attempts.popleft()
        self._attempts.append(now)
        limit = self.config.connect_limit
        if len(self._attempts) > limit:
            text = f"Too many connection attempts from IP; current limit is {limit} per '5 MINUTE'."
            return _refusal(ApiError(-1034, text, 429, CONNECT_WINDOW))
        while self._hanging:
            await asyncio.sleep(0.05)
        try:
            micro = _time_unit(request.query.get("timeUnit")) == 1
        except ApiError as error:
            return _refusal(error)
        combined = request.path.endswith("/stream")
        if request.transport is None or request.transport.is_closing():
            return web.Response(status=499)  # gave up while the handshake hung
        socket = web.WebSocketResponse(autoping=False, autoclose=False, compress=False, timeout=1.0)
        if not socket.can_prepare(request):
            return web.Response(status=400, text="expected a WebSocket handshake\n")
        await socket.prepare(request)
        transport = request.transport
        assert isinstance(transport, asyncio.Transport)
        connection = _Connection(next(self._numbers), socket, transport, combined, micro, now)
        connection.next_ping = now + self.config.ping_interval
        names = _stream_names(request) if combined else request.match_info.get("streams", "")
        connection.streams = dict.fromkeys(n for n in names.split("/") if n)
        self._resolve(connection)
        self._connections[connection] = None
        try:
            if len(connection.streams) > MAX_STREAMS:
                await socket.close(code=POLICY, message=b"Too many streams")
                return socket
            async for message in socket:
                if connection.silent:
                    continue
                if message.type not in (WSMsgType.PING, WSMsgType.PONG, WSMsgType.TEXT, WSMsgType.BINARY):
                    break
                if self._too_many(connection):
                    await socket.close(code=POLICY, message=b"Too many requests")
                    break
                if message.type == WSMsgType.PING:
                    connection.send(frame(bytes(message.data), 0xA), time.monotonic())
                elif message.type == WSMsgType.PONG:
                    self._ponged(connection, bytes(message.data))
                else:
                    answer = orjson.dumps(self._control(connection, message.data))
                    connection.send(frame(answer), time.monotonic())
                    if len(connection.streams) > MAX_STREAMS:
                        await socket.close(code=POLICY, message=b"Too many streams")
                        break
            while connection.silent and not transport.is_closing():
                await asyncio.sleep(0.05)  # half-open: not even a close frame is answered
            if not transport.is_closing():
                await socket.close()
        finally:
            self._connections.pop(connection, None)
        return socket

    @staticmethod
    def _too_many(connection: _Connection) -> bool:
        now = time.monotonic()
        connection.received.append(now)
        while connection.received[0] <= now - 1.0:
            connection.received.popleft()
        return len(connection.received) > MESSAGES_PER_SECOND

    @staticmethod
    def _ponged(connection: _Connection, payload: bytes) -> None:
        """Take a pong: a copy of a ping's payload answers it and those before; anything else keeps nothing alive."""
        sent = connection.pings.get(payload)
        if sent is not None:
            connection.pings = {p: at for p, at in connection.pings.items() if at > sent}

    def _tend(self, connection: _Connection, now: float) -> None:
        """Do what a connection's clock asks for."""
        if connection.transport.is_closing():
            return
        connection.release(now)
        if connection.silent:
            return
        if connection.transport.get_write_buffer_size() > BUFFER_LIMIT:
            _log.warning("a client that does not read was dropped", connection=connection.number)
            connection.transport.abort()
        elif connection.pings and now - min(connection.pings.values()) > self.config.pong_timeout:
            self._end(connection, POLICY, b"Pong timeout")
        elif now - connection.opened > self.config.life:
            self._end(connection, POLICY, b"disconnected")
        elif now >= connection.next_ping:
            connection.next_ping = now + self.config.ping_interval
            payload = str(self.now() // 1_000).encode()
            connection.pings.setdefault(payload, now)
            connection.send(frame(payload, 9), now)

    def _end(self, connection: _Connection, code: int, reason: bytes) -> None:
        self._connections.pop(connection, None)

        async def close() -> None:
            await connection.socket.close(code=code, message=reason)

        self._spawn(close())

    def _resolve(self, connection: _Connection) -> None:
        """Look up what the subscribed streams stand for; an unknown one stays silent, as Binance's do."""
        trades, aggregates, klines = set(), set(), []
        for name in connection.streams:
            match = _STREAM.fullmatch(name)
            index = self._index.get(match["symbol"].upper()) if match else None
            if match is None or index is None or match["symbol"] != match["symbol"].lower():
                continue
            if match["kind"] == "trade":
                trades.add(index)
            elif match["kind"] == "aggTrade":
                aggregates.add(index)
            elif match["interval"] in INTERVALS:
                offset = 8 * 60 * MINUTE if match["zone"] else 0
                klines.append(_KlineStream(name, index, match["interval"], offset))
        connection.trades, connection.aggregates = frozenset(trades), frozenset(aggregates)
        connection.klines = tuple(klines)

    def _control(self, connection: _Connection, text: str | bytes) -> dict[str, Any]:
        """Answer a control message (web-socket-streams.md, Live Subscribing, and its error table)."""
        text = text if isinstance(text, str) else text.decode(errors="replace")
        try:
            body = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            msg = f"Invalid JSON: expected value at line {error.lineno} column {error.colno}"
            return {"code": 3, "msg": msg}
        end = f"at line 1 column {len(text)}"
        if not isinstance(body, dict):
            return _invalid(f"expected an object {end}")
        if "method" not in body:
            return _invalid(f"missing field `method` {end}")
        method, number = body["method"], body.get("id")
        known = ("SUBSCRIBE", "UNSUBSCRIBE", "LIST_SUBSCRIPTIONS", "SET_PROPERTY", "GET_PROPERTY")
        if method not in known:
            token = orjson.dumps(method).decode()
            column = text.find(token) + len(token)
            names = ", ".join(f"`{k}`" for k in known)
            shown = method if isinstance(method, str) else token
            return _invalid(f"unknown variant `{shown}`, expected one of {names} at line 1 column {column}")
        if "id" not in body or not _is_request_id(number):
            return _invalid("request ID must be an unsigned integer")
        params = body.get("params", [])
        if not isinstance(params, list):
            return _invalid(f"params must be an array {end}")
        result: Any = None
        if method == "LIST_SUBSCRIPTIONS":
            if params:
                return _invalid("too many parameters")
            result = list(connection.streams)
        elif method.endswith("PROPERTY"):
            wanted = 2 if method == "SET_PROPERTY" else 1
            if not params or not isinstance(params[0], str):
                return _invalid("property name must be a string")
            if len(params) > wanted:
                return _invalid("too many parameters")
            if params[0] != "combined":
                return {"code": 0, "msg": "Unknown property", "id": number}
            if method == "GET_PROPERTY":
                result = connection.combined
            elif len(params) < wanted or not isinstance(params[1], bool):
                return {"code": 1, "msg": "Invalid value type: expected Boolean"}
            else:
                connection.combined = params[1]
        else:
            if not all(isinstance(p, str) for p in params):
                return _invalid("stream name must be a string")
            for name in params:
                if method == "SUBSCRIBE":
                    connection.streams[name] = None
                else:
                    connection.streams.pop(name, None)
            self._resolve(connection)
        return {"result": result, "id": number}

    # -- faults -------------------------------------------------------------------------------------------------

    def _plan(self, faults: "tuple[Fault, ...] | list[Fault]") -> None:
        for fault in faults:
            if fault.symbol is not None and fault.symbol not in self._index:
                msg = f"fault {fault.kind}: symbol {fault.symbol!r} is not traded here"
                raise ValueError(msg)
            if fault.kind in ("halt", "delist") and isinstance(self.market, RecordedMarket):
                msg = f"fault {fault.kind}: a recording cannot be halted, its trades have happened"
                raise ValueError(msg)
        for fault in faults:
            if fault.at is None:
                self._apply(fault)
            else:
                at = self.market.start + int(fault.at * SECOND)
                self._after(at, lambda fault=fault: self._apply(fault))  # type: ignore[misc]

    def _after(self, at: int, action: Callable[[], None]) -> None:
        """Do something at an exchange time, us."""
        heapq.heappush(self._events, (at, next(self._order), action))

    def _lasting(self, fault: Fault, end: Callable[[], None]) -> None:
        if fault.duration:
            self._after(self._sent + int(fault.duration * SECOND), end)

    def _apply(self, fault: Fault) -> None:
        self._applied.append(fault)
        if fault.kind in CONNECTION_KINDS:
            for connection in list(self._connections):
                if fault.connection in (None, connection.number):
                    self._apply_to(connection, fault)
        elif fault.kind in REST_KINDS:
            self._rest_faults.append((fault, [fault.count]))
        elif fault.kind in SYMBOL_KINDS:
            for index, symbol in enumerate(self.market.symbols):
                if fault.symbol in (None, symbol.name):
                    self._stop_symbol(index, fault)
        elif fault.kind == "clock":
            jump = int(fault.value * SECOND)
            self._jumped += jump

            def back() -> None:
                self._jumped -= jump

            self._lasting(fault, back)
        elif fault.kind == "hang":
            self._hanging += 1

            def answer() -> None:
                self._hanging -= 1

            self._lasting(fault, answer)
        else:
            self._refuse(fault)
        if fault.at is not None and self.config.fault_seed is not None and fault not in self.config.faults:
            self._plan([next(self._schedule)])

    def _apply_to(self, connection: _Connection, fault: Fault) -> None:
        now = time.monotonic()
        if fault.kind == "abort":
            connection.transport.abort()
        elif fault.kind == "expire":
            self._end(connection, POLICY, b"disconnected")
        elif fault.kind == "shutdown":
            event = f'{{"e":"serverShutdown","E":{self.now() // (1 if connection.micro else 1_000)}}}'
            connection.send(frame(wrap("!serverShutdown", event, connection.combined)), now)
            self._after(self._sent + int(fault.value * SECOND), lambda: self._end(connection, 1001, b""))
        elif fault.kind == "silence":
            connection.silent = True

            def speak() -> None:
                connection.silent = False

            self._lasting(fault, speak)
        elif fault.kind == "slow":
            connection.bytes_per_second = fault.value

            def hurry() -> None:
                connection.bytes_per_second = 0.0

            self._lasting(fault, hurry)
        elif fault.kind == "delay":
            connection.delay = fault.value

            def catch_up() -> None:
                connection.delay = 0.0

            self._lasting(fault, catch_up)
        elif fault.kind == "unknown":
            for number in range(fault.count):
                connection.send(_NONSENSE[number % len(_NONSENSE)], now)
        elif fault.kind in FRAME_KINDS and fault.count:
            connection.frames.append(_FrameFault(fault.kind, fault.symbol, fault.count))

    def _stop_symbol(self, index: int, fault: Fault) -> None:
        if fault.kind == "remove":
            self._index.pop(self.market.symbols[index].name, None)
            for connection in self._connections:
                self._resolve(connection)
            return
        stop = self._sent + int(fault.duration * SECOND) if fault.kind == "halt" and fault.duration else 2**62
        self.market.halt(index, self._sent, stop)
        self._status[index] = "HALT" if fault.kind == "halt" else "BREAK"

        def resume() -> None:
            if self._status[index] == "HALT":
                self._status[index] = "TRADING"

        if fault.kind == "halt":
            self._lasting(fault, resume)

    def _refuse(self, fault: Fault) -> None:
        self._refusing += 1
        if self._listener is not None:
            self._listener.close()
            self._listener = None

        def listen() -> None:
            self._refusing -= 1
            if not self._refusing:
                self._spawn(self._listen())

        self._lasting(fault, listen)

    async def _order_faults(self, request: web.Request) -> web.Response:
        try:
            body = orjson.loads(await request.read())
            faults = [fault_of(values) for values in (body if isinstance(body, list) else [body])]
            self._plan(faults)
        except (ValueError, TypeError) as error:
            return web.json_response({"error": str(error)}, status=400)
        return web.json_response({"accepted": len(faults)})

    async def _nothing_listed(self, request: web.Request) -> web.Response:
        body = {"timezone": "UTC", "serverTime": self.now() // 1_000, "rateLimits": [], "symbols": []}
        return web.json_response(body)

    async def _show(self, request: web.Request) -> web.Response:
        symbols = {}
        for name, index in self._index.items():
            trade, order = self.market.ids_at(index, self._sent)
            symbols[name] = {
                "status": self._status[index],
                "lastTrade": trade - 1,
                "lastAggregate": order - 1,
            }
        body = {
            "market": self.market.name,
            "time": self.now(),
            "symbols": symbols,
            "connections": [c.number for c in self._connections],
            "faults": [{k: v for k, v in vars(f).items() if v is not None} for f in self._applied],
        }
        return web.json_response(body)

    # -- REST ---------------------------------------------------------------------------------------------------

    async def _rest(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["endpoint"]
        endpoint = self._api.endpoints.get(name)
        if endpoint is None:
            return web.Response(status=404, text="")
        short = None
        headers: dict[str, str] = {}
        try:
            self._charge(name, endpoint, request.query, headers)
            for fault in self._hit(name):
                if fault.kind == "short":
                    short = int(fault.value)
                elif fault.kind == "timeout":
                    await asyncio.sleep(fault.value)
                    text = "Timeout waiting for response from backend server. Send status unknown; execution status unknown."
                    raise ApiError(-1007, text, 408)
                else:
                    _fail(int(fault.value), self.now())
            unit = _time_unit(request.headers.get("X-MBX-TIME-UNIT")) if self.market.name == "spot" else 1_000
            body = await self._answer(name, endpoint, request, unit, short)
        except ApiError as error:
            response = _refusal(error)
            response.headers.update(headers)
            return response
        return web.Response(body=orjson.dumps(body), content_type="application/json", headers=headers)

    def _hit(self, endpoint: str) -> list[Fault]:
        """Return the REST faults that hit a request, and count them down."""
        hit = []
        for fault, left in self._rest_faults:
            if fault.endpoint in (None, endpoint) and left[0] > 0:
                left[0] -= 1
                hit.append(fault)
        self._rest_faults = [(f, left) for f, left in self._rest_faults if left[0] > 0]
        return hit

    def _charge(
        self, name: str, endpoint: _Endpoint, query: Mapping[str, str], headers: dict[str, str]
    ) -> None:
        """Count a request's weight, in real minutes.

        :raises ApiError: 429 past the limit, 418 for a client that goes on regardless.
        """
        now = time.time()
        if now < self._banned_until:
            raise self._ban_error(now)
        if int(now // 60) != self._minute:
            self._minute, self._weight, self._refused = int(now // 60), 0, 0
        weight = endpoint.weight
        if not weight:  # USD-M klines
            limit = int(query["limit"]) if query.get("limit", "").isdecimal() else endpoint.limit
            weight = next(w for most, w in ((99, 1), (499, 2), (1_000, 5), (10**20, 10)) if limit <= most)
        self._weight += weight
        headers["X-MBX-USED-WEIGHT"] = headers["X-MBX-USED-WEIGHT-1M"] = str(self._weight)
        limit = self.config.weight_limit or self._api.weight_limit
        if self._weight > limit:
            self._refused += 1
            if self._refused > BAN_AFTER:
                self._banned_until = now + min(BAN_SECONDS[0] * 2**self._bans, BAN_SECONDS[1])
                self._bans += 1
                raise self._ban_error(now)
            text = (
                f"Too much request weight used; current limit is {limit} request weight per 1 MINUTE. "
                "Please use WebSocket Streams for live updates to avoid polling the API."
            )
            raise ApiError(-1003, text, 429, 60 - now % 60)

    def _ban_error(self, now: float) -> ApiError:
        text = (
            f"Way too much request weight used; IP banned until {int(self._banned_until * 1_000)}. "
            "Please use WebSocket Streams for live updates to avoid bans."
        )
        return ApiError(-1003, text, 418, self._banned_until - now)

    async def _answer(
        self, name: str, endpoint: _Endpoint, request: web.Request, unit: int, short: int | None
    ) -> Any:
        query = _Query(request.query)
        query.check(endpoint.parameters)
        if name == "ping":
            return {}
        if name == "time":
            return {"serverTime": self.now() // unit}
        if name == "exchangeInfo":
            return self._exchange_info(query, unit)
        index = self._symbol(query.symbol())
        spot = self.market.name == "spot"
        limit = query.number("limit")
        if limit is None:
            limit = endpoint.limit
        if limit < 1 or (limit > endpoint.most and not spot):
            raise ApiError(-1130, "Data sent for parameter 'limit' is not valid.")
        limit = min(limit, endpoint.most)
        if short is not None:
            limit = min(limit, max(short, 1))
        if name in ("klines", "uiKlines"):
            return await self._kline_rows(index, query, limit, unit)
        if name == "aggTrades":
            return self._aggregate_rows(index, query, limit, unit)
        if name == "historicalTrades" and not spot and "X-MBX-APIKEY" not in request.headers:
            raise ApiError(-2014, "API-key format invalid.", 401)
        return self._trade_rows(
            index, query.number("fromId") if name == "historicalTrades" else None, limit, unit
        )

    def _symbol(self, name: str) -> int:
        index = self._index.get(name)
        if index is None:
            raise ApiError(-1121, "Invalid symbol.")
        return index

    def _trade_rows(self, index: int, first: int | None, limit: int, unit: int) -> list[dict[str, Any]]:
        stop = self.market.ids_at(index, self._sent)[0]
        # A few more than asked for: fills that are no market trades are left out.
        more = limit + 50
        if first is None:
            ticks = self.market.trades(index, stop - more, stop)
            ticks = ticks.take(ticks.market).take(slice(-limit, None))
        else:
            ticks = self.market.trades(index, first, min(first + more, stop))
            if ticks.id.size < limit and first + more <= stop:
                first = max(first, self.market.ids_at(index, self.market.earliest(index))[0])
                ticks = self.market.trades(index, first, min(first + more, stop))
            ticks = ticks.take(ticks.market).take(slice(0, limit))
        spot = self.market.name == "spot"
        return [
            {
                "id": number,
                "price": self._text.price(index, price),
                "qty": self._text.quantity(index, quantity),
                "quoteQty": self._text.quote(index, price * quantity),
                "time": at // unit,
                "isBuyerMaker": maker,
                **({"isBestMatch": True} if spot else {"isRPITrade": False}),
            }
            for _, number, _, at, price, quantity, maker, _ in zip(*(c.tolist() for c in ticks))
        ]

    def _aggregate_rows(self, index: int, query: "_Query", limit: int, unit: int) -> list[dict[str, Any]]:
        first, (begin, end) = query.number("fromId"), query.times()
        if first is not None and (begin is not None or end is not None):
            raise ApiError(-1128, "Combination of optional parameters invalid.")
        hour = 3_600 * SECOND
        if self.market.name == "usdm" and begin is not None and end is not None and end - begin > hour:
            raise ApiError(-1127, "More than 1 hours between startTime and endTime.")
        stop = self.market.ids_at(index, self._sent)[1]
        if end is not None:
            stop = min(stop, self.market.ids_at(index, end + 1)[1])
        if begin is not None:
            first = self.market.ids_at(index, begin)[1]
        if first is None:
            first = stop - limit
        rows = self.market.aggregates(index, first, min(first + limit, stop))
        if rows.id.size < limit and first + limit <= stop:
            first = max(first, self.market.ids_at(index, self.market.earliest(index))[1])
            rows = self.market.aggregates(index, first, min(first + limit, stop))
        spot = self.market.name == "spot"
        return [
            {
                "a": number,
                "p": self._text.price(index, price),
                "q": self._text.quantity(index, quantity),
                "f": low,
                "l": high,
                "T": at // unit,
                "m": maker,
                **({"M": True} if spot else {}),
            }
            for _, number, low, high, at, price, quantity, maker in zip(*(c.tolist() for c in rows))
        ]

    async def _kline_rows(self, index: int, query: "_Query", limit: int, unit: int) -> list[list[Any]]:
        interval = query.text("interval")
        if interval not in INTERVALS or (interval == "1s" and self.market.name == "usdm"):
            raise ApiError(-1120, "Invalid interval.")
        offset, (begin, end) = query.zone(), query.times()
        earliest = self.market.earliest(index)
        last = open_time(min(self._sent - 1, self._sent if end is None else end), interval, offset)
        opened: list[int] = []
        if begin is None:
            at = last
            while at >= open_time(earliest, interval, offset) and len(opened) < limit:
                opened.append(at)
                at = open_time(at - 1, interval, offset)
            opened.reverse()
        else:
            at = open_time(max(begin, earliest), interval, offset)
            if at < begin:
                at = next_open(at, interval, offset)
            while at <= last and len(opened) < limit:
                opened.append(at)
                at = next_open(at, interval, offset)
        now = self._sent
        for _ in self._klines.prepare(index, interval, offset, opened, now):
            await asyncio.sleep(0)
        text = self._text
        return [
            [
                k.open_time // unit,
                text.price(index, k.open),
                text.price(index, k.high),
                text.price(index, k.low),
                text.price(index, k.close),
                text.quantity(index, k.volume),
                (k.close_time - 1) // unit,
                text.quote(index, k.quote),
                k.trades,
                text.quantity(index, k.taker_volume),
                text.quote(index, k.taker_quote),
                "0",
            ]
            for k in self._klines.query(index, interval, offset, opened, now)
        ]

    def _exchange_info(self, query: "_Query", unit: int) -> dict[str, Any]:
        spot = self.market.name == "spot"
        names = list(self._index)
        if "symbol" in query.values and "symbols" in query.values:
            raise ApiError(-1128, "Combination of optional parameters invalid.")
        if "symbol" in query.values:
            names = [query.symbol()]
        elif "symbols" in query.values:
            names = query.names("symbols")
        elif "permissions" in query.values:
            raw = query.text("permissions")
            wanted = query.names("permissions") if raw.startswith("[") else [raw]
            names = names if {"SPOT", "MARGIN"} & set(wanted) else []
        if "symbolStatus" in query.values:
            if "symbol" in query.values or "symbols" in query.values:
                raise ApiError(-1128, "Combination of optional parameters invalid.")
            status = query.text("symbolStatus")
            if status not in ("TRADING", "HALT", "BREAK"):
                raise ApiError(-1122, "Invalid symbolStatus.")
            names = [n for n in names if self._status[self._index[n]] == status]
        limits = [("REQUEST_WEIGHT", "MINUTE", 1, self.config.weight_limit or self._api.weight_limit)]
        if spot:
            limits += [
                ("ORDERS", "SECOND", 10, 100),
                ("ORDERS", "DAY", 1, 200_000),
                ("RAW_REQUESTS", "MINUTE", 5, 61_000),
            ]
        else:
            limits += [("ORDERS", "MINUTE", 1, 1_200), ("ORDERS", "SECOND", 10, 300)]
        keys = ("rateLimitType", "interval", "intervalNum", "limit")
        show = query.values.get("showPermissionSets", "true") != "false"
        describe = (
            (lambda i: _spot_symbol(self.market.symbols[i], self._status[i], show))
            if spot
            else self._usdm_symbol
        )
        body: dict[str, Any] = {
            "timezone": "UTC",
            "serverTime": self.now() // unit,
            "rateLimits": [dict(zip(keys, limit)) for limit in limits],
            "exchangeFilters": [],
            "symbols": [describe(self._symbol(n)) for n in names],
        }
        if not spot:
            body["futuresType"] = "U_MARGINED"
            assets = sorted({s.quote for s in self.market.symbols})
            body["assets"] = [{"asset": a, "marginAvailable": True, "autoAssetExchange": "0"} for a in assets]
        return body

    def _usdm_symbol(self, index: int) -> dict[str, Any]:
        spec = self.market.symbols[index]
        return {
            "symbol": spec.name,
            "pair": spec.name,
            "contractType": "PERPETUAL",
            "deliveryDate": 4_133_404_800_000,
            "onboardDate": self.market.earliest(index) // 1_000,
            "status": {"TRADING": "TRADING", "HALT": "PENDING_TRADING", "BREAK": "SETTLING"}[
                self._status[index]
            ],
            "maintMarginPercent": "2.5000",
            "requiredMarginPercent": "5.0000",
            "baseAsset": spec.base,
            "quoteAsset": spec.quote,
            "marginAsset": spec.quote,
            "pricePrecision": spec.price_decimals,
            "quantityPrecision": spec.quantity_decimals,
            "baseAssetPrecision": 8,
            "quotePrecision": 8,
            "underlyingType": "COIN",
            "underlyingSubType": [],
            "triggerProtect": "0.0500",
            "liquidationFee": "0.012500",
            "marketTakeBound": "0.05",
            "maxMoveOrderLimit": 10_000,
            "filters": _filters(spec, "usdm"),
            "orderTypes": ["LIMIT", "MARKET", "STOP", "STOP_MARKET", "TAKE_PROFIT", "TAKE_PROFIT_MARKET"],
            "timeInForce": ["GTC", "IOC", "FOK", "GTX", "GTD"],
        }


class _Query:
    """A request's parameters, read as Binance reads them.

    :raises ApiError: from every method, for what errors.md has a code for.
    """

    def __init__(self, values: Mapping[str, str]) -> None:
        self.values = values

    def check(self, allowed: frozenset[str]) -> None:
        names = [name for name, _ in self.values.items()]  # a MultiDict's items repeat, its keys may not
        if len(names) != len(set(names)):
            raise ApiError(-1101, "Duplicate values for a parameter detected.")
        if not set(names) <= allowed:
            read = len(set(names) & allowed)
            raise ApiError(
                -1104,
                f"Not all sent parameters were read; read '{read}' parameter(s) but was sent '{len(names)}'.",
            )

    def text(self, name: str) -> str:
        value = self.values.get(name, "")
        if not value:
            raise ApiError(-1102, f"Mandatory parameter '{name}' was not sent, was empty/null, or malformed.")
        return value

    def symbol(self) -> str:
        name = self.text("symbol")
        if not re.fullmatch(r"[\w\-.]{1,50}", name) or any("a" <= c <= "z" for c in name):
            _illegal("symbol", _SYMBOL_RANGE)
        return name

    def names(self, name: str) -> list[str]:
        try:
            values = orjson.loads(self.text(name))
        except orjson.JSONDecodeError:
            values = None
        if not isinstance(values, list) or not values or not all(isinstance(v, str) for v in values):
            raise ApiError(
                -1100,
                f"Illegal characters found in parameter '{name}'; legal range is '^\\[(\"[\\w\\-._&&[^a-z]]{{1,50}}\"(,\"[\\w\\-._&&[^a-z]]{{1,50}}\"){{0,}})?\\]$'.",
            )
        if len(set(values)) < len(values):
            raise ApiError(-1151, "Symbol is present multiple times in the list.")
        return values

    def number(self, name: str) -> int | None:
        if name not in self.values:
            return None
        value = self.values[name]
        if not value:
            raise ApiError(-1105, f"Parameter '{name}' was empty.")
        if not (value.isascii() and value.isdecimal() and len(value) <= 20):
            _illegal(name, _NUMBER_RANGE)
        if int(value) >= 2**63:
            raise ApiError(-1108, f"Parameter '{name}' overflowed.")
        return int(value)

    def times(self) -> tuple[int | None, int | None]:
        """Return start and end time, us, both inclusive; they come in ms or us."""
        begin, end = self.number("startTime"), self.number("endTime")
        if begin is not None and begin < _MICRO:
            begin *= 1_000
        if end is not None and end < _MICRO:
            end = end * 1_000 + 999
        return begin, end

    def zone(self) -> int:
        """Return the time zone, us east of UTC."""
        value = self.values.get("timeZone", "0")
        match = re.fullmatch(r"(?P<sign>[+-]?)(?P<hours>\d{1,2})(:(?P<minutes>[0-5]\d))?", value)
        minutes = 0
        if match:
            minutes = int(match["hours"]) * 60 + int(match["minutes"] or 0)
            minutes = -minutes if match["sign"] == "-" else minutes
        if not match or not -12 * 60 <= minutes <= 14 * 60:
            raise ApiError(-1130, "Data sent for parameter 'timeZone' is not valid.")
        return minutes * MINUTE


_MICRO = 10**14
"""A time of this size or more is in us: in ms it would lie after the year 5138."""

_NONSENSE = (
    frame(b'{"e":"somethingNew","E":1770123456789,"s":"BTCUSDT","x":{"y":[1,2,3]}}'),
    frame(b'{"stream":"btcusdt@somethingNew","data":{"e":"somethingNew","E":1770123456789}}'),
    frame(b"[]"),
    frame(b"null"),
    frame(b'"text"'),
    frame(b""),
    frame(b"\x00\x01\x02\xff", 2),
    frame(b'{"e":"trade"}'),
    frame(b'{"stream":"btcusdt@trade"}'),
)


def _invalid(text: str) -> dict[str, Any]:
    return {"code": 2, "msg": f"Invalid request: {text}"}


def _is_request_id(value: object) -> bool:
    if isinstance(value, str):
        return len(value) <= 36 and value.isalnum()
    return value is None or (
        isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63
    )


def _illegal(name: str, legal: str) -> NoReturn:
    raise ApiError(-1100, f"Illegal characters found in parameter '{name}'; legal range is '{legal}'.")


def _stream_names(request: web.Request) -> str:
    """Return the parameter ``streams``, whose plus sign (``@+08:00``) is a plus sign, not a space."""
    for part in request.rel_url.raw_query_string.split("&"):
        name, _, value = part.partition("=")
        if name == "streams":
            return unquote(value)
    return ""


def _time_unit(text: str | None) -> int:
    """Return the us in a time unit."""
    if text in (None, "MILLISECOND", "millisecond"):
        return 1_000
    if text in ("MICROSECOND", "microsecond"):
        return 1
    raise ApiError(-1194, "Invalid value for time unit; expected either MICROSECOND or MILLISECOND.")


def _refusal(error: ApiError) -> web.Response:
    headers = {} if error.wait is None else {"Retry-After": str(max(1, int(error.wait + 0.999)))}
    body = orjson.dumps({"code": error.code, "msg": error.text})
    return web.Response(status=error.status, body=body, content_type="application/json", headers=headers)


def _fail(status: int, now: int) -> NoReturn:
    """Answer as Binance does with an HTTP status of its own accord."""
    if status == 429:
        raise ApiError(-1003, "Too many requests queued.", 429, 1.0)
    if status == 418:
        text = f"Way too much request weight used; IP banned until {now // 1_000 + 2_000}."
        raise ApiError(-1003, text, 418, 2.0)
    if status == 403:
        raise web.HTTPForbidden(text="<html><body>403 Forbidden</body></html>", content_type="text/html")
    if status == 503:
        raise ApiError(
            -1008,
            "Server is currently overloaded with other requests. Please try again in a few minutes.",
            503,
        )
    raise ApiError(-1000, "An unknown error occurred while processing the request.", status)


def _filters(spec: Symbol, market: MarketName) -> list[dict[str, Any]]:
    """Return price, lot and notional filters, decimals written as the market writes them."""
    shown = 8 if market == "spot" else spec.price_decimals
    tick, step = spec.tick * 10.0**-spec.price_decimals, 10.0**-spec.quantity_decimals
    digits = 8 if market == "spot" else spec.quantity_decimals

    def price(value: float) -> str:
        return f"{value:.{shown}f}"

    def lot(value: float) -> str:
        return f"{value:.{digits}f}"

    largest = float(f"{max(9000 * step, 9e6 / spec.price):.1g}")
    lots = {"minQty": lot(step), "maxQty": lot(largest), "stepSize": lot(step)}
    filters: list[dict[str, Any]] = [
        {
            "filterType": "PRICE_FILTER",
            "minPrice": price(tick),
            "maxPrice": price(float(f"{spec.price * 15:.1g}")),
            "tickSize": price(tick),
        },
        {"filterType": "LOT_SIZE", **lots},
    ]
    if market == "spot":
        filters += [
            {"filterType": "ICEBERG_PARTS", "limit": 10},
            {
                "filterType": "MARKET_LOT_SIZE",
                "minQty": lot(0),
                "maxQty": lot(largest / 10),
                "stepSize": lot(0),
            },
            {
                "filterType": "NOTIONAL",
                "minNotional": "5.00000000",
                "applyMinToMarket": True,
                "maxNotional": "9000000.00000000",
                "applyMaxToMarket": False,
                "avgPriceMins": 5,
            },
            {"filterType": "MAX_NUM_ORDERS", "maxNumOrders": 200},
            {"filterType": "MAX_NUM_ALGO_ORDERS", "maxNumAlgoOrders": 5},
        ]
    else:
        filters += [
            {"filterType": "MARKET_LOT_SIZE", **lots},
            {"filterType": "MAX_NUM_ORDERS", "limit": 200},
            {"filterType": "MIN_NOTIONAL", "notional": "5"},
            {
                "filterType": "PERCENT_PRICE",
                "multiplierUp": "1.0500",
                "multiplierDown": "0.9500",
                "multiplierDecimal": "4",
            },
        ]
    return filters


def _spot_symbol(spec: Symbol, status: str, show_permissions: bool) -> dict[str, Any]:
    return {
        "symbol": spec.name,
        "status": status,
        "baseAsset": spec.base,
        "baseAssetPrecision": 8,
        "quoteAsset": spec.quote,
        "quotePrecision": 8,
        "quoteAssetPrecision": 8,
        "baseCommissionPrecision": 8,
        "quoteCommissionPrecision": 8,
        "orderTypes": [
            "LIMIT",
            "LIMIT_MAKER",
            "MARKET",
            "STOP_LOSS",
            "STOP_LOSS_LIMIT",
            "TAKE_PROFIT",
            "TAKE_PROFIT_LIMIT",
        ],
        "icebergAllowed": True,
        "ocoAllowed": True,
        "otoAllowed": True,
        "opoAllowed": True,
        "quoteOrderQtyMarketAllowed": True,
        "allowTrailingStop": True,
        "cancelReplaceAllowed": True,
        "amendAllowed": True,
        "pegInstructionsAllowed": True,
        "isSpotTradingAllowed": True,
        "isMarginTradingAllowed": True,
        "filters": _filters(spec, "spot"),
        "permissions": [],
        "permissionSets": [["SPOT", "MARGIN"]] if show_permissions else [],
        "defaultSelfTradePreventionMode": "EXPIRE_MAKER",
        "allowedSelfTradePreventionModes": ["EXPIRE_TAKER", "EXPIRE_MAKER", "EXPIRE_BOTH", "DECREMENT"],
    }
