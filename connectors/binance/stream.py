"""Receive Binance's trades live: every trade of every symbol, once, in id order.

    import signal
    import threading

    import bytewax.operators as op
    from bytewax.connectors.stdio import StdOutSink
    from bytewax.dataflow import Dataflow

    from connectors.binance.stream import BinanceSource

    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())

    flow = Dataflow("feed")
    trades = op.input("trades", flow, BinanceSource(["BTCUSDT", "ETHUSDT"], stop=stop))
    op.output("out", trades, StdOutSink())

A thread of its own owns the sockets and only moves bytes into a queue; decoding, ordering and gap keeping
happen in ``next_batch``, so that what was handed out, and so the snapshot, is known there and nowhere else.
"""

import asyncio
import contextlib
import heapq
import random
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypedDict
from urllib.parse import quote

import numpy as np
import structlog
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from numba import types
from numpy.typing import NDArray
from typing_extensions import override
from websockets.asyncio.client import ClientConnection, connect
from websockets.client import ClientProtocol
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI
from websockets.protocol import State

from connectors.binance.continuity import NONE, Continuity, GapBook, OpenGap
from connectors.binance.rest import PAGE, RestClient, RestError
from kernels.compile import kernel, warm_up
from kernels.decode import DecodeCounts, TradeDecoder
from kernels.records import SECOND, TRADE, Block, Trades

_LOG = structlog.get_logger()

_STREAMS_PER_CONNECTION: Final = 1024
_STREAMS_PER_REQUEST: Final = 200  # in the URL, and in each SUBSCRIBE: keeps both near 4 kB
_MAX_MESSAGE: Final = 1 << 20
_FRAMES_PER_BATCH: Final = 65_536  # 10 to 50 ms of decoding; more would delay snapshots
_EMPTY_ANSWERS: Final = 5  # then ids that REST does not have count as unavailable; 5 s in all
_OVERLAP: Final = 2.0  # s that both deliver when one connection replaces another; the worst lag seen is 0.2
_NO_TRADES: Final = np.empty(0, TRADE)
_EVENT_TIME = re.compile(rb'"E":(\d{13,16})')


@dataclass(frozen=True)
class Endpoints:
    """Where the exchange is.

    :arg ws: Base URLs of the WebSocket streams, tried in turn.
    :arg rest: Base URLs of the REST API, tried in turn.
    """

    ws: tuple[str, ...]
    rest: tuple[str, ...]


_ENDPOINTS: Final = {
    "spot": Endpoints(
        (
            "wss://stream.binance.com:9443",
            "wss://stream.binance.com:443",
            "wss://data-stream.binance.vision",
        ),
        (
            "https://api.binance.com",
            "https://api-gcp.binance.com",
            "https://api1.binance.com",
            "https://api2.binance.com",
            "https://api3.binance.com",
            "https://api4.binance.com",
            "https://data-api.binance.vision",
        ),
    ),
    "usdm": Endpoints(("wss://fstream.binance.com/market",), ("https://fapi.binance.com",)),
}


def default_endpoints(market: str) -> Endpoints:
    """Return Binance's own endpoints of a market.

    :arg market: ``spot`` or ``usdm``.
    :raises ValueError: If there is no such market.
    """
    if market not in _ENDPOINTS:
        msg = f"unknown market {market!r}: expected one of {', '.join(_ENDPOINTS)}"
        raise ValueError(msg)
    return _ENDPOINTS[market]


@dataclass
class FeedStatus:
    """What the feed is doing, for a status line and for metrics. Read it from any thread."""

    connections: dict[str, str] = field(default_factory=dict)
    """State of each connection, by name: ``connecting``, ``live``, ``retiring``."""
    endpoint: str = ""
    """WebSocket endpoint connected to last."""
    reconnections: int = 0
    """Connections opened because another was lost or had to end."""
    frames: int = 0
    """Messages received."""
    bytes: int = 0
    """Bytes received."""
    trades: int = 0
    """Trades handed out."""
    decode: DecodeCounts = field(default_factory=DecodeCounts)
    """What became of the frames."""
    duplicates: int = 0
    """Trades dropped because their id had come before."""
    overflows: int = 0
    """Messages dropped because the queue was full; they are fetched by REST."""
    buffered_bytes: int = 0
    """Bytes received and not decoded yet."""
    held: int = 0
    """Trades that wait for lower ids."""
    open_gaps: int = 0
    restored: int = 0
    """Trades that came by REST."""
    unavailable: int = 0
    """Trades that never came and never will."""
    last_message: float = 0.0
    """Local time of the last message, s since the epoch; 0 before the first."""
    lag: float = float("nan")
    """Local time of receipt minus event time of the last trade, s; includes the difference of the clocks."""
    rest_requests: int = 0
    weight_used: int = 0
    """Request weight used this minute."""
    watermark: int = 0
    """Exchange time, us, up to which the market was handed out."""

    @property
    def age(self) -> float:
        """Seconds since the last message; inf before the first."""
        return time.time() - self.last_message if self.last_message else float("inf")


