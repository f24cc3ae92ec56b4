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
one print is absurd, or when two legs move as one. Here the sums are of dx = x - anchor_x and of the residual
e = (y - anchor_y) - slope * dx, for a slope close to the hedge ratio: neighbouring floats subtract exactly,
and a fused multiply-add rounds e once. Everything follows from these sums: beta = slope + Sxe / Sxx, the
residual sum of squares is See - Sxe^2 / Sxx, and Syy is that + beta^2 Sxx, which is why a correlation never
leaves [-1, 1].

Anchors and slope are taken anew from the window, and the sums with them, every `window` observations. The
schedule follows the number of the observation, spread evenly over the pairs, so that no bar is slower than
another and the state is a function of the last 2 * window observations alone, to the bit: however the process
got there, by updates, by `rebuild_pairs`, or by a restart in between. Sums that have lost digits meanwhile
(an absurd print has left the window, a market has gone quiet) are noticed, because they are small beside the
largest they have been, and are taken anew at once.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
from numba import from_dtype, njit, types
from numba.extending import intrinsic
from numpy.typing import ArrayLike, NDArray

from kernels.compile import inlined, kernel
from kernels.records import METRIC, Block

F = TypeVar("F", bound=Callable[..., Any])

SUMS = np.dtype(
    [
        ("count", np.int64),  # complete observations
        ("part", np.float64),  # 1 / count
        ("retry", np.int64),  # number of the observation from which lost digits are looked for
        ("anchor_y", np.float64),
        ("anchor_x", np.float64),
        ("slope", np.float64),
        ("x", np.float64),  # sum of dx = x - anchor_x, e = (y - anchor_y) - slope * dx, and their products
        ("e", np.float64),
        ("xx", np.float64),
        ("xe", np.float64),
        ("ee", np.float64),
        ("peak_xx", np.float64),  # the largest that xx has been since it was taken anew
        ("peak_ee", np.float64),
    ]
)
"""Sums over a rolling window, about an anchor and a slope."""

STATE = np.dtype(
    [
        ("first", np.int64),  # number of the pair's first observation; -1: none yet
        ("last", np.int64),  # number of the newest observation in the sums
        ("phase", np.int64),  # the sums are taken anew when (number + phase) % window == 0
        ("due", np.int64),  # number of the observation when that is next
        ("prices", SUMS),  # over the window
        ("z", SUMS),  # of prices over the z window
        ("returns", SUMS),  # over the window; their slope is 0
    ]
)
"""What a pair carries from one observation to the next, for one window. Plain numbers: to bytes and back."""

# A sum about the mean below this part of the largest sum that went before is taken anew. Of the 16 digits of
# a double, 4 are given up here and 2 go to the rounding of some hundreds of additions: 10 are left.
_LOST = 1e-4

# Residuals below this part of slope * dx, (4 * 2**-53)**2 in squares, are the rounding of the slope itself:
# the legs lie on a line.
_LINE = 2e-31

Settled = tuple[float, float, float, float, float]
"""Sxx and its inverse, beta - slope, and the sums of squares of residuals and of spreads in the z window."""

_WRONG_DEPTH = "windows must be at least 2, the z window 1, and the rings as deep as depth_needed says"

SYMBOL = np.dtype(
    [
        ("first", np.int64),  # as in STATE, the same for all symbols
        ("last", np.int64),
        ("retry", np.int64),  # number of the observation from which lost digits are looked for
        ("count", np.int64),  # finite observations in the window
        ("anchor", np.float64),
        ("sum_x", np.float64),  # over the window, x from its anchor
        ("sum_xx", np.float64),
        ("peak_xx", np.float64),
    ]
)
"""What a symbol carries from one observation to the next in the matrix form."""

# Pairs whose residual is less than this part of Y's variance are measured with residual sums, not products.
_LINEAR = 1e-7

_STATE_TYPE = from_dtype(STATE)
_SYMBOLS = types.Array(from_dtype(SYMBOL), 1, "C")
_MATRIX = types.Array(types.float64, 2, "C")
_VECTOR = types.Array(types.float64, 1, "C")
_STEPS = types.Array(types.int64, 1, "C")
_ROWS = types.Array(types.int32, 1, "C")
_STATES = types.Array(_STATE_TYPE, 2, "C")
_METRICS = types.Array(from_dtype(METRIC), 2, "C")


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
    # Multiples of the golden ratio fill [0, 1) evenly, whichever pairs a worker has.
    state["phase"] = (numbers[:, None] * 0.6180339887498949 % 1.0 * lengths).astype(np.int64)
    return state


