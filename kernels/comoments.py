"""Rolling statistics of pairs: hedge ratio, spread, z-score and correlation, in constant time an update.

    windows = np.array([60, 300])
    values = np.full((2, depth_needed(windows, 20)), np.nan)  # one row per symbol; column of bar s: s % depth
    returns = np.full_like(values, np.nan)
    state, out = new_state(1, windows), np.zeros((1, 2), METRIC)
    y, x = np.array([1], np.int32), np.array([0], np.int32)
    for bar, (prices, changes) in enumerate(...):
        values[:, bar % values.shape[1]] = prices
        returns[:, bar % values.shape[1]] = changes
        update_pairs(values, returns, np.array([bar]), y, x, windows, 20, state, out)

What is exact here, and how. Sums of raw prices lose everything to cancellation when a market is quiet, when
one print is absurd, or when two legs move as one. Here the sums are of x - anchor_x and of the residual e =
(y - anchor_y) - slope * (x - anchor_x), for a slope close to the hedge ratio: neighbouring floats subtract
exactly, and a fused multiply-add rounds e once, relative to e itself. Everything follows from these: beta =
slope + Sxe / Sxx, residual sum of squares = See - Sxe^2 / Sxx, Syy = that + beta^2 Sxx, which is why a
correlation never leaves [-1, 1].

Anchors and slope are taken anew from the window, and the sums with them, every `window` observations. The
schedule follows the number of the observation, spread evenly over the pairs, so that no bar is slower than
another and the state is a function of the last 2 * window observations alone, to the bit: however the process
got there, by updates, by `rebuild_pairs`, or by a restart in between. Sums that have lost digits in between
(an absurd print has left the window, a market has gone quiet) are noticed, because they are small beside the
largest they have been, and are taken anew at once.
"""

from typing import Any

import numpy as np
from numba import from_dtype, types
from numba.extending import intrinsic
from numpy.typing import ArrayLike, NDArray

from kernels.compile import inlined, kernel
from kernels.records import METRIC, Block

STATE = np.dtype(
    [
        ("first", np.int64),  # number of the pair's first observation; -1: none yet
        ("last", np.int64),  # number of the newest observation in the sums
        ("phase", np.int64),  # the sums are taken anew when (number + phase) % window == 0
        ("retry", np.int64),  # number of the observation from which lost digits are looked for again
        ("count", np.int64),  # complete observations in the window, in the z window, of returns
        ("z_count", np.int64),
        ("return_count", np.int64),
        ("anchor_y", np.float64),
        ("anchor_x", np.float64),
        ("slope", np.float64),
        ("sum_x", np.float64),  # over the window, x from its anchor, e the residual
        ("sum_e", np.float64),
        ("sum_xx", np.float64),
        ("sum_xe", np.float64),
        ("sum_ee", np.float64),
        ("peak_xx", np.float64),  # the largest that sum_xx has been since it was taken anew, likewise below
        ("peak_ee", np.float64),
        ("z_x", np.float64),  # over the z window
        ("z_e", np.float64),
        ("z_xx", np.float64),
        ("z_xe", np.float64),
        ("z_ee", np.float64),
        ("z_peak_xx", np.float64),
        ("z_peak_ee", np.float64),
        ("return_anchor_y", np.float64),
        ("return_anchor_x", np.float64),
        ("return_y", np.float64),
        ("return_x", np.float64),
        ("return_yy", np.float64),
        ("return_xy", np.float64),
        ("return_xx", np.float64),
        ("return_peak_yy", np.float64),
        ("return_peak_xx", np.float64),
    ]
)
"""What a pair carries from one observation to the next, for one window. Plain numbers: goes to bytes and
back."""

# Sums below this part of their peak are taken anew. A double carries 16 digits: 4 are given up here and 2 go
# to the rounding of some hundreds of additions, which leaves the 10 that the tests ask for.
_LOST = 1e-4

