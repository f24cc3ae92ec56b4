"""Unit-root statistics, by the section "Unit roots and cointegration" of docs/statistics.md.

Every function takes many windows at once: an array with a window in each row, and in `noise` how far the
values of each window are known. Values are long doubles from which the last one of their window was
subtracted, as no statistic changes when a constant is added: statsmodels' own functions lose digits where the
spread is large beside its changes. That is one reason why they are not called here. The other is that they
take 300 us a window. The tests compare with them.

Where a regression has no statistic (its regressors are collinear, it fits perfectly, or it has too few
observations), the result is NaN.
"""

from math import ceil, log, nan
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from statsmodels.tsa.adfvalues import mackinnonp

Values = NDArray[np.longdouble]

SLACK = 10
"""Regressions mix several values: what is left of a column counts above so many times their noise."""


class UnitRoot(NamedTuple):
    """An augmented Dickey-Fuller test of each window.

    :arg smallest: What the accuracy of the statistic rests on: the deviation of the residuals, or what is
        left of a regressor when the others are taken out of it, whichever is the least.
    """

    statistic: NDArray[np.float64]
    p_value: NDArray[np.float64]
    lag: NDArray[np.float64]
    smallest: NDArray[np.float64]


def adf(windows: Values, noise: Values, lag: int | str, *, residuals: bool) -> UnitRoot:
    """Test for a unit root by an augmented Dickey-Fuller regression.

    :arg lag: Lag; "aic" or "bic" to choose the lag with the least of that criterion.
    :arg residuals: True: windows are residuals of a regression of two variables (Engle and Granger: no
        constant, and MacKinnon's p-value for two variables); False: a constant, and the p-value for one
        variable.
    """
    rows, w = windows.shape
    if residuals:  # without a constant the level matters, and residuals have mean 0
        windows = windows - windows.mean(axis=1, keepdims=True)
    trend = 0 if residuals else 1
    longest = w // 2 - trend - 1  # as statsmodels
    if isinstance(lag, str):
        longest = min(longest, ceil(12 * (w / 100) ** 0.25))
        lags = _choose_lags(windows, noise, longest, lag, constant=not residuals)
    else:
        lags = np.full(rows, lag if lag <= longest else -1)
    statistic, smallest = np.full(rows, nan), np.full(rows, nan)
    for used in np.unique(lags[lags >= 0]):
        chosen = lags == used
        regression = _dickey_fuller(windows[chosen], noise[chosen], int(used), constant=not residuals)
        statistic[chosen], smallest[chosen] = regression.t, regression.smallest
    p_value = [mackinnonp(t, "c", N=2 if residuals else 1) if t == t else nan for t in statistic.tolist()]
    return UnitRoot(statistic, np.array(p_value), np.where(np.isnan(statistic), nan, lags), smallest)


def half_life(windows: Values, noise: Values) -> NDArray[np.float64]:
    """Return the half-life of the AR(1) process that fits each window best, in bars."""
    before, change = windows[:, :-1], np.diff(windows, axis=1)
    before = _above(before - before.mean(axis=1, keepdims=True), noise)
    squares = (before**2).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        phi = np.abs(1 + (before * change).sum(axis=1) / squares)
        result = np.where(phi >= 1, np.inf, np.log(np.longdouble(0.5)) / np.log(phi))
    result[phi == 0] = 0
    result[np.isnan(phi)] = nan
    return result.astype(float)


