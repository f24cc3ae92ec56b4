"""Rolling statistics of pairs, against exact integer arithmetic and statsmodels."""

from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kernels.compile import warm_up
from kernels.records import METRIC, Block
from kernels.rolling_ols import (
    STATE,
    SYMBOL,
    depth_needed,
    new_matrix,
    new_state,
    rebuild_pairs,
    roll_pair,
    update_all_pairs,
    update_pairs,
)
from tests.support.regimes import REGIMES, exact

warm_up(update_pairs, rebuild_pairs, roll_pair, update_all_pairs)

Floats = NDArray[np.float64]

Y, X = np.array([0], np.int32), np.array([1], np.int32)
PRICES = [
    "hedge_ratio", "intercept", "hedge_ratio_stderr", "intercept_stderr", "r_squared",
    "spread", "spread_mean", "spread_std", "z_score", "correlation",
]  # fmt: skip
RETURNS = ["return_correlation", "volatility_y", "volatility_x"]


class Stream:
    """One pair, fed an observation at a time."""

    def __init__(self, windows: list[int], z_window: int, extra: int = 0, number: int = 0) -> None:
        self.windows = np.array(windows)
        self.z_window = z_window
        depth = depth_needed(windows, z_window) + extra
        self.values = np.full((2, depth), np.nan)
        self.returns = np.full((2, depth), np.nan)
        self.state = new_state([number], windows)
        self.out = np.zeros((1, len(windows)), METRIC)
        self.before = np.full(2, np.nan)

    def write(self, step: int, prices: Any) -> None:
        column = step % self.values.shape[1]
        self.values[:, column] = prices
        with np.errstate(divide="ignore", invalid="ignore"):  # where a price is not positive
            self.returns[:, column] = np.log(np.asarray(prices) / self.before)
        self.before = np.asarray(prices)

    def push(self, step: int, prices: Any) -> Block:
        self.write(step, prices)
        update_pairs(
            self.values,
            self.returns,
            np.array([step]),
            Y,
            X,
            self.windows,
            self.z_window,
            self.state,
            self.out,
        )
        row: Block = self.out[0]
        return row

    def run(self, y: Floats, x: Floats, first: int = 0) -> Block:
        """Return METRIC[T, W]."""
        return np.array([self.push(first + s, (y[s], x[s])).copy() for s in range(len(y))])


def expected(y: Floats, x: Floats, step: int, window: int, z_window: int) -> dict[str, Decimal]:
    """Exact statistics at a step, of the complete observations in both windows."""
    legs = []
    for length in (window, z_window):
        begin = max(0, step - length + 1)
        keep = np.isfinite(y[begin : step + 1]) & np.isfinite(x[begin : step + 1])
        legs += [y[begin : step + 1][keep], x[begin : step + 1][keep]]
    if step + 1 < z_window:
        legs[2:] = [np.array([]), np.array([])]
    result = exact(*legs)
    if not np.isfinite(y[step] + x[step]):
        result.pop("spread", None)
        result.pop("z_score", None)
    return result


