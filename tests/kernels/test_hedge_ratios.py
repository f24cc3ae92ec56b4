"""Hedge ratios by rls, kalman and tls, against statsmodels, numpy and exact arithmetic."""

from collections.abc import Iterable
from decimal import Decimal, localcontext
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kernels.compile import warm_up
from kernels.hedge_ratios import (
    KALMAN_STATE,
    RLS_STATE,
    kalman_noise,
    new_kalman_state,
    new_rls_state,
    update_kalman,
    update_rls,
    update_tls,
)
from kernels.records import METRIC, Block
from kernels.rolling_ols import depth_needed, new_state, update_pairs
from tests.support.regimes import REGIMES

warm_up(update_pairs, update_rls, update_kalman, update_tls)

Floats = NDArray[np.float64]
Exact = tuple[Decimal, Decimal]
Y, X = np.array([0], np.int32), np.array([1], np.int32)


class Stream:
    """One pair, fed an observation at a time, measured by every method."""

    def __init__(self, windows: list[int], z_window: int) -> None:
        self.windows, self.z_window = np.array(windows), z_window
        self.values = np.full((2, depth_needed(windows, z_window)), np.nan)
        self.returns = np.full_like(self.values, np.nan)
        self.state, self.rls = new_state(1, windows), new_rls_state(1, windows)
        self.kalman, self.noise = new_kalman_state(1, windows), kalman_noise(windows)

    def push(self, step: int, y: float, x: float) -> dict[str, Block]:
        self.values[:, step % self.values.shape[1]] = y, x
        rows = {
            method: np.zeros((1, len(self.windows)), METRIC) for method in ("ols", "rls", "kalman", "tls")
        }
        at = (np.array([step]), Y, X, self.windows, self.z_window)
        update_pairs(self.values, self.returns, *at, self.state, rows["ols"])
        update_rls(self.values, *at, self.rls, rows["ols"], rows["rls"])
        update_kalman(self.values, *at, *self.noise, self.kalman, rows["ols"], rows["kalman"])
        update_tls(self.values, *at, self.state, rows["ols"], rows["tls"])
        return {method: row[0] for method, row in rows.items()}

    def run(self, y: Floats, x: Floats, first: int = 0) -> dict[str, Block]:
        """Return METRIC[T, W] of each method."""
        rows = [self.push(first + s, float(y[s]), float(x[s])) for s in range(len(y))]
        return {method: np.array([row[method] for row in rows]) for method in rows[0]}


def _sum(terms: Iterable[Decimal]) -> Decimal:
    return sum(terms, Decimal(0))


def weighted(y: Floats, x: Floats, window: int) -> Exact:
    """Slope and intercept of exponentially weighted least squares, to 60 digits."""
    with localcontext() as context:
        context.prec = 60
        forgetting = 1 - Decimal(1) / window
        keep = np.isfinite(y + x)
        weights = [forgetting ** int(len(y) - 1 - k) for k in np.flatnonzero(keep)]
        ys, xs = ([Decimal(float(v)) for v in leg[keep]] for leg in (y, x))
        mean_y, mean_x = (_sum(w * v for w, v in zip(weights, leg)) / _sum(weights) for leg in (ys, xs))
        sxx = _sum(w * (v - mean_x) ** 2 for w, v in zip(weights, xs))
        sxy = _sum(w * (a - mean_x) * (b - mean_y) for w, a, b in zip(weights, xs, ys))
        return sxy / sxx, mean_y - sxy / sxx * mean_x


def total(y: Floats, x: Floats) -> Exact:
    """Slope and intercept of total least squares, to 60 digits."""
    with localcontext() as context:
        context.prec = 60
        ys, xs = ([Decimal(float(v)) for v in leg] for leg in (y, x))
        mean_y, mean_x = _sum(ys) / len(ys), _sum(xs) / len(xs)
        sxx = _sum((v - mean_x) ** 2 for v in xs)
        syy = _sum((v - mean_y) ** 2 for v in ys)
        sxy = _sum((a - mean_x) * (b - mean_y) for a, b in zip(xs, ys))
        slope = Decimal(0)
        if sxy:
            slope = (syy - sxx + ((syy - sxx) ** 2 + 4 * sxy * sxy).sqrt()) / (2 * sxy)
        return slope, mean_y - slope * mean_x


