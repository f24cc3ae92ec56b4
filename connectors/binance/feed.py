"""The thread of the live feed: its connections, pings, clock readings and requests for missed trades.

The thread does not decode what it receives. It puts bytes, answers of REST and changes of its connections
into an inbox, in the order in which they happened. The dataflow's thread empties the inbox.
"""

import asyncio
import contextlib
import heapq
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote

import numpy as np
import orjson
import structlog
from numpy.typing import NDArray
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from connectors.binance.clock import now_us
from connectors.binance.decoder import DecodeCounts
from connectors.binance.endpoints import Endpoints
from connectors.binance.events import ClockReading, Down, Event, Frames, Liveness, Page, Request, Up
from connectors.binance.rest import RestClient, RestError
from connectors.binance.websocket import open_connection
from kernels.compile import warm_up
from kernels.frames import split_websocket
from kernels.records import SECOND, TRADE

_LOG = structlog.get_logger()

_STREAMS_PER_CONNECTION: Final = 1024
_STREAMS_PER_REQUEST: Final = 200  # in the URL, and in each SUBSCRIBE: keeps both near 4 kB
_MESSAGE_INTERVAL: Final = 0.25  # s between messages of ours: the exchange takes 5 a second, pongs included
_OVERLAP: Final = 2.0  # s during which a connection and its successor both deliver; the worst lag seen is 0.2
_PING_AFTER: Final = 0.5  # s without a message after which a ping tests the connection
_PING_INTERVAL: Final = 0.4  # s; with our pongs below the 5 messages a second that the exchange allows
_SHORT_LIVED: Final = 5.0  # s; a connection that ends sooner counts as a failed attempt
_MAX_BACKOFF: Final = 5.0  # s between attempts to connect, at most; the exchange allows one a second
_REQUESTS_AT_ONCE: Final = 4
_LONGEST_WAIT: Final = 61.0  # s; the weight limit is per minute, longer pauses are bans
_CLOCK_INTERVAL: Final = 60.0


@dataclass
class FeedStatus:
    """What the feed is doing, for a status line and for metrics. Read it from any thread."""

    connections: dict[str, str] = field(default_factory=dict)
    """State of each connection, by name: ``connecting``, ``live`` or ``retiring``."""
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
    """What became of the messages."""
    duplicates: int = 0
    """Trades dropped because their id had come before."""
    overflows: int = 0
    """Messages dropped because the queue was full; their trades are fetched by REST."""
    buffered_bytes: int = 0
    """Bytes received and not yet decoded."""
    held: int = 0
    """Trades that wait for lower ids, or for symbols that catch up more slowly."""
    open_gaps: int = 0
    """Ranges of ids that are missing now."""
    restored: int = 0
    """Trades that came by REST."""
    unavailable: int = 0
    """Trades that never came and never will."""
    last_message: float = 0.0
    """Local time of the last message, s since the epoch; 0 before the first."""
    lag: float = float("nan")
    """Delay of the last trade, s: local time of receipt minus event time, so with the clocks' difference."""
    rest_requests: int = 0
    """Requests sent over REST."""
    weight_used: int = 0
    """Request weight used this minute, by all programs behind this address."""
    watermark: int = 0
    """Exchange time, us, up to which the market was handed out."""

    @property
    def age(self) -> float:
        """Seconds since the last message; inf before the first."""
        return time.time() - self.last_message if self.last_message else float("inf")


class _Attempts:
    """Keeps connection attempts below the exchange's limit of 300 in 5 minutes."""

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
    """One WebSocket connection, from before it is made until after it has ended."""

    connection: ClientConnection
    end: asyncio.Task[None]
    """Done once the connection has ended."""

    def __init__(self, name: str, group: int) -> None:
        self.name = name
        self.group = group
        self.retire = asyncio.Event()
        """Set when the next connection should be opened before this one ends."""
        self.acknowledged = asyncio.Semaphore(0)
        """Released for each answer to a request to subscribe."""
        self.subscribed = False
        self.cause = "disconnect"
        self.began = time.monotonic()
        self.last_received = self.began
        self.pinged = 0.0
        self.ping: tuple[int, asyncio.Future[float]] | None = None  # when sent, us; the pong
        self.end_of_life: asyncio.TimerHandle | None = None


@dataclass(frozen=True)
class FeedOptions:
    """How the feed behaves; see :class:`~connectors.binance.stream.BinanceSource`."""

    market: str
    stream: str
    endpoints: Endpoints
    life: float
    stale: float
    queue_bytes: int


