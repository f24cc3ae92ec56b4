"""Signals of a pair's spread, with hysteresis: in beyond one z-score, out within a smaller one.

state = np.zeros((pairs, windows), np.int8)  # EXIT: flat
events = np.empty_like(state)
update_signals(out["z_score"], 2.0, 0.5, state, events)
for p, k in np.argwhere(events != NO_SIGNAL): ...
"""

import numpy as np
from numba import types
from numpy.typing import NDArray

from kernels.compile import kernel
from kernels.records import EXIT, LONG, SHORT

NO_SIGNAL = 2
"""Event code of a pair whose position did not change."""

_WRONG_THRESHOLDS = "thresholds of signals must be 0 <= exit < entry"

_POSITIONS = types.Array(types.int8, 2, "C")


@kernel(
    types.void(types.Array(types.float64, 2, "A"), types.float64, types.float64, _POSITIONS, _POSITIONS),
    allocates=False,
)
def update_signals(
    z_score: NDArray[np.float64],
    entry: float,
    exit_: float,
    state: NDArray[np.int8],
    events: NDArray[np.int8],
) -> None:
    """Move each position by its z-score, and tell which moved.

    From flat: SHORT where z > entry, LONG where z < -entry. From SHORT, back to flat (EXIT) where z < exit;
    from LONG where z > -exit: so a spread that jumps right across the band of exit is out as well. One that
    jumps beyond entry on the other side is reported once, by the side it enters; the exit is implied. A
    z-score that is NaN, or that comes again, changes nothing.

    :arg z_score: float64[P, W], of any strides, such as a column of METRIC rows.
    :arg entry: Threshold to enter, in standard deviations.
    :arg exit_: Threshold to leave, 0 <= exit < entry.
    :arg state: int8[P, W], the positions: SHORT, EXIT (flat; where to begin) or LONG; changed in place.
    :arg events: int8[P, W], filled with SHORT, EXIT, LONG or NO_SIGNAL.
    :raises ValueError: Thresholds are not 0 <= exit < entry.
    """
    if not 0.0 <= exit_ < entry:
        raise ValueError(_WRONG_THRESHOLDS)
    for p in range(state.shape[0]):
        for k in range(state.shape[1]):
            z = z_score[p, k]
            position = state[p, k]
            moved = position
            if z > entry:
                moved = SHORT
            elif z < -entry:
                moved = LONG
            elif (position == SHORT and z < exit_) or (position == LONG and z > -exit_):
                moved = EXIT
            events[p, k] = moved if moved != position else NO_SIGNAL
            state[p, k] = moved
