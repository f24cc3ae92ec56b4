"""Gaps, bars and tick intervals of one symbol, by the sections "Trades and gaps" and "Bars" of
docs/statistics.md."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from decimal import Decimal, localcontext
from math import nan
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from kernels.records import MILLISECOND, SECOND, Block

STEP_BACK_LIMIT = 10 * SECOND
"""A trade this much older than one with a lower id is in a bar; an older one is not."""

REPEAT_LIMIT = 10_000
"""So many intervals in a row repeat the last close."""

TICK = 100 * MILLISECOND
"""Length of a tick interval."""

BAR_SCHEMA = {
    "symbol": pl.String,
    "timeframe": pl.String,
    "open_time": pl.Int64,
    "open": pl.Float64,
    "high": pl.Float64,
    "low": pl.Float64,
    "close": pl.Float64,
    "volume": pl.Float64,
    "quote_volume": pl.Float64,
    "trades": pl.Int64,
    "taker_buy_volume": pl.Float64,
    "taker_buy_quote_volume": pl.Float64,
    "first_id": pl.Int64,
    "last_id": pl.Int64,
    "close_time": pl.Int64,
    "provisional": pl.Boolean,
}
"""Columns of the table `bars`; version, market and source are left out."""

GAP_SCHEMA = {"symbol": pl.String, "first_id": pl.Int64, "last_id": pl.Int64}
"""Columns of the table `gaps` that do not depend on when trades arrived."""


@dataclass(frozen=True)
class Feed:
    """What came of one symbol.

    :arg trades: TRADE block by id, each id once.
    :arg sides_unknown: for each trade, whether its file did not tell who bought.
    :arg start: time from which the feed is known to be complete, us.
    :arg gaps: first and last id of each range of ids that never came.
    :arg holes: T_a and T_b of each place where ids are missing.
    """

    trades: Block
    sides_unknown: NDArray[np.bool_]
    start: int
    gaps: list[tuple[int, int]]
    holes: list[tuple[int, int]]


def feed(
    trades: Block, sides_unknown: NDArray[np.bool_], start: int | None, unused_ids: Collection[int]
) -> Feed:
    """Order the trades of one symbol by id, and find what is missing between them.

    :arg trades: TRADE block of one symbol, in any order.
    :arg sides_unknown: for each trade, whether its file did not tell who bought.
    :arg start: time from which the feed is known to be complete, us; None: the time of the first trade.
    :arg unused_ids: ids that the exchange used up without a trade.
    """
    _, order = np.unique(trades["id"], return_index=True)
    trades, sides_unknown = trades[order], sides_unknown[order]
    gaps, holes, unused = [], [], set(unused_ids)
    latest = np.maximum.accumulate(trades["time"])
    for k in range(1, len(trades)):
        a, b = int(trades["id"][k - 1]), int(trades["id"][k])
        missing = [i for i in range(a + 1, b) if i not in unused] if b > a + 1 else []
        if missing:
            gaps += list(_ranges(missing))
            holes.append((int(latest[k - 1]), int(latest[k])))
    if start is None:
        start = int(trades["time"][0]) if len(trades) else 0
    return Feed(trades, sides_unknown, start, gaps, holes)


def gap_rows(symbol: str, of: Feed) -> pl.DataFrame:
    """Return the ranges of ids that never came."""
    rows = [(symbol, first, last) for first, last in of.gaps]
    return pl.DataFrame(rows, GAP_SCHEMA, orient="row")


def bars(of: Feed, timeframe: int, closed_until: int) -> pl.DataFrame:
    """Make the bars of one symbol.

    :arg of: What came of the symbol.
    :arg timeframe: Length of a bar, us.
    :arg closed_until: Bars that end up to here are closed, us: the watermark less the lateness.
    :returns: Columns of BAR_SCHEMA, without symbol and timeframe, by time.
    """
    end = closed_until // timeframe  # the first interval that is not closed
    rows: list[dict[str, Any]] = []
    for interval, mask in _intervals(of, timeframe):
        if interval >= end:
            break
        rows += _repeats(rows, timeframe, interval)
        rows.append(_bar(of, mask, interval * timeframe))
    rows += _repeats(rows, timeframe, end)
    schema = {name: kind for name, kind in BAR_SCHEMA.items() if name not in ("symbol", "timeframe")}
    for row in rows:
        row["close_time"] = row["open_time"] + timeframe - 1
    table = pl.DataFrame(rows, {name: kind for name, kind in schema.items() if name != "provisional"})
    marks = provisional(of, table["open_time"].to_numpy(), timeframe)
    return table.with_columns(provisional=pl.Series(marks, dtype=pl.Boolean)).select(list(schema))


def last_prices(of: Feed, closed_until: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the closed tick intervals in which the symbol traded, and its last price in each."""
    intervals, prices = [], []
    for interval, mask in _intervals(of, TICK):
        if (interval + 1) * TICK <= closed_until:
            intervals.append(interval)
            prices.append(of.trades["price"][mask][-1])
    return np.array(intervals, np.int64), np.array(prices, np.float64)