def assert_exact(
    row: Any, exact_values: dict[str, Decimal], where: str, fields: list[str] = PRICES, rounding: float = 0.0
) -> None:
    """Assert that a row has the exact values to 9 digits, and no others.

    The hedge ratio is known to 9 digits of itself or of its standard error: near 0 between legs that move it
    is a small difference. Likewise intercept and spread, which are differences of prices.

    :arg rounding: What a residual may be off by beyond that.
    """
    slack = Decimal(rounding)
    residual = exact_values.get("residual_std", Decimal(0))
    for field in fields:
        got = float(row[field])
        if field not in exact_values:
            assert np.isnan(got), f"{field} at {where}: {got}, but it is not defined"
            continue
        want = exact_values[field]
        assert np.isfinite(got), f"{field} at {where}: {got}, exactly {want:.17e}"
        digits = Decimal("1e-9")
        allowed = digits * max(abs(want), digits)
        if field in {"hedge_ratio", "hedge_ratio_stderr", "intercept", "intercept_stderr"}:
            part = digits + (slack / residual if residual else 0)
            allowed += part * exact_values[field.removesuffix("_stderr") + "_stderr"]
        elif field in {"spread", "spread_mean"}:
            allowed += digits * exact_values["intercept_stderr"] + slack
        elif field == "spread_std":
            allowed += slack
        elif field in {"z_score", "correlation"}:
            allowed = digits
        elif field == "r_squared":
            allowed += 2 * digits * want.sqrt()  # as correlation
        if field == "z_score":
            allowed += slack * (1 + abs(want)) / exact_values["spread_std"]
        error = abs(Decimal(got) - want)
        assert error <= allowed, f"{field} at {where}: {got}, exactly {want:.17e}"
    assert not abs(float(row["correlation"])) > 1.0


