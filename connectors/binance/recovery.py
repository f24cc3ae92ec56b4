"""Recover missed trades: what to ask for, when, and what can be handed out meanwhile.

Pure: this class has no sockets and no threads. It is told what happened (`events`), reads the time from a
clock that it is given, and returns requests as values. So a simulation can drive it, with a clock of its own.

Trades of a symbol may be missing for two reasons. Ids are missing below one that arrived: a hole, which live
trades prove. Or the symbol is unverified: a connection was lost, messages were dropped, or the process was
restarted, and only its next trade, or REST, can tell whether something was missed. In both cases the trades
behind the last one that was handed out are asked for, page by page (a backfill).

A symbol with a hole waits for its own missing trades alone. After a lost connection or a restart, when every
symbol may have missed some, the symbols of the group are aligned: all trades are handed out in order of time,
no trade newer than what the slowest symbol has reached.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, TypedDict

import numpy as np
import structlog
from numpy.typing import NDArray

from connectors.binance.clock import Clock, ClockOffset
from connectors.binance.continuity import NO_TRADES, NONE, Alignment, Continuity
from connectors.binance.events import Arrived, ClockReading, Down, Liveness, Notice, Page, Request, Up
from connectors.binance.gap_book import GapBook, OpenGap
from connectors.binance.rest import UnavailableError
from kernels.records import SECOND, Block, Trades

_LOG = structlog.get_logger()

_EMPTY_ANSWERS: Final = 5  # after which ids that REST does not have count as unavailable; 5 s in all
_EMPTY_ANSWER_PAUSE: Final = 0.5  # s before the next request, times the number of empty answers
_SETTLE: Final = 0.25  # s for ids to come from the other connection; the worst lag between two seen is 0.214
_VERIFY_DELAY: Final = 0.5  # s for a symbol's own trades to tell what was missed, before REST is asked
_SILENCE: Final = 30.0  # s without a message after which REST is asked whether there should have been one
_FRESH: Final = 5 * SECOND  # us; a trade this old that REST knows and the stream did not send was lost
_IDS_RESTARTED: Final = SECOND  # us by which a trade with an old id is newer than the newest one handed out
_OUTPUT_INTERVAL: Final = 0.1  # s between outputs that only move the watermark


class RecoveryState(TypedDict):
    """What was handed out, and which gaps are open, by name of the symbol."""

    last_ids: dict[str, int]
    last_times: dict[str, int]
    watermark: int
    gaps: dict[str, list[OpenGap]]


class Step(NamedTuple):
    """What follows from some events."""

    output: Trades | None
    """What to hand out, if anything."""
    requests: list[Request]
    """What to ask REST for."""
    stale: list[int]
    """Groups of which the connection has to be replaced: it is open, but does not deliver."""


@dataclass
class _Backfill:
    """The search for trades of one symbol that were, or may have been, missed."""

    progress: float
    """When it last got anywhere, monotonic s."""
    asked: bool = False
    """Whether a request is under way."""
    not_before: float = 0.0
    """When the next request may be made, monotonic s."""
    empty_answers: int = 0
    paging: bool = False
    """Whether trades came and nothing tells how many follow."""
    probing: bool = False
    """Whether this only asks if a silent stream has anything to send."""


class Recovery:
    """All that is known of the order of some symbols' trades, and of those that are missing.

    :arg symbols: The run's symbol table.
    :arg groups: The symbols of each connection, which cover the table in order.
    :arg clock: The local clocks.
    :arg grace: By how many us the watermark of a silent market stays behind the exchange's clock.
    :arg patience: Seconds without an answer from REST after which nothing but the symbol itself waits.
    :arg max_held: How many trades may wait for lower ids, and as many again for symbols that catch up slowly.
    :arg state: Where an earlier run ended, if there was one.
    """

    def __init__(
        self,
        symbols: Sequence[str],
        groups: Sequence[range],
        clock: Clock,
        *,
        grace: int,
        patience: float,
        max_held: int,
        state: RecoveryState | None,
    ) -> None:
        self.watermark = 0
        """Time of the exchange, us, up to which trades were handed out."""
        self.restored = 0
        """Trades that came by REST."""
        self.unavailable = 0
        """Trades that never came and never will."""
        self._symbols = symbols
        self._groups = groups
        self._clock = clock
        self._grace = grace
        self._patience = patience
        self._max_held = max_held
        self._continuity = Continuity(len(symbols), limit=max_held)
        self._book = GapBook()
        self._causes = ["hole"] * len(symbols)
        if state is not None:
            self._restore(state)
        self._unverified: NDArray[np.bool_] = self._continuity.last != NONE
        """Symbols of which trades may have been missed without a trace so far."""
        self._backfills: dict[int, _Backfill] = {}
        self._blocked_since: dict[int, float] = {}
        """Since when a symbol has had a hole, monotonic s."""
        self._verify_at: dict[int, float] = {}
        """When to ask about the unverified symbols of a group, monotonic s."""
        self._probed_at: dict[int, float] = {}
        """When REST was last asked about a silent group, monotonic s."""
        self._behind = [{symbol for symbol in group if self._unverified[symbol]} for group in groups]
        """Symbols of each group that catch up with what was missed while the group had no connection."""
        self._alignments = [Alignment() for _ in groups]
        self._aligned_to: list[int | None] = [None] * len(groups)
        """Time of the exchange, us, up to which each alignment was released."""
        self._seen = [self.watermark] * len(groups)
        """Time of the exchange, us, up to which each group has seen the market."""
        self._group_of = np.repeat(range(len(groups)), [len(group) for group in groups])
        self._offset = ClockOffset()
        self._answered = 0.0
        """When REST last answered, monotonic s."""
        self._reported_unavailable: set[int] = set()
        """Symbols (NONE for all) of which it was logged why trades cannot be had."""
        self._reported_impatient = False
        self._last_output = 0.0
        self._out: list[Block] = []
        self._requests: list[Request] = []
        self._stale: list[int] = []

    def _restore(self, state: RecoveryState) -> None:
        self.watermark = state["watermark"]
        for symbol, name in enumerate(self._symbols):
            if name in state["last_ids"]:
                self._continuity.last[symbol] = state["last_ids"][name]
                self._continuity.last_time[symbol] = state["last_times"][name]
                self._causes[symbol] = "restart"
                if gaps := state["gaps"].get(name):
                    self._book.restore(symbol, gaps)

    def state(self) -> RecoveryState:
        """Describe what was handed out, and which gaps are open, for a later run."""
        ids, times = self._handed_out()
        known = np.flatnonzero(ids != NONE).tolist()
        return {
            "last_ids": {self._symbols[i]: int(ids[i]) for i in known},
            "last_times": {self._symbols[i]: int(times[i]) for i in known},
            "watermark": self.watermark,
            "gaps": {self._symbols[i]: self._book.state(i) for i in self._book.symbols},
        }

    @property
    def duplicates(self) -> int:
        """Trades dropped because their id had come before."""
        return self._continuity.duplicates

    @property
    def held(self) -> int:
        """Trades that wait for lower ids, or for symbols that catch up more slowly."""
        return self._continuity.held + sum(alignment.count for alignment in self._alignments)

    @property
    def open_gaps(self) -> int:
        """Ranges of ids that are missing now."""
        return len(self._book)

    def step(
        self, events: Iterable[Arrived | Notice], *, merging: Collection[int], waits_for_weight: bool
    ) -> Step:
        """Take what happened, and say what follows. Call it often, also without events: time passes.

        :arg events: What happened since the last call, in order.
        :arg merging: Groups that have two connections now, so that ids may come out of order.
        :arg waits_for_weight: Whether requests wait, or have just waited, for the exchange's weight limit.
        """
        if self._book.symbols:
            self._close_gaps()
        for event in events:
            self._take(event)
        if self._continuity.held or self._blocked_since or self._continuity.shed or self._verify_at:
            self._ask_for_missing(merging)
        if any(self._behind):
            self._align(waits_for_weight)
        advanced = self._advance(waits_for_weight)
        step = Step(self._output(advanced), self._requests, self._stale)
        self._out, self._requests, self._stale = [], [], []
        return step

    def _output(self, advanced: bool) -> Trades | None:
        gaps = self._book.take()
        has_trades = any(map(len, self._out))
        now = self._clock.monotonic()
        is_due = advanced and now - self._last_output >= _OUTPUT_INTERVAL
        if not (has_trades or len(gaps) or is_due):
            return None
        self._last_output = now
        trades = self._out[0] if len(self._out) == 1 else np.concatenate([NO_TRADES, *self._out])
        return Trades(trades, self.watermark, gaps)

    # What happened.

    def _take(self, event: Arrived | Notice) -> None:
        match event:
            case Arrived():
                self._take_trades(event)
            case Page():
                self._take_page(event)
            case ClockReading():
                self._offset.add(event.exchange, event.local)
            case Liveness():
                self._take_liveness(event)
            case Down():
                for symbol in self._groups[event.group]:
                    self._doubt(symbol, event.cause)
                    if self._unverified[symbol]:
                        self._behind[event.group].add(symbol)
            case Up():
                now = self._clock.monotonic()
                self._verify_at[event.group] = now + _VERIFY_DELAY
                for symbol in self._backfills.keys() & set(self._groups[event.group]):
                    self._backfills[symbol].progress = now

    def _doubt(self, symbol: int, cause: str) -> None:
        """Note that trades of a symbol may have been missed, and why."""
        self._causes[symbol] = cause
        self._unverified[symbol] = self._continuity.last[symbol] != NONE

    def _take_trades(self, event: Arrived) -> None:
        block = event.trades
        if event.exchange is not None:
            self._offset.add(event.exchange, event.local)
        self._seen[event.group] = max(self._seen[event.group], int(block["time"].max()))
        duplicates = self._continuity.duplicates
        ready = self._continuity.push(block)
        if self._continuity.duplicates > duplicates:
            ready = self._restart_ids(block, ready)
        if self._unverified.any():
            seen = np.unique(block["symbol"])
            self._unverified[seen] = False
            for symbol in set(seen.tolist()).difference(self._continuity.blocked):
                self._causes[symbol] = "hole"
        self._hand_over(event.group, ready)

    def _restart_ids(self, block: Block, ready: Block) -> Block:
        """Start again with symbols whose ids are old but whose trades are new: their ids were restarted."""
        last, last_time = self._continuity.last, self._continuity.last_time
        symbols = block["symbol"]
        anew = (block["id"] <= last[symbols]) & (block["time"] > last_time[symbols] + _IDS_RESTARTED)
        if not anew.any():
            return ready
        for symbol in np.unique(symbols[anew]).tolist():
            first = int(block["id"][anew & (symbols == symbol)][0])
            _LOG.warning(
                "trade ids start again; what came between cannot be told",
                symbol=self._symbols[symbol],
                last=int(last[symbol]),
                first=first,
            )
            self._continuity.restart(symbol)
        return np.concatenate([ready, self._continuity.push(block[anew])])

    def _take_liveness(self, liveness: Liveness) -> None:
        if self._offset.value is not None:
            seen = liveness.time + self._offset.value - self._grace
            self._seen[liveness.group] = max(self._seen[liveness.group], seen)
        now = self._clock.monotonic()
        if liveness.silent > _SILENCE and now - self._probed_at.get(liveness.group, 0.0) > _SILENCE:
            # The exchange answers pings but may have stopped sending trades; REST knows.
            self._probed_at[liveness.group] = now
            for symbol in self._groups[liveness.group]:
                if self._continuity.last[symbol] != NONE and symbol not in self._backfills:
                    self._ask(symbol, probing=True)

    # What to ask for.

    def _ask(self, symbol: int, *, probing: bool = False) -> None:
        """Ask for the trades behind the last one of a symbol, unless a request is under way or must wait."""
        now = self._clock.monotonic()
        backfill = self._backfills.setdefault(symbol, _Backfill(now))
        backfill.probing = probing
        if not backfill.asked and now >= backfill.not_before:
            backfill.asked = True
            # Those that go furthest back are the most urgent.
            first, urgency = int(self._continuity.last[symbol]) + 1, int(self._continuity.last_time[symbol])
            self._requests.append(Request(symbol, first, urgency))

    def _ask_for_missing(self, merging: Collection[int]) -> None:
        """Declare gaps where ids are missing, and ask for what is, or may be, missing."""
        now = self._clock.monotonic()
        for symbol in self._continuity.shed.difference(self._continuity.blocked):
            self._doubt(symbol, "overflow")
            self._ask(symbol)
            self._continuity.shed.discard(symbol)
        for group in [group for group, due in self._verify_at.items() if due <= now]:
            del self._verify_at[group]
            for symbol in self._groups[group]:
                if self._unverified[symbol]:
                    self._ask(symbol)
        before = self._blocked_since
        self._blocked_since = {symbol: before.get(symbol, now) for symbol in self._continuity.blocked}
        for symbol, since in self._blocked_since.items():
            if self._group_of[symbol] in merging and now - since < _SETTLE:
                continue
            for first, last in self._continuity.missing(symbol):
                self._book.open(symbol, first, last, self._clock.now(), self._causes[symbol])
            self._ask(symbol)

    def _close_gaps(self) -> None:
        """Close the gaps of which every trade was handed out, or given up."""
        handed, _ = self._handed_out()
        for symbol in self._book.symbols:
            if symbol not in self._backfills or not self._backfills[symbol].paging:
                self._book.close(symbol, int(handed[symbol]), self._clock.now())

    # What REST answered.

    def _take_page(self, page: Page) -> None:
        symbol = page.symbol
        backfill = self._backfills[symbol]
        backfill.asked = backfill.paging = False
        if page.error is None:
            self._answered = self._clock.monotonic()
            self._reported_impatient = False
        last = int(self._continuity.last[symbol])
        missing = self._continuity.missing(symbol)
        if page.first > last + 1:
            pass  # the ids have started again since, so this answer is of no use
        elif page.error is not None:
            self._report_unavailable(page)
            if missing:
                self._give_up(symbol, *missing[0])
        elif len(page.trades) and page.trades["id"][-1] > last:
            self._take_newer(backfill, symbol, page.trades[page.trades["id"] > last], missing)
        elif missing and page.first == missing[0][0]:
            self._take_nothing(backfill, symbol, missing[0])
        if backfill.paging or self._continuity.missing(symbol):
            self._ask(symbol)
            return
        del self._backfills[symbol]
        self._unverified[symbol] = False
        self._causes[symbol] = "hole"

    def _report_unavailable(self, page: Page) -> None:
        about = NONE if isinstance(page.error, UnavailableError) else page.symbol
        if about not in self._reported_unavailable:
            self._reported_unavailable.add(about)
            _LOG.warning(
                "missed trades cannot be fetched: their gap is unavailable",
                symbol=self._symbols[page.symbol],
                reason=str(page.error),
            )

    def _take_newer(
        self, backfill: _Backfill, symbol: int, block: Block, missing: list[tuple[int, int]]
    ) -> None:
        """Take trades that REST returned, all of them newer than the last one."""
        # Trades that nothing says were missed come by themselves, unless the stream has gone stale.
        missed = missing or self._unverified[symbol]
        if missed or (backfill.probing and self._is_stale(symbol, block)):
            backfill.empty_answers = 0
            backfill.progress = self._clock.monotonic()
            # Go on until nothing more comes, or a live trade tells what is missing.
            backfill.paging = bool(self._unverified[symbol])
            self._take_restored(symbol, block, missing)

    def _take_nothing(self, backfill: _Backfill, symbol: int, hole: tuple[int, int]) -> None:
        """Ask again for ids that REST does not have, then give them up.

        Live trades prove that these ids exist, but REST may lag a little behind them.
        """
        backfill.empty_answers += 1
        pause = _EMPTY_ANSWER_PAUSE * backfill.empty_answers
        backfill.not_before = self._clock.monotonic() + pause
        if backfill.empty_answers >= _EMPTY_ANSWERS:
            self._give_up(symbol, *hole)
            backfill.empty_answers = 0
            backfill.not_before = 0.0

    def _is_stale(self, symbol: int, block: Block) -> bool:
        """Tell whether a silent stream should have sent these trades long ago; replace it if so."""
        offset = self._offset.value
        if offset is None or int(block["time"][0]) > self._clock.now() + offset - _FRESH:
            return False
        self._doubt(symbol, "stale")
        self._stale.append(int(self._group_of[symbol]))
        return True

    def _take_restored(self, symbol: int, block: Block, missing: list[tuple[int, int]]) -> None:
        begin, end = int(block["id"][0]), int(block["id"][-1])
        expected = int(self._continuity.last[symbol]) + 1
        # Without a hole that live trades prove, all that REST has more is what was missed.
        holes = missing or [(expected, end)]
        for first, last in holes:
            if first <= end:
                self._book.open(symbol, first, last, self._clock.now(), self._causes[symbol])
        if begin > expected:
            self._give_up(symbol, expected, min(begin - 1, holes[0][1]))
        # What is newer than the last hole comes by itself.
        block = block[block["id"] <= holes[-1][1]]
        self._book.restored(symbol, begin, end)
        duplicates = self._continuity.duplicates
        self._hand_over(int(self._group_of[symbol]), self._continuity.push(block))
        self.restored += len(block) - (self._continuity.duplicates - duplicates)

    def _give_up(self, symbol: int, first: int, last: int) -> None:
        """Go on without some ids."""
        self._book.open(symbol, first, last, self._clock.now(), self._causes[symbol])
        self._book.unavailable(symbol, first, last, self._clock.now())
        self.unavailable += last - first + 1
        self._hand_over(int(self._group_of[symbol]), self._continuity.skip(symbol, last))

    # What to hand out.

    def _hand_over(self, group: int, trades: Block) -> None:
        """Hand trades out, at once unless their group is catching up."""
        if self._behind[group]:
            self._alignments[group].add(trades)
        else:
            self._out.append(trades)

    def _align(self, waits_for_weight: bool) -> None:
        """Hand out the trades that are older than all that may still be missing in their group."""
        blocked = set(self._continuity.blocked)
        for group, behind in enumerate(self._behind):
            behind -= {s for s in behind if not (self._unverified[s] or s in blocked or s in self._backfills)}
            alignment = self._alignments[group]
            if alignment.count > self._max_held:
                behind.clear()
            times = [
                int(self._continuity.last_time[s]) for s in self._worth_waiting(behind, waits_for_weight)
            ]
            until = min(times, default=None)
            if alignment.count and (until is None or until != self._aligned_to[group]):
                self._aligned_to[group] = until
                self._out.append(alignment.release(until))

    def _worth_waiting(self, symbols: Iterable[int], waits_for_weight: bool) -> Iterator[int]:
        """Leave out symbols whose trades have been sought for too long while REST does not answer."""
        if waits_for_weight:
            yield from symbols
            return
        impatient = self._clock.monotonic() - self._patience
        for symbol in symbols:
            backfill = self._backfills.get(symbol)
            if backfill is None or max(backfill.progress, self._answered) > impatient:
                yield symbol

    def _advance(self, waits_for_weight: bool) -> bool:
        """Move the watermark on as far as what is missing allows; tell whether it moved."""
        watermark = min(self._seen)
        if self._backfills or self._continuity.held or self._unverified.any() or any(self._behind):
            waiting = {*self._continuity.blocked, *np.flatnonzero(self._unverified).tolist()}
            waiting.update(self._book.symbols, *self._behind)
            worth = self._worth_waiting(waiting, waits_for_weight)
            times = [int(self._continuity.last_time[symbol]) for symbol in worth]
            watermark = min(watermark, *times) if times else watermark
            if len(times) < len(waiting) and not self._reported_impatient:
                self._reported_impatient = True
                _LOG.warning("REST does not answer; what was missed comes late", symbols=len(waiting))
        if watermark <= self.watermark:
            return False
        self.watermark = watermark
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
