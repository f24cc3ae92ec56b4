"""Put the trades of one symbol's archive files in id order, each id once, and name the ids that are missing.

Known faults of the archives are corrected or reported: rows out of order are sorted, a row that stands in a
file twice counts once, and ids that no file has are reported as a gap.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from itertools import accumulate
from pathlib import Path
from typing import Any, Final, Protocol, TypedDict

import numpy as np
import structlog
from numpy.typing import NDArray

from connectors.binance.archive_files import ArchiveLayout, DayFile
from connectors.binance.continuity import NONE, Continuity
from kernels.records import Block

_LOG = structlog.get_logger()

_CHUNK: Final = 1 << 23  # bytes of text parsed at once: some 110,000 trades; a call of polars costs 0.5 ms
_LEAST_CHUNK: Final = 1 << 16
_CHUNKS: Final = 1 << 26  # bytes of text of all symbols; with what is parsed and read ahead three times that
_MOST_ROWS: Final = 1 << 16  # in one piece that was sorted
_MOST_WAITING: Final = 8_000_000  # rows of one symbol that wait for lower ids: 450 MB, two days of BTCUSDT
END: Final = 2**62
"""A time, or an id, behind all others."""


class Downloads(Protocol):
    """Where a reader gets its files from."""

    def get(self, symbol: str, day: date) -> "Future[Path | None]":
        """Return where a file is, once it is there; None if the archive has none."""


class Position(TypedDict):
    """Up to where a symbol was handed out."""

    day: str
    last: int  # id
    time: int  # latest trade time, us


@dataclass(frozen=True)
class Piece:
    """Trades of one symbol: consecutive ids, each once."""

    day: date
    trades: Block
    times: NDArray[np.int64]
    """The latest trade time so far, us: it never steps back, so pieces are merged by it."""
    gap: tuple[int, int] | None
    """First and last of the ids that are missing before them."""

    def cut(self, at: int) -> tuple["Piece", "Piece"]:
        """Cut before a row."""
        return (
            Piece(self.day, self.trades[:at], self.times[:at], self.gap),
            Piece(self.day, self.trades[at:], self.times[at:], None),
        )


class SymbolReader:
    """Read one symbol's files in id order; a pool of threads reads ahead.

    :arg layout: Where files are.
    :arg days: The days of the replay.
    :arg symbols: The run's symbol table.
    :arg symbol: The symbol to read, as an index.
    :arg resume: Up to where an earlier run handed out, if there was one.
    """

    def __init__(
        self,
        layout: ArchiveLayout,
        days: list[date],
        symbols: list[str],
        symbol: int,
        resume: Position | None,
    ) -> None:
        self.name = symbols[symbol]
        self.files_done = 0
        """Files read to their end."""
        self.malformed = 0
        """Lines that are no trade of their file's day."""
        self.missing = 0
        """Ids that no file has."""
        self._stream = layout.stream
        self._symbol = symbol
        self._resume = resume["last"] if resume else NONE
        self._continuity = Continuity(1, [self._resume])
        self._time = resume["time"] if resume else 0
        from_day = date.fromisoformat(resume["day"]) if resume else date.min
        self._days = [day for day in days if day >= from_day]
        self._chunk = min(max(_CHUNKS // len(symbols), _LEAST_CHUNK), _CHUNK)
        self._file: Iterator[list[Piece]] | None = None
        self._next: Future[list[Piece] | None] | None = None
        self._pieces: deque[Piece] = deque()
        self._needs_more = True
        self._begin = 0 if resume else NONE  # first id of the replay
        self._warned = False

    @property
    def duplicates(self) -> int:
        """Rows dropped because their id had come before."""
        return self._continuity.duplicates

    @property
    def files(self) -> list[tuple[str, date]]:
        """Files that are not read to their end yet."""
        return [(self.name, day) for day in self._days]

    @property
    def day(self) -> date:
        """The day that is read now; ``date.max`` after the last one."""
        return self._days[0] if self._days else date.max

    @property
    def is_done(self) -> bool:
        """Whether everything was taken."""
        return not self._days and not self._pieces

    @property
    def first(self) -> int:
        """Time of the next trade at hand, us."""
        return int(self._pieces[0].times[0]) if self._pieces else END

    @property
    def horizon(self) -> int:
        """Time, us, before which every trade is at hand."""
        return END if self._needs_more else int(self._pieces[-1].times[-1])

    def fill(self, pool: ThreadPoolExecutor, downloads: Downloads) -> "Future[Any] | None":
        """Have trades at hand, or know that there are no more.

        :returns: What the caller has to wait for, if anything.
        :raises ArchiveError: If a file cannot be downloaded or read.
        """
        while self._needs_more and self._days:
            if self._file is None:
                download = downloads.get(self.name, self.day)
                if not download.done():
                    return download
                path = download.result()
                if path is None:
                    _LOG.warning(
                        "the archive has no file of this day; its trades are missing",
                        symbol=self.name,
                        day=str(self.day),
                    )
                    self._days.pop(0)
                    continue
                self._file = self._read(path, self.day)
            if self._next is None:
                self._next = pool.submit(next, self._file, None)
            if not self._next.done():
                return self._next
            pieces = self._next.result()
            self._next = None
            if pieces is None:
                self._file = None
                self._days.pop(0)
                self.files_done += 1
                continue
            self._pieces.extend(pieces)
            self._needs_more = not pieces
            self._next = pool.submit(next, self._file, None)
        return None

    def take(self, until: int) -> list[Piece]:
        """Take the trades before a time; the reader that sets the horizon reads on then.

        :arg until: Time, us, exclusive.
        """
        taken = []
        while self._pieces and self._pieces[0].times[0] < until:
            piece = self._pieces.popleft()
            at = int(np.searchsorted(piece.times, until))
            if at < len(piece.times):
                piece, rest = piece.cut(at)
                self._pieces.appendleft(rest)
            taken.append(piece)
        if not self._pieces or self._pieces[-1].times[-1] <= until:
            self._needs_more = True
        return taken

    def close(self) -> None:
        """Close the file. No thread may be reading it any more."""
        self._file = None
        self._next = None

    def _read(self, path: Path, day: date) -> Iterator[list[Piece]]:
        """Read a file, some pieces at a time.

        Most files are in order. When a row does not follow the row before it, ids are missing, or come later
        in the file. Then another pass over the whole file finds the lowest id from each chunk on. Rows with
        lower ids than that can be sorted and handed on: an id that is still missing among them is in no file.
        """
        lowest: list[int] | None = None
        waiting: list[tuple[int, Block]] = []  # with the lowest id of each, so that few need a closer look
        is_empty = True
        before = self._continuity.last[0]
        file = DayFile(path, day, self._stream, self._chunk)
        malformed = self.malformed
        for number, rows in enumerate(file.blocks()):
            self.malformed = malformed + file.malformed
            last = int(self._continuity.last[0])
            is_empty &= not len(rows)
            rows = rows[rows["id"] > self._resume] if self._resume != NONE else rows  # noqa: PLW2901
            if not len(rows):
                continue
            if not waiting and _follow(rows["id"], last):
                yield self._hand_on(rows, day)
                continue
            if lowest is None:
                lowest = self._lowest_ids(path, day, last)
            safe = lowest[number + 1]
            waiting.append((int(rows["id"].min()), rows))
            if sum(len(block) for _, block in waiting) > _MOST_WAITING:
                _LOG.warning("rows are too far out of order; going on without some", file=path.name)
                safe, lowest = END, None
            ready, waiting = _below(safe, waiting)
            for at in range(0, len(ready), _MOST_ROWS):
                yield self._hand_on(ready[at : at + _MOST_ROWS], day)
        file.report_malformed()
        if not is_empty and self._continuity.last[0] == before and self._resume == NONE:
            _LOG.warning("all ids of the file came before: does it count them anew?", file=path.name)
        self._resume = NONE

    def _hand_on(self, rows: Block, day: date) -> list[Piece]:
        """Cut rows, which are in id order, where ids are missing, and drop those that came before."""
        continuity = self._continuity
        if self._begin == NONE:
            self._begin = int(rows["id"][0])
        elif not self._warned and int(rows["id"][0]) < self._begin:
            self._warned = True
            _LOG.warning("trades before the first one of the replay come too late", symbol=self.name)
        pieces = []
        # One run of ids at a time: of a whole block, all that is behind a gap would wait and be copied, which
        # costs 300 us a gap.
        for run in np.split(rows, np.flatnonzero(np.diff(rows["id"]) > 1) + 1):
            first, last = int(run["id"][0]), int(continuity.last[0])
            gap = None
            if first > last + 1 and last != NONE:
                gap = last + 1, first - 1
                self.missing += first - last - 1
                continuity.skip(0, first - 1)
            trades = continuity.push(run)
            if not len(trades):
                continue
            trades["symbol"] = self._symbol
            times = np.maximum.accumulate(trades["time"])
            np.maximum(times, self._time, out=times)
            self._time = int(times[-1])
            pieces.append(Piece(day, trades, times, gap))
        return pieces

    def _lowest_ids(self, path: Path, day: date, last: int) -> list[int]:
        """Find the lowest id above ``last`` from each chunk of a file on, and behind its last chunk."""
        lowest = []
        for rows in DayFile(path, day, self._stream, self._chunk).blocks():
            ids = rows["id"][rows["id"] > last]
            lowest.append(int(ids.min()) if len(ids) else END)
        lowest.append(END)
        return list(accumulate(reversed(lowest), min))[::-1]


def _below(safe: int, waiting: list[tuple[int, Block]]) -> tuple[Block, list[tuple[int, Block]]]:
    """Split rows that wait by their ids: those below ``safe``, sorted by id, and the others."""
    ready = [block[block["id"] < safe] for first, block in waiting if first < safe]
    later = [block[block["id"] >= safe] if first < safe else block for first, block in waiting]
    rest = [(int(block["id"].min()), block) for block in later if len(block)]
    rows = np.concatenate(ready) if ready else waiting[0][1][:0]
    return rows[np.argsort(rows["id"], kind="stable")], rest


def _follow(ids: NDArray[np.int64], last: int) -> bool:
    """Tell whether ids are consecutive, and follow ``last`` if there is one."""
    if last != NONE and ids[0] != last + 1:
        return False
    return bool(ids[-1] - ids[0] == len(ids) - 1 and (ids[1:] > ids[:-1]).all())
