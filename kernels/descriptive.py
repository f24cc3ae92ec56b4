"""Descriptive statistics of returns over rolling windows: moments, extremes, exact quantiles.

    state, ordered = new_windows(rows, windows)
    update_descriptive(returns, step, windows, probabilities, state, ordered, out, quantiles)

Each window is kept in ascending order, so that an observation costs two binary searches and a short move, and
everything follows from the sorted window alone: extremes and quantiles are looked up, moments are taken in
two passes. So there is nothing to drift, and a result is a function of what is in the window, to the bit.
"""

from typing import Any

import numpy as np
from numba import from_dtype, types
from numpy.typing import ArrayLike, NDArray

from kernels.compile import inlined, kernel
from kernels.records import Block

DESCRIPTION = np.dtype(
    [
        ("count", np.int64),  # finite returns in the window
        ("mean", np.float64),
        ("std", np.float64),  # sample standard deviation, from 2 returns on
        ("skewness", np.float64),  # m3 / m2^1.5 of the population, as scipy.stats.skew; from 3 returns on
        ("kurtosis", np.float64),  # m4 / m2^2 - 3, as scipy.stats.kurtosis; from 4 returns on
        ("min", np.float64),
        ("max", np.float64),
    ]
)

WINDOW = np.dtype(
    [
        ("first", np.int64),  # number of the first observation; -1: none yet
        ("last", np.int64),  # number of the newest observation in the window
        ("count", np.int64),  # values in order
    ]
)

_WRONG_DEPTH = "the ring must be deeper than its longest window"

_WINDOWS = types.Array(from_dtype(WINDOW), 2, "C")
_DESCRIPTIONS = types.Array(from_dtype(DESCRIPTION), 2, "C")
_NUMBERS = types.Array(types.int64, 1, "C")
_CUBE = types.Array(types.float64, 3, "C")


def new_windows(rows: int, windows: ArrayLike) -> tuple[Block, NDArray[np.float64]]:
    """Return the state of rows that have seen nothing.

    :arg rows: Rows of the ring.
    :arg windows: Rolling windows, in observations.
    :returns: WINDOW[R, W] and the sorted windows, float64[R, W, longest window].
    """
    lengths = np.asarray(windows, np.int64)
    state = np.zeros((rows, len(lengths)), WINDOW)
    state["first"] = state["last"] = -1
    return state, np.zeros((rows, len(lengths), int(lengths.max())))


@inlined
def _place(ordered: Any, count: int, value: float) -> int:
    """Return how many of the sorted values are below a value."""
    low = 0
    high = count
    while low < high:
        middle = (low + high) >> 1
        if ordered[middle] < value:
            low = middle + 1
        else:
            high = middle
    return low


@inlined
def _insert(ordered: Any, count: int, value: float) -> None:
    place = _place(ordered, count, value)
    for i in range(count, place, -1):
        ordered[i] = ordered[i - 1]
    ordered[place] = value


@inlined
def _remove(ordered: Any, count: int, value: float) -> None:
    for i in range(_place(ordered, count, value), count - 1):
        ordered[i] = ordered[i + 1]


@inlined
def _describe(ordered: Any, count: int, row: Any) -> None:
    row.count = count
    row.mean = row.std = row.skewness = row.kurtosis = row.min = row.max = np.nan
    if count == 0:
        return
    row.min = ordered[0]
    row.max = ordered[count - 1]
    # From the middle value: equal returns have exactly no variance, and one absurd return spoils no digits.
    origin = ordered[count // 2]
    total = 0.0
    for i in range(count):
        total += ordered[i] - origin
    shift = total / count
    row.mean = origin + shift
    squares = cubes = fourths = 0.0
    for i in range(count):
        d = (ordered[i] - origin) - shift
        square = d * d
        squares += square
        cubes += square * d
        fourths += square * square
    if count > 1:
        row.std = np.sqrt(squares / (count - 1))
    if squares > 0.0:
        variance = squares / count
        if count > 2:
            row.skewness = cubes / count / (variance * np.sqrt(variance))
        if count > 3:
            row.kurtosis = fourths / count / (variance * variance) - 3.0


@kernel(
    types.void(
        types.Array(types.float64, 2, "C"),
        _NUMBERS,
        _NUMBERS,
        types.Array(types.float64, 1, "C"),
        _WINDOWS,
        _CUBE,
        _DESCRIPTIONS,
        _CUBE,
    ),
    allocates=False,
)
def update_descriptive(
    returns: NDArray[np.float64],
    step: NDArray[np.int64],
    windows: NDArray[np.int64],
    probabilities: NDArray[np.float64],
    state: Block,
    ordered: NDArray[np.float64],
    out: Block,
    quantiles: NDArray[np.float64],
) -> None:
    """Roll every window of every row on to its newest observation, and describe it.

    Write the observation into column ``step % depth`` of the ring first. An observation that is not finite
    takes its place in the window and counts for nothing. One that does not follow the last is reached by
    sorting the window anew; revise older columns only so. What is not defined is NaN.

    :arg returns: float64[R, depth], as a ring: observation s in column s % depth, depth > the longest window.
    :arg step: int64[R], number of each row's newest observation; -1 leaves the row as it is.
    :arg windows: int64[W], in observations.
    :arg probabilities: float64[Q], of the quantiles, in [0, 1]; linear between neighbours, numpy's default.
    :arg state: WINDOW[R, W] from `new_windows`, changed in place.
    :arg ordered: float64[R, W, longest window], likewise.
    :arg out: DESCRIPTION[R, W], filled.
    :arg quantiles: float64[R, W, Q], filled.
    :raises ValueError: The ring is not deeper than the longest window.
    """
    depth = returns.shape[1]
    for k in range(len(windows)):
        if windows[k] < 1 or windows[k] >= depth or windows[k] > ordered.shape[2]:
            raise ValueError(_WRONG_DEPTH)
    for r in range(len(step)):
        s = step[r]
        if s < 0:
            continue
        for k in range(len(windows)):
            st = state[r, k]
            values = ordered[r, k]
            if st.first < 0:
                st.first = s
                st.last = s - 1
            begin = s
            if s == st.last + 1:
                if s - windows[k] >= st.first:
                    value = returns[r, (s - windows[k]) % depth]
                    if value - value == 0.0:
                        _remove(values, st.count, value)
                        st.count -= 1
            else:
                st.first = min(st.first, s)
                st.count = 0
                begin = max(st.first, s - windows[k] + 1)
            for t in range(begin, s + 1):
                value = returns[r, t % depth]
                if value - value == 0.0:
                    _insert(values, st.count, value)
                    st.count += 1
            st.last = s
            _describe(values, st.count, out[r, k])
            for q in range(len(probabilities)):
                if st.count == 0:
                    quantiles[r, k, q] = np.nan
                else:
                    place = probabilities[q] * (st.count - 1)
                    low = min(int(place), st.count - 1)
                    high = min(low + 1, st.count - 1)
                    part = place - low
                    quantiles[r, k, q] = values[low] + part * (values[high] - values[low])