def filtered(y: Floats, x: Floats, q: float, r: float) -> Exact:
    """Slope and intercept of the Kalman filter, by the textbook recursion, to 60 digits."""
    with localcontext() as context:
        context.prec = 60
        noise_q, noise_r = Decimal(q), Decimal(r)
        y0, x0 = Decimal(float(y[0])), Decimal(float(x[0]))
        level = beta = Decimal(0)
        p, o, v = Decimal(1), Decimal(0), Decimal(1)
        for k, (a, b) in enumerate(zip(y, x)):
            if k:
                p, v = p + noise_q, v + noise_q
            if not np.isfinite(a + b):
                continue
            h = (Decimal(float(b)) - x0) / abs(x0)
            innovation = (Decimal(float(a)) - y0) / abs(y0) - level - beta * h
            variance = p + 2 * h * o + h * h * v + noise_r
            gain, beta_gain = (p + h * o) / variance, (o + h * v) / variance
            level, beta = level + gain * innovation, beta + beta_gain * innovation
            p, o, v = p - gain * gain * variance, o - gain * beta_gain * variance, v - beta_gain**2 * variance
        slope = beta * abs(y0) / abs(x0)
        return slope, y0 + abs(y0) * level - slope * x0


def assert_spread(
    row: Any, y: Floats, x: Floats, step: int, z_window: int, line: Exact | None = None
) -> None:
    """Assert that spread and z-score follow from the row's hedge ratio, or from an exact one."""
    with localcontext() as context:
        context.prec = 60
        beta = line[0] if line else Decimal(float(row["hedge_ratio"]))
        spreads = [
            Decimal(float(a)) - beta * Decimal(float(b))
            for a, b in zip(y[step - z_window + 1 : step + 1], x[step - z_window + 1 : step + 1])
            if np.isfinite(a + b)
        ]
        mean = _sum(spreads) / len(spreads)
        std = (_sum((v - mean) ** 2 for v in spreads) / len(spreads)).sqrt()
        np.testing.assert_allclose(row["spread_mean"], float(mean), rtol=1e-9)
        np.testing.assert_allclose(row["spread_std"], float(std), rtol=1e-9)
        if np.isfinite(y[step] + x[step]):
            np.testing.assert_allclose(row["spread"], float(spreads[-1]), rtol=1e-9)
            np.testing.assert_allclose(row["z_score"], float((spreads[-1] - mean) / std), atol=1e-9)
        else:
            assert np.isnan(row["spread"])
            assert np.isnan(row["z_score"])


HARD = ["random walk", "quiet ticks", "stablecoins", "nearly collinear legs"]


@pytest.mark.parametrize("regime", REGIMES)
def test_rls_is_exact_weighted_least_squares(regime: str) -> None:
    y, x = REGIMES[regime](500, np.random.default_rng(1))
    y[50:53] = np.nan
    rows = Stream([20, 100], 20).run(y, x)["rls"]
    for step in [2, 3, 10, 49, 51, 60, 166, 167, 180, 251, 300, 499]:
        for k, window in enumerate((20, 100)):
            line = weighted(y[: step + 1], x[: step + 1], window)
            row = rows[step, k]
            # A hedge ratio that an absurd print has made 1e-9 is known to 9 digits of what it was before.
            np.testing.assert_allclose(row["hedge_ratio"], float(line[0]), rtol=1e-9, atol=1e-15)
            np.testing.assert_allclose(row["intercept"], float(line[1]), rtol=1e-9, err_msg=str(step))
            if step >= 19:
                assert_spread(row, y, x, step, 20, line if regime == "nearly collinear legs" else None)


def test_rls_equals_statsmodels_wls() -> None:
    from statsmodels.api import WLS, add_constant

    y, x = REGIMES["random walk"](400, np.random.default_rng(2))
    row = Stream([50], 20).run(y, x)["rls"][-1, 0]
    fit = WLS(y, add_constant(x), weights=(1 - 1 / 50) ** np.arange(400)[::-1]).fit()
    np.testing.assert_allclose([row["intercept"], row["hedge_ratio"]], fit.params, rtol=1e-7)


@pytest.mark.parametrize("regime", HARD)
def test_kalman_follows_the_textbook_recursion_in_60_digits(regime: str) -> None:
    y, x = REGIMES[regime](400, np.random.default_rng(3))
    y[50:53] = np.nan
    stream = Stream([20, 300], 20)
    rows = stream.run(y, x)["kalman"]
    for k in range(2):
        q, r = (float(noise[k]) for noise in stream.noise)
        for step in [2, 5, 49, 51, 200, 399]:
            line = filtered(y[: step + 1], x[: step + 1], q, r)
            row = rows[step, k]
            np.testing.assert_allclose(row["hedge_ratio"], float(line[0]), rtol=1e-9, err_msg=str(step))
            np.testing.assert_allclose(row["intercept"], float(line[1]), rtol=1e-9, err_msg=str(step))
            if step >= 19:
                assert_spread(row, y, x, step, 20)