def _called(function: F) -> F:
    """Declare a helper too large, or too seldom called, to be a part of each kernel; it makes no arrays."""
    options: Any = {"nogil": True, "error_model": "numpy", "_nrt": False}
    return cast(F, njit(**options)(function))


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
def _complete(y: float, x: float) -> bool:
    """Tell whether both are finite."""
    both = y + x
    return bool(both - both == 0.0)


@inlined
def _clear(sums: Any) -> None:
    sums.count = 0
    sums.part = sums.anchor_y = sums.anchor_x = sums.slope = 0.0
    sums.x = sums.e = sums.xx = sums.xe = sums.ee = sums.peak_xx = sums.peak_ee = 0.0


@inlined
def _slide(
    values: Any, iy: int, ix: int, c: int, step: int, window: int, first: int, slope: float, sums: Any
) -> None:
    """Let observation `step`, in column `c`, in, and the one that leaves the window out."""
    n = sums.count
    sx = sums.x
    se = sums.e
    sxx = sums.xx
    sxe = sums.xe
    see = sums.ee
    if step - window >= first:
        leaving = c - window
        if leaving < 0:
            leaving += values.shape[1]
        y = values[iy, leaving]
        x = values[ix, leaving]
        if _complete(y, x):
            dx = x - sums.anchor_x
            e = fma(-sums.slope, dx, y - sums.anchor_y)
            n -= 1
            sx -= dx
            se -= e
            sxx -= dx * dx
            sxe -= dx * e
            see -= e * e
    y = values[iy, c]
    x = values[ix, c]
    if _complete(y, x):
        if n == 0:
            sums.anchor_y = y
            sums.anchor_x = x
            sums.slope = slope
            sums.peak_xx = sums.peak_ee = 0.0
            sx = se = sxx = sxe = see = 0.0
        dx = x - sums.anchor_x
        e = fma(-sums.slope, dx, y - sums.anchor_y)
        n += 1
        sx += dx
        se += e
        sxx += dx * dx
        sxe += dx * e
        see += e * e
        sums.peak_xx = max(sums.peak_xx, sxx)
        sums.peak_ee = max(sums.peak_ee, see)
    if n != sums.count:  # rarely: a division takes as long as ten additions
        sums.count = n
        sums.part = 1.0 / n if n > 0 else 0.0
    sums.x = sx
    sums.e = se
    sums.xx = sxx
    sums.xe = sxe
    sums.ee = see


@inlined
def _three(values: Any, iy: int, ix: int, begin: int, step: int) -> tuple[int, int, int]:
    """Return the columns of the oldest, a middle and the newest complete observation; -1 without any."""
    depth = values.shape[1]
    oldest = begin
    while oldest <= step and not _complete(values[iy, oldest % depth], values[ix, oldest % depth]):
        oldest += 1
    if oldest > step:
        return -1, -1, -1
    newest = step
    while not _complete(values[iy, newest % depth], values[ix, newest % depth]):
        newest -= 1
    middle = (oldest + newest) // 2
    while not _complete(values[iy, middle % depth], values[ix, middle % depth]):
        middle += 1
    return oldest % depth, middle % depth, newest % depth


