"""Put trades in id order, each id once, and name the ids that are missing. Pure: no I/O, no clock.

Trade ids of a symbol are consecutive, so the last id handed out is all there is to know about its past: the
next trade is ``last + 1``, anything lower is a duplicate, anything higher means ids are missing, and is held
until they have come, whether by the other connection, by REST, or not at all:

>>> feed = Continuity(symbols=1)
>>> block = np.zeros(4, TRADE)
>>> block["id"] = [7, 8, 8, 11]
>>> feed.push(block)["id"]
array([7, 8])
>>> feed.missing(0)
[(9, 10)]
>>> feed.skip(0, 10)["id"]
array([11])
"""

from bisect import bisect_right
from collections.abc import Iterable
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from kernels.compile import warm_up
from kernels.id_order import sift
from kernels.records import TRADE, Block

NONE = -1
"""Last id of a symbol of which no trade was seen yet."""

_EMPTY = np.empty(0, TRADE)


class _Run:
    """Trades of consecutive ids, in pieces as they came."""

    __slots__ = ("first", "last", "pieces")

    def __init__(self, first: int, last: int, pieces: list[Block]) -> None:
        self.first = first
        self.last = last
        self.pieces = pieces


class _Waiting:
    """Trades of one symbol that wait for lower ids: runs in id order, never touching each other."""

    __slots__ = ("firsts", "runs")

    def __init__(self) -> None:
        self.firsts: list[int] = []
        self.runs: list[_Run] = []

    def add(self, trades: Block) -> int:
        """Add trades of strictly increasing ids; return how many were new."""
        ids = trades["id"]
        cuts = np.flatnonzero(np.diff(ids) != 1) + 1
        bounds = [0, *cuts.tolist(), len(ids)]
        return sum(self._add_run(trades[i:j]) for i, j in pairwise(bounds))

    def _add_run(self, run: Block) -> int:
        start, last = int(run["id"][0]), int(run["id"][-1])
        added = 0
        pos = start
        while pos <= last:
            at = bisect_right(self.firsts, pos)
            if at > 0 and self.runs[at - 1].last >= pos:
                pos = self.runs[at - 1].last + 1
                continue
            end = last if at == len(self.runs) else min(last, self.firsts[at] - 1)
            self._insert(at, pos, end, run[pos - start : end - start + 1].copy())
            added += end - pos + 1
            pos = end + 1
        return added

    def _insert(self, at: int, first: int, last: int, piece: Block) -> None:
        """Insert a run before index ``at``, joined to its neighbours."""
        if at > 0 and self.runs[at - 1].last + 1 == first:
            at -= 1
            self.runs[at].last = last
            self.runs[at].pieces.append(piece)
        else:
            self.runs.insert(at, _Run(first, last, [piece]))
            self.firsts.insert(at, first)
        at += 1
        if at < len(self.runs) and self.runs[at].first == last + 1:
            before, after = self.runs[at - 1], self.runs.pop(at)
            self.firsts.pop(at)
            before.last = after.last
            before.pieces.extend(after.pieces)

    def release(self, last: int) -> list[Block]:
        """Take out the first run if it starts at ``last + 1``."""
        if not self.runs or self.runs[0].first != last + 1:
            return []
        self.firsts.pop(0)
        return self.runs.pop(0).pieces