def hurst(windows: Values, noise: Values) -> NDArray[np.float64]:
    """Return half the slope of log V(k) on log k; NaN where a V(k) is 0."""
    rows, w = windows.shape
    periods = np.arange(1, min(20, w // 4) + 1)
    if len(periods) < 3:
        return np.full(rows, nan)
    with np.errstate(divide="ignore"):
        logs = np.log(np.column_stack([_variance(windows, noise, int(k)) for k in periods]))
    k = np.log(periods.astype(np.longdouble))
    k -= k.mean()
    with np.errstate(invalid="ignore"):
        slope = (logs * k).sum(axis=1) / (k**2).sum()
    return np.where(np.isfinite(logs).all(axis=1), slope / 2, nan).astype(float)


def variance_ratio(windows: Values, noise: Values) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return Lo and MacKinlay's ratio with period 2, and its statistic robust against heteroskedasticity."""
    changes = np.diff(windows, axis=1)
    n = changes.shape[1]
    deviations = _above(changes - changes.mean(axis=1, keepdims=True), noise)
    squares = deviations**2
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = _variance(windows, noise, 2) / (2 * _variance(windows, noise, 1))
        # theta is the sum over lags j < 2 of (2 (2 - j) / 2)**2 delta_j: delta_1 alone.
        theta = n * (squares[:, 1:] * squares[:, :-1]).sum(axis=1) / squares.sum(axis=1) ** 2
        z = np.sqrt(np.longdouble(n)) * (ratio - 1) / np.sqrt(theta)
    ratio[~np.isfinite(ratio)] = nan
    z[~np.isfinite(z)] = nan
    return ratio.astype(float), z.astype(float)


class _Regression(NamedTuple):
    t: NDArray[np.float64]  # t of the lagged level; NaN where there is none
    squares: Values  # sum of squared residuals; NaN where there is no t
    smallest: NDArray[np.float64]  # as in UnitRoot


def _dickey_fuller(windows: Values, noise: Values, lag: int, *, constant: bool, skip: int = 0) -> _Regression:
    """Regress changes on the level before, and on `lag` changes before, from change `lag + skip` on."""
    changes = np.diff(windows, axis=1)
    first = lag + skip
    n = changes.shape[1] - first
    target = changes[:, first:]
    columns = [changes[:, first - j : first - j + n] for j in range(1, lag + 1)]
    columns.append(windows[:, first:-1])  # the level last: the others are taken out of it
    if constant:  # the same as a column of ones (Frisch and Waugh)
        target, *columns = (values - values.mean(axis=1, keepdims=True) for values in (target, *columns))
    degrees = n - len(columns) - constant
    lengths = []
    basis: list[Values] = []
    for column in columns:
        left = _without(basis, _without(basis, column))  # twice, as once leaves rounding errors
        length = np.sqrt((left**2).sum(axis=1))
        lengths.append(length)
        basis.append(left / np.where(length > 0, length, 1)[:, None])
    residuals = _without(basis, _without(basis, target))
    squares = (residuals**2).sum(axis=1)
    smallest = np.min([*lengths, np.sqrt(squares)], axis=0) / np.sqrt(np.longdouble(max(n, 1)))
    defined = (smallest > SLACK * noise) & (degrees > 0)
    squares = np.where(defined, squares, nan)
    t = (basis[-1] * target).sum(axis=1) / np.sqrt(squares / max(degrees, 1))
    return _Regression(t.astype(float), squares, smallest.astype(float))


def _without(basis: list[Values], column: Values) -> Values:
    """Take from each row its projection on orthogonal unit vectors."""
    for unit in basis:
        column = column - (unit * column).sum(axis=1, keepdims=True) * unit
    return column


def _choose_lags(
    windows: Values, noise: Values, longest: int, criterion: str, *, constant: bool
) -> NDArray[np.int64]:
    """Return the lag with the least criterion, from the observations that every lag has; -1 where there is
    none.

    A lag whose regression has no statistic is not chosen.
    """
    n = windows.shape[1] - 1 - longest
    if longest < 0:
        return np.full(len(windows), -1)
    price = {"aic": 2.0, "bic": log(n)}[criterion]
    criteria = []
    for lag in range(longest + 1):
        squares = _dickey_fuller(windows, noise, lag, constant=constant, skip=longest - lag).squares
        criteria.append(n * np.log(squares / n) + price * (1 + lag + constant))
    table = np.column_stack(criteria)
    table = np.where(np.isnan(table), np.inf, table)
    return np.where(np.isfinite(table).any(axis=1), table.argmin(axis=1), -1)


def _variance(windows: Values, noise: Values, k: int) -> Values:
    """Return V(k), the unbiased variance of changes over k bars (Lo and MacKinlay 1988)."""
    n = windows.shape[1] - 1
    if n < k or n < 2:
        return np.full(len(windows), np.longdouble(nan))
    drift = (windows[:, -1:] - windows[:, :1]) / n
    changes = _above(windows[:, k:] - windows[:, :-k] - k * drift, noise)
    return np.asarray((changes**2).sum(axis=1) / ((n - k + 1) * (1 - np.longdouble(k) / n)))


def _above(values: Values, noise: Values) -> Values:
    """Set to 0 what is no larger than the noise of its window."""
    return np.where(np.abs(values) <= SLACK * noise[:, None], 0, values)