@_called
def _anchor(values: Any, iy: int, ix: int, begin: int, step: int, slope: float, sums: Any) -> None:
    """Take the sums from `begin` to `step` anew, for a slope, about an anchor among the observations."""
    _clear(sums)
    a, b, c = _three(values, iy, ix, begin, step)
    if a < 0:
        return
    # Medians of three: near the others even when one print is absurd, and equal to them when all are the
    # same, so that sums are exactly 0.
    anchor_x = _median(values[ix, a], values[ix, b], values[ix, c])
    anchor_y = _median(values[iy, a], values[iy, b], values[iy, c])
    # They may come from different observations, off the line of that slope: move the anchor onto it.
    anchor_y += _median(
        fma(-slope, values[ix, a] - anchor_x, values[iy, a] - anchor_y),
        fma(-slope, values[ix, b] - anchor_x, values[iy, b] - anchor_y),
        fma(-slope, values[ix, c] - anchor_x, values[iy, c] - anchor_y),
    )
    n = 0
    sx = se = sxx = sxe = see = 0.0
    depth = values.shape[1]
    c = begin % depth
    for _ in range(begin, step + 1):
        y = values[iy, c]
        x = values[ix, c]
        if _complete(y, x):
            dx = x - anchor_x
            e = fma(-slope, dx, y - anchor_y)
            n += 1
            sx += dx
            se += e
            sxx += dx * dx
            sxe += dx * e
            see += e * e
        c += 1
        if c == depth:
            c = 0
    sums.count = n
    sums.part = 1.0 / n
    sums.anchor_y = anchor_y
    sums.anchor_x = anchor_x
    sums.slope = slope
    sums.x = sx
    sums.e = se
    sums.xx = sums.peak_xx = sxx
    sums.xe = sxe
    sums.ee = sums.peak_ee = see


@inlined
def _about_mean(sums: Any) -> tuple[float, float, float]:
    """Return the sums of x x, x e and e e about the means."""
    mean_x = sums.x * sums.part
    return sums.xx - sums.x * mean_x, sums.xe - sums.e * mean_x, sums.ee - sums.e * (sums.e * sums.part)


@_called
def _fit(values: Any, iy: int, ix: int, begin: int, step: int, sums: Any) -> None:
    """Take the sums from `begin` to `step` anew, for the slope of least squares."""
    _anchor(values, iy, ix, begin, step, 0.0, sums)
    sxx, sxe, _ = _about_mean(sums)
    if sums.count >= 2 and sxx > _LOST * _LOST * sums.xx:
        _anchor(values, iy, ix, begin, step, sxe / sxx, sums)


@inlined
def _on_line(sums: Any) -> bool:
    """Tell whether residuals are no more than the rounding of the slope."""
    return bool(sums.ee <= _LINE * sums.slope * sums.slope * sums.xx)


@inlined
def _prices_lost(sums: Any, sxx: float, residual: float) -> bool:
    """Tell whether a sum is so far below what went through it that digits are lost; also where it is NaN."""
    return not (sxx >= _LOST * sums.peak_xx and (residual >= _LOST * sums.peak_ee or _on_line(sums)))


@inlined
def _returns_lost(sums: Any) -> bool:
    sxx, _, syy = _about_mean(sums)
    return not (sxx >= _LOST * sums.peak_xx and syy >= _LOST * sums.peak_ee)


@inlined
def _spread_squares(sums: Any, change: float) -> tuple[float, bool]:
    """Return the sum of squares of y - (slope + change) x about its mean, and whether digits are lost."""
    sxx, sxe, see = _about_mean(sums)
    squares = see - change * (2.0 * sxe - change * sxx)
    through = sums.peak_ee + change * change * sums.peak_xx
    return squares, not (
        squares >= _LOST * through or through <= _LINE * sums.slope * sums.slope * sums.peak_xx
    )


@inlined
def _settle(values: Any, iy: int, ix: int, step: int, window: int, z_window: int, st: Any) -> Settled:
    """See to it that no digits are lost, and sum up."""
    prices = st.prices
    z = st.z
    begin = max(st.first, step - window + 1)
    z_begin = max(st.first, step - z_window + 1)
    if step == st.due:
        _fit(values, iy, ix, begin, step, prices)
        _anchor(values, iy, ix, z_begin, step, prices.slope, z)
        st.due = step + window
        prices.retry = z.retry = step
    if prices.count < 3:
        return 0.0, 0.0, 0.0, 0.0, 0.0
    sxx, sxe, see = _about_mean(prices)
    inverse = 1.0 / sxx if sxx > 0.0 else 0.0
    change = sxe * inverse
    residual = see - sxe * change
    if step >= prices.retry and _prices_lost(prices, sxx, residual):
        _fit(values, iy, ix, begin, step, prices)
        sxx, sxe, see = _about_mean(prices)
        inverse = 1.0 / sxx if sxx > 0.0 else 0.0
        change = sxe * inverse
        residual = see - sxe * change
        if _prices_lost(prices, sxx, residual):
            # Even fresh sums look like this: looking again at each observation would cost a window each.
            prices.retry = step + 1 + window // 8
    if _on_line(prices):
        residual = 0.0

    squares = 0.0
    if z.count > 0 and step - st.first + 1 >= z_window:
        beta = prices.slope + change
        squares, lost = _spread_squares(z, change + (prices.slope - z.slope))
        if lost and step >= z.retry:
            _anchor(values, iy, ix, z_begin, step, beta, z)
            squares, lost = _spread_squares(z, change + (prices.slope - z.slope))
            if lost:
                z.retry = step + 1 + z_window // 8
        if not squares > _LINE * beta * beta * z.xx:
            squares = 0.0
    return sxx, inverse, change, max(residual, 0.0), squares


