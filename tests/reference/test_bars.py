"""Bars, gaps and tick observations of the reference, judged by the exchange's klines and by hand."""

from collections.abc import Callable, Sequence
from math import isnan
from typing import Any

import numpy as np
import polars as pl

from kernels.records import MILLISECOND, SECOND, Block
from tests.reference.bars import REPEAT_LIMIT, STEP_BACK_LIMIT
from tests.reference.histories import DAY, HOUR, MINUTE, trade, trades_of
from tests.reference.tables import ReferenceSettings, Tables, tables

NOON = 1_700_006_400 * SECOND + 12 * HOUR


def made(
    trades: Block | Sequence[tuple[float, ...]],
    until: int,
    *timeframes: int,
    sides_unknown: Sequence[bool] | None = None,
    **settings: Any,
) -> Tables:
    """Make tables of one symbol A, and B where it trades, with a lateness of 0."""
    block = trades if isinstance(trades, np.ndarray) else trades_of(trades)
    values: dict[str, Any] = {"symbols": ("A", "B"), "pairs": (), "windows": (3,), "lateness": 0} | settings
    reference = ReferenceSettings(timeframes=timeframes or (SECOND,), watermark=until, **values)
    unknown = None if sides_unknown is None else np.array(sides_unknown)
    return tables(block, reference, unknown)


