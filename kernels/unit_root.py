"""Unit-root, cointegration and mean-reversion statistics of a series, a pair, or every pair of a bar.

    adf(spread, AIC)                 # augmented Dickey-Fuller; equals statsmodels' adfuller
    coint(y, x)                      # Engle-Granger; equals statsmodels' coint
    half_life(spread), hurst(spread), variance_ratio(spread, 2)
    fill_stationarity(closes, step, y, x, windows, 1, rows)

A statistic that is not defined is NaN: of a series that is too short, constant, exactly predictable, or holds
NaN or infinity. Nothing here raises for what a market can send.

Regressions run on a Gram matrix, whose lagged columns share their sums, factored by Cholesky. Where a pivot
shows that more than four digits would cancel, the same regression is done by orthogonalising its columns,
which loses no more than the data's own condition.
"""

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, NamedTuple, TypeVar, cast

import numpy as np
from numba import float64, from_dtype, int32, int64, njit, void
from numpy.typing import ArrayLike, NDArray

from kernels.compile import kernel
from kernels.records import METRIC, Block

Floats = NDArray[np.float64]
Trend = Literal["n", "c", "ct"]
F = TypeVar("F", bound=Callable[..., Any])

AIC = -1
"""As ``lag``: choose the lag by Akaike's criterion."""
BIC = -2
"""As ``lag``: choose the lag by Schwarz's criterion."""

HURST_LAGS = 20
VARIANCE_RATIO_PERIOD = 2

_TRENDS = {"n": 0, "c": 1, "ct": 2}
_SAFE = 1e-4  # share of a column that must survive elimination for the Gram matrix to be trusted
_EPSILON = float(np.finfo(np.float64).eps)

# MacKinnon (1994), Journal of Business & Economic Statistics 12(2), 167-176, tables 3 and 4: the p-value is
# Phi(polynomial in tau), one polynomial up to _TAU_STAR and another above. Axes: trend n, c, ct; one or two
# variables.
_TAU_MIN = np.array([[-19.04, -19.62], [-18.83, -18.86], [-16.18, -21.15]])
_TAU_STAR = np.array([[-1.04, -1.53], [-1.61, -2.62], [-2.89, -3.19]])
_TAU_MAX = np.array([[np.inf, 1.51], [2.74, 0.92], [0.7, 0.63]])
_TAU_SMALL = np.array(
    [
        [[0.6344, 1.2378, 0.032496], [1.9129, 1.3857, 0.035322]],
        [[2.1659, 1.4412, 0.038269], [2.92, 1.5012, 0.039796]],
        [[3.2512, 1.6047, 0.049588], [3.6646, 1.5419, 0.036448]],
    ]
)
_TAU_LARGE = np.array(
    [
        [[0.4797, 0.93557, -0.06999, 0.033066], [1.5578, 0.8558, -0.2083, -0.033549]],
        [[1.7339, 0.93202, -0.12745, -0.010368], [2.1945, 0.64695, -0.29198, -0.042377]],
        [[2.5261, 0.61654, -0.37956, -0.060285], [2.85, 0.5272, -0.36622, -0.051695]],
    ]
)
# MacKinnon (2010), Queen's Economics Department Working Paper 1227, tables 1 to 3: critical values at 1, 5
# and 10 % as polynomials in 1 / observations. Two variables without a constant have none.
_CRITICAL = np.array(
    [
        [
            [
                [-2.56574, -2.2358, -3.627, 0.0],
                [-1.941, -0.2686, -3.365, 31.223],
                [-1.61682, 0.2656, -2.714, 25.364],
            ],
            [[np.nan] * 4] * 3,
        ],
        [
            [
                [-3.43035, -6.5393, -16.786, -79.433],
                [-2.86154, -2.8903, -4.234, -40.04],
                [-2.56677, -1.5384, -2.809, 0.0],
            ],
            [
                [-3.89644, -10.9519, -33.527, 0.0],
                [-3.33613, -6.1101, -6.823, 0.0],
                [-3.04445, -4.2412, -2.72, 0.0],
            ],
        ],
        [
            [
                [-3.95877, -9.0531, -28.428, -134.155],
                [-3.41049, -4.3904, -9.036, -45.374],
                [-3.12705, -2.5856, -3.925, -22.38],
            ],
            [
                [-4.32762, -15.4387, -35.679, 0.0],
                [-3.78057, -9.5106, -12.074, 0.0],
                [-3.49631, -7.0815, -7.538, 21.892],
            ],
        ],
    ]
)

# MacKinnon, Haug and Michelis (1999), Journal of Applied Econometrics 14(5), 563-577: at 10, 5 and 1 %, for
# two and for one common trend, with a constant.
_JOHANSEN_TRACE_CRITICAL = ((13.4294, 15.4943, 19.9349), (2.7055, 3.8415, 6.6349))
_JOHANSEN_MAX_CRITICAL = ((12.2971, 14.2639, 18.52), (2.7055, 3.8415, 6.6349))


