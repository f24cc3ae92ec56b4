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

import re
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, TypedDict

import numpy as np
import structlog
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from numpy.typing import NDArray
from typing_extensions import override

from connectors.binance.continuity import NONE, Alignment, Continuity, GapBook, OpenGap
from connectors.binance.decoder import TradeDecoder
from connectors.binance.feed import (
    Clock,
    Down,
    Endpoints,
    Feed,
    FeedOptions,
    FeedStatus,
    Frames,
    Liveness,
    Page,
    default_endpoints,
    now_us,
)
from connectors.binance.rest import UnavailableError
from kernels.records import SECOND, TRADE, Block, Trades

__all__ = ["BinanceSource", "Endpoints", "FeedState", "FeedStatus", "default_endpoints"]

_LOG = structlog.get_logger()

_FRAMES_PER_BATCH: Final = 65_536  # some 20 ms of work; more would delay snapshots
_EMPTY_ANSWERS: Final = 5  # after which ids that REST does not have count as unavailable; 5 s in all
_SETTLE: Final = 0.25  # s for ids to come from the other connection; the worst lag between two seen is 0.214
_VERIFY_DELAY: Final = 0.5  # s for a symbol's own trades to tell what was missed, before REST is asked
_SILENCE: Final = 30.0  # s without a message after which REST is asked whether there should have been one
_FRESH: Final = 5 * SECOND  # us; a trade this old that REST knows and the stream did not send was lost
_IDS_RESTARTED: Final = SECOND  # us by which a trade with an old id is newer than the newest one handed out
_OUTPUT_INTERVAL: Final = 0.1  # s between outputs that only move the watermark
_NO_TRADES: Final = np.empty(0, TRADE)
_EVENT_TIME = re.compile(rb'"E":([0-9]{13,16})')


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


class FeedState(TypedDict):
    """Where a partition stands: what it handed out, and which gaps are open."""

    market: str
    stream: str
    last_ids: dict[str, int]
    last_times: dict[str, int]
    watermark: int
    gaps: dict[str, list[OpenGap]]


@dataclass
class Backfill:
    """The search for trades of one symbol that were, or may have been, missed."""

    asked: bool = False
    """Whether a request is under way."""
    not_before: float = 0.0
    """When the next request may be made, monotonic s."""
    empty_answers: int = 0
    paging: bool = False
    """Whether trades came and nothing tells how many follow."""
    probing: bool = False
    """Whether this only looks if a silent stream is silent rightly."""
    progress: float = field(default_factory=time.monotonic)
    """When it last got anywhere, monotonic s."""