def seconds(bars: pl.DataFrame) -> list[int]:
    """Open times, in seconds after noon."""
    return [(time - NOON) // SECOND for time in bars["open_time"]]


def test_minutes_equal_the_exchanges_own_klines(
    recorded: Callable[[str], Block], klines: dict[str, list[dict[str, str]]]
) -> None:
    trades = recorded("usdm")
    settings = ReferenceSettings(
        ("BTCUSDT", "ETHUSDT"), (), (MINUTE,), (3,), int(trades["time"].max()) + 250 * MILLISECOND
    )
    bars = tables(trades, settings).bars
    compared = 0
    for symbol, rows in klines.items():
        ours = {row["open_time"]: row for row in bars.filter(symbol=symbol, provisional=False).to_dicts()}
        for row in rows:
            bar = ours.get(int(row["open_time"]) * 1000)
            if bar is None:
                continue
            compared += 1
            assert bar["close_time"] // 1000 == int(row["close_time"])
            assert bar["trades"] == int(row["trades"])
            for name in ("open", "high", "low", "close", "volume", "quote_volume"):
                assert bar[name] == float(row[name]), (symbol, row["open_time"], name)
            for name in ("taker_buy_volume", "taker_buy_quote_volume"):
                assert bar[name] == float(row[name]), (symbol, row["open_time"], name)
    assert compared == 10, "five complete minutes of both symbols"


def test_any_order_of_arrival_gives_the_same_rows(recorded: Callable[[str], Block]) -> None:
    trades = recorded("usdm")[:3_000]
    until = int(trades["time"].max()) + SECOND
    mixed = trades[np.random.default_rng(0).permutation(len(trades))]
    ours, same = made(trades, until, pairs=("B/A",)), made(mixed, until, pairs=("B/A",))
    assert ours.bars.equals(same.bars)
    assert ours.pair_metrics.equals(same.pair_metrics)


def test_prices_are_of_the_lowest_and_highest_id_whatever_their_times() -> None:
    rows = [
        trade(1, NOON + 900, 10.0, 0.1, buyer_is_maker=True),
        trade(2, NOON + 100, 12.0, 0.2),
        trade(3, NOON + 500, 9.0, 0.3),
        trade(4, NOON + SECOND, 11.0),
    ]
    bar = made(rows, NOON + SECOND, start={"A": NOON}).bars.to_dicts()
    assert len(bar) == 1
    expected = {
        "open": 10.0,
        "high": 12.0,
        "low": 9.0,
        "close": 9.0,
        "trades": 3,
        "first_id": 1,
        "last_id": 3,
    }
    assert {name: bar[0][name] for name in expected} == expected
    assert (bar[0]["volume"], bar[0]["taker_buy_volume"]) == (
        0.6,
        0.5,
    )  # 0.1 + 0.2 + 0.3 of doubles is not 0.6
    assert (bar[0]["quote_volume"], bar[0]["taker_buy_quote_volume"]) == (6.1, 5.1)


def test_aggregates_count_their_trades_and_give_trade_ids() -> None:
    rows = [trade(7, NOON, 1.0, ids=(100, 104)), trade(8, NOON, 1.0, ids=(105, 105))]
    bar = made(rows, NOON + SECOND).bars.row(0, named=True)
    assert (bar["trades"], bar["first_id"], bar["last_id"]) == (6, 100, 105)


def test_trades_that_klines_leave_out_use_up_an_id_and_are_in_no_bar() -> None:
    rows = [trade(1, NOON, 5.0), trade(2, NOON, 99.0, in_bars=False), trade(3, NOON, 5.0)]
    result = made(rows, NOON + SECOND)
    assert result.bars.select("high", "trades").rows() == [(5.0, 2)]
    assert result.gaps.is_empty()


def test_taker_volumes_are_unknown_where_the_file_does_not_tell_the_sides() -> None:
    rows = [trade(1, NOON, 1.0), trade(2, NOON + 2 * SECOND, 1.0), trade(3, NOON + 3 * SECOND, 1.0)]
    bars = made(rows, NOON + 4 * SECOND, sides_unknown=[True, True, False]).bars
    assert [isnan(value) for value in bars["taker_buy_volume"]] == [True, False, True, False]
    assert [isnan(value) for value in bars["taker_buy_quote_volume"]] == [True, False, True, False]
    assert bars["volume"].to_list() == [1.0, 0.0, 1.0, 1.0]


def test_intervals_without_trades_repeat_the_close() -> None:
    rows = [trade(1, NOON, 5.0), trade(2, NOON + 3 * SECOND, 6.0)]
    bars = made(rows, NOON + 6 * SECOND, SECOND, 5 * SECOND).bars
    short = bars.filter(timeframe="1s")
    assert seconds(short) == [0, 1, 2, 3, 4, 5]
    assert short["close"].to_list() == [5.0, 5.0, 5.0, 6.0, 6.0, 6.0]
    repeated = short.row(1, named=True)
    assert [repeated[name] for name in ("open", "high", "low")] == [5.0] * 3
    assert [repeated[name] for name in ("volume", "quote_volume", "taker_buy_volume", "trades")] == [0] * 4
    assert (repeated["first_id"], repeated["last_id"]) == (-1, -1)
    assert seconds(bars.filter(timeframe="5s")) == [0]


def test_at_most_ten_thousand_intervals_in_a_row_repeat_the_close() -> None:
    assert REPEAT_LIMIT == 10_000
    back = NOON + 10_005 * SECOND
    rows = [trade(1, NOON, 5.0), trade(2, back, 6.0)]
    bars = made(rows, back + 2 * SECOND).bars
    assert seconds(bars) == [*range(10_001), 10_005, 10_006]
    assert len(made(rows[:1], back).bars) == 10_001
    whole = made([rows[0], trade(2, NOON + 10_001 * SECOND, 6.0)], NOON + 10_002 * SECOND).bars
    assert len(whole) == 10_002, "a pause of just so many is filled"


def test_a_bar_is_written_when_the_watermark_is_its_end_and_the_lateness() -> None:
    rows = [trade(1, NOON, 5.0)]
    end = NOON + SECOND + 250 * MILLISECOND
    assert len(made(rows, end, lateness=250 * MILLISECOND).bars) == 1
    assert made(rows, end - 1, lateness=250 * MILLISECOND).bars.is_empty()


def test_bars_from_the_last_trade_before_a_gap_to_the_first_behind_it_are_provisional() -> None:
    rows = [trade(n, NOON + n * SECOND + 500, 5.0) for n in (1, 2, 5, 6)]
    result = made(rows, NOON + 8 * SECOND, SECOND, 3 * SECOND, start={"A": NOON})
    short, long = (result.bars.filter(timeframe=name) for name in ("1s", "3s"))
    assert dict(zip(seconds(short), short["provisional"])) == {
        1: False, 2: True, 3: True, 4: True, 5: True, 6: False, 7: False
    }  # fmt: skip
    assert dict(zip(seconds(long), long["provisional"])) == {0: True, 3: True}
    assert result.gaps.rows() == [("A", 3, 4)]


def test_a_gap_reaches_from_the_latest_time_before_it_also_where_times_step_back() -> None:
    # Id 2 is the latest before the gap; id 4, behind it, is older.
    times = {1: 1, 2: 6, 4: 3, 5: 9}
    rows = [trade(number, NOON + second * SECOND, 5.0) for number, second in times.items()]
    bars = made(rows, NOON + 10 * SECOND, start={"A": NOON}).bars
    marked = [second for second, is_marked in zip(seconds(bars), bars["provisional"]) if is_marked]
    assert marked == [6]


def test_every_bar_of_a_gap_of_hours_is_provisional_or_absent() -> None:
    rows = [trade(n, NOON + n, 5.0) for n in (1, 2)]
    rows += [trade(n, NOON + 2 * HOUR + n, 5.0) for n in (900, 901)]
    result = made(rows, NOON + 2 * HOUR + 5 * MINUTE, SECOND, MINUTE, 5 * MINUTE, start={"A": NOON})
    assert result.gaps.rows() == [("A", 3, 899)]
    inside = result.bars.filter(pl.col("open_time") <= NOON + 2 * HOUR)
    assert inside["provisional"].all()
    assert inside.group_by("timeframe").len().sort("len").rows() == [("5m", 25), ("1m", 121), ("1s", 7_201)]
    assert not result.bars.filter(pl.col("open_time") > NOON + 2 * HOUR)["provisional"].any()


def test_a_part_of_a_gap_that_was_filled_ends_the_marks() -> None:
    rows = [trade(n, NOON + n * SECOND, 5.0) for n in (1, 2, 4, 5, 8)]
    result = made(rows, NOON + 9 * SECOND, start={"A": NOON})
    assert result.gaps.rows() == [("A", 3, 3), ("A", 6, 7)]
    marked = [
        second for second, is_marked in zip(seconds(result.bars), result.bars["provisional"]) if is_marked
    ]
    assert marked == [2, 3, 4, 5, 6, 7, 8]
    rows += [trade(3, NOON + 3 * SECOND, 5.0)]
    assert made(rows, NOON + 9 * SECOND, start={"A": NOON}).bars["provisional"].sum() == 4


def test_ids_that_the_exchange_used_up_make_no_gap() -> None:
    rows = [trade(n, NOON + n * SECOND, 5.0) for n in (1, 4, 8)]
    result = made(rows, NOON + 9 * SECOND, start={"A": NOON}, unused_ids={"A": (2, 3, 6)})
    assert result.gaps.rows() == [("A", 5, 5), ("A", 7, 7)]
    assert dict(zip(seconds(result.bars), result.bars["provisional"]))[2] is False


def test_the_bar_in_which_a_feed_began_is_provisional_unless_the_feed_is_known_to_be_whole() -> None:
    rows = [trade(1, NOON + 1, 5.0), trade(2, NOON + SECOND, 5.0)]
    until = NOON + 2 * SECOND
    assert made(rows, until).bars["provisional"].to_list() == [True, False]
    assert made(rows, until, start={"A": NOON // DAY * DAY}).bars["provisional"].to_list() == [False, False]
    assert made([trade(1, NOON, 5.0)], until).bars["provisional"].to_list() == [False, False]


def test_a_trade_that_steps_back_by_more_than_the_limit_is_in_no_bar() -> None:
    late = NOON + 100 * SECOND
    rows = [
        trade(1, late, 5.0),
        trade(2, late - STEP_BACK_LIMIT, 6.0),
        trade(3, late - STEP_BACK_LIMIT - 1, 7.0),
    ]
    result = made(rows, late + SECOND, 100 * SECOND, SECOND)
    traded = result.bars.filter(pl.col("trades") > 0, timeframe="1s")
    assert traded.select("open_time", "close").rows() == [(late - STEP_BACK_LIMIT, 6.0), (late, 5.0)]
    assert result.gaps.is_empty(), "its id is there"


def test_an_observation_on_ticks_is_an_interval_in_which_either_leg_traded() -> None:
    tick = 100 * MILLISECOND
    rows = [
        trade(1, NOON, 5.0),
        trade(2, NOON + 2 * tick, 6.0),
        trade(3, NOON + 2 * tick + 5, 7.0),
        trade(4, NOON + 7 * tick, 8.0),
        trade(9, NOON + 9 * tick, 9.0),
        trade(1, NOON + 2 * tick - 1, 50.0, symbol=1),
        trade(2, NOON + 5 * tick, 60.0, symbol=1),
    ]
    result = made(rows, NOON + 10 * tick, 0, pairs=("A/B",), z_window=3, windows=(3, 4))
    assert result.ticks.select(
        (pl.col("time") - NOON) // tick, "price_y", "price_x", "provisional"
    ).rows() == [
        (1, 5.0, 50.0, True),  # the feed of B begins in it
        (2, 7.0, 50.0, False),
        (5, 7.0, 60.0, False),
        (7, 8.0, 60.0, True),  # the gap of A begins here
        (9, 9.0, 60.0, True),
    ]
    metrics = result.pair_metrics
    # A row is provisional where one of its last max(w, z) + 1 observations is.
    assert metrics.filter(window=3)["provisional"].to_list() == [True] * 5
    assert metrics["timeframe"].unique().to_list() == ["tick"]
    assert metrics.filter(window=4)["observations"].to_list() == [1, 2, 3, 4, 4]
    assert result.bars.is_empty()
    assert result.signals.is_empty()


def test_a_tick_interval_closes_as_a_bar_does() -> None:
    tick = 100 * MILLISECOND
    rows = [trade(1, NOON, 5.0), trade(1, NOON, 50.0, symbol=1)]
    assert len(made(rows, NOON + tick, 0, pairs=("A/B",)).ticks) == 1
    assert made(rows, NOON + tick - 1, 0, pairs=("A/B",)).ticks.is_empty()
