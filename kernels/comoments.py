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

from typing import Any

import numpy as np
from numba import from_dtype, njit, types
from numba.extending import intrinsic
from numpy.typing import ArrayLike, NDArray

from kernels.compile import inlined, kernel
from kernels.records import METRIC, Block

STATE = np.dtype(
    [
        ("first", np.int64),  # number of the pair's first observation; -1: none yet
        ("last", np.int64),  # number of the newest observation in the sums
        ("phase", np.int64),  # the sums are taken anew when (number + phase) % window == 0
        ("due", np.int64),  # number of the observation when that is next
        ("retry", np.int64),  # number of the observation from which lost digits are looked for
        ("count", np.int64),  # complete observations in the window
        ("part", np.float64),  # 1 / count
        ("anchor_y", np.float64),
        ("anchor_x", np.float64),
        ("slope", np.float64),
        ("sum_x", np.float64),  # over the window, x from its anchor, e the residual
        ("sum_e", np.float64),
        ("sum_xx", np.float64),
        ("sum_xe", np.float64),
        ("sum_ee", np.float64),
        ("peak_xx", np.float64),  # the largest that sum_xx has been since it was taken anew
        ("peak_ee", np.float64),
        ("z_retry", np.int64),  # the same over the z window
        ("z_count", np.int64),
        ("z_part", np.float64),
        ("z_anchor_y", np.float64),
        ("z_anchor_x", np.float64),
        ("z_slope", np.float64),
        ("z_x", np.float64),
        ("z_e", np.float64),
        ("z_xx", np.float64),
        ("z_xe", np.float64),
        ("z_ee", np.float64),
        ("z_peak_xx", np.float64),
        ("z_peak_ee", np.float64),
        ("return_retry", np.int64),  # the same of returns, without a slope
        ("return_count", np.int64),
        ("return_part", np.float64),
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
"""What a pair carries from one observation to the next, for one window. Plain numbers: to bytes and back."""

# A sum about the mean below this part of the largest sum that went before is taken anew. Of the 16 digits of
# a double, 4 are given up here and 2 go to the rounding of some hundreds of additions: 10 are left.
_LOST = 1e-4

# Residuals below this part of slope * dx, (4 * 2**-53)**2 in squares, are the rounding of the slope itself:
# the legs lie on a line.
_LINE = 2e-31

Sums = tuple[float, float, float, float, float, float, float, float, float]
"""Means of x and e, Sxx and its inverse, beta - slope and the residual sum; z means of x and e, z squares."""

_WRONG_DEPTH = "windows must be at least 2, the z window 1, and the rings as deep as depth_needed says"

SYMBOL = np.dtype(
    [
        (
            "first",
            np.int64,
        ),  # number of the matrix's first observation; -1: none yet; the same in all symbols
        ("last", np.int64),  # number of the newest observation in the sums, likewise
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
def _clear(st: Any) -> None:
    st.count = 0
    st.part = 0.0
    st.anchor_y = st.anchor_x = st.slope = 0.0
    st.sum_x = st.sum_e = st.sum_xx = st.sum_xe = st.sum_ee = 0.0
    st.peak_xx = st.peak_ee = 0.0


@inlined
def _clear_z(st: Any) -> None:
    st.z_count = 0
    st.z_part = 0.0
    st.z_anchor_y = st.z_anchor_x = st.z_slope = 0.0
    st.z_x = st.z_e = st.z_xx = st.z_xe = st.z_ee = 0.0
    st.z_peak_xx = st.z_peak_ee = 0.0


@inlined
def _clear_returns(st: Any) -> None:
    st.return_count = 0
    st.return_part = 0.0
    st.return_anchor_y = st.return_anchor_x = 0.0
    st.return_y = st.return_x = st.return_yy = st.return_xy = st.return_xx = 0.0
    st.return_peak_yy = st.return_peak_xx = 0.0


@inlined
def _three(a: Any, iy: int, ix: int, begin: int, step: int) -> tuple[int, int, int]:
    """Return the columns of the oldest, a middle and the newest complete observation; -1 without any."""
    depth = a.shape[1]
    oldest = begin
    while oldest <= step and not _complete(a[iy, oldest % depth], a[ix, oldest % depth]):
        oldest += 1
    if oldest > step:
        return -1, -1, -1
    newest = step
    while not _complete(a[iy, newest % depth], a[ix, newest % depth]):
        newest -= 1
    middle = (oldest + newest) // 2
    while not _complete(a[iy, middle % depth], a[ix, middle % depth]):
        middle += 1
    return oldest % depth, middle % depth, newest % depth


@inlined
def _sum_anew(values: Any, iy: int, ix: int, begin: int, step: int, st: Any) -> None:
    """Take the sums over the window anew, about the anchors and slope of the state."""
    depth = values.shape[1]
    n = 0
    sx = se = sxx = sxe = see = 0.0
    c = begin % depth
    for _ in range(begin, step + 1):
        y = values[iy, c]
        x = values[ix, c]
        if _complete(y, x):
            dx = x - st.anchor_x
            e = fma(-st.slope, dx, y - st.anchor_y)
            n += 1
            sx += dx
            se += e
            sxx += dx * dx
            sxe += dx * e
            see += e * e
        c += 1
        if c == depth:
            c = 0
    st.count = n
    st.part = 1.0 / n
    st.sum_x = sx
    st.sum_e = se
    st.sum_xx = st.peak_xx = sxx
    st.sum_xe = sxe
    st.sum_ee = st.peak_ee = see


@njit(nogil=True, error_model="numpy")
def _anchor(values: Any, iy: int, ix: int, step: int, window: int, st: Any) -> None:
    """Take anchors, slope and sums of prices anew from the window."""
    begin = max(st.first, step - window + 1)
    a, b, c = _three(values, iy, ix, begin, step)
    if a < 0:
        _clear(st)
        return
    # Medians of three prices of the window: near the others even when one print is absurd, and equal to them
    # when all are the same, so that sums are exactly 0.
    st.anchor_y = _median(values[iy, a], values[iy, b], values[iy, c])
    st.anchor_x = _median(values[ix, a], values[ix, b], values[ix, c])
    st.slope = 0.0
    _sum_anew(values, iy, ix, begin, step, st)
    for _ in range(2):
        n = st.count
        sxx = st.sum_xx - st.sum_x * (st.sum_x / n)
        sxe = st.sum_xe - st.sum_x * (st.sum_e / n)
        see = st.sum_ee - st.sum_e * (st.sum_e / n)
        if n < 2 or not sxx > _LOST * _LOST * st.sum_xx:
            break
        st.slope += sxe / sxx
        # The two medians may come from different observations, off the line: move the anchor onto it.
        st.anchor_y += _median(
            fma(-st.slope, values[ix, a] - st.anchor_x, values[iy, a] - st.anchor_y),
            fma(-st.slope, values[ix, b] - st.anchor_x, values[iy, b] - st.anchor_y),
            fma(-st.slope, values[ix, c] - st.anchor_x, values[iy, c] - st.anchor_y),
        )
        _sum_anew(values, iy, ix, begin, step, st)
        # Where the legs move as one, the slope itself suffered: once more, from residuals.
        if see - sxe * (sxe / sxx) > 1e-8 * see:
            break


@njit(nogil=True, error_model="numpy")
def _anchor_z(values: Any, iy: int, ix: int, step: int, z_window: int, slope: float, st: Any) -> None:
    """Take the sums over the z window anew, for a slope, from anchors in the window."""
    depth = values.shape[1]
    begin = max(st.first, step - z_window + 1)
    a, b, c = _three(values, iy, ix, begin, step)
    _clear_z(st)
    if a < 0:
        return
    st.z_slope = slope
    st.z_anchor_y = _median(values[iy, a], values[iy, b], values[iy, c])
    st.z_anchor_x = _median(values[ix, a], values[ix, b], values[ix, c])
    st.z_anchor_y += _median(
        fma(-slope, values[ix, a] - st.z_anchor_x, values[iy, a] - st.z_anchor_y),
        fma(-slope, values[ix, b] - st.z_anchor_x, values[iy, b] - st.z_anchor_y),
        fma(-slope, values[ix, c] - st.z_anchor_x, values[iy, c] - st.z_anchor_y),
    )
    n = 0
    sx = se = sxx = sxe = see = 0.0
    c = begin % depth
    for _ in range(begin, step + 1):
        y = values[iy, c]
        x = values[ix, c]
        if _complete(y, x):
            dx = x - st.z_anchor_x
            e = fma(-slope, dx, y - st.z_anchor_y)
            n += 1
            sx += dx
            se += e
            sxx += dx * dx
            sxe += dx * e
            see += e * e
        c += 1
        if c == depth:
            c = 0
    st.z_count = n
    st.z_part = 1.0 / n
    st.z_x = sx
    st.z_e = se
    st.z_xx = st.z_peak_xx = sxx
    st.z_xe = sxe
    st.z_ee = st.z_peak_ee = see


@njit(nogil=True, error_model="numpy")
def _anchor_returns(returns: Any, iy: int, ix: int, step: int, window: int, st: Any) -> None:
    """Take the sums of returns anew, from anchors in the window."""
    depth = returns.shape[1]
    begin = max(st.first, step - window + 1)
    a, b, c = _three(returns, iy, ix, begin, step)
    _clear_returns(st)
    if a < 0:
        return
    st.return_anchor_y = _median(returns[iy, a], returns[iy, b], returns[iy, c])
    st.return_anchor_x = _median(returns[ix, a], returns[ix, b], returns[ix, c])
    n = 0
    sx = sy = sxx = sxy = syy = 0.0
    c = begin % depth
    for _ in range(begin, step + 1):
        y = returns[iy, c]
        x = returns[ix, c]
        if _complete(y, x):
            dy = y - st.return_anchor_y
            dx = x - st.return_anchor_x
            n += 1
            sx += dx
            sy += dy
            sxx += dx * dx
            sxy += dx * dy
            syy += dy * dy
        c += 1
        if c == depth:
            c = 0
    st.return_count = n
    st.return_part = 1.0 / n
    st.return_x = sx
    st.return_y = sy
    st.return_xx = st.return_peak_xx = sxx
    st.return_xy = sxy
    st.return_yy = st.return_peak_yy = syy


@inlined
def _moments(st: Any) -> tuple[float, float, float, float, float, float]:
    """Return means of x and e, the sum of x x about them, its inverse, beta - slope and the residual sum."""
    mean_x = st.sum_x * st.part
    mean_e = st.sum_e * st.part
    sxx = st.sum_xx - st.sum_x * mean_x
    sxe = st.sum_xe - st.sum_x * mean_e
    see = st.sum_ee - st.sum_e * mean_e
    inverse = 1.0 / sxx if sxx > 0.0 else 0.0
    change = sxe * inverse
    return mean_x, mean_e, sxx, inverse, change, see - sxe * change


@inlined
def _lost(st: Any, sxx: float, residual: float) -> bool:
    """Tell whether a sum is so far below what went through it that digits are lost; also where it is NaN."""
    return not (
        sxx >= _LOST * st.peak_xx
        and (residual >= _LOST * st.peak_ee or st.peak_ee <= _LINE * st.slope * st.slope * st.peak_xx)
    )


@inlined
def _z_moments(st: Any, beta: float, change: float) -> tuple[float, float, float]:
    """Return the means of x and e over the z window, and the sum of squares of the spread about its mean."""
    change += st.slope - st.z_slope
    mean_x = st.z_x * st.z_part
    mean_e = st.z_e * st.z_part
    xx = st.z_xx - st.z_x * mean_x
    xe = st.z_xe - st.z_x * mean_e
    ee = st.z_ee - st.z_e * mean_e
    return mean_x, mean_e, ee - change * (2.0 * xe - change * xx)


@inlined
def _z_lost(st: Any, change: float, squares: float) -> bool:
    change += st.slope - st.z_slope
    through = st.z_peak_ee + change * change * st.z_peak_xx
    return not (squares >= _LOST * through or through <= _LINE * st.slope * st.slope * st.z_peak_xx)


@inlined
def _settle(values: Any, iy: int, ix: int, step: int, window: int, z_window: int, st: Any) -> Sums:
    """See to it that no digits are lost, and sum up."""
    if step == st.due:
        _anchor(values, iy, ix, step, window, st)
        _anchor_z(values, iy, ix, step, z_window, st.slope, st)
        st.due = step + window
        st.retry = st.z_retry = st.return_retry = step
    if st.count < 3:
        return 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    mean_x, mean_e, sxx, inverse, change, residual = _moments(st)
    if step >= st.retry and _lost(st, sxx, residual):
        _anchor(values, iy, ix, step, window, st)
        mean_x, mean_e, sxx, inverse, change, residual = _moments(st)
        if _lost(st, sxx, residual):
            # Even fresh sums look like this: looking again at each observation would cost a window each.
            st.retry = step + 1 + window // 8
    beta = st.slope + change
    if st.sum_ee <= _LINE * st.slope * st.slope * st.sum_xx:
        residual = 0.0
    residual = max(residual, 0.0)

    z_mean_x = z_mean_e = squares = 0.0
    if st.z_count > 0 and step - st.first + 1 >= z_window:
        z_mean_x, z_mean_e, squares = _z_moments(st, beta, change)
        if step >= st.z_retry and _z_lost(st, change, squares):
            _anchor_z(values, iy, ix, step, z_window, beta, st)
            z_mean_x, z_mean_e, squares = _z_moments(st, beta, change)
            if _z_lost(st, change, squares):
                st.z_retry = step + 1 + z_window // 8
        if not squares > _LINE * beta * beta * st.z_xx:
            squares = 0.0
    return mean_x, mean_e, sxx, inverse, change, residual, z_mean_x, z_mean_e, squares


@inlined
def _advance(values: Any, iy: int, ix: int, c: int, step: int, window: int, z_window: int, st: Any) -> Sums:
    """Let observation `step` in and those that leave out, and sum up."""
    depth = values.shape[1]
    # The state stays in memory; the sums of one observation are added in one go, so that each goes through
    # memory once.
    n = st.count
    sx = st.sum_x
    se = st.sum_e
    sxx = st.sum_xx
    sxe = st.sum_xe
    see = st.sum_ee
    anchor_y = st.anchor_y
    anchor_x = st.anchor_x
    slope = st.slope
    z_n = st.z_count
    zx = st.z_x
    ze = st.z_e
    zxx = st.z_xx
    zxe = st.z_xe
    zee = st.z_ee
    z_anchor_y = st.z_anchor_y
    z_anchor_x = st.z_anchor_x
    z_slope = st.z_slope
    if step - window >= st.first:
        leaving = c - window
        if leaving < 0:
            leaving += depth
        y = values[iy, leaving]
        x = values[ix, leaving]
        if _complete(y, x):
            dx = x - anchor_x
            e = fma(-slope, dx, y - anchor_y)
            n -= 1
            sx -= dx
            se -= e
            sxx -= dx * dx
            sxe -= dx * e
            see -= e * e
    if step - z_window >= st.first:
        leaving = c - z_window
        if leaving < 0:
            leaving += depth
        y = values[iy, leaving]
        x = values[ix, leaving]
        if _complete(y, x):
            dx = x - z_anchor_x
            e = fma(-z_slope, dx, y - z_anchor_y)
            z_n -= 1
            zx -= dx
            ze -= e
            zxx -= dx * dx
            zxe -= dx * e
            zee -= e * e
    y = values[iy, c]
    x = values[ix, c]
    if _complete(y, x):
        if n == 0:
            st.anchor_y = anchor_y = y
            st.anchor_x = anchor_x = x
            st.slope = slope = 0.0
            sx = se = sxx = sxe = see = 0.0
            st.peak_xx = st.peak_ee = 0.0
        if z_n == 0:
            st.z_anchor_y = z_anchor_y = y
            st.z_anchor_x = z_anchor_x = x
            st.z_slope = z_slope = slope
            zx = ze = zxx = zxe = zee = 0.0
            st.z_peak_xx = st.z_peak_ee = 0.0
        dx = x - anchor_x
        e = fma(-slope, dx, y - anchor_y)
        n += 1
        sx += dx
        se += e
        sxx += dx * dx
        sxe += dx * e
        see += e * e
        st.peak_xx = max(st.peak_xx, sxx)
        st.peak_ee = max(st.peak_ee, see)
        dx = x - z_anchor_x
        e = fma(-z_slope, dx, y - z_anchor_y)
        z_n += 1
        zx += dx
        ze += e
        zxx += dx * dx
        zxe += dx * e
        zee += e * e
        st.z_peak_xx = max(st.z_peak_xx, zxx)
        st.z_peak_ee = max(st.z_peak_ee, zee)
    st.last = step
    if n != st.count:
        st.count = n
        st.part = 1.0 / n if n > 0 else 0.0
    st.sum_x = sx
    st.sum_e = se
    st.sum_xx = sxx
    st.sum_xe = sxe
    st.sum_ee = see
    if z_n != st.z_count:
        st.z_count = z_n
        st.z_part = 1.0 / z_n if z_n > 0 else 0.0
    st.z_x = zx
    st.z_e = ze
    st.z_xx = zxx
    st.z_xe = zxe
    st.z_ee = zee

    return _settle(values, iy, ix, step, window, z_window, st)


@inlined
def _advance_returns(
    returns: Any, iy: int, ix: int, c: int, step: int, window: int, due: bool, st: Any
) -> None:
    """Let the returns of observation `step` in and those that leave out."""
    n = st.return_count
    sx = st.return_x
    sy = st.return_y
    sxx = st.return_xx
    sxy = st.return_xy
    syy = st.return_yy
    if step - window >= st.first:
        leaving = c - window
        if leaving < 0:
            leaving += returns.shape[1]
        y = returns[iy, leaving]
        x = returns[ix, leaving]
        if _complete(y, x):
            dy = y - st.return_anchor_y
            dx = x - st.return_anchor_x
            n -= 1
            sx -= dx
            sy -= dy
            sxx -= dx * dx
            sxy -= dx * dy
            syy -= dy * dy
    y = returns[iy, c]
    x = returns[ix, c]
    if _complete(y, x):
        if n == 0:
            st.return_anchor_y = y
            st.return_anchor_x = x
            sx = sy = sxx = sxy = syy = 0.0
            st.return_peak_yy = st.return_peak_xx = 0.0
        dy = y - st.return_anchor_y
        dx = x - st.return_anchor_x
        n += 1
        sx += dx
        sy += dy
        sxx += dx * dx
        sxy += dx * dy
        syy += dy * dy
        st.return_peak_yy = max(st.return_peak_yy, syy)
        st.return_peak_xx = max(st.return_peak_xx, sxx)
    if n != st.return_count:
        st.return_count = n
        st.return_part = 1.0 / n if n > 0 else 0.0
    st.return_x = sx
    st.return_y = sy
    st.return_xx = sxx
    st.return_xy = sxy
    st.return_yy = syy
    if due:
        _anchor_returns(returns, iy, ix, step, window, st)
    elif st.return_count >= 2 and step >= st.return_retry and _returns_lost(st):
        _anchor_returns(returns, iy, ix, step, window, st)
        if _returns_lost(st):
            st.return_retry = step + 1 + window // 8


@inlined
def _returns_lost(st: Any) -> bool:
    part = st.return_part
    return not (
        st.return_yy - st.return_y * (st.return_y * part) >= _LOST * st.return_peak_yy
        and st.return_xx - st.return_x * (st.return_x * part) >= _LOST * st.return_peak_xx
    )


@inlined
def _begin(st: Any, step: int, window: int) -> None:
    """Make a pair begin at an observation."""
    st.first = step
    st.last = step - 1
    st.due = step + (window - (step + st.phase) % window) % window
    st.retry = st.z_retry = st.return_retry = step


@inlined
def _measure(
    values: Any,
    iy: int,
    ix: int,
    c: int,
    step: int,
    z_window: int,
    st: Any,
    sums: Sums,
) -> tuple[float, float, float, float, float, float, float, float, float, float]:
    """Return what METRIC says of hedge ratio, spread and correlation, in the order of its fields."""
    mean_x, mean_e, sxx, inverse, change, residual, z_mean_x, z_mean_e, squares = sums
    beta = alpha = beta_error = alpha_error = r_squared = correlation = np.nan
    spread = spread_mean = spread_std = z_score = np.nan
    n = st.count
    if n >= 3 and sxx > 0.0:
        beta = st.slope + change
        # Of y - beta x = (anchor_y - slope anchor_x) - change anchor_x + e - change dx no part is large
        # beside the spread, so the rounding of beta itself does not reach it.
        level = fma(-st.slope, st.anchor_x, st.anchor_y) - change * st.anchor_x
        alpha = level + (mean_e - change * mean_x)
        variance = residual / (n - 2)
        centre = st.anchor_x + mean_x
        beta_error = np.sqrt(variance * inverse)
        alpha_error = np.sqrt(variance * (st.part + centre * centre * inverse))
        explained = beta * beta * sxx
        total = residual + explained
        if total > 0.0:
            r_squared = explained / total
            correlation = np.copysign(np.sqrt(r_squared), beta)
        y = values[iy, c]
        x = values[ix, c]
        here = np.nan
        z_change = change + (st.slope - st.z_slope)
        if _complete(y, x):
            dx = x - st.anchor_x
            spread = level + fma(-change, dx, fma(-st.slope, dx, y - st.anchor_y))
            dx = x - st.z_anchor_x
            here = fma(-z_change, dx, fma(-st.z_slope, dx, y - st.z_anchor_y))
        if step - st.first + 1 >= z_window and st.z_count > 0:
            mean = z_mean_e - z_change * z_mean_x
            dx = st.z_anchor_x - st.anchor_x
            origin = fma(-change, dx, fma(-st.slope, dx, st.z_anchor_y - st.anchor_y))
            spread_mean = level + origin + mean
            spread_std = np.sqrt(squares * st.z_part)
            if squares > 0.0:
                z_score = (here - mean) / spread_std
    return (
        beta, alpha, beta_error, alpha_error, r_squared, spread, spread_mean, spread_std, z_score,
        correlation,
    )  # fmt: skip


@inlined
def _measure_returns(st: Any) -> tuple[float, float, float]:
    """Return correlation and volatilities of the returns."""
    correlation = volatility_y = volatility_x = np.nan
    n = st.return_count
    if n >= 2:
        part = st.return_part
        syy = max(st.return_yy - st.return_y * (st.return_y * part), 0.0)
        sxx = max(st.return_xx - st.return_x * (st.return_x * part), 0.0)
        sxy = st.return_xy - st.return_x * (st.return_y * part)
        part = 1.0 / (n - 1)
        volatility_y = np.sqrt(syy * part)
        volatility_x = np.sqrt(sxx * part)
        if n >= 3 and syy > 0.0 and sxx > 0.0:
            correlation = max(-1.0, min(1.0, sxy * part / (volatility_y * volatility_x)))
    return correlation, volatility_y, volatility_x


@njit(nogil=True, error_model="numpy")
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
    _clear(st)
    _clear_z(st)
    _clear_returns(st)
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
            sums = _advance(values, iy, ix, c, s, window, z_window, st)
            _advance_returns(returns, iy, ix, c, s, window, due, st)
            measured = _measure(values, iy, ix, c, s, z_window, st, sums)
            row.observations = st.count
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
            row.return_correlation, row.volatility_y, row.volatility_x = _measure_returns(st)


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
        sums = _advance(values, y, x, s, s, window, z_window, st)
        measured = _measure(values, y, x, s, s, z_window, st, sums)
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


@njit(nogil=True, error_model="numpy")
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


@njit(nogil=True, error_model="numpy")
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


@njit(nogil=True, error_model="numpy")
def _measure_pair(
    values: Any, iy: int, ix: int, step: int, window: int, z_window: int, first: int, st: Any
) -> tuple[float, float, float, float]:
    """Measure one pair from the ring alone, with all care."""
    st.first = first
    st.due = -1
    st.retry = st.z_retry = step
    _anchor(values, iy, ix, step, window, st)
    _anchor_z(values, iy, ix, step, z_window, st.slope, st)
    sums = _settle(values, iy, ix, step, window, z_window, st)
    measured = _measure(values, iy, ix, step % values.shape[1], step, z_window, st, sums)
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