# Residuals below this part of slope * x are the rounding of the slope itself, (4 * 2**-53)**2: the fit is
# exact.
_EXACT = 2e-31

_STATE_TYPE = from_dtype(STATE)
_METRIC_TYPE = from_dtype(METRIC)
_MATRIX = types.Array(types.float64, 2, "C")
_STEPS = types.Array(types.int64, 1, "C")
_ROWS = types.Array(types.int32, 1, "C")
_STATES = types.Array(_STATE_TYPE, 2, "C")
_METRICS = types.Array(_METRIC_TYPE, 2, "C")


def depth_needed(windows: ArrayLike, z_window: int) -> int:
    """Return how many columns the rings must have: enough for `rebuild_pairs` at the newest observation.

    A ring that is deeper by k lets a revision reach back k observations.

    :arg windows: Rolling windows, in observations.
    :arg z_window: Window of the z-score, in observations.
    :returns: Columns.
    """
    longest = int(np.max(np.asarray(windows)))
    return longest + max(longest, int(z_window))


def new_state(pairs: int | ArrayLike, windows: ArrayLike) -> Block:
    """Return the state of pairs that have seen nothing.

    :arg pairs: How many, or the number of each pair in the whole run. The number decides when its sums are
        taken anew, so give it where pairs are dealt out to workers and results must not depend on the deal.
    :arg windows: Rolling windows, in observations.
    :returns: STATE[P, W].
    """
    numbers = np.arange(pairs) if isinstance(pairs, int) else np.asarray(pairs, np.int64)
    lengths = np.asarray(windows, np.int64)
    state = np.zeros((len(numbers), len(lengths)), STATE)
    state["first"] = state["last"] = -1
    # Multiples of the golden ratio fill [0, 1) evenly, whatever pairs a worker has.
    state["phase"] = (numbers[:, None] * 0.6180339887498949 % 1.0 * lengths).astype(np.int64)
    return state


def _fused(_context: Any, a: Any, b: Any, c: Any) -> Any:
    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.fma(*arguments)

    return types.float64(types.float64, types.float64, types.float64), generate


fma: Any = intrinsic(_fused)
"""a * b + c rounded once, in kernels."""


@inlined
def _median(a: float, b: float, c: float) -> float:
    return max(min(a, b), min(max(a, b), c))


@inlined
def _add(st: Any, y: float, x: float, sign: float) -> None:
    """Put a complete observation into the sums over the window, or take it out."""
    dx = x - st.anchor_x
    e = fma(-st.slope, dx, y - st.anchor_y)
    st.sum_x += sign * dx
    st.sum_e += sign * e
    st.sum_xx += sign * (dx * dx)
    st.sum_xe += sign * (dx * e)
    st.sum_ee += sign * (e * e)


@inlined
def _add_z(st: Any, y: float, x: float, sign: float) -> None:
    dx = x - st.anchor_x
    e = fma(-st.slope, dx, y - st.anchor_y)
    st.z_x += sign * dx
    st.z_e += sign * e
    st.z_xx += sign * (dx * dx)
    st.z_xe += sign * (dx * e)
    st.z_ee += sign * (e * e)


@inlined
def _add_return(st: Any, y: float, x: float, sign: float) -> None:
    dy = y - st.return_anchor_y
    dx = x - st.return_anchor_x
    st.return_y += sign * dy
    st.return_x += sign * dx
    st.return_yy += sign * (dy * dy)
    st.return_xy += sign * (dx * dy)
    st.return_xx += sign * (dx * dx)


@inlined
def _complete(y: float, x: float) -> bool:
    """Tell whether both are finite."""
    return bool((y - y) + (x - x) == 0.0)


@inlined
def _clear(st: Any) -> None:
    st.count = 0
    st.sum_x = st.sum_e = st.sum_xx = st.sum_xe = st.sum_ee = 0.0
    st.peak_xx = st.peak_ee = 0.0


