"""Keep account of ids that did not arrive by themselves: rows of the table ``gaps``. No I/O, no clock."""

from collections.abc import Iterable
from dataclasses import astuple, dataclass
from typing import Final

import numpy as np

from kernels.records import GAP, GAP_CAUSES, GAP_REPAIRS, Block

_HOLE: Final = GAP_CAUSES.index("hole")
_OPEN: Final = GAP_REPAIRS.index("open")
_REST: Final = GAP_REPAIRS.index("rest")
_LATE: Final = GAP_REPAIRS.index("late")
_UNAVAILABLE: Final = GAP_REPAIRS.index("unavailable")


GapRow = tuple[int, int, int, int, int, int, int, int]
"""The fields of a GAP."""


def lost(symbol: int, first: int, last: int, time: int) -> GapRow:
    """Return the row of ids that a replay does not have, and that nobody can be asked for.

    :arg symbol: Index of the symbol.
    :arg first: First id that is missing.
    :arg last: Last one.
    :arg time: Time of the trade behind them, us.
    """
    return first, last, time, time, 0, symbol, _HOLE, _UNAVAILABLE


@dataclass
class _Gap:
    """A range of ids that did not come by themselves."""

    first: int
    last: int
    detected: int
    cause: int
    by_rest: bool = False


OpenGap = tuple[int, int, int, int, bool]
"""A gap as it is stored: first id, last id, detected, cause, whether REST restored any of it."""


class GapBook:
    """Keeps account of every gap, from detection until it is closed. The caller says what time it is.

    Rows collect until :meth:`take`. A gap is a row with repair ``open`` when it is detected, and a row with
    the same symbol and ``first_id`` when it is closed. ``last_id`` may differ between the two: a gap grows
    while ids next to it go missing too, and is split where only some of its ids never come. Closed rows never
    overlap. Either all ids of a closed row came, and ``restored`` is their number, or none did: then the
    row's repair is ``unavailable``. So the ids of a symbol that were handed out, and those in ``unavailable``
    rows, are consecutive together.
    """

    def __init__(self) -> None:
        self._open: dict[int, list[_Gap]] = {}
        self._rows: list[GapRow] = []

    def __len__(self) -> int:
        return sum(len(gaps) for gaps in self._open.values())

    @property
    def symbols(self) -> list[int]:
        """Symbols with an open gap."""
        return list(self._open)

    def open(self, symbol: int, first: int, last: int, now: int, cause: str) -> None:
        """Note that ids are missing; those that are known to be missing change nothing."""
        news = []
        at = first
        for gap in self._open.get(symbol, []):
            if at <= gap.last and gap.first <= last:
                news.append((at, gap.first - 1))
                at = gap.last + 1
        news.append((at, last))
        for begin, end in news:
            if begin <= end:
                self._add(symbol, begin, end, now, GAP_CAUSES.index(cause))

    def _add(self, symbol: int, first: int, last: int, now: int, cause: int) -> None:
        """Add ids that are in no open gap, to the gap before them if that is of the same cause."""
        gaps = self._open.setdefault(symbol, [])
        for gap in gaps:
            if gap.last == first - 1 and gap.cause == cause:
                gap.last = last
                break
        else:
            gap = _Gap(first, last, now, cause)
            gaps.append(gap)
            gaps.sort(key=lambda other: other.first)
        self._report_open(symbol, gap)

    def restored(self, symbol: int, first: int, last: int) -> None:
        """Note that trades of these ids came by REST."""
        for gap in self._open.get(symbol, []):
            if gap.first <= last and first <= gap.last:
                gap.by_rest = True

    def unavailable(self, symbol: int, first: int, last: int, now: int) -> None:
        """Note that these ids, all in one open gap, will never come, and that those before them have come."""
        gaps = self._open.get(symbol, [])
        for i, gap in enumerate(gaps):
            if gap.first <= first and last <= gap.last:
                if gap.first < first:
                    self._close(symbol, _Gap(gap.first, first - 1, gap.detected, gap.cause, gap.by_rest), now)
                row = (first, last, gap.detected, now, 0, symbol, gap.cause, _UNAVAILABLE)
                self._rows.append(row)
                rest = [_Gap(last + 1, gap.last, gap.detected, gap.cause)] if last < gap.last else []
                for left in rest:
                    self._report_open(symbol, left)
                self._keep(symbol, [*gaps[:i], *rest, *gaps[i + 1 :]])
                return

    def close(self, symbol: int, last: int, now: int) -> None:
        """Close the gaps of a symbol that lie below ``last``, the last id handed out."""
        gaps = self._open.get(symbol, [])
        for gap in gaps:
            if gap.last <= last:
                self._close(symbol, gap, now)
        self._keep(symbol, [gap for gap in gaps if gap.last > last])

    def _keep(self, symbol: int, gaps: list[_Gap]) -> None:
        if gaps:
            self._open[symbol] = gaps
        else:
            self._open.pop(symbol, None)

    def _report_open(self, symbol: int, gap: _Gap) -> None:
        self._rows.append((gap.first, gap.last, gap.detected, 0, 0, symbol, gap.cause, _OPEN))

    def _close(self, symbol: int, gap: _Gap, now: int) -> None:
        repair = _REST if gap.by_rest else _LATE
        restored = gap.last - gap.first + 1
        self._rows.append((gap.first, gap.last, gap.detected, now, restored, symbol, gap.cause, repair))

    def take(self) -> Block:
        """Hand out the rows that collected since the last call, as a GAP block."""
        rows = np.array(self._rows, GAP)
        self._rows.clear()
        return rows

    def state(self, symbol: int) -> list[OpenGap]:
        """Return the open gaps of a symbol, to be stored and given to :meth:`restore` later."""
        return [astuple(gap) for gap in self._open.get(symbol, [])]

    def restore(self, symbol: int, gaps: Iterable[OpenGap]) -> None:
        """Take up a symbol's open gaps of an earlier run."""
        self._open[symbol] = [_Gap(*gap) for gap in gaps]