def provisional(of: Feed, opens: NDArray[np.int64], length: int) -> NDArray[np.bool_]:
    """Tell for each interval whether trades are, or may be, missing.

    :arg of: What came of the symbol.
    :arg opens: Begin of each interval, us.
    :arg length: Their length, us.
    """
    marks = opens < of.start
    for begin, end in of.holes:
        marks = marks | ((opens <= end) & (opens + length > begin))
    return marks


def _ranges(ids: list[int]) -> Iterator[tuple[int, int]]:
    """Join ids, in order, to ranges of consecutive ones."""
    first = last = ids[0]
    for i in ids[1:]:
        if i != last + 1:
            yield first, last
            first = i
        last = i
    yield first, last


def _intervals(of: Feed, length: int) -> Iterator[tuple[int, NDArray[np.intp]]]:
    """Yield the intervals with trades, by time, and the indices of their trades, by id."""
    trades = of.trades
    if len(trades) == 0:
        return
    latest_before = np.concatenate(([trades["time"][0]], np.maximum.accumulate(trades["time"])[:-1]))
    in_bars = trades["in_bars"] & (latest_before - trades["time"] <= STEP_BACK_LIMIT)
    indices = np.flatnonzero(in_bars)
    intervals = trades["time"][indices] // length
    order = np.argsort(intervals, kind="stable")
    indices, intervals = indices[order], intervals[order]
    found, begins = np.unique(intervals, return_index=True)
    for interval, group in zip(found, np.split(indices, begins[1:])):
        yield int(interval), group


def _bar(of: Feed, mask: NDArray[np.intp], open_time: int) -> dict[str, Any]:
    trades = of.trades[mask]
    everything = np.ones(len(trades), bool)
    volume, quote_volume = _volumes(trades, everything)
    bought, quote_bought = _volumes(trades, ~trades["buyer_is_maker"])
    if of.sides_unknown[mask].any():
        bought = quote_bought = nan
    return {
        "open_time": open_time,
        "open": float(trades["price"][0]),
        "high": float(trades["price"].max()),
        "low": float(trades["price"].min()),
        "close": float(trades["price"][-1]),
        "volume": volume,
        "quote_volume": quote_volume,
        "trades": int((trades["last_id"] - trades["first_id"] + 1).sum()),
        "taker_buy_volume": bought,
        "taker_buy_quote_volume": quote_bought,
        "first_id": int(trades["first_id"].min()),
        "last_id": int(trades["last_id"].max()),
    }


def _volumes(trades: Block, mask: NDArray[np.bool_]) -> tuple[float, float]:
    """Sum quantity, and price x quantity, of the decimals that the exchange wrote; round each sum once."""
    with localcontext() as context:
        context.prec = 200
        prices = [Decimal(repr(float(price))) for price in trades["price"][mask]]
        quantities = [Decimal(repr(float(quantity))) for quantity in trades["quantity"][mask]]
        amounts = [price * quantity for price, quantity in zip(prices, quantities)]
        return float(sum(quantities)), float(sum(amounts))


def _repeats(rows: list[dict[str, Any]], timeframe: int, end: int) -> list[dict[str, Any]]:
    """Repeat the last close in the intervals from the last bar up to `end`, which is not among them."""
    if not rows:
        return []
    close = rows[-1]["close"]
    first = rows[-1]["open_time"] // timeframe + 1
    prices = dict.fromkeys(("open", "high", "low", "close"), close)
    volumes = ("volume", "quote_volume", "taker_buy_volume", "taker_buy_quote_volume")
    nothing = dict.fromkeys(volumes, 0.0) | {"trades": 0, "first_id": -1, "last_id": -1}
    intervals = range(first, min(end, first + REPEAT_LIMIT))
    return [{"open_time": interval * timeframe} | prices | nothing for interval in intervals]