@inlined
def _clear_z(st: Any) -> None:
    st.z_count = 0
    st.z_x = st.z_e = st.z_xx = st.z_xe = st.z_ee = 0.0
    st.z_peak_xx = st.z_peak_ee = 0.0


@inlined
def _clear_returns(st: Any) -> None:
    st.return_count = 0
    st.return_y = st.return_x = st.return_yy = st.return_xy = st.return_xx = 0.0
    st.return_peak_yy = st.return_peak_xx = 0.0


@inlined
def _three(a: Any, b: Any, iy: int, ix: int, begin: int, step: int, found: Any) -> int:
    """Find the oldest, a middle and the newest complete observation; return how many there are, at most 3."""
    depth = a.shape[1]
    oldest = begin
    while oldest <= step and not _complete(a[iy, oldest % depth], b[ix, oldest % depth]):
        oldest += 1
    if oldest > step:
        return 0
    newest = step
    while not _complete(a[iy, newest % depth], b[ix, newest % depth]):
        newest -= 1
    middle = (oldest + newest) // 2
    while not _complete(a[iy, middle % depth], b[ix, middle % depth]):
        middle += 1
    found[0] = oldest % depth
    found[1] = middle % depth
    found[2] = newest % depth
    return 3


@inlined
def _resum_z(values: Any, iy: int, ix: int, step: int, z_window: int, st: Any) -> None:
    """Take the sums over the z window anew."""
    depth = values.shape[1]
    _clear_z(st)
    begin = max(st.first, step - z_window + 1)
    c = begin % depth
    for _ in range(begin, step + 1):
        y = values[iy, c]
        x = values[ix, c]
        if _complete(y, x):
            st.z_count += 1
            _add_z(st, y, x, 1.0)
        c += 1
        if c == depth:
            c = 0
    st.z_peak_xx = st.z_xx
    st.z_peak_ee = st.z_ee


@inlined
def _resum_returns(returns: Any, iy: int, ix: int, step: int, window: int, st: Any, found: Any) -> None:
    """Take the sums of returns anew, from a new anchor."""
    depth = returns.shape[1]
    _clear_returns(st)
    begin = max(st.first, step - window + 1)
    if _three(returns, returns, iy, ix, begin, step, found) == 0:
        return
    # The median of three returns of the window: near the others even when one of them is absurd, and equal
    # to them, so that sums are exactly 0, when all are the same.
    st.return_anchor_y = _median(returns[iy, found[0]], returns[iy, found[1]], returns[iy, found[2]])
    st.return_anchor_x = _median(returns[ix, found[0]], returns[ix, found[1]], returns[ix, found[2]])
    c = begin % depth
    for _ in range(begin, step + 1):
        y = returns[iy, c]
        x = returns[ix, c]
        if _complete(y, x):
            st.return_count += 1
            _add_return(st, y, x, 1.0)
        c += 1
        if c == depth:
            c = 0
    st.return_peak_yy = st.return_yy
    st.return_peak_xx = st.return_xx


@inlined
def _resum(values: Any, iy: int, ix: int, step: int, window: int, st: Any) -> None:
    """Take the sums over the window anew, about the anchors and slope of the state."""
    depth = values.shape[1]
    _clear(st)
    begin = max(st.first, step - window + 1)
    c = begin % depth
    for _ in range(begin, step + 1):
        y = values[iy, c]
        x = values[ix, c]
        if _complete(y, x):
            st.count += 1
            _add(st, y, x, 1.0)
        c += 1
        if c == depth:
            c = 0
    st.peak_xx = st.sum_xx
    st.peak_ee = st.sum_ee