@inlined
def _advance(
    values: Any, iy: int, ix: int, c: int, step: int, window: int, z_window: int, st: Any
) -> Settled:
    """Roll the sums of prices on to observation `step`, and sum up."""
    _slide(values, iy, ix, c, step, window, st.first, 0.0, st.prices)
    _slide(values, iy, ix, c, step, z_window, st.first, st.prices.slope, st.z)
    st.last = step
    return _settle(values, iy, ix, step, window, z_window, st)


@inlined
def _advance_returns(
    returns: Any, iy: int, ix: int, c: int, step: int, window: int, due: bool, st: Any
) -> None:
    """Roll the sums of returns on to observation `step`."""
    sums = st.returns
    _slide(returns, iy, ix, c, step, window, st.first, 0.0, sums)
    lost = sums.count >= 2 and step >= sums.retry and _returns_lost(sums)
    if due or lost:
        _anchor(returns, iy, ix, max(st.first, step - window + 1), step, 0.0, sums)
        sums.retry = step + 1 + window // 8 if sums.count >= 2 and _returns_lost(sums) else step


@inlined
def _begin(st: Any, step: int, window: int) -> None:
    """Make a pair begin at an observation."""
    st.first = step
    st.last = step - 1
    st.due = step + (window - (step + st.phase) % window) % window
    st.prices.retry = st.z.retry = st.returns.retry = step


@inlined
def _measure(
    values: Any,
    iy: int,
    ix: int,
    c: int,
    step: int,
    z_window: int,
    st: Any,
    settled: Settled,
) -> tuple[float, float, float, float, float, float, float, float, float, float]:
    """Return what METRIC says of hedge ratio, spread and correlation, in the order of its fields."""
    sxx, inverse, change, residual, squares = settled
    prices = st.prices
    z = st.z
    beta = alpha = beta_error = alpha_error = r_squared = correlation = np.nan
    spread = spread_mean = spread_std = z_score = np.nan
    n = prices.count
    if n >= 3 and sxx > 0.0:
        beta = prices.slope + change
        mean_x = prices.x * prices.part
        # Of y - beta x = (anchor_y - slope anchor_x) - change anchor_x + e - change dx no part is large
        # beside the spread, so the rounding of beta itself does not reach it.
        level = fma(-prices.slope, prices.anchor_x, prices.anchor_y) - change * prices.anchor_x
        alpha = level + (prices.e * prices.part - change * mean_x)
        variance = residual / (n - 2)
        centre = prices.anchor_x + mean_x
        beta_error = np.sqrt(variance * inverse)
        alpha_error = np.sqrt(variance * (prices.part + centre * centre * inverse))
        explained = beta * beta * sxx
        total = residual + explained
        if total > 0.0:
            r_squared = explained / total
            correlation = np.copysign(np.sqrt(r_squared), beta)
        y = values[iy, c]
        x = values[ix, c]
        here = np.nan
        z_change = change + (prices.slope - z.slope)
        if _complete(y, x):
            dx = x - prices.anchor_x
            spread = level + fma(-change, dx, fma(-prices.slope, dx, y - prices.anchor_y))
            dx = x - z.anchor_x
            here = fma(-z_change, dx, fma(-z.slope, dx, y - z.anchor_y))
        if step - st.first + 1 >= z_window and z.count > 0:
            mean = (z.e - z_change * z.x) * z.part
            dx = z.anchor_x - prices.anchor_x
            origin = fma(-change, dx, fma(-prices.slope, dx, z.anchor_y - prices.anchor_y))
            spread_mean = level + origin + mean
            spread_std = np.sqrt(squares * z.part)
            if squares > 0.0:
                z_score = (here - mean) / spread_std
    return (
        beta,
        alpha,
        beta_error,
        alpha_error,
        r_squared,
        spread,
        spread_mean,
        spread_std,
        z_score,
        correlation,
    )