# Reductions may be reordered into vector lanes, and a * b + c rounded once; NaN and infinity keep their
# meaning.
def _reduction(function: F) -> F:
    return cast(F, njit(nogil=True, error_model="numpy", fastmath={"reassoc", "contract"})(function))


def _helper(function: F) -> F:
    return cast(F, njit(nogil=True, error_model="numpy")(function))


@_helper
def _plain(number: int) -> int:
    """Hide a literal from numba, which compiles another copy for each: 3 s for that of a regression."""
    return number + 0  # the sum is what hides it


@_reduction
def _sum(a: Floats) -> float:
    total = 0.0
    for i in range(len(a)):
        total += a[i]
    return total


@_reduction
def _dot(a: Floats, b: Floats) -> float:
    total = 0.0
    for i in range(len(a)):
        total += a[i] * b[i]
    return total


@_reduction
def _subtract(a: Floats, factor: float, b: Floats) -> None:
    """Take factor * b from a."""
    for i in range(len(a)):
        a[i] -= factor * b[i]


@_helper
def _centre(a: Floats) -> None:
    """Subtract the mean; twice, as the mean of large values leaves its own rounding behind."""
    for _ in range(2):
        mean = _sum(a) / len(a)
        for i in range(len(a)):
            a[i] -= mean


@_helper
def _take_trend(a: Floats, clock: Floats, trend: int) -> None:
    """Subtract the mean, or mean and linear trend; `clock` is the centred time index."""
    if trend > 0:
        _centre(a)
    if trend > 1:
        for _ in range(2):
            _subtract(a, _dot(a, clock) / _dot(clock, clock), clock)
            _centre(a)


@_helper
def _middle(a: float, b: float, c: float) -> int:
    """Return which of three values is their median, 0 to 2."""
    if min(a, c) <= b <= max(a, c):
        return 1
    return 0 if min(b, c) <= a <= max(b, c) else 2