_READ_ONLY_BYTES = types.Array(types.uint8, 1, "C", readonly=True)


@kernel((_READ_ONLY_BYTES, types.int64[::1], types.int64[::1]))
def _split(buffer: NDArray[np.uint8], starts: NDArray[np.int64], ends: NDArray[np.int64]) -> tuple[int, int]:
    """Find the complete, unfragmented, uncompressed, unmasked text frames at the head of a byte stream.

    Frame layout: RFC 6455, section 5.2.

    :arg starts: Receives the offset of each payload.
    :arg ends: Receives the offset behind it.
    :returns: Number of frames and offset of the first byte behind them.
    """
    n = 0
    at = 0
    size = len(buffer)
    while n < len(starts) and at + 2 <= size and buffer[at] == 0x81:  # FIN, no extension, text
        length = int(buffer[at + 1])
        payload = at + 2
        if length == 126:
            if at + 4 > size:
                break
            length = (int(buffer[at + 2]) << 8) | int(buffer[at + 3])
            payload = at + 4
        elif length > 126:  # longer than 64 KiB, or masked
            break
        if payload + length > size:
            break
        starts[n] = payload
        ends[n] = payload + length
        n += 1
        at = payload + length
    return n, at


@dataclass(frozen=True)
class _Frames:
    """Messages as they lie in what the socket gave."""

    group: int
    buffer: bytes
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    received: int  # us, local


@dataclass(frozen=True)
class _Up:
    """A group of symbols has a connection again."""

    group: int


@dataclass(frozen=True)
class _Down:
    """A group of symbols has no connection any more."""

    group: int
    cause: str


@dataclass(frozen=True)
class _Proof:
    """All that the exchange sent to a group before this local time, us, lies before this event."""

    group: int
    time: int


@dataclass(frozen=True)
class _Page:
    """The answer to a request for trades."""

    symbol: int
    first: int
    trades: Block | None
    error: RestError | None = None


@dataclass(frozen=True)
class _Clock:
    """A reading of the exchange's clock: it showed at least ``exchange`` us at local time ``local`` us."""

    exchange: int
    local: int


_Event = _Frames | _Up | _Down | _Proof | _Page | _Clock


def _now() -> int:
    """Local time, us."""
    return time.time_ns() // 1_000


