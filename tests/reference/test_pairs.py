"""Statistics of pairs, judged by statsmodels, scipy, exact arithmetic, textbooks and by hand."""

from collections.abc import Callable
from math import inf, isnan, log
from typing import Any

import numpy as np
import polars as pl
import pytest
import statsmodels.api as sm
from numpy.typing import NDArray
from scipy import stats

from kernels.records import SECOND, Block
from tests.reference import unit_roots
from tests.reference.exact import Sums
from tests.reference.hedge_ratios import Line, Observations, kalman, ols, rls, tls
from tests.reference.pairs import Leg, PairSettings, pair_rows
from tests.reference.tables import ReferenceSettings, tables
from tests.support.regimes import REGIMES, exact

Floats = NDArray[np.float64]


def leg(prices: Any, place: Any = None, provisional: Any = ()) -> Leg:
    """A leg with a bar at each place, 0, 1, .. by default; some of them provisional."""
    place = np.arange(len(prices)) if place is None else np.array(place)
    return Leg(place, np.array(prices, np.float64), np.isin(place, list(provisional)))


def rows(y: Leg, x: Leg, *, ticks: bool = False, **changes: Any) -> pl.DataFrame:
    """Statistics of a pair, by default ols over windows of 60."""
    settings = PairSettings((60,), 20, ("ols",), log_prices=False, adf_lag=1, kalman_q=None, kalman_r=1e-6)
    return pair_rows(y, x, settings._replace(**changes), ticks=ticks)


def near(found: float, right: float, relative: float = 1e-9) -> bool:
    return abs(found - right) <= relative * abs(right) or (isnan(found) and isnan(right)) or found == right


@pytest.fixture(scope="module")
def walk(recorded: Callable[[str], Block]) -> tuple[Floats, Floats]:
    """Closes of ETH and BTC in each second of the recording."""
    trades = recorded("usdm")
    settings = ReferenceSettings(("B", "E"), (), (SECOND,), (3,), int(trades["time"].max()))
    bars = tables(trades, settings).bars
    legs = [bars.filter(symbol=symbol).select("open_time", pl.col("close").alias(symbol)) for symbol in "EB"]
    both = legs[0].join(legs[1], on="open_time")
    return both["E"].to_numpy(), both["B"].to_numpy()


def test_ols_is_that_of_statsmodels(walk: tuple[Floats, Floats]) -> None:
    y, x = walk
    found = rows(leg(y), leg(x), windows=(60, 300))
    for window in (60, 300):
        table = found.filter(window=window)
        for k in (2, 59, 60, 150, 330):
            row = table.row(k, named=True)
            begin = max(k - window + 1, 0)
            # Regressed about their first values: statsmodels' digits are enough there.
            y0, x0 = y[begin], x[begin]
            fit = sm.OLS(y[begin : k + 1] - y0, sm.add_constant(x[begin : k + 1] - x0)).fit()
            alpha, beta = fit.params
            assert near(row["hedge_ratio"], beta)
            assert near(row["intercept"], alpha + y0 - beta * x0)
            assert near(row["hedge_ratio_stderr"], fit.bse[1])
            shift = np.array([1.0, -x0])
            assert near(row["intercept_stderr"], float(np.sqrt(shift @ fit.cov_params() @ shift)))
            assert near(row["r_squared"], fit.rsquared)
            assert row["observations"] == k + 1 - begin


def test_correlations_and_volatilities_are_those_of_scipy_and_numpy(walk: tuple[Floats, Floats]) -> None:
    y, x = walk
    found = rows(leg(y), leg(x))
    returns_y, returns_x = np.diff(np.log(y)), np.diff(np.log(x))
    for k in (100, 200, 330):
        row, window = found.row(k, named=True), slice(k - 59, k + 1)
        assert near(row["correlation"], stats.pearsonr(y[window], x[window]).statistic)
        returns = slice(k - 60, k)  # the first of them reaches back before the window
        right = stats.pearsonr(returns_y[returns], returns_x[returns]).statistic
        assert near(row["return_correlation"], right, 1e-8)
        assert near(row["volatility_y"], float(returns_y[returns].std(ddof=1)), 1e-8)
        assert near(row["volatility_x"], float(returns_x[returns].std(ddof=1)), 1e-8)