@inlined
def _anchor(
    values: Any, iy: int, ix: int, step: int, window: int, z_window: int, st: Any, found: Any
) -> None:
    """Take anchors, slope and all sums of prices anew from the window."""
    begin = max(st.first, step - window + 1)
    if _three(values, values, iy, ix, begin, step, found) == 0:
        _clear(st)
    else:
        # Medians of three prices of the window, as for returns.
        st.anchor_y = _median(values[iy, found[0]], values[iy, found[1]], values[iy, found[2]])
        st.anchor_x = _median(values[ix, found[0]], values[ix, found[1]], values[ix, found[2]])
        st.slope = 0.0
        _resum(values, iy, ix, step, window, st)
        for _ in range(2):
            n = st.count
            sxx = st.sum_xx - st.sum_x * (st.sum_x / n)
            sxe = st.sum_xe - st.sum_x * (st.sum_e / n)
            see = st.sum_ee - st.sum_e * (st.sum_e / n)
            if n < 2 or sxx <= 0.0 or sxe == 0.0:
                break
            st.slope += sxe / sxx
            # Both medians may come of two observations, off the line: move the anchor onto it.
            e0 = fma(-st.slope, values[ix, found[0]] - st.anchor_x, values[iy, found[0]] - st.anchor_y)
            e1 = fma(-st.slope, values[ix, found[1]] - st.anchor_x, values[iy, found[1]] - st.anchor_y)
            e2 = fma(-st.slope, values[ix, found[2]] - st.anchor_x, values[iy, found[2]] - st.anchor_y)
            st.anchor_y += _median(e0, e1, e2)
            _resum(values, iy, ix, step, window, st)
            # Where the legs move as one the slope itself was lost to cancellation: once more, from residuals.
            if see - sxe * (sxe / sxx) > 1e-6 * see:
                break
    _resum_z(values, iy, ix, step, z_window, st)


@inlined
def _residual(st: Any, sxx: float, sxe: float, see: float) -> float:
    """Return the residual sum of squares."""
    if st.sum_ee <= _EXACT * (st.slope * st.slope) * st.sum_xx:
        return 0.0
    rest = see - sxe * (sxe / sxx) if sxx > 0.0 else see
    return max(rest, 0.0)