class _Connection(ClientConnection):
    """A WebSocket connection that hands over text messages in bulk.

    ``websockets`` spends 5 us a message on frames, events and queues. Messages of an exchange are short,
    complete and uncompressed, so they are cut out here, many at a time; all else, which is the handshake,
    pings, pongs, fragments and the close, goes to the library as it came.
    """

    def __init__(
        self, sink: Callable[[bytes, NDArray[np.int64], NDArray[np.int64]], None], *args: Any, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._sink = sink
        self._tail = b""
        self._in_handshake = True

    @override
    def data_received(self, data: bytes) -> None:
        data = bytes(self._tail) + data if self._tail else bytes(data)
        self._tail = b""
        if self._in_handshake:
            end = data.find(b"\r\n\r\n") + 4
            if end < 4:
                self._tail = data
                return
            self._in_handshake = False
            super().data_received(data[:end])
            data = data[end:]
        while data:
            if self.protocol.state is not State.OPEN:
                super().data_received(data)
                return
            view = np.frombuffer(data, np.uint8)
            starts = np.empty(len(data) // 64 + 1, np.int64)
            ends = np.empty_like(starts)
            n, consumed = _split(view, starts, ends)
            if n:
                self._sink(data, starts[:n], ends[:n])
            data = data[consumed:]
            if n == len(starts):
                continue
            size = _frame_size(data)
            if size > _MAX_MESSAGE:
                super().data_received(data)  # the library ends the connection
                return
            if size == 0 or len(data) < size:
                self._tail = data
                return
            if n == 0 or data[0] != 0x81:
                super().data_received(data[:size])
                data = data[size:]


def _frame_size(data: bytes) -> int:
    """Return the size of the frame at the head of the data; 0 if its header is incomplete."""
    if len(data) < 2:
        return 0
    length = data[1] & 0x7F
    extra = {126: 2, 127: 8}.get(length, 0)
    if len(data) < 2 + extra:
        return 0
    if extra:
        length = int.from_bytes(data[2 : 2 + extra], "big")
    return 2 + extra + (4 if data[1] & 0x80 else 0) + length


class _Attempts:
    """Keep connection attempts below the exchange's limit of 300 in 5 minutes."""

    def __init__(self, limit: int = 250, period: float = 300.0) -> None:
        self._limit = limit
        self._period = period
        self._times: deque[float] = deque()

    async def take(self) -> None:
        """Wait until one more attempt is allowed, and count it."""
        while True:
            now = time.monotonic()
            while self._times and self._times[0] <= now - self._period:
                self._times.popleft()
            if len(self._times) < self._limit:
                self._times.append(now)
                return
            await asyncio.sleep(self._times[0] + self._period - now)


class _Session:
    """One WebSocket connection in the making, live, or on its way out."""

    def __init__(self, name: str, group: int, streams: Sequence[str]) -> None:
        self.name = name
        self.group = group
        self.streams = streams
        self.retire = asyncio.Event()
        """Set when the next connection should be opened before this one ends."""
        self.cause = "disconnect"
        self.last_received = time.monotonic()
        self.ping: tuple[int, asyncio.Future[float]] | None = None  # when sent, us
        self.connection: ClientConnection | None = None
        self.reader: asyncio.Task[None] | None = None


@dataclass(frozen=True)
class _Options:
    market: str
    stream: str
    endpoints: Endpoints
    life: float
    stale: float
    queue_bytes: int


class _Feed:
    """The socket thread: connections, pings, back-fill requests. Gives events, in order, to ``inbox``."""

    def __init__(self, symbols: Sequence[str], options: _Options, status: FeedStatus) -> None:
        self.inbox: deque[_Event] = deque()
        self.taken_bytes = 0  # written by the reader of the inbox only
        self.error: BaseException | None = None
        self.symbols = symbols
        self.options = options
        self.status = status
        self.groups = [
            range(i, min(i + _STREAMS_PER_CONNECTION, len(symbols)))
            for i in range(0, len(symbols), _STREAMS_PER_CONNECTION)
        ]
        self._received_bytes = 0
        self._alive = [0] * len(self.groups)
        self._sessions: set[_Session] = set()
        self._retiring: set[asyncio.Task[None]] = set()
        self._attempts = _Attempts()
        self._overflowing = False
        self._told_unreachable = False
        self._requests: list[tuple[int, int, int]] = []  # heap of (time, symbol, first id)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended: asyncio.Event | None = None
        self._wanted: asyncio.Event | None = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="binance-feed", daemon=True)

    # Called by the dataflow's thread.

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """End the thread and its connections; wait for it."""
        self._ready.wait(10)
        self._call(lambda: self._ended.set() if self._ended else None)
        self._thread.join(10)

    def request(self, symbol: int, first: int, urgency: int, delay: float = 0.0) -> None:
        """Ask for a page of trades from id ``first`` on; lower urgency values go first."""

        def push() -> None:
            heapq.heappush(self._requests, (urgency, symbol, first))
            if self._wanted is not None:
                self._wanted.set()

        def later() -> None:
            if self._loop is not None:
                self._loop.call_later(delay, push)

        self._call(later if delay else push)

    def _call(self, function: Callable[[], object]) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the thread has ended
                self._loop.call_soon_threadsafe(function)

    # Below: the socket thread.

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as error:
            self.error = error
        finally:
            self._ready.set()

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        self._wanted = asyncio.Event()
        self._ready.set()
        async with RestClient(self.options.market, self.options.endpoints.rest) as rest:
            tasks = [asyncio.create_task(self._keep_connected(group)) for group in range(len(self.groups))]
            tasks.append(asyncio.create_task(self._watch()))
            tasks.append(asyncio.create_task(self._set_clock(rest)))
            tasks.append(asyncio.create_task(self._back_fill(rest)))
            ended = asyncio.create_task(self._ended.wait())
            try:
                done, _ = await asyncio.wait([*tasks, ended], return_when=asyncio.FIRST_COMPLETED)
                for task in done - {ended}:
                    task.result()
            finally:
                for task in [*tasks, ended]:
                    task.cancel()
                await asyncio.gather(*tasks, ended, return_exceptions=True)
                await asyncio.gather(*(self._end(session) for session in list(self._sessions)))

    async def _keep_connected(self, group: int) -> None:
        """Keep a group's streams subscribed for ever, opening the next connection before one must end."""
        count = 0
        session = await self._open(group, count)
        while True:
            assert session.reader is not None
            retire = asyncio.create_task(session.retire.wait())
            await asyncio.wait({session.reader, retire}, return_when=asyncio.FIRST_COMPLETED)
            retire.cancel()
            self.status.reconnections += 1
            count += 1
            following = await self._open(group, count)
            if not session.reader.done():
                # Both deliver for a while: the new one's first trades overlap with the old one's last.
                retiring = asyncio.create_task(self._end(session, delay=_OVERLAP))
                self._retiring.add(retiring)
                retiring.add_done_callback(self._retiring.discard)
            session = following

    async def _open(self, group: int, count: int) -> _Session:
        """Connect and subscribe, however long it takes."""
        symbols = [self.symbols[i] for i in self.groups[group]]
        streams = [f"{symbol.lower()}@{self.options.stream}" for symbol in symbols]
        session = _Session(f"{group}.{count}", group, streams)
        self.status.connections[session.name] = "connecting"
        attempt = 0
        while True:
            base = self.options.endpoints.ws[attempt % len(self.options.endpoints.ws)]
            await self._attempts.take()
            try:
                await self._connect(session, base)
                return session
            except (OSError, TimeoutError, InvalidHandshake, InvalidURI, ConnectionClosed, EOFError) as error:
                if not self._told_unreachable and attempt + 1 >= len(self.options.endpoints.ws):
                    self._told_unreachable = True
                    _LOG.warning(
                        f"cannot reach Binance ({_reason(error)}): retrying; "
                        "`make demo` runs without a network"
                    )
                _LOG.debug("connection failed", endpoint=base, error=repr(error))
            attempt += 1
            # Full jitter, so that many clients of an exchange that restarts don't come back in step.
            ceiling = min(0.25 * 2 ** min(attempt, 7), 30.0)
            await asyncio.sleep(random.uniform(0.05, ceiling))  # noqa: S311

    async def _connect(self, session: _Session, base: str) -> None:
        first, rest = session.streams[:_STREAMS_PER_REQUEST], session.streams[_STREAMS_PER_REQUEST:]
        url = f"{base.rstrip('/')}/stream?streams={quote('/'.join(first), safe='/@')}"
        if self.options.market == "spot":
            url += "&timeUnit=MICROSECOND"

        def sink(buffer: bytes, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> None:
            self._receive(session, buffer, starts, ends)

        def create(protocol: ClientProtocol, **options: Any) -> ClientConnection:
            return _Connection(sink, protocol, **options)

        connection = await connect(
            url,
            compression=None,
            ping_interval=None,
            max_size=_MAX_MESSAGE,
            close_timeout=1,
            create_connection=create,  # type: ignore[arg-type]
        )
        for i in range(0, len(rest), _STREAMS_PER_REQUEST):
            params = ",".join(f'"{name}"' for name in rest[i : i + _STREAMS_PER_REQUEST])
            await connection.send(f'{{"method":"SUBSCRIBE","params":[{params}],"id":{i + 1}}}')
            await asyncio.sleep(0.25)  # at most 5 messages a second, pongs included
        session.connection = connection
        session.last_received = time.monotonic()
        session.reader = asyncio.create_task(self._read(session))
        self._sessions.add(session)
        self.status.connections[session.name] = "live"
        self.status.endpoint = base
        self._told_unreachable = False
        self._alive[session.group] += 1
        if self._alive[session.group] == 1:
            self.inbox.append(_Up(session.group))
        asyncio.get_running_loop().call_later(
            self.options.life * random.uniform(0.95, 1.0),  # noqa: S311
            session.retire.set,
        )

    async def _read(self, session: _Session) -> None:
        """Take the few messages that the library hands over, until the connection ends."""
        assert session.connection is not None
        with contextlib.suppress(ConnectionClosed):
            while True:
                data = await session.connection.recv(decode=False)
                self._receive(session, data, np.zeros(1, np.int64), np.full(1, len(data), np.int64))
        self._lost(session)

    def _receive(
        self, session: _Session, buffer: bytes, starts: NDArray[np.int64], ends: NDArray[np.int64]
    ) -> None:
        now = time.time_ns()
        session.last_received = time.monotonic()
        status = self.status
        status.last_message = now / 1e9
        status.frames += len(starts)
        status.bytes += len(buffer)
        waiting = self._received_bytes - self.taken_bytes
        # Once full, let it drain by half: better one long gap than a thousand short ones.
        if waiting > (self.options.queue_bytes // 2 if self._overflowing else self.options.queue_bytes):
            self._overflowing = True
            status.overflows += len(starts)
            return
        if self._overflowing:
            self._overflowing = False
            self.inbox.append(_Down(session.group, "overflow"))
            self.inbox.append(_Up(session.group))
        self._received_bytes += len(buffer)
        if b"serverShutdown" in buffer:
            session.retire.set()
        self.inbox.append(_Frames(session.group, buffer, starts, ends, now // 1_000))

    def _lost(self, session: _Session) -> None:
        if session not in self._sessions:
            return
        self._sessions.discard(session)
        self.status.connections.pop(session.name, None)
        self._alive[session.group] -= 1
        if self._alive[session.group] == 0:
            self.inbox.append(_Down(session.group, session.cause))

    async def _end(self, session: _Session, delay: float = 0.0) -> None:
        await asyncio.sleep(delay)
        if session.connection is not None:
            self.status.connections[session.name] = "retiring"
            with contextlib.suppress(ConnectionClosed, OSError):
                await session.connection.close()
        if session.reader is not None:
            await asyncio.wait([session.reader])

    async def _watch(self) -> None:
        """Ping connections that are silent; end those that don't answer."""
        while True:
            await asyncio.sleep(0.1)
            for session in list(self._sessions):
                connection = session.connection
                assert connection is not None
                if session.ping is not None:
                    sent, pong = session.ping
                    if pong.done():
                        session.ping = None
                        if not pong.cancelled() and pong.exception() is None:
                            session.last_received = time.monotonic()
                            self.inbox.append(_Proof(session.group, sent))
                    elif _now() - sent > self.options.stale * SECOND:
                        _LOG.warning("connection does not answer; opening another", connection=session.name)
                        session.cause = "stale"
                        session.ping = None
                        connection.transport.abort()
                elif time.monotonic() - session.last_received > 0.5:
                    sent = _now()
                    with contextlib.suppress(ConnectionClosed):
                        session.ping = (sent, asyncio.ensure_future(await connection.ping()))

    async def _set_clock(self, rest: RestClient) -> None:
        """Read the exchange's clock every minute."""
        while True:
            with contextlib.suppress(RestError):
                exchange = await rest.time()
                self.inbox.append(_Clock(exchange, _now()))
            await asyncio.sleep(60)

    async def _back_fill(self, rest: RestClient) -> None:
        """Answer requests for trades, those that go furthest back first."""
        assert self._wanted is not None
        aggregate = self.options.stream == "aggTrade"
        while True:
            self.status.rest_requests = rest.requests
            self.status.weight_used = rest.budget.used
            while not self._requests:
                self._wanted.clear()
                await self._wanted.wait()
            _, symbol, first = heapq.heappop(self._requests)
            try:
                block = await rest.trades(self.symbols[symbol], first, aggregate=aggregate)
                block["symbol"] = symbol
                self.inbox.append(_Page(symbol, first, block))
            except RestError as error:
                self.inbox.append(_Page(symbol, first, None, error))


class _Offset:
    """How far the exchange's clock is ahead of the local one, at least.

    Each reading is too low by the time it took to arrive, so the highest of the last minute or two is best.
    """

    def __init__(self, period: int = 60 * SECOND) -> None:
        self._period = period
        self._began: int | None = None
        self._current = 0
        self._previous: int | None = None

    def add(self, offset: int, now: int) -> None:
        if self._began is None:
            self._began, self._current = now, offset
        elif now - self._began >= self._period:
            self._began, self._previous, self._current = now, self._current, offset
        else:
            self._current = max(self._current, offset)

    @property
    def value(self) -> int | None:
        """Offset, us; None before the first reading."""
        if self._began is None or self._previous is None:
            return None if self._began is None else self._current
        return max(self._current, self._previous)


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


class FeedState(TypedDict):
    """Where a partition stands: what it handed out, and which gaps are open."""

    market: str
    stream: str
    last_ids: dict[str, int]
    watermark: int
    gaps: dict[str, list[OpenGap]]


class _BinancePartition(StatefulSourcePartition[tuple[str, Trades], FeedState]):
    def __init__(
        self,
        key: str,
        symbols: Sequence[str],
        options: _Options,
        grace: float,
        patience: float,
        max_held: int,
        stop: threading.Event,
        status: FeedStatus,
        resume: FeedState | None,
    ) -> None:
        warm_up(_split)
        n = len(symbols)
        self._key = key
        self._symbols = symbols
        self._options = options
        self._grace = int(grace * SECOND)
        self._patience = patience
        self._stop = stop
        self._status = status
        self._decoder = TradeDecoder(symbols)
        status.decode = self._decoder.counts
        self._book = GapBook()
        self._watermark = 0
        self._unverified: NDArray[np.bool_] = np.zeros(n, np.bool_)
        self._cause = ["hole"] * n
        last = [NONE] * n
        if resume is not None and (resume["market"], resume["stream"]) == (options.market, options.stream):
            last = [resume["last_ids"].get(symbol, NONE) for symbol in symbols]
            self._watermark = resume["watermark"]
            for name, gaps in resume["gaps"].items():
                if name in symbols:
                    self._book.restore(symbols.index(name), gaps)
            self._cause = ["restart"] * n
        elif resume is not None:
            _LOG.warning(
                "the stored position is of another market or stream; starting anew",
                stored=f"{resume['market']} {resume['stream']}",
                now=f"{options.market} {options.stream}",
            )
        self._continuity = Continuity(n, last, max_held)
        self._continuity.last_time[:] = self._watermark
        self._unverified[:] = self._continuity.last != NONE
        self._feed = _Feed(symbols, options, status)
        self._seen = [self._watermark] * len(self._feed.groups)
        self._asked: dict[int, int] = {}
        self._empty_answers: dict[int, int] = {}
        self._progress: dict[int, float] = {}
        self._offset = _Offset()
        self._last_output = 0.0
        self._feed.start()

    @override
    def next_batch(self) -> Iterable[tuple[str, Trades]]:
        if self._stop.is_set():
            raise StopIteration
        if self._feed.error is not None:
            raise self._feed.error
        out = self._drain()
        if self._continuity.blocked or self._book:
            self._pursue()
        status = self._status
        status.duplicates = self._continuity.duplicates
        status.held = self._continuity.held
        status.open_gaps = len(self._book)
        gaps = self._book.take()
        advanced = self._advance()
        n = sum(len(block) for block in out)
        now = time.monotonic()
        if n == 0 and len(gaps) == 0 and not (advanced and now - self._last_output >= 0.1):
            return []
        self._last_output = now
        status.trades += n
        status.watermark = self._watermark
        block = out[0] if len(out) == 1 else np.concatenate([_NO_TRADES, *out])
        return [(self._key, Trades(block, self._watermark, gaps))]

    def _drain(self) -> list[Block]:
        """Take events from the socket thread, return what can go on."""
        inbox = self._feed.inbox
        out: list[Block] = []
        frames: list[_Frames] = []
        count = 0
        for _ in range(len(inbox)):
            event = inbox.popleft()
            if isinstance(event, _Frames):
                if frames and frames[0].group != event.group:
                    self._take_frames(frames, out)
                    frames = []
                frames.append(event)
                count += len(event.starts)
                if count >= _FRAMES_PER_BATCH:
                    break
                continue
            if frames:
                self._take_frames(frames, out)
                frames = []
            if isinstance(event, _Page):
                self._take_page(event, out)
            elif isinstance(event, _Clock):
                self._offset.add(event.exchange - event.local, event.local)
            elif isinstance(event, _Proof):
                offset = self._offset.value
                if offset is not None:
                    self._seen[event.group] = max(self._seen[event.group], event.time + offset - self._grace)
            elif isinstance(event, _Down):
                for symbol in self._feed.groups[event.group]:
                    self._cause[symbol] = event.cause
                    self._unverified[symbol] = self._continuity.last[symbol] != NONE
            else:
                self._verify(event.group)
        if frames:
            self._take_frames(frames, out)
        return out

    def _take_frames(self, frames: list[_Frames], out: list[Block]) -> None:
        buffer = b"".join(event.buffer for event in frames) if len(frames) > 1 else frames[0].buffer
        if len(frames) > 1:
            sizes = np.array([len(event.buffer) for event in frames])
            offsets = np.repeat(np.cumsum(sizes) - sizes, [len(event.starts) for event in frames])
            starts = np.concatenate([event.starts for event in frames]) + offsets
            ends = np.concatenate([event.ends for event in frames]) + offsets
        else:
            starts, ends = frames[0].starts, frames[0].ends
        block = self._decoder.decode_buffer(buffer, starts, ends)
        self._feed.taken_bytes += len(buffer)
        if len(block) == 0:
            return
        group, received = frames[-1].group, frames[-1].received
        match = _EVENT_TIME.search(buffer, starts[-1], ends[-1])
        if match is not None:
            stamp = int(match[1])
            event_time = stamp if len(match[1]) > 13 else stamp * 1_000
            self._status.lag = (received - event_time) / SECOND
            self._offset.add(event_time - received, received)
        self._seen[group] = max(self._seen[group], int(block["time"].max()))
        if self._unverified.any():
            self._unverified[block["symbol"]] = False
        out.append(self._continuity.push(block))

    def _verify(self, group: int) -> None:
        """Ask by REST what was missed of the symbols whose trades don't tell by themselves."""
        for symbol in self._feed.groups[group]:
            if self._unverified[symbol] and symbol not in self._asked:
                self._ask(symbol, delay=0.5)

    def _ask(self, symbol: int, delay: float = 0.0) -> None:
        first = int(self._continuity.last[symbol]) + 1
        self._asked[symbol] = first
        self._progress.setdefault(symbol, time.monotonic())
        self._feed.request(symbol, first, int(self._continuity.last_time[symbol]), delay)

    def _pursue(self) -> None:
        """Declare gaps where ids are missing, close those that are healed, and ask for what is missing."""
        now = _now()
        for symbol in self._continuity.blocked:
            for first, last in self._continuity.missing(symbol):
                self._book.open(symbol, first, last, now, self._cause[symbol])
            if symbol not in self._asked:
                self._ask(symbol)
        for symbol in self._book.symbols:
            if symbol not in self._asked:
                self._book.close(symbol, int(self._continuity.last[symbol]), now)

    def _take_page(self, page: _Page, out: list[Block]) -> None:
        symbol = page.symbol
        del self._asked[symbol]
        continuity, book, now = self._continuity, self._book, _now()
        missing = continuity.missing(symbol)
        last = int(continuity.last[symbol])
        if page.trades is None:
            self._unverified[symbol] = False
            self._progress.pop(symbol, None)
            for first, until in missing[:1]:
                self._give_up(symbol, first, until, out)
            return
        block = page.trades
        if len(block) == 0:
            if not missing:
                self._unverified[symbol] = False
                self._progress.pop(symbol, None)
                return
            tries = self._empty_answers.get(symbol, 0) + 1
            self._empty_answers[symbol] = tries
            if tries >= _EMPTY_ANSWERS:
                self._give_up(symbol, *missing[0], out)
                del self._empty_answers[symbol]
            else:
                self._ask(symbol, delay=0.5 * tries)
            return
        self._empty_answers.pop(symbol, None)
        self._progress[symbol] = time.monotonic()
        begin, end = int(block["id"][0]), int(block["id"][-1])
        if end > last:
            if not missing:
                book.open(symbol, last + 1, end, now, self._cause[symbol])
            elif missing[0][1] > last:
                book.open(symbol, last + 1, missing[0][1], now, self._cause[symbol])
            if begin > last + 1:
                until = min(begin - 1, missing[0][1]) if missing else begin - 1
                self._give_up(symbol, last + 1, until, out)
            book.restored(symbol, begin, end)
            fresh = continuity.push(block)
            self._status.restored += len(fresh)
            out.append(fresh)
        more = len(block) == PAGE and not continuity.missing(symbol)
        if more and self._unverified[symbol]:
            self._ask(symbol)
        elif not continuity.missing(symbol):
            self._unverified[symbol] = False
            self._cause[symbol] = "hole"
            self._progress.pop(symbol, None)

    def _give_up(self, symbol: int, first: int, last: int, out: list[Block]) -> None:
        self._book.unavailable(symbol, first, last, _now())
        self._status.unavailable += last - first + 1
        out.append(self._continuity.skip(symbol, last))

    def _advance(self) -> bool:
        """Move the watermark on, as far as the open gaps allow; tell whether it moved."""
        watermark = min(self._seen)
        waiting = {*self._book.symbols, *np.flatnonzero(self._unverified).tolist(), *self._continuity.blocked}
        if waiting:
            patient = time.monotonic() - self._patience
            for symbol in waiting:
                if self._progress.get(symbol, patient) >= patient:
                    watermark = min(watermark, int(self._continuity.last_time[symbol]))
        if watermark <= self._watermark:
            return False
        self._watermark = watermark
        return True

    @override
    def snapshot(self) -> FeedState:
        last = self._continuity.last.tolist()
        return {
            "market": self._options.market,
            "stream": self._options.stream,
            "last_ids": {name: id_ for name, id_ in zip(self._symbols, last, strict=True) if id_ != NONE},
            "watermark": self._watermark,
            "gaps": {self._symbols[symbol]: self._book.state(symbol) for symbol in self._book.symbols},
        }

    @override
    def close(self) -> None:
        self._feed.close()


class BinanceSource(FixedPartitionedSource[tuple[str, Trades], FeedState]):
    """Binance's trades, live: items are ``(partition's name, Trades)``.

    Within a symbol trades come in id order, each id once. Ids that were missed, be it for a lost connection,
    a restart or a full queue, are fetched by REST and come before any newer trade of that symbol; every gap
    is a row in ``Trades.gaps``, when detected and again when closed. On resume the source goes on behind the
    last trade that was handed out.

    ``Trades.watermark`` is the newest trade time. In a silent market it follows the exchange's clock, as long
    as the connection is proven alive by pongs; it stands still while there is no connection, and waits for
    the trades that are being fetched.

    :arg symbols: The run's symbol table, upper case; a trade's ``symbol`` indexes it.
    :arg market: ``spot`` or ``usdm``.
    :arg stream: ``trade`` or ``aggTrade``.
    :arg endpoints: Where the exchange is; Binance itself by default.
    :arg stop: Ends the source once set: the dataflow takes its last snapshot and finishes.
    :arg status: Receives what the feed is doing.
    :arg grace: Seconds by which the watermark of a silent market stays behind the exchange's clock.
    :arg patience: Seconds without progress after which the watermark no longer waits for an open gap.
    :arg life: Seconds after which a connection is replaced; the exchange ends them after 24 h.
    :arg stale: Seconds without an answer after which a connection counts as lost.
    :arg queue_bytes: Most bytes received and not yet decoded; more are dropped, and fetched by REST.
    :arg max_held: Most trades that may wait for lower ids; more are dropped, and fetched by REST.
    :raises ValueError: If market or stream are unknown, or a symbol is named twice.
    """

    def __init__(
        self,
        symbols: Sequence[str],
        *,
        market: str = "spot",
        stream: str = "trade",
        endpoints: Endpoints | None = None,
        stop: threading.Event,
        status: FeedStatus | None = None,
        grace: float = 0.5,
        patience: float = 10.0,
        life: float = 23.5 * 3600,
        stale: float = 10.0,
        queue_bytes: int = 64 << 20,
        max_held: int = 1_000_000,
    ) -> None:
        if stream not in ("trade", "aggTrade"):
            msg = f"unknown stream {stream!r}: expected trade or aggTrade"
            raise ValueError(msg)
        if not symbols or len(set(symbols)) != len(symbols):
            msg = f"expected at least one symbol, each once; got {', '.join(symbols) or 'none'}"
            raise ValueError(msg)
        self.status = FeedStatus() if status is None else status
        self._symbols = tuple(symbols)
        self._options = _Options(
            market, stream, endpoints or default_endpoints(market), life, stale, queue_bytes
        )
        self._grace = grace
        self._patience = patience
        self._max_held = max_held
        self._stop = stop

    @override
    def list_parts(self) -> list[str]:
        return ["0"]

    @override
    def build_part(self, step_id: str, for_part: str, resume_state: FeedState | None) -> _BinancePartition:
        return _BinancePartition(
            for_part,
            self._symbols,
            self._options,
            self._grace,
            self._patience,
            self._max_held,
            self._stop,
            self.status,
            resume_state,
        )