@pytest.mark.parametrize("method", ["ols", "tls", "rls", "kalman"])
def test_the_z_score_measures_the_spread_by_its_own_window_with_the_rows_hedge_ratio(
    walk: tuple[Floats, Floats], method: str
) -> None:
    y, x = walk
    found = rows(leg(y), leg(x), methods=(method,), z_window=20)
    for k in (70, 200):
        row = found.row(k, named=True)
        spreads = (y - row["hedge_ratio"] * x)[k - 19 : k + 1]
        assert near(row["spread"], spreads[-1])
        assert near(row["spread_mean"], float(spreads.mean()))
        assert near(row["spread_std"], float(spreads.std()))
        assert near(row["z_score"], float((spreads[-1] - spreads.mean()) / spreads.std()))
    if method == "ols":
        assert found["z_score"].is_nan().to_list()[:20] == [True] * 19 + [False]
        assert found["spread"].is_nan().to_list()[:4] == [True, True, False, False]


@pytest.mark.parametrize("regime", REGIMES)
def test_statistics_keep_their_digits_in_hard_regimes(regime: str) -> None:
    y, x = REGIMES[regime](600, np.random.default_rng(5))
    found = rows(leg(y), leg(x), windows=(50,))
    for k in range(60, 600, 7):
        right = exact(y[k - 49 : k + 1], x[k - 49 : k + 1], y[k - 19 : k + 1], x[k - 19 : k + 1])
        row = found.row(k, named=True)
        if "hedge_ratio" not in right:
            assert isnan(row["hedge_ratio"])
        for name, value in right.items():
            if name in row:
                assert near(row[name], float(value), 1e-14), (k, name)


def test_total_least_squares_is_the_first_singular_vector(walk: tuple[Floats, Floats]) -> None:
    y, x = walk
    for scale in (1.0, 40.0, -7.0):  # y moves less than x, more, and against it
        for begin in (0, 100, 250):
            ys, xs = scale * y[begin : begin + 60], x[begin : begin + 60]
            line = tls(Sums(ys, xs).over(0, 60))
            assert line is not None
            centred = np.column_stack([xs - xs.mean(), ys - ys.mean()])
            direction = np.linalg.svd(centred)[2][0]
            assert near(float(line.beta), direction[1] / direction[0])
            assert near(line.intercept, ys.mean() - float(line.beta) * xs.mean())


def test_total_least_squares_has_no_hedge_ratio_on_a_vertical_line() -> None:
    square = Sums([0, 1, 0, 1], [0, 0, 1, 1]).over(0, 4)
    tall = Sums([0, 5, 0, 5], [0, 0, 1, 1]).over(0, 4)
    flat = Sums([0, 1, 0, 1], [0, 0, 5, 5]).over(0, 4)
    assert tls(square) is None
    assert tls(tall) is None
    line = tls(flat)
    assert line is not None
    assert (float(line.beta), line.intercept) == (0.0, 0.5)


PLACES = [0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 20, 21, 22, 23, 24, 25, 26, 60, 61, 62]
"""Complete observations, and incomplete ones between."""


def observations(walk: tuple[Floats, Floats]) -> tuple[Observations, Floats, Floats]:
    y, x = (values[::5][: len(PLACES)] for values in walk)
    return Observations(PLACES, Sums(y, x)), y, x


def test_rls_is_weighted_least_squares_of_statsmodels(walk: tuple[Floats, Floats]) -> None:
    given, y, x = observations(walk)
    window = 8
    found = rls(given, window)
    assert found[:2] == [None, None]
    for k in range(2, len(PLACES)):
        line = found[k]
        assert line is not None
        weights = (1 - 1 / window) ** (PLACES[k] - np.array(PLACES[: k + 1]))
        fit = sm.WLS(y[: k + 1] - y[k], sm.add_constant(x[: k + 1] - x[k]), weights).fit()
        assert near(float(line.beta), fit.params[1])
        assert near(line.intercept, fit.params[0] + y[k] - fit.params[1] * x[k])


