"""Put trades in id order, each id once, and name the ids that are missing. No I/O, no clock.

Trade ids of a symbol are consecutive, so the last id that was handed out tells what the next one must be:
``last + 1``. A lower id is a duplicate. A higher id means that ids are missing; its trade waits until they
have come, by the other connection or by REST, or until they are given up:

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
"""The last id of a symbol without any trade yet."""

NO_TRADES = np.empty(0, TRADE)
"""A TRADE block without trades."""


class _Run:
    """Trades of consecutive ids, in the pieces in which they came."""

    __slots__ = ("first", "last", "pieces")

    def __init__(self, first: int, last: int, pieces: list[Block]) -> None:
        self.first = first
        self.last = last
        self.pieces = pieces


class _Waiting:
    """Trades of one symbol that wait for lower ids: runs in id order, with missing ids between them."""

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
    """Merges trades of many symbols, from any number of connections and from REST, into one ordered stream.

    :arg symbols: How many symbols there are; a trade's ``symbol`` is an index below that.
    :arg last: Last id handed out of each symbol; ``NONE`` if there is none, and the first trade that comes is
        the start.
    :arg limit: How many trades of all symbols may wait for lower ids. Trades that come when so many wait are
        dropped. They are missing then like any others: as one more gap, once the present one is closed.
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
        """Symbols of which trades were dropped for that reason; the caller clears it."""
        self._blocked: NDArray[np.bool_] = np.zeros(symbols, np.bool_)
        self._waiting: dict[int, _Waiting] = {}

    @property
    def blocked(self) -> list[int]:
        """Symbols of which trades wait for lower ids."""
        return list(self._waiting)

    def push(self, trades: Block) -> Block:
        """Take a block, and return the trades that can be handed out now.

        :arg trades: TRADE block: any symbols, in any order, with duplicates; a trade whose symbol is negative
            is left out.
        :returns: TRADE block, each symbol in id order: in the order of arrival, or in order of time if some
            of them had waited. May be ``trades`` itself.
        """
        n = len(trades)
        if n == 0:
            return NO_TRADES
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
        """Leave out trades for which there is no room, but none that can go on at once."""
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
        """Forget the ids of a symbol: its next trade is its start."""
        if symbol in self._waiting:
            self.held -= sum(run.last - run.first + 1 for run in self._waiting.pop(symbol).runs)
        self._blocked[symbol] = False
        self.last[symbol] = NONE

    def missing(self, symbol: int) -> list[tuple[int, int]]:
        """Return the ids of a symbol that are missing below one that came.

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
        """Give up the missing ids of a symbol up to ``last``.

        :returns: TRADE block of the trades that waited for them.
        """
        out: list[Block] = [NO_TRADES]
        while symbol in self._waiting and self.last[symbol] < last:
            first_held = self._waiting[symbol].runs[0].first
            self.last[symbol] = min(last, first_held - 1)
            out += self._release(symbol)
        self.last[symbol] = max(int(self.last[symbol]), last)
        return np.concatenate(out)


def _in_step(blocks: list[Block]) -> Block:
    """Join blocks, of which all but the first had waited: in order of time, across symbols."""
    if len(blocks) == 1:
        return blocks[0]
    together = Alignment()
    for block in blocks:
        together.add(block)
    return together.release()


class Alignment:
    """Keeps trades back until all symbols have reached their time.

    A page of a backfill holds a second of a busy symbol, or a day of a quiet one. If pages were handed out as
    they come, those of the quiet symbol would close bars that still miss trades of the busy one.
    """

    def __init__(self) -> None:
        self.count = 0
        """Trades kept back."""
        self.first: dict[int, tuple[int, int]] = {}
        """Id and time of the first trade of each symbol that is kept back."""
        self._blocks: list[Block] = []

    def add(self, trades: Block) -> None:
        """Keep a TRADE block, each symbol in id order, until it is released."""
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
            return NO_TRADES
        trades = np.concatenate(self._blocks)
        # If the time of a symbol steps back, its order of ids matters more: the rows are sorted by the latest
        # time so far, a running maximum. One call does it for all symbols, each lifted above those before it.
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
