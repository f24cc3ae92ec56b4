"""Random histories keep the contract of a source, and comparing sees what differs."""

from collections import Counter
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from tests.reference import ReferenceSettings, differences, tables, unfilled
from tests.reference.bars import REPEAT_LIMIT, STEP_BACK_LIMIT
from tests.reference.compare import KEYS
from tests.reference.histories import (
    REGIMES,
    Event,
    GapEvent,
    History,
    TradesEvent,
    WatermarkEvent,
    cut,
    history,
)

SEEDS = range(60)


@pytest.fixture(scope="module")
def histories() -> list[History]:
    return [history(seed) for seed in SEEDS]


def without_pairs(drawn: History) -> ReferenceSettings:
    return replace(drawn.settings, pairs=())


def came(events: list[Event], symbol: int) -> list[int]:
    """Ids of a symbol's trades, in order of arrival."""
    return [
        int(number)
        for event in events
        if isinstance(event, TradesEvent)
        for number in event.trades["id"][event.trades["symbol"] == symbol]
    ]


def test_the_same_seed_draws_the_same_history() -> None:
    first, second = history(5), history(5)
    assert first.settings == second.settings
    assert np.array_equal(first.trades, second.trades)
    assert len(first.events) == len(second.events)
    assert [event[0] for event in first.events] == [event[0] for event in second.events]


def test_each_id_comes_once_and_in_order_but_for_holes(histories: list[History]) -> None:
    for drawn in histories:
        for symbol in range(len(drawn.settings.symbols)):
            highest, holes = (
                -1,
                dict[int, tuple[int, int]](),
            )  # hole of each id; last id that came of each hole
            last_of_hole: dict[tuple[int, int], int] = {}
            ids = came(list(drawn.events), symbol)
            assert len(ids) == len(set(ids))
            for event in drawn.events:
                if isinstance(event, GapEvent) and event.symbol == symbol and event.repair == "open":
                    assert event.first_id == highest + 1
                    hole = (event.first_id, event.last_id)
                    holes |= dict.fromkeys(range(event.first_id, event.last_id + 1), hole)
                    highest = event.last_id
                for number in came([event], symbol):
                    if number in holes:
                        assert number > last_of_hole.get(holes[number], -1)
                        last_of_hole[holes[number]] = number
                    else:
                        assert highest == -1 or number == highest + 1, "a hole is announced before"
                        highest = number


def test_rows_that_close_a_gap_cover_it_without_overlap_after_its_trades(histories: list[History]) -> None:
    for drawn in histories:
        for number, symbol in enumerate(drawn.settings.symbols):
            open_ids: set[int] = set()
            arrived: set[int] = set()
            everything = set(came(list(drawn.events), number))
            unused = set(drawn.settings.unused_ids[symbol])
            for event in drawn.events:
                arrived |= set(came([event], number))
                if isinstance(event, GapEvent) and event.symbol == number:
                    ids = set(range(event.first_id, event.last_id + 1))
                    if event.repair == "open":
                        assert not ids & (open_ids | arrived)
                        open_ids |= ids
                        continue
                    assert ids <= open_ids
                    open_ids -= ids
                    assert (
                        ids <= arrived | unused if event.repair == "rest" else not ids & (everything | unused)
                    )
            assert not open_ids & (everything | unused), "what came is settled"


def test_the_watermark_never_goes_back_and_the_last_one_closes_every_bar(histories: list[History]) -> None:
    for drawn in histories:
        watermarks = [event.time for event in drawn.events if isinstance(event, WatermarkEvent)]
        assert watermarks == sorted(watermarks)
        assert isinstance(drawn.events[-1], WatermarkEvent)
        assert watermarks[-1] == drawn.settings.watermark
        settings = drawn.settings
        latest = int(drawn.trades["time"].max())
        assert settings.watermark - settings.lateness >= latest + max(settings.timeframes)