@inlined
def _measure_returns(sums: Any) -> tuple[float, float, float]:
    """Return correlation and volatilities of the returns."""
    correlation = volatility_y = volatility_x = np.nan
    n = sums.count
    if n >= 2:
        sxx, sxy, syy = _about_mean(sums)
        sxx = max(sxx, 0.0)
        syy = max(syy, 0.0)
        part = 1.0 / (n - 1)
        volatility_y = np.sqrt(syy * part)
        volatility_x = np.sqrt(sxx * part)
        if n >= 3 and syy > 0.0 and sxx > 0.0:
            correlation = max(-1.0, min(1.0, sxy * part / (volatility_y * volatility_x)))
    return correlation, volatility_y, volatility_x


@_called
def _replay(
    values: Any, returns: Any, iy: int, ix: int, step: int, end: int, window: int, z_window: int, st: Any
) -> None:
    """Bring the sums to just before `end` from the rings, by the way that ends at `step`."""
    depth = values.shape[1]
    first = st.first
    if first < 0 or first > step:
        first = max(0, step - depth + 1)
        while first < step and not _complete(values[iy, first % depth], values[ix, first % depth]):
            first += 1
    # What came before the sums were last taken anew leaves no trace in them.
    start = max(first, step - (step + st.phase) % window)
    _clear(st.prices)
    _clear(st.z)
    _clear(st.returns)
    _begin(st, start, window)
    st.first = first
    for s in range(start, end):
        due = s == st.due
        _advance(values, iy, ix, s % depth, s, window, z_window, st)
        _advance_returns(returns, iy, ix, s % depth, s, window, due, st)


@kernel(
    types.void(_MATRIX, _MATRIX, _STEPS, _ROWS, _ROWS, _STEPS, types.int64, _STATES, _METRICS),
    allocates=False,
)
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

    :arg values: float64[rows, depth], prices or their logarithms, as a ring: observation s in column
        s % depth, depth at least `depth_needed`.
    :arg returns: float64[rows, depth], returns, likewise.
    :arg step: int64[P], number of each pair's newest observation; -1 leaves the pair and its rows alone.
    :arg y: int32[P], row of leg Y.
    :arg x: int32[P], row of leg X.
    :arg windows: int64[W], in observations, each at least 2.
    :arg z_window: Window of the z-score, in observations.
    :arg state: STATE[P, W] from `new_state`, changed in place.
    :arg out: METRIC[P, W]. Only ``observations`` and the statistics above are written.
    :raises ValueError: The rings are shallower than `depth_needed`, or a window is too short.
    """
    depth = values.shape[1]
    for k in range(len(windows)):
        if windows[k] < 2 or z_window < 1 or depth < windows[k] + max(windows[k], z_window):
            raise ValueError(_WRONG_DEPTH)
    c = 0
    previous = -1
    for p in range(len(step)):
        s = step[p]
        if s < 0:
            continue
        if s != previous:
            previous = s
            c = s % depth
        iy = y[p]
        ix = x[p]
        for k in range(len(windows)):
            window = windows[k]
            st = state[p, k]
            row = out[p, k]
            if st.first < 0:
                _begin(st, s, window)
            if s != st.last + 1:
                _replay(values, returns, iy, ix, s, s, window, z_window, st)
            due = s == st.due
            settled = _advance(values, iy, ix, c, s, window, z_window, st)
            _advance_returns(returns, iy, ix, c, s, window, due, st)
            measured = _measure(values, iy, ix, c, s, z_window, st, settled)
            row.observations = st.prices.count
            row.hedge_ratio = measured[0]
            row.intercept = measured[1]
            row.hedge_ratio_stderr = measured[2]
            row.intercept_stderr = measured[3]
            row.r_squared = measured[4]
            row.spread = measured[5]
            row.spread_mean = measured[6]
            row.spread_std = measured[7]
            row.z_score = measured[8]
            row.correlation = measured[9]
            row.return_correlation, row.volatility_y, row.volatility_x = _measure_returns(st.returns)


@kernel(types.void(_MATRIX, _MATRIX, _STEPS, _ROWS, _ROWS, _STEPS, types.int64, _STATES), allocates=False)
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
    For a start from history: fill the rings and rebuild; a pair new to the state then begins at the oldest of
    the last `depth` columns where both legs are finite.

    Arguments are those of `update_pairs`; the columns of the last `depth_needed` observations up to `step`
    must still be in the rings.

    :raises ValueError: As `update_pairs`.
    """
    depth = values.shape[1]
    for k in range(len(windows)):
        if windows[k] < 2 or z_window < 1 or depth < windows[k] + max(windows[k], z_window):
            raise ValueError(_WRONG_DEPTH)
    for p in range(len(step)):
        if step[p] >= 0:
            for k in range(len(windows)):
                _replay(values, returns, y[p], x[p], step[p], step[p] + 1, windows[k], z_window, state[p, k])


