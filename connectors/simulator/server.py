"""The exchange's protocol: WebSocket streams and REST on one port, as Binance documents them.

The market runs on the exchange's clock, which may run faster than real time. What a client waits for by its
own clock (pings, limits, Retry-After, the life of a connection) runs in real seconds.
"""

import asyncio
import heapq
import itertools
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

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
from connectors.simulator.frames import LATENCY, Encoder, frame, wrap
from connectors.simulator.klines import Kline, Klines, open_time
from connectors.simulator.market import (
    NO_TICKS,
    Market,
    MarketName,
    ModelMarket,
    RecordedMarket,
    Ticks,
    aggregate,
)
from connectors.simulator.rest import ApiError, Rest, refusal, time_unit
from connectors.simulator.streams import (
    MAX_STREAMS,
    NONSENSE,
    Connection,
    FrameFault,
    KlineStream,
    stream_names,
)
from kernels.records import SECOND, Block

T = TypeVar("T")

PUMP_INTERVAL = 0.01
"""Real seconds between two looks at the market."""

BUFFER_LIMIT = 64 * 2**20
"""Bytes a client may leave unread before it is dropped."""

SHUTDOWN_NOTICE = 5.0
"""Real seconds between the serverShutdown event and the end of a connection (half its life, if less)."""

GOING_AWAY = 1001

CONNECT_WINDOW = 300.0
"""Real seconds in which connection attempts are counted."""

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
    :arg recording: files to play back instead of the model, as `RecordedMarket` takes them; they say which
        market and symbols there are.
    :arg keep_times: play a recording at its own times; else its times are shifted to now by whole minutes.
    :arg clock_offset: seconds that the exchange's clock is ahead of the local one.
    :arg faults: faults with a time of their own.
    :arg fault_seed: seed of a schedule of faults; None: none.
    :arg ping_interval: real seconds between pings.
    :arg pong_timeout: real seconds after which a connection without a pong is closed.
    :arg life: real seconds that a connection lives.
    :arg connect_limit: WebSocket connection attempts per five minutes.
    :arg weight_limit: request weight per minute; None: the market's own (6,000 spot, 2,400 USD-M).
    :arg rest_latency: real seconds that each REST answer takes beyond its own work.
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
    rest_latency: float = 0.0

    def __post_init__(self) -> None:
        for name in ("speed", "ping_interval", "pong_timeout", "life"):
            if not getattr(self, name) > 0:
                msg = f"{name} {getattr(self, name)}: expected more than 0"
                raise ValueError(msg)
        if self.seed < 0:
            msg = f"seed {self.seed}: expected 0 or more"
            raise ValueError(msg)
        for name in ("history", "rest_latency"):
            if not getattr(self, name) >= 0:
                msg = f"{name} {getattr(self, name)}: expected seconds, 0 or more"
                raise ValueError(msg)


