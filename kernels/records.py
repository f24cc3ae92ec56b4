"""The structured dtypes that every part speaks: the one contract between kernels, connectors and flows.

Conventions, everywhere:

* Times are int64 microseconds since the epoch, UTC, of the exchange.
* Symbols and pairs are small integers: an index into the run's symbol table or pair table. Names appear
  only at the edges.
* Prices are in units of the quote asset, quantities in units of the base asset, both float64 bit-equal to
  ``float(text)`` of what the exchange sent.
* A statistic that is not defined is NaN, never 0.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MICROSECOND = 1
MILLISECOND = 1_000
SECOND = 1_000_000

Block = NDArray[np.void]
"""A structured array of one of the dtypes below."""

TRADE = np.dtype(
    [
        ("id", np.int64),  # trade id, or aggregate id on an aggTrade stream; contiguous per symbol
        ("first_id", np.int64),  # first trade id of an aggregate; equals id on a trade stream
        ("last_id", np.int64),  # last trade id of an aggregate; equals id on a trade stream
        ("time", np.int64),  # trade time T, us
        ("price", np.float64),  # quote asset per base asset
        ("quantity", np.float64),  # base asset
        ("symbol", np.int32),  # index into the symbol table
        ("buyer_is_maker", np.bool_),  # true: the taker sold
        ("in_bars", np.bool_),  # false: uses up an id, but the exchange's klines leave it out (X != MARKET)
    ],
    align=True,
)

BAR = np.dtype(
    [
        ("open_time", np.int64),  # us; the bar covers [open_time, open_time + timeframe)
        ("timeframe", np.int64),  # length, us
        ("open", np.float64),
        ("high", np.float64),
        ("low", np.float64),
        ("close", np.float64),
        ("volume", np.float64),  # base asset, the exact sum rounded once
        ("quote_volume", np.float64),  # quote asset, the exact sum of price * quantity rounded once
        ("taker_buy_volume", np.float64),  # part of volume where the taker bought
        ("taker_buy_quote_volume", np.float64),
        ("trades", np.int64),  # number of trades; 0 in a bar that repeats the last close
        ("first_id", np.int64),  # first and last trade id in the bar; -1 where trades == 0
        ("last_id", np.int64),
        (
            "version",
            np.int64,
        ),  # 0: the exchange's own, from before the feed; 1 when first emitted, then higher
        ("symbol", np.int32),
        ("provisional", np.bool_),  # the symbol has an open gap here: a later version will follow
    ],
    align=True,
)

METRIC = np.dtype(
    [
        ("time", np.int64),  # us; open time of the bar (or of the tick's 100 ms) that completed the row
        ("timeframe", np.int64),  # us; 0 for tick
        ("window", np.int64),  # observations in the rolling window when it is full
        ("observations", np.int64),  # observations in it now, <= window
        ("price_y", np.float64),  # last prices of both legs, as traded
        ("price_x", np.float64),
        ("hedge_ratio", np.float64),  # beta of Y on X (of log prices when the scale is log)
        ("intercept", np.float64),  # alpha
        ("hedge_ratio_stderr", np.float64),  # OLS standard errors
        ("intercept_stderr", np.float64),
        ("r_squared", np.float64),
        ("spread", np.float64),  # y - hedge_ratio * x
        ("spread_mean", np.float64),  # over the z window, with the current hedge ratio
        ("spread_std", np.float64),  # population standard deviation, likewise
        ("z_score", np.float64),  # (spread - spread_mean) / spread_std
        ("correlation", np.float64),  # Pearson, of prices (or log prices) over the window
        ("return_correlation", np.float64),  # Pearson, of returns over the window
        ("volatility_y", np.float64),  # sample standard deviation of returns over the window, per bar
        ("volatility_x", np.float64),
        ("adf_statistic", np.float64),  # augmented Dickey-Fuller t of the spread over the window
        ("adf_p_value", np.float64),  # MacKinnon
        ("adf_lag", np.float64),  # lag used
        ("half_life", np.float64),  # of mean reversion (OU), in bars; inf where the spread does not revert
        ("hurst", np.float64),  # Hurst exponent of the spread
        ("variance_ratio", np.float64),  # Lo-MacKinlay, of the spread
        ("version", np.int64),  # as of the bars: 0 from before the feed; 1, higher when a late bar changed it
        ("pair", np.int32),  # index into the pair table
        ("method", np.int32),  # index into METHODS
    ],
    align=True,
)

STATISTICS = tuple(name for name in METRIC.names or () if METRIC[name].kind == "f")
"""The statistics of METRIC: what an alert rule may watch."""

SIGNAL = np.dtype(
    [
        ("time", np.int64),
        ("timeframe", np.int64),
        ("window", np.int64),
        ("z_score", np.float64),
        ("hedge_ratio", np.float64),
        ("spread", np.float64),
        ("price_y", np.float64),
        ("price_x", np.float64),
        ("version", np.int64),
        ("pair", np.int32),
        ("method", np.int32),
        ("signal", np.int32),  # of the spread: SHORT, EXIT, LONG
    ],
    align=True,
)

GAP = np.dtype(
    [
        ("first_id", np.int64),  # first and last id that did not arrive by themselves
        ("last_id", np.int64),
        ("detected", np.int64),  # us, local clock
        ("repaired", np.int64),  # us, local clock; 0 while the gap is open
        ("restored", np.int64),  # trades restored so far
        ("symbol", np.int32),
        ("cause", np.int32),  # index into GAP_CAUSES
        ("repair", np.int32),  # index into GAP_REPAIRS
    ],
    align=True,
)

UNITS = {
    "d": 86_400 * SECOND,
    "h": 3_600 * SECOND,
    "m": 60 * SECOND,
    "s": SECOND,
    "ms": MILLISECOND,
    "us": MICROSECOND,
}
"""Units of duration as users write them, the largest first, us."""


def timeframe_name(length: int) -> str:
    """Name a timeframe as users write it: ``1s``, ``5m``, ``tick``.

    :arg length: Length, us; 0 for tick.
    :returns: Its name, in the largest unit that divides it.
    """
    if length == 0:
        return "tick"
    letter, unit = next((letter, unit) for letter, unit in UNITS.items() if length % unit == 0)
    return f"{length // unit}{letter}"


METHODS = ("ols", "rls", "kalman", "tls")
"""Names of the hedge ratio estimators, in the order of METRIC's ``method``."""

SHORT, EXIT, LONG = -1, 0, 1
SIGNALS = {SHORT: "short", EXIT: "exit", LONG: "long"}

GAP_CAUSES = ("disconnect", "restart", "overflow", "hole", "stale")
"""Why ids were missing: connection lost, process restarted, buffer full, ids skipped, feed gone silent."""

GAP_REPAIRS = ("open", "rest", "late", "unavailable")
"""How a gap ended: not yet, by REST, by frames that came late, or never: the exchange has the ids no more."""


class Trades(NamedTuple):
    """What a source emits: trades in id order per symbol, each id once, and what else moved meanwhile.

    :arg trades: TRADE block, in arrival order.
    :arg watermark: exchange time, us, up to which the source has seen the market. Later blocks hold nothing
        older, save late trades.
    :arg gaps: GAP block of gaps that opened or closed before these trades.
    :arg bars: BAR block of bars before these trades that the exchange made itself.
    """

    trades: Block
    watermark: int
    gaps: Block
    bars: Block = np.empty(0, BAR)


class TableRows(NamedTuple):
    """What a sink takes: rows of one table, named as in the ClickHouse schema."""

    table: str
    rows: Block