@pytest.mark.parametrize("q", [None, 1e-7])
def test_kalman_is_the_textbooks_filter(walk: tuple[Floats, Floats], q: float | None) -> None:
    given, y, x = observations(walk)
    window, r = 8, 1e-6
    found = kalman(given, window, q, r)
    assert found[: window - 1] == [None] * (window - 1)
    u, v = (x - x[0]) / abs(x[0]), (y - y[0]) / abs(y[0])
    h = sm.add_constant(u)
    fit = sm.OLS(v[:window], h[:window]).fit()
    state, covariance = fit.params, r * fit.normalized_cov_params
    step = (r / window**2 if q is None else q) * np.eye(2)
    k = window - 1
    for place in range(PLACES[window - 1], PLACES[-1] + 1):
        if place > PLACES[window - 1]:
            covariance = covariance + step  # predict
        if place in PLACES and place > PLACES[window - 1]:
            k += 1
            gain = covariance @ h[k] / (h[k] @ covariance @ h[k] + r)
            state = state + gain * (v[k] - h[k] @ state)
            left = np.eye(2) - np.outer(gain, h[k])
            covariance = left @ covariance @ left.T + r * np.outer(gain, gain)  # Joseph
        if place in PLACES:
            line = found[k]
            assert line is not None
            beta = state[1] * y[0] / x[0]
            assert near(float(line.beta), beta, 1e-8)
            assert near(line.intercept, y[0] + y[0] * state[0] - beta * x[0], 1e-8)


def test_kalman_waits_for_an_x_that_moves() -> None:
    x = [5.0] * 6 + [6.0, 6.5]
    y = [1.0, 2.0, 1.0, 2.0, 1.0, 2.0, 3.0, 2.5]
    found = kalman(Observations(list(range(8)), Sums(y, x)), 4, None, 1e-6)
    assert [line is None for line in found] == [True] * 6 + [False] * 2
    start = ols(Sums(y, x).over(0, 7))
    assert start is not None
    assert found[6] is not None
    assert near(float(found[6].beta), float(start.beta))
    assert near(found[6].intercept, start.intercept)


def test_kalman_has_unit_1_where_the_first_value_is_0() -> None:
    y, x = [0.0, 0.5, 0.4, 1.0], [0.0, 1.0, 2.0, 3.0]
    found = kalman(Observations([0, 1, 2, 3], Sums(y, x)), 4, None, 1e-6)[3]
    right = ols(Sums(y, x).over(0, 4))
    assert found is not None
    assert right is not None
    assert near(float(found.beta), float(right.beta))


def shifted(values: Floats) -> tuple[unit_roots.Values, unit_roots.Values]:
    """Windows as the functions take them, one that is hardly noisy."""
    windows = values.astype(np.longdouble)
    windows = windows - windows[:, -1:]
    return windows, np.full(len(windows), np.longdouble(1e-18))


def windows_of(walk: tuple[Floats, Floats], length: int) -> Floats:
    """Spreads of real prices, random walks, and noise."""
    rng = np.random.default_rng(1)
    spreads = walk[0] - 0.03 * walk[1]
    real = [spreads[begin : begin + length] for begin in (0, 40, len(spreads) - length)]
    made = [np.cumsum(rng.normal(size=length)), rng.normal(size=length), np.cumsum(rng.standard_t(3, length))]
    return np.array([*real, *made])


@pytest.mark.parametrize("lag", [0, 1, 4, "aic", "bic"])
@pytest.mark.parametrize("length", [12, 60, 250])
def test_adf_is_that_of_statsmodels(walk: tuple[Floats, Floats], length: int, lag: int | str) -> None:
    values = windows_of(walk, length)
    found = unit_roots.adf(*shifted(values), lag, residuals=False)
    options: dict[str, Any] = {"autolag": lag} if isinstance(lag, str) else {"maxlag": lag, "autolag": None}
    for k, window in enumerate(values):
        right = sm.tsa.adfuller(window - window[-1], result_object=True, **options)
        assert near(found.statistic[k], right.statistic)
        assert near(found.p_value[k], right.pvalue)
        assert found.lag[k] == right.lags


