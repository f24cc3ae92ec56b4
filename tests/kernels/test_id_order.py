"""The sifting of trades by id, against the same rule in plain Python."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kernels.compile import warm_up
from kernels.id_order import sift

warm_up(sift)

TRADES = st.lists(st.tuples(st.integers(-1, 2), st.integers(0, 12), st.integers(0, 99)), max_size=40)
"""Symbol, id and time of each trade."""


@given(
    TRADES,
    st.lists(st.integers(-1, 6), min_size=3, max_size=3),
    st.lists(st.booleans(), min_size=3, max_size=3),
)
def test_each_trade_goes_on_waits_or_is_a_duplicate(
    trades: list[tuple[int, int, int]], before: list[int], waits: list[bool]
) -> None:
    last, blocked, times = list(before), list(waits), [50, 50, 50]
    ready, held = [], []
    for i, (symbol, identity, time) in enumerate(trades):
        if symbol < 0:
            continue
        follows = last[symbol] < 0 or identity == last[symbol] + 1
        if follows and not blocked[symbol]:
            ready.append(i)
            last[symbol] = identity
            times[symbol] = max(times[symbol], time)
        elif identity > last[symbol]:
            held.append(i)
            blocked[symbol] = True
    symbols, ids, stamps = (np.array([trade[field] for trade in trades], np.int64) for field in range(3))
    found_last, found_times = np.array(before, np.int64), np.full(3, 50, np.int64)
    found_blocked = np.array(waits)
    found_ready, found_held = np.empty((2, len(trades)), np.int64)
    counts = sift(
        ids, stamps, symbols.astype(np.int32), found_last, found_times, found_blocked, found_ready, found_held
    )
    assert counts == (len(ready), len(held))
    assert found_ready[: len(ready)].tolist() == ready
    assert found_held[: len(held)].tolist() == held
    assert (found_last.tolist(), found_times.tolist(), found_blocked.tolist()) == (last, times, blocked)
