"""Klines of the simulated exchange, computed from its own trades in exact integers.

A kline with no trade repeats the previous close with volume 0 and ids -1, as Binance's do. Closed minutes are
kept for a week, the seconds since the exchange opened for twenty minutes; anything else is computed from the
trades again when asked for.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from connectors.simulator.market import Market, Ticks, concatenate
from kernels.records import SECOND

MINUTE = 60 * SECOND
DAY = 86_400 * SECOND

INTERVALS: dict[str, int] = {
    "1s": SECOND,
    "1m": MINUTE,
    "3m": 3 * MINUTE,
    "5m": 5 * MINUTE,
    "15m": 15 * MINUTE,
    "30m": 30 * MINUTE,
    "1h": 60 * MINUTE,
    "2h": 120 * MINUTE,
    "4h": 240 * MINUTE,
    "6h": 360 * MINUTE,
    "8h": 480 * MINUTE,
    "12h": 720 * MINUTE,
    "1d": DAY,
    "3d": 3 * DAY,
    "1w": 7 * DAY,
    "1M": 0,
}
"""Length of each documented interval, us; 0 for the calendar month."""

KEPT_SECONDS = 1_200
KEPT_MINUTES = 10_080
_MONDAY = 4 * DAY  # the epoch was a Thursday
_PIECE = 60  # minutes of the past worked out at a time: about 10 ms


class Kline(NamedTuple):
    """One kline in exact integers: the symbol's price and quantity units; quote in the product of both."""

    open_time: int
    close_time: int  # the first instant after it
    open: int
    high: int
    low: int
    close: int
    volume: int
    quote: int
    trades: int
    taker_volume: int
    taker_quote: int
    first: int
    last: int