@kernel(types.void(_MATRIX, *(types.int64,) * 4, *(_VECTOR,) * 4, _STATES), allocates=False)
def roll_pair(
    values: NDArray[np.float64],
    y: int,
    x: int,
    window: int,
    z_window: int,
    hedge_ratio: NDArray[np.float64],
    spread: NDArray[np.float64],
    z_score: NDArray[np.float64],
    correlation: NDArray[np.float64],
    state: Block,
) -> None:
    """Measure a pair at every observation of a history, to the bit as `update_pairs` does one at a time.

    :arg values: float64[rows, T], prices or their logarithms.
    :arg y: Row of leg Y.
    :arg x: Row of leg X.
    :arg window: Rolling window, in observations, at least 2.
    :arg z_window: Window of the z-score, in observations.
    :arg hedge_ratio: float64[T], filled, as are the following.
    :arg spread: float64[T].
    :arg z_score: float64[T].
    :arg correlation: float64[T].
    :arg state: STATE[1, 1] from `new_state`, of which only the sums of prices are used.
    :raises ValueError: A window is too short.
    """
    if window < 2 or z_window < 1:
        raise ValueError(_WRONG_DEPTH)
    st = state[0, 0]
    if st.first < 0:
        _begin(st, 0, window)
    for s in range(values.shape[1]):
        settled = _advance(values, y, x, s, s, window, z_window, st)
        measured = _measure(values, y, x, s, s, z_window, st, settled)
        hedge_ratio[s] = measured[0]
        spread[s] = measured[5]
        z_score[s] = measured[8]
        correlation[s] = measured[9]


def new_matrix(symbols: int) -> tuple[Block, NDArray[np.float64]]:
    """Return the state of `update_all_pairs` for symbols that have shown nothing.

    :arg symbols: How many, N.
    :returns: SYMBOL[N], and sums of products float64[N, N].
    """
    state = np.zeros(symbols, SYMBOL)
    state["first"] = state["last"] = -1
    return state, np.zeros((symbols, symbols))


@_called
def _anchor_symbol(
    values: Any, i: int, step: int, window: int, symbols: Any, products: Any, own: Any
) -> None:
    """Take the anchor of a symbol, its sums and its products with all others anew from the window."""
    depth = values.shape[1]
    st = symbols[i]
    begin = max(st.first, step - window + 1)
    a, b, c = _three(values, i, i, begin, step)
    st.anchor = _median(values[i, a], values[i, b], values[i, c]) if a >= 0 else 0.0
    st.count = 0
    st.sum_x = st.sum_xx = 0.0
    for s in range(begin, step + 1):
        d = values[i, s % depth] - st.anchor
        if d - d != 0.0:
            d = 0.0
        else:
            st.count += 1
        own[s - begin] = d
        st.sum_x += d
        st.sum_xx += d * d
    st.peak_xx = st.sum_xx
    start = begin % depth
    length = step + 1 - begin
    turn = min(length, depth - start)
    for j in range(values.shape[0]):
        # Four sums side by side: one alone would wait for each addition.
        anchor = symbols[j].anchor
        p0 = p1 = p2 = p3 = 0.0
        for k in range(0, length, 4):
            if k + 4 <= turn or (k >= turn and k + 4 <= length):
                at = start + k if k < turn else k - turn
                d0 = values[j, at] - anchor
                d1 = values[j, at + 1] - anchor
                d2 = values[j, at + 2] - anchor
                d3 = values[j, at + 3] - anchor
                p0 += own[k] * (d0 if d0 - d0 == 0.0 else 0.0)
                p1 += own[k + 1] * (d1 if d1 - d1 == 0.0 else 0.0)
                p2 += own[k + 2] * (d2 if d2 - d2 == 0.0 else 0.0)
                p3 += own[k + 3] * (d3 if d3 - d3 == 0.0 else 0.0)
            else:
                for m in range(k, min(k + 4, length)):
                    d0 = values[j, start + m if m < turn else m - turn] - anchor
                    p0 += own[m] * (d0 if d0 - d0 == 0.0 else 0.0)
        products[min(i, j), max(i, j)] = (p0 + p1) + (p2 + p3)