class _BinancePartition(StatefulSourcePartition[tuple[str, Trades], FeedState]):
    """One thread of sockets, and all that is known of the order of its trades."""

    def __init__(
        self,
        key: str,
        symbols: Sequence[str],
        options: FeedOptions,
        grace: float,
        patience: float,
        max_held: int,
        stop: threading.Event,
        status: FeedStatus,
        resume: FeedState | None,
    ) -> None:
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
        self._continuity = Continuity(n, limit=max_held)
        self._book = GapBook()
        self._causes = ["hole"] * n
        self._watermark = 0
        if resume is not None:
            self._resume(resume)
        self._unverified: NDArray[np.bool_] = self._continuity.last != NONE
        """Symbols of which trades may have been missed without a trace so far."""
        self._backfills: dict[int, Backfill] = {}
        self._told_unavailable: set[int] = set()
        """Symbols (NONE for all) of which it was said why trades cannot be had."""
        self._told_impatient = False
        self._answered = 0.0
        """When REST last answered, monotonic s."""
        self._blocked_since: dict[int, float] = {}
        self._offset = _Offset()
        self._last_output = 0.0
        self._max_held = max_held
        self._feed = Feed(symbols, options, status)
        self._verify_at: dict[int, float] = {}
        """When to ask about the unverified symbols of a group, monotonic s."""
        self._probed_at: dict[int, float] = {}
        """When a silent group was last asked about, monotonic s."""
        self._behind = [
            {symbol for symbol in group if self._unverified[symbol]} for group in self._feed.groups
        ]
        """Symbols of each group that catch up with what was missed while the group had no connection."""
        self._alignments = [Alignment() for _ in self._feed.groups]
        self._aligned_to: list[int | None] = [None] * len(self._feed.groups)
        """Exchange time, us, up to which each alignment was released."""
        self._seen = [self._watermark] * len(self._feed.groups)
        """Exchange time, us, up to which each group has seen the market."""
        self._group_of = np.repeat(range(len(self._feed.groups)), [len(g) for g in self._feed.groups])

    def _resume(self, state: FeedState) -> None:
        stored, ours = (state["market"], state["stream"]), (self._options.market, self._options.stream)
        if stored != ours:
            _LOG.warning(
                "the stored position is of another feed; starting with the first trade that comes",
                stored=" ".join(stored),
                now=" ".join(ours),
            )
            return
        self._watermark = state["watermark"]
        for symbol, name in enumerate(self._symbols):
            if name in state["last_ids"]:
                self._continuity.last[symbol] = state["last_ids"][name]
                self._continuity.last_time[symbol] = state["last_times"][name]
                self._causes[symbol] = "restart"
                if gaps := state["gaps"].get(name):
                    self._book.restore(symbol, gaps)

    @override
    def next_batch(self) -> Iterable[tuple[str, Trades]]:
        if self._feed.error is not None:
            raise self._feed.error
        if self._stop.is_set():
            raise StopIteration
        if len(self._book):
            self._close_gaps()
        out = self._drain()
        if self._continuity.held or self._blocked_since or self._continuity.shed or self._verify_at:
            self._ask_for_missing()
        if any(self._behind):
            self._align(out)
        advanced = self._advance()
        gaps = self._book.take()
        n = sum(len(block) for block in out)
        self._report(n)
        now = time.monotonic()
        if n == 0 and len(gaps) == 0 and not (advanced and now - self._last_output >= _OUTPUT_INTERVAL):
            return []
        self._last_output = now
        trades = out[0] if len(out) == 1 else np.concatenate([_NO_TRADES, *out])
        return [(self._key, Trades(trades, self._watermark, gaps))]

    def _report(self, trades: int) -> None:
        status = self._status
        status.trades += trades
        status.watermark = self._watermark
        status.duplicates = self._continuity.duplicates
        status.held = self._continuity.held + sum(alignment.count for alignment in self._alignments)
        status.open_gaps = len(self._book)
        status.buffered_bytes = self._feed.received_bytes - self._feed.taken_bytes

    def _drain(self) -> list[Block]:
        """Take events from the socket thread, return the trades that can go on."""
        inbox = self._feed.inbox
        out: list[Block] = []
        frames: list[Frames] = []
        count = 0
        for _ in range(len(inbox)):
            event = inbox.popleft()
            if frames and not (isinstance(event, Frames) and event.group == frames[0].group):
                self._take_frames(frames, out)
                frames = []
            if isinstance(event, Frames):
                frames.append(event)
                count += len(event.starts)
                if count >= _FRAMES_PER_BATCH:
                    break
            elif isinstance(event, Page):
                self._take_page(event, out)
            elif isinstance(event, Clock):
                self._offset.add(event.exchange - event.local, event.local)
            elif isinstance(event, Liveness):
                self._take_liveness(event)
            elif isinstance(event, Down):
                for symbol in self._feed.groups[event.group]:
                    self._doubt(symbol, event.cause)
                    if self._unverified[symbol]:
                        self._behind[event.group].add(symbol)
            else:
                now = time.monotonic()
                self._verify_at[event.group] = now + _VERIFY_DELAY
                for symbol in self._backfills.keys() & set(self._feed.groups[event.group]):
                    self._backfills[symbol].progress = now
        if frames:
            self._take_frames(frames, out)
        return out

    def _doubt(self, symbol: int, cause: str) -> None:
        """Note that trades of a symbol may be missed, and why."""
        self._causes[symbol] = cause
        self._unverified[symbol] = self._continuity.last[symbol] != NONE

    def _take_frames(self, events: list[Frames], out: list[Block]) -> None:
        newest = events[-1]
        if len(events) == 1:
            buffer, starts, ends = newest.buffer, newest.starts, newest.ends
        else:
            buffer = b"".join([event.buffer for event in events])
            sizes = np.array([len(event.buffer) for event in events])
            offsets = np.repeat(np.cumsum(sizes) - sizes, [len(event.starts) for event in events])
            starts = np.concatenate([event.starts for event in events]) + offsets
            ends = np.concatenate([event.ends for event in events]) + offsets
        block = self._decoder.decode(buffer, starts, ends)
        self._feed.taken_bytes += len(buffer)
        for frame in self._decoder.others:
            if b'"code"' in frame or b'"error"' in frame:
                _LOG.warning("the exchange refused a request", answer=frame[:300].decode("utf-8", "replace"))
        if len(block) == 0:
            return
        match = _EVENT_TIME.search(buffer, int(starts[-1]), int(ends[-1]))
        if match is not None:
            event_time = int(match[1]) * (1 if len(match[1]) > 13 else 1_000)
            self._status.lag = (newest.received - event_time) / SECOND
            self._offset.add(event_time - newest.received, newest.received)
        self._seen[newest.group] = max(self._seen[newest.group], int(block["time"].max()))
        duplicates = self._continuity.duplicates
        emitted = self._continuity.push(block)
        if self._continuity.duplicates > duplicates:
            emitted = self._restart_ids(block, emitted)
        if self._unverified.any():
            seen = np.unique(block["symbol"])
            self._unverified[seen] = False
            for symbol in set(seen.tolist()).difference(self._continuity.blocked):
                self._causes[symbol] = "hole"
        self._hand_over(newest.group, emitted, out)

    def _restart_ids(self, block: Block, emitted: Block) -> Block:
        """Start again with symbols whose ids are old but whose trades are new: the exchange began anew."""
        last, last_time = self._continuity.last, self._continuity.last_time
        symbols = block["symbol"]
        anew = (block["id"] <= last[symbols]) & (block["time"] > last_time[symbols] + _IDS_RESTARTED)
        if not anew.any():
            return emitted
        for symbol in np.unique(symbols[anew]).tolist():
            first = int(block["id"][anew & (symbols == symbol)][0])
            _LOG.warning(
                "trade ids start again; what came between cannot be told",
                symbol=self._symbols[symbol],
                last=int(last[symbol]),
                first=first,
            )
            self._continuity.restart(symbol)
        return np.concatenate([emitted, self._continuity.push(block[anew])])

    def _take_liveness(self, liveness: Liveness) -> None:
        if self._offset.value is not None:
            seen = liveness.time + self._offset.value - self._grace
            self._seen[liveness.group] = max(self._seen[liveness.group], seen)
        now = time.monotonic()
        if liveness.silent > _SILENCE and now - self._probed_at.get(liveness.group, 0.0) > _SILENCE:
            # The exchange answers pings but may have stopped sending trades; REST knows.
            self._probed_at[liveness.group] = now
            for symbol in self._feed.groups[liveness.group]:
                if self._continuity.last[symbol] != NONE and symbol not in self._backfills:
                    self._ask(symbol, probing=True)

    def _ask(self, symbol: int, *, probing: bool = False) -> None:
        """Ask for the trades behind the last one handed out, unless that was done."""
        backfill = self._backfills.setdefault(symbol, Backfill())
        backfill.probing = probing
        if not backfill.asked and time.monotonic() >= backfill.not_before:
            backfill.asked = True
            first, urgency = self._continuity.last[symbol] + 1, self._continuity.last_time[symbol]
            self._feed.request(symbol, int(first), int(urgency))

    def _ask_for_missing(self) -> None:
        """Declare gaps where ids are missing, and ask for what is, or may be, missing."""
        now = time.monotonic()
        for symbol in self._continuity.shed.difference(self._continuity.blocked):
            self._doubt(symbol, "overflow")
            self._ask(symbol)
            self._continuity.shed.discard(symbol)
        for group in [group for group, due in self._verify_at.items() if due <= now]:
            del self._verify_at[group]
            for symbol in self._feed.groups[group]:
                if self._unverified[symbol]:
                    self._ask(symbol)
        before = self._blocked_since
        self._blocked_since = {symbol: before.get(symbol, now) for symbol in self._continuity.blocked}
        for symbol, since in self._blocked_since.items():
            if self._feed.merging(int(self._group_of[symbol])) and now - since < _SETTLE:
                continue
            for first, last in self._continuity.missing(symbol):
                self._book.open(symbol, first, last, now_us(), self._causes[symbol])
            self._ask(symbol)

    def _close_gaps(self) -> None:
        """Close the gaps of which every trade was handed out, or given up."""
        handed, _ = self._handed_out()
        for symbol in self._book.symbols:
            if symbol not in self._backfills or not self._backfills[symbol].paging:
                self._book.close(symbol, int(handed[symbol]), now_us())

    def _take_page(self, page: Page, out: list[Block]) -> None:
        symbol = page.symbol
        backfill = self._backfills[symbol]
        backfill.asked = backfill.paging = False
        if page.error is None:
            self._answered = time.monotonic()
            self._told_impatient = False
        last = int(self._continuity.last[symbol])
        missing = self._continuity.missing(symbol)
        if page.first > last + 1:
            pass  # the ids have started again since; what was asked is of no use
        elif page.error is not None:
            about = NONE if isinstance(page.error, UnavailableError) else symbol
            if about not in self._told_unavailable:
                self._told_unavailable.add(about)
                _LOG.warning(
                    "missed trades cannot be fetched: their gap is unavailable",
                    symbol=self._symbols[symbol],
                    reason=str(page.error),
                )
            if missing:
                self._give_up(symbol, *missing[0], out)
        elif len(page.trades) and page.trades["id"][-1] > last:
            block = page.trades[page.trades["id"] > last]
            # Trades that nothing says were missed come by themselves, unless the stream has gone stale.
            missed = missing or self._unverified[symbol]
            if missed or (backfill.probing and self._is_stale(symbol, block)):
                backfill.empty_answers = 0
                backfill.progress = time.monotonic()
                # Go on until nothing more comes, or a live trade tells what is missing.
                backfill.paging = bool(self._unverified[symbol])
                self._take_restored(symbol, block, missing, out)
        elif missing and page.first == missing[0][0]:
            # Live trades prove that these ids were given out, and REST may lag a little behind them.
            backfill.empty_answers += 1
            backfill.not_before = time.monotonic() + 0.5 * backfill.empty_answers
            if backfill.empty_answers >= _EMPTY_ANSWERS:
                self._give_up(symbol, *missing[0], out)
                backfill.empty_answers = 0
                backfill.not_before = 0.0
        if backfill.paging or self._continuity.missing(symbol):
            self._ask(symbol)
            return
        del self._backfills[symbol]
        self._unverified[symbol] = False
        self._causes[symbol] = "hole"

    def _is_stale(self, symbol: int, block: Block) -> bool:
        """Tell whether a silent stream should have sent these trades long ago; replace it if so."""
        offset = self._offset.value
        if offset is None or int(block["time"][0]) > now_us() + offset - _FRESH:
            return False
        self._doubt(symbol, "stale")
        self._feed.replace(int(self._group_of[symbol]))
        return True

    def _take_restored(
        self, symbol: int, block: Block, missing: list[tuple[int, int]], out: list[Block]
    ) -> None:
        """Take trades that REST returned, all of them newer than what was handed out."""
        begin, end = int(block["id"][0]), int(block["id"][-1])
        expected = int(self._continuity.last[symbol]) + 1
        # Without a hole that live trades prove, all that REST has more is what was missed.
        holes = missing or [(expected, end)]
        for first, last in holes:
            if first <= end:
                self._book.open(symbol, first, last, now_us(), self._causes[symbol])
        if begin > expected:
            self._give_up(symbol, expected, min(begin - 1, holes[0][1]), out)
        # What is newer than the last hole comes by itself.
        block = block[block["id"] <= holes[-1][1]]
        self._book.restored(symbol, begin, end)
        duplicates = self._continuity.duplicates
        self._hand_over(int(self._group_of[symbol]), self._continuity.push(block), out)
        self._status.restored += len(block) - (self._continuity.duplicates - duplicates)

    def _give_up(self, symbol: int, first: int, last: int, out: list[Block]) -> None:
        """Go on without some ids."""
        self._book.open(symbol, first, last, now_us(), self._causes[symbol])
        self._book.unavailable(symbol, first, last, now_us())
        self._status.unavailable += last - first + 1
        self._hand_over(int(self._group_of[symbol]), self._continuity.skip(symbol, last), out)

    def _hand_over(self, group: int, trades: Block, out: list[Block]) -> None:
        """Let trades go on, at once unless their group is catching up."""
        if self._behind[group]:
            self._alignments[group].add(trades)
        else:
            out.append(trades)

    def _align(self, out: list[Block]) -> None:
        """Let those trades go on that none of their group's symbols may still have older ones than."""
        blocked = set(self._continuity.blocked)
        for group, behind in enumerate(self._behind):
            behind -= {s for s in behind if not (self._unverified[s] or s in blocked or s in self._backfills)}
            alignment = self._alignments[group]
            if alignment.count > self._max_held:
                behind.clear()
            times = [int(self._continuity.last_time[symbol]) for symbol in self._patiently(behind)]
            until = min(times, default=None)
            if alignment.count and (until is None or until != self._aligned_to[group]):
                self._aligned_to[group] = until
                out.append(alignment.release(until))

    def _patiently(self, symbols: Iterable[int]) -> Iterator[int]:
        """Leave out the symbols whose trades have been sought for too long while REST does not answer."""
        if self._feed.waits_for_weight(self._patience):
            yield from symbols
            return
        impatient = time.monotonic() - self._patience
        for symbol in symbols:
            backfill = self._backfills.get(symbol)
            if backfill is None or max(backfill.progress, self._answered) > impatient:
                yield symbol

    def _advance(self) -> bool:
        """Move the watermark on as far as what is missing allows; tell whether it moved."""
        watermark = min(self._seen)
        if self._backfills or self._continuity.held or self._unverified.any() or any(self._behind):
            waiting = {*self._continuity.blocked, *np.flatnonzero(self._unverified).tolist()}
            waiting.update(self._book.symbols, *self._behind)
            times = [int(self._continuity.last_time[symbol]) for symbol in self._patiently(waiting)]
            watermark = min(watermark, *times) if times else watermark
            if len(times) < len(waiting) and not self._told_impatient:
                self._told_impatient = True
                _LOG.warning("REST does not answer; what was missed comes late", symbols=len(waiting))
        if watermark <= self._watermark:
            return False
        self._watermark = watermark
        return True

    def _handed_out(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the last id, and about the time of it, that each symbol has handed out."""
        if not any(alignment.count for alignment in self._alignments):
            return self._continuity.last, self._continuity.last_time
        ids, times = self._continuity.last.copy(), self._continuity.last_time.copy()
        for alignment in self._alignments:
            for symbol, (first, first_time) in alignment.first.items():
                ids[symbol], times[symbol] = first - 1, first_time
        return ids, times

    @override
    def snapshot(self) -> FeedState:
        ids, times = self._handed_out()
        known = np.flatnonzero(ids != NONE).tolist()
        return {
            "market": self._options.market,
            "stream": self._options.stream,
            "last_ids": {self._symbols[i]: int(ids[i]) for i in known},
            "last_times": {self._symbols[i]: int(times[i]) for i in known},
            "watermark": self._watermark,
            "gaps": {self._symbols[i]: self._book.state(i) for i in self._book.symbols},
        }

    @override
    def close(self) -> None:
        self._feed.close()


class BinanceSource(FixedPartitionedSource[tuple[str, Trades], FeedState]):
    """Binance's trades, live: items are ``(partition's name, Trades)``.

    Within a symbol trades come in id order, each id once. Ids that were missed, be it for a lost connection,
    a restart or a full queue, are fetched by REST and come before any newer trade of that symbol; every gap
    is a row in ``Trades.gaps``, when detected and again once its last trade was handed out. On resume the
    source goes on behind the last trade that was handed out.

    A single missing id holds up its own symbol only. After a lost connection or a restart, when every symbol
    may have missed some, all come in order of time until the slowest has caught up.

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
    :arg patience: Seconds without an answer from REST after which nothing but the symbol itself waits for an
        open gap.
    :arg life: Seconds after which a connection is replaced; the exchange ends them after 24 h.
    :arg stale: Seconds without an answer after which a connection counts as lost.
    :arg queue_bytes: Most bytes received and not yet decoded; more are dropped, and fetched by REST.
    :arg max_held: Most trades that may wait for lower ids; more are dropped, and fetched by REST. As many
        again may wait for symbols that catch up more slowly; beyond that, they no longer wait.
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
        self._options = FeedOptions(
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