@pytest.mark.parametrize("lag", [0, 1, 3, "aic", "bic"])
def test_cointegration_is_that_of_statsmodels(walk: tuple[Floats, Floats], lag: int | str) -> None:
    y, x = walk
    found = rows(leg(y), leg(x), methods=("tls", "ols"), adf_lag=lag)
    options: dict[str, Any] = {"autolag": lag} if isinstance(lag, str) else {"maxlag": lag, "autolag": None}
    for k in (59, 60, 200, 330):
        window = slice(k - 59, k + 1)
        right = sm.tsa.coint(y[window] - y[k], x[window] - x[k], trend="c", return_results=False, **options)
        for method in ("tls", "ols"):
            row = found.filter(method=method).row(k, named=True)
            assert near(row["coint_statistic"], right[0])
            assert near(row["coint_p_value"], right[1])
    early = found.filter(method="ols")["coint_statistic"]
    assert early.is_nan().to_list()[:60] == [True] * 59 + [False]


def test_cointegration_of_nearly_collinear_legs_is_still_that_of_the_residuals() -> None:
    """Statsmodels' coint returns -inf where R2 is above 1 - 1.5e-6; its own parts do not."""
    y, x = REGIMES["nearly collinear legs"](120, np.random.default_rng(2))
    y, x = y - y[-1], x - x[-1]
    right = sm.tsa.adfuller(sm.OLS(y, sm.add_constant(x)).fit().resid, 1, "n", None, result_object=True)
    found = rows(leg(y + 50_000), leg(x + 60_000), windows=(120,)).row(-1, named=True)
    assert near(
        found["coint_statistic"], right.statistic, 1e-4
    )  # the residuals of statsmodels have few digits


def test_a_lag_that_statsmodels_refuses_has_no_statistic(walk: tuple[Floats, Floats]) -> None:
    values = windows_of(walk, 12)
    for lag, residuals, refused in ((4, False, False), (5, False, True), (4, True, False), (6, True, True)):
        found = unit_roots.adf(*shifted(values), lag, residuals=residuals)
        assert np.isnan(found.statistic).all() == refused
        assert np.isnan(found.lag).all() == refused
        regression = "n" if residuals else "c"
        if refused:
            with pytest.raises(ValueError, match="maxlag"):
                sm.tsa.adfuller(values[0], lag, regression, None, result_object=True)


def test_one_in_seven_adf_tests_of_independent_walks_is_below_five_percent() -> None:
    """What docs/statistics.md says of a hedge ratio that is estimated; and 6.3 % by Engle and Granger's."""
    rng = np.random.default_rng(3)
    found = []
    for _ in range(400):
        y, x = (100 + np.cumsum(rng.normal(size=60)) for _ in range(2))
        found.append(rows(leg(y), leg(x)).row(-1, named=True))
    adf = np.mean([row["adf_p_value"] < 0.05 for row in found])
    coint = np.mean([row["coint_p_value"] < 0.05 for row in found])
    assert 0.09 < adf < 0.20
    assert 0.03 < coint < 0.10


@pytest.mark.parametrize(
    ("phi", "bars"),
    [(0.5, 1.0), (-0.5, 1.0), (0.9, log(0.5) / log(0.9)), (1.0, inf), (-1.0, inf), (1.25, inf)],
)
def test_half_life_is_exact_for_an_ar_1_process(phi: float, bars: float) -> None:
    series = [1.0]
    for _ in range(20):
        series.append(phi * series[-1] + 0.25)
    windows, noise = shifted(np.array([series]))
    assert near(float(unit_roots.half_life(windows, noise)[0]), bars)