@_called
def _roll_symbols(
    values: Any, step: int, window: int, symbols: Any, products: Any, entering: Any, leaving: Any
) -> None:
    """Let the newest observation of all symbols into their sums and products, and the oldest out."""
    n, depth = values.shape
    c = step % depth
    old = (step - window) % depth
    full = step - window >= symbols[0].first
    for i in range(n):
        st = symbols[i]
        st.last = step
        x = values[i, old] - st.anchor
        leaving[i] = 0.0
        if full and x - x == 0.0:
            leaving[i] = x
            st.count -= 1
            st.sum_x -= x
            st.sum_xx -= x * x
        x = values[i, c]
        entering[i] = 0.0
        if x - x == 0.0:
            if st.count == 0:
                st.anchor = x
                st.sum_x = st.sum_xx = st.peak_xx = 0.0
                leaving[i] = 0.0
                for j in range(n):
                    products[min(i, j), max(i, j)] = 0.0
            entering[i] = x = x - st.anchor
            st.count += 1
            st.sum_x += x
            st.sum_xx += x * x
            st.peak_xx = max(st.peak_xx, st.sum_xx)
    for i in range(n):
        product = products[i]
        a = entering[i]
        b = -leaving[i]
        for j in range(i + 1, n):
            product[j] = fma(b, leaving[j], fma(a, entering[j], product[j]))


@_called
def _measure_pair(
    values: Any, iy: int, ix: int, step: int, window: int, z_window: int, first: int, st: Any
) -> tuple[float, float, float, float]:
    """Measure one pair from the ring alone, with all care."""
    st.first = first
    st.due = step
    settled = _settle(values, iy, ix, step, window, z_window, st)
    measured = _measure(values, iy, ix, step % values.shape[1], step, z_window, st, settled)
    return measured[0], measured[5], measured[8], measured[9]


