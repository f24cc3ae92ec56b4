"""Pair statistics: every row against statsmodels and numpy, revisions, signals, snapshots."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import polars as pl
import pytest
import statsmodels.api as sm
from numpy.typing import NDArray
from statsmodels.tsa.stattools import adfuller

from flows.bars import TICK_INTERVAL, TICKS, BarLogic
from flows.pair_metrics import PairLogic, PairOptions
from kernels.records import (
    BAR,
    EXIT,
    GAP,
    LONG,
    METHODS,
    METRIC,
    SECOND,
    SHORT,
    SIGNAL,
    Block,
    TableRows,
    Trades,
)

MINUTE = 60 * SECOND
SYMBOLS = ["BTCUSDT", "ETHUSDT"]


def options(**changes: Any) -> PairOptions:
    chosen: dict[str, Any] = {
        "symbols": SYMBOLS,
        "pairs": ["ETHUSDT/BTCUSDT"],
        "windows": [30, 60],
        "z_window": 20,
    }
    return PairOptions(**(chosen | changes))


def run(logic: PairLogic, items: Sequence[TableRows]) -> tuple[Block, Block]:
    """Return the metric and the signal rows that come out."""
    out, _ = logic.on_batch(list(items))
    metrics = [rows for table, rows in out if table == "pair_metrics"]
    signals = [rows for table, rows in out if table == "signals"]
    return np.concatenate([np.empty(0, METRIC), *metrics]), np.concatenate([np.empty(0, SIGNAL), *signals])


def items_of(trades: Block, timeframes: Sequence[int]) -> list[TableRows]:
    bars = BarLogic(None, symbols=SYMBOLS, timeframes=timeframes, lateness=0)
    blocks = [Trades(part, 0, np.empty(0, GAP)) for part in np.array_split(trades, 50)]
    return bars.on_batch(blocks)[0]


def bars_of(prices: NDArray[np.float64], start: int = 0, version: int = 1) -> list[TableRows]:
    """Make 1 s bars of closes[time, symbol]; NaN: no bar."""
    items = []
    for number, closes in enumerate(prices):
        block = np.zeros(len(closes), BAR)
        block["open_time"], block["timeframe"] = (start + number) * SECOND, SECOND
        block["symbol"], block["close"], block["version"] = np.arange(len(closes)), closes, version
        items.append(TableRows("bars", block[np.isfinite(closes)]))
    return items


def walks(symbols: int, length: int, seed: int = 1) -> NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    common = np.cumsum(rng.normal(0, 1, length))
    noise = np.cumsum(rng.normal(0, 0.3, (length, symbols)), axis=0)
    return 100.0 + common[:, None] * np.linspace(1, 2, symbols) + noise


def closes_by_polars(trades: Block, timeframe: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the times at which a row is due, and the last prices of both legs then."""
    every = timeframe or TICK_INTERVAL
    frame = pl.DataFrame({name: trades[name] for name in ("id", "symbol", "time", "price")})
    last = (
        frame.with_columns(open_time=pl.col("time") // every * every)
        .filter(pl.col("open_time") + every <= int(trades["time"].max()))
        .group_by("open_time", "symbol")
        .agg(pl.col("price").sort_by("id").last())
        .pivot("symbol", index="open_time", values="price")
        .sort("open_time")
    )
    if timeframe:  # every interval has its bar
        times = pl.DataFrame({"open_time": range(last["open_time"][0], last["open_time"][-1] + every, every)})
        last = times.join(last, "open_time", "left")
    last = last.fill_null(strategy="forward").drop_nulls()
    return last["open_time"].to_numpy(), last.select("1", "0").to_numpy()


def returns_of(prices: NDArray[np.float64], log: bool) -> NDArray[np.float64]:
    """Return the returns of both legs; the first is not known."""
    steps = np.diff(np.log(prices), axis=0) if log else prices[1:] / prices[:-1] - 1
    return np.vstack([[np.nan, np.nan], steps])


@pytest.mark.parametrize("log_prices", [False, True])
@pytest.mark.parametrize("timeframe", [0, SECOND, MINUTE])
def test_every_row_equals_statsmodels_and_numpy_over_the_same_window(
    recorded: Callable[[str], Block], timeframe: int, log_prices: bool
) -> None:
    trades = recorded("usdm" if timeframe == 0 else "spot")
    trades = trades[:6_000] if timeframe == 0 else trades
    chosen = options(log_prices=log_prices, windows=[5, 30] if timeframe == MINUTE else [30, 60], z_window=4)
    logic = PairLogic(None, options=chosen, timeframes=[timeframe])
    rows, _ = run(logic, items_of(trades, [timeframe] if timeframe else [0]))
    times, prices = closes_by_polars(trades, timeframe)
    returns = returns_of(prices, log_prices)
    scaled = np.log(prices) if log_prices else prices
    for window in chosen.windows:
        mine = rows[rows["window"] == window]
        assert mine["time"].tolist() == times.tolist()
        np.testing.assert_array_equal(mine["price_y"], prices[:, 0])
        np.testing.assert_array_equal(mine["price_x"], prices[:, 1])
        for i, row in enumerate(mine):
            y, x = scaled[max(i - window + 1, 0) : i + 1].T
            assert row["observations"] == len(y)
            if len(y) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
                continue
            # Moved near 0, where statsmodels is exact; at 60,000 its hedge ratio is off by some 1e-9.
            fit = sm.OLS(y - y[0], sm.add_constant(x - x[0])).fit()
            origin = fit.get_prediction([[1.0, -x[0]]])
            expected = {
                "hedge_ratio": fit.params[1],
                "intercept": origin.predicted_mean[0] + y[0],
                "hedge_ratio_stderr": fit.bse[1],
                "intercept_stderr": origin.se_mean[0],
                "r_squared": fit.rsquared,
                "spread": y[-1] - fit.params[1] * x[-1],
                "correlation": np.corrcoef(y - y[0], x - x[0])[0, 1],
            }
            known = returns[max(i - window + 1, 0) : i + 1]
            known = known[np.isfinite(known[:, 0])]
            if len(known) > 1:
                expected["volatility_y"], expected["volatility_x"] = known.std(axis=0, ddof=1)
            for name, value in expected.items():
                assert row[name] == pytest.approx(value, rel=1e-9, abs=1e-11), (name, i)
            if i >= chosen.z_window - 1:
                legs = scaled[i - chosen.z_window + 1 : i + 1] - scaled[i]
                spreads = legs[:, 0] - fit.params[1] * legs[:, 1]
                if spreads.std() > 1e-9 * abs(legs).max():
                    z_score = (spreads[-1] - spreads.mean()) / spreads.std()
                    assert row["z_score"] == pytest.approx(z_score, rel=1e-9, abs=1e-9), i


def test_the_unit_root_fields_are_those_of_the_spread_over_a_full_window() -> None:
    prices = walks(2, 90)
    rows, _ = run(PairLogic(None, options=options(windows=[40]), timeframes=[SECOND]), bars_of(prices))
    assert np.isnan(rows["adf_statistic"][:39]).all()
    for i, row in list(enumerate(rows))[39::5]:
        x, y = prices[i - 39 : i + 1].T
        result = adfuller(y - row["hedge_ratio"] * x, maxlag=1, autolag=None, result_object=False)
        assert row["adf_statistic"] == pytest.approx(result[0], rel=1e-8)
        assert row["adf_p_value"] == pytest.approx(result[1], rel=1e-7)


def by_key(rows: Block) -> dict[tuple[int, ...], Any]:
    """Return what a reader sees: of each row the highest version."""
    found: dict[tuple[int, ...], Any] = {}
    for row in rows:
        key = tuple(int(row[name]) for name in ("timeframe", "window", "method", "pair", "time"))
        assert key not in found or row["version"] > found[key]["version"]
        found[key] = row
    return found


def assert_close(mine: dict[tuple[int, ...], Any], theirs: dict[tuple[int, ...], Any]) -> None:
    assert mine.keys() == theirs.keys()
    for key, row in theirs.items():
        for name in METRIC.names or ():
            if name != "version":
                assert mine[key][name] == pytest.approx(row[name], rel=1e-7, abs=1e-9, nan_ok=True), (
                    key,
                    name,
                )


def test_a_late_bar_changes_the_rows_from_there_on() -> None:
    prices = walks(3, 150)
    chosen = options(symbols=["A", "B", "C"], pairs=["B/A", "C/A", "C/B"])
    expected, _ = run(PairLogic(None, options=chosen, timeframes=[SECOND]), bars_of(prices))
    wrong = prices.copy()
    wrong[100:103, 1] = wrong[99, 1]  # a feed that hung repeats its close
    logic = PairLogic(None, options=chosen, timeframes=[SECOND])
    rows, _ = run(logic, bars_of(wrong[:120]))
    late = np.concatenate([rows.rows[1:2] for rows in bars_of(prices[100:103], start=100, version=2)])
    again, _ = run(logic, [TableRows("bars", late)])
    assert set(again["pair"].tolist()) == {0, 2}  # the pairs of B
    assert again["time"].min() == 100 * SECOND
    rest, _ = run(logic, bars_of(prices[120:], start=120))
    assert_close(by_key(np.concatenate([rows, again, rest])), by_key(expected))


def test_a_bar_later_than_the_grid_reaches_changes_nothing() -> None:
    logic = PairLogic(None, options=options(), timeframes=[SECOND])
    run(logic, bars_of(walks(2, 300)))
    again, _ = run(logic, bars_of(walks(2, 1), version=2))
    assert len(again) == 0


def test_a_symbol_without_a_price_has_no_rows_until_it_has() -> None:
    prices = walks(2, 60)
    prices[:25, 0] = np.nan
    rows, _ = run(PairLogic(None, options=options(), timeframes=[SECOND]), bars_of(prices))
    assert rows["time"].min() == 25 * SECOND
    assert rows["observations"].max() == 35


def test_bars_that_never_were_take_their_place_in_the_window() -> None:
    prices = walks(2, 100)
    items = bars_of(prices)
    rows, _ = run(PairLogic(None, options=options(), timeframes=[SECOND]), items[:50] + items[60:])
    last = rows[rows["time"] == 70 * SECOND]
    assert last["observations"].tolist() == [20, 50]


@pytest.mark.parametrize("cut", [1, 37, 90])
def test_a_restart_changes_no_bit_of_what_comes_after(recorded: Callable[[str], Block], cut: int) -> None:
    timeframes = [0, SECOND, MINUTE]
    items = items_of(recorded("usdm")[:8_000], timeframes)
    chosen = options(methods=METHODS)
    whole = run(PairLogic(None, options=chosen, timeframes=timeframes), items)
    first = PairLogic(None, options=chosen, timeframes=timeframes)
    before = run(first, items[:cut])
    after = run(PairLogic(first.snapshot(), options=chosen, timeframes=timeframes), items[cut:])
    for rows, pieces in zip(whole, zip(before, after, strict=True), strict=True):
        joined = np.concatenate(pieces)
        for name in rows.dtype.names or ():
            np.testing.assert_array_equal(joined[name], rows[name], name)


def test_pairs_symbols_and_windows_may_change_between_runs() -> None:
    prices = walks(3, 120)
    chosen = options(symbols=["A", "B", "C"], pairs=["B/A", "C/A"])
    whole, _ = run(PairLogic(None, options=chosen, timeframes=[SECOND]), bars_of(prices))
    first = PairLogic(None, options=chosen, timeframes=[SECOND])
    run(first, bars_of(prices[:80]))
    changed = options(symbols=["C", "A", "D"], pairs=["D/A", "C/A"], windows=[60])
    resumed = PairLogic(first.snapshot(), options=changed, timeframes=[SECOND])
    rows, _ = run(resumed, bars_of(prices[80:][:, [2, 0, 1]], start=80))
    mine = rows[rows["pair"] == 1]
    theirs = whole[(whole["pair"] == 1) & (whole["window"] == 60) & (whole["time"] >= 80 * SECOND)]
    np.testing.assert_allclose(mine["hedge_ratio"], theirs["hedge_ratio"], rtol=1e-9)
    assert rows[rows["pair"] == 0]["observations"][0] == 1


def test_each_method_gives_rows_of_its_own() -> None:
    chosen = options(methods=METHODS)
    rows, _ = run(PairLogic(None, options=chosen, timeframes=[SECOND]), bars_of(walks(2, 90)))
    for number in range(len(METHODS)):
        mine = rows[rows["method"] == number]
        assert len(mine) == 2 * 90
        assert np.isfinite(mine["hedge_ratio"][-2:]).all()
        assert np.isfinite(mine["z_score"][-2:]).all()
    ratios = {float(row["hedge_ratio"]) for row in rows[rows["time"] == 89 * SECOND]}
    assert len(ratios) == 2 * len(METHODS)


def test_signals_follow_the_z_score_of_full_windows_with_hysteresis() -> None:
    chosen = options(windows=[30], z_entry=1.5, z_exit=0.5)
    rows, signals = run(PairLogic(None, options=chosen, timeframes=[SECOND]), bars_of(walks(2, 2_000)))
    expected = []
    position = EXIT
    for row in rows[rows["observations"] == 30]:
        z = row["z_score"]
        moved = SHORT if z > 1.5 else LONG if z < -1.5 else position
        if moved == position and ((position == SHORT and z < 0.5) or (position == LONG and z > -0.5)):
            moved = EXIT
        if moved != position:
            expected.append((int(row["time"]), moved, float(z)))
        position = moved
    assert len(expected) > 20
    assert [(s["time"], s["signal"], s["z_score"]) for s in signals] == expected


def test_ticks_give_a_row_only_for_pairs_that_moved() -> None:
    block = np.zeros(5, BAR)
    block["open_time"] = np.array([0, 0, 0, 3, 5]) * TICK_INTERVAL
    block["symbol"], block["close"] = [0, 1, 2, 2, 0], [10.0, 20.0, 30.0, 31.0, 11.0]
    chosen = options(symbols=["A", "B", "C"], pairs=["B/A", "C/B"], windows=[30])
    rows, _ = run(PairLogic(None, options=chosen, timeframes=[0]), [TableRows(TICKS, block)])
    assert rows[["time", "pair", "price_y", "price_x"]].tolist() == [
        (0, 0, 20.0, 10.0),
        (0, 1, 30.0, 20.0),
        (3 * TICK_INTERVAL, 1, 31.0, 20.0),
        (5 * TICK_INTERVAL, 0, 20.0, 11.0),
    ]
    assert rows["observations"].tolist() == [1, 1, 2, 2]