@_helper
def _typical(a: Floats) -> int:
    """Return the index of the median of first, middle and last value, so never that of a single wild one."""
    last = len(a) - 1
    return _middle(a[0], a[last // 2], a[last]) * last // 2


@_helper
def _rounding(a: Floats) -> float:
    """Return a difference of values of a series that may be nothing but their rounding."""
    return float(4.0 * _EPSILON * abs(a[_typical(a)]))


@_helper
def _fill_clock(clock: Floats) -> None:
    middle = 0.5 * (len(clock) - 1)
    for i in range(len(clock)):
        clock[i] = i - middle


@_helper
def _mackinnon_p(statistic: float, trend: int, variables: int) -> float:
    v = variables - 1
    if math.isnan(statistic):
        return np.nan
    if statistic > _TAU_MAX[trend, v]:
        return 1.0
    if statistic < _TAU_MIN[trend, v]:
        return 0.0
    if statistic <= _TAU_STAR[trend, v]:
        c = _TAU_SMALL[trend, v]
        quantile = (c[2] * statistic + c[1]) * statistic + c[0]
    else:
        c = _TAU_LARGE[trend, v]
        quantile = ((c[3] * statistic + c[2]) * statistic + c[1]) * statistic + c[0]
    return 0.5 * math.erfc(-quantile * math.sqrt(0.5))


@_helper
def _critical_value(level: int, trend: int, variables: int, observations: int) -> float:
    if observations <= 0:
        return np.nan
    c = _CRITICAL[trend, variables - 1, level]
    r = 1.0 / observations
    return float(((c[3] * r + c[2]) * r + c[1]) * r + c[0])


@_helper
def _most_lags(n: int, trend: int) -> int:
    """Largest lag that leaves degrees of freedom: statsmodels' bound."""
    return n // 2 - trend - 1


@_helper
def _default_lags(n: int, trend: int) -> int:
    """Schwert's ceil(12 (n / 100)^(1/4)), in integers, within the bound."""
    lag = 0
    while 100 * lag**4 < 20736 * n:
        lag += 1
    return min(lag, _most_lags(n, trend))


@_helper
def _scratch(n: int, lags: int) -> tuple[Floats, Floats, Floats]:
    """Room for one regression: columns (changes, level, clock), Gram matrix, steps (residual sums, ranks)."""
    size = lags + 4
    return np.empty((3, n)), np.empty((size, size)), np.empty((2, size))


@_helper
def _regress(
    x: Floats, lag: int, trend: int, at_level: int, columns: Floats, gram: Floats, steps: Floats
) -> float:
    """Regress x[t+1] - x[t] on trend terms, x[t] and `lag` earlier changes, over t = lag .. n - 2.

    Fills steps[0, j], steps[1, j] with the residual sum of squares and the rank after regressor j. Returns
    the projection of the changes on what x[t] adds to the regressors before it; NaN where it adds nothing.
    """
    m = len(x) - 1
    n = m - lag
    changes = columns[0, :m]
    level = columns[1, :n]
    clock = columns[2, :n]
    # Less a typical value, not the mean: that would carry one wild price into the last digits of all others.
    anchor = 0.0 if trend == 0 else x[lag + _typical(x[lag:m])]
    for t in range(n):
        level[t] = x[lag + t] - anchor
    if trend == 2:
        _fill_clock(clock)
        _take_trend(level, clock, trend)

    width = trend + 1 + lag
    first_lag = trend if at_level > trend else trend + 1
    if _factor(changes, level, clock, lag, trend, at_level, first_lag, gram, steps):
        return float(gram[width, at_level])

    rows = np.empty((width + 1, n))
    for t in range(n):
        if trend > 0:
            rows[0, t] = 1.0
        if trend > 1:
            rows[1, t] = clock[t]
        rows[at_level, t] = level[t]
        for i in range(1, lag + 1):
            rows[first_lag + i - 1, t] = changes[lag - i + t]
        rows[width, t] = changes[lag + t]
    return _orthogonalise(rows, at_level, steps)


@_helper
def _factor(
    changes: Floats,
    level: Floats,
    clock: Floats,
    lag: int,
    trend: int,
    at_level: int,
    first_lag: int,
    gram: Floats,
    steps: Floats,
) -> bool:
    """Factor the Gram matrix of regressors and changes; False where it cannot be trusted."""
    m = len(changes)
    n = m - lag
    width = trend + 1 + lag

    # Lagged changes are windows of one series: pairs of equal distance share the products of a common core,
    # to which each adds those before and after. Nothing is subtracted, so a wild change stays in its own
    # rows.
    for distance in range(lag + 1):
        core_end = m - lag + distance
        core = _dot(changes[lag:core_end], changes[lag - distance : core_end - distance])
        before = 0.0
        for i in range(lag - distance + 1):
            if i > 0:
                before += changes[lag - i] * changes[lag - i - distance]
            row = width if i == 0 else first_lag + i - 1
            column = first_lag + i + distance - 1 if i + distance > 0 else width
            gram[max(row, column), min(row, column)] = core + before
        after = 0.0
        for i in range(lag - distance - 1, -1, -1):
            after += changes[m - i - 1] * changes[m - i - 1 - distance]
            row = width if i == 0 else first_lag + i - 1
            column = first_lag + i + distance - 1 if i + distance > 0 else width
            gram[max(row, column), min(row, column)] += after
    gram[at_level, at_level] = _dot(level, level)
    for i in range(lag + 1):
        change = changes[lag - i : m - i]
        row = width if i == 0 else first_lag + i - 1
        gram[max(row, at_level), min(row, at_level)] = _dot(level, change)
        if trend > 0:
            gram[row, 0] = _sum(change)
        if trend > 1:
            gram[row, 1] = _dot(clock, change)
    if trend > 0:
        gram[0, 0] = n
        gram[at_level, 0] = _sum(level)
    if trend > 1:
        gram[1, 0] = 0.0
        gram[1, 1] = _dot(clock, clock)
        gram[at_level, 1] = _dot(clock, level)

    for j in range(width + 1):
        for k in range(j):
            value = gram[j, k]
            for i in range(k):
                value -= gram[j, i] * gram[k, i]
            gram[j, k] = value / gram[k, k]
        whole = gram[j, j]
        rest = whole
        for k in range(j):
            rest -= gram[j, k] * gram[j, k]
            if j == width:
                steps[0, k] = rest
                steps[1, k] = k + 1
        if not rest > _SAFE * whole:
            return False
        gram[j, j] = math.sqrt(rest)
    return True


@_helper
def _make_orthonormal(rows: Floats, j: int) -> bool:
    """Replace row j by what the rows before leave of it, at length 1; by 0, and False, if that is nothing."""
    row = rows[j]
    before = math.sqrt(_dot(row, row))
    for _ in range(2):  # "twice is enough" (Kahan): the second pass takes out the rounding of the first
        for i in range(j):
            _subtract(row, _dot(rows[i], row), rows[i])
    after = math.sqrt(_dot(row, row))
    independent = after > len(row) * _EPSILON * before
    for t in range(len(row)):
        row[t] = row[t] / after if independent else 0.0
    return independent


@_helper
def _orthogonalise(rows: Floats, at_level: int, steps: Floats) -> float:
    """Do as `_factor`, by modified Gram-Schmidt on the columns, leaving out dependent ones."""
    width = len(rows) - 1
    changes = rows[width]
    whole = math.sqrt(_dot(changes, changes))
    rank = 0
    projection = np.nan
    rest = whole * whole
    for j in range(width):
        if _make_orthonormal(rows, j):
            part = _dot(rows[j], changes)
            _subtract(changes, part, rows[j])
            rest = _dot(changes, changes)
            rank += 1
            if j == at_level:
                projection = part
        steps[0, j] = rest
        steps[1, j] = rank
    return projection if math.sqrt(rest) > len(changes) * _EPSILON * whole else np.nan


@_helper
def _adf_core(
    x: Floats, lag: int, trend: int, most: int, columns: Floats, gram: Floats, steps: Floats
) -> tuple[float, int, int]:
    """Return statistic, lag used and observations; `most` bounds the lags of AIC and BIC, -1: by default."""
    n = len(x)
    bound = _most_lags(n, trend)
    if lag < 0:
        most = _default_lags(n, trend) if most < 0 else most
    else:
        most = lag
    if most > bound or most < 0 or not math.isfinite(_sum(x)):
        return np.nan, -1, 0
    for t in range(n - 1):
        columns[0, t] = x[t + 1] - x[t]

    if lag < 0:
        _regress(x, most, trend, trend, columns, gram, steps)
        observations = n - 1 - most
        penalty = 2.0 if lag == -1 else math.log(observations)
        best = np.inf
        for i in range(most + 1):
            criterion = observations * math.log(steps[0, trend + i]) + penalty * steps[1, trend + i]
            if criterion < best:
                best = criterion
                lag = i
        if lag < 0:
            return np.nan, -1, 0
    projection = _regress(x, lag, trend, trend + lag, columns, gram, steps)
    observations = n - 1 - lag
    last = trend + lag
    freedom = observations - steps[1, last]
    if not freedom > 0:
        return np.nan, -1, 0
    statistic = projection / math.sqrt(steps[0, last] / freedom)
    if not math.isfinite(statistic) or steps[0, last] <= observations * _rounding(x) ** 2:
        return np.nan, -1, 0
    return statistic, lag, observations


@_helper
def _residuals(y: Floats, x: Floats, trend: int, out: Floats, columns: Floats) -> bool:
    """Write the residuals of Y on X and the trend terms; False where they are nothing but rounding."""
    if len(y) < 4:
        return False
    regressor = columns[0]
    partial = columns[1]  # the regressor less the trend terms
    clock = columns[2]
    anchor = _typical(x)
    anchor_y = 0.0 if trend == 0 else y[anchor]
    anchor_x = 0.0 if trend == 0 else x[anchor]
    for t in range(len(y)):
        out[t] = y[t] - anchor_y
        regressor[t] = x[t] - anchor_x
        partial[t] = regressor[t]
    if trend == 2:
        _fill_clock(clock)
    _take_trend(partial, clock, trend)
    scale = _dot(partial, partial)
    slope = 0.0
    # The second pass takes out what the rounding of the first slope left in.
    for _ in range(2):
        step = _dot(partial, out) / scale
        slope += step
        _subtract(out, step, regressor)
    _take_trend(out, clock, trend)
    rounding = 4.0 * _EPSILON * math.sqrt(_dot(y, y) + slope * slope * _dot(x, x))
    return math.sqrt(_dot(out, out)) > rounding


@_helper
def _room(n: int, lag: int, most: int) -> int:
    """Lags that the scratch of a series of `n` must hold."""
    if lag < 0:
        lag = _default_lags(n, _plain(0)) if most < 0 else most
    return max(0, min(lag, _most_lags(n, _plain(0))))


@kernel("(float64[::1], int64, int64, int64)")
def _adf(
    series: Floats, lag: int, trend: int, most: int
) -> tuple[float, float, int, int, float, float, float]:
    n = len(series)
    columns, gram, steps = _scratch(n, _room(n, lag, most))
    statistic, used, observations = _adf_core(series, lag, trend, most, columns, gram, steps)
    return (
        statistic,
        _mackinnon_p(statistic, trend, 1),
        used,
        observations,
        _critical_value(0, trend, 1, observations),
        _critical_value(1, trend, 1, observations),
        _critical_value(2, trend, 1, observations),
    )


@kernel("(float64[::1], float64[::1], int64, int64, int64)")
def _coint(
    y: Floats, x: Floats, lag: int, trend: int, most: int
) -> tuple[float, float, int, int, float, float, float]:
    n = len(y)
    columns, gram, steps = _scratch(n, _room(n, lag, most))
    residuals = np.empty(n)
    statistic, used, observations = np.nan, -1, 0
    if _residuals(y, x, trend, residuals, columns):
        statistic, used, observations = _adf_core(residuals, lag, _plain(0), most, columns, gram, steps)
    return (
        statistic,
        _mackinnon_p(statistic, trend, 2),
        used,
        observations,
        _critical_value(0, trend, 2, n - 1),
        _critical_value(1, trend, 2, n - 1),
        _critical_value(2, trend, 2, n - 1),
    )


@kernel("void(float64[:, ::1], int64, int64, int64, int64, float64[:, ::1], float64[:, ::1])")
def _engle_granger_rows(
    values: Floats, first: int, last: int, lag: int, trend: int, statistic: Floats, p_value: Floats
) -> None:
    n = values.shape[1]
    columns, gram, steps = _scratch(n, _room(n, lag, _plain(-1)))
    residuals = np.empty(n)
    for i in range(first, last):
        for j in range(len(values)):
            t = np.nan
            if i != j and _residuals(values[i], values[j], trend, residuals, columns):
                t = _adf_core(residuals, lag, _plain(0), _plain(-1), columns, gram, steps)[0]
            statistic[i, j] = t
            p_value[i, j] = _mackinnon_p(t, trend, 2)


@kernel("(float64[::1], float64[::1], int64)")
def _johansen(y: Floats, x: Floats, lags: int) -> tuple[float, float]:
    """Return the squared canonical correlations of levels and changes, beside constant and lagged changes."""
    width = 1 + 2 * lags
    n = len(y) - 1 - lags
    if lags < 1 or n < width + 4:
        return np.nan, np.nan
    levels = np.empty((width + 2, n))
    anchor_y, anchor_x = y[_typical(y)], x[_typical(x)]
    for t in range(n):
        now = t + lags
        levels[0, t] = 1.0
        for i in range(1, lags + 1):
            levels[2 * i - 1, t] = y[now + 1 - i] - y[now - i]
            levels[2 * i, t] = x[now + 1 - i] - x[now - i]
        levels[width, t] = y[now] - anchor_y
        levels[width + 1, t] = x[now] - anchor_x
    changes = levels.copy()
    for t in range(n):
        now = t + lags
        changes[width, t] = y[now + 1] - y[now]
        changes[width + 1, t] = x[now + 1] - x[now]
    for j in range(width + 2):
        if not (_make_orthonormal(levels, j) and _make_orthonormal(changes, j)) and j >= width:
            return np.nan, np.nan
    a = _dot(levels[width], changes[width])
    b = _dot(levels[width], changes[width + 1])
    c = _dot(levels[width + 1], changes[width])
    d = _dot(levels[width + 1], changes[width + 1])
    half = 0.5 * (a * a + b * b + c * c + d * d)
    product = (a * d - b * c) ** 2
    larger = half + math.sqrt(max(half * half - product, 0.0))
    if not larger < 1.0 - n * _EPSILON:  # the changes are exactly predictable
        return np.nan, np.nan
    return larger, product / larger


@_helper
def _half_life_core(x: Floats) -> float:
    n = len(x) - 1
    if n < 3:
        return np.nan
    anchor = x[_typical(x)]
    total = 0.0
    for t in range(n):
        total += x[t] - anchor
    mean = total / n
    drift = (x[n] - x[0]) / n
    squares = 0.0
    products = 0.0
    for t in range(n):
        level = x[t] - anchor - mean
        squares += level * level
        products += level * (x[t + 1] - x[t] - drift)
    slope = products / squares
    if not math.isfinite(slope) or squares <= n * _rounding(x) ** 2:
        return np.nan
    return -math.log(2.0) / slope if slope < 0.0 else np.inf


@_helper
def _excess(after: float, before: float, drift: float) -> float:
    """Return a change less the drift; apart, as a reduction might reorder it and lose its digits."""
    return after - before - drift


@_reduction
def _lagged_squares(x: Floats, lag: int, drift: float) -> tuple[float, float]:
    """Sum x[t + lag] - x[t] - drift, and its squares."""
    head = x[lag:]
    total = 0.0
    squares = 0.0
    for t in range(len(head)):
        change = _excess(head[t], x[t], drift)
        total += change
        squares += change * change
    return total, squares


@_helper
def _hurst_core(x: Floats, most: int) -> float:
    n = len(x)
    most = min(most, n // 4)
    if most < 3:
        return np.nan
    drift = (x[n - 1] - x[0]) / (n - 1)
    if _lagged_squares(x, _plain(1), drift)[1] <= n * _rounding(x) ** 2:
        return np.nan
    sum_x = 0.0
    sum_y = 0.0
    sum_xx = 0.0
    sum_xy = 0.0
    for lag in range(1, most + 1):
        total, squares = _lagged_squares(x, lag, lag * drift)
        mean = total / (n - lag)
        a = math.log(lag)
        b = 0.5 * math.log(squares / (n - lag) - mean * mean)
        sum_x += a
        sum_y += b
        sum_xx += a * a
        sum_xy += a * b
    slope = (sum_xy - sum_x * sum_y / most) / (sum_xx - sum_x * sum_x / most)
    return slope if math.isfinite(slope) else np.nan


@_helper
def _variance_ratio_core(x: Floats, period: int) -> tuple[float, float]:
    """Return the ratio and its heteroskedasticity-robust z."""
    n = len(x) - 1
    if period < 2 or n < 2 * period:
        return np.nan, np.nan
    mean = (x[n] - x[0]) / n
    squares = _lagged_squares(x, _plain(1), mean)[1]
    if squares <= n * _rounding(x) ** 2:
        return np.nan, np.nan
    long_squares = _lagged_squares(x, period, period * mean)[1]
    scale = period * (n - period + 1) * (1.0 - period / n)
    ratio = (long_squares / scale) / (squares / (n - 1))
    theta = 0.0
    for lag in range(1, period):
        products = 0.0
        for t in range(lag, n):
            a = x[t + 1] - x[t] - mean
            b = x[t + 1 - lag] - x[t - lag] - mean
            products += (a * a) * (b * b)
        weight = 2.0 * (period - lag) / period
        theta += weight * weight * products
    z = (ratio - 1.0) * squares / math.sqrt(theta)
    if not math.isfinite(ratio):
        return np.nan, np.nan
    return ratio, z if math.isfinite(z) else np.nan


@kernel("(float64[::1],)")
def _half_life(series: Floats) -> float:
    return _half_life_core(series)


@kernel("(float64[::1], int64)")
def _hurst(series: Floats, most: int) -> float:
    return _hurst_core(series, most)


@kernel("(float64[::1], int64)")
def _variance_ratio(series: Floats, period: int) -> tuple[float, float]:
    return _variance_ratio_core(series, period)


@_helper
def _fill_spread(
    values: Floats, y: int, x: int, newest: int, hedge_ratio: float, spread: Floats, leg: Floats
) -> bool:
    """Write the window's spread less a typical value; False where it is constant or not finite."""
    depth = values.shape[1]
    n = len(spread)
    legs_y = values[y]
    legs_x = values[x]
    start = (newest - n + 1) % depth
    head = min(n, depth - start)
    # No statistic here depends on a constant in the spread; without it the last digits of the legs survive.
    last = n - 1
    nth = _middle(legs_y[start], legs_y[(start + last // 2) % depth], legs_y[newest % depth])
    anchor = (start + nth * last // 2) % depth
    anchor_y = legs_y[anchor]
    anchor_x = legs_x[anchor]
    for t in range(head):
        spread[t] = legs_y[start + t] - anchor_y
        leg[t] = legs_x[start + t] - anchor_x
    for t in range(head, n):
        spread[t] = legs_y[t - head] - anchor_y
        leg[t] = legs_x[t - head] - anchor_x
    _subtract(spread, hedge_ratio, leg)
    rounding = 4.0 * _EPSILON * (abs(anchor_y) + abs(hedge_ratio * anchor_x))
    squares = _dot(spread, spread)
    return math.isfinite(squares) and squares > n * rounding * rounding


_METRIC = from_dtype(METRIC)


@kernel(void(float64[:, ::1], int64[::1], int32[::1], int32[::1], int64[::1], int64, _METRIC[:, ::1]))
def fill_stationarity(
    values: Floats,
    step: NDArray[np.int64],
    y: NDArray[np.int32],
    x: NDArray[np.int32],
    windows: NDArray[np.int64],
    lag: int,
    out: Block,
) -> None:
    """Fill the ADF, half-life, Hurst and variance ratio fields of a bar's rows.

    They are those of the spread, ``values[y] - hedge_ratio * values[x]`` with the hedge ratio of the row,
    over the row's window. A row whose window is not full, or holds a value or hedge ratio that is not finite,
    gets NaN in all six fields.

    :arg values: float64[rows, depth]; prices, or their logarithms, as a ring: observation s is in column
        s % depth.
    :arg step: int64[P]; each pair's newest observation, -1 to leave the rows of the pair alone.
    :arg y: int32[P]; row of the Y leg in `values`.
    :arg x: int32[P]; row of the X leg.
    :arg windows: int64[W]; observations, each at most depth.
    :arg lag: Lag of the ADF regression, or `AIC`, `BIC`.
    :arg out: METRIC[P, W]; read: hedge_ratio, observations. Written: adf_statistic, adf_p_value, adf_lag,
        half_life, hurst, variance_ratio.
    """
    longest = _plain(0)
    for k in range(len(windows)):
        longest = max(longest, windows[k])
    columns, gram, steps = _scratch(longest, _room(longest, lag, _plain(-1)))
    buffer = np.empty(longest)
    for p in range(len(step)):
        newest = step[p]
        if newest < 0:
            continue
        for k in range(len(windows)):
            window = windows[k]
            row = out[p, k]
            row.adf_statistic = np.nan
            row.adf_p_value = np.nan
            row.adf_lag = np.nan
            row.half_life = np.nan
            row.hurst = np.nan
            row.variance_ratio = np.nan
            if row.observations < window or newest + 1 < window or window > values.shape[1] or window < 1:
                continue
            spread = buffer[:window]
            if not _fill_spread(values, y[p], x[p], newest, row.hedge_ratio, spread, columns[0, :window]):
                continue
            statistic, used, observations = _adf_core(
                spread, lag, _plain(1), _plain(-1), columns, gram, steps
            )
            if observations > 0:
                row.adf_statistic = statistic
                row.adf_p_value = _mackinnon_p(statistic, 1, 1)
                row.adf_lag = used
            row.half_life = _half_life_core(spread)
            row.hurst = _hurst_core(spread, HURST_LAGS)
            row.variance_ratio = _variance_ratio_core(spread, VARIANCE_RATIO_PERIOD)[0]


class UnitRoot(NamedTuple):
    """Outcome of a unit-root or cointegration test."""

    statistic: float
    """t of the lagged level: the more negative, the stronger the evidence against a unit root."""
    p_value: float
    """MacKinnon's approximate p-value of the null hypothesis of a unit root (or of no cointegration)."""
    lag: int
    """Lagged changes used; -1 where the statistic is not defined."""
    observations: int
    """Observations in the regression; 0 where the statistic is not defined."""
    critical_values: tuple[float, float, float]
    """MacKinnon's critical values at 1, 5 and 10 %."""


def adf(series: ArrayLike, lag: int = AIC, trend: Trend = "c", max_lag: int | None = None) -> UnitRoot:
    """Test a series for a unit root (augmented Dickey-Fuller), with the results of statsmodels' ``adfuller``.

    :arg series: float64[n], oldest first; n >= 2 lag + 3, + 4, + 6 for the trends ``n``, ``c``, ``ct``.
    :arg lag: Lagged changes in the regression, or `AIC` or `BIC` to choose among 0 to `max_lag` over the
        sample that all of them have, and then use all observations that the chosen one has.
    :arg trend: ``n`` for nothing, ``c`` for a constant, ``ct`` for a constant and a linear trend.
    :arg max_lag: Largest lag that AIC and BIC may choose; ``ceil(12 (n / 100)^(1/4))`` (Schwert) unless told.
    :returns: Statistic, p-value, lag, observations, critical values.
    :raises ValueError: If an argument has the wrong shape or is none of the values above.
    """
    x = _array("series", series, 1)
    statistic, p_value, used, observations, *critical = _adf(x, *_options(lag, trend, max_lag))
    return UnitRoot(statistic, p_value, used, observations, (critical[0], critical[1], critical[2]))


def coint(
    y: ArrayLike, x: ArrayLike, lag: int = AIC, trend: Trend = "c", max_lag: int | None = None
) -> UnitRoot:
    """Test Y and X for cointegration (Engle and Granger), with the results of statsmodels' ``coint``.

    The residuals of Y on X and the trend terms are tested for a unit root, without further trend terms. Where
    Y and X are so nearly collinear (R^2 > 1 - 1.5e-6) that statsmodels gives up and returns -inf, this still
    gives the statistic, down to residuals that are nothing but rounding, where it is NaN.

    :arg y: float64[n], oldest first.
    :arg x: float64[n].
    :arg lag: As for `adf`.
    :arg trend: Trend terms of the regression of Y on X, as for `adf`.
    :arg max_lag: As for `adf`.
    :returns: As `adf`; critical values are NaN for trend ``n``, which has none.
    :raises ValueError: If an argument has the wrong shape or is none of the values above.
    """
    statistic, p_value, used, observations, *critical = _coint(*_legs(y, x), *_options(lag, trend, max_lag))
    return UnitRoot(statistic, p_value, used, observations, (critical[0], critical[1], critical[2]))


def engle_granger_all(values: ArrayLike, lag: int = 1, trend: Trend = "c") -> tuple[Floats, Floats]:
    """Test every pair of series for cointegration, both ways, on all cores.

    :arg values: float64[N, n], one series a row, oldest observation first.
    :arg lag: As for `adf`.
    :arg trend: As for `coint`.
    :returns: Statistics and p-values, float64[N, N] each: row Y, column X; NaN on the diagonal.
    :raises ValueError: If an argument has the wrong shape or is none of the values above.
    """
    series = _array("values", values, 2)
    code, trend_code, _ = _options(lag, trend, None)
    count = len(series)
    statistic, p_value = np.empty((count, count)), np.empty((count, count))
    workers = os.cpu_count() or 1
    # Threads on a kernel without GIL, not prange: numba's default threading layer aborts the process when two
    # threads (two Bytewax workers) enter it at once.
    size = max(1, count // (8 * workers))
    with ThreadPoolExecutor(workers) as pool:
        tasks = [
            pool.submit(
                _engle_granger_rows,
                series,
                first,
                min(first + size, count),
                code,
                trend_code,
                statistic,
                p_value,
            )
            for first in range(0, count, size)
        ]
        for task in tasks:
            task.result()
    return statistic, p_value


class Johansen(NamedTuple):
    """Outcome of Johansen's test, for the hypotheses of no, and of at most one, cointegrating relation."""

    trace: tuple[float, float]
    """Trace statistics."""
    max_eigenvalue: tuple[float, float]
    """Maximum eigenvalue statistics."""
    trace_critical_values: tuple[tuple[float, float, float], tuple[float, float, float]]
    """At 10, 5 and 1 %."""
    max_eigenvalue_critical_values: tuple[tuple[float, float, float], tuple[float, float, float]]
    """At 10, 5 and 1 %."""


def johansen(y: ArrayLike, x: ArrayLike, lags: int = 1) -> Johansen:
    """Test Y and X for cointegration by Johansen's method, with a constant.

    Equals statsmodels' ``coint_johansen`` with ``det_order=0`` and ``k_ar_diff=lags``. Exchanging the legs
    changes nothing.

    :arg y: float64[n], oldest first, n >= 3 lags + 6.
    :arg x: float64[n].
    :arg lags: Lagged changes in the model, at least 1.
    :returns: Statistics and critical values; statistics are NaN where the series are too short, collinear or
        not finite.
    :raises ValueError: If the series are not of one dimension and length.
    """
    first, second = _johansen(*_legs(y, x), lags)
    n = np.size(y) - 1 - lags
    largest = -n * math.log1p(-first), -n * math.log1p(-second)
    return Johansen(
        (largest[0] + largest[1], largest[1]), largest, _JOHANSEN_TRACE_CRITICAL, _JOHANSEN_MAX_CRITICAL
    )


def half_life(series: ArrayLike) -> float:
    """Estimate the half-life of mean reversion, in observations.

    The speed of an Ornstein-Uhlenbeck process is the slope b of the changes on the lagged level and a
    constant; its half-life is ``-ln 2 / b``, or inf where b >= 0. Chan, Algorithmic Trading (Wiley 2013),
    chapter 2.

    :arg series: float64[n], oldest first, n >= 4.
    :returns: Half-life; inf where the series does not revert; NaN where it is too short, constant or not
        finite.
    :raises ValueError: If the series has not one dimension.
    """
    return _half_life(_array("series", series, 1))


def hurst(series: ArrayLike, max_lag: int = HURST_LAGS) -> float:
    """Estimate the Hurst exponent: below 0.5 the series reverts, at 0.5 it walks randomly, above it trends.

    The standard deviation of ``x[t + lag] - x[t]`` grows as lag^H; H is the least-squares slope of its
    logarithm on log(lag), over lags 1 to the lesser of `max_lag` and n // 4. It is the generalised Hurst
    exponent of order 2 (Di Matteo, Quantitative Finance 7(1), 2007, 21-36), about the drift.

    :arg series: float64[n], oldest first, n >= 12.
    :arg max_lag: Largest lag, at least 3.
    :returns: Exponent; NaN where the series is too short, a straight line, or not finite.
    :raises ValueError: If the series has not one dimension.
    """
    return _hurst(_array("series", series, 1), max_lag)


class VarianceRatio(NamedTuple):
    """Outcome of a variance ratio test."""

    ratio: float
    """1 for a random walk, below 1 where changes reverse, above 1 where they persist."""
    z: float
    """Standard normal for changes that do not correlate, whatever their volatility does."""


def variance_ratio(series: ArrayLike, period: int = VARIANCE_RATIO_PERIOD) -> VarianceRatio:
    """Compare the variance of overlapping `period`-step changes with that of single ones (Lo and MacKinlay).

    Unbiased variances, and the z that is robust to heteroskedasticity: Review of Financial Studies 1(1),
    1988, 41-66.

    :arg series: float64[n], oldest first, n > 2 period.
    :arg period: Length of the long changes, at least 2.
    :returns: Ratio and z; NaN where the series is too short, a straight line, or not finite.
    :raises ValueError: If the series has not one dimension.
    """
    return VarianceRatio(*_variance_ratio(_array("series", series, 1), period))


def _array(name: str, values: ArrayLike, dimensions: int) -> Floats:
    """Return values as the kernels take them: contiguous float64, and writable."""
    array = np.ascontiguousarray(values, dtype=np.float64)
    if array.ndim != dimensions:
        msg = f"{name} must have {dimensions} dimension{'s' * (dimensions > 1)}, not {array.ndim}"
        raise ValueError(msg)
    return array if array.flags.writeable else array.copy()


def _legs(y: ArrayLike, x: ArrayLike) -> tuple[Floats, Floats]:
    legs = _array("y", y, 1), _array("x", x, 1)
    if len(legs[0]) != len(legs[1]):
        msg = f"y and x must have the same length, not {len(legs[0])} and {len(legs[1])}"
        raise ValueError(msg)
    return legs


def _options(lag: int, trend: Trend, max_lag: int | None) -> tuple[int, int, int]:
    if lag < BIC:
        msg = f"lag must be a number of changes, AIC ({AIC}) or BIC ({BIC}), not {lag}"
        raise ValueError(msg)
    if trend not in _TRENDS:
        msg = f"trend must be one of {', '.join(_TRENDS)}, not {trend!r}"
        raise ValueError(msg)
    if max_lag is not None and max_lag < 0:
        msg = f"max_lag must not be negative, not {max_lag}"
        raise ValueError(msg)
    return lag, _TRENDS[trend], -1 if max_lag is None else max_lag


KERNELS = (
    _adf,
    _coint,
    _engle_granger_rows,
    _johansen,
    _half_life,
    _hurst,
    _variance_ratio,
    fill_stationarity,
)
"""Every kernel of this module, for `warm_up`."""