@kernel(types.void(_MATRIX, *(types.int64,) * 3, _SYMBOLS, _MATRIX, *(_VECTOR,) * 4))
def update_all_pairs(
    values: NDArray[np.float64],
    step: int,
    window: int,
    z_window: int,
    symbols: Block,
    products: NDArray[np.float64],
    hedge_ratio: NDArray[np.float64],
    spread: NDArray[np.float64],
    z_score: NDArray[np.float64],
    correlation: NDArray[np.float64],
) -> None:
    """Measure every pair of N symbols at their newest observation.

    The same definitions as `update_pairs`, for screening: four plain columns instead of wide rows, which for
    79,800 pairs would be 18 MB a bar to write and most of the time. Pair p is (Y, X) = (i, j), i < j, in the
    order of ``np.triu_indices(N, 1)``.

    Sums of products of all pairs about an anchor of each symbol are rolled, and those of a symbol are taken
    anew, with its anchor, every `window` observations, symbols taking turns. The spread is taken over the z
    window directly, at N * N * z_window / 2 fused operations. A pair with an incomplete leg, or whose legs
    move as one, is measured from the ring alone instead, which takes about 100 times as long as the others.

    :arg values: float64[N, depth], the ring of `update_pairs`, newest observation written; depth above both
        windows.
    :arg step: Number of the newest observation. One that does not follow the last takes all sums anew, and
        the first begins at the oldest of the last `depth` columns where any symbol is finite.
    :arg window: Rolling window, in observations, at least 2.
    :arg z_window: Window of the z-score, in observations.
    :arg symbols: SYMBOL[N] from `new_matrix`, changed in place.
    :arg products: float64[N, N], likewise.
    :arg hedge_ratio: float64[N * (N - 1) / 2], filled, as are the following.
    :arg spread: As hedge_ratio.
    :arg z_score: As hedge_ratio.
    :arg correlation: As hedge_ratio.
    :raises ValueError: The ring is not deeper than both windows, or a window is too short.
    """
    n, depth = values.shape
    if window < 2 or z_window < 1 or depth <= max(window, z_window):
        raise ValueError(_WRONG_DEPTH)
    if n == 0:
        return
    scratch = np.zeros(1, STATE)
    st = scratch[0]
    one = np.empty(max(n, window))
    two = np.empty(n)
    first = symbols[0].first
    if first < 0:
        first = max(0, step - depth + 1)
        while first < step and not np.isfinite(values[:, first % depth]).any():
            first += 1
        symbols["first"][:] = first
        symbols["last"][:] = first - 1
    if step == symbols[0].last + 1:
        _roll_symbols(values, step, window, symbols, products, one, two)
        for i in range(n):
            symbol = symbols[i]
            due = (step + int(i * 0.6180339887498949 % 1.0 * window)) % window == 0
            lost = False
            if symbol.count >= 2 and step >= symbol.retry:
                sxx = symbol.sum_xx - symbol.sum_x * (symbol.sum_x / symbol.count)
                lost = not sxx >= _LOST * symbol.peak_xx
            if due or lost:
                _anchor_symbol(values, i, step, window, symbols, products, one)
                symbol.retry = step + 1 + (window // 8 if lost else 0)
    else:
        first = min(first, step)
        symbols["first"][:] = first
        symbols["last"][:] = step
        for i in range(n):
            _anchor_symbol(values, i, step, window, symbols, products, one)
        for i in range(n):  # again, now that all others have their anchors
            _anchor_symbol(values, i, step, window, symbols, products, one)

    available = min(window, step - first + 1)
    inside = step - first + 1 >= z_window
    c = step % depth
    back = np.empty((z_window, n))  # x before less x now: exact, and the newest spread is the origin
    clean = np.zeros(n, np.bool_)
    mean = np.empty(n)
    inverse = np.empty(n)
    root = np.empty(n)
    now = np.empty(n)
    for i in range(n):
        symbol = symbols[i]
        clean[i] = symbol.count == available
        now[i] = values[i, c]
        for k in range(z_window):
            back[k, i] = values[i, (step - k) % depth] - now[i]
            if inside and back[k, i] - back[k, i] != 0.0:
                clean[i] = False
        mean[i] = symbol.sum_x / available
        sxx = symbol.sum_xx - symbol.sum_x * mean[i]
        if sxx > 0.0 and available >= 3:
            inverse[i] = 1.0 / sxx
            root[i] = np.sqrt(inverse[i])
        else:
            inverse[i] = root[i] = np.nan
    beta = np.empty(n)
    total = np.empty(n)
    squares = np.empty(n)
    part = 1.0 / z_window
    base = 0
    for i in range(n):
        base -= i + 1
        product = products[i]
        sum_y = symbols[i].sum_x
        root_y = root[i]
        y = now[i]
        for j in range(i + 1, n):
            sxy = product[j] - sum_y * mean[j]
            beta[j] = sxy * inverse[j]
            correlation[base + j] = sxy * (root_y * root[j])
            hedge_ratio[base + j] = beta[j]
            spread[base + j] = fma(-beta[j], now[j], y)
            total[j] = squares[j] = 0.0
        if inside:
            for k in range(1, z_window):
                before = back[k]
                back_y = before[i]
                for j in range(i + 1, n):
                    e = fma(-beta[j], before[j], back_y)
                    total[j] += e
                    squares[j] = fma(e, e, squares[j])
            for j in range(i + 1, n):
                e = total[j] * part
                z_score[base + j] = -e / np.sqrt(squares[j] * part - e * e)
        else:
            for j in range(i + 1, n):
                z_score[base + j] = np.nan
        for j in range(i + 1, n):
            p = base + j
            if symbols[i].count < 3 or symbols[j].count < 3:
                hedge_ratio[p] = spread[p] = z_score[p] = correlation[p] = np.nan
            elif not (clean[i] and clean[j]) or 1.0 - correlation[p] * correlation[p] <= _LINEAR:
                hedge_ratio[p], spread[p], z_score[p], correlation[p] = _measure_pair(
                    values, i, j, step, window, z_window, first, st
                )
        base += n