def test_kalman_equals_the_filter_of_statsmodels() -> None:
    from statsmodels.tsa.statespace.kalman_filter import KalmanFilter

    y, x = REGIMES["random walk"](300, np.random.default_rng(4))
    stream = Stream([50], 20)
    row = stream.run(y, x)["kalman"][-1, 0]
    u, v = x / x[0] - 1.0, y / y[0] - 1.0
    model = KalmanFilter(k_endog=1, k_states=2)
    model.bind(v[:, None].copy())
    model["design"] = np.array([[np.ones(300), u]])
    model["transition"] = model["selection"] = np.eye(2)
    model["state_cov"] = stream.noise[0][0] * np.eye(2)
    model["obs_cov"] = np.array([[stream.noise[1][0]]])
    model.initialize_known(np.zeros(2), np.eye(2))
    level, beta = model.filter().filtered_state[:, -1]
    np.testing.assert_allclose(row["hedge_ratio"], beta * y[0] / x[0], rtol=1e-9)
    np.testing.assert_allclose(row["intercept"], y[0] * (1 + level - beta), rtol=1e-9)


def test_a_kalman_covariance_stays_positive_definite() -> None:
    y, x = REGIMES["one absurd print"](3_000, np.random.default_rng(5))
    stream = Stream([20, 1_000], 20)
    for step in range(3_000):
        stream.push(step, y[step], x[step])
        state = stream.kalman[0]
        assert (state["level_variance"] > 0).all()
        assert (state["level_variance"] * state["beta_variance"] > state["covariance"] ** 2).all()


@pytest.mark.parametrize("regime", [regime for regime in REGIMES if regime != "one absurd print"])
def test_tls_is_exact_in_hard_regimes(regime: str) -> None:
    y, x = REGIMES[regime](400, np.random.default_rng(6))
    rows = Stream([30, 120], 20).run(y, x)["tls"]
    for step in [2, 3, 10, 29, 30, 150, 260, 399]:
        for k, window in enumerate((30, 120)):
            window_y, window_x = (leg[max(0, step - window + 1) : step + 1] for leg in (y, x))
            if np.ptp(window_y) == 0.0:
                continue
            line = total(window_y, window_x)
            row = rows[step, k]
            if line[0] == 0:  # no common movement: the line lies or stands
                assert row["hedge_ratio"] == 0.0 or np.isnan(row["hedge_ratio"])
                continue
            np.testing.assert_allclose(row["hedge_ratio"], float(line[0]), rtol=1e-9, err_msg=str(step))
            scale = abs(float(line[0])) * x[0]
            np.testing.assert_allclose(row["intercept"], float(line[1]), rtol=1e-9, atol=1e-9 * scale)
            if step >= 19:
                assert_spread(row, y, x, step, 20)


def test_tls_is_the_smallest_singular_direction() -> None:
    y, x = REGIMES["random walk"](300, np.random.default_rng(7))
    for legs in ((y, x), (x, y)):
        row = Stream([100], 20).run(*legs)["tls"][-1, 0]
        window = np.column_stack([leg[-100:] - leg[-100:].mean() for leg in legs])
        normal = np.linalg.svd(window)[2][-1]
        np.testing.assert_allclose(row["hedge_ratio"], -normal[1] / normal[0], rtol=1e-9)


def test_what_no_hedge_ratio_changes_is_copied_from_least_squares() -> None:
    y, x = REGIMES["random walk"](80, np.random.default_rng(8))
    rows = Stream([30], 20).run(y, x)
    for method in ("rls", "kalman", "tls"):
        for field in ("observations", "correlation", "return_correlation", "volatility_y", "volatility_x"):
            np.testing.assert_array_equal(rows[method][field], rows["ols"][field])
        for field in ("hedge_ratio_stderr", "intercept_stderr", "r_squared"):
            assert np.isnan(rows[method][field]).all()
        assert np.isnan(rows[method]["hedge_ratio"][:2]).all()
        assert np.isfinite(rows[method]["hedge_ratio"][2:]).all()
        assert np.isnan(rows[method]["z_score"][:19]).all()
        assert np.isfinite(rows[method]["z_score"][19:]).all()


