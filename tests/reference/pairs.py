"""Rows of pair_metrics of one pair, by docs/statistics.md from "Observations of a pair" to "Unit roots"."""

from collections.abc import Sequence
from fractions import Fraction
from math import inf, log1p, nan
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tests.reference import unit_roots
from tests.reference.exact import Moments, Sums, root
from tests.reference.hedge_ratios import Line, Observations, lines, ols

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Leg(NamedTuple):
    """One leg of a pair, where it has a bar (or a last price, on ticks).

    :arg place: Number of each interval with a bar; on ticks the number of the pair's observation.
    :arg price: Its close.
    :arg provisional: Whether the bar is provisional.
    """

    place: Ints
    price: Floats
    provisional: NDArray[np.bool_]


class PairSettings(NamedTuple):
    """What the statistics of a pair depend on."""

    windows: Sequence[int]
    z_window: int
    methods: Sequence[str]
    log_prices: bool
    adf_lag: int | str
    kalman_q: float | None
    kalman_r: float


STATISTICS = [
    "price_y", "price_x", "hedge_ratio", "intercept", "hedge_ratio_stderr", "intercept_stderr", "r_squared",
    "spread", "spread_mean", "spread_std", "z_score", "correlation", "return_correlation",
    "volatility_y", "volatility_x", "coint_statistic", "coint_p_value", "adf_statistic", "adf_p_value",
    "adf_lag", "half_life", "hurst", "variance_ratio", "variance_ratio_z",
]  # fmt: skip
"""Columns of pair_metrics that are doubles."""

ACCURACY = [
    "value_y", "value_x", "deviation_y", "deviation_x", "weighted_deviation_y", "weighted_deviation_x",
    "spread_deviation", "adf_smallest", "coint_smallest", "farthest_x",
]  # fmt: skip
"""Columns that tell how far doubles can know a row; they are no part of the table. See compare.py.

What is regressed; its deviations over the window, and also as rls weights it; deviation of the spread over a
full window; the smallest part of the Dickey-Fuller regressions; how far x ever was from its first value, as a
multiple of that.
"""

ROW_SCHEMA = {
    "window": pl.Int64,
    "method": pl.String,
    "place": pl.Int64,
    "observations": pl.Int64,
    **dict.fromkeys([*STATISTICS, *ACCURACY], pl.Float64),
    "provisional": pl.Boolean,
}


def pair_rows(leg_y: Leg, leg_x: Leg, settings: PairSettings, *, ticks: bool) -> pl.DataFrame:
    """Compute every row of one pair and timeframe.

    :returns: Columns of ROW_SCHEMA; a row for each complete observation, window and method.
    """
    place, at_y, at_x = np.intersect1d(leg_y.place, leg_x.place, return_indices=True)
    y, x = (_values(leg, settings) for leg in (leg_y.price[at_y], leg_x.price[at_x]))
    observations = Observations(place.tolist(), Sums(y, x))
    tables = []
    for window in settings.windows:
        shared: dict[str, Any] = {
            "place": place,
            "price_y": leg_y.price[at_y],
            "price_x": leg_x.price[at_x],
            "value_y": y,
            "value_x": x,
            "farthest_x": _farthest(x),
            "provisional": _provisional(place, leg_y, leg_x, max(window, settings.z_window)),
            **_of_prices(observations, window),
            **_of_returns(place, leg_y, leg_x, window),
        }
        full = shared["observations"] == window
        if not ticks:
            shared |= _cointegration(observations, y, x, full, window, settings)
        for method in settings.methods:
            found = lines(method, observations, window, settings.kalman_q, settings.kalman_r)
            columns = shared | _of_lines(found) | _of_spread(observations, found, settings.z_window)
            if not ticks:
                columns |= _unit_roots(found, y, x, full, window, settings)
            columns |= {"window": window, "method": method}
            columns = {name: columns.get(name, nan) for name in ROW_SCHEMA}
            if len(place):
                tables.append(pl.DataFrame(columns, ROW_SCHEMA))
    return pl.concat(tables) if tables else pl.DataFrame(schema=ROW_SCHEMA)


def _values(prices: Floats, settings: PairSettings) -> Floats:
    """Return what is regressed: prices, or the doubles nearest to their logarithms."""
    return np.log(prices.astype(np.longdouble)).astype(float) if settings.log_prices else prices


