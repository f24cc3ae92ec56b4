"""Roll many pairs over many observations in one call: what the flow does at each interval, without Python.

A `PairState` holds the rings and the state of all pairs of one timeframe. `roll_bars` takes closed bars: an
observation has the number of its interval. `roll_ticks` takes last prices: each pair counts its own
observations. Both give METRIC rows.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import from_dtype, typeof, types
from numpy.typing import NDArray

from kernels.compile import inlined, kernel
from kernels.hedge_ratios import (
    kalman_noise,
    new_kalman_state,
    new_rls_state,
    update_kalman,
    update_rls,
    update_tls,
)
from kernels.records import BAR, METHODS, METRIC, SIGNAL, Block
from kernels.rolling_ols import new_state, update_pairs
from kernels.signals import NO_SIGNAL, update_signals
from kernels.unit_root import fill_stationarity

_OLS, _RLS, _KALMAN, _TLS = range(4)
assert METHODS == ("ols", "rls", "kalman", "tls")


class PairState(NamedTuple):
    """Rings and state of P pairs with W windows and M methods; arrays are changed in place.

    :arg values: float64[rows, depth]; prices, or their logarithms: observation s in column s % depth.
    :arg returns: float64[rows, depth], likewise.
    :arg y: int32[P]; row of leg Y.
    :arg x: int32[P]; row of leg X.
    :arg windows: int64[W]; in observations, ascending.
    :arg methods: int64[M]; numbers of METHODS.
    :arg q: float64[W]; of the Kalman filter.
    :arg r: float64[W]; of the Kalman filter.
    :arg sums: STATE[P, W] of `kernels.rolling_ols`.
    :arg rls: RLS_STATE[P, W].
    :arg kalman: KALMAN_STATE[P, W].
    :arg ols: METRIC[P, W]; scratch.
    :arg rows: METRIC[M, P, W]; scratch; what identifies a row stands in it: pair, timeframe, window, method.
    :arg steps: int64[P]; scratch: the observation of the pairs that are measured, -1 for the others.
    :arg positions: int8[M, P, W]; of the signals.
    :arg events: int8[P, W]; scratch.
    :arg z_scores: float64[P, W]; scratch.
    """

    values: NDArray[np.float64]
    returns: NDArray[np.float64]
    y: NDArray[np.int32]
    x: NDArray[np.int32]
    windows: NDArray[np.int64]
    methods: NDArray[np.int64]
    q: NDArray[np.float64]
    r: NDArray[np.float64]
    sums: Block
    rls: Block
    kalman: Block
    ols: Block
    rows: Block
    steps: NDArray[np.int64]
    positions: NDArray[np.int8]
    events: NDArray[np.int8]
    z_scores: NDArray[np.float64]


class PairParameters(NamedTuple):
    """What does not change in a run.

    :arg z_window: window of the z-score, in observations.
    :arg log_prices: whether values are logarithms.
    :arg adf_lag: see `kernels.unit_root.fill_stationarity`.
    :arg z_entry: see `kernels.signals.update_signals`.
    :arg z_exit: likewise.
    """

    z_window: int
    log_prices: bool
    adf_lag: int
    z_entry: float
    z_exit: float


def new_pair_state(
    rows: int,
    depth: int,
    y: NDArray[np.int32],
    x: NDArray[np.int32],
    *,
    windows: NDArray[np.int64],
    methods: NDArray[np.int64],
    timeframe: int,
    kalman_q: float,
    kalman_r: float,
) -> PairState:
    """Return the state of pairs that have seen nothing.

    :arg rows: rows of the rings.
    :arg depth: columns of the rings.
    :arg y: int32[P]; row of leg Y.
    :arg x: int32[P]; row of leg X.
    :arg windows: int64[W]; in observations, ascending.
    :arg methods: int64[M]; numbers of METHODS.
    :arg timeframe: us; 0 for tick.
    :arg kalman_q: variance of a step; 0 for a memory as long as each window.
    :arg kalman_r: variance of the noise.
    """
    pairs = len(y)
    q, r = kalman_noise(windows, kalman_r)
    found = np.zeros((len(methods), pairs, len(windows)), METRIC)
    found["pair"] = np.arange(pairs)[:, None]
    found["window"] = windows
    found["timeframe"] = timeframe
    found["method"] = methods[:, None, None]
    for name in ("adf_statistic", "adf_p_value", "adf_lag", "half_life", "hurst", "variance_ratio"):
        found[name] = np.nan
    return PairState(
        values=np.full((rows, depth), np.nan),
        returns=np.full((rows, depth), np.nan),
        y=np.ascontiguousarray(y, np.int32),
        x=np.ascontiguousarray(x, np.int32),
        windows=windows,
        methods=methods,
        q=np.full_like(q, kalman_q) if kalman_q else q,
        r=r,
        sums=new_state(pairs, windows),
        rls=new_rls_state(pairs, windows),
        kalman=new_kalman_state(pairs, windows),
        ols=np.zeros((pairs, len(windows)), METRIC),
        rows=found,
        steps=np.full(pairs, -1, np.int64),
        positions=np.zeros(found.shape, np.int8),
        events=np.zeros(found.shape[1:], np.int8),
        z_scores=np.zeros(found.shape[1:]),
    )


_tuple: Any = types.Tuple  # untyped in numba
_type_of: Any = typeof
_FLOATS = types.Array(types.float64, 1, "C")
_MATRIX = types.Array(types.float64, 2, "C")
_INTS = types.Array(types.int64, 1, "C")
_BARS = types.Array(from_dtype(BAR), 1, "C", readonly=True)
_METRICS = types.Array(from_dtype(METRIC), 1, "C")
_SIGNALS = types.Array(from_dtype(SIGNAL), 1, "C")
_LEGS = types.Array(types.int32, 2, "C")
_FLAGS = types.Array(types.boolean, 1, "C")
_NOTHING = np.zeros(0, np.int32), np.zeros(0, np.int32)
_PAIR_STATE = _type_of(
    new_pair_state(
        0,
        0,
        *_NOTHING,
        windows=np.ones(1, np.int64),
        methods=np.zeros(0, np.int64),
        timeframe=0,
        kalman_q=0.0,
        kalman_r=1.0,
    )
)
_PARAMETERS = _type_of(PairParameters(1, False, 1, 2.0, 0.5))
_MEASURES = (update_pairs, update_rls, update_kalman, update_tls)


@inlined
def _put(state: Any, parameters: Any, row: int, step: int, price: float) -> None:
    """Write one price, and its return from the observation before, into the rings."""
    depth = state.values.shape[1]
    value = np.log(price) if parameters.log_prices else price
    earlier = state.values[row, (step - 1) % depth]
    state.values[row, step % depth] = value
    state.returns[row, step % depth] = value - earlier if parameters.log_prices else value / earlier - 1.0


@kernel(types.void(_PAIR_STATE, _PARAMETERS, _INTS, _INTS, _FLOATS))
def put_prices(
    state: PairState,
    parameters: PairParameters,
    rows: NDArray[np.int64],
    steps: NDArray[np.int64],
    prices: NDArray[np.float64],
) -> None:
    """Write prices, and their returns from the observations before them, into the rings of a PairState.

    :arg state: with the observations before.
    :arg parameters: of the run.
    :arg rows: int64[n]; rows of the rings.
    :arg steps: int64[n]; numbers of the observations, ascending for each row.
    :arg prices: float64[n]; as traded.
    """
    for i in range(len(rows)):
        _put(state, parameters, rows[i], steps[i], prices[i])


@inlined
def _measure(state: Any, parameters: Any, revised: bool) -> None:
    """Roll the pairs of `steps` on, by every method; filters cannot take an observation back."""
    update_pairs(
        state.values, state.returns, state.steps, state.y, state.x, state.windows, parameters.z_window,
        state.sums, state.ols,
    )  # fmt: skip
    for m in range(len(state.methods)):
        method = state.methods[m]
        if method == _RLS and not revised:
            update_rls(
                state.values, state.steps, state.y, state.x, state.windows, parameters.z_window,
                state.rls, state.ols, state.rows[m],
            )  # fmt: skip
        elif method == _KALMAN and not revised:
            update_kalman(
                state.values, state.steps, state.y, state.x, state.windows, parameters.z_window,
                state.q, state.r, state.kalman, state.ols, state.rows[m],
            )  # fmt: skip
        elif method == _TLS:
            update_tls(
                state.values, state.steps, state.y, state.x, state.windows, parameters.z_window,
                state.sums, state.ols, state.rows[m],
            )  # fmt: skip
        elif method == _OLS:
            for p in range(len(state.steps)):
                if state.steps[p] >= 0:
                    for k in range(len(state.windows)):
                        row, fit = state.rows[m, p, k], state.ols[p, k]
                        row.observations = fit.observations
                        row.hedge_ratio = fit.hedge_ratio
                        row.intercept = fit.intercept
                        row.hedge_ratio_stderr = fit.hedge_ratio_stderr
                        row.intercept_stderr = fit.intercept_stderr
                        row.r_squared = fit.r_squared
                        row.spread = fit.spread
                        row.spread_mean = fit.spread_mean
                        row.spread_std = fit.spread_std
                        row.z_score = fit.z_score
                        row.correlation = fit.correlation
                        row.return_correlation = fit.return_correlation
                        row.volatility_y = fit.volatility_y
                        row.volatility_x = fit.volatility_x


@inlined
def _write(
    state: Any, m: int, time: int, version: int, prices: Any, y: Any, x: Any, out: Any, used: int
) -> int:
    """Copy the rows of the pairs of `steps` by one method; prices are float64[rows], by leg y and x."""
    for p in range(len(state.steps)):
        if state.steps[p] >= 0:
            for k in range(len(state.windows)):
                row = state.rows[m, p, k]
                row.time = time
                row.version = version
                row.price_y = prices[y[p]]
                row.price_x = prices[x[p]]
                out[used] = row
                used += 1
    return used


@kernel(
    types.int64(
        _PAIR_STATE, _PARAMETERS, _FLOATS, types.int64, types.int64, types.int64, _METRICS, types.int64
    ),
    calls=(*_MEASURES, fill_stationarity),
)  # fmt: skip
def measure_bars(
    state: PairState,
    parameters: PairParameters,
    prices: NDArray[np.float64],
    time: int,
    version: int,
    revised: int,
    out: Block,
    used: int,
) -> int:
    """Measure the pairs of ``state.steps`` at one interval.

    :arg state: with the interval's column written.
    :arg parameters: of the run.
    :arg prices: float64[rows]; of the interval, as traded.
    :arg time: its open time, us.
    :arg version: of the rows.
    :arg revised: 1 when the interval is not new: filters, which cannot take it back, are left out.
    :arg out: METRIC block with room.
    :arg used: rows in it.
    :returns: rows in it now.
    """
    _measure(state, parameters, revised == 1)
    for m in range(len(state.methods)):
        method = state.methods[m]
        if revised == 1 and method in (_RLS, _KALMAN):
            continue
        fill_stationarity(
            state.values, state.steps, state.y, state.x, state.windows, parameters.adf_lag, state.rows[m]
        )
        used = _write(state, m, time, version, prices, state.y, state.x, out, used)
    return used


@kernel(
    _tuple((types.int64,) * 3)(
        _BARS, types.int64, _PAIR_STATE, _PARAMETERS, _MATRIX, _FLOATS, _INTS, _METRICS, _SIGNALS
    ),
    calls=(*_MEASURES, fill_stationarity, measure_bars, update_signals),
)  # fmt: skip
def roll_bars(
    bars: Block,
    timeframe: int,
    state: PairState,
    parameters: PairParameters,
    prices: NDArray[np.float64],
    now: NDArray[np.float64],
    latest: NDArray[np.int64],
    out: Block,
    signals: Block,
) -> tuple[int, int, int]:
    """File new bars and measure every interval, up to the first bar of an interval that was measured before.

    The observation's number is the interval's. An interval that has no bars leaves NaN in its column. Bars of
    version 0, from before the feed, give rows of version 0 and no signals, though positions follow them.

    :arg bars: BAR[n] of one timeframe; all bars of an interval follow each other.
    :arg timeframe: us.
    :arg state: rows of the rings are symbols.
    :arg parameters: of the run.
    :arg prices: float64[symbols, depth]; closes as traded, a ring like those of the state.
    :arg now: float64[symbols]; scratch.
    :arg latest: int64[1]; newest interval so far, -1 for none.
    :arg out: METRIC block with room for at least one interval, M * P * W rows.
    :arg signals: SIGNAL block with room for at least one interval.
    :returns: bars filed, and rows written to `out` and `signals`. Call again with the rest, if any.
    """
    depth = prices.shape[1]
    interval = len(state.methods) * len(state.steps) * len(state.windows)
    used = used_signals = i = 0
    while i < len(bars):
        step = bars[i].open_time // timeframe
        if step <= latest[0] or used + interval > len(out) or used_signals + interval > len(signals):
            break
        for gone in range(max(latest[0] + 1, step - depth + 1), step + 1):
            for row in range(len(prices)):
                prices[row, gone % depth] = np.nan
                state.values[row, gone % depth] = np.nan
                state.returns[row, gone % depth] = np.nan
        latest[0] = step
        version = min(bars[i].version, 1)
        now[:] = np.nan
        while i < len(bars) and bars[i].open_time // timeframe == step:
            row, price = bars[i].symbol, bars[i].close
            now[row] = price
            prices[row, step % depth] = price
            _put(state, parameters, row, step, price)
            i += 1
        for p in range(len(state.steps)):
            known = np.isfinite(now[state.y[p]]) and np.isfinite(now[state.x[p]])
            state.steps[p] = step if known else -1
        used = measure_bars(state, parameters, now, step * timeframe, version, 0, out, used)
        for m in range(len(state.methods)):
            for p in range(len(state.steps)):
                for k in range(len(state.windows)):
                    row = state.rows[m, p, k]
                    full = state.steps[p] >= 0 and row.observations == state.windows[k]
                    # A window that is not full says nothing yet.
                    state.z_scores[p, k] = row.z_score if full else np.nan
            update_signals(
                state.z_scores, parameters.z_entry, parameters.z_exit, state.positions[m], state.events
            )
            for p in range(len(state.steps)):
                for k in range(len(state.windows)):
                    if state.events[p, k] != NO_SIGNAL and version > 0:
                        row, signal = state.rows[m, p, k], signals[used_signals]
                        signal.time = row.time
                        signal.timeframe = row.timeframe
                        signal.window = row.window
                        signal.z_score = row.z_score
                        signal.hedge_ratio = row.hedge_ratio
                        signal.spread = row.spread
                        signal.price_y = row.price_y
                        signal.price_x = row.price_x
                        signal.version = row.version
                        signal.pair = row.pair
                        signal.method = row.method
                        signal.signal = state.events[p, k]
                        used_signals += 1
    return i, used, used_signals


@kernel(
    _tuple((types.int64, types.int64))(
        _BARS, _PAIR_STATE, _PARAMETERS, _FLOATS, _LEGS, _INTS, _FLAGS, _METRICS
    ),
    calls=_MEASURES,
)  # fmt: skip
def roll_ticks(
    ticks: Block,
    state: PairState,
    parameters: PairParameters,
    last: NDArray[np.float64],
    legs: NDArray[np.int32],
    counts: NDArray[np.int64],
    traded: NDArray[np.bool_],
    out: Block,
) -> tuple[int, int]:
    """Measure, at each interval in which a leg traded, the pairs that moved.

    :arg ticks: BAR[n], by open time; only symbols that traded.
    :arg state: rows of the rings are the pairs' legs: 2p and 2p + 1.
    :arg parameters: of the run.
    :arg last: float64[symbols]; last prices, NaN before the first.
    :arg legs: int32[P, 2]; symbols of legs Y and X.
    :arg counts: int64[P]; number of each pair's newest observation, -1 for none.
    :arg traded: bool[symbols]; scratch, all false.
    :arg out: METRIC block with room for at least one interval, M * P * W rows.
    :returns: ticks taken and rows written. Call again with the rest where it is not all.
    """
    interval = len(state.methods) * len(state.steps) * len(state.windows)
    used = i = 0
    y, x = legs[:, 0], legs[:, 1]
    while i < len(ticks) and used + interval <= len(out):
        first, time = i, ticks[i].open_time
        while i < len(ticks) and ticks[i].open_time == time:
            last[ticks[i].symbol] = ticks[i].close
            traded[ticks[i].symbol] = True
            i += 1
        for p in range(len(legs)):
            state.steps[p] = -1
            moved = traded[y[p]] or traded[x[p]]
            if not moved or not np.isfinite(last[y[p]]) or not np.isfinite(last[x[p]]):
                continue
            counts[p] += 1
            state.steps[p] = counts[p]
            for leg in range(2):
                _put(state, parameters, 2 * p + leg, counts[p], last[legs[p, leg]])
        _measure(state, parameters, False)
        for m in range(len(state.methods)):
            used = _write(state, m, time, 1, last, y, x, out, used)
        for j in range(first, i):
            traded[ticks[j].symbol] = False
    return i, used
