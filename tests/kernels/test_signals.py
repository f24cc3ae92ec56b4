"""Signals with hysteresis."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.compile import warm_up
from kernels.records import EXIT, LONG, METRIC, SHORT
from kernels.signals import NO_SIGNAL, update_signals

warm_up(update_signals)

NAN = float("nan")


def events(z_scores: list[float], entry: float = 2.0, exit_: float = 0.5) -> list[int]:
    state, event = np.zeros((1, 1), np.int8), np.zeros((1, 1), np.int8)
    result = []
    for z in z_scores:
        update_signals(np.array([[z]]), entry, exit_, state, event)
        result.append(int(event[0, 0]))
    return result


@pytest.mark.parametrize(
    ("z_scores", "want"),
    [
        ([1.9, 2.0, 2.1, 3.0, 0.6, 0.5, 0.4], [2, 2, SHORT, 2, 2, 2, EXIT]),
        ([-1.9, -2.0, -2.1, -3.0, -0.6, -0.5, -0.4], [2, 2, LONG, 2, 2, 2, EXIT]),
        ([2.5, -1.0], [SHORT, EXIT]),  # right across the band of exit
        ([-2.5, 1.0], [LONG, EXIT]),
        ([2.5, -2.5, 2.5], [SHORT, LONG, SHORT]),  # the exit is implied
        ([2.5, NAN, 0.6, NAN, 0.4, NAN], [SHORT, 2, 2, 2, EXIT, 2]),
        ([NAN, 0.0, 0.4, 1.9, 0.4], [2, 2, 2, 2, 2]),
        ([2.5, 2.5, 0.1, 0.1], [SHORT, 2, EXIT, 2]),
        ([float("inf"), float("-inf")], [SHORT, LONG]),
    ],
)
def test_positions_move_as_documented(z_scores: list[float], want: list[int]) -> None:
    assert events(z_scores) == want


def test_an_exit_threshold_of_0_leaves_where_the_spread_crosses_its_mean() -> None:
    assert events([2.5, 0.1, 0.0, -0.1], exit_=0.0) == [SHORT, NO_SIGNAL, NO_SIGNAL, EXIT]


@given(st.lists(st.one_of(st.floats(-4, 4), st.just(NAN)), max_size=60))
def test_events_tell_the_positions_and_positions_obey_the_thresholds(z_scores: list[float]) -> None:
    position, positions = EXIT, [EXIT]
    for z, event in zip(z_scores, events(z_scores)):
        if event != NO_SIGNAL:
            assert event != position
            position = event
        positions.append(position)
        if z > 2.0:
            assert position == SHORT
        elif z < -2.0:
            assert position == LONG
        elif abs(z) < 0.5:
            assert position == EXIT
    for z, (before, after) in zip(z_scores, pairwise(positions)):
        if after in {SHORT, LONG} and before != after:
            assert abs(z) > 2.0


def test_columns_of_metric_rows_are_taken_as_they_are() -> None:
    rows = np.zeros((3, 2), METRIC)
    rows["z_score"] = [[3.0, -3.0], [0.0, NAN], [1.0, 2.5]]
    state, event = np.zeros((3, 2), np.int8), np.full((3, 2), 9, np.int8)
    update_signals(rows["z_score"], 2.0, 0.5, state, event)
    assert event.tolist() == [[SHORT, LONG], [2, 2], [2, SHORT]]
    assert state.tolist() == [[SHORT, LONG], [0, 0], [0, SHORT]]


@pytest.mark.parametrize(("entry", "exit_"), [(1.0, 1.0), (1.0, 2.0), (1.0, -0.1), (NAN, 0.5), (2.0, NAN)])
def test_thresholds_that_make_no_band_are_refused(entry: float, exit_: float) -> None:
    with pytest.raises(ValueError, match="0 <= exit < entry"):
        events([0.0], entry, exit_)