class Simulator:
    """A Binance-compatible exchange.

    Use it as ``async with`` on a running loop, or as ``with`` to run it on a thread of its own. Its methods
    may be called from any thread.

    :arg config: what to simulate.
    :raises ValueError: when the market cannot be made.
    :ivar url: base of REST, such as ``http://127.0.0.1:8080``.
    :ivar ws_url: base of the streams, such as ``ws://127.0.0.1:8080``.
    :ivar market: what is traded.
    :ivar hits: how often each kind of fault hit: connections, handshakes, REST requests (those of `error` by
        status: ``error 429``), or the exchange as a whole.
    """

    def __init__(self, config: Config | None = None) -> None:
        self.config = config = config or Config()
        self.url = self.ws_url = ""
        self.hits: Counter[str] = Counter()
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
        self._index = {s.name: i for i, s in enumerate(self.market.symbols)}
        self._check(config.faults)
        self._status = ["TRADING"] * len(self._index)
        self._klines = Klines(self.market)
        self._encoder = Encoder(self.market)
        # A model opens on a whole second; the clock goes on from where it was asked to start.
        self._origin = (
            self.market.start if config.recording and config.keep_times else max(start, self.market.start)
        )
        self._notice = min(SHUTDOWN_NOTICE, config.life / 2)
        self._opened = 0.0
        self._jumped = 0
        self._sent = self.market.start
        self._rest = Rest(
            self.market,
            self._klines,
            self._index,
            self._status,
            self.now,
            lambda: self._sent,
            config.weight_limit,
            config.rest_latency,
            self.hits,
        )
        self._connections: dict[Connection, None] = {}
        self._numbers = itertools.count()
        self._attempts: deque[float] = deque()
        self._hanging = 0
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._applied: list[Fault] = []
        self._schedule: Iterator[Fault] = iter(())
        self._runner: web.AppRunner | None = None
        self._listener: asyncio.Server | None = None
        self._refusing = 0
        self._port = config.port
        self._task: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closing: asyncio.Event | None = None

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

    async def _open(self) -> None:
        app = web.Application()
        app.router.add_routes(self._rest.routes())
        # USD-M streams moved under /market and /public; the bare paths stay for clients that have not.
        for base in ("", "/market", "/public") if self.market.name == "usdm" else ("",):
            app.router.add_get(base + "/ws", self._stream)
            app.router.add_get(base + "/ws/{streams:.*}", self._stream)
            app.router.add_get(base + "/stream", self._stream)
        app.router.add_get("/simulator", self._show)
        app.router.add_post("/simulator/faults", self._order_faults)
        self._loop = asyncio.get_running_loop()
        # A URL may name 1,024 streams.
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, max_line_size=2**16)
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
            self._plan_next()
        self._task = asyncio.create_task(self._pump())

    async def _listen(self) -> None:
        assert self._runner is not None
        assert self._runner.server is not None
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(
            self._runner.server, self.config.host, self._port, reuse_address=True, backlog=1024
        )
        self._port = self._listener.sockets[0].getsockname()[1]

    async def _listen_again(self) -> None:
        """Listen on the port as before; meanwhile another program may have come to use it for a moment."""
        while self._listener is None and not self._refusing:
            try:
                await self._listen()
            except OSError:
                await asyncio.sleep(0.1)

    async def _close(self) -> None:
        assert self._task is not None
        assert self._runner is not None
        self._task.cancel()
        for task in self._tasks:
            task.cancel()
        if self._listener is not None:
            self._listener.close()
        for connection in list(self._connections):
            self._announce_end(connection)
            connection.send(frame(GOING_AWAY.to_bytes(2, "big"), 8), 0.0)
            connection.release(float("inf"))
            connection.transport.close()
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

    def _publish(self, until: int) -> None:
        """Send what happened up to a time, with the scheduled events and kline updates between."""
        while True:
            while self._events and self._events[0][0] <= self._sent:
                heapq.heappop(self._events)[2]()
            if self._sent >= until:
                return
            stop = min(until, self._sent + SECOND)  # a backlog is worked off a second at a time
            if self._events:
                stop = min(stop, self._events[0][0])
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
            if connection.frame_faults:
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

    def _tampered(self, connection: Connection, ticks: Ticks) -> bytes:
        form = connection.combined, connection.micro
        rows = self._of(ticks, connection.trades) if connection.trades else NO_TICKS
        pairs = list(zip(rows.symbol.tolist(), self._encoder.trade_payloads(rows, *form)))
        merged = aggregate(self._of(ticks, connection.aggregates) if connection.aggregates else NO_TICKS)
        pairs += zip(merged.symbol.tolist(), self._encoder.aggregate_payloads(merged, *form))
        return connection.tamper([(self.market.symbols[i].name, payload) for i, payload in pairs])

    def _publish_klines(self) -> None:
        """Send the kline updates of a whole second: 1 s klines as they close, others every 2 s too."""
        now = time.monotonic()
        found: dict[tuple[int, str, int, int], Kline | None] = {}

        def kline(wanted: KlineStream, time: int) -> Kline | None:
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

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        now = time.monotonic()
        while self._attempts and self._attempts[0] < now - CONNECT_WINDOW:
            self._attempts.popleft()
        self._attempts.append(now)
        limit = self.config.connect_limit
        if len(self._attempts) > limit:
            text = f"Too many connection attempts from IP; current limit is {limit} per '5 MINUTE'."
            return refusal(ApiError(-1034, text, 429, CONNECT_WINDOW))
        self.hits["hang"] += self._hanging > 0
        while self._hanging:
            await asyncio.sleep(0.05)
        try:
            micro = time_unit(request.query.get("timeUnit")) == 1
        except ApiError as error:
            return refusal(error)
        combined = request.path.endswith("/stream")
        if request.transport is None or request.transport.is_closing():
            return web.Response(status=499)  # gave up while the handshake hung
        socket = web.WebSocketResponse(autoping=False, autoclose=False, compress=False, timeout=1.0)
        if not socket.can_prepare(request):
            return web.Response(status=400, text="expected a WebSocket handshake\n")
        await socket.prepare(request)
        transport = request.transport
        assert isinstance(transport, asyncio.Transport)
        number, next_ping = next(self._numbers), now + self.config.ping_interval
        connection = Connection(number, socket, transport, combined, micro, now, next_ping)
        connection.streams = dict.fromkeys(stream_names(request))
        connection.resolve(self._index)
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
                if connection.over_limit():
                    await socket.close(code=POLICY, message=b"Too many requests")
                    break
                if message.type == WSMsgType.PING:
                    connection.send(frame(bytes(message.data), 0xA), time.monotonic())
                elif message.type == WSMsgType.PONG:
                    connection.ponged(bytes(message.data))
                else:
                    answer = orjson.dumps(connection.control(message.data, self._index))
                    connection.send(frame(answer), time.monotonic())
            while connection.silent and not transport.is_closing():
                await asyncio.sleep(0.05)  # half-open: not even a close frame is answered
            if not transport.is_closing():
                await socket.close()
        finally:
            self._connections.pop(connection, None)
        return socket

    def _tend(self, connection: Connection, now: float) -> None:
        """Do what a connection's clock asks for."""
        if connection.transport.is_closing():
            return
        connection.release(now)
        if connection.silent:
            return
        if connection.unsent > BUFFER_LIMIT:
            _log.warning("a client that does not read was dropped", connection=connection.number)
            connection.transport.abort()
        elif connection.pings and now - min(connection.pings.values()) > self.config.pong_timeout:
            self._end(connection, POLICY, b"Pong timeout")
        elif now - connection.opened > self.config.life:
            self.hits["expire"] += 1
            self._end(connection, POLICY, b"disconnected")
        elif not connection.ending and now - connection.opened > self.config.life - self._notice:
            self._announce_end(connection)
        elif now >= connection.next_ping:
            connection.next_ping = now + self.config.ping_interval
            payload = str(self.now() // 1_000).encode()
            connection.pings.setdefault(payload, now)
            connection.send(frame(payload, 9), now)

    def _announce_end(self, connection: Connection) -> None:
        connection.ending = True
        event = f'{{"e":"serverShutdown","E":{self.now() // (1 if connection.micro else 1_000)}}}'
        connection.send(frame(wrap("!serverShutdown", event, connection.combined)), time.monotonic())

    def _end(self, connection: Connection, code: int, reason: bytes) -> None:
        if connection.silent:
            return
        self._connections.pop(connection, None)
        connection.release(float("inf"))

        async def close() -> None:
            await connection.socket.close(code=code, message=reason)

        self._spawn(close())

    def _check(self, faults: Iterable[Fault]) -> None:
        for fault in faults:
            if fault.symbol is not None and fault.symbol not in self._index:
                msg = f"fault {fault.kind}: symbol {fault.symbol!r} is not traded here"
                raise ValueError(msg)
            if fault.kind in ("halt", "delist") and isinstance(self.market, RecordedMarket):
                msg = f"fault {fault.kind}: a recording cannot be halted, its trades have happened"
                raise ValueError(msg)

    def _plan(self, faults: Sequence[Fault]) -> None:
        self._check(faults)
        for fault in faults:
            if fault.at is None:
                self._apply(fault)
            else:
                at = self.market.start + int(fault.at * SECOND)
                self._after(at, lambda fault=fault: self._apply(fault))  # type: ignore[misc]

    def _plan_next(self) -> None:
        """Wait for the next fault of the seeded schedule."""
        fault = next(self._schedule)
        assert fault.at is not None

        def apply() -> None:
            self._apply(fault)
            self._plan_next()

        self._after(self.market.start + int(fault.at * SECOND), apply)

    def _after(self, at: int, action: Callable[[], None]) -> None:
        """Do something at an exchange time, us."""
        heapq.heappush(self._events, (at, next(self._order), action))

    def _lasting(self, fault: Fault, end: Callable[[], None]) -> None:
        if fault.duration:
            self._after(self._sent + int(fault.duration * SECOND), end)

    def _apply(self, fault: Fault) -> None:
        self._applied.append(fault)
        if fault.kind not in CONNECTION_KINDS | REST_KINDS | {"hang"}:
            self.hits[fault.kind] += 1
        if fault.kind in CONNECTION_KINDS:
            for connection in list(self._connections):
                if fault.connection in (None, connection.number):
                    self._apply_to(connection, fault)
        elif fault.kind in REST_KINDS:
            self._rest.inject(fault)
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

    def _apply_to(self, connection: Connection, fault: Fault) -> None:
        now = time.monotonic()
        self.hits[fault.kind] += 1
        if fault.kind == "abort":
            connection.transport.abort()
        elif fault.kind == "expire":
            self._end(connection, POLICY, b"disconnected")
        elif fault.kind == "shutdown":
            self._announce_end(connection)
            end = self._sent + int(fault.value * SECOND)
            self._after(end, lambda: self._end(connection, GOING_AWAY, b""))
        elif fault.kind == "silence":
            connection.silent = True

            def speak() -> None:
                connection.silent = False

            self._lasting(fault, speak)
        elif fault.kind == "slow":
            connection.bytes_per_second = fault.value

            def hurry() -> None:
                connection.bytes_per_second = 0.0
                connection.release(float("inf"))

            self._lasting(fault, hurry)
        elif fault.kind == "delay":
            connection.delay = fault.value

            def catch_up() -> None:
                connection.delay = 0.0

            self._lasting(fault, catch_up)
        elif fault.kind == "unknown":
            for number in range(fault.count):
                connection.send(NONSENSE[number % len(NONSENSE)], now)
        elif fault.kind in FRAME_KINDS and fault.count:
            connection.frame_faults.append(FrameFault(fault.kind, fault.symbol, fault.count))

    def _stop_symbol(self, index: int, fault: Fault) -> None:
        if fault.kind == "remove":
            self._index.pop(self.market.symbols[index].name, None)
            for connection in self._connections:
                connection.resolve(self._index)
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
                self._spawn(self._listen_again())

        self._lasting(fault, listen)

    async def _order_faults(self, request: web.Request) -> web.Response:
        try:
            body = orjson.loads(await request.read())
            faults = [fault_of(values) for values in (body if isinstance(body, list) else [body])]
            self._plan(faults)
        except (ValueError, TypeError) as error:
            return web.json_response({"error": str(error)}, status=400)
        return web.json_response({"accepted": len(faults)})

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
