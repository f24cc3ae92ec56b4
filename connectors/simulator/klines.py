"""Klines of the simulated exchange, computed from its own trades in exact integers.

A kline with no trade repeats the previous close with volume 0 and ids -1, as Binance's do. Closed minutes are
kept, as are the seconds of the last two hours since the exchange opened; anything else is computed from the
trades again when asked for.
"""

from bisect import bisect_left
from datetime import UTC, datetime
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

KEPT_SECONDS = 7_200
_MONDAY = 4 * DAY  # the epoch was a Thursday


class Kline(NamedTuple):
    """One kline in exact integers: prices and quantities in the symbol's units, quote in the product of both."""

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


def previous_open(opened: int, interval: str, offset: int = 0) -> int:
    """Return when the kline before the one that opened then opened."""
    return open_time(opened - 1, interval, offset)


_BAR = np.dtype(
    [(name, np.int64) for name in ("symbol", *Kline._fields) if name != "close_time"],
)


def _bars(ticks: Ticks, length: int) -> NDArray[np.void]:
    """Fold market trades into bars of a fixed length, sorted by symbol and time; bars without a trade are absent."""
    ticks = ticks.take(ticks.market)
    if not ticks.id.size:
        return np.empty(0, _BAR)
    order = np.lexsort((ticks.id, ticks.symbol))
    ticks = ticks.take(order)
    slot = ticks.time // length
    starts = np.flatnonzero(np.r_[True, (slot[1:] != slot[:-1]) | (ticks.symbol[1:] != ticks.symbol[:-1])])
    ends = np.r_[starts[1:], slot.size] - 1
    quote = ticks.price * ticks.quantity
    taker = ~ticks.maker
    bars = np.empty(starts.size, _BAR)
    bars["symbol"] = ticks.symbol[starts]
    bars["open_time"] = slot[starts] * length
    bars["open"], bars["close"] = ticks.price[starts], ticks.price[ends]
    bars["high"] = np.maximum.reduceat(ticks.price, starts)
    bars["low"] = np.minimum.reduceat(ticks.price, starts)
    bars["volume"] = np.add.reduceat(ticks.quantity, starts)
    bars["quote"] = np.add.reduceat(quote, starts)
    bars["trades"] = ends - starts + 1
    bars["taker_volume"] = np.add.reduceat(ticks.quantity * taker, starts)
    bars["taker_quote"] = np.add.reduceat(quote * taker, starts)
    bars["first"], bars["last"] = ticks.id[starts], ticks.id[ends]
    return bars


class Klines:
    """Klines of every symbol and interval, up to the exchange's present.

    :arg market: where the trades come from.
    """

    def __init__(self, market: Market) -> None:
        self._market = market
        self._minutes: list[dict[int, NDArray[np.void] | None]] = [{} for _ in market.symbols]
        self._since = self._until = market.start
        self._seconds: list[list[NDArray[np.void]]] = [[] for _ in market.symbols]

    def query(self, symbol: int, interval: str, offset: int, opened: list[int], now: int) -> list[Kline]:
        """Return the klines that opened at these times.

        :arg opened: consecutive open times, us, ascending.
        :arg now: exchange time; trades after it do not exist yet.
        """
        if not opened:
            return []
        stop = min(now, next_open(opened[-1], interval, offset))
        ids = [self._market.ids_at(symbol, t)[0] for t in (opened[0], stop)]
        ticks = self._market.trades(symbol, ids[0], ids[1])
        bars = _bars(ticks, min(INTERVALS[interval] or MINUTE, MINUTE))
        return self._fold(symbol, interval, offset, opened, bars)

    def _fold(
        self, symbol: int, interval: str, offset: int, opened: list[int], bars: NDArray[np.void]
    ) -> list[Kline]:
        times = bars["open_time"].tolist()
        rows = bars.tolist()
        close = self._close_before(symbol, opened[0])
        klines = []
        for begin in opened:
            end = next_open(begin, interval, offset)
            part = rows[bisect_left(times, begin) : bisect_left(times, end)]
            if part:
                # Columns as in _BAR: symbol, open_time, open, high, low, close, volume, quote, trades, ...
                close = part[-1][5]
                kline = Kline(
                    begin,
                    end,
                    part[0][2],
                    max(r[3] for r in part),
                    min(r[4] for r in part),
                    close,
                    *(sum(r[i] for r in part) for i in range(6, 11)),
                    part[0][11],
                    part[-1][12],
                )
            else:
                if close is None:
                    continue
                kline = Kline(begin, end, close, close, close, close, 0, 0, 0, 0, 0, -1, -1)
            klines.append(kline)
        return klines

    def _close_before(self, symbol: int, time: int) -> int | None:
        """Return the last market price before a time."""
        stop = self._market.ids_at(symbol, time)[0]
        ticks = self._market.trades(symbol, stop - 10, stop)
        prices = ticks.price[ticks.market]
        return int(prices[-1]) if prices.size else None


__all__ = [
    "DAY",
    "INTERVALS",
    "MINUTE",
    "Kline",
    "Klines",
    "concatenate",
    "next_open",
    "open_time",
    "previous_open",
]