def test_gaps_of_the_reference_are_the_ids_that_were_never_settled_by_trades(
    histories: list[History],
) -> None:
    for drawn in histories:
        never: dict[tuple[str, int], str] = {}
        for event in drawn.events:
            if isinstance(event, GapEvent):
                for number in range(event.first_id, event.last_id + 1):
                    never[drawn.settings.symbols[event.symbol], number] = event.repair
        rows = [(symbol, number, number, repair) for (symbol, number), repair in never.items()]
        columns = {"symbol": pl.String, "first_id": pl.Int64, "last_id": pl.Int64, "repair": pl.String}
        found = unfilled(pl.DataFrame(rows, columns, orient="row"))
        assert differences("gaps", found, tables(drawn.trades, without_pairs(drawn)).gaps) == []


def test_histories_have_what_is_hard(histories: list[History]) -> None:
    seen: Counter[str] = Counter()
    for drawn in histories:
        seen[drawn.regime] += 1
        bars = tables(drawn.trades, without_pairs(drawn)).bars
        unit = min(filter(None, drawn.settings.timeframes))
        seen["more repeats than are filled"] += any(
            (of["open_time"].diff().drop_nulls() > unit).any()
            for of in bars.filter(close_time=pl.col("open_time") + unit - 1).partition_by("symbol")
        )
        for symbol in range(len(drawn.settings.symbols)):
            trades = drawn.trades[drawn.trades["symbol"] == symbol]
            seen["aggregates"] += bool((trades["first_id"] != trades["last_id"]).any())
            seen["not in bars"] += not trades["in_bars"].all()
            seen["late"] += bool((np.diff(trades["id"]) < 0).any())
            trades = trades[np.argsort(trades["id"])]
            back = np.maximum.accumulate(trades["time"]) - trades["time"]
            seen["same microsecond"] += bool((np.diff(trades["time"]) == 0).any())
            seen["step back"] += bool(((back > 0) & (back <= STEP_BACK_LIMIT)).any())
            seen["step back too far"] += bool((back > STEP_BACK_LIMIT).any())
            seen["silent"] += bool((np.diff(trades["time"]) > 20 * unit).any())
        for event in drawn.events:
            seen[event.repair if isinstance(event, GapEvent) else event.kind] += 1
        seen["unused ids"] += any(drawn.settings.unused_ids.values())
        seen["whole feed"] += bool(drawn.settings.start)
    expected = [
        *REGIMES,
        "aggregates",
        "not in bars",
        "late",
        "same microsecond",
        "step back",
        "step back too far",
    ]
    expected += [
        "silent",
        "open",
        "rest",
        "unavailable",
        "unused ids",
        "whole feed",
        "more repeats than are filled",
    ]
    assert [name for name in expected if seen[name] == 0] == []


def test_prices_are_decimals_of_at_most_8_places(histories: list[History]) -> None:
    for drawn in histories:
        for name in ("price", "quantity"):
            assert all(float(f"{value:.8f}") == value > 0 for value in drawn.trades[name].tolist())


def test_a_cut_has_the_same_events_in_the_same_order(histories: list[History]) -> None:
    cuts = [(drawn, cut(drawn, seed)) for drawn in histories for seed in (0, 1)]
    for drawn, (blocks, restarts) in cuts:
        assert all(blocks)
        assert all(0 < point < len(blocks) for point in restarts)
        events = [event for block in blocks for event in block]
        others = [event for event in events if not isinstance(event, TradesEvent)]
        assert others == [event for event in drawn.events if not isinstance(event, TradesEvent)]
        trades = [event.trades for event in events if isinstance(event, TradesEvent)]
        assert np.array_equal(np.concatenate(trades), drawn.trades)
    assert any(restarts for _, (_, restarts) in cuts)
    assert any(len(block) > 2 for _, (blocks, _) in cuts for block in blocks)


def test_a_history_without_holes_steps_and_pauses_has_none() -> None:
    for seed in range(10):
        drawn = history(
            seed, holes=False, lags=False, steps_back=False, pauses=False, symbols=3, methods=("tls",)
        )
        repairs = {event.repair for event in drawn.events if isinstance(event, GapEvent)}
        assert repairs <= {"open", "rest"}, (
            "ids that were never used look like a hole until they are asked for"
        )
        assert drawn.settings.methods == ("tls",)
        assert len(drawn.settings.symbols) == 3
        result = tables(drawn.trades, drawn.settings)
        assert result.gaps.is_empty()
        assert np.diff(drawn.trades["time"][drawn.trades["symbol"] == 0]).min() >= 0
        assert len(result.bars) < REPEAT_LIMIT


