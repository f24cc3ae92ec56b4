"""Other hedge ratios than least squares over a window: recursive (rls), Kalman filter (kalman), total (tls).

    update_pairs(values, returns, step, y, x, windows, z_window, state, ols)
    update_rls(values, step, y, x, windows, z_window, rls_state, ols, out)

Each fills rows in the manner of `update_pairs`: hedge ratio and intercept are its own, spread, spread_mean,
spread_std and z_score follow from its current hedge ratio, and observations, correlations and volatilities,
which do not depend on a hedge ratio, are copied from the rows of ordinary least squares. Standard errors and
r_squared belong to least squares and are NaN.

The filters remember more than the rings hold, so a late revision cannot be undone inside their state: keep
copies of the state as far back as revisions reach, and roll forward from there. An observation that does not
follow the last one is otherwise reached from the rings alone, as if the pair had begun at their oldest
column.
"""

from typing import Any

import numpy as np
from numba import from_dtype, types
from numpy.typing import ArrayLike, NDArray

from kernels.compile import inlined, kernel
from kernels.records import METRIC, Block
from kernels.rolling_ols import STATE, fma

RLS_STATE = np.dtype(
    [
        ("first", np.int64),  # number of the pair's first observation; -1: none yet
        ("last", np.int64),
        ("count", np.int64),  # complete observations so far
        ("anchor_y", np.float64),  # residual e = (y - anchor_y) - (slope + change) * (x - anchor_x)
        ("anchor_x", np.float64),
        ("slope", np.float64),
        ("change", np.float64),
        ("mean_x", np.float64),  # weighted, from anchor_x
        ("mean_e", np.float64),
        ("weight", np.float64),  # sum of weights
        ("sxx", np.float64),  # weighted, about the mean
    ]
)

KALMAN_STATE = np.dtype(
    [
        ("first", np.int64),
        ("last", np.int64),
        ("count", np.int64),
        ("origin_y", np.float64),  # first prices: the model is in units of them
        ("origin_x", np.float64),
        ("unit_y", np.float64),
        ("unit_x", np.float64),
        ("level", np.float64),  # y where x is at its origin
        ("beta", np.float64),
        ("level_variance", np.float64),
        ("covariance", np.float64),
        ("beta_variance", np.float64),
    ]
)

_WRONG_WINDOW = "windows must be at least 2, and the ring deeper than the z window"
_WRONG_NOISE = "q must be at least 0, r above 0, and the ring deeper than the z window"

_MATRIX = types.Array(types.float64, 2, "C")
_VECTOR = types.Array(types.float64, 1, "C")
_STEPS = types.Array(types.int64, 1, "C")
_ROWS = types.Array(types.int32, 1, "C")
_STATES = types.Array(from_dtype(STATE), 2, "C")
_RLS_STATES = types.Array(from_dtype(RLS_STATE), 2, "C")
_KALMAN_STATES = types.Array(from_dtype(KALMAN_STATE), 2, "C")
_METRICS = types.Array(from_dtype(METRIC), 2, "C")


def new_rls_state(pairs: int, windows: ArrayLike) -> Block:
    """Return the state of `update_rls` for pairs that have seen nothing.

    :arg pairs: How many.
    :arg windows: Memories, in observations.
    :returns: RLS_STATE[P, W].
    """
    state = np.zeros((pairs, len(np.asarray(windows))), RLS_STATE)
    state["first"] = state["last"] = -1
    return state


def new_kalman_state(pairs: int, windows: ArrayLike) -> Block:
    """Return the state of `update_kalman` for pairs that have seen nothing.

    :arg pairs: How many.
    :arg windows: As many as there are filters for each pair.
    :returns: KALMAN_STATE[P, W].
    """
    state = np.zeros((pairs, len(np.asarray(windows))), KALMAN_STATE)
    state["first"] = state["last"] = -1
    return state