@pytest.mark.parametrize(("window", "z_window"), [(300, 20), (40, 90), (20, 20)])
@pytest.mark.parametrize("regime", REGIMES)
def test_every_statistic_is_exact_to_9_digits_in_hard_regimes(
    regime: str, window: int, z_window: int
) -> None:
    length = 1_800
    y, x = REGIMES[regime](length, np.random.default_rng(5))
    rows = Stream([window], z_window).run(y, x)
    prints = [turn + k for turn in (length // 3, length // 2) for k in (0, 1, 19, 20, 21, window, window + 1)]
    for step in sorted({*range(8), *range(8, length, 41), *prints}):
        assert_exact(rows[step, 0], expected(y, x, step, window, z_window), f"{regime}, step {step}")


@pytest.mark.parametrize("regime", REGIMES)
def test_the_matrix_form_is_exact_to_9_digits_in_hard_regimes(regime: str) -> None:
    length, window, z_window = 1_000, 100, 20
    rng = np.random.default_rng(6)
    legs = [np.roll(leg, shift) for shift in (0, 30) for leg in REGIMES[regime](length, rng)]
    values = np.array([*legs, np.full(length, 7.0), np.where(rng.random(length) < 0.02, np.nan, legs[0])])
    n = len(values)
    ring = np.full((n, 101), np.nan)
    symbols, products = new_matrix(n)
    columns = [np.empty(n * (n - 1) // 2) for _ in range(4)]
    fields = ["hedge_ratio", "spread", "z_score", "correlation"]
    for step in range(length):
        ring[:, step % 101] = values[:, step]
        update_all_pairs(ring, step, window, z_window, symbols, products, *columns)
        if (
            step < 6
            or step % 83 == 0
            or step in {333, 334, 353, 363, 432, 433, 434, 463, 500, 519, 520, 599, 600}
        ):
            for p, (i, j) in enumerate(zip(*np.triu_indices(n, 1))):
                row = {field: column[p] for field, column in zip(fields, columns)}
                want = expected(values[i], values[j], step, window, z_window)
                assert_exact(row, want, f"{regime}, step {step}, pair {i}/{j}", fields)


@st.composite
def histories(draw: st.DrawFn) -> tuple[Floats, Floats]:
    """Two legs in stretches, each moving in its own way."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    ways = ["walk", "quiet", "constant x", "constant y", "both constant", "no y", "no x", "line", "print"]
    y, x = 100.0, draw(st.sampled_from([1.0, 100.0, 60_000.0]))
    tick = draw(st.sampled_from([0.01, 1e-7]))
    ys, xs = [], []
    for way in draw(st.lists(st.sampled_from(ways), min_size=1, max_size=12)):
        for _ in range(1 if way == "print" else draw(st.integers(1, 40))):
            step_y, step_x = rng.integers(-100, 101, 2)
            if way == "quiet":
                step_y, step_x = rng.integers(-1, 2, 2)
            if way == "line":
                step_y = 2 * step_x
            y += tick * step_y * (way not in {"constant y", "both constant"})
            x += tick * step_x * (way not in {"constant x", "both constant"})
            ys.append(np.nan if way == "no y" else 6e8 if way == "print" and rng.random() < 0.5 else y)
            xs.append(np.nan if way == "no x" else 6e8 if way == "print" and ys[-1] != 6e8 else x)
    return np.array(ys), np.array(xs)


@settings(max_examples=60)
@given(histories(), st.integers(2, 30), st.integers(1, 40), st.integers(0, 1000))
def test_any_history_is_exact_to_9_digits(
    history: tuple[Floats, Floats], window: int, z_window: int, number: int
) -> None:
    y, x = history
    rows = Stream([window], z_window, number=number).run(y, x)
    for step in range(len(y)):
        want = expected(y, x, step, window, z_window)
        if "hedge_ratio" not in want:
            assert_exact(rows[step, 0], want, f"step {step}")
            continue
        near = slice(max(0, step + 1 - max(window, z_window)), step + 1)
        slope = abs(float(want["hedge_ratio"])) + float(want["hedge_ratio_stderr"])
        rounding = 2**-51 * float(np.nanmax(np.abs(y[near])) + slope * np.nanmax(np.abs(x[near])))
        fields = PRICES.copy()
        if float(want["residual_std"]) <= rounding:  # legs on a line, to the rounding of the prices
            fields = ["hedge_ratio", "r_squared", "correlation"]
        elif float(want.get("spread_std", 1.0)) <= rounding:
            fields.remove("z_score")
        assert_exact(rows[step, 0], want, f"step {step}", fields, rounding)


def test_regression_columns_equal_statsmodels() -> None:
    from statsmodels.api import OLS, add_constant

    y, x = REGIMES["random walk"](400, np.random.default_rng(1))
    row = Stream([250], 20).run(y, x)[-1, 0]
    fit = OLS(y[-250:], add_constant(x[-250:])).fit()
    ours = [row[name] for name in ("intercept", "hedge_ratio", "intercept_stderr", "hedge_ratio_stderr")]
    np.testing.assert_allclose(ours, [*fit.params, *fit.bse], rtol=1e-9)
    np.testing.assert_allclose(row["r_squared"], fit.rsquared, rtol=1e-9)


@pytest.mark.parametrize("regime", REGIMES)
def test_return_columns_equal_numpy_over_the_window(regime: str) -> None:
    y, x = REGIMES[regime](700, np.random.default_rng(2))
    y[100:103] = np.nan
    rows = Stream([60], 20).run(y, x)[:, 0]
    with np.errstate(invalid="ignore"):
        ry, rx = (np.log(leg / np.concatenate([[np.nan], leg[:-1]])) for leg in (y, x))
    assert np.isnan(rows["volatility_y"][:2]).all()
    for step in [2, 3, *range(5, 700, 31), 233, 234, 293, 294, 350, 351, 410]:
        window = slice(max(0, step - 59), step + 1)
        keep = np.isfinite(ry[window] + rx[window])
        a, b = ry[window][keep].astype(np.longdouble), rx[window][keep].astype(np.longdouble)
        for field, leg in (("volatility_y", a), ("volatility_x", b)):
            np.testing.assert_allclose(
                rows[field][step], float(leg.std(ddof=1)), rtol=1e-9, err_msg=str(step)
            )
        da, db = a - a.mean(), b - b.mean()
        if keep.sum() > 2 and da.any() and db.any():
            want = float((da * db).sum() / np.sqrt((da * da).sum() * (db * db).sum()))
            np.testing.assert_allclose(rows["return_correlation"][step], want, atol=1e-9, err_msg=str(step))
        else:
            assert np.isnan(rows["return_correlation"][step])


def test_one_absurd_print_is_forgotten_when_it_leaves_the_window() -> None:
    y, x = REGIMES["random walk"](500, np.random.default_rng(3))
    wrong = x.copy()
    wrong[100] = 6e8
    clean, dirty = (Stream([60], 20).run(y, leg)[:, 0] for leg in (x, wrong))
    assert abs(dirty["hedge_ratio"][101] / clean["hedge_ratio"][101]) < 0.01
    for field in PRICES:
        np.testing.assert_allclose(dirty[field][160:], clean[field][160:], rtol=1e-9, atol=1e-9)


def test_a_leg_that_stops_moving_is_undefined_until_it_moves_again() -> None:
    y, x = REGIMES["random walk"](300, np.random.default_rng(4))
    x[100:200] = x[100]
    rows = Stream([50], 20).run(y, x)[:, 0]
    still = rows[149:200]
    for field in PRICES:
        assert np.isnan(still[field]).all(), field
    assert np.isfinite(rows["z_score"][200:]).all()
    still = Stream([50], 20).run(x, y)[149:200, 0]  # now the other leg
    assert (still["hedge_ratio"] == 0.0).all()
    assert (still["intercept"] == x[100]).all()
    assert (still["spread"] == x[100]).all()
    assert np.isnan(still["correlation"]).all()
    assert np.isnan(still["z_score"]).all()


def test_an_incomplete_observation_has_no_spread_but_takes_its_place_in_the_window() -> None:
    y, x = REGIMES["random walk"](60, np.random.default_rng(5))
    y[40] = np.nan
    rows = Stream([20], 10).run(y, x)[:, 0]
    assert np.isnan(rows["spread"][40])
    assert np.isnan(rows["z_score"][40])
    assert np.isfinite(rows["spread_std"][40])
    assert rows["observations"].tolist() == [*range(1, 21), *[20] * 20, *[19] * 20]


@pytest.mark.parametrize("regime", REGIMES)
def test_a_state_saved_and_restored_gives_the_same_bits(regime: str) -> None:
    y, x = REGIMES[regime](600, np.random.default_rng(6))
    through, stopped = Stream([30, 100], 20), Stream([30, 100], 20)
    rows = through.run(y, x)
    stopped.run(y[:250], x[:250])
    saved = stopped.state.tobytes()
    stopped.state = np.frombuffer(saved, STATE).reshape(stopped.state.shape).copy()
    assert stopped.run(y[250:], x[250:], first=250).tobytes() == rows[250:].tobytes()


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("z_window", [20, 150])
def test_a_rebuilt_state_is_that_of_updates_to_the_bit(regime: str, z_window: int) -> None:
    y, x = REGIMES[regime](700, np.random.default_rng(7))
    y[200:230] = np.nan
    stream = Stream([30, 100], z_window, number=3)
    for step in range(700):
        stream.push(step, (y[step], x[step]))
        if step % 17 == 0 or step > 650:
            rebuilt = stream.state.copy()
            for name in STATE.names or ():
                if name not in {"first", "phase"}:
                    rebuilt[name] = 99  # whatever was there
            rebuild_pairs(
                stream.values, stream.returns, np.array([step]), Y, X, stream.windows, z_window, rebuilt
            )
            assert rebuilt.tobytes() == stream.state.tobytes(), step


def test_a_pair_is_a_function_of_the_last_two_windows() -> None:
    rng = np.random.default_rng(8)
    y, x = REGIMES["random walk"](400, rng)
    other_y, other_x = REGIMES["one absurd print"](400, rng)
    other_y[200:], other_x[200:] = y[200:], x[200:]
    one, other = Stream([50, 90], 20).run(y, x), Stream([50, 90], 20).run(other_y, other_x)
    assert one[381:].tobytes() == other[381:].tobytes()


def test_a_late_revision_is_rebuilt_and_rolled_forward() -> None:
    y, x = REGIMES["random walk"](300, np.random.default_rng(9))
    right = Stream([50], 20, extra=10).run(y, x)
    stream = Stream([50], 20, extra=10)
    stream.run(y[:290], np.where(np.arange(290) == 285, 1.0, x[:290]))
    stream.before = np.array([y[284], x[284]])
    for step in range(285, 290):
        stream.write(step, (y[step], x[step]))
    stream.before = np.array([y[284], x[284]])
    # The first update of an older observation finds its own way; the rest follow it.
    revised = stream.run(y[285:], x[285:], first=285)
    assert revised.tobytes() == right[285:].tobytes()


def test_observations_left_out_are_read_from_the_rings() -> None:
    y, x = REGIMES["random walk"](300, np.random.default_rng(10))
    right = Stream([50], 20).run(y, x)
    stream = Stream([50], 20)
    stream.run(y[:200], x[:200])
    for step in range(200, 230):
        stream.write(step, (y[step], x[step]))
    assert stream.run(y[230:], x[230:], first=230).tobytes() == right[230:].tobytes()


def test_a_start_from_history_continues_like_updates_from_its_first_column() -> None:
    y, x = REGIMES["random walk"](300, np.random.default_rng(11))
    right = Stream([50], 20).run(y, x)
    stream = Stream([50], 20)
    for step in range(299):
        stream.write(step, (y[step], x[step]))
    rebuild_pairs(
        stream.values, stream.returns, np.array([298]), Y, X, stream.windows, stream.z_window, stream.state
    )
    assert stream.push(299, (y[299], x[299])).tobytes() == right[299].tobytes()


def test_pairs_of_a_shared_ring_and_pairs_of_their_own_give_the_same_bits() -> None:
    """Bars: all symbols in one ring, all pairs at the same step. Ticks: two rows a pair, each at its own."""
    length, windows, z_window = 260, np.array([20, 60]), 15
    rng = np.random.default_rng(12)
    legs = np.array([leg for _ in range(2) for leg in REGIMES["random walk"](length, rng)])
    y, x = (index.astype(np.int32) for index in np.triu_indices(4, 1))
    pairs, depth = len(y), depth_needed(windows, z_window)
    shared, own = np.full((4, depth), np.nan), np.full((2 * pairs, depth), np.nan)
    no_returns, own_none = np.full_like(shared, np.nan), np.full_like(own, np.nan)
    state, own_state = new_state(pairs, windows), new_state(range(pairs), windows)
    bars, ticks = np.zeros((pairs, 2), METRIC), np.zeros((pairs, 2), METRIC)
    rows = np.arange(0, 2 * pairs, 2, dtype=np.int32)
    for step in range(length):
        shared[:, step % depth] = legs[:, step]
        update_pairs(shared, no_returns, np.full(pairs, step), y, x, windows, z_window, state, bars)
        for p in rng.permutation(pairs):  # the pairs tick one after the other
            own[2 * p : 2 * p + 2, step % depth] = legs[[y[p], x[p]], step]
            own_step = np.full(pairs, -1)
            own_step[p] = step
            update_pairs(
                own, own_none, own_step, rows, rows + np.int32(1), windows, z_window, own_state, ticks
            )
        assert ticks.tobytes() == bars.tobytes()


def test_a_history_measured_in_one_call_equals_updates_to_the_bit() -> None:
    y, x = REGIMES["one absurd print"](900, np.random.default_rng(13))
    x[300:310] = np.nan
    rows = Stream([60], 20).run(y, x)[:, 0]
    beta, spread, z_score, correlation = np.empty((4, 900))
    roll_pair(np.array([y, x]), 0, 1, 60, 20, beta, spread, z_score, correlation, new_state(1, [60]))
    for field, column in zip(PRICES[:1] + PRICES[5:6] + PRICES[8:], (beta, spread, z_score, correlation)):
        np.testing.assert_array_equal(rows[field], column)


def test_results_do_not_depend_on_how_pairs_are_dealt_out() -> None:
    y, x = REGIMES["random walk"](200, np.random.default_rng(14))
    assert new_state([7], [50])["phase"] == new_state(10, [50])["phase"][7]
    stream = Stream([50], 20, number=7)
    assert stream.run(y, x).tobytes() == Stream([50], 20, number=7).run(y, x).tobytes()
    assert len(np.unique(new_state(200, [300])["phase"])) > 180  # evenly spread: no bar is slower


def test_a_pair_that_is_not_updated_keeps_its_rows_and_state() -> None:
    y, x = REGIMES["random walk"](100, np.random.default_rng(15))
    stream = Stream([20], 10)
    before = stream.run(y, x)[-1].tobytes()
    state = stream.state.tobytes()
    update_pairs(
        stream.values, stream.returns, np.array([-1]), Y, X, stream.windows, 10, stream.state, stream.out
    )
    assert stream.out[0].tobytes() == before
    assert stream.state.tobytes() == state


def test_rings_too_shallow_for_the_windows_are_refused() -> None:
    values = np.zeros((2, 99))
    arguments = (values, values, np.array([0]), Y, X, np.array([50]), 20, new_state(1, [50]))
    with pytest.raises(ValueError, match="as deep as depth_needed says"):
        rebuild_pairs(*arguments)
    with pytest.raises(ValueError, match="as deep as depth_needed says"):
        update_pairs(*arguments, np.zeros((1, 1), METRIC))
    with pytest.raises(ValueError, match="windows must be at least 2"):
        roll_pair(values, 0, 1, 1, 20, values[0], values[0], values[0], values[0], new_state(1, [1]))
    with pytest.raises(ValueError, match="as deep as depth_needed says"):
        update_all_pairs(values, 0, 99, 20, *new_matrix(2), *[np.zeros(1)] * 4)


def test_the_matrix_form_goes_on_from_saved_state_and_restarts_from_the_ring() -> None:
    length, n, window, z_window = 300, 6, 40, 20
    rng = np.random.default_rng(16)
    legs = np.array([leg for _ in range(3) for leg in REGIMES["random walk"](length, rng)])
    legs[2, 150:155] = np.nan
    ring = np.full((n, 64), np.nan)
    symbols, products = new_matrix(n)
    columns, again = (np.empty((4, n * (n - 1) // 2)) for _ in range(2))
    for step in range(length):
        ring[:, step % 64] = legs[:, step]
        if step % 50 == 49:
            restarted, fresh = new_matrix(n)
            update_all_pairs(ring, step, window, z_window, restarted, fresh, *again)
        update_all_pairs(ring, step, window, z_window, symbols, products, *columns)
        if step % 50 == 49:
            np.testing.assert_allclose(again, columns, rtol=1e-9, atol=1e-9)
            symbols = np.frombuffer(symbols.tobytes(), SYMBOL).copy()
            products = np.frombuffer(products.tobytes()).reshape(n, n).copy()


@pytest.mark.parametrize("slope", [3.0, -7.0, 0.3, 1 / 7])
def test_legs_on_a_line_have_no_residual_and_no_z_score(slope: float) -> None:
    steps = np.random.default_rng(17).integers(-50, 51, 400)
    x = 70.0 * (np.cumsum(steps) + 1e4).astype(np.float64)
    y: Floats = (
        np.round(slope * x) + 11.0
    )  # a whole number: on the line exactly, whether slope is a float or not
    rows = Stream([30, 100], 20).run(y, x)[20:]
    assert (rows["hedge_ratio_stderr"] == 0.0).all()
    assert (rows["spread_std"] == 0.0).all()
    assert np.isnan(rows["z_score"]).all()
    assert (np.abs(rows["correlation"]) == 1.0).all()
    np.testing.assert_allclose(rows["hedge_ratio"], slope, rtol=1e-15)
    np.testing.assert_allclose(rows["spread"], 11.0, rtol=1e-9)
