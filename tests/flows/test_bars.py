"""Bars: sums as the exchange prints them, closing by event time, late trades, gaps, snapshots."""

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.bars import TICKS, BarLogic
from kernels.records import BAR, GAP, GAP_REPAIRS, MILLISECOND, SECOND, TRADE, Block, Trades

MINUTE = 60 * SECOND
NO_GAPS = np.empty(0, GAP)
NO_TRADES = np.empty(0, TRADE)
SUMS = ("volume", "quote_volume", "taker_buy_volume", "taker_buy_quote_volume")


def logic(symbols: int = 2, *timeframes: int, lateness: int = 0, resume: bytes | None = None) -> BarLogic:
    names = [f"S{i}" for i in range(symbols)]
    return BarLogic(resume, symbols=names, timeframes=timeframes or (SECOND,), lateness=lateness)


def run(bars: BarLogic, *blocks: Trades | Block, watermark: int = 0) -> Block:
    """Give blocks to the logic and return all bars that come out, ticks left aside."""
    items = [b if isinstance(b, Trades) else Trades(b, 0, NO_GAPS) for b in blocks]
    items.append(Trades(NO_TRADES, watermark, NO_GAPS))
    out, _ = bars.on_batch(items)
    return np.concatenate([np.empty(0, BAR), *(rows for table, rows in out if table == "bars")])


def trades(*rows: tuple[int, float, float] | tuple[int, float, float, int], start: int = 1) -> Block:
    """Make trades of (time in ms, price, quantity[, symbol]), ids in order per symbol."""
    block = np.zeros(len(rows), TRADE)
    last: dict[int, int] = {}
    for trade, row in zip(block, rows, strict=True):
        time, price, quantity, symbol = (*row, 0)[:4]
        last[symbol] = number = last.get(symbol, start - 1) + 1
        trade["id"] = trade["first_id"] = trade["last_id"] = number
        trade["time"], trade["price"], trade["quantity"] = time * MILLISECOND, price, quantity
        trade["symbol"], trade["in_bars"] = symbol, True
    return block


def gap(symbol: int, first: int, last: int, repair: str = "open") -> Block:
    row = np.zeros(1, GAP)
    row["symbol"], row["first_id"], row["last_id"] = symbol, first, last
    row["repair"] = GAP_REPAIRS.index(repair)
    row["repaired"] = 0 if repair == "open" else 1
    return row


def exact(value: float) -> Fraction:
    """Return the decimal number that a float64 stands for."""
    return Fraction(repr(float(value)))