def _farthest(x: Floats) -> Floats:
    return np.maximum.accumulate(np.abs(x - x[:1])) / (abs(x[0]) or 1) if len(x) else x


def _provisional(place: Ints, leg_y: Leg, leg_x: Leg, length: int) -> NDArray[np.bool_]:
    """Mark rows with a provisional bar of either leg at places s - length .. s."""
    marks = np.zeros(len(place), bool)
    for leg in (leg_y, leg_x):
        marked = leg.place[leg.provisional]
        marks |= np.searchsorted(marked, place, "right") > np.searchsorted(marked, place - length, "left")
    return marks


def _of_prices(observations: Observations, window: int) -> dict[str, Any]:
    moments = [observations.window(k, window) for k in range(len(observations.place))]
    return {
        "observations": np.array([m.n for m in moments], np.int64),
        "correlation": np.array([_pearson(m) for m in moments]),
        "deviation_y": np.array([m.deviation_y for m in moments]),
        "deviation_x": np.array([m.deviation_x for m in moments]),
    }


def _pearson(m: Moments) -> float:
    if m.n < 3 or m.cyy == 0 or m.cxx == 0:
        return nan
    size = root(m.cxy**2, m.cxx * m.cyy)
    return size if m.cxy > 0 else -size


def _of_returns(place: Ints, leg_y: Leg, leg_x: Leg, window: int) -> dict[str, Any]:
    """Correlation and volatility of returns over the window, from the pair's first complete observation
    on."""
    if len(place) == 0:
        return {}
    at_y, returns_y = _returns(leg_y)
    at_x, returns_x = _returns(leg_x)
    both, in_y, in_x = np.intersect1d(at_y, at_x, return_indices=True)
    begins = np.maximum(place - window + 1, place[0])
    pair = _over(both, returns_y[in_y], returns_x[in_x], begins, place)
    alone_y = _over(at_y, returns_y, returns_y, begins, place)
    alone_x = _over(at_x, returns_x, returns_x, begins, place)
    return {
        "return_correlation": np.array([_pearson(m) for m in pair]),
        "volatility_y": np.array([_sample_deviation(m) for m in alone_y]),
        "volatility_x": np.array([_sample_deviation(m) for m in alone_x]),
    }


def _returns(leg: Leg) -> tuple[Ints, Floats]:
    """Return the places at which a leg has a bar and one before it, and ln(p_s / p_(s-1)) there.

    log1p of the exact ratio less 1: the logarithm of a rounded ratio near 1 loses half its digits.
    """
    at = np.flatnonzero(np.diff(leg.place) == 1) + 1
    prices = leg.price.tolist()
    returns = [log1p(float(Fraction(prices[k]) / Fraction(prices[k - 1]) - 1)) for k in at]
    return leg.place[at], np.array(returns, np.float64)


def _over(at: Ints, y: Floats, x: Floats, begins: Ints, ends: Ints) -> list[Moments]:
    """Return the moments of values at places `begins` to `ends`, both included."""
    sums = Sums(y, x)
    firsts, lasts = np.searchsorted(at, begins, "left"), np.searchsorted(at, ends, "right")
    return [sums.over(int(first), int(last)) for first, last in zip(firsts, lasts)]


def _sample_deviation(m: Moments) -> float:
    return root(m.cyy, m.n * (m.n - 1) << 2 * m.bits) if m.n >= 2 else nan


def _of_lines(found: list[Line | None]) -> dict[str, Any]:
    rows = [(nan,) * len(Line._fields) if line is None else (float(line.beta), *line[1:]) for line in found]
    names = ("hedge_ratio", *Line._fields[1:])
    return dict(zip(names, np.array(rows, np.float64).reshape(-1, len(names)).T))


