"""Descriptive statistics of rolling windows, against numpy and scipy."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kernels.compile import warm_up
from kernels.descriptive import DESCRIPTION, WINDOW, new_windows, update_descriptive
from kernels.records import Block

warm_up(update_descriptive)

Floats = NDArray[np.float64]

PROBABILITIES = np.array([0.0, 0.05, 0.5, 0.9, 1.0])


class Stream:
    """Rows of returns, fed an observation at a time."""

    def __init__(self, rows: int, windows: list[int]) -> None:
        self.windows = np.array(windows)
        self.ring = np.full((rows, max(windows) + 5), np.nan)
        self.state, self.ordered = new_windows(rows, windows)
        self.out = np.zeros((rows, len(windows)), DESCRIPTION)
        self.quantiles = np.zeros((rows, len(windows), len(PROBABILITIES)))

    def push(self, step: int, returns: Floats) -> tuple[Block, Floats]:
        self.ring[:, step % self.ring.shape[1]] = returns
        self.update(np.full(len(self.ring), step))
        return self.out, self.quantiles

    def update(self, step: NDArray[np.int64]) -> None:
        update_descriptive(
            self.ring, step, self.windows, PROBABILITIES, self.state, self.ordered, self.out, self.quantiles
        )


def assert_describes(row: Block, quantiles: Floats, window: Floats) -> None:
    from scipy.stats import kurtosis, skew

    values = window[np.isfinite(window)]
    n = len(values)
    assert row["count"] == n
    if n == 0:
        assert np.isnan([row[name] for name in DESCRIPTION.names[1:]]).all()  # type: ignore[index]
        assert np.isnan(quantiles).all()
        return
    scale = np.abs(values).max()
    np.testing.assert_allclose(row["mean"], values.mean(), rtol=1e-12, atol=1e-15 * scale)
    assert (row["min"], row["max"]) == (values.min(), values.max())
    np.testing.assert_allclose(quantiles, np.quantile(values, PROBABILITIES), rtol=1e-14, atol=1e-16 * scale)
    constant = bool((values == values[0]).all())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        moments = [values.std(ddof=1) if n > 1 else np.nan, skew(values), kurtosis(values)]
    if constant:
        moments[0] = 0.0 if n > 1 else np.nan
    for name, want, least in zip(("std", "skewness", "kurtosis"), moments, (2, 3, 4)):
        if n < least or (constant and name != "std"):
            assert np.isnan(row[name]), name
        elif np.isfinite(want):  # scipy gives up on values that are nearly the same
            np.testing.assert_allclose(row[name], want, rtol=1e-9, atol=1e-9, err_msg=name)


@settings(max_examples=60)
@given(
    st.lists(
        st.one_of(
            st.floats(-1e-2, 1e-2),
            st.sampled_from([0.0, 1e-4, -1e-4, 1e4, -1.0, float("nan"), float("inf")]),
        ),
        min_size=1,
        max_size=60,
    ),
    st.integers(1, 20),
)
def test_any_history_is_described_as_numpy_and_scipy_do(history: list[float], window: int) -> None:
    stream = Stream(1, [window, 2 * window])
    values = np.array(history)
    for step in range(len(values)):
        out, quantiles = stream.push(step, values[step : step + 1])
        for k in range(2):
            length = (k + 1) * window
            assert_describes(out[0, k], quantiles[0, k], values[max(0, step - length + 1) : step + 1])


def test_long_windows_are_described_as_scipy_does() -> None:
    rng = np.random.default_rng(1)
    values = rng.standard_t(3, (3, 2_000)) * 1e-4
    stream = Stream(3, [300])
    for step in range(2_000):
        out, quantiles = stream.push(step, values[:, step])
    for row in range(3):
        assert_describes(out[row, 0], quantiles[row, 0], values[row, -300:])


def test_a_window_is_described_the_same_whatever_came_before_or_order_it_came_in() -> None:
    rng = np.random.default_rng(2)
    values = rng.normal(0, 1e-4, 50)
    one, other = Stream(1, [50]), Stream(1, [50])
    for step, value in enumerate(np.concatenate([[1e6, -1e9], values])):
        one.push(step, np.array([value]))
    for step, value in enumerate(rng.permutation(values)):
        other.push(step, np.array([value]))
    assert one.out.tobytes() == other.out.tobytes()
    assert one.quantiles.tobytes() == other.quantiles.tobytes()


def test_observations_left_out_and_revised_ones_are_read_from_the_ring() -> None:
    rng = np.random.default_rng(3)
    values = rng.normal(0, 1e-4, (1, 100))
    right, stream = Stream(1, [30]), Stream(1, [30])
    for step in range(100):
        right.push(step, values[:, step])
    for step in range(97):
        stream.push(step, values[:, step] + (step == 95))
    for step in range(95, 100):
        stream.ring[:, step % stream.ring.shape[1]] = values[:, step]
    stream.update(np.array([99]))
    assert stream.out.tobytes() == right.out.tobytes()
    assert stream.ordered.tobytes() == right.ordered.tobytes()


def test_a_state_saved_and_restored_gives_the_same_bits() -> None:
    rng = np.random.default_rng(4)
    values = rng.normal(0, 1e-4, (2, 90))
    through, stopped = Stream(2, [10, 30]), Stream(2, [10, 30])
    for step in range(90):
        through.push(step, values[:, step])
        stopped.push(step, values[:, step])
        stopped.state = np.frombuffer(stopped.state.tobytes(), WINDOW).reshape(2, 2).copy()
        stopped.ordered = np.frombuffer(stopped.ordered.tobytes()).reshape(2, 2, 30).copy()
    assert stopped.out.tobytes() == through.out.tobytes()


def test_a_row_that_is_not_updated_keeps_its_description() -> None:
    stream = Stream(2, [5])
    stream.push(0, np.array([1.0, 2.0]))
    stream.ring[:, 1] = 9.0
    stream.update(np.array([1, -1]))
    assert stream.out["count"].tolist() == [[2], [1]]


def test_a_ring_no_deeper_than_its_window_is_refused() -> None:
    stream = Stream(1, [10])
    stream.windows[0] = 15
    with pytest.raises(ValueError, match="deeper than its longest window"):
        stream.update(np.array([0]))