def test_comparing_finds_nothing_in_equal_tables_and_each_kind_of_difference() -> None:
    many = (history(seed, regime="random walk", methods=("ols", "rls")) for seed in SEEDS)
    drawn = next(one for one in many if min(one.settings.windows) >= 12)  # hurst needs 12
    expected = tables(drawn.trades, drawn.settings)
    for table in KEYS:
        rows = getattr(expected, table)
        assert differences(table, rows, rows) == []
    bars, metrics = expected.bars, expected.pair_metrics
    assert "1 of" in differences("bars", bars[1:], bars)[0]
    assert "missing" in differences("bars", bars[1:], bars)[0]
    assert "unexpected" in differences("bars", bars, bars[1:])[0]
    assert "key is there before" in differences("bars", pl.concat([bars, bars[:1]]), bars)[0]
    for changed, column in (
        (bars.with_columns(pl.col("volume") * (1 + 3e-16)), "bars.volume"),
        (bars.with_columns(~pl.col("provisional")), "bars.provisional"),
    ):
        assert differences("bars", changed, bars)[0].startswith(column)
    for column in (
        "z_score",
        "hedge_ratio",
        "correlation",
        "adf_statistic",
        "coint_p_value",
        "half_life",
        "hurst",
    ):
        near = metrics.with_columns(pl.col(column) * (1 + 1e-10))
        far = metrics.with_columns(pl.col(column) * (1 + 1e-4))
        undefined = metrics.with_columns(pl.lit(float("nan")).alias(column))
        assert differences("pair_metrics", near, metrics) == []
        assert differences("pair_metrics", far, metrics)[0].startswith(f"pair_metrics.{column}")
        assert differences("pair_metrics", undefined, metrics)[0].startswith(f"pair_metrics.{column}")


def test_the_last_digit_of_prices_changes_no_statistic_much() -> None:
    """Degenerate windows stay so: whether a statistic is defined does not rest on how a decimal was
    rounded."""
    for seed in range(8):
        drawn = history(seed, holes=False)
        nudged = drawn.trades.copy()
        prices = np.unique(nudged["price"])
        up = np.random.default_rng(seed).random(len(prices)) < 0.5
        moved = np.where(up, np.nextafter(prices, np.inf), np.nextafter(prices, 0))
        nudged["price"] = moved[np.searchsorted(prices, nudged["price"])]
        right, found = (tables(trades, drawn.settings).pair_metrics for trades in (drawn.trades, nudged))
        for column in right.columns:
            if right[column].dtype == pl.Float64:
                assert (right[column].is_nan() == found[column].is_nan()).all(), (seed, column)


def test_comparing_sees_digits_that_a_plain_formula_loses() -> None:
    """y - beta x of prices, in doubles, has lost what a spread of 1e-4 beside 60,000 needs."""
    drawn = history(3, regime="collinear legs", methods=("ols",))
    settings = replace(drawn.settings, windows=(20,), z_window=20, log_prices=False)
    expected = tables(drawn.trades, settings).pair_metrics.filter(pl.col("timeframe") != "tick")
    groups = ["pair", "timeframe"]
    legs = expected.select(*groups, "time", "hedge_ratio", "observations", "price_y", "price_x")
    scores = []
    for series in legs.partition_by(groups, maintain_order=True):
        y, x = series["price_y"].to_numpy(), series["price_x"].to_numpy()
        for k, (beta, n) in enumerate(series.select("hedge_ratio", "observations").rows()):
            spreads = (y - beta * x)[k - n + 1 : k + 1]
            scores.append((spreads[-1] - spreads.mean()) / (spreads.std() or 1))
    defined = (~expected["z_score"].is_nan()).to_numpy()
    lost = np.abs(np.array(scores) - expected["z_score"].to_numpy())[defined]
    assert np.median(lost) < 1e-5, "it is the same formula"
    found = expected.with_columns(z_score=pl.Series(scores)).filter(defined)
    assert differences("pair_metrics", found, expected.filter(defined))[0].startswith("pair_metrics.z_score")