def kalman_noise(windows: ArrayLike, r: float = 1e-6) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the variances that make a Kalman filter remember about as long as a window.

    A random walk seen through noise is tracked with a gain of sqrt(q / r) in the steady state (Harvey,
    Forecasting, Structural Time Series Models and the Kalman Filter, 1989), so q = r / window^2.

    :arg windows: Memories, in observations.
    :arg r: Variance of the observation error in units of Y's first price squared; default one part in 1,000.
    :returns: q and r, each float64[W].
    """
    lengths = np.asarray(windows, np.float64)
    return r / lengths**2, np.full(len(lengths), r)


@inlined
def _complete(y: float, x: float) -> bool:
    """Tell whether both are finite."""
    return (y - y) + (x - x) == 0.0


@inlined
def _start(row: Any, ols: Any) -> None:
    """Copy what does not depend on the hedge ratio; leave the rest undefined."""
    nan = np.nan
    row.observations = ols.observations
    row.correlation = ols.correlation
    row.return_correlation = ols.return_correlation
    row.volatility_y = ols.volatility_y
    row.volatility_x = ols.volatility_x
    row.hedge_ratio = row.intercept = row.hedge_ratio_stderr = row.intercept_stderr = nan
    row.r_squared = row.spread = row.spread_mean = row.spread_std = row.z_score = nan


@inlined
def _measure_spread(
    values: Any,
    iy: int,
    ix: int,
    step: int,
    first: int,
    z_window: int,
    anchor_y: float,
    anchor_x: float,
    slope: float,
    change: float,
    row: Any,
) -> None:
    """Fill spread and z-score at the hedge ratio slope + change, in two passes over the z window."""
    depth = values.shape[1]
    level = fma(-slope, anchor_x, anchor_y) - change * anchor_x
    here = np.nan
    c = step % depth
    if _complete(values[iy, c], values[ix, c]):
        dx = values[ix, c] - anchor_x
        here = fma(-change, dx, fma(-slope, dx, values[iy, c] - anchor_y))
        row.spread = level + here
    if step - first + 1 < z_window:
        return
    origin = 0.0
    total = 0.0
    n = 0
    c = (step - z_window + 1) % depth
    for _ in range(z_window):
        y = values[iy, c]
        x = values[ix, c]
        if _complete(y, x):
            dx = x - anchor_x
            e = fma(-change, dx, fma(-slope, dx, y - anchor_y))
            if n == 0:
                origin = e
            total += e - origin
            n += 1
        c += 1
        if c == depth:
            c = 0
    if n == 0:
        return
    mean = origin + total / n
    squares = 0.0
    c = (step - z_window + 1) % depth
    for _ in range(z_window):
        y = values[iy, c]
        x = values[ix, c]
        if _complete(y, x):
            dx = x - anchor_x
            e = fma(-change, dx, fma(-slope, dx, y - anchor_y)) - mean
            squares += e * e
        c += 1
        if c == depth:
            c = 0
    row.spread_mean = level + mean
    row.spread_std = np.sqrt(squares / n)
    if squares > 0.0:
        row.z_score = (here - mean) / row.spread_std


@inlined
def _learn_rls(y: float, x: float, forgetting: float, st: Any) -> None:
    """Let an observation into the weighted regression."""
    old = forgetting * st.weight
    st.weight = old
    st.sxx *= forgetting
    if not _complete(y, x):
        return
    st.count += 1
    if st.count == 1:
        st.anchor_y = y
        st.anchor_x = x
    st.weight = old + 1.0
    dx = x - st.anchor_x
    e = fma(-st.change, dx, fma(-st.slope, dx, y - st.anchor_y)) - st.mean_e
    dx -= st.mean_x
    st.mean_x += dx / st.weight
    st.mean_e += e / st.weight
    share = old / st.weight
    st.sxx += share * dx * dx
    if st.sxx > 0.0:
        gain = share * dx * e / st.sxx
        st.change += gain
        st.mean_e -= gain * st.mean_x


@inlined
def _anchor_rls(st: Any) -> None:
    """Move the anchors to the mean, and the change into the slope: the same line, more digits."""
    anchor = st.anchor_x + st.mean_x
    shift = anchor - st.anchor_x
    rise = fma(st.change, shift, fma(st.slope, shift, st.mean_e))
    level = st.anchor_y + rise
    st.mean_e = rise - (level - st.anchor_y)
    st.mean_x -= shift
    st.anchor_x = anchor
    st.anchor_y = level
    slope = st.slope + st.change
    st.change -= slope - st.slope
    st.slope = slope


@kernel(
    types.void(_MATRIX, _STEPS, _ROWS, _ROWS, _STEPS, types.int64, _RLS_STATES, _METRICS, _METRICS),
    allocates=False,
)
def update_rls(
    values: NDArray[np.float64],
    step: NDArray[np.int64],
    y: NDArray[np.int32],
    x: NDArray[np.int32],
    windows: NDArray[np.int64],
    z_window: int,
    state: Block,
    ols: Block,
    out: Block,
) -> None:
    """Update hedge ratios by recursive least squares with exponential forgetting.

    An observation of age k counts (1 - 1/window)^k: the memory is as long as the window, on average, and has
    no edge that an absurd print could fall off. Weights fade with each observation in time, complete or not.
    The start is diffuse: with the first observations the result is their weighted least squares.

    The recursion is that of Ljung, System Identification, 2nd edition 1999, section 11.2, with the intercept
    taken out: means and the variance of x are updated as by West (CACM 22, 1979), the hedge ratio by its
    innovation, so that no covariance matrix can lose its definiteness.

    :arg values: float64[rows, depth], the ring of `update_pairs`, newest observation written.
    :arg step: int64[P], number of each pair's newest observation; -1 leaves the pair and its rows as they
    are.
    :arg y: int32[P], row of leg Y.
    :arg x: int32[P], row of leg X.
    :arg windows: int64[W], memories in observations, each at least 2.
    :arg z_window: Window of the z-score, in observations, below depth.
    :arg state: RLS_STATE[P, W] from `new_rls_state`, changed in place.
    :arg ols: METRIC[P, W], rows that `update_pairs` has filled for the same observation.
    :arg out: METRIC[P, W], rows to fill.
    :raises ValueError: A window below 2, or a z window of depth or more.
    """
    depth = values.shape[1]
    for k in range(len(windows)):
        if windows[k] < 2 or z_window < 1 or z_window >= depth:
            raise ValueError(_WRONG_WINDOW)
    for p in range(len(step)):
        s = step[p]
        if s < 0:
            continue
        for k in range(len(windows)):
            st = state[p, k]
            if st.first < 0:
                st.first = s
                st.last = s - 1
            begin = st.last + 1
            if s < begin or s - begin >= depth:
                begin = max(min(st.first, s), max(st.last, s) - depth + 1)
                st.first = min(st.first, s)
                st.count = 0
                st.slope = st.change = st.mean_x = st.mean_e = st.weight = st.sxx = 0.0
            for t in range(begin, s + 1):
                _learn_rls(values[y[p], t % depth], values[x[p], t % depth], 1.0 - 1.0 / windows[k], st)
                if t % windows[k] == 0:
                    _anchor_rls(st)
            st.last = s
            row = out[p, k]
            _start(row, ols[p, k])
            if st.count >= 3 and st.sxx > 0.0:
                row.hedge_ratio = st.slope + st.change
                row.intercept = fma(-st.slope, st.anchor_x, st.anchor_y) - st.change * st.anchor_x + st.mean_e
                _measure_spread(
                    values, y[p], x[p], s, st.first, z_window,
                    st.anchor_y, st.anchor_x, st.slope, st.change, row,
                )  # fmt: skip


@inlined
def _learn_kalman(y: float, x: float, q: float, r: float, st: Any) -> None:
    """Predict, and correct by an observation where there is one."""
    if not _complete(y, x):
        st.level_variance += q
        st.beta_variance += q
        return
    st.count += 1
    if st.count == 1:
        st.origin_y = y
        st.origin_x = x
        st.unit_y = abs(y) if y != 0.0 else 1.0
        st.unit_x = abs(x) if x != 0.0 else 1.0
        st.level = st.beta = st.covariance = 0.0
        st.level_variance = st.beta_variance = 1.0
    else:
        st.level_variance += q
        st.beta_variance += q
    h = (x - st.origin_x) / st.unit_x
    innovation = fma(-st.beta, h, (y - st.origin_y) / st.unit_y - st.level)
    level_part = st.level_variance + h * st.covariance
    beta_part = st.covariance + h * st.beta_variance
    total = level_part + h * beta_part + r
    level_gain = level_part / total
    beta_gain = beta_part / total
    st.level += level_gain * innovation
    st.beta += beta_gain * innovation
    # Joseph form, (I - K h') P (I - K h')' + r K K': a sum of two squares stays positive whatever is rounded.
    a = 1.0 - level_gain
    b = -level_gain * h
    c = -beta_gain
    d = 1.0 - beta_gain * h
    p = st.level_variance
    o = st.covariance
    v = st.beta_variance
    st.level_variance = a * (a * p + b * o) + b * (a * o + b * v) + r * level_gain * level_gain
    st.covariance = a * (c * p + d * o) + b * (c * o + d * v) + r * level_gain * beta_gain
    st.beta_variance = c * (c * p + d * o) + d * (c * o + d * v) + r * beta_gain * beta_gain


@kernel(
    types.void(
        _MATRIX, _STEPS, _ROWS, _ROWS, _STEPS, types.int64,
        _VECTOR, _VECTOR, _KALMAN_STATES, _METRICS, _METRICS,
    ),
    allocates=False,
)  # fmt: skip
def update_kalman(
    values: NDArray[np.float64],
    step: NDArray[np.int64],
    y: NDArray[np.int32],
    x: NDArray[np.int32],
    windows: NDArray[np.int64],
    z_window: int,
    q: NDArray[np.float64],
    r: NDArray[np.float64],
    state: Block,
    ols: Block,
    out: Block,
) -> None:
    """Update hedge ratios by a Kalman filter whose level and beta are random walks.

    In units of the pair's first prices, u = (x - x0) / |x0| and v = (y - y0) / |y0|, so that the same
    variances suit every pair::

        v = level + beta * u + noise of variance r
        level, beta: random walks, each step of variance q; before the first observation 0 with variance 1

    hedge_ratio = beta |y0| / |x0|, intercept = y0 + |y0| level - hedge_ratio x0. The model is that of Chan,
    Algorithmic Trading, 2013, chapter 3, save for the units; an observation that is not complete passes time
    and corrects nothing.

    :arg values: float64[rows, depth], the ring of `update_pairs`, newest observation written.
    :arg step: int64[P], number of each pair's newest observation; -1 leaves the pair and its rows as they
    are.
    :arg y: int32[P], row of leg Y.
    :arg x: int32[P], row of leg X.
    :arg windows: int64[W]; the filter has no window, but each has a q and r, see `kalman_noise`.
    :arg z_window: Window of the z-score, in observations, below depth.
    :arg q: float64[W], variance of the random walks' steps, at least 0.
    :arg r: float64[W], variance of the observation's noise, above 0.
    :arg state: KALMAN_STATE[P, W] from `new_kalman_state`, changed in place.
    :arg ols: METRIC[P, W], rows that `update_pairs` has filled for the same observation.
    :arg out: METRIC[P, W], rows to fill.
    :raises ValueError: q is below 0, r is not above 0, or the ring is not deeper than the z window.
    """
    depth = values.shape[1]
    for k in range(len(windows)):
        if not (q[k] >= 0.0 and r[k] > 0.0) or z_window < 1 or z_window >= depth:
            raise ValueError(_WRONG_NOISE)
    for p in range(len(step)):
        s = step[p]
        if s < 0:
            continue
        for k in range(len(windows)):
            st = state[p, k]
            if st.first < 0:
                st.first = s
                st.last = s - 1
            begin = st.last + 1
            if s < begin or s - begin >= depth:
                begin = max(min(st.first, s), max(st.last, s) - depth + 1)
                st.first = min(st.first, s)
                st.count = 0
            for t in range(begin, s + 1):
                _learn_kalman(values[y[p], t % depth], values[x[p], t % depth], q[k], r[k], st)
            st.last = s
            row = out[p, k]
            _start(row, ols[p, k])
            if st.count >= 3:
                beta = st.beta * (st.unit_y / st.unit_x)
                row.hedge_ratio = beta
                row.intercept = fma(-beta, st.origin_x, st.origin_y) + st.unit_y * st.level
                _measure_spread(
                    values, y[p], x[p], s, st.first, z_window, st.origin_y, st.origin_x, beta, 0.0, row
                )


@kernel(
    types.void(_MATRIX, _STEPS, _ROWS, _ROWS, _STEPS, types.int64, _STATES, _METRICS, _METRICS),
    allocates=False,
)
def update_tls(
    values: NDArray[np.float64],
    step: NDArray[np.int64],
    y: NDArray[np.int32],
    x: NDArray[np.int32],
    windows: NDArray[np.int64],
    z_window: int,
    state: Block,
    ols: Block,
    out: Block,
) -> None:
    """Measure hedge ratios by total least squares over each window, from the sums of `update_pairs`.

    The line with the least sum of squared perpendicular distances (Golub and Van Loan, SIAM J. Numer. Anal.
    17, 1980). It is the same whichever leg is called Y, and depends on the units of the legs: prices of very
    different size should be logarithms.

    :arg values: float64[rows, depth], the ring of `update_pairs`.
    :arg step: int64[P], number of each pair's newest observation; -1 leaves the pair's rows as they are.
    :arg y: int32[P], row of leg Y.
    :arg x: int32[P], row of leg X.
    :arg windows: int64[W], in observations.
    :arg z_window: Window of the z-score, in observations.
    :arg state: STATE[P, W] as `update_pairs` has left it for the same observation; not changed.
    :arg ols: METRIC[P, W], rows that `update_pairs` has filled for the same observation.
    :arg out: METRIC[P, W], rows to fill.
    """
    for p in range(len(step)):
        s = step[p]
        if s < 0:
            continue
        for k in range(len(windows)):
            st = state[p, k]
            row = out[p, k]
            _start(row, ols[p, k])
            sums = st.prices
            if sums.count < 3:
                continue
            mean_x = sums.x * sums.part
            mean_e = sums.e * sums.part
            sxx = sums.xx - sums.x * mean_x
            sxe = sums.xe - sums.x * mean_e
            see = sums.ee - sums.e * mean_e
            if not sxx > 0.0:
                continue
            change = sxe / sxx
            beta = sums.slope + change
            residual = max(see - change * sxe, 0.0)
            # With beta of least squares, Sxy = beta Sxx and Syy = residual + beta^2 Sxx, the step from it to
            # the slope b of Sxy b^2 + (Sxx - Syy) b - Sxy = 0 is a root without cancellation.
            m = sxx * (1.0 + beta * beta) - residual
            root = np.sqrt(m * m + 4.0 * beta * beta * sxx * residual)
            if m > 0.0:
                change += 2.0 * residual * beta / (m + root)
            elif beta != 0.0:
                change += (root - m) / (2.0 * beta * sxx)
            else:
                continue
            row.hedge_ratio = sums.slope + change
            row.intercept = (
                fma(-sums.slope, sums.anchor_x, sums.anchor_y) + mean_e - change * (sums.anchor_x + mean_x)
            )
            _measure_spread(
                values, y[p], x[p], s, st.first, z_window,
                sums.anchor_y, sums.anchor_x, sums.slope, change, row,
            )  # fmt: skip
