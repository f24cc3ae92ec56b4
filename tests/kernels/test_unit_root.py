"""Stationarity kernels against statsmodels, published formulas and exact rational arithmetic."""

import gzip
import itertools
import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import partial
from typing import Any, get_args

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from statsmodels.tsa.adfvalues import mackinnonp
from statsmodels.tsa.stattools import adfuller
from statsmodels.tsa.stattools import coint as engle_granger
from statsmodels.tsa.vector_ar.vecm import coint_johansen

from kernels import unit_root
from kernels.compile import warm_up
from kernels.records import METRIC
from kernels.unit_root import (
    AIC,
    BIC,
    KERNELS,
    Trend,
    UnitRoot,
    adf,
    coint,
    engle_granger_all,
    fill_stationarity,
    half_life,
    hurst,
    johansen,
    variance_ratio,
)
from tests.support import paths

Floats = NDArray[np.float64]

RECORDED = paths.RECORDED / "usdm"
TRENDS: tuple[Trend, ...] = get_args(Trend)
FILLED = ("adf_statistic", "adf_p_value", "adf_lag", "half_life", "hurst", "variance_ratio")


@pytest.fixture(scope="module", autouse=True)
def _warm() -> None:
    warm_up(*KERNELS)


def random_series(random: np.random.Generator, longest: int) -> Floats:
    """Draw a unit root, a stationary or a trending series, of 25 to `longest` observations, of any scale."""
    n = round(25 * (longest / 25) ** random.random())
    shocks = random.normal(size=n) if random.random() < 0.7 else random.standard_t(3, size=n)
    if random.random() < 0.5:  # moving average: gives automatic lag selection something to find
        shocks[1:] += random.uniform(-0.8, 0.8) * shocks[:-1]
    kind = random.integers(3)
    series = np.zeros(n)
    persistence = 1.0 if kind == 0 else random.uniform(0.0, 0.99)
    for t in range(1, n):
        series[t] = persistence * series[t - 1] + shocks[t]
    if kind == 2:
        series += random.normal() * 0.1 * np.arange(n)
    scale: float = 10.0 ** random.uniform(-3, 3)
    return scale * (series + random.normal() * 100)


def statsmodels_adf(series: Floats, lag: int, trend: Trend) -> Any:
    if lag >= 0:
        return adfuller(series, maxlag=lag, regression=trend, autolag=None, result_object=True)
    return adfuller(series, regression=trend, autolag="AIC" if lag == AIC else "BIC", result_object=True)


def statsmodels_coint(y: Floats, x: Floats, lag: int, trend: Trend) -> Any:
    if lag >= 0:
        return engle_granger(y, x, trend=trend, maxlag=lag, autolag=None)
    return engle_granger(y, x, trend=trend, autolag="aic" if lag == AIC else "bic")


def assert_same_adf(series: Floats, lag: int, trend: Trend) -> None:
    ours = adf(series, lag, trend)
    theirs = statsmodels_adf(series, lag, trend)
    assert ours.lag == theirs.lags
    assert ours.observations == theirs.nobs
    assert ours.statistic == pytest.approx(theirs.statistic, rel=1e-9, abs=1e-10)
    assert ours.p_value == pytest.approx(theirs.pvalue, abs=1e-8)
    assert ours.critical_values == pytest.approx(list(theirs.critical_values.values()), rel=1e-12)


def assert_same_coint(y: Floats, x: Floats, lag: int, trend: Trend) -> None:
    ours = coint(y, x, lag, trend)
    statistic, p_value, critical_values = statsmodels_coint(y, x, lag, trend)
    assert ours.statistic == pytest.approx(statistic, rel=1e-9, abs=1e-10)
    assert ours.p_value == pytest.approx(p_value, abs=1e-8)
    assert ours.critical_values == pytest.approx(list(critical_values), rel=1e-12, nan_ok=True)


