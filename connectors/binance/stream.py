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

A thread of its own (`feed`) owns the sockets and only moves bytes into a queue. Decoding, ordering and
recovery (`recovery`) happen in ``next_batch``, so the partition always knows what it has handed out, and a
snapshot is a copy of that.
"""

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import structlog
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from typing_extensions import override

from connectors.binance.clock import SystemClock
from connectors.binance.endpoints import Endpoints, default_endpoints
from connectors.binance.feed import Feed, FeedOptions, FeedStatus
from connectors.binance.inbox import Inbox
from connectors.binance.recovery import Recovery, RecoveryState
from kernels.records import SECOND, Trades

_LOG = structlog.get_logger()


class FeedState(RecoveryState):
    """Where a partition stands, and of which feed this is the position."""

    market: str
    stream: str


@dataclass(frozen=True)
class _Limits:
    """How long and how much to wait; see :class:`BinanceSource`."""

    grace: float
    patience: float
    max_held: int


class _BinancePartition(StatefulSourcePartition[tuple[str, Trades], FeedState]):
    def __init__(
        self,
        key: str,
        symbols: Sequence[str],
        options: FeedOptions,
        limits: _Limits,
        stop: threading.Event,
        status: FeedStatus,
        resume: FeedState | None,
    ) -> None:
        self._key = key
        self._options = options
        self._patience = limits.patience
        self._stop = stop
        self._status = status
        self._feed = Feed(symbols, options, status)
        self._inbox = Inbox(self._feed, symbols, status)
        self._recovery = Recovery(
            symbols,
            self._feed.groups,
            SystemClock(),
            grace=int(limits.grace * SECOND),
            patience=limits.patience,
            max_held=limits.max_held,
            state=resume if _is_of_feed(resume, options) else None,
        )

    @override
    def next_batch(self) -> Iterable[tuple[str, Trades]]:
        if self._feed.error is not None:
            raise self._feed.error
        if self._stop.is_set():
            raise StopIteration
        output, requests, stale = self._recovery.step(
            self._inbox.events(),
            merging=self._feed.merging(),
            waits_for_weight=self._feed.waits_for_weight(self._patience),
        )
        for request in requests:
            self._feed.request(request)
        for group in stale:
            self._feed.replace(group)
        self._report(output)
        return [] if output is None else [(self._key, output)]

    def _report(self, output: Trades | None) -> None:
        status, recovery = self._status, self._recovery
        status.trades += 0 if output is None else len(output.trades)
        status.watermark = recovery.watermark
        status.duplicates = recovery.duplicates
        status.held = recovery.held
        status.open_gaps = recovery.open_gaps
        status.restored = recovery.restored
        status.unavailable = recovery.unavailable
        status.buffered_bytes = self._feed.received_bytes - self._feed.taken_bytes

    @override
    def snapshot(self) -> FeedState:
        return {
            "market": self._options.market,
            "stream": self._options.stream,
            **self._recovery.state(),
        }

    @override
    def close(self) -> None:
        self._feed.close()


def _is_of_feed(state: FeedState | None, options: FeedOptions) -> bool:
    """Tell whether a position is one in this feed; log if it is one in another."""
    if state is None:
        return False
    stored, ours = (state["market"], state["stream"]), (options.market, options.stream)
    if stored != ours:
        _LOG.warning(
            "the stored position is of another feed; starting with the first trade that comes",
            stored=" ".join(stored),
            now=" ".join(ours),
        )
    return stored == ours


class BinanceSource(FixedPartitionedSource[tuple[str, Trades], FeedState]):
    """Binance's trades, live: items are ``(partition's name, Trades)``.

    The trades of a symbol come in id order, each id once. Ids that were missed, because of a lost connection,
    a restart or a full queue, are fetched by REST, and come before any newer trade of that symbol. Every gap
    is a row in ``Trades.gaps``: when it is detected, and again after its last trade was handed out. After a
    restart the source goes on behind the last trade that was handed out.

    A missing id delays its own symbol only. After a lost connection or a restart, when every symbol may have
    missed some trades, all symbols come in order of time until the slowest has caught up.

    ``Trades.watermark`` is the newest trade time. In a silent market it follows the exchange's clock, as long
    as pongs show that the connection is alive. It stands still while there is no connection, and waits for
    trades that are being fetched.

    :arg symbols: The run's symbol table, upper case; a trade's ``symbol`` indexes it.
    :arg market: ``spot`` or ``usdm``.
    :arg stream: ``trade`` or ``aggTrade``.
    :arg endpoints: Where the exchange is; Binance itself by default.
    :arg stop: Ends the source once set: the dataflow takes its last snapshot and finishes.
    :arg status: Receives what the feed is doing.
    :arg grace: By how many seconds the watermark of a silent market stays behind the exchange's clock.
    :arg patience: Seconds without an answer from REST after which nothing but the symbol itself waits for an
        open gap.
    :arg life: Seconds after which a connection is replaced; the exchange ends them after 24 h.
    :arg stale: Seconds without an answer after which a connection counts as lost.
    :arg queue_bytes: How many bytes may wait to be decoded; more are dropped, and fetched by REST.
    :arg max_held: How many trades may wait for lower ids; more are dropped, and fetched by REST. As many
        again may wait for symbols that catch up more slowly; if there are more, they no longer wait.
    :raises ValueError: If the market or stream is unknown, or a symbol is named twice.
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
        self._options = FeedOptions(
            market, stream, endpoints or default_endpoints(market), life, stale, queue_bytes
        )
        self._limits = _Limits(grace, patience, max_held)
        self._stop = stop

    @override
    def list_parts(self) -> list[str]:
        return ["0"]

    @override
    def build_part(
        self, step_id: str, for_part: str, resume_state: FeedState | None
    ) -> StatefulSourcePartition[tuple[str, Trades], FeedState]:
        return _BinancePartition(
            for_part,
            self._symbols,
            self._options,
            self._limits,
            self._stop,
            self.status,
            resume_state,
        )