class Continuity:
    """Merge trades of many symbols from any number of connections and back-fills into one ordered stream.

    :arg symbols: How many symbols; a trade's ``symbol`` indexes them.
    :arg last: Last id handed out per symbol, ``NONE`` where there is none: the first trade that comes is
        then taken as the start.
    :arg limit: How many trades may wait for lower ids, over all symbols. Those that come when that many wait
        are dropped, and will be missing like any other: one more gap, once the present one is healed.
    """

    def __init__(self, symbols: int, last: Iterable[int] | None = None, limit: int = 1_000_000) -> None:
        warm_up(sift)
        self.last: NDArray[np.int64] = np.full(symbols, NONE, np.int64)
        if last is not None:
            self.last[:] = list(last)
        self.last_time: NDArray[np.int64] = np.zeros(symbols, np.int64)
        self.limit = limit
        self.held = 0
        """Trades that wait now."""
        self.duplicates = 0
        """Trades dropped because their id had come before."""
        self.dropped = 0
        """Trades dropped because ``limit`` was reached."""
        self.shed: set[int] = set()
        """Symbols of which trades were so dropped; the caller clears it."""
        self._blocked: NDArray[np.bool_] = np.zeros(symbols, np.bool_)
        self._waiting: dict[int, _Waiting] = {}

    @property
    def blocked(self) -> list[int]:
        """Symbols of which trades wait for lower ids."""
        return list(self._waiting)

    def push(self, trades: Block) -> Block:
        """Take a block in, return what can go on.

        :arg trades: TRADE block: any symbols, any order, any duplicates; a negative symbol is left out.
        :returns: TRADE block, in id order per symbol, otherwise in arrival order, or in that of time where
            some had waited. May be ``trades`` itself.
        """
        n = len(trades)
        if n == 0:
            return _EMPTY
        ready = np.empty(n, np.int64)
        held = np.empty(n, np.int64)
        n_ready, n_held = sift(
            trades["id"],
            trades["time"],
            trades["symbol"],
            self.last,
            self.last_time,
            self._blocked,
            ready,
            held,
        )
        if n_ready == n:
            return trades
        if n_held == 0:
            self.duplicates += n - n_ready
            return trades[ready[:n_ready]]
        out = [trades[ready[:n_ready]]]
        waiting = trades[held[:n_held]]
        added, dropped = 0, self.dropped
        order = np.lexsort((waiting["id"], waiting["symbol"]))
        waiting = waiting[order]
        is_new = np.ones(n_held, np.bool_)
        is_new[1:] = (np.diff(waiting["id"]) != 0) | (np.diff(waiting["symbol"]) != 0)
        waiting = waiting[is_new]
        cuts = np.flatnonzero(np.diff(waiting["symbol"])) + 1
        for part in np.split(waiting, cuts):
            symbol = int(part["symbol"][0])
            if len(kept := self._within_limit(symbol, part)):
                new = self._waiting.setdefault(symbol, _Waiting()).add(kept)
                added += new
                self.held += new
                out += self._release(symbol)
        self.duplicates += n - n_ready - added - (self.dropped - dropped)
        return _in_step(out)

    def _within_limit(self, symbol: int, part: Block) -> Block:
        """Leave out what there is no room for, but nothing that can go on at once."""
        if self.held + len(part) <= self.limit:
            return part
        ids = part["id"]
        ready = int(np.searchsorted(ids - np.arange(len(ids)), self.last[symbol] + 1, side="right"))
        ready = ready if ids[0] == self.last[symbol] + 1 else 0
        room = max(ready, self.limit - self.held)
        self.dropped += len(part) - room
        self.shed.add(symbol)
        if room == 0 and symbol not in self._waiting:
            self._blocked[symbol] = False
        return part[:room]

    def _release(self, symbol: int) -> list[Block]:
        waiting = self._waiting[symbol]
        pieces = waiting.release(int(self.last[symbol]))
        if pieces:
            self.last[symbol] = pieces[-1]["id"][-1]
            newest = max(int(piece["time"].max()) for piece in pieces)
            self.last_time[symbol] = max(int(self.last_time[symbol]), newest)
            self.held -= sum(len(piece) for piece in pieces)
        if not waiting.runs:
            del self._waiting[symbol]
            self._blocked[symbol] = False
        return pieces

    def restart(self, symbol: int) -> None:
        """Forget a symbol: the next trade that comes is its start."""
        if symbol in self._waiting:
            self.held -= sum(run.last - run.first + 1 for run in self._waiting.pop(symbol).runs)
        self._blocked[symbol] = False
        self.last[symbol] = NONE

    def missing(self, symbol: int) -> list[tuple[int, int]]:
        """Tell which ids of a symbol are missing below ones that came.

        :returns: Closed ranges of ids, ascending.
        """
        if symbol not in self._waiting:
            return []
        ranges = []
        expected = int(self.last[symbol]) + 1
        for run in self._waiting[symbol].runs:
            ranges.append((expected, run.first - 1))
            expected = run.last + 1
        return ranges

    def skip(self, symbol: int, last: int) -> Block:
        """Give up the ids of a symbol up to ``last``, as far as they are missing.

        :returns: TRADE block of what waited for them.
        """
        out: list[Block] = [_EMPTY]
        while symbol in self._waiting and self.last[symbol] < last:
            first_held = self._waiting[symbol].runs[0].first
            self.last[symbol] = min(last, first_held - 1)
            out += self._release(symbol)
        self.last[symbol] = max(int(self.last[symbol]), last)
        return np.concatenate(out)


def _in_step(blocks: list[Block]) -> Block:
    """Join blocks of which those behind the first had waited: symbols that waited together go on together."""
    if len(blocks) == 1:
        return blocks[0]
    together = Alignment()
    for block in blocks:
        together.add(block)
    return together.release()


class Alignment:
    """Keep the trades of symbols that catch up at different speeds in step: nothing newer than the slowest.

    A page of back-fill holds a second of a busy market, or a day of a quiet one; handed out as they come, the
    pages of one symbol would close bars for which another's trades are still to come.
    """

    def __init__(self) -> None:
        self.count = 0
        """Trades kept back."""
        self.first: dict[int, tuple[int, int]] = {}
        """Id and time of the first trade of each symbol that is kept back."""
        self._blocks: list[Block] = []

    def add(self, trades: Block) -> None:
        """Keep a TRADE block, in id order per symbol, until its time comes."""
        if len(trades):
            self._blocks.append(trades)
            self.count += len(trades)
            self._note(trades)

    def _note(self, trades: Block) -> None:
        symbols, rows = np.unique(trades["symbol"], return_index=True)
        for symbol, row in zip(symbols.tolist(), rows.tolist(), strict=True):
            self.first.setdefault(symbol, (int(trades["id"][row]), int(trades["time"][row])))

    def release(self, until: int | None = None) -> Block:
        """Hand out what is kept, up to a time.

        :arg until: Exchange time, us, inclusive; None for all.
        :returns: TRADE block in order of time, and of id per symbol.
        """
        if not self._blocks:
            return _EMPTY
        trades = np.concatenate(self._blocks)
        # Should a symbol's time ever step back, its order of ids comes first: a running maximum, for all
        # symbols at once, each lifted above the ones before it.
        grouped = np.argsort(trades["symbol"], kind="stable")
        since = trades["time"][grouped] - trades["time"].min()
        lift = np.cumsum(np.diff(trades["symbol"][grouped], prepend=trades["symbol"][grouped[0]]) != 0)
        lift *= since.max() + 1
        times = np.empty(len(trades), np.int64)
        times[grouped] = np.maximum.accumulate(since + lift) - lift + trades["time"].min()
        order = np.argsort(times, kind="stable")
        n = len(order) if until is None else int(np.searchsorted(times[order], until, side="right"))
        left = trades[order[n:]]
        self._blocks = [left] if len(left) else []
        self.count = len(left)
        self.first.clear()
        self._note(left)
        return trades[order[:n]]
