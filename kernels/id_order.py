"""Tell trades that follow the last one of their symbol from those that came too early or twice."""

import numpy as np
from numpy.typing import NDArray

from kernels.compile import kernel


@kernel("(int64[:], int64[:], int32[:], int64[::1], int64[::1], boolean[::1], int64[::1], int64[::1])")
def sift(
    ids: NDArray[np.int64],
    times: NDArray[np.int64],
    symbols: NDArray[np.int32],
    last: NDArray[np.int64],
    last_time: NDArray[np.int64],
    blocked: NDArray[np.bool_],
    ready: NDArray[np.int64],
    held: NDArray[np.int64],
) -> tuple[int, int]:
    """Tell trades that can go on from those that must wait for lower ids; all others are duplicates.

    :arg ids: Id of each trade.
    :arg times: Its time, us.
    :arg symbols: Its symbol; a trade of a negative symbol is left out.
    :arg last: Last id of each symbol that went on, -1 if none did: any id can follow then. Is moved on.
    :arg last_time: Latest time of each symbol that went on, us. Is moved on.
    :arg blocked: Which symbols have trades that wait. Is set where one has to wait now.
    :arg ready: Receives the indices of trades that can go on, in the order of arrival.
    :arg held: Receives the indices of trades that must wait, in the order of arrival.
    :returns: How many indices were written to ``ready`` and to ``held``.
    """
    n_ready = 0
    n_held = 0
    for i in range(len(ids)):
        s = symbols[i]
        if s < 0:
            continue
        if not blocked[s] and (ids[i] == last[s] + 1 or last[s] < 0):
            last[s] = ids[i]
            last_time[s] = max(last_time[s], times[i])
            ready[n_ready] = i
            n_ready += 1
        elif ids[i] > last[s]:
            blocked[s] = True
            held[n_held] = i
            n_held += 1
    return n_ready, n_held