@pytest.mark.parametrize("seed", range(10))
def test_adf_with_fixed_lag_equals_statsmodels_on_a_thousand_series(seed: int) -> None:
    random = np.random.default_rng(seed)
    for i in range(100):
        series = random_series(random, 5000)
        assert_same_adf(series, int(random.integers(min(8, len(series) // 2 - 3))), TRENDS[i % 3])


@pytest.mark.parametrize("seed", range(10))
def test_adf_with_automatic_lag_equals_statsmodels_on_a_thousand_series(seed: int) -> None:
    random = np.random.default_rng(100 + seed)
    for i in range(100):
        series = random_series(random, 5000 if i < 3 else 400)
        assert_same_adf(series, (AIC, BIC)[i % 2], TRENDS[i % 3])


def test_adf_chooses_among_no_more_lags_than_told() -> None:
    random = np.random.default_rng(7)
    for most in range(12):
        series = random_series(random, 400)
        theirs = adfuller(series, maxlag=min(most, 9), autolag="AIC", result_object=True)
        ours = adf(series, AIC, "c", min(most, 9))
        assert (ours.lag, ours.observations) == (theirs.lags, theirs.nobs)
        assert ours.statistic == pytest.approx(theirs.statistic, rel=1e-9)


@pytest.mark.parametrize("trend", TRENDS)
@pytest.mark.parametrize("lag", [0, 1, 5, AIC, BIC])
def test_coint_equals_statsmodels_both_ways(lag: int, trend: Trend) -> None:
    random = np.random.default_rng(abs(lag))
    for i in range(60 if lag >= 0 else 20):
        x = random_series(random, 1000)
        noise = random.normal(size=len(x))
        y = random.normal() * x + x.std() * (np.cumsum(noise) if i % 2 else noise)
        assert_same_coint(y, x, lag, trend)
        assert_same_coint(x, y, lag, trend)


@pytest.mark.parametrize("trend", TRENDS)
@pytest.mark.parametrize("variables", [1, 2])
def test_p_values_follow_mackinnons_surface_over_its_whole_range(trend: Trend, variables: int) -> None:
    for statistic in np.linspace(-30.0, 5.0, 701):
        ours = unit_root._mackinnon_p(statistic, TRENDS.index(trend), variables)
        assert ours == pytest.approx(mackinnonp(statistic, trend, variables), abs=1e-14)


def test_adf_of_a_quiet_market_equals_statsmodels() -> None:
    random = np.random.default_rng(13)
    for i in range(150):
        n = int(random.integers(80, 200))
        ticks = np.where(random.random(n) < 0.15, random.choice([-2, -1, 1, 2], n), 0)
        assert_same_adf(np.cumsum(ticks).astype(np.float64), (1, AIC, BIC)[i % 3], TRENDS[i // 3 % 3])


# Regimes in which floating point loses digits are compared with exact rational arithmetic: statsmodels itself
# is off there, by up to all digits.


def integers(series: Sequence[float | Fraction]) -> list[int]:
    """Scale a series exactly to integers; no statistic here depends on scale."""
    ratios = [Fraction(value) for value in series]
    scale = math.lcm(*(ratio.denominator for ratio in ratios))
    return [int(ratio * scale) for ratio in ratios]


def exact_regression(rows: list[list[int]], y: list[int]) -> tuple[list[Fraction], float]:
    """Regress y on rows exactly: coefficients, and t of the last one."""
    columns = [*rows, y]
    matrix = [[Fraction(sum(a * b for a, b in zip(u, v))) for v in columns] for u in columns]
    last = len(rows)
    for pivot in range(last):
        if pivot == last - 1:
            share, whole = matrix[pivot][last], matrix[pivot][pivot]
        for i in range(pivot + 1, last + 1):
            factor = matrix[i][pivot] / matrix[pivot][pivot]
            matrix[i] = [a - factor * b for a, b in zip(matrix[i], matrix[pivot])]
    coefficients: list[Fraction] = []
    for i in reversed(range(last)):
        known = sum((matrix[i][i + 1 + k] * c for k, c in enumerate(coefficients)), Fraction(0))
        coefficients.insert(0, (matrix[i][last] - known) / matrix[i][i])
    t_squared = share * share * (len(y) - last) / (whole * matrix[last][last])
    return coefficients, math.copysign(math.sqrt(t_squared), share)


def trend_rows(n: int, trend: Trend) -> list[list[int]]:
    return [[1] * n, list(range(n))][: TRENDS.index(trend)]


def exact_adf(series: Sequence[float | Fraction], lag: int, trend: Trend) -> float:
    x = integers(series)
    changes = [after - before for before, after in itertools.pairwise(x)]
    n = len(changes) - lag
    lagged = [changes[lag - i : len(changes) - i] for i in range(1, lag + 1)]
    return exact_regression([*trend_rows(n, trend), *lagged, x[lag:-1]], changes[lag:])[1]


def exact_coint(y: Floats, x: Floats, lag: int, trend: Trend) -> float:
    n = len(y)
    scaled = integers([*y, *x])
    rows = [*trend_rows(n, trend), scaled[n:]]
    coefficients, _ = exact_regression(rows, scaled[:n])
    residuals = [v - sum(c * r[t] for c, r in zip(coefficients, rows)) for t, v in enumerate(scaled[:n])]
    return exact_adf(residuals, lag, "n")


def reverting(seed: int, scale: float) -> Floats:
    shocks = np.random.default_rng(seed).normal(size=240) * scale
    series = np.zeros(240)
    for t in range(1, 240):
        series[t] = 0.9 * series[t - 1] + shocks[t]
    return series


def with_wild_price(position: int) -> Floats:
    series = np.round(60_000 + reverting(5, 0.02), 2)
    series[position] = 6e8
    return series


CLOCK = np.arange(240)
HARD = {
    "residual of 0.01 on a level of 60,000": 60_000 + reverting(1, 0.01),
    "quiet ticks of 0.01 on 60,000": np.round(60_000 + reverting(2, 0.02), 2),
    "stablecoin": 1 + reverting(3, 1e-8),
    "level of 1e12": 1e12 + reverting(4, 1.0),
    "wild first price": with_wild_price(1),
    "wild price among the first lags": with_wild_price(3),
    "wild price amid": with_wild_price(120),
    "wild last price": with_wild_price(239),
    "twice integrated": np.cumsum(np.cumsum(reverting(6, 1.0))),
    "smooth wave": 100 * np.sin(CLOCK / 20) + reverting(7, 1e-3),
    "steep trend": 1e5 + 50.0 * CLOCK + reverting(8, 0.01),
    "drift": np.cumsum(1000 + reverting(9, 1.0)),
    "explosive": 1.05**CLOCK + reverting(10, 1.0),
    "tiny": 1e-12 * np.cumsum(reverting(11, 1.0)),
}


@pytest.mark.parametrize("trend", TRENDS)
@pytest.mark.parametrize("regime", HARD)
def test_adf_stays_exact_in_hard_regimes(regime: str, trend: Trend) -> None:
    series = HARD[regime]
    # A wild first price and the change back explain each other: the data's own condition is 1e10.
    relative = 1e-8 if regime == "wild first price" else 1e-9
    for lag in (0, 1, 4):
        exact = exact_adf(series.tolist(), lag, trend)
        assert adf(series, lag, trend).statistic == pytest.approx(exact, rel=relative)


@pytest.mark.parametrize("trend", TRENDS)
@pytest.mark.parametrize("residual", [1.0, 1e-2, 1e-4, 1e-6, 1e-8])
def test_coint_stays_exact_where_the_legs_are_nearly_collinear(residual: float, trend: Trend) -> None:
    x = 60_000 + 20 * np.cumsum(np.random.default_rng(1).normal(size=240))
    y = 0.05 * x + reverting(2, residual)
    ours = coint(y, x, 1, trend)
    assert ours.statistic == pytest.approx(exact_coint(y, x, 1, trend), rel=1e-9)
    assert ours.p_value == pytest.approx(mackinnonp(ours.statistic, trend, 2), abs=1e-12)


def closes(symbol: str) -> Floats:
    """Build 1-second closes of a recording, repeated through seconds without a trade."""
    last: dict[int, float] = {}
    with gzip.open(RECORDED / f"{symbol}_20240808.gz") as lines:
        for line in lines:
            if b"@trade" in line:
                trade = orjson.loads(line.partition(b" ")[2])["data"]
                if trade.get("X", "MARKET") == "MARKET":
                    last[trade["T"] // 1000] = float(trade["p"])
    series = np.empty(max(last) - min(last) + 1)
    price = math.nan
    for i, second in enumerate(range(min(last), max(last) + 1)):
        price = last.get(second, price)
        series[i] = price
    return series


@pytest.mark.skipif(not RECORDED.exists(), reason=f"needs the recordings in {RECORDED}")
def test_recorded_spreads_equal_statsmodels() -> None:
    btc, eth = closes("btcusdt"), closes("ethusdt")
    n = min(len(btc), len(eth))
    btc, eth = btc[-n:], eth[-n:]
    assert n > 280
    for window in (60, 120, 280):
        for y, x in ((eth, btc), (btc, eth), (np.log(eth), np.log(btc))):
            for end in range(window, n + 1, 20):
                part_y, part_x = y[end - window : end], x[end - window : end]
                slope = np.polyfit(part_x, part_y, 1)[0]
                for lag in (1, AIC):
                    assert_same_adf(part_y - slope * part_x, lag, "c")
                    # statsmodels' regression of prices this far from 0 is off by 2e-9.
                    assert_same_coint(part_y - part_y[0], part_x - part_x[0], lag, "c")
                exact = exact_coint(part_y, part_x, 1, "c")
                assert coint(part_y, part_x, 1).statistic == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize("lags", [1, 2, 4])
def test_johansen_equals_statsmodels(lags: int) -> None:
    random = np.random.default_rng(lags)
    for i in range(60):
        x = np.cumsum(random.normal(size=int(random.integers(30, 800))))
        noise = random.normal(size=len(x))
        y = random.normal() * x + (np.cumsum(noise) if i % 2 else noise) + 60_000
        theirs = coint_johansen(np.column_stack([y, x]), 0, lags)
        ours = johansen(y, x, lags)
        assert ours.trace == pytest.approx(theirs.trace_stat, rel=1e-9)
        assert ours.max_eigenvalue == pytest.approx(theirs.max_eig_stat, rel=1e-9)
        assert np.array_equal(ours.trace_critical_values, theirs.trace_stat_crit_vals)
        assert np.array_equal(ours.max_eigenvalue_critical_values, theirs.max_eig_stat_crit_vals)
        assert johansen(x, y, lags).trace == pytest.approx(ours.trace, rel=1e-9)


def plain_half_life(series: Floats) -> float:
    slope = np.polyfit(series[:-1], np.diff(series), 1)[0]
    return -np.log(2) / slope if slope < 0 else np.inf


def plain_hurst(series: Floats, most: int) -> float:
    lags = np.arange(1, min(most, len(series) // 4) + 1)
    deviations = [np.std(series[lag:] - series[:-lag]) for lag in lags]
    return float(np.polyfit(np.log(lags), np.log(deviations), 1)[0])


def plain_variance_ratio(series: Floats, q: int) -> tuple[float, float]:
    """Follow Lo and MacKinlay (1988), equations 12 to 20, in their names."""
    nq = len(series) - 1
    mu = (series[-1] - series[0]) / nq
    deviations = np.diff(series) - mu
    sigma_a = np.sum(deviations**2) / (nq - 1)
    m = q * (nq - q + 1) * (1 - q / nq)
    sigma_c = np.sum((series[q:] - series[:-q] - q * mu) ** 2) / m
    theta = 0.0
    for j in range(1, q):
        delta = nq * np.sum(deviations[j:] ** 2 * deviations[:-j] ** 2) / np.sum(deviations**2) ** 2
        theta += (2 * (q - j) / q) ** 2 * delta
    ratio = sigma_c / sigma_a
    return ratio, np.sqrt(nq) * (ratio - 1) / np.sqrt(theta)


def test_mean_reversion_statistics_equal_their_published_formulas() -> None:
    random = np.random.default_rng(12)
    for _ in range(300):
        series = random_series(random, 2000)
        assert half_life(series) == pytest.approx(plain_half_life(series), rel=1e-6)
        assert hurst(series) == pytest.approx(plain_hurst(series, 20), rel=1e-9, abs=1e-9)
        assert hurst(series, 5) == pytest.approx(plain_hurst(series, 5), rel=1e-9, abs=1e-9)
        for period in (2, 5, 10):
            assert variance_ratio(series, period) == pytest.approx(
                plain_variance_ratio(series, period), rel=1e-9, abs=1e-9
            )


@pytest.mark.parametrize("regime", HARD)
def test_mean_reversion_statistics_stay_exact_in_hard_regimes(regime: str) -> None:
    x = integers(HARD[regime].tolist())
    n = len(x) - 1

    def squares(lag: int) -> Fraction:
        """Sum the squares of the changes over `lag` about the drift."""
        return sum(((b - a - lag * Fraction(x[-1] - x[0], n)) ** 2 for a, b in zip(x, x[lag:])), Fraction(0))

    def variance(lag: int) -> Fraction:
        changes = [b - a for a, b in zip(x, x[lag:])]
        return Fraction(sum(c * c for c in changes), len(changes)) - Fraction(sum(changes), len(changes)) ** 2

    levels = [v - Fraction(sum(x[:-1]), n) for v in x]
    products = sum((a * (b - a) for a, b in itertools.pairwise(levels)), Fraction(0))
    slope = float(products / sum((a * a for a in levels[:-1]), Fraction(0)))
    lags = range(1, 21)
    logarithms = [
        0.5 * (math.log(variance(lag).numerator) - math.log(variance(lag).denominator)) for lag in lags
    ]
    ratio = squares(2) / (2 * (n - 1) * (1 - Fraction(2, n))) / (squares(1) / (n - 1))
    life = -math.log(2) / slope if slope < 0 else math.inf
    assert half_life(HARD[regime]) == pytest.approx(life, rel=1e-9)
    assert hurst(HARD[regime]) == pytest.approx(
        np.polyfit(np.log(lags), logarithms, 1)[0], rel=1e-9, abs=1e-9
    )
    assert variance_ratio(HARD[regime], 2).ratio == pytest.approx(float(ratio), rel=1e-9)


@pytest.mark.parametrize("persistence", [0.5, 0.9, 0.99])
def test_a_long_reverting_series_shows_its_half_life(persistence: float) -> None:
    shocks = np.random.default_rng(3).normal(size=200_000)
    series = np.zeros(200_000)
    for t in range(1, 200_000):
        series[t] = persistence * series[t - 1] + shocks[t]
    assert half_life(series) == pytest.approx(math.log(2) / (1 - persistence), rel=0.1)


def test_an_explosive_series_never_reverts() -> None:
    assert half_life(1.1 ** np.arange(50)) == math.inf


def test_a_random_walk_has_exponent_one_half_and_ratio_one() -> None:
    walk = np.cumsum(np.random.default_rng(4).normal(size=100_000))
    assert hurst(walk) == pytest.approx(0.5, abs=0.02)
    assert variance_ratio(walk, 4).ratio == pytest.approx(1.0, abs=0.02)
    assert abs(variance_ratio(walk, 4).z) < 3
    assert hurst(np.diff(walk)) == pytest.approx(0.0, abs=0.02)
    assert hurst(np.cumsum(walk)) == pytest.approx(1.0, abs=0.02)


def ring(history: Floats, depth: int) -> Floats:
    """File observations as the flow does: that of step s in column s % depth."""
    values = np.full((len(history), depth), np.nan)
    for step in range(history.shape[1]):
        values[:, step % depth] = history[:, step]
    return values


@pytest.mark.parametrize("lag", [0, 1, AIC, BIC])
@pytest.mark.parametrize("newest", [299, 300, 511, 512, 700, 1023])
def test_rows_of_a_bar_hold_the_statistics_of_each_spread(newest: int, lag: int) -> None:
    random = np.random.default_rng(newest)
    history = 60_000 + np.cumsum(random.normal(size=(5, newest + 1)), axis=1)
    values = ring(history, 512)
    y = np.array([0, 1, 2, 3], np.int32)
    x = np.array([1, 2, 3, 4], np.int32)
    windows = np.array([60, 120, 300], np.int64)
    out = np.zeros((4, 3), METRIC)
    out["hedge_ratio"] = random.normal(size=(4, 3))
    out["observations"] = windows
    before = out.copy()
    fill_stationarity(values, np.full(4, newest, np.int64), y, x, windows, lag, out)
    for p in range(4):
        for k, window in enumerate(windows):
            row = out[p, k]
            spread = history[y[p], -window:] - row["hedge_ratio"] * history[x[p], -window:]
            theirs = statsmodels_adf(spread, lag, "c")
            assert row["adf_statistic"] == pytest.approx(theirs.statistic, rel=1e-9)
            assert row["adf_p_value"] == pytest.approx(theirs.pvalue, abs=1e-8)
            assert row["adf_lag"] == theirs.lags
            assert row["half_life"] == pytest.approx(plain_half_life(spread), rel=1e-6)
            assert row["hurst"] == pytest.approx(plain_hurst(spread, 20), rel=1e-9)
            assert row["variance_ratio"] == pytest.approx(plain_variance_ratio(spread, 2)[0], rel=1e-9)
    untouched = [name for name in METRIC.names or () if name not in FILLED]
    assert np.array_equal(out[untouched], before[untouched])


def one_row(
    values: Floats, *, step: int = 99, window: int = 100, hedge_ratio: float = 0.5, observations: int = 100
) -> NDArray[np.void]:
    out = np.zeros((1, 1), METRIC)
    out["hedge_ratio"], out["observations"] = hedge_ratio, observations
    steps, legs = np.array([step], np.int64), np.array([0, 1], np.int32)
    fill_stationarity(values, steps, legs[:1], legs[1:], np.array([window], np.int64), 1, out)
    row: NDArray[np.void] = out[0, 0]
    return row


def test_a_row_is_undefined_unless_its_whole_window_is_there() -> None:
    values = 100 + np.cumsum(np.random.default_rng(1).normal(size=(2, 100)), axis=1)

    def undefined(row: NDArray[np.void]) -> bool:
        return all(math.isnan(row[name]) for name in FILLED)

    assert not any(math.isnan(one_row(values)[name]) for name in FILLED)
    assert undefined(one_row(values, observations=99))
    assert undefined(one_row(values, step=98))
    assert undefined(one_row(values, window=101, observations=101, step=200))
    assert undefined(one_row(values, hedge_ratio=math.nan))
    assert undefined(one_row(values, hedge_ratio=math.inf))
    assert undefined(one_row(np.ones((2, 100))))
    assert undefined(one_row(np.vstack([values[0], 2 * values[0]])))
    for hole in (0, 50, 99):
        holed = values.copy()
        holed[1, hole] = math.nan
        assert undefined(one_row(holed))


@pytest.mark.parametrize("position", [0, 50, 99])
def test_one_wild_print_leaves_the_digits_of_the_other_spreads(position: int) -> None:
    values = 60_000 + np.vstack([reverting(14, 0.01), reverting(15, 0.01)])[:, :100]
    values[0, position] = 6e8
    spread = [Fraction(y) - Fraction(x) / 2 for y, x in values.T.tolist()]
    assert one_row(values)["adf_statistic"] == pytest.approx(exact_adf(spread, 1, "c"), rel=1e-10)


def test_a_series_that_moves_by_rounding_alone_is_constant() -> None:
    prices = np.linspace(60_000, 60_100, 100)
    rounding = (prices * 1.1) / 1.1 - prices
    assert np.count_nonzero(rounding) > 10
    level = 60_000.01 + rounding
    straight = 0.1 * np.arange(100)
    for lag in (1, AIC):
        assert math.isnan(adf(level, lag).statistic)
        assert math.isnan(adf(straight, lag).statistic)
    assert math.isnan(half_life(level))
    for series in (level, straight):
        assert np.isnan([hurst(series), *variance_ratio(series, 2)]).all()
    assert all(
        math.isnan(one_row(np.vstack([prices * 1.1, prices]), hedge_ratio=1.1)[name]) for name in FILLED
    )


def test_a_pair_without_a_step_keeps_its_rows() -> None:
    assert all(one_row(np.ones((2, 100)), step=-1)[name] == 0 for name in FILLED)


@pytest.mark.parametrize("lag", [1, AIC])
def test_every_pair_is_tested_both_ways(lag: int) -> None:
    values = 100 + np.cumsum(np.random.default_rng(9).normal(size=(7, 120)), axis=1)
    statistic, p_value = engle_granger_all(values, lag)
    for i in range(7):
        assert math.isnan(statistic[i, i])
        assert math.isnan(p_value[i, i])
        for j in set(range(7)) - {i}:
            theirs = statsmodels_coint(values[i], values[j], lag, "c")
            assert statistic[i, j] == pytest.approx(theirs[0], rel=1e-9)
            assert p_value[i, j] == pytest.approx(theirs[1], abs=1e-8)


ANY_SERIES = st.one_of(
    arrays(np.float64, st.integers(0, 60), elements=st.floats(width=64)),
    arrays(
        np.float64, st.integers(0, 60), elements=st.sampled_from([0.0, 1.0, 60_000.01, math.nan, math.inf])
    ),
    arrays(np.float64, st.integers(0, 60), elements=st.floats(-1e-300, 1e300)),
    arrays(np.float64, st.integers(0, 60), elements=st.integers(-2, 2).map(float)),
    st.builds(lambda n, a, b: a + b * np.arange(n), st.integers(0, 60), st.floats(-9, 9), st.floats(-9, 9)),
)


def assert_defined_or_nan(result: UnitRoot, n: int) -> None:
    if math.isnan(result.statistic):
        assert math.isnan(result.p_value)
        assert (result.lag, result.observations) == (-1, 0)
    else:
        assert math.isfinite(result.statistic)
        assert 0 <= result.p_value <= 1
        assert result.observations == n - 1 - result.lag > 0


@settings(max_examples=300, deadline=None)
@given(ANY_SERIES, ANY_SERIES, st.sampled_from([0, 1, 2, 9, 1_000_000, AIC, BIC]), st.sampled_from(TRENDS))
def test_any_series_gives_a_statistic_or_nan(a: Floats, b: Floats, lag: int, trend: Trend) -> None:
    n = min(len(a), len(b))
    a, b = a[:n], b[:n]
    assert_defined_or_nan(adf(a, lag, trend), n)
    assert_defined_or_nan(coint(a, b, lag, trend), n)
    statistics = [*johansen(a, b).trace, *johansen(a, b).max_eigenvalue]
    statistics += [hurst(a), *variance_ratio(a, 2), *variance_ratio(a, 3)]
    assert all(math.isnan(value) or math.isfinite(value) for value in statistics)
    life = half_life(a)
    assert math.isnan(life) or life > 0
    if n > 0 and not np.isfinite(a).all():
        assert math.isnan(adf(a, lag, trend).statistic)
        assert math.isnan(coint(a, b, lag, trend).statistic)
        assert math.isnan(coint(b, a, lag, trend).statistic)
        assert math.isnan(life)
        assert math.isnan(hurst(a))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("position", [0, 1, 25, 48, 49])
def test_one_value_that_is_not_finite_leaves_nothing_defined(position: int, value: float) -> None:
    series = np.cumsum(np.random.default_rng(1).normal(size=50))
    other = np.cumsum(np.random.default_rng(2).normal(size=50))
    series[position] = value
    for lag in (1, AIC):
        assert math.isnan(adf(series, lag).statistic)
        assert math.isnan(coint(series, other, lag).statistic)
        assert math.isnan(coint(other, series, lag).statistic)
    assert np.isnan([*johansen(series, other).trace, *johansen(other, series).trace]).all()
    assert np.isnan([half_life(series), hurst(series), *variance_ratio(series, 2)]).all()


NOTHING_TO_TEST = {
    "empty": np.empty(0),
    "short": np.array([1.0, 3.0, 2.0]),
    "constant": np.full(100, 60_000.01),
    "straight line": 0.1 * np.arange(100),
    "exact decay": 0.5 ** np.arange(40.0),
    "NaN": np.r_[np.random.default_rng(1).normal(size=50), np.nan],
    "infinity": np.r_[-np.inf, np.random.default_rng(1).normal(size=50)],
}


@pytest.mark.parametrize("trend", ["c", "ct"])
@pytest.mark.parametrize("lag", [0, 1, AIC, BIC])
@pytest.mark.parametrize("case", NOTHING_TO_TEST)
def test_a_series_with_nothing_to_test_is_nan(case: str, lag: int, trend: Trend) -> None:
    series = NOTHING_TO_TEST[case]
    nothing = adf(series, lag, trend)
    assert np.isnan([nothing.statistic, nothing.p_value, *nothing.critical_values]).all()
    assert math.isnan(coint(series, series, lag, trend).statistic)
    assert math.isnan(coint(series, -3 * series, lag, trend).statistic)
    assert np.isnan(johansen(series, 2 * series).trace).all()


def test_the_shortest_series_are_those_documented() -> None:
    series = np.random.default_rng(2).normal(size=30)

    def shortest(defined: Callable[[Floats], float]) -> int:
        return next(n for n in range(31) if not math.isnan(defined(series[:n])))

    for trend, least in zip(TRENDS, (3, 4, 6)):
        for lag in range(4):
            test = partial(adf, lag=lag, trend=trend)
            assert shortest(lambda part, test=test: test(part).statistic) == 2 * lag + least  # type: ignore[misc]
    assert shortest(half_life) == 4
    assert shortest(hurst) == 12
    assert shortest(lambda part: variance_ratio(part, 3).ratio) == 7
    assert shortest(lambda part: johansen(part, part**2, 1).trace[0]) == 9
    assert shortest(lambda part: johansen(part, part**2, 2).trace[0]) == 12


def test_series_may_be_of_any_kind_that_numpy_reads() -> None:
    walk = np.cumsum(np.random.default_rng(6).normal(size=(3, 100)), axis=1).round(2)
    expected = adf(walk[0], 1)
    frozen = walk.copy()
    frozen.flags.writeable = False
    for series in (walk[0].tolist(), tuple(walk[0]), frozen[0], np.repeat(walk[0], 2)[::2]):
        assert adf(series, 1) == expected
    assert adf(np.arange(100) ** 2 % 7, 1).lag == 1
    assert np.array_equal(engle_granger_all(frozen), engle_granger_all(walk), equal_nan=True)
    assert np.array_equal(engle_granger_all(np.asfortranarray(walk)), engle_granger_all(walk), equal_nan=True)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: adf(np.ones((2, 2))), "series must have 1 dimension, not 2"),
        (lambda: adf(np.ones(9), -3), r"lag must be .*, AIC \(-1\) or BIC \(-2\), not -3"),
        (lambda: adf(np.ones(9), 1, "ctt"), "trend must be one of n, c, ct, not 'ctt'"),  # type: ignore[arg-type]
        (lambda: adf(np.ones(9), AIC, "c", -1), "max_lag must not be negative, not -1"),
        (lambda: coint(np.ones(9), np.ones(8)), "must have the same length, not 9 and 8"),
        (lambda: engle_granger_all(np.ones(9)), "values must have 2 dimensions, not 1"),
    ],
)
def test_a_wrong_argument_is_named(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