def open_time(time: int, interval: str, offset: int = 0) -> int:
    """Return when the kline that holds a time opened.

    :arg time: us.
    :arg interval: a key of `INTERVALS`.
    :arg offset: time zone, us east of UTC.
    """
    local = time + offset
    length = INTERVALS[interval]
    if interval == "1M":
        day = datetime.fromtimestamp(local // SECOND, UTC)
        return int(datetime(day.year, day.month, 1, tzinfo=UTC).timestamp()) * SECOND - offset
    if interval == "1w":
        return (local - _MONDAY) // length * length + _MONDAY - offset
    return local // length * length - offset


def next_open(opened: int, interval: str, offset: int = 0) -> int:
    """Return when the kline after the one that opened then opens."""
    if interval != "1M":
        return opened + INTERVALS[interval]
    return open_time(opened + 32 * DAY, interval, offset)


# One row per bar that has a trade. An int64 sum of quotes is safe for a minute: 2e9 USDT in units of 1e-7.
_BAR = np.dtype([(name, np.int64) for name in ("symbol", *(f for f in Kline._fields if f != "close_time"))])
_OPEN, _HIGH, _LOW, _CLOSE, _FIRST, _LAST = (
    _BAR.names.index(name)  # type: ignore[union-attr]
    for name in ("open", "high", "low", "close", "first", "last")
)
_SUMS = ("volume", "quote", "trades", "taker_volume", "taker_quote")
_Bars = NDArray[np.void]


def _bars(ticks: Ticks, length: int) -> _Bars:
    """Fold market trades into bars of a fixed length, by symbol and time; bars without a trade are absent."""
    if not ticks.market.all():
        ticks = ticks.take(ticks.market)
    if ticks.symbol.size and (ticks.symbol != ticks.symbol[0]).any():
        ticks = ticks.take(np.argsort(ticks.symbol, kind="stable"))
    bars = np.empty(ticks.id.size, _BAR)
    bars["symbol"], bars["open_time"] = ticks.symbol, ticks.time
    for name in ("open", "high", "low", "close"):
        bars[name] = ticks.price
    bars["volume"] = ticks.quantity
    bars["quote"] = ticks.price * ticks.quantity
    bars["taker_volume"] = ticks.quantity * ~ticks.maker
    bars["taker_quote"] = bars["quote"] * ~ticks.maker
    bars["trades"] = 1
    bars["first"] = bars["last"] = ticks.id
    return _merge(bars, length)


def _merge(bars: _Bars, length: int) -> _Bars:
    """Merge bars, sorted by symbol and time, into bars of a multiple of their length."""
    if not bars.size:
        return bars
    slot = bars["open_time"] // length
    symbol = bars["symbol"]
    starts = np.flatnonzero(np.r_[True, (slot[1:] != slot[:-1]) | (symbol[1:] != symbol[:-1])])
    ends = np.r_[starts[1:], slot.size] - 1
    merged = bars[starts]
    merged["open_time"] = slot[starts] * length
    merged["high"] = np.maximum.reduceat(bars["high"], starts)
    merged["low"] = np.minimum.reduceat(bars["low"], starts)
    for name in _SUMS:
        merged[name] = np.add.reduceat(bars[name], starts)
    for name in ("close", "last"):
        merged[name] = bars[name][ends]
    return merged


class Klines:
    """Klines of every symbol and interval, up to the exchange's present.

    :arg market: where the trades come from.
    """

    def __init__(self, market: Market) -> None:
        self._market = market
        self._minutes: list[dict[int, tuple[int, ...] | None]] = [{} for _ in market.symbols]
        self._seconds = [np.empty(0, _BAR) for _ in market.symbols]
        self._since = self._closed = self._until = market.start
        self._fresh: list[Ticks] = []

    def add(self, ticks: Ticks, until: int) -> None:
        """Take the trades of all symbols since the last call, up to a time, us."""
        self._fresh.append(ticks)
        self._until = until
        closed = until // SECOND * SECOND
        if closed == self._closed:
            return
        whole = concatenate(self._fresh)
        edge = int(np.searchsorted(whole.time, closed))
        bars = _bars(whole.take(slice(0, edge)), SECOND)
        bounds = np.searchsorted(bars["symbol"], np.arange(len(self._seconds) + 1))
        for symbol, (low, high) in enumerate(pairwise(bounds)):
            if high > low:
                self._seconds[symbol] = np.concatenate([self._seconds[symbol], bars[low:high]])
        self._fresh = [whole.take(slice(edge, None))]
        self._closed = closed
        if closed - self._since > 2 * KEPT_SECONDS * SECOND:
            self._forget((closed - KEPT_SECONDS * SECOND) // MINUTE * MINUTE)

    def query(self, symbol: int, interval: str, offset: int, opened: Sequence[int], now: int) -> list[Kline]:
        """Return the klines that opened at these times.

        :arg opened: consecutive open times, us, ascending.
        :arg now: exchange time, not after that of the last `add`; trades after it do not exist yet.
        """
        for _ in self.prepare(symbol, interval, offset, opened, now):
            pass
        if not opened:
            return []
        stop = min(now, next_open(opened[-1], interval, offset))
        if interval == "1s":
            rows: list[tuple[int, ...]] = self._between(symbol, opened[0], stop, SECOND).tolist()
        else:
            minutes = self._minutes[symbol]
            whole = min(stop, self._closed) // MINUTE
            rows = [row for m in range(opened[0] // MINUTE, whole) if (row := minutes[m]) is not None]
            rows += self._between(symbol, max(opened[0], whole * MINUTE), stop, MINUTE).tolist()
        return self._fold(symbol, interval, offset, opened, rows)

    def prepare(
        self, symbol: int, interval: str, offset: int, opened: Sequence[int], now: int
    ) -> Iterator[None]:
        """Work out the closed minutes that a query needs, in pieces, so that a server can breathe between."""
        if not opened or interval == "1s":
            return
        minutes = self._minutes[symbol]
        stop = min(now, self._closed, next_open(opened[-1], interval, offset)) // MINUTE
        missing = [m for m in range(opened[0] // MINUTE, stop) if m not in minutes]
        while missing:
            low = missing[0]
            count = bisect_left(missing, low + _PIECE)
            high = missing[count - 1] + 1
            del missing[:count]
            minutes.update(dict.fromkeys(range(low, high)))
            for row in self._between(symbol, low * MINUTE, high * MINUTE, MINUTE).tolist():
                minutes[row[1] // MINUTE] = row
            yield

    def _between(self, symbol: int, start: int, stop: int, length: int) -> _Bars:
        """Return the bars that have trades, of [start, stop)."""
        parts = []
        if start < self._since:
            first, last = (self._market.ids_at(symbol, t)[0] for t in (start, min(stop, self._since)))
            parts.append(_bars(self._market.trades(symbol, first, last), length))
        seconds = self._seconds[symbol]
        low, high = np.searchsorted(seconds["open_time"], (start, min(stop, self._closed)))
        parts.append(seconds[low:high])
        if stop > self._closed:
            fresh = concatenate(self._fresh)
            rows = (fresh.symbol == symbol) & (fresh.time >= start) & (fresh.time < stop)
            parts.append(_bars(fresh.take(rows), length))
        return _merge(np.concatenate(parts), length)

    def _forget(self, edge: int) -> None:
        """Keep the minutes and drop the seconds before a whole minute."""
        for symbol, seconds in enumerate(self._seconds):
            begin = -(-self._since // MINUTE) * MINUTE
            for _ in self.prepare(symbol, "1m", 0, range(begin, edge, MINUTE), edge):
                pass
            self._seconds[symbol] = seconds[np.searchsorted(seconds["open_time"], edge) :]
            minutes = self._minutes[symbol]
            if len(minutes) > KEPT_MINUTES:
                oldest = edge // MINUTE - KEPT_MINUTES
                self._minutes[symbol] = {m: row for m, row in minutes.items() if m >= oldest}
        self._since = edge

    def _fold(
        self, symbol: int, interval: str, offset: int, opened: Sequence[int], rows: list[tuple[int, ...]]
    ) -> list[Kline]:
        times = [row[1] for row in rows]
        close = self._close_before(symbol, opened[0])
        klines = []
        for begin in opened:
            end = next_open(begin, interval, offset)
            part = rows[bisect_left(times, begin) : bisect_left(times, end)]
            if part:
                close = part[-1][_CLOSE]
                # Python's integers from here on: a day of quotes may not fit in 64 bits.
                sums = (sum(row[i] for row in part) for i in range(_CLOSE + 1, _FIRST))
                high, low = max(row[_HIGH] for row in part), min(row[_LOW] for row in part)
                ids = part[0][_FIRST], part[-1][_LAST]
                klines.append(Kline._make((begin, end, part[0][_OPEN], high, low, close, *sums, *ids)))
            elif close is not None:
                klines.append(Kline(begin, end, close, close, close, close, 0, 0, 0, 0, 0, -1, -1))
        return klines

    def _close_before(self, symbol: int, time: int) -> int | None:
        """Return the last market price before a time."""
        stop = self._market.ids_at(symbol, min(time, self._until))[0]
        ticks = self._market.trades(symbol, stop - 10, stop)
        prices = ticks.price[ticks.market]
        return int(prices[-1]) if prices.size else None