def _of_spread(observations: Observations, found: list[Line | None], z: int) -> dict[str, Any]:
    """Spread, and its mean, deviation and z-score over the last z observations, with the row's hedge ratio.

    All from integers: with beta = top / bottom, e = bottom y - top x is one.
    """
    names = ("spread", "spread_mean", "spread_std", "z_score")
    rows = []
    place, sums = observations.place, observations.sums
    for k, line in enumerate(found):
        if line is None:
            rows.append((nan,) * 4)
            continue
        top, bottom = line.beta.numerator, line.beta.denominator
        e = bottom * sums.y[k] - top * sums.x[k]
        spread = e / (bottom << sums.bits)
        if place[k] - place[0] + 1 < z:
            rows.append((spread, nan, nan, nan))
            continue
        m = observations.window(k, z)
        total = bottom * m.y - top * m.x
        squares = bottom**2 * m.yy - 2 * bottom * top * m.xy + top**2 * m.xx
        variance = m.n * squares - total**2  # times n**2
        mean = total / (m.n * bottom << m.bits)
        std = root(variance, (m.n * bottom) ** 2 << 2 * m.bits)
        score = nan
        if std > m.rounding(
            float(line.beta)
        ):  # else it is constant, but for the rounding of prices to doubles
            deviation = m.n * e - total
            score = root(deviation**2, variance) * (1 if deviation > 0 else -1)
        rows.append((spread, mean, std, score))
    return dict(zip(names, np.array(rows, np.float64).reshape(-1, 4).T))


def _cointegration(
    observations: Observations,
    y: Floats,
    x: Floats,
    full: NDArray[np.bool_],
    window: int,
    settings: PairSettings,
) -> dict[str, Any]:
    """Engle and Granger's test over each full window."""
    found = [ols(observations.window(k, window)) if full[k] else None for k in range(len(full))]
    at, spreads, noise = _spreads(found, y, x, full, window)
    test = unit_roots.adf(spreads, noise, settings.adf_lag, residuals=True)
    columns = {
        "coint_statistic": test.statistic,
        "coint_p_value": test.p_value,
        "coint_smallest": test.smallest,
    }
    return _spread_out(at, len(full), columns)


def _unit_roots(
    found: list[Line | None],
    y: Floats,
    x: Floats,
    full: NDArray[np.bool_],
    window: int,
    settings: PairSettings,
) -> dict[str, Any]:
    """Unit-root statistics of the spread over each full window."""
    at, spreads, noise = _spreads(found, y, x, full, window)
    test = unit_roots.adf(spreads, noise, settings.adf_lag, residuals=False)
    ratio, ratio_z = unit_roots.variance_ratio(spreads, noise)
    columns = {
        "adf_statistic": test.statistic,
        "adf_p_value": test.p_value,
        "adf_lag": test.lag,
        "adf_smallest": test.smallest,
        "half_life": unit_roots.half_life(spreads, noise),
        "hurst": unit_roots.hurst(spreads, noise),
        "variance_ratio": ratio,
        "variance_ratio_z": ratio_z,
        "spread_deviation": spreads.std(axis=1).astype(float),
    }
    return _spread_out(at, len(full), columns)


def _spreads(
    found: list[Line | None], y: Floats, x: Floats, full: NDArray[np.bool_], window: int
) -> tuple[Ints, unit_roots.Values, unit_roots.Values]:
    """Return the spreads of each full window that is not constant, less its last one.

    The legs are taken from their last values first, so that hardly a digit is lost.

    :returns: The observation at which each window ends; the spreads, a row for each; how far they are known.
    """
    has_line = np.array([line is not None for line in found], bool)
    at = np.flatnonzero(full & has_line)
    if len(at) == 0:
        empty = np.empty((0, window), np.longdouble)
        return at, empty, empty[:, 0]
    betas = [found[k].beta for k in at]  # type: ignore[union-attr]
    heads = [float(beta) for beta in betas]
    tails = [float(beta - Fraction(head)) if abs(head) < inf else 0.0 for beta, head in zip(betas, heads)]
    beta = np.array(heads, np.longdouble)[:, None] + np.array(tails, np.longdouble)[:, None]
    ys, xs = (
        np.lib.stride_tricks.sliding_window_view(values.astype(np.longdouble), window)[at - window + 1]
        for values in (y, x)
    )
    spreads = (ys - ys[:, -1:]) - beta * (xs - xs[:, -1:])
    noise = 2.0**-52 * (np.abs(ys).max(axis=1) + np.abs(beta[:, 0]) * np.abs(xs).max(axis=1))
    moves = np.abs(spreads - spreads.mean(axis=1, keepdims=True)).max(axis=1) > noise
    return at[moves], spreads[moves], noise[moves]


def _spread_out(at: Ints, length: int, columns: dict[str, Floats]) -> dict[str, Floats]:
    """Put values at their observations, NaN elsewhere."""
    result = {}
    for name, values in columns.items():
        result[name] = np.full(length, nan)
        result[name][at] = values
    return result