def test_a_leg_that_never_moved_has_no_hedge_ratio() -> None:
    y, _ = REGIMES["random walk"](50, np.random.default_rng(9))
    rows = Stream([20], 10).run(y, np.full(50, 5.0))
    assert np.isnan(rows["rls"]["hedge_ratio"]).all()
    assert np.isnan(rows["tls"]["hedge_ratio"]).all()
    rows = Stream([20], 10).run(np.full(50, 5.0), y)
    for method in ("rls", "tls", "kalman"):
        assert (rows[method]["hedge_ratio"][2:] == 0.0).all()
        assert np.isnan(rows[method]["z_score"]).all()


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(2, 40), st.integers(1, 30), st.floats(0.0, 0.3))
def test_any_history_gives_exact_filters(seed: int, window: int, z_window: int, missing: float) -> None:
    rng = np.random.default_rng(seed)
    length = 90
    x = 50.0 + np.abs(np.cumsum(rng.normal(0, 1, length)))
    y = 20.0 + 0.7 * x + np.cumsum(rng.normal(0, 0.3, length))
    y[1:][rng.random(length - 1) < missing] = np.nan
    stream = Stream([window], z_window)
    rows = stream.run(y, x)
    q, r = (float(noise[0]) for noise in stream.noise)
    for step in (40, 89):
        for method, line in (
            ("rls", weighted(y[: step + 1], x[: step + 1], window)),
            ("kalman", filtered(y[: step + 1], x[: step + 1], q, r)),
        ):
            row = rows[method][step, 0]
            np.testing.assert_allclose(row["hedge_ratio"], float(line[0]), rtol=1e-9, atol=1e-9)
            np.testing.assert_allclose(row["intercept"], float(line[1]), rtol=1e-9, atol=1e-7)


def test_states_saved_and_restored_give_the_same_bits() -> None:
    y, x = REGIMES["random walk"](200, np.random.default_rng(10))
    through, stopped = Stream([30, 50], 20), Stream([30, 50], 20)
    rows = through.run(y, x)
    stopped.run(y[:90], x[:90])
    stopped.rls = np.frombuffer(stopped.rls.tobytes(), RLS_STATE).reshape(1, 2).copy()
    stopped.kalman = np.frombuffer(stopped.kalman.tobytes(), KALMAN_STATE).reshape(1, 2).copy()
    again = stopped.run(y[90:], x[90:], first=90)
    for method in rows:
        assert again[method].tobytes() == rows[method][90:].tobytes()


def test_observations_left_out_are_read_from_the_rings() -> None:
    y, x = REGIMES["random walk"](200, np.random.default_rng(11))
    right = Stream([60], 20).run(y, x)
    stream = Stream([60], 20)
    stream.run(y[:100], x[:100])
    for step in range(100, 130):
        stream.values[:, step % stream.values.shape[1]] = y[step], x[step]
    again = stream.run(y[130:], x[130:], first=130)
    for method in right:
        assert again[method].tobytes() == right[method][130:].tobytes()


def test_an_older_observation_begins_the_filters_anew_from_the_rings() -> None:
    y, x = REGIMES["random walk"](200, np.random.default_rng(12))
    stream = Stream([20], 10)
    stream.run(y, x)
    oldest = 200 - stream.values.shape[1]
    rows = stream.push(195, y[195], x[195])
    line = weighted(y[oldest:196], x[oldest:196], 20)
    np.testing.assert_allclose(rows["rls"][0]["hedge_ratio"], float(line[0]), rtol=1e-9)
    line = filtered(y[oldest:196], x[oldest:196], *(float(noise[0]) for noise in stream.noise))
    np.testing.assert_allclose(rows["kalman"][0]["hedge_ratio"], float(line[0]), rtol=1e-9)


def test_senseless_arguments_are_refused() -> None:
    values, rows = np.zeros((2, 50)), np.zeros((1, 1), METRIC)
    at = (np.array([0]), Y, X, np.array([10]))
    with pytest.raises(ValueError, match="the ring deeper than the z window"):
        update_rls(values, *at, 50, new_rls_state(1, [10]), rows, rows)
    with pytest.raises(ValueError, match="r above 0"):
        update_kalman(values, *at, 20, np.zeros(1), np.zeros(1), new_kalman_state(1, [10]), rows, rows)