def test_half_life_is_0_where_nothing_is_remembered_and_nan_where_the_level_is_constant() -> None:
    # Of the first, 0 and 1 come before 0 and before 1 equally often.
    found = unit_roots.half_life(*shifted(np.array([[0.0, 0.0, 1.0, 1.0, 0.0], [2.0, 2.0, 2.0, 2.0, 3.0]])))
    assert found[0] == 0
    assert isnan(found[1])


def test_hurst_has_the_bands_of_a_random_walk() -> None:
    rng = np.random.default_rng(4)
    for w, mean, low, high in ((60, 0.47, 0.26, 0.66), (300, 0.49, 0.39, 0.58)):
        found = unit_roots.hurst(*shifted(np.cumsum(rng.normal(size=(4_000, w)), axis=1)))
        assert found.mean() == pytest.approx(mean, abs=0.01)
        assert np.quantile(found, [0.05, 0.95]) == pytest.approx([low, high], abs=0.015)
    assert np.isnan(unit_roots.hurst(*shifted(rng.normal(size=(1, 11))))).all(), "fewer than 3 periods"
    assert not np.isnan(unit_roots.hurst(*shifted(rng.normal(size=(1, 12))))).any()


def test_variance_ratio_is_lo_and_mackinlays() -> None:
    """Equations 12 to 19 of Lo and MacKinlay (1988), term by term, with q = 2."""
    series = np.cumsum(np.random.default_rng(6).normal(size=30))
    t_last, q = 29, 2
    mu = (series[t_last] - series[0]) / t_last
    sigma_a = sum((series[t] - series[t - 1] - mu) ** 2 for t in range(1, 30)) / (t_last - 1)
    m = q * (t_last - q + 1) * (1 - q / t_last)
    sigma_c = sum((series[t] - series[t - q] - q * mu) ** 2 for t in range(q, 30)) / m
    top = sum(
        (series[t] - series[t - 1] - mu) ** 2 * (series[t - 1] - series[t - 2] - mu) ** 2
        for t in range(2, 30)
    )
    delta = t_last * top / (sigma_a * (t_last - 1)) ** 2
    ratio, z = unit_roots.variance_ratio(*shifted(series[None]))
    assert near(ratio[0], sigma_c / sigma_a)
    assert near(z[0], t_last**0.5 * (sigma_c / sigma_a - 1) / delta**0.5)


def test_the_robust_statistic_is_standard_normal_on_a_walk_of_changing_variance() -> None:
    rng = np.random.default_rng(7)
    loud = np.where(np.arange(500) % 100 < 20, 5.0, 1.0)
    _, z = unit_roots.variance_ratio(*shifted(np.cumsum(rng.normal(size=(3_000, 500)) * loud, axis=1)))
    assert z.mean() == pytest.approx(0, abs=0.08)
    assert z.std() == pytest.approx(1, abs=0.06)


UNIT_ROOTS = [
    "adf_statistic",
    "adf_p_value",
    "adf_lag",
    "half_life",
    "hurst",
    "variance_ratio",
    "variance_ratio_z",
]


def test_a_constant_spread_has_no_z_score_and_no_unit_root() -> None:
    """Three times a decimal is not three times its double: the last digits are no moves of a spread."""
    x = [100.1, 100.2, 100.4, 100.3, 100.7] * 6
    y = [300.3, 300.6, 301.2, 300.9, 302.1] * 6
    assert any(b != 3 * a for a, b in zip(x, y))
    found = rows(leg(y), leg(x), windows=(20,), methods=("ols", "tls", "rls", "kalman"), z_window=10)
    last = found.filter(place=29)
    assert last["hedge_ratio"].to_list() == pytest.approx([3.0] * 4, rel=1e-6)
    for method in ("ols", "tls", "rls"):
        row = last.row(by_predicate=pl.col("method") == method, named=True)
        assert [name for name in ("z_score", "coint_statistic", *UNIT_ROOTS) if not isnan(row[name])] == []
        assert row["spread_std"] == pytest.approx(0, abs=1e-12)