def by_polars(block: Block, every: int) -> pl.DataFrame:
    frame = pl.DataFrame({name: block[name] for name in TRADE.names or ()})
    taker = pl.when(~pl.col("buyer_is_maker"))
    return (
        frame.filter("in_bars")
        .with_columns(open_time=pl.col("time") // every * every)
        .sort("symbol", "id")
        .group_by("symbol", "open_time", maintain_order=True)
        .agg(
            open=pl.col("price").first(),
            high=pl.col("price").max(),
            low=pl.col("price").min(),
            close=pl.col("price").last(),
            volume=pl.col("quantity").sum(),
            quote_volume=(pl.col("price") * pl.col("quantity")).sum(),
            taker_buy_volume=taker.then("quantity").otherwise(0.0).sum(),
            taker_buy_quote_volume=taker.then(pl.col("price") * pl.col("quantity")).otherwise(0.0).sum(),
            trades=pl.len(),
            first_id=pl.col("id").first(),
            last_id=pl.col("id").last(),
        )
    )


def test_minute_bars_equal_the_exchanges_own_klines(
    recorded: Callable[[str], Block], klines: dict[str, list[dict[str, str]]]
) -> None:
    block = recorded("usdm")
    bars = run(logic(2, SECOND, MINUTE), block, watermark=int(block["time"].max()))
    compared = 0
    for number, symbol in enumerate(("BTCUSDT", "ETHUSDT")):
        mine = bars[(bars["timeframe"] == MINUTE) & (bars["symbol"] == number) & ~bars["provisional"]]
        theirs = {int(row["open_time"]) * MILLISECOND: row for row in klines[symbol]}
        for bar in mine:
            row = theirs[int(bar["open_time"])]
            for name in ("open", "high", "low", "close", *SUMS):
                assert bar[name] == float(row[name]), (symbol, row["open_time"], name)
            assert bar["trades"] == int(row["trades"]) == bar["last_id"] - bar["first_id"] + 1
            compared += 1
    assert compared == 2 * 5  # 23:55 to 23:59 are whole


@pytest.mark.parametrize("market", ["spot", "usdm"])
def test_bars_equal_those_that_polars_groups(recorded: Callable[[str], Block], market: str) -> None:
    block = recorded(market)
    lengths = (SECOND, MINUTE, 5 * MINUTE)
    bars = run(logic(2, *lengths), block, watermark=int(block["time"].max()))
    for length in lengths:
        mine = bars[(bars["timeframe"] == length) & (bars["trades"] > 0)]
        theirs = by_polars(block, length).filter(pl.col("open_time") + length <= int(block["time"].max()))
        assert len(mine) == len(theirs) > 0
        mine = np.sort(mine, order=["symbol", "open_time"])
        theirs = theirs.sort("symbol", "open_time")
        for name in theirs.columns:
            expected = theirs[name].to_numpy()
            if name in SUMS:
                np.testing.assert_allclose(mine[name], expected, rtol=1e-13)
            else:
                np.testing.assert_array_equal(mine[name], expected)


def test_a_second_without_trades_repeats_the_last_close_with_volume_0() -> None:
    bars = run(logic(1), trades((100, 10.0, 1.0), (3_500, 11.0, 1.0)), watermark=4 * SECOND)
    assert bars["open_time"].tolist() == [0, SECOND, 2 * SECOND, 3 * SECOND]
    assert bars["close"].tolist() == [10.0, 10.0, 10.0, 11.0]
    assert bars["open"].tolist() == [10.0, 10.0, 10.0, 11.0]
    assert bars["volume"].tolist() == [1.0, 0.0, 0.0, 1.0]
    assert bars["trades"].tolist() == [1, 0, 0, 1]
    assert bars["first_id"].tolist() == [1, -1, -1, 2]


def test_a_bar_closes_when_the_market_has_passed_its_end_and_the_lateness() -> None:
    bars = logic(2, lateness=250 * MILLISECOND)
    assert len(run(bars, trades((0, 10.0, 1.0, 0), (900, 20.0, 1.0, 1)))) == 0
    assert len(run(bars, watermark=1_249 * MILLISECOND)) == 0
    closed = run(bars, watermark=1_250 * MILLISECOND)
    assert closed["symbol"].tolist() == [0, 1]
    assert closed["close"].tolist() == [10.0, 20.0]


def test_another_symbols_trade_moves_the_market_on() -> None:
    bars = logic(2)
    closed = run(bars, trades((100, 10.0, 1.0, 0), (1_000, 20.0, 1.0, 1)))
    assert closed["symbol"].tolist() == [0]


def test_a_late_trade_reopens_its_bar_with_a_higher_version() -> None:
    bars = logic(2, SECOND, 5 * SECOND)
    first = run(bars, trades((100, 10.0, 1.0, 0), (200, 20.0, 1.0, 1), (2_100, 21.0, 1.0, 1)))
    assert first["version"].tolist() == [1, 1, 1, 1]
    late = trades((500, 12.0, 2.0, 0), start=2)
    again = run(bars, late, watermark=3 * SECOND)
    mine = again[(again["symbol"] == 0) & (again["timeframe"] == SECOND)]
    assert mine["open_time"].tolist() == [0, SECOND, 2 * SECOND]
    assert mine["close"].tolist() == [12.0, 12.0, 12.0]  # and the close repeated behind it follows
    assert mine["volume"].tolist() == [3.0, 0.0, 0.0]
    assert mine["version"].tolist() == [2, 2, 1]
    other = again[again["symbol"] == 1]
    assert other["version"].tolist() == [1]


def test_a_trade_out_of_time_order_reopens_an_older_bar_than_the_last() -> None:
    bars = logic(1)
    run(bars, trades((100, 10.0, 1.0), (1_100, 11.0, 1.0), (2_100, 12.0, 1.0)))
    again = run(bars, trades((900, 9.0, 1.0), start=4), watermark=3 * SECOND)
    assert again["open_time"].tolist() == [0, 2 * SECOND]
    assert again[["low", "close", "version"]][0].tolist() == (9.0, 9.0, 2)  # close: the highest id


def test_a_trade_later_than_the_ring_is_long_is_counted_and_changes_nothing() -> None:
    bars = logic(1)
    run(bars, trades((100, 10.0, 1.0), (60_100, 11.0, 1.0)))
    before = bars.snapshot()
    out = run(bars, trades((28_100, 9.0, 1.0), start=3), watermark=60 * SECOND)
    assert len(out) == 0 or out["trades"].tolist() == [1]
    assert before != bars.snapshot()


def test_a_late_trade_is_repeated_though_its_bar_leaves_the_ring_meanwhile() -> None:
    bars = logic(2, lateness=250 * MILLISECOND)
    begin = trades((0, 10.0, 1.0, 0), (100, 20.0, 1.0, 1), (1_000, 11.0, 1.0, 0), (2_000, 12.0, 1.0, 0))
    before = run(bars, begin, watermark=18 * SECOND)
    # The bar of second 18 takes the place of that of second 2 before that of second 17 closes.
    late = trades((2_500, 13.0, 1.0, 0), (18_100, 14.0, 1.0, 0), start=4)
    after = run(bars, late, watermark=21 * SECOND)
    final = newest(np.concatenate([before, after]))
    closes = [float(final[SECOND, 0, t * SECOND]["close"]) for t in range(20)]
    assert closes == [10.0, 11.0, *[13.0] * 16, 14.0, 14.0]


def test_a_trade_that_klines_leave_out_is_left_out() -> None:
    block = trades((100, 10.0, 1.0), (200, 0.0, 5.0), (300, 11.0, 1.0))
    block["in_bars"][1] = False
    (bar,) = run(logic(1), block, watermark=SECOND)
    assert bar[["low", "volume", "trades", "first_id", "last_id"]].tolist() == (10.0, 2.0, 2, 1, 3)


def test_the_bar_in_which_the_feed_began_is_provisional() -> None:
    bars = run(logic(1), trades((300, 10.0, 1.0), (1_000, 10.0, 1.0)), watermark=2 * SECOND)
    assert bars["provisional"].tolist() == [True, False]


def test_bars_inside_an_open_gap_are_provisional_until_it_closes() -> None:
    bars = logic(2)
    run(bars, trades((0, 10.0, 1.0, 0), (10, 20.0, 1.0, 1), (1_500, 11.0, 1.0, 0), (1_600, 21.0, 1.0, 1)))
    ahead = trades((4_200, 24.0, 1.0, 1), start=3)
    during = run(bars, Trades(ahead, 4_200 * MILLISECOND, gap(0, 3, 5)))
    mine, other = during[during["symbol"] == 0], during[during["symbol"] == 1]
    assert mine["open_time"].tolist() == [SECOND, 2 * SECOND, 3 * SECOND]
    assert mine["provisional"].all()
    assert not other["provisional"].any()
    healed = trades((1_700, 12.0, 1.0), (2_800, 13.0, 1.0), (4_100, 14.0, 1.0), start=3)
    run(bars, healed)
    after = run(bars, Trades(NO_TRADES, 0, gap(0, 3, 5, "rest")), watermark=5 * SECOND)
    final = {int(bar["open_time"]): bar for bar in after if bar["symbol"] == 0}
    assert [final[t * SECOND]["close"] for t in (1, 2, 3, 4)] == [12.0, 13.0, 13.0, 14.0]
    assert [bool(final[t * SECOND]["provisional"]) for t in (1, 2, 3, 4)] == [False] * 4
    assert [int(final[t * SECOND]["trades"]) for t in (1, 2, 3, 4)] == [2, 1, 0, 1]
    assert all(final[t * SECOND]["version"] > 1 for t in (1, 2, 3))


def test_a_repeat_inside_a_gap_is_settled_though_no_trade_fell_into_it() -> None:
    bars = logic(2)
    run(bars, trades((0, 10.0, 1.0, 0), (10, 20.0, 1.0, 1), (1_500, 11.0, 1.0, 0), (1_600, 21.0, 1.0, 1)))
    before = run(bars, watermark=2 * SECOND)  # the bar that is repeated is final
    during = run(bars, Trades(trades((4_200, 24.0, 1.0, 1), start=3), 4_200 * MILLISECOND, gap(0, 3, 4)))
    repeats = during[during["symbol"] == 0]
    assert repeats["open_time"].tolist() == [2 * SECOND, 3 * SECOND]
    assert repeats["provisional"].all()
    run(bars, trades((4_300, 12.0, 1.0), (4_400, 13.0, 1.0), start=3))
    after = run(bars, Trades(NO_TRADES, 0, gap(0, 3, 4, "rest")), watermark=5 * SECOND)
    final = newest(np.concatenate([before, during, after]))
    assert [bool(final[SECOND, 0, t * SECOND]["provisional"]) for t in (1, 2, 3, 4)] == [False] * 4
    assert [int(final[SECOND, 0, t * SECOND]["trades"]) for t in (1, 2, 3, 4)] == [1, 0, 0, 2]


def test_bars_around_trades_that_are_lost_stay_provisional() -> None:
    bars = logic(2)
    run(bars, trades((0, 10.0, 1.0, 0), (0, 20.0, 1.0, 1)))
    during = run(bars, Trades(trades((2_200, 21.0, 1.0, 1), start=2), 0, gap(0, 2, 4)))
    rest = trades((2_100, 11.0, 1.0, 0), start=5)
    after = run(bars, Trades(rest, 0, gap(0, 2, 4, "unavailable")), watermark=4 * SECOND)
    bars_of = newest(np.concatenate([during, after]))
    final = [bool(bars_of[SECOND, 0, t * SECOND]["provisional"]) for t in range(4)]
    assert final == [True, True, True, False]


def test_a_long_silence_of_the_whole_market_is_not_filled() -> None:
    week = 7 * 86_400 * 1_000
    bars = run(logic(1), trades((0, 10.0, 1.0), (week, 11.0, 1.0)), watermark=(week + 1_000) * MILLISECOND)
    assert len(bars) < 10
    assert bars["close"][-1] == 11.0


def test_ticks_carry_the_last_price_of_each_symbol_that_traded() -> None:
    bars = logic(2, 0, SECOND)
    block = trades((0, 10.0, 1.0, 0), (50, 11.0, 1.0, 0), (60, 20.0, 1.0, 1), (350, 12.0, 1.0, 0))
    out, _ = bars.on_batch([Trades(block, 400 * MILLISECOND, NO_GAPS)])
    ticks = np.concatenate([rows for table, rows in out if table == TICKS])
    assert ticks[["open_time", "symbol", "close"]].tolist() == [
        (0, 0, 11.0),
        (0, 1, 20.0),
        (300 * MILLISECOND, 0, 12.0),
    ]


decimals = st.builds(
    lambda units, places: float(f"{units}e-{places}"), st.integers(1, 10**10), st.integers(0, 8)
)


@given(st.lists(st.tuples(decimals, decimals, st.booleans()), min_size=1, max_size=40))
def test_sums_are_exact_and_rounded_once(rows: list[tuple[float, float, bool]]) -> None:
    block = trades(*((i, price, quantity) for i, (price, quantity, _) in enumerate(rows)))
    block["buyer_is_maker"] = [maker for *_, maker in rows]
    (bar,) = run(logic(1), block, watermark=SECOND)
    terms = [(exact(price), exact(quantity), maker) for price, quantity, maker in rows]
    assert bar["volume"] == float(sum(q for _, q, _ in terms))
    assert bar["quote_volume"] == float(sum(p * q for p, q, _ in terms))
    assert bar["taker_buy_volume"] == float(sum(q for _, q, maker in terms if not maker))
    assert bar["taker_buy_quote_volume"] == float(sum(p * q for p, q, maker in terms if not maker))


@st.composite
def histories(draw: st.DrawFn) -> Block:
    """Trades of three symbols whose feeds lag behind each other by up to some seconds."""
    count = draw(st.integers(1, 80))
    steps = draw(st.lists(st.sampled_from([0, 1, 40, 90, 700, 2_500, 9_000]), min_size=count, max_size=count))
    lag = draw(st.lists(st.sampled_from([0, 300, 1_900, 25_000]), min_size=3, max_size=3))
    symbols = draw(st.lists(st.integers(0, 2), min_size=count, max_size=count))
    prices = draw(st.lists(st.integers(1, 50), min_size=count, max_size=count))
    now = 30_000 + np.cumsum(steps)
    latest = [0, 0, 0]
    rows = []
    for time, symbol, price in zip(now, symbols, prices, strict=True):
        latest[symbol] = max(latest[symbol], int(time) - lag[symbol])
        rows.append((latest[symbol], price / 8, 0.5, symbol))
    return trades(*rows)


def newest(bars: Block) -> dict[tuple[int, int, int], Any]:
    """Return what a reader sees: of each bar the highest version."""
    found: dict[tuple[int, int, int], Any] = {}
    for bar in bars:
        key = int(bar["timeframe"]), int(bar["symbol"]), int(bar["open_time"])
        assert key not in found or bar["version"] > found[key]["version"]
        found[key] = bar
    return found


@given(histories(), st.lists(st.integers(0, 80), max_size=5), st.sampled_from([0, 250 * MILLISECOND]))
def test_what_comes_out_does_not_depend_on_how_trades_are_cut_into_blocks_nor_on_restarts(
    block: Block, cuts: list[int], lateness: int
) -> None:
    whole = run(logic(3, 0, SECOND, 5 * SECOND, lateness=lateness), block, watermark=900 * SECOND)
    bars = logic(3, 0, SECOND, 5 * SECOND, lateness=lateness)
    pieces = []
    for part in np.split(block, sorted(min(cut, len(block)) for cut in cuts)):
        pieces.append(run(bars, part))
        bars = logic(3, 0, SECOND, 5 * SECOND, lateness=lateness, resume=bars.snapshot())
    pieces.append(run(bars, watermark=900 * SECOND))
    assert np.concatenate(pieces).tolist() == whole.tolist()


@given(histories())
@settings(max_examples=200)
def test_late_trades_lead_to_the_same_bars_as_trades_in_order(block: Block) -> None:
    end = (int(block["time"].max()) // (5 * SECOND) + 2) * 5 * SECOND
    late = newest(run(logic(3, SECOND, 5 * SECOND), block, watermark=end))
    ordered = block[np.argsort(block["time"], kind="stable")]
    expected = newest(run(logic(3, SECOND, 5 * SECOND), ordered, watermark=end))
    for key, bar in expected.items():
        names = [n for n in BAR.names or () if n not in ("version", "provisional")]
        assert late[key][names].tolist() == bar[names].tolist(), key


def test_symbols_and_timeframes_may_change_between_runs() -> None:
    bars = logic(2, SECOND)
    run(bars, trades((0, 10.0, 1.0, 0), (0, 20.0, 1.0, 1), (400, 21.0, 1.0, 1)))
    resumed = BarLogic(bars.snapshot(), symbols=["S1", "NEW"], timeframes=[SECOND, MINUTE], lateness=0)
    out = run(resumed, trades((700, 22.0, 1.0, 0), start=3), watermark=MINUTE)
    first = out[(out["timeframe"] == SECOND) & (out["open_time"] == 0)]
    assert first[["symbol", "open", "close", "trades"]].tolist() == [(0, 20.0, 22.0, 3)]