@inlined
def _advance(
    values: Any,
    returns: Any,
    iy: int,
    ix: int,
    step: int,
    window: int,
    z_window: int,
    st: Any,
    found: Any,
) -> None:
    """Let observation `step` in and the ones that leave out, and see to it that no digits are lost."""
    depth = values.shape[1]
    first = st.first
    st.last = step
    c = step % depth
    if step - window >= first:
        leaving = c - window
        if leaving < 0:
            leaving += depth
        y = values[iy, leaving]
        x = values[ix, leaving]
        if _complete(y, x):
            st.count -= 1
            _add(st, y, x, -1.0)
        y = returns[iy, leaving]
        x = returns[ix, leaving]
        if _complete(y, x):
            st.return_count -= 1
            _add_return(st, y, x, -1.0)
    if step - z_window >= first:
        leaving = c - z_window
        if leaving < 0:
            leaving += depth
        y = values[iy, leaving]
        x = values[ix, leaving]
        if _complete(y, x):
            st.z_count -= 1
            _add_z(st, y, x, -1.0)
    y = values[iy, c]
    x = values[ix, c]
    if _complete(y, x):
        if st.count == 0 and st.z_count == 0:
            _clear(st)
            _clear_z(st)
            st.anchor_y = y
            st.anchor_x = x
            st.slope = 0.0
        st.count += 1
        _add(st, y, x, 1.0)
        st.z_count += 1
        _add_z(st, y, x, 1.0)
        st.peak_xx = max(st.peak_xx, st.sum_xx)
        st.peak_ee = max(st.peak_ee, st.sum_ee)
        st.z_peak_xx = max(st.z_peak_xx, st.z_xx)
        st.z_peak_ee = max(st.z_peak_ee, st.z_ee)
    y = returns[iy, c]
    x = returns[ix, c]
    if _complete(y, x):
        if st.return_count == 0:
            _clear_returns(st)
            st.return_anchor_y = y
            st.return_anchor_x = x
        st.return_count += 1
        _add_return(st, y, x, 1.0)
        st.return_peak_yy = max(st.return_peak_yy, st.return_yy)
        st.return_peak_xx = max(st.return_peak_xx, st.return_xx)

    if (step + st.phase) % window == 0:
        _anchor(values, iy, ix, step, window, z_window, st, found)
        _resum_returns(returns, iy, ix, step, window, st, found)
        st.retry = step
    elif step >= st.retry:
        if st.count >= 3 and _lost(st):
            _anchor(values, iy, ix, step, window, z_window, st, found)
            # Where even fresh sums look like this, looking again at each observation would cost a window
            # each.
            st.retry = step + max(1, window // 8) if _lost(st) else step
        if st.return_count >= 2 and _lost_returns(st):
            _resum_returns(returns, iy, ix, step, window, st, found)
            if _lost_returns(st):
                st.retry = step + max(1, window // 8)


@inlined
def _lost(st: Any) -> bool:
    """Tell whether a sum about the mean is so far below what went through it that digits are lost."""
    n = st.count
    sxx = st.sum_xx - st.sum_x * (st.sum_x / n)
    sxe = st.sum_xe - st.sum_x * (st.sum_e / n)
    see = st.sum_ee - st.sum_e * (st.sum_e / n)
    if sxx < _LOST * st.peak_xx or not sxx >= 0.0:
        return True
    return _residual(st, sxx, sxe, see) < _LOST * st.peak_ee and st.peak_ee > (
        _EXACT * (st.slope * st.slope) * st.sum_xx
    )


@inlined
def _lost_returns(st: Any) -> bool:
    n = st.return_count
    ryy = st.return_yy - st.return_y * (st.return_y / n)
    rxx = st.return_xx - st.return_x * (st.return_x / n)
    return not (ryy >= _LOST * st.return_peak_yy and rxx >= _LOST * st.return_peak_xx)


@inlined
def _spread_directly(
    values: Any, iy: int, ix: int, step: int, z_window: int, st: Any, change: float, moments: Any
) -> None:
    """Set the mean from the anchor and the sum of squares of the spread over the z window, in two passes."""
    depth = values.shape[1]
    begin = max(st.first, step - z_window + 1)
    origin = 0.0
    total = 0.0
    n = 0
    for s in range(begin, step + 1):
        y = values[iy, s % depth]
        x = values[ix, s % depth]
        if _complete(y, x):
            dx = x - st.anchor_x
            e = fma(-change, dx, fma(-st.slope, dx, y - st.anchor_y))
            if n == 0:
                origin = e
            total += e - origin
            n += 1
    mean = origin + total / n
    squares = 0.0
    for s in range(begin, step + 1):
        y = values[iy, s % depth]
        x = values[ix, s % depth]
        if _complete(y, x):
            dx = x - st.anchor_x
            e = fma(-change, dx, fma(-st.slope, dx, y - st.anchor_y)) - mean
            squares += e * e
    moments[0] = mean
    moments[1] = squares


@inlined
def _measure(
    values: Any, iy: int, ix: int, step: int, z_window: int, st: Any, moments: Any, row: Any
) -> None:
    """Fill a row from the sums."""
    nan = np.nan
    row.observations = st.count
    row.hedge_ratio = row.intercept = row.hedge_ratio_stderr = row.intercept_stderr = nan
    row.r_squared = row.spread = row.spread_mean = row.spread_std = row.z_score = row.correlation = nan
    row.return_correlation = row.volatility_y = row.volatility_x = nan

    n = st.count
    if n >= 3:
        mean_x = st.sum_x / n
        mean_e = st.sum_e / n
        sxx = st.sum_xx - st.sum_x * mean_x
        sxe = st.sum_xe - st.sum_x * mean_e
        see = st.sum_ee - st.sum_e * mean_e
        if sxx > 0.0:
            change = sxe / sxx
            beta = st.slope + change
            residual = _residual(st, sxx, sxe, see)
            explained = beta * beta * sxx
            syy = residual + explained
            offset = fma(-st.slope, st.anchor_x, st.anchor_y)  # of the line through the anchor
            centre = st.anchor_x + mean_x
            row.hedge_ratio = beta
            row.intercept = offset + mean_e - change * centre
            variance = residual / (n - 2)
            row.hedge_ratio_stderr = np.sqrt(variance / sxx)
            row.intercept_stderr = np.sqrt(variance * (1.0 / n + centre * centre / sxx))
            if syy > 0.0:
                row.r_squared = explained / syy
                row.correlation = np.copysign(np.sqrt(explained / syy), beta)

            c = step % values.shape[1]
            y = values[iy, c]
            x = values[ix, c]
            # y - beta x = offset + e - change (anchor_x + dx): the rounding of beta does not reach the spread
            level = offset - change * st.anchor_x
            here = nan
            if _complete(y, x):
                dx = x - st.anchor_x
                here = fma(-change, dx, fma(-st.slope, dx, y - st.anchor_y))
                row.spread = level + here
            m = st.z_count
            if step - st.first + 1 >= z_window and m >= 1:
                z_mean_x = st.z_x / m
                z_mean_e = st.z_e / m
                z_xx = st.z_xx - st.z_x * z_mean_x
                z_xe = st.z_xe - st.z_x * z_mean_e
                z_ee = st.z_ee - st.z_e * z_mean_e
                mean = z_mean_e - change * z_mean_x
                squares = z_ee - change * (2.0 * z_xe - change * z_xx)
                if not squares >= _LOST * (st.z_peak_ee + change * change * st.z_peak_xx):
                    _resum_z(values, iy, ix, step, z_window, st)
                    _spread_directly(values, iy, ix, step, z_window, st, change, moments)
                    mean = moments[0]
                    squares = moments[1]
                    if squares <= _EXACT * (beta * beta) * st.z_xx:
                        squares = 0.0
                row.spread_mean = level + mean
                row.spread_std = np.sqrt(squares / m)
                if squares > 0.0:
                    row.z_score = (here - mean) / row.spread_std

    n = st.return_count
    if n >= 2:
        ryy = max(st.return_yy - st.return_y * (st.return_y / n), 0.0)
        rxx = max(st.return_xx - st.return_x * (st.return_x / n), 0.0)
        rxy = st.return_xy - st.return_x * (st.return_y / n)
        row.volatility_y = np.sqrt(ryy / (n - 1))
        row.volatility_x = np.sqrt(rxx / (n - 1))
        if n >= 3 and ryy > 0.0 and rxx > 0.0:
            row.return_correlation = max(-1.0, min(1.0, rxy / (np.sqrt(ryy) * np.sqrt(rxx))))


@inlined
def _replay(
    values: Any, returns: Any, iy: int, ix: int, step: int, window: int, z_window: int, st: Any, found: Any
) -> None:
    """Bring the sums to `step` from the ring alone: from the last time they were due to be taken anew."""
    depth = values.shape[1]
    if st.first < 0 or st.first > step:
        s = max(0, step - depth + 1)
        while s < step and not _complete(values[iy, s % depth], values[ix, s % depth]):
            s += 1
        st.first = s
    _clear(st)
    _clear_z(st)
    _clear_returns(st)
    st.retry = 0
    start = max(st.first, step - (step + st.phase) % window)
    for s in range(start, step + 1):
        _advance(values, returns, iy, ix, s, window, z_window, st, found)


@kernel(types.void(_MATRIX, _MATRIX, _STEPS, _ROWS, _ROWS, _STEPS, types.int64, _STATES, _METRICS))
def update_pairs(
    values: NDArray[np.float64],
    returns: NDArray[np.float64],
    step: NDArray[np.int64],
    y: NDArray[np.int32],
    x: NDArray[np.int32],
    windows: NDArray[np.int64],
    z_window: int,
    state: Block,
    out: Block,
) -> None:
    """Roll every window of every pair on to its newest observation, and measure.

    Write the observation into column ``step % depth`` of both rings first. An observation where a leg is not
    finite takes its place in the windows but not in the sums. A statistic that is not defined is NaN: all of
    them below 3 complete observations, those of a leg that does not move, the z-score until its window is
    full. An observation that does not follow the last one (some were left out, or an older one was revised)
    is reached by the way of `rebuild_pairs`.

    Hedge ratio, intercept, standard errors and r_squared are those of ordinary least squares with intercept;
    spread = y - hedge_ratio * x; spread_mean and spread_std (population) are of the spread over the z window
    at the current hedge ratio; correlations are Pearson's, volatilities sample standard deviations of the
    returns.

    :arg values: float64[rows, depth], prices or their logarithms, as a ring: observation s in column s %
    depth,
        depth >= `depth_needed`.
    :arg returns: float64[rows, depth], returns, likewise.
    :arg step: int64[P], number of each pair's newest observation; -1 leaves the pair and its rows as they
    are.
    :arg y: int32[P], row of leg Y.
    :arg x: int32[P], row of leg X.
    :arg windows: int64[W], in observations, each at least 2.
    :arg z_window: Window of the z-score, in observations.
    :arg state: STATE[P, W] from `new_state`, changed in place.
    :arg out: METRIC[P, W]. Only ``observations`` and the statistics above are written.
    :raises ValueError: The ring is shallower than `depth_needed`, or a window is shorter than 2.
    """
    depth = values.shape[1]
    found = np.zeros(3, np.int64)
    moments = np.zeros(2)
    for k in range(len(windows)):
        if windows[k] < 2 or z_window < 1 or depth < windows[k] + max(windows[k], z_window):
            raise ValueError(
                "the ring is too shallow for its windows (see depth_needed), or a window below 2"
            )
    for p in range(len(step)):
        s = step[p]
        if s < 0:
            continue
        for k in range(len(windows)):
            st = state[p, k]
            if st.first < 0:
                st.first = s
                st.last = s - 1
            if s == st.last + 1:
                _advance(values, returns, y[p], x[p], s, windows[k], z_window, st, found)
            else:
                _replay(values, returns, y[p], x[p], s, windows[k], z_window, st, found)
            _measure(values, y[p], x[p], s, z_window, st, moments, out[p, k])


@kernel(types.void(_MATRIX, _MATRIX, _STEPS, _ROWS, _ROWS, _STEPS, types.int64, _STATES))
def rebuild_pairs(
    values: NDArray[np.float64],
    returns: NDArray[np.float64],
    step: NDArray[np.int64],
    y: NDArray[np.int32],
    x: NDArray[np.int32],
    windows: NDArray[np.int64],
    z_window: int,
    state: Block,
) -> None:
    """Bring the state to an observation from the rings alone, to the bit as if updates had led there.

    For a late revision: correct the column, rebuild at the observation before it, and update from there on.
    Or for a start from history: fill the rings and rebuild; a pair new to the state then begins at the oldest
    of the last `depth` columns where both legs are finite.

    Arguments as in `update_pairs`; columns of the last ``window + max(window, z_window)`` observations up to
    `step` must still be in the rings.

    :raises ValueError: As `update_pairs`.
    """
    depth = values.shape[1]
    found = np.zeros(3, np.int64)
    for k in range(len(windows)):
        if windows[k] < 2 or z_window < 1 or depth < windows[k] + max(windows[k], z_window):
            raise ValueError(
                "the ring is too shallow for its windows (see depth_needed), or a window below 2"
            )
    for p in range(len(step)):
        if step[p] >= 0:
            for k in range(len(windows)):
                _replay(values, returns, y[p], x[p], step[p], windows[k], z_window, state[p, k], found)