class Feed:
    """The thread. It puts events into ``inbox``; who takes `Frames` out adds their bytes to ``taken_bytes``.

    :arg symbols: The run's symbol table.
    :arg options: How the feed behaves.
    :arg status: Receives what the feed is doing.
    """

    def __init__(self, symbols: Sequence[str], options: FeedOptions, status: FeedStatus) -> None:
        warm_up(split_websocket)  # not in the thread, where it could delay pings
        self.inbox: deque[Event] = deque()
        self.received_bytes = 0  # written by the feed's thread only
        self.taken_bytes = 0  # written by the dataflow's thread only
        self.error: BaseException | None = None
        """What ended the thread, if it was not :meth:`close`."""
        self.groups = [
            range(i, min(i + _STREAMS_PER_CONNECTION, len(symbols)))
            for i in range(0, len(symbols), _STREAMS_PER_CONNECTION)
        ]
        """The symbols of each connection."""
        self._symbols = symbols
        self._options = options
        self._status = status
        self._alive = [0] * len(self.groups)
        self._host = [0] * len(self.groups)
        self._overflowed: set[int] = set()
        self._sessions: set[_Session] = set()
        self._retiring: set[asyncio.Task[None]] = set()
        self._attempts = _Attempts()
        self._told_unreachable = False
        self._requests: list[tuple[int, int, int]] = []  # a heap of (urgency, symbol, first id)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._rest: RestClient | None = None
        self._ended: asyncio.Event
        self._wanted: asyncio.Semaphore
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="binance-feed", daemon=True)
        self._thread.start()

    # Called by the dataflow's thread.

    def close(self) -> None:
        """End the connections and the thread; wait for it."""
        self._ready.wait(10)
        self._call(lambda: self._ended.set())  # noqa: PLW0108  the event exists once the loop runs
        self._thread.join(10)

    def merging(self) -> list[int]:
        """Return the groups that have two connections now, so that ids may come out of order."""
        return [group for group, alive in enumerate(self._alive) if alive > 1]

    def waits_for_weight(self, patience: float) -> bool:
        """Tell whether requests wait for the next minute's weight, or did until ``patience`` seconds ago."""
        if self._rest is None:
            return False
        return -patience < self._rest.waits_until - time.time() < _LONGEST_WAIT

    def request(self, request: Request) -> None:
        """Ask for a page of trades; the answer is a `Page`."""

        def push() -> None:
            heapq.heappush(self._requests, (request.urgency, request.symbol, request.first))
            self._wanted.release()

        self._call(push)

    def replace(self, group: int) -> None:
        """Open another connection for a group, then end the present one."""

        def retire() -> None:
            for session in self._sessions:
                if session.group == group:
                    session.cause = "stale"
                    session.retire.set()

        self._call(retire)

    def _call(self, function: Callable[[], object]) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the thread has ended
                self._loop.call_soon_threadsafe(function)

    # Called by the feed's own thread.

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as error:
            self.error = error
        finally:
            self._ready.set()

    async def _main(self) -> None:
        self._ended = asyncio.Event()
        self._wanted = asyncio.Semaphore(0)
        self._loop = asyncio.get_running_loop()
        self._ready.set()
        async with RestClient(self._options.market, self._options.endpoints.rest) as rest:
            self._rest = rest
            forever = [self._keep_connected(group) for group in range(len(self.groups))]
            forever += [self._watch(rest), self._read_clock(rest), self._check_symbols(rest)]
            forever += [self._back_fill(rest) for _ in range(_REQUESTS_AT_ONCE)]
            tasks = [asyncio.create_task(work) for work in forever]
            ended = asyncio.create_task(self._ended.wait())
            try:
                working = {*tasks, ended}
                while ended in working:
                    done, working = await asyncio.wait(working, return_when=asyncio.FIRST_COMPLETED)
                    for task in done:
                        task.result()
            finally:
                for task in [*tasks, ended, *self._retiring]:
                    task.cancel()
                await asyncio.gather(*tasks, ended, *self._retiring, return_exceptions=True)
                await asyncio.gather(*(self._end(session) for session in list(self._sessions)))

    async def _keep_connected(self, group: int) -> None:
        """Keep a group's streams subscribed, and open the next connection before one must end."""
        count = 0
        failures = 0
        session = await self._open(group, count, failures)
        while True:
            retire = asyncio.create_task(session.retire.wait())
            await asyncio.wait({session.end, retire}, return_when=asyncio.FIRST_COMPLETED)
            retire.cancel()
            if time.monotonic() - session.began < _SHORT_LIVED:
                failures += 1
                self._host[group] += 1
            else:
                failures = 0
            self._status.reconnections += 1
            count += 1
            following = await self._open(group, count, failures)
            if not session.end.done():
                if session.cause == "stale":
                    # The connection was open, but did not deliver everything.
                    self.inbox.append(Down(group, "stale"))
                    self.inbox.append(Up(group))
                # Both deliver for a while, so that no trade falls between the old one's last and the new
                # one's first.
                retiring = asyncio.create_task(self._end(session, _OVERLAP))
                self._retiring.add(retiring)
                retiring.add_done_callback(self._retiring.discard)
            session = following

    async def _open(self, group: int, count: int, failures: int) -> _Session:
        """Connect and subscribe; retry until that succeeds."""
        name = f"{group}.{count}"
        hosts = self._options.endpoints.ws
        while True:
            if failures:
                # Full jitter: after a restart of the exchange its clients should not all come back at once.
                ceiling = min(0.1 * 2 ** min(failures, 9), _MAX_BACKOFF)
                await asyncio.sleep(random.uniform(0.05, ceiling))  # noqa: S311
            await self._attempts.take()
            base = hosts[self._host[group] % len(hosts)]
            try:
                return await self._connect(_Session(name, group), base)
            except (OSError, InvalidHandshake, ConnectionClosed, EOFError) as error:
                failures += 1
                self._host[group] += 1
                self._set_state(name, None)
                _LOG.debug("connection failed", endpoint=base, error=repr(error))
                if failures >= len(hosts) and not self._told_unreachable:
                    self._told_unreachable = True
                    _LOG.warning(
                        f"cannot reach Binance ({base}: {str(error) or type(error).__name__}): retrying; "
                        "`make demo` runs without a network"
                    )

    async def _connect(self, session: _Session, base: str) -> _Session:
        self._set_state(session.name, "connecting")
        streams = [f"{self._symbols[i].lower()}@{self._options.stream}" for i in self.groups[session.group]]
        first, rest = streams[:_STREAMS_PER_REQUEST], streams[_STREAMS_PER_REQUEST:]
        url = f"{base.rstrip('/')}/stream?streams={quote('/'.join(first), safe='/@')}"
        if self._options.market == "spot":
            url += "&timeUnit=MICROSECOND"

        def sink(buffer: bytes, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> None:
            self._receive(session, buffer, starts, ends)

        connection = await open_connection(url, sink)
        try:
            for i in range(0, len(rest), _STREAMS_PER_REQUEST):
                names = rest[i : i + _STREAMS_PER_REQUEST]
                request = orjson.dumps({"method": "SUBSCRIBE", "params": names, "id": i + 1})
                await connection.send(request.decode())
                await asyncio.sleep(_MESSAGE_INTERVAL)
            async with asyncio.timeout(10):
                for _ in range(0, len(rest), _STREAMS_PER_REQUEST):
                    await session.acknowledged.acquire()
        except BaseException:
            connection.transport.abort()
            raise
        session.connection = connection
        session.subscribed = True
        session.began = session.last_received = time.monotonic()
        session.end_of_life = asyncio.get_running_loop().call_later(
            self._options.life * random.uniform(0.95, 1.0),  # noqa: S311
            session.retire.set,
        )
        session.end = asyncio.create_task(self._wait_for_end(session))
        self._sessions.add(session)
        self._alive[session.group] += 1
        if self._alive[session.group] == 1:
            self.inbox.append(Up(session.group))
        self._set_state(session.name, "live")
        self._status.endpoint = base
        # A user who was warned of the outage is told of its end.
        log = _LOG.warning if self._told_unreachable else _LOG.info
        log("connected", connection=session.name, endpoint=base, streams=len(streams))
        self._told_unreachable = False
        return session

    async def _wait_for_end(self, session: _Session) -> None:
        """Wait for the end of a connection, and report it."""
        await session.connection.wait_closed()
        self._sessions.discard(session)
        self._set_state(session.name, None)
        if session.end_of_life is not None:
            session.end_of_life.cancel()
        self._alive[session.group] -= 1
        if self._alive[session.group] == 0:
            self.inbox.append(Down(session.group, session.cause))
            if not self._ended.is_set():
                _LOG.info("connection lost", connection=session.name, reason=session.connection.close_reason)

    def _receive(
        self, session: _Session, buffer: bytes, starts: NDArray[np.int64], ends: NDArray[np.int64]
    ) -> None:
        now = now_us()
        session.last_received = time.monotonic()
        status = self._status
        status.last_message = now / SECOND
        status.frames += len(starts)
        status.bytes += len(buffer)
        if buffer.find(b"serverShutdown", 0, ends[-1]) >= 0:
            session.retire.set()
        if not session.subscribed:
            for _ in range(buffer.count(b'"result"', 0, ends[-1])):
                session.acknowledged.release()
        self._resume_after_overflow()
        if self._overflowed or self.received_bytes - self.taken_bytes > self._options.queue_bytes:
            self._overflowed.add(session.group)
            status.overflows += len(starts)
            return
        self.received_bytes += len(buffer)
        self.inbox.append(Frames(session.group, buffer, starts, ends, now))

    def _resume_after_overflow(self) -> None:
        """Go on after an overflow once half of the queue is empty: one long gap is better than many short."""
        if self._overflowed and self.received_bytes - self.taken_bytes <= self._options.queue_bytes // 2:
            for group in self._overflowed:
                self.inbox.append(Down(group, "overflow"))
                if self._alive[group]:
                    self.inbox.append(Up(group))
            self._overflowed.clear()

    async def _end(self, session: _Session, delay: float = 0.0) -> None:
        self._set_state(session.name, "retiring")
        await asyncio.sleep(delay)
        await session.connection.close()
        await asyncio.wait([session.end])

    def _set_state(self, name: str, state: str | None) -> None:
        # A new dict each time, because other threads iterate over it.
        states = {key: value for key, value in self._status.connections.items() if key != name}
        self._status.connections = states if state is None else {**states, name: state}

    async def _watch(self, rest: RestClient) -> None:
        """Ping connections that are silent, and end those that do not answer."""
        while True:
            await asyncio.sleep(0.1)
            self._resume_after_overflow()
            self._status.rest_requests = rest.requests
            self._status.weight_used = rest.budget.used
            for session in list(self._sessions):
                with contextlib.suppress(ConnectionClosed):
                    await self._test(session)

    async def _test(self, session: _Session) -> None:
        """Ping a connection that is silent, and report that it is alive once it answers."""
        silent = time.monotonic() - session.last_received
        if session.ping is None:
            now = time.monotonic()
            if silent > _PING_AFTER and now - session.pinged > _PING_INTERVAL:
                session.pinged = now
                sent = now_us()
                pong = await session.connection.ping()
                session.ping = (sent, asyncio.ensure_future(pong))
            return
        sent, answered = session.ping
        if answered.done():
            session.ping = None
            whole = session.group not in self._overflowed
            if whole and not answered.cancelled() and answered.exception() is None:
                self.inbox.append(Liveness(session.group, sent, silent))
        elif now_us() - sent > self._options.stale * SECOND:
            _LOG.warning("connection does not answer; opening another", connection=session.name)
            session.cause = "stale"
            session.ping = None
            session.connection.transport.abort()

    async def _read_clock(self, rest: RestClient) -> None:
        while True:
            with contextlib.suppress(RestError):
                exchange = await rest.time()
                self.inbox.append(ClockReading(exchange, now_us()))
            await asyncio.sleep(_CLOCK_INTERVAL)

    async def _check_symbols(self, rest: RestClient) -> None:
        """Log symbols that the exchange does not know: it accepts their streams, and never sends anything."""
        with contextlib.suppress(RestError):
            states = await rest.symbols(self._symbols)
            unknown = [symbol for symbol in self._symbols if symbol not in states]
            if unknown:
                _LOG.warning(
                    f"no such symbol on Binance {self._options.market}: {', '.join(unknown)}; left out"
                )
            halted = [symbol for symbol in self._symbols if states.get(symbol, "TRADING") != "TRADING"]
            if halted:
                _LOG.warning(f"not trading on Binance {self._options.market} now: {', '.join(halted)}")

    async def _back_fill(self, rest: RestClient) -> None:
        """Answer requests for trades one by one, the most urgent first."""
        aggregate = self._options.stream == "aggTrade"
        while True:
            await self._wanted.acquire()
            _, symbol, first = heapq.heappop(self._requests)
            try:
                block = await rest.trades(self._symbols[symbol], first, aggregate=aggregate)
                block["symbol"] = symbol
                self.inbox.append(Page(symbol, first, block))
            except RestError as error:
                self.inbox.append(Page(symbol, first, np.empty(0, TRADE), error))
