"""Every final table from trades and settings."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
import polars as pl
from numpy.typing import NDArray

from kernels.records import Block, timeframe_name
from tests.reference import bars as of_symbol
from tests.reference.bars import BAR_SCHEMA, GAP_SCHEMA, TICK, Feed
from tests.reference.pairs import ACCURACY, ROW_SCHEMA, STATISTICS, Leg, PairSettings, pair_rows
from tests.reference.signals import signals


@dataclass(frozen=True)
class ReferenceSettings:
    """What the tables depend on beside the trades.

    :arg symbols: Name of each symbol, in the order of TRADE's `symbol`.
    :arg pairs: Y/X.
    :arg timeframes: us; 0 is tick.
    :arg windows: Observations.
    :arg watermark: The last one, us.
    :arg adf_lag: A lag, "aic" or "bic".
    :arg kalman_q: None: r / w**2.
    :arg lateness: us.
    :arg start: Of a symbol: time from which its feed is known to be complete, us; without one, the time of
        its first trade.
    :arg unused_ids: Of a symbol: ids that the exchange used up without a public trade. They make no gap.
    """

    symbols: tuple[str, ...]
    pairs: tuple[str, ...]
    timeframes: tuple[int, ...]
    windows: tuple[int, ...]
    watermark: int
    z_window: int = 20
    methods: tuple[str, ...] = ("ols",)
    log_prices: bool = False
    z_entry: float = 2.0
    z_exit: float = 0.5
    adf_lag: int | str = 1
    kalman_q: float | None = None
    kalman_r: float = 1e-6
    lateness: int = 250_000
    start: Mapping[str, int] = field(default_factory=dict)
    unused_ids: Mapping[str, Collection[int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Tables:
    """The final rows, with the columns of the tables but market, source and version.

    Symbols, pairs, timeframes and methods are names, times int64 microseconds. Rows are in the order of their
    keys.

    :arg bars: Bars.
    :arg ticks: Tick observations of pairs: pair, time, price_y, price_x, provisional.
    :arg pair_metrics: Statistics; the columns of ACCURACY, last, are no part of the table.
    :arg signals: Signals.
    :arg gaps: Ranges of ids that never came: symbol, first_id, last_id.
    """

    bars: pl.DataFrame
    ticks: pl.DataFrame
    pair_metrics: pl.DataFrame
    signals: pl.DataFrame
    gaps: pl.DataFrame


SERIES = ["pair", "timeframe", "window", "method"]
"""What a row of pair_metrics or signals belongs to; with `time` it is the key."""

METRIC_COLUMNS = [*SERIES, "time", "y", "x", "observations", "provisional", *STATISTICS, *ACCURACY]
SIGNAL_COLUMNS = [
    *SERIES,
    "time",
    "signal",
    "z_score",
    "hedge_ratio",
    "spread",
    "price_y",
    "price_x",
    "y",
    "x",
]
TICK_SCHEMA = {
    "pair": pl.String,
    "time": pl.Int64,
    "price_y": pl.Float64,
    "price_x": pl.Float64,
    "provisional": pl.Boolean,
}


def tables(
    trades: Block, settings: ReferenceSettings, sides_unknown: NDArray[np.bool_] | None = None
) -> Tables:
    """Compute all tables.

    :arg trades: TRADE block of all trades that ever came, in any order.
    :arg sides_unknown: For each trade, whether its file did not tell who bought; None: all did.
    """
    if sides_unknown is None:
        sides_unknown = np.zeros(len(trades), bool)
    feeds = {}
    for number, symbol in enumerate(settings.symbols):
        mine = trades["symbol"] == number
        start, unused = settings.start.get(symbol), settings.unused_ids.get(symbol, ())
        feeds[symbol] = of_symbol.feed(trades[mine], sides_unknown[mine], start, unused)
    bars = _bars(feeds, settings)
    ticks = _ticks(feeds, settings)
    metrics = _pair_metrics(bars, ticks, settings)
    gaps = [of_symbol.gap_rows(symbol, feed) for symbol, feed in feeds.items()]
    return Tables(
        bars, ticks, metrics, _signals(metrics, settings), pl.concat([pl.DataFrame(schema=GAP_SCHEMA), *gaps])
    )


def _bars(feeds: Mapping[str, Feed], settings: ReferenceSettings) -> pl.DataFrame:
    found = [pl.DataFrame(schema=BAR_SCHEMA)]
    for symbol, feed in feeds.items():
        for timeframe in filter(None, settings.timeframes):
            bars = of_symbol.bars(feed, timeframe, settings.watermark - settings.lateness)
            names = {"symbol": pl.lit(symbol), "timeframe": pl.lit(timeframe_name(timeframe))}
            found.append(bars.with_columns(**names).select(list(BAR_SCHEMA)))
    return pl.concat(found)


def _ticks(feeds: Mapping[str, Feed], settings: ReferenceSettings) -> pl.DataFrame:
    """Make the tick observations of each pair."""
    found = [pl.DataFrame(schema=TICK_SCHEMA)]
    closed_until = settings.watermark - settings.lateness
    for pair in settings.pairs if 0 in settings.timeframes else ():
        y, x = (feeds[symbol] for symbol in pair.split("/"))
        intervals_y, prices_y = of_symbol.last_prices(y, closed_until)
        intervals_x, prices_x = of_symbol.last_prices(x, closed_until)
        if len(intervals_y) == 0 or len(intervals_x) == 0:
            continue
        at = np.union1d(intervals_y, intervals_x)
        at = at[at >= max(intervals_y[0], intervals_x[0])]
        times = at * TICK
        columns = {
            "time": times,
            "price_y": prices_y[np.searchsorted(intervals_y, at, "right") - 1],
            "price_x": prices_x[np.searchsorted(intervals_x, at, "right") - 1],
            "provisional": of_symbol.provisional(y, times, TICK) | of_symbol.provisional(x, times, TICK),
        }
        found.append(pl.DataFrame(columns).with_columns(pair=pl.lit(pair)).select(list(TICK_SCHEMA)))
    return pl.concat(found)


def _pair_metrics(bars: pl.DataFrame, ticks: pl.DataFrame, settings: ReferenceSettings) -> pl.DataFrame:
    schema = {
        **dict.fromkeys((*SERIES, "y", "x"), pl.String),
        **dict.fromkeys((*STATISTICS, *ACCURACY), pl.Float64),
        **ROW_SCHEMA,
        "time": pl.Int64,
    }
    found = [pl.DataFrame(schema={name: schema[name] for name in METRIC_COLUMNS})]
    of_pair = PairSettings(
        settings.windows,
        settings.z_window,
        settings.methods,
        settings.log_prices,
        settings.adf_lag,
        settings.kalman_q,
        settings.kalman_r,
    )
    for pair in settings.pairs:
        y, x = pair.split("/")
        for timeframe in settings.timeframes:
            name = timeframe_name(timeframe)
            if timeframe:
                leg_y, leg_x = (
                    _bar_leg(bars.filter(symbol=leg, timeframe=name), timeframe) for leg in (y, x)
                )
                rows = pair_rows(leg_y, leg_x, of_pair, ticks=False)
                rows = rows.with_columns(time=pl.col("place") * timeframe)
            else:
                mine = ticks.filter(pair=pair)
                leg_y, leg_x = _tick_leg(mine, "price_y"), _tick_leg(mine, "price_x")
                rows = pair_rows(leg_y, leg_x, of_pair, ticks=True)
                rows = rows.with_columns(time=mine["time"].gather(rows["place"]))
            names = {"pair": pair, "timeframe": name, "y": y, "x": x}
            rows = rows.with_columns(**{column: pl.lit(value) for column, value in names.items()})
            found.append(rows.select(METRIC_COLUMNS))
    return pl.concat(found)


def _bar_leg(bars: pl.DataFrame, timeframe: int) -> Leg:
    place = bars["open_time"].to_numpy() // timeframe
    return Leg(place, bars["close"].to_numpy(), bars["provisional"].to_numpy())


def _tick_leg(ticks: pl.DataFrame, price: str) -> Leg:
    return Leg(np.arange(len(ticks)), ticks[price].to_numpy(), ticks["provisional"].to_numpy())


def _signals(metrics: pl.DataFrame, settings: ReferenceSettings) -> pl.DataFrame:
    found = [metrics.head(0).with_columns(signal=pl.lit(None, pl.String)).select(SIGNAL_COLUMNS)]
    of_bars = metrics.filter(pl.col("timeframe") != "tick")
    for series in of_bars.partition_by(SERIES, maintain_order=True):
        full = series["observations"] == series["window"]
        scores = [z if is_full else None for z, is_full in zip(series["z_score"], full)]
        given = list(signals(scores, settings.z_entry, settings.z_exit))
        rows = series.with_columns(signal=pl.Series(given, dtype=pl.String))
        found.append(rows.filter(pl.col("signal").is_not_null()).select(SIGNAL_COLUMNS))
    return pl.concat(found)