def test_ticks_have_no_unit_roots(walk: tuple[Floats, Floats]) -> None:
    row = rows(leg(walk[0]), leg(walk[1]), ticks=True).row(-1, named=True)
    assert [name for name in ("coint_statistic", "coint_p_value", *UNIT_ROOTS) if not isnan(row[name])] == []
    assert not isnan(row["z_score"])


def test_a_statistic_that_is_not_defined_is_nan() -> None:
    still, moving = [5.0] * 10, [1.0, 2.0, 4.0, 3.0, 5.0] * 2
    row = rows(leg(moving), leg(still), windows=(8,), z_window=4).row(-1, named=True)
    for name in ("hedge_ratio", "intercept", "spread", "z_score", "correlation", "return_correlation"):
        assert isnan(row[name]), name
    assert row["volatility_x"] == 0
    row = rows(leg(still), leg(moving), windows=(8,), z_window=4).row(-1, named=True)
    assert row["hedge_ratio"] == 0
    assert isnan(row["r_squared"])
    assert isnan(row["z_score"])
    short = rows(leg(moving), leg(moving[::-1]), windows=(8,), z_window=4)
    assert short["volatility_y"].is_nan().to_list()[:4] == [True, True, False, False]
    assert short["return_correlation"].is_nan().to_list()[:5] == [True, True, True, False, False]
    assert short["correlation"].is_nan().to_list()[:4] == [True, True, False, False]


def test_an_incomplete_observation_takes_its_place_in_the_window() -> None:
    y = leg([1.0, 2.0, 4.0, 3.0, 5.0, 7.5, 6.0], [10, 11, 12, 13, 15, 16, 17])
    x = leg([2.0, 3.0, 3.0, 5.0, 4.0, 6.0, 7.0, 9.0], [9, 11, 12, 13, 14, 15, 16, 17])
    found = rows(y, x, windows=(4,), z_window=4)
    assert found["place"].to_list() == [11, 12, 13, 15, 16, 17]
    assert found["observations"].to_list() == [1, 2, 3, 3, 3, 3]
    assert found["z_score"].is_nan().to_list() == [True, True, True, False, False, False], "four places"
    row = found.row(3, named=True)
    right = ols(Sums([4.0, 3.0, 5.0], [3.0, 5.0, 6.0]).over(0, 3))
    assert isinstance(right, Line)
    assert row["hedge_ratio"] == float(right.beta)
    spreads = np.array([4.0, 3.0, 5.0]) - row["hedge_ratio"] * np.array([3.0, 5.0, 6.0])
    assert near(row["spread_mean"], float(spreads.mean()))
    assert near(row["spread_std"], float(spreads.std()))
    # Returns of y at 12, 13; of x at 12, 13, 14, 15; of both at 12, 13 alone.
    assert near(row["volatility_y"], float(np.std(np.log([2.0, 0.75]), ddof=1)))
    assert near(row["volatility_x"], float(np.std(np.log([1.0, 5 / 3, 4 / 5, 6 / 4]), ddof=1)))
    assert isnan(row["return_correlation"])


def test_a_row_is_provisional_where_it_rests_on_a_provisional_bar() -> None:
    y, x = leg(np.arange(1.0, 21.0), provisional=[4]), leg(np.arange(1.0, 21.0) ** 2, provisional=[12])
    for window, z in ((3, 2), (2, 3)):
        found = rows(y, x, windows=(window,), z_window=z)
        assert found.filter("provisional")["place"].to_list() == [4, 5, 6, 7, 12, 13, 14, 15]


def test_log_prices_are_regressed_as_logarithms(walk: tuple[Floats, Floats]) -> None:
    y, x = walk
    found = rows(leg(y), leg(x), log_prices=True).row(100, named=True)
    right = rows(leg(np.log(y)), leg(np.log(x))).row(100, named=True)
    same = ("hedge_ratio", "intercept", "z_score", "correlation", "adf_statistic", "coint_statistic", "hurst")
    assert [name for name in same if not near(found[name], right[name])] == []
    assert (found["price_y"], found["price_x"]) == (y[100], x[100])
    assert found["volatility_y"] == rows(leg(y), leg(x)).row(100, named=True)["volatility_y"]
