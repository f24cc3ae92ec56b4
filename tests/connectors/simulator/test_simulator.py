"""The simulated exchange against Binance's documentation, exact decimals, and real clients' eyes."""

import asyncio
import functools
import gzip
import hashlib
import json
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect as connect_here

from connectors.simulator import Config, Fault, Simulator
from connectors.simulator.__main__ import main
from connectors.simulator.faults import KINDS, fault_of, schedule, take
from connectors.simulator.frames import Encoder, Text, decimal_text, frame
from connectors.simulator.klines import DAY, INTERVALS, Klines, next_open, open_time
from connectors.simulator.market import (
    Aggregates,
    ModelMarket,
    RecordedMarket,
    Ticks,
    aggregate,
    concatenate,
    symbol_of,
)
from connectors.simulator.streams import Connection
from kernels.records import SECOND
from tests.support.paths import DATA
from tests.support.processes import finish, running, wait_for_line

START = 1_754_049_600_000_000  # 2025-08-01 12:00 UTC
SYMBOLS = ("BTCUSDT", "ETHUSDT")

Scenario = Callable[..., Awaitable[None]]


def scenario(function: Scenario) -> Callable[..., None]:
    """Run an async test on a loop of its own."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(asyncio.wait_for(function(*args, **kwargs), 30))

    return run


@asynccontextmanager
async def exchange(**values: Any) -> AsyncIterator[tuple[Simulator, aiohttp.ClientSession]]:
    config = Config(**{"symbols": SYMBOLS, "rate": 400.0, "start": START, "history": 86_400, **values})
    async with Simulator(config) as simulator, aiohttp.ClientSession() as session:
        yield simulator, session


@asynccontextmanager
async def stream(simulator: Simulator, path: str, **options: Any) -> AsyncIterator[ClientConnection]:
    async with connect(simulator.ws_url + path, max_size=None, max_queue=None, **options) as client:
        yield client


async def get(simulator: Simulator, session: aiohttp.ClientSession, path: str, **headers: str) -> Any:
    prefix = "/api/v3/" if simulator.market.name == "spot" else "/fapi/v1/"
    async with session.get(simulator.url + prefix + path, headers=headers) as response:
        assert response.status == 200, await response.text()
        return await response.json()


async def refused(
    simulator: Simulator, session: aiohttp.ClientSession, path: str, **headers: str
) -> tuple[int, Any]:
    prefix = "/api/v3/" if simulator.market.name == "spot" else "/fapi/v1/"
    async with session.get(simulator.url + prefix + path, headers=headers) as response:
        return response.status, await response.json()


async def ask(client: ClientConnection, message: Any) -> Any:
    """Send a control message and return its answer, passing over events."""
    await client.send(message if isinstance(message, str) else json.dumps(message))
    while True:
        answer = json.loads(await client.recv())
        if "id" in answer or "code" in answer:
            return answer


async def events(client: ClientConnection, count: int) -> list[Any]:
    return [orjson.loads(await client.recv()) for _ in range(count)]


async def events_to(client: ClientConnection, seconds: float) -> list[Any]:
    """Read events up to a time of the exchange, in seconds since `START`."""
    seen = await events(client, 1)
    while seen[-1].get("data", seen[-1])["T"] * 1_000 < START + seconds * SECOND:
        seen += await events(client, 1)
    return seen


async def ended(client: ClientConnection) -> list[str | bytes]:
    """Read until the connection ends."""
    seen = []
    try:
        while True:
            seen.append(await client.recv())
    except ConnectionClosed:
        return seen


async def silent(client: ClientConnection, seconds: float = 0.4) -> list[str | bytes]:
    """Read until nothing has come for a while."""
    seen = []
    try:
        while True:
            seen.append(await asyncio.wait_for(client.recv(), seconds))
    except TimeoutError:
        return seen


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


# The model


def model(**values: Any) -> ModelMarket:
    arguments = {"names": SYMBOLS, "rate": 400.0, "seed": 7, "start": START, "history": 86_400, **values}
    return ModelMarket(**arguments)


def same(a: Ticks, b: Ticks) -> bool:
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in Ticks._fields)


def one(ticks: Ticks, symbol: int) -> Ticks:
    return ticks.take(ticks.symbol == symbol)


def test_the_same_seed_gives_the_same_ids_prices_and_quantities_at_any_start() -> None:
    later = 12_345 * SECOND
    a = model().read(START - 60 * SECOND, START + 10 * SECOND)
    b = model(start=START + later).read(START + later - 60 * SECOND, START + later + 10 * SECOND)
    assert same(a, b._replace(time=b.time - later))
    c = model(seed=8).read(START - 60 * SECOND, START + 10 * SECOND)
    assert not np.array_equal(a.id[:10], c.id[:10])


def test_a_symbol_trades_alike_whatever_else_is_listed() -> None:
    alone = model(names=("ETHUSDT",), rate=10.0).read(START - 600 * SECOND, START)
    among = model(names=("BTCUSDT", "ETHUSDT", "XYZUSDT"), rate=100_000.0).read(START - 600 * SECOND, START)
    assert same(alone._replace(symbol=alone.symbol + 1), one(among, 1))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from((0.5, 20.0, 3_000.0)), st.sampled_from(("spot", "usdm")))
def test_ids_are_contiguous_and_times_never_step_back(seed: int, rate: float, market: str) -> None:
    traded = model(names=(*SYMBOLS, "QUX1BTC"), seed=seed, rate=rate, market=market, quiet=("ETHUSDT",))
    ticks = traded.read(START - 40 * SECOND, START + 5 * SECOND)
    assert (np.diff(ticks.time) >= 0).all()
    for symbol in range(3):
        rows = one(ticks, symbol)
        assert (np.diff(rows.id) == 1).all()
        assert np.isin(np.diff(rows.aggregate), (0, 1)).all()
        assert (rows.price[rows.market] > 0).all()
        assert (rows.quantity > 0).all()
        assert (rows.price % traded.symbols[symbol].tick == 0).all()


@settings(max_examples=25, deadline=None)
@given(
    st.integers(-80_000 * SECOND, 4 * SECOND), st.lists(st.integers(0, 3 * SECOND), min_size=1, max_size=5)
)
def test_the_past_reads_the_same_in_any_pieces(begin: int, pieces: list[int]) -> None:
    edges = np.cumsum([START + begin, *pieces]).tolist()
    whole = model().read(edges[0], edges[-1])
    traded = model()
    parts = [traded.read(a, b) for a, b in pairwise(edges)]
    assert same(whole, concatenate(parts))


@settings(max_examples=25, deadline=None)
@given(st.integers(-80_000 * SECOND, 4 * SECOND), st.integers(0, 200))
def test_ids_find_the_trades_that_times_find(begin: int, count: int) -> None:
    traded = model()
    trade, order = traded.ids_at(1, START + begin)
    rows = one(traded.read(START + begin, START + begin + 60 * SECOND), 1)
    by_id = traded.trades(1, trade, trade + count)
    assert same(by_id, rows.take(slice(0, by_id.id.size)))
    assert by_id.id.size == min(count, by_id.id.size + max(0, count - rows.id.size))
    merged = aggregate(rows)
    assert int(merged.id[0]) in (order, order - 1)
    wanted = traded.aggregates(1, int(merged.id[0]) + 1, int(merged.id[0]) + 4)
    for name in Aggregates._fields:
        assert np.array_equal(getattr(wanted, name), getattr(merged, name)[1:4])


def test_an_aggregate_is_a_run_of_trades_of_one_price_side_and_time() -> None:
    ticks = one(model(rate=5_000.0).read(START, START + 5 * SECOND), 0)
    alike = np.diff(ticks.price) == 0
    alike &= np.diff(ticks.time) == 0
    alike &= ticks.maker[1:] == ticks.maker[:-1]
    assert np.array_equal(np.diff(ticks.aggregate) == 0, alike)
    merged = aggregate(ticks)
    assert np.array_equal(merged.first[1:], merged.last[:-1] + 1)
    assert merged.quantity.sum() == ticks.quantity.sum()
    assert (merged.last > merged.first).any()


def test_a_burst_puts_hundreds_of_trades_into_one_millisecond() -> None:
    ticks = one(model(rate=2_000.0).read(START, START + 120 * SECOND), 0)
    assert 300 < np.bincount((ticks.time - START) // 1_000).max() <= 1_500


def test_the_rate_is_kept_on_average() -> None:
    traded = model(rate=1_000.0)
    begin, end = (sum(traded.ids_at(s, t)[0] for s in (0, 1)) for t in (START, START + 40_000 * SECOND))
    assert (end - begin) / 40_000 == pytest.approx(1_000, rel=0.05)


def test_a_quiet_symbol_is_silent_for_minutes_while_others_trade() -> None:
    ticks = model(quiet=("ETHUSDT",)).read(START, START + 1_200 * SECOND)
    quiet = one(ticks, 1)
    assert 5 < quiet.id.size < 120
    assert np.diff(quiet.time).max() > 60 * SECOND


def test_spreads_revert_and_hedge_ratios_jump() -> None:
    traded = model(names=("BTCUSDT", "ETHUSDT"), rate=20.0)
    times = np.arange(START - 80_000 * SECOND, START, 600 * SECOND)
    ratios = [traded.hedge_ratio("ETHUSDT", "BTCUSDT", int(t)) for t in times]
    assert 3 <= len(set(ratios)) < len(ratios) / 4
    # Within the longest regime the residual of log prices stays within a few times its 8 basis points, while
    # the leg itself wanders.
    longest = max(set(ratios), key=ratios.count)
    inside = times[[r == longest for r in ratios]]
    ticks = [one(traded.read(int(inside[0]), int(inside[-1])), s) for s in (0, 1)]
    grid = np.arange(int(inside[0]) + 60 * SECOND, int(inside[-1]), 60 * SECOND)
    x, y = (np.log(t.price[np.searchsorted(t.time, grid) - 1]) for t in ticks)
    spread = y - longest * x
    assert spread.std() < 20e-4
    assert abs(np.corrcoef(spread[1:], spread[:-1])[0, 1]) < 0.999
    assert np.ptp(y) > 2 * np.ptp(spread)


def test_prices_start_where_the_symbol_is_known_to_trade() -> None:
    for name, low, high in (
        ("BTCUSDT", 60_000, 70_000),
        ("ETHUSDT", 3_000, 3_400),
        ("SHIBUSDT", 1.7e-5, 1.8e-5),
    ):
        spec = symbol_of(name, "spot", 1)
        traded = model(names=(name,))
        price = traded.block(0, traded.ids_at(0, START)[0], traded.ids_at(0, START + SECOND)[0])["price"]
        assert low < price.min() <= price.max() < high
        assert spec.price_decimals + spec.quantity_decimals <= 8


def test_an_unknown_symbol_has_rules_of_its_own_by_the_seed() -> None:
    assert symbol_of("FOOUSDT", "spot", 1) == symbol_of("FOOUSDT", "spot", 1)
    assert symbol_of("FOOUSDT", "spot", 1).price != symbol_of("FOOUSDT", "spot", 2).price
    assert symbol_of("FOOUSDT", "spot", 1)[1:3] == ("FOO", "USDT")
    for seed in range(50):
        for name in ("FOOUSDT", "FOOBTC", "ABC"):
            spec = symbol_of(name, "usdm" if seed % 2 else "spot", seed)
            assert 0 <= spec.price_decimals + spec.quantity_decimals <= 8
            assert spec.price * 10**spec.price_decimals >= 1_000


@pytest.mark.parametrize("name", ["", "B", "btcusdt", "BTC/USDT", "BTC USDT", "A" * 40])
def test_a_name_that_cannot_be_a_symbol_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="symbol"):
        model(names=(name,))


def test_a_halt_leaves_a_hole_in_time_and_none_in_ids() -> None:
    traded = model()
    before = traded.read(START, START + 10 * SECOND)
    traded.halt(0, START + 10 * SECOND, START + 20 * SECOND)
    after = traded.read(START + 10 * SECOND, START + 40 * SECOND)
    rows = one(concatenate([before, after]), 0)
    assert (np.diff(rows.id) == 1).all()
    halted = (rows.time >= START + 11 * SECOND) & (rows.time < START + 20 * SECOND)
    assert not halted.any()
    assert rows.time[-1] > START + 39 * SECOND
    assert one(after, 1).id.size > 1_000
    assert same(one(traded.read(START, START + 40 * SECOND), 0), rows)


def test_insurance_fund_fills_use_ids_that_klines_and_aggregates_leave_out() -> None:
    traded = model(market="usdm", rate=5_000.0)
    ticks = one(traded.read(START, START + 20 * SECOND), 0)
    odd = np.flatnonzero(~ticks.market)
    assert 3 < odd.size < ticks.id.size / 1_000
    assert (ticks.price[odd] == 0).any()
    assert (ticks.price[odd] > 0).any()
    payloads = Encoder(traded).trade_payloads(ticks.take(odd), False, False)
    kinds = {(float(p["p"]) > 0, p["X"]) for p in map(json.loads, payloads)}
    assert kinds == {(True, "INSURANCE_FUND"), (False, "")}
    merged = aggregate(ticks)
    assert not np.isin(ticks.id[odd], merged.last).any()
    holes = merged.first[1:] - merged.last[:-1] - 1
    assert holes.sum() == odd[odd < ticks.id.size - 1].size
    assert merged.quantity.sum() == ticks.quantity[ticks.market].sum()


# Text


@given(st.integers(0, 10**15), st.integers(0, 8), st.integers(0, 8))
def test_decimals_are_written_as_exact_fixed_point(units: int, decimals: int, more: int) -> None:
    text = decimal_text(units, decimals, decimals + more)
    assert Decimal(text) == Decimal(units).scaleb(-decimals)
    assert len(text.partition(".")[2]) == decimals + more


@pytest.mark.parametrize("market", ["spot", "usdm"])
@pytest.mark.parametrize("combined", [False, True])
@pytest.mark.parametrize("micro", [False, True])
def test_bulk_frames_equal_frames_written_one_by_one(market: str, combined: bool, micro: bool) -> None:
    names = ("BTCUSDT", "DOGEUSDT", "SHIBUSDT", "ETHBTC", "1000SATSFDUSD", "Ä1USDT")
    traded = model(names=names, market=market, rate=3_000.0)
    encoder = Encoder(traded)
    for ticks in (traded.read(START, START + 2 * SECOND), one(traded.read(START, START + 2 * SECOND), 0)):
        singly = b"".join(map(frame, encoder.trade_payloads(ticks, combined, micro)))
        assert encoder.trades(ticks, combined, micro) == singly
        merged = aggregate(ticks)
        singly = b"".join(map(frame, encoder.aggregate_payloads(merged, combined, micro)))
        assert encoder.aggregates(merged, combined, micro) == singly


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 10**8), st.integers(1, 10**8), st.integers(0, 10**13)), min_size=40))
def test_bulk_frames_hold_any_number_of_digits(rows: list[tuple[int, int, int]]) -> None:
    traded = model(names=("ETHUSDT",))
    price, quantity, number = (np.array(column, np.int64) for column in zip(*rows, strict=True))
    size = len(rows)
    flags = np.zeros(size, np.bool_)
    ticks = Ticks(
        np.zeros(size, np.int32), number, number, START + number % 97, price, quantity, flags, ~flags
    )
    encoder = Encoder(traded)
    assert encoder.trades(ticks, False, True) == b"".join(
        map(frame, encoder.trade_payloads(ticks, False, True))
    )


# Klines


def expected_kline(rows: Ticks, spec: Any) -> tuple[Any, ...]:
    """Fold trades in decimals, as the documentation of the fields has it."""
    price = [Decimal(p).scaleb(-spec.price_decimals) for p in rows.price.tolist()]
    quantity = [Decimal(q).scaleb(-spec.quantity_decimals) for q in rows.quantity.tolist()]
    taken = [q for q, m in zip(quantity, rows.maker.tolist(), strict=True) if not m]
    taken_quote = [p * q for p, q, m in zip(price, quantity, rows.maker.tolist(), strict=True) if not m]
    quote = sum(p * q for p, q in zip(price, quantity, strict=True))
    return (
        price[0],
        max(price),
        min(price),
        price[-1],
        sum(quantity),
        quote,
        len(price),
        sum(taken),
        sum(taken_quote),
    )


def read_row(row: list[Any]) -> tuple[Any, ...]:
    return (*map(Decimal, row[1:6]), Decimal(row[7]), row[8], Decimal(row[9]), Decimal(row[10]))


@pytest.mark.parametrize("market", ["spot", "usdm"])
def test_klines_over_rest_equal_the_trades_folded_in_decimals(market: str) -> None:
    @scenario
    async def run() -> None:
        async with exchange(market=market, rate=50.0, speed=40.0, history=7_200) as (simulator, session):
            await asyncio.sleep(1.0)
            spec = simulator.market.symbols[0]
            for interval in ("1s", "1m", "3m", "15m", "1h") if market == "spot" else ("1m", "5m", "2h"):
                rows = await get(simulator, session, f"klines?symbol=BTCUSDT&interval={interval}&limit=1000")
                if interval == "1h":
                    assert len(rows) == 3
                opened = [row[0] * 1_000 for row in rows]
                assert all(next_open(a, interval) == b for a, b in pairwise(opened))
                for row in rows[-8:-1]:
                    begin, end = row[0] * 1_000, row[6] * 1_000 + 1_000
                    ticks = one(simulator.market.read(begin, end), 0)
                    ticks = ticks.take(ticks.market)
                    if ticks.id.size:
                        assert read_row(row) == expected_kline(ticks, spec)
                    else:
                        assert row[8] == 0
                        assert row[1] == row[2] == row[3] == row[4]
                        assert {Decimal(row[i]) for i in (5, 7, 9, 10)} == {Decimal(0)}

    run()


def test_klines_join_across_the_past_and_the_present_and_what_was_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("connectors.simulator.klines.KEPT_SECONDS", 60)
    traded = model(rate=30.0)
    klines = Klines(traded)
    now = START
    while now < START + 400 * SECOND:
        step = now + 1_700_000
        klines.add(traded.read(now, step), step)
        now = step
    begin = START - 300 * SECOND
    for interval in ("1s", "1m", "5m"):
        first = open_time(begin, interval)
        opened = list(range(first, now, INTERVALS[interval]))
        kept = klines.query(0, interval, 0, opened, now)
        fresh = Klines(traded)
        fresh.add(traded.read(START, now), now)
        assert kept == fresh.query(0, interval, 0, opened, now)
        assert sum(k.trades for k in kept) == one(traded.read(first, now), 0).id.size
        ids = [(k.first, k.last) for k in kept if k.trades]
        assert all(a[1] + 1 == b[0] for a, b in pairwise(ids))
        assert all(k.trades == k.last - k.first + 1 for k in kept if k.trades)


def test_a_second_without_trades_repeats_the_last_close() -> None:
    traded = model(quiet=SYMBOLS)
    klines = Klines(traded)
    klines.add(traded.read(START, START + 600 * SECOND), START + 600 * SECOND)
    rows = klines.query(0, "1s", 0, range(START, START + 600 * SECOND, SECOND), START + 600 * SECOND)
    assert len(rows) == 600
    empty = [(a, b) for a, b in pairwise(rows) if not b.trades]
    assert len(empty) > 500
    for before, row in empty:
        assert row.open == row.high == row.low == row.close == before.close
        assert (row.volume, row.quote, row.first, row.last) == (0, 0, -1, -1)


@pytest.mark.parametrize(
    ("interval", "time", "opened"),
    [
        # 2025-08-01 was a Friday; weeks open on Monday.
        ("1w", "2025-08-01T12:34:56", "2025-07-28T00:00:00"),
        ("1M", "2025-08-31T23:59:59", "2025-08-01T00:00:00"),
        ("1d", "2025-08-01T12:34:56", "2025-08-01T00:00:00"),
        ("12h", "2025-08-01T12:34:56", "2025-08-01T12:00:00"),
        ("15m", "2025-08-01T12:34:56", "2025-08-01T12:30:00"),
        ("1s", "2025-08-01T12:34:56", "2025-08-01T12:34:56"),
    ],
)
def test_intervals_open_where_the_calendar_says(interval: str, time: str, opened: str) -> None:
    at, expected = (int(np.datetime64(t, "us").astype(np.int64)) for t in (time, opened))
    assert open_time(at, interval) == expected
    assert open_time(next_open(expected, interval), interval) == next_open(expected, interval)
    eight = 8 * 3_600 * SECOND
    if interval == "1d":
        assert open_time(at, interval, eight) == expected - eight
        assert open_time(at + 4 * 3_600 * SECOND, interval, eight) == expected - eight + DAY


# Streams


@pytest.mark.parametrize("kind", ["trade", "aggTrade"])
@pytest.mark.parametrize("market", ["spot", "usdm"])
def test_payloads_have_the_documented_keys_in_order(kind: str, market: str) -> None:
    # Spot: web-socket-streams.md. USD-M: as recorded (trade), and the futures documentation (aggTrade).
    keys = {
        ("spot", "trade"): "e E s t p q T m M",
        ("spot", "aggTrade"): "e E s a p q f l T m M",
        ("usdm", "trade"): "e E T s t p q X m",
        ("usdm", "aggTrade"): "e E s a p q f l T m",
    }[market, kind].split()

    @scenario
    async def run() -> None:
        async with (
            exchange(market=market) as (simulator, _),
            stream(simulator, f"/ws/btcusdt@{kind}") as client,
        ):
            for event in await events(client, 5):
                assert list(event) == keys
                assert event["e"] == kind
                assert event["s"] == "BTCUSDT"
                assert len(str(event["T"])) == 13
                assert event["E"] >= event["T"]

    run()


def test_recorded_frames_are_written_byte_for_byte() -> None:
    folder = DATA / "recorded"
    if not folder.exists():
        pytest.skip("no recorded data beside the repository")
    for market in ("spot", "usdm"):
        path = folder / market / "ethusdt_20240808.gz"
        traded = RecordedMarket([path])
        with gzip.open(path, "rt") as lines:
            recorded = [line.split(" ", 1)[1].strip() for line in lines if '"trade"' in line][:2_000]
        ticks = traded.read(0, 2**62).take(slice(0, len(recorded)))
        written = [p.decode() for p in Encoder(traded).trade_payloads(ticks, True, False)]
        # The event time is the simulator's own.
        for ours, theirs in zip(written, recorded, strict=True):
            a, b = json.loads(ours), json.loads(theirs)
            stamp = f'"E":{b["data"]["E"]}'
            assert ours.replace(f'"E":{a["data"]["E"]}', stamp, 1) == theirs


@scenario
async def test_a_combined_stream_wraps_and_a_raw_one_does_not() -> None:
    async with exchange() as (simulator, _):
        path = "/stream?streams=btcusdt@trade/ethusdt@aggTrade&timeUnit=MICROSECOND"
        async with stream(simulator, path) as client:
            seen = await events(client, 200)
            assert {e["stream"] for e in seen} == {"btcusdt@trade", "ethusdt@aggTrade"}
            assert all(len(str(e["data"]["T"])) == 16 for e in seen)
            times = [e["data"]["T"] for e in seen if e["stream"] == "btcusdt@trade"]
            assert any(t % 1_000 for t in times)
        async with stream(simulator, "/ws/btcusdt@trade/ethusdt@trade") as client:
            assert {e["s"] for e in await events(client, 200)} == set(SYMBOLS)


@scenario
async def test_across_symbols_no_trade_of_one_connection_comes_late() -> None:
    async with exchange(symbols=("BTCUSDT", "ETHUSDT", "SOLUSDT"), rate=3_000.0) as (simulator, _):
        streams = "/".join(f"{s}@trade" for s in ("btcusdt", "ethusdt", "solusdt"))
        async with stream(simulator, f"/stream?streams={streams}&timeUnit=microsecond") as client:
            times = [e["data"]["T"] for e in await events(client, 3_000)]
            assert all(a <= b for a, b in pairwise(times))


@scenario
async def test_the_stream_carries_every_trade_once_and_rest_has_the_same() -> None:
    async with exchange(rate=2_000.0) as (simulator, session):
        async with stream(simulator, "/ws/ethusdt@trade?timeUnit=MICROSECOND") as client:
            sent = await events(client, 1_000)
        ids = [e["t"] for e in sent]
        assert ids == list(range(ids[0], ids[0] + 1_000))
        path = f"historicalTrades?symbol=ETHUSDT&fromId={ids[0]}&limit=1000"
        rows = await get(simulator, session, path, **{"X-MBX-TIME-UNIT": "MICROSECOND"})
        streamed = [(e["t"], e["p"], e["q"], e["T"], e["m"]) for e in sent]
        assert streamed == [(r["id"], r["price"], r["qty"], r["time"], r["isBuyerMaker"]) for r in rows]
        block = simulator.trades("ETHUSDT", ids[0], ids[-1])
        assert block["id"].tolist() == ids
        assert block["price"].tolist() == [float(e["p"]) for e in sent]
        assert block["quantity"].tolist() == [float(e["q"]) for e in sent]
        assert block["time"].tolist() == [e["T"] for e in sent]


@scenario
async def test_aggregates_on_the_stream_sum_their_trades() -> None:
    async with exchange(rate=2_000.0) as (simulator, session):
        async with stream(simulator, "/ws/btcusdt@aggTrade") as client:
            sent = await events(client, 500)
        assert [e["a"] for e in sent] == list(range(sent[0]["a"], sent[0]["a"] + 500))
        assert all(a["l"] + 1 == b["f"] for a, b in pairwise(sent))
        block = simulator.trades("BTCUSDT", sent[0]["f"], sent[-1]["l"])
        for event in sent:
            rows = block[(block["id"] >= event["f"]) & (block["id"] <= event["l"])]
            assert set(rows["price"].tolist()) == {float(event["p"])}
            total = sum(Decimal(repr(q)) for q in rows["quantity"].tolist())
            assert total == Decimal(event["q"])
        rows = await get(simulator, session, f"aggTrades?symbol=BTCUSDT&fromId={sent[0]['a']}&limit=500")
        assert [[r[k] for k in "apqflTmM"] for r in rows] == [[e[k] for k in "apqflTmM"] for e in sent]


@scenario
async def test_subscriptions_are_answered_as_documented() -> None:
    async with exchange() as (simulator, _), stream(simulator, "/ws") as client:
        answer = await ask(
            client, {"method": "SUBSCRIBE", "params": ["btcusdt@trade", "ethusdt@depth"], "id": 1}
        )
        assert answer == {"result": None, "id": 1}
        assert (await events(client, 1))[0]["s"] == "BTCUSDT"
        answer = await ask(client, {"method": "LIST_SUBSCRIPTIONS", "id": "abc3"})
        assert answer == {"result": ["btcusdt@trade", "ethusdt@depth"], "id": "abc3"}
        answer = await ask(client, {"method": "UNSUBSCRIBE", "params": ["btcusdt@trade"], "id": None})
        assert answer == {"result": None, "id": None}
        await silent(client)


@scenario
async def test_properties_are_answered_as_documented() -> None:
    async with exchange() as (simulator, _), stream(simulator, "/ws/btcusdt@trade") as client:
        assert await ask(client, {"method": "GET_PROPERTY", "params": ["combined"], "id": 2}) == {
            "result": False,
            "id": 2,
        }
        assert "e" in (await events(client, 1))[0]
        answer = await ask(client, {"method": "SET_PROPERTY", "params": ["combined", True], "id": 5})
        assert answer == {"result": None, "id": 5}
        while "stream" not in (await events(client, 1))[0]:
            pass
        assert (await ask(client, {"method": "GET_PROPERTY", "params": ["combined"], "id": 6}))[
            "result"
        ] is True


@pytest.mark.parametrize(
    ("message", "answer"),
    [
        # The error table of web-socket-streams.md.
        (
            {"method": "GET_PROPERTY", "params": ["nothing"], "id": 7},
            {"code": 0, "msg": "Unknown property", "id": 7},
        ),
        (
            {"method": "SET_PROPERTY", "params": ["combined", "yes"], "id": 1},
            {"code": 1, "msg": "Invalid value type: expected Boolean"},
        ),
        (
            {"method": "SET_PROPERTY", "params": [1, True], "id": 1},
            {"code": 2, "msg": "Invalid request: property name must be a string"},
        ),
        (
            {"method": "GET_PROPERTY", "params": [], "id": 1},
            {"code": 2, "msg": "Invalid request: property name must be a string"},
        ),
        (
            {"method": "SUBSCRIBE", "params": ["btcusdt@trade"]},
            {"code": 2, "msg": "Invalid request: request ID must be an unsigned integer"},
        ),
        (
            {"method": "SUBSCRIBE", "params": ["btcusdt@trade"], "id": 1.5},
            {"code": 2, "msg": "Invalid request: request ID must be an unsigned integer"},
        ),
        (
            {"method": "SUBSCRIBE", "params": ["btcusdt@trade"], "id": "x" * 37},
            {"code": 2, "msg": "Invalid request: request ID must be an unsigned integer"},
        ),
        (
            {"method": "LIST_SUBSCRIPTIONS", "params": ["x"], "id": 1},
            {"code": 2, "msg": "Invalid request: too many parameters"},
        ),
        (
            '{"method": "SUBSCRIBEX", "id": 1}',
            {
                "code": 2,
                "msg": "Invalid request: unknown variant `SUBSCRIBEX`, expected one of `SUBSCRIBE`, "
                "`UNSUBSCRIBE`, `LIST_SUBSCRIPTIONS`, `SET_PROPERTY`, `GET_PROPERTY` at line 1 column 23",
            },
        ),
        (
            '{"params": [], "id": 1}',
            {"code": 2, "msg": "Invalid request: missing field `method` at line 1 column 23"},
        ),
        ("{nonsense", {"code": 3, "msg": "Invalid JSON: expected value at line 1 column 2"}),
    ],
)
def test_a_wrong_control_message_gets_the_documented_error(message: Any, answer: Any) -> None:
    @scenario
    async def run() -> None:
        async with exchange() as (simulator, _), stream(simulator, "/ws") as client:
            assert await ask(client, message) == answer
            assert (await ask(client, {"method": "LIST_SUBSCRIPTIONS", "id": 9}))["result"] == []

    run()


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
_METHODS = ("SUBSCRIBE", "UNSUBSCRIBE", "LIST_SUBSCRIPTIONS", "SET_PROPERTY", "GET_PROPERTY")
_MESSAGES = st.fixed_dictionaries(
    {},
    optional={"method": st.sampled_from(_METHODS) | _JSON, "params": _JSON, "id": st.integers(0, 9) | _JSON},
)


@settings(max_examples=300, deadline=None)
@given(st.one_of(_MESSAGES.map(json.dumps), _JSON.map(json.dumps), st.text(), st.binary()))
def test_whatever_a_client_sends_gets_an_answer(message: str | bytes) -> None:
    idle: Any = None
    connection = Connection(0, idle, idle, False, False, 0.0, 0.0)
    answer = connection.control(message, {"BTCUSDT": 0})
    assert set(answer) in ({"result", "id"}, {"code", "msg"}, {"code", "msg", "id"})
    assert all(isinstance(name, str) for name in connection.streams)


@scenario
async def test_the_stream_of_an_unknown_symbol_or_in_upper_case_is_silent() -> None:
    async with exchange() as (simulator, _):
        path = "/stream?streams=nosuch@trade/BTCUSDT@trade/btcusdt/btcusdt@kline_7m"
        async with stream(simulator, path) as client:
            assert await silent(client) == []


@scenario
async def test_a_wrong_time_unit_is_refused() -> None:
    async with exchange() as (simulator, session):
        with pytest.raises(InvalidStatus) as caught:
            async with stream(simulator, "/ws/btcusdt@trade?timeUnit=NANOSECOND"):
                pass
        text = "Invalid value for time unit; expected either MICROSECOND or MILLISECOND."
        assert json.loads(caught.value.response.body) == {"code": -1194, "msg": text}
        assert await refused(simulator, session, "time", **{"X-MBX-TIME-UNIT": "NS"}) == (
            400,
            {"code": -1194, "msg": text},
        )


@scenario
async def test_a_kline_stream_closes_each_kline_with_what_rest_says() -> None:
    async with exchange(rate=60.0, speed=60.0) as (simulator, session):
        streams = ("btcusdt@kline_1s", "btcusdt@kline_1m", "ethusdt@kline_1m", "btcusdt@kline_1d@+08:00")
        async with stream(simulator, f"/stream?streams={'/'.join(streams)}") as client:
            sent = await events(client, 300)
        updates = [e["data"] for e in sent]
        assert {e["stream"] for e in sent} == set(streams)
        assert list(updates[0]) == ["e", "E", "s", "k"]
        keys = list("tTsifLochlvnxqVQB")
        assert all(list(u["k"]) == keys for u in updates)
        for update in updates:
            assert update["k"]["x"] == (update["E"] > update["k"]["T"])
        seconds = [u["k"] for u in updates if u["k"]["i"] == "1s"]
        assert all(k["x"] for k in seconds)
        assert all(a["t"] + 1_000 == b["t"] for a, b in pairwise(seconds))
        minutes = [u for u in updates if u["k"]["i"] == "1m" and u["s"] == "BTCUSDT"]
        assert {b["E"] - a["E"] for a, b in pairwise(minutes)} == {2_000}
        closed = [u["k"] for u in minutes if u["k"]["x"]]
        assert len(closed) >= 2
        for k in closed:
            path = f"klines?symbol=BTCUSDT&interval=1m&startTime={k['t']}&endTime={k['T']}"
            (row,) = await get(simulator, session, path)
            assert row[:11] == [k[x] for x in "tohlcvTqnVQ"]
            assert k["n"] == k["L"] - k["f"] + 1
        day = next(u["k"] for u in updates if u["k"]["i"] == "1d")
        assert day["t"] == (START - 20 * 3_600 * SECOND) // 1_000  # 16:00 UTC of the day before


@scenario
async def test_pings_carry_a_payload_and_pongs_keep_the_connection() -> None:
    async with (
        exchange(ping_interval=0.1, pong_timeout=1.0) as (simulator, session),
        session.ws_connect(simulator.ws_url + "/ws", autoping=False) as client,
    ):
        payloads: set[bytes] = set()
        while len(payloads) < 18:
            message = await client.receive()
            assert message.type == aiohttp.WSMsgType.PING
            payloads.add(bytes(message.data))
            if len(payloads) % 3 == 0:  # answers the two before it too, within five messages a second
                await client.pong(message.data)


@scenario
async def test_an_unanswered_ping_ends_the_connection_even_if_unsolicited_pongs_come() -> None:
    async with (
        exchange(ping_interval=0.2, pong_timeout=0.6) as (simulator, session),
        session.ws_connect(simulator.ws_url + "/ws", autoping=False) as client,
    ):
        begin = time.monotonic()
        message = await client.receive()
        while message.type == aiohttp.WSMsgType.PING:
            await client.pong(b"")
            message = await client.receive()
        assert message.type == aiohttp.WSMsgType.CLOSE
        assert (message.data, message.extra) == (1008, "Pong timeout")
        assert 0.6 < time.monotonic() - begin < 3


@scenario
async def test_more_than_five_messages_a_second_end_the_connection() -> None:
    async with exchange() as (simulator, _):
        async with stream(simulator, "/ws") as client:
            for number in range(5):
                assert "result" in await ask(client, {"method": "LIST_SUBSCRIPTIONS", "id": number})
            await asyncio.sleep(1.05)
            for number in range(5):
                assert "result" in await ask(client, {"method": "LIST_SUBSCRIPTIONS", "id": number})
            with pytest.raises(ConnectionClosed):
                await ask(client, {"method": "LIST_SUBSCRIPTIONS", "id": 6})
            assert client.close_code == 1008
        async with stream(simulator, "/ws") as client:
            for _ in range(6):
                await client.ping()
            await ended(client)
            assert client.close_code == 1008


@scenario
async def test_more_than_1024_streams_are_refused() -> None:
    async with exchange() as (simulator, _), stream(simulator, "/ws") as client:
        names = [f"s{i}@trade" for i in range(1_024)]
        assert "result" in await ask(client, {"method": "SUBSCRIBE", "params": names, "id": 1})
        answer = await ask(client, {"method": "SUBSCRIBE", "params": ["btcusdt@trade"], "id": 2})
        assert answer == {"error": {"code": 4, "msg": "Too many subscriptions"}, "id": 2}
        assert (await ask(client, {"method": "LIST_SUBSCRIPTIONS", "id": 3}))["result"] == names
        async with stream(simulator, f"/stream?streams={'/'.join(names)}/btcusdt@trade") as other:
            await ended(other)
            assert other.close_code == 1008


@scenario
async def test_too_many_connection_attempts_are_refused() -> None:
    async with exchange(connect_limit=3) as (simulator, _):
        for _ in range(3):
            async with stream(simulator, "/ws"):
                pass
        with pytest.raises(InvalidStatus) as caught:
            async with stream(simulator, "/ws"):
                pass
        assert caught.value.response.status_code == 429


@scenario
async def test_a_connection_ends_with_its_life() -> None:
    async with exchange(life=0.5) as (simulator, _), stream(simulator, "/ws/btcusdt@trade") as client:
        begin = time.monotonic()
        seen = [orjson.loads(message) for message in await ended(client)]
        assert 0.4 < time.monotonic() - begin < 3
        at = [event["e"] for event in seen].index("serverShutdown")
        assert 0 < at < len(seen) - 1  # announced before the end, and trades go on
        await until(lambda: simulator.connections == 0)


@scenario
async def test_a_client_that_stops_reading_is_dropped_and_others_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("connectors.simulator.server.BUFFER_LIMIT", 2**18)
    async with exchange(rate=100_000.0) as (simulator, _):
        host, port = simulator.url.removeprefix("http://").split(":")
        deaf = socket.create_connection((host, int(port)))
        request = "GET /ws/btcusdt@trade HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        request += "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        deaf.sendall(request.encode())
        async with stream(simulator, "/ws/btcusdt@trade") as client:
            await until(lambda: simulator.connections == 2)
            while simulator.connections == 2:
                await client.recv()
            assert len(await events(client, 1_000)) == 1_000
        deaf.close()


# REST


@scenario
async def test_rows_have_the_documented_fields() -> None:
    async with exchange() as (simulator, session):
        await asyncio.sleep(0.3)
        assert await get(simulator, session, "ping") == {}
        assert abs((await get(simulator, session, "time"))["serverTime"] * 1_000 - simulator.now()) < SECOND
        for name in ("trades", "historicalTrades"):
            rows = await get(simulator, session, f"{name}?symbol=BTCUSDT&limit=3")
            assert len(rows) == 3
            assert list(rows[0]) == ["id", "price", "qty", "quoteQty", "time", "isBuyerMaker", "isBestMatch"]
            for row in rows:
                assert Decimal(row["price"]) * Decimal(row["qty"]) == Decimal(row["quoteQty"])
                assert all(len(row[k].partition(".")[2]) == 8 for k in ("price", "qty", "quoteQty"))
        rows = await get(simulator, session, "aggTrades?symbol=BTCUSDT")
        assert len(rows) == 500
        assert list(rows[0]) == list("apqflTmM")
        rows = await get(simulator, session, "klines?symbol=BTCUSDT&interval=1m&limit=2")
        assert [type(x) for x in rows[0]] == [int, *[str] * 5, int, str, int, str, str, str]


@scenario
async def test_futures_rows_have_the_documented_fields() -> None:
    async with exchange(market="usdm") as (simulator, session):
        await asyncio.sleep(0.3)
        rows = await get(simulator, session, "trades?symbol=BTCUSDT&limit=3")
        assert list(rows[0]) == ["id", "price", "qty", "quoteQty", "time", "isBuyerMaker", "isRPITrade"]
        assert len(rows[0]["price"].partition(".")[2]) == 2
        rows = await get(simulator, session, "aggTrades?symbol=BTCUSDT&limit=3")
        assert list(rows[0]) == list("apqflTm")
        status, body = await refused(simulator, session, "historicalTrades?symbol=BTCUSDT")
        assert (status, body["code"]) == (401, -2014)
        key = {"X-MBX-APIKEY": "any"}
        assert len(await get(simulator, session, "historicalTrades?symbol=BTCUSDT", **key)) == 100
        status, body = await refused(simulator, session, "historicalTrades?symbol=BTCUSDT&limit=501", **key)
        assert (status, body["code"]) == (400, -1130)
        assert len(await get(simulator, session, "klines?symbol=BTCUSDT&interval=1m&limit=1300")) == 1_300
        status, body = await refused(simulator, session, "klines?symbol=BTCUSDT&interval=1s")
        assert (status, body["code"]) == (400, -1120)
        begin = START // 1_000 - 7_200_000
        path = f"aggTrades?symbol=BTCUSDT&startTime={begin}&endTime={begin + 3_600_001}"
        assert (await refused(simulator, session, path))[1]["code"] == -1127


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("trades?symbol=NOSUCH", -1121),
        ("trades", -1102),
        ("trades?symbol=", -1102),
        ("trades?symbol=btcusdt", -1100),
        ("trades?symbol=BTC/USDT", -1100),
        ("trades?symbol=BTCUSDT&limit=x", -1100),
        ("trades?symbol=BTCUSDT&limit=-1", -1100),
        ("trades?symbol=BTCUSDT&limit=0", -1130),
        ("trades?symbol=BTCUSDT&limit=", -1105),
        ("trades?symbol=BTCUSDT&fromId=1", -1104),
        ("trades?symbol=BTCUSDT&symbol=BTCUSDT", -1101),
        ("historicalTrades?symbol=BTCUSDT&fromId=99999999999999999999", -1108),
        ("aggTrades?symbol=BTCUSDT&fromId=1&startTime=1", -1128),
        ("klines?symbol=BTCUSDT", -1102),
        ("klines?symbol=BTCUSDT&interval=7m", -1120),
        ("klines?symbol=BTCUSDT&interval=1m&timeZone=15:00", -1130),
        ("klines?symbol=BTCUSDT&interval=1m&startTime=yesterday", -1100),
        ("exchangeInfo?symbol=NOSUCH", -1121),
        ("exchangeInfo?symbols=BTCUSDT", -1100),
        ("exchangeInfo?symbol=BTCUSDT&symbols=[%22BTCUSDT%22]", -1128),
        ("exchangeInfo?symbolStatus=OPEN", -1122),
    ],
)
def test_a_wrong_request_gets_the_documented_code(path: str, code: int) -> None:
    @scenario
    async def run() -> None:
        async with exchange() as (simulator, session):
            status, body = await refused(simulator, session, path)
            assert (status, body["code"]) == (400, code)
            assert list(body) == ["code", "msg"]

    run()


@scenario
async def test_documented_error_bodies_are_word_for_word() -> None:
    async with exchange() as (simulator, session):
        assert await refused(simulator, session, "trades?symbol=NOSUCH") == (
            400,
            {"code": -1121, "msg": "Invalid symbol."},
        )
        text = "Mandatory parameter 'symbol' was not sent, was empty/null, or malformed."
        assert await refused(simulator, session, "klines?interval=1m") == (400, {"code": -1102, "msg": text})
        text = "Data sent for parameter 'limit' is not valid."
        assert await refused(simulator, session, "trades?symbol=BTCUSDT&limit=0") == (
            400,
            {"code": -1130, "msg": text},
        )


@scenario
async def test_pages_go_by_id_and_by_time_as_documented() -> None:
    async with exchange(rate=2_000.0) as (simulator, session):
        await asyncio.sleep(0.5)
        first = simulator.market.ids_at(0, START - 600 * SECOND)[0]
        # More than the most is the most.
        rows = await get(simulator, session, f"historicalTrades?symbol=BTCUSDT&fromId={first}&limit=5000")
        assert [r["id"] for r in rows] == list(range(first, first + len(rows)))
        assert len(rows) == 1_000
        # An id before the past asked for: the oldest there is, and a full page.
        rows = await get(simulator, session, "historicalTrades?symbol=BTCUSDT&fromId=0&limit=10")
        assert len(rows) == 10
        assert rows[0]["time"] * 1_000 >= START - 86_400 * SECOND - 1_000
        assert await get(simulator, session, f"historicalTrades?symbol=BTCUSDT&fromId={first + 10**9}") == []
        # Times are inclusive, in ms or us, alone or both.
        begin, end = START // 1_000 - 20_000, START // 1_000 - 10_000
        both = await get(
            simulator, session, f"aggTrades?symbol=BTCUSDT&startTime={begin}&endTime={end}&limit=1000"
        )
        expected = aggregate(one(simulator.market.read(begin * 1_000, end * 1_000 + 1_000), 0))
        assert [r["a"] for r in both] == expected.id.tolist()
        path = f"aggTrades?symbol=BTCUSDT&startTime={begin * 1_000}&endTime={end * 1_000 + 999}&limit=1000"
        assert await get(simulator, session, path) == both
        only = await get(simulator, session, f"aggTrades?symbol=BTCUSDT&endTime={end}&limit=5")
        assert only == both[-5:]
        only = await get(simulator, session, f"aggTrades?symbol=BTCUSDT&startTime={begin}&limit=5")
        assert only == both[:5]
        for far in (9_999_999_999_999, 2**63 - 1):
            path = f"aggTrades?symbol=BTCUSDT&startTime={begin}&endTime={far}&limit=5"
            assert await get(simulator, session, path) == both[:5]
            assert await get(simulator, session, f"aggTrades?symbol=BTCUSDT&startTime={far}") == []
            assert await get(simulator, session, f"klines?symbol=BTCUSDT&interval=1M&startTime={far}") == []
            assert await get(simulator, session, f"klines?symbol=BTCUSDT&interval=1M&endTime={far}")
        assert await get(simulator, session, "klines?symbol=BTCUSDT&interval=1M&startTime=0&endTime=0") == []
        assert await get(simulator, session, "aggTrades?symbol=BTCUSDT&startTime=0&endTime=0") == []
        # The same for klines.
        begin = START // 1_000 - 600_000
        rows = await get(simulator, session, f"klines?symbol=BTCUSDT&interval=1m&startTime={begin}&limit=3")
        assert [r[0] for r in rows] == [begin, begin + 60_000, begin + 120_000]
        path = f"klines?symbol=BTCUSDT&interval=1m&startTime={begin + 1}&endTime={begin + 120_000}"
        assert [r[0] for r in await get(simulator, session, path)] == [begin + 60_000, begin + 120_000]
        rows = await get(simulator, session, f"klines?symbol=BTCUSDT&interval=1m&endTime={begin}&limit=2")
        assert [r[0] for r in rows] == [begin - 60_000, begin]


@scenario
async def test_a_thousand_minutes_of_past_are_there_to_warm_up_with() -> None:
    async with exchange(history=7 * 86_400) as (simulator, session):
        for interval in ("1m", "5m"):
            rows = await get(simulator, session, f"klines?symbol=ETHUSDT&interval={interval}&limit=1000")
            assert len(rows) == 1_000
            assert all(a[6] + 1 == b[0] for a, b in pairwise(rows))
        rows = await get(simulator, session, "klines?symbol=ETHUSDT&interval=1d&limit=1000&timeZone=05:45")
        assert 7 <= len(rows) <= 9
        assert (rows[0][0] + (5 * 60 + 45) * 60_000) % 86_400_000 == 0


@scenario
async def test_weights_add_up_in_the_header_and_past_the_limit_come_429_and_418() -> None:
    async with exchange(weight_limit=60) as (simulator, session):
        while time.time() % 60 > 55:  # the minute must not turn over in between
            await asyncio.sleep(0.5)
        used = []
        for path in (
            "ping",
            "time",
            "aggTrades?symbol=BTCUSDT",
            "klines?symbol=BTCUSDT&interval=1m",
            "exchangeInfo",
        ):
            async with session.get(f"{simulator.url}/api/v3/{path}") as response:
                used.append(int(response.headers["X-MBX-USED-WEIGHT-1M"]))
        assert used == [1, 2, 6, 8, 28]
        async with session.get(f"{simulator.url}/api/v3/historicalTrades?symbol=BTCUSDT") as response:
            assert response.headers["X-MBX-USED-WEIGHT-1M"] == "53"
        for _ in range(20):
            async with session.get(f"{simulator.url}/api/v3/trades?symbol=BTCUSDT") as response:
                assert response.status == 429
                assert 1 <= int(response.headers["Retry-After"]) <= 60
                assert (await response.json())["code"] == -1003
        for _ in range(2):
            async with session.get(f"{simulator.url}/api/v3/ping") as response:
                assert response.status == 418
                assert 100 < int(response.headers["Retry-After"]) <= 120
                assert "IP banned until" in (await response.json())["msg"]


@scenario
async def test_exchange_info_lists_the_known_symbols_by_documented_rules() -> None:
    async with exchange(symbols=("BTCUSDT", "FOOUSDT")) as (simulator, session):
        info = await get(simulator, session, "exchangeInfo")
        assert [s["symbol"] for s in info["symbols"]] == ["BTCUSDT", "FOOUSDT"]
        assert {"timezone", "serverTime", "rateLimits", "exchangeFilters"} < set(info)
        assert info["symbols"][0]["permissionSets"] == [["SPOT", "MARGIN"]]
        rules = {f["filterType"]: f for f in info["symbols"][0]["filters"]}
        assert rules["PRICE_FILTER"]["tickSize"] == "0.01000000"
        assert rules["LOT_SIZE"]["stepSize"] == "0.00001000"
        info = await get(simulator, session, 'exchangeInfo?symbols=["FOOUSDT"]&showPermissionSets=false')
        assert [(s["symbol"], s["permissionSets"]) for s in info["symbols"]] == [("FOOUSDT", [])]


# Faults


@scenario
async def test_abort_is_seen_as_1006() -> None:
    async with (
        exchange() as (simulator, _),
        stream(simulator, "/ws/btcusdt@trade") as client,
        stream(simulator, "/ws/btcusdt@trade") as other,
    ):
        await events(client, 1)
        await events(other, 1)
        simulator.inject(Fault("abort", connection=0))
        await ended(client)
        assert client.close_code == 1006
        await events(other, 50)


@scenario
async def test_silence_keeps_the_connection_and_sends_nothing_not_even_a_pong() -> None:
    async with (
        exchange() as (simulator, _),
        stream(simulator, "/ws/btcusdt@trade", close_timeout=0.2) as client,
    ):
        await events(client, 1)
        simulator.inject(Fault("silence"))
        await asyncio.sleep(0.1)
        pong = asyncio.ensure_future(await client.ping())
        await silent(client)
        assert not pong.done()
        assert simulator.connections == 1


@scenario
async def test_silence_with_a_duration_ends_and_leaves_a_gap() -> None:
    async with exchange() as (simulator, _), stream(simulator, "/ws/btcusdt@trade") as client:
        simulator.inject(Fault("silence", at=0.5, duration=0.5))
        ids = [e["t"] for e in await events_to(client, 1.2)]
        steps = [b - a for a, b in pairwise(ids) if b - a != 1]
        assert len(steps) == 1
        assert steps[0] > 20


@scenario
async def test_delay_makes_frames_late_and_loses_none() -> None:
    async with exchange() as (simulator, _), stream(simulator, "/ws/btcusdt@trade") as client:
        simulator.inject(Fault("delay", at=0.3, amount=0.6, duration=0.5))
        sent: list[Any] = []
        lags: list[float] = []
        while not sent or sent[-1]["T"] < START / 1_000 + 2_000:
            sent += await events(client, 1)
            lags.append(simulator.now() / 1_000 - sent[-1]["T"])
        ids = [e["t"] for e in sent]
        assert ids == list(range(ids[0], ids[0] + len(ids)))
        assert max(lags) > 550
        assert min(lags[:20]) < 500
        assert min(lags[-20:]) < 500


@scenario
async def test_slow_limits_the_bytes_a_second() -> None:
    async with (
        exchange(rate=2_000.0) as (simulator, session),
        session.ws_connect(simulator.ws_url + "/ws/btcusdt@trade") as client,
    ):
        simulator.inject(Fault("slow", amount=2_000))
        size, begin = 0, time.monotonic()
        while time.monotonic() - begin < 1.5:
            message = await client.receive()
            size += len(message.data)
        assert size < 8_000


def test_what_was_held_back_for_a_connection_that_is_gone_is_dropped(
    caplog: pytest.LogCaptureFixture,
) -> None:
    @scenario
    async def run() -> None:
        async with (
            exchange(rate=2_000.0) as (simulator, session),
            session.ws_connect(simulator.ws_url + "/ws/btcusdt@trade"),
        ):
            simulator.inject(Fault("slow", amount=2_000, duration=1.0), Fault("abort", at=0.6))
            await asyncio.sleep(1.5)
            assert simulator.connections == 0

    run()
    assert [record.getMessage() for record in caplog.records if record.name == "asyncio"] == []


@scenario
async def test_hits_say_how_often_each_fault_was_seen() -> None:
    async with exchange() as (simulator, session):
        simulator.inject(Fault("abort"), Fault("clock"), Fault("error", count=2), Fault("error", amount=429))
        for _ in range(4):
            async with session.get(f"{simulator.url}/api/v3/time") as response:
                await response.read()
        # No connection was there to be aborted; the first request met both errors, the first of which won.
        assert simulator.hits == {"clock": 1, "error 503": 2, "error 429": 1}
        async with stream(simulator, "/ws/btcusdt@trade"), stream(simulator, "/ws/ethusdt@trade"):
            simulator.inject(Fault("abort"))
        assert simulator.hits["abort"] == 2


@scenario
async def test_rest_takes_as_long_as_it_is_told() -> None:
    async with exchange(rest_latency=0.2) as (simulator, session):
        begin = time.monotonic()
        assert await get(simulator, session, "ping") == {}
        assert time.monotonic() - begin > 0.2


@scenario
async def test_shutdown_is_announced_on_raw_and_combined_streams_before_the_end() -> None:
    async with (
        exchange() as (simulator, _),
        stream(simulator, "/ws/btcusdt@trade") as raw,
        stream(simulator, "/stream?streams=btcusdt@trade") as both,
    ):
        simulator.inject(Fault("shutdown", amount=0.3))
        for client, combined in ((raw, False), (both, True)):
            seen = [orjson.loads(message) for message in await ended(client)]
            if combined:
                (event,) = [e["data"] for e in seen if e["stream"] == "!serverShutdown"]
            else:
                (event,) = [e for e in seen if e["e"] == "serverShutdown"]
            assert list(event) == ["e", "E"]
            assert len(str(event["E"])) == 13


@scenario
async def test_the_exchange_says_that_it_ends() -> None:
    async with exchange() as (simulator, _):
        client = await connect(simulator.ws_url + "/ws/btcusdt@trade")
        await events(client, 1)
    seen = [orjson.loads(message) for message in await ended(client)]
    assert seen[-1]["e"] == "serverShutdown"
    assert client.close_code == 1001


@scenario
async def test_refuse_closes_the_port_and_opens_it_again() -> None:
    async with exchange() as (simulator, _), stream(simulator, "/ws/btcusdt@trade") as client:
        simulator.inject(Fault("refuse", duration=0.5))
        with pytest.raises(ConnectionRefusedError):
            async with stream(simulator, "/ws"):
                pass
        await events(client, 20)  # those open stay
        while True:
            try:
                async with stream(simulator, "/ws/btcusdt@trade") as again:
                    await events(again, 1)
                break
            except OSError:
                await asyncio.sleep(0.05)


@scenario
async def test_hang_leaves_a_handshake_without_an_answer() -> None:
    async with exchange() as (simulator, session):
        simulator.inject(Fault("hang", duration=1.0))
        with pytest.raises(TimeoutError):
            async with stream(simulator, "/ws", open_timeout=0.3):
                pass
        assert await get(simulator, session, "ping") == {}
        async with stream(simulator, "/ws/btcusdt@trade") as client:
            await events(client, 1)


@pytest.mark.parametrize("kind", ["duplicate", "reorder", "hole"])
def test_frame_faults_change_what_is_sent_and_not_what_happened(kind: str) -> None:
    @scenario
    async def run() -> None:
        fault = Fault(kind, at=0.4, count=7, symbol="ETHUSDT")
        async with exchange(faults=(fault,)) as (simulator, session):
            path = "/stream?streams=ethusdt@trade/btcusdt@trade"
            async with stream(simulator, path) as client:
                sent = [e["data"] for e in await events_to(client, 1.0)]
            btc = [e["t"] for e in sent if e["s"] == "BTCUSDT"]
            assert btc == list(range(btc[0], btc[0] + len(btc)))
            eth = [e["t"] for e in sent if e["s"] == "ETHUSDT"]
            hit = simulator.market.ids_at(1, START + 400_000)[0]
            whole = list(range(eth[0], eth[-1] + 1))
            at = whole.index(hit)
            expected = {
                "duplicate": whole[:at] + [i for i in whole[at : at + 7] for _ in range(2)] + whole[at + 7 :],
                "reorder": whole[:at] + whole[at : at + 7][::-1] + whole[at + 7 :],
                "hole": whole[:at] + whole[at + 7 :],
            }[kind]
            assert eth == expected
            rows = await get(simulator, session, f"historicalTrades?symbol=ETHUSDT&fromId={hit}&limit=7")
            assert [r["id"] for r in rows] == list(range(hit, hit + 7))

    run()


@scenario
async def test_truncated_frames_are_no_json_and_the_next_are_whole() -> None:
    async with (
        exchange(faults=(Fault("truncate", at=0.3, count=3),)) as (simulator, _),
        stream(simulator, "/ws/btcusdt@aggTrade") as client,
    ):
        broken, ids, at = 0, [], 0
        while at < START / 1_000 + 600:
            text = await client.recv()
            try:
                event = orjson.loads(text)
                ids.append(event["a"])
                at = event["T"]
            except orjson.JSONDecodeError:
                broken += 1
        assert broken == 3
        assert [b - a for a, b in pairwise(ids) if b - a != 1] == [4]


@scenario
async def test_unknown_frames_come_between_the_others() -> None:
    async with exchange() as (simulator, _), stream(simulator, "/ws/btcusdt@trade") as client:
        await events(client, 1)
        simulator.inject(Fault("unknown", count=9))
        seen = [await client.recv() for _ in range(60)]
        ids = []
        for message in seen:
            try:
                value = orjson.loads(message)
            except orjson.JSONDecodeError:
                continue
            if isinstance(value, dict) and "t" in value:
                ids.append(value["t"])
        assert len(ids) == 51
        assert ids == list(range(ids[0], ids[0] + 51))


@scenario
async def test_rest_faults_hit_the_next_requests_of_their_endpoint() -> None:
    async with exchange() as (simulator, session):
        await asyncio.sleep(0.2)
        for status in (403, 418, 429, 500, 503):
            simulator.inject(Fault("error", amount=status, endpoint="aggTrades"))
            assert await get(simulator, session, "ping") == {}
            async with session.get(f"{simulator.url}/api/v3/aggTrades?symbol=BTCUSDT") as response:
                assert response.status == status
                assert ("Retry-After" in response.headers) == (status in (418, 429))
            assert await get(simulator, session, "aggTrades?symbol=BTCUSDT&limit=1")
        simulator.inject(Fault("short", amount=3, count=2))
        for rows in (3, 3, 10):
            assert len(await get(simulator, session, "trades?symbol=BTCUSDT&limit=10")) == rows
        simulator.inject(Fault("timeout", amount=0.5))
        begin = time.monotonic()
        status, body = await refused(simulator, session, "time")
        assert (status, body["code"]) == (408, -1007)
        assert time.monotonic() - begin > 0.45


@pytest.mark.parametrize("amount", [-1.5, 1.5])
def test_a_wrong_clock_jumps_and_comes_back_and_loses_no_trade(amount: float) -> None:
    @scenario
    async def run() -> None:
        async with exchange(start=None) as (simulator, session):

            async def ahead() -> float:
                return float((await get(simulator, session, "time"))["serverTime"]) / 1_000 - time.time()

            assert abs(await ahead()) < 0.7
            async with stream(simulator, "/ws/btcusdt@trade") as client:
                sent = await events(client, 5)
                simulator.inject(Fault("clock", amount=amount, duration=0.5))
                assert await ahead() == pytest.approx(amount, abs=0.7)
                sent += await events(client, 300)
                ids = [e["t"] for e in sent]
                assert ids == list(range(ids[0], ids[0] + len(ids)))
            while abs(await ahead()) > 0.7:
                await asyncio.sleep(0.1)

    run()


@scenario
async def test_a_constant_clock_offset_is_in_the_trades_too() -> None:
    async with (
        exchange(start=None, clock_offset=-1.27) as (simulator, _session),
        stream(simulator, "/ws/btcusdt@trade") as client,
    ):
        await events(client, 50)
        event = (await events(client, 1))[0]
        assert event["T"] / 1_000 - time.time() == pytest.approx(-1.27, abs=0.7)


@scenario
async def test_a_halted_symbol_is_silent_and_said_to_be_halted_and_comes_back() -> None:
    async with exchange(speed=20.0) as (simulator, session), stream(simulator, "/ws/btcusdt@trade") as client:
        sent = await events(client, 100)
        simulator.inject(Fault("halt", symbol="BTCUSDT", duration=20.0))
        info = await get(simulator, session, "exchangeInfo?symbol=BTCUSDT")
        assert info["symbols"][0]["status"] == "HALT"
        listed = await get(simulator, session, "exchangeInfo?symbolStatus=TRADING")
        assert [s["symbol"] for s in listed["symbols"]] == ["ETHUSDT"]
        while len(sent) < 2 or sent[-1]["T"] - sent[-2]["T"] < 10_000:
            sent += await events(client, 1)
        assert 17_000 < sent[-1]["T"] - sent[-2]["T"] < 25_000
        assert sent[-1]["t"] == sent[-2]["t"] + 1
        info = await get(simulator, session, "exchangeInfo?symbol=BTCUSDT")
        assert info["symbols"][0]["status"] == "TRADING"


@scenario
async def test_a_delisted_symbol_keeps_its_past_and_a_removed_one_is_unknown() -> None:
    async with exchange() as (simulator, session):
        await asyncio.sleep(0.3)
        simulator.inject(Fault("delist", symbol="BTCUSDT"), Fault("remove", symbol="ETHUSDT"))
        info = await get(simulator, session, "exchangeInfo")
        assert [(s["symbol"], s["status"]) for s in info["symbols"]] == [("BTCUSDT", "BREAK")]
        assert await get(simulator, session, "trades?symbol=BTCUSDT&limit=1")
        assert (await refused(simulator, session, "trades?symbol=ETHUSDT"))[1]["code"] == -1121
        async with stream(simulator, "/ws/btcusdt@trade/ethusdt@trade") as client:
            await asyncio.sleep(1.1)  # until the second in which it was delisted is over
            await silent(client)


@scenario
async def test_faults_are_ordered_over_http_and_wrong_ones_refused_in_a_line() -> None:
    async with exchange() as (simulator, session):
        url = simulator.url + "/simulator/faults"
        async with stream(simulator, "/ws/btcusdt@trade") as client:
            await events(client, 1)
            async with session.post(url, json=[{"kind": "abort"}, {"kind": "short", "count": 2}]) as response:
                assert await response.json() == {"accepted": 2}
            await ended(client)
        for body in (
            {"kind": "nothing"},
            {"kin": "abort"},
            7,
            {"kind": "abort", "at": "x"},
            {"kind": "halt", "symbol": "X"},
        ):
            async with session.post(url, json=body) as response:
                assert response.status == 400
                error = (await response.json())["error"]
                assert error
                assert "\n" not in error
        async with session.get(simulator.url + "/simulator") as response:
            state = await response.json()
        assert [f["kind"] for f in state["faults"]] == ["abort", "short"]
        assert state["symbols"]["BTCUSDT"]["lastTrade"] > 0


def test_a_schedule_is_the_same_for_the_same_seed_and_holds_every_kind_it_may() -> None:
    a, b = (take(300, schedule(5, SYMBOLS)) for _ in range(2))
    assert a == b
    assert a != take(300, schedule(6, SYMBOLS))
    assert {f.kind for f in a} == set(KINDS) - {"halt", "delist", "remove"}
    times = [f.at for f in a]
    assert times == sorted(times, key=lambda at: at or 0.0)
    assert all(fault_of(vars(f)) == f for f in a)


@scenario
async def test_a_seeded_schedule_runs_at_the_exchanges_own_pace() -> None:
    async with exchange(fault_seed=3, speed=200.0, rate=20.0) as (simulator, _):
        await until(lambda: len(simulator.applied) >= 12)
        assert list(simulator.applied) == take(len(simulator.applied), schedule(3, SYMBOLS))


# In process, as a program, from a recording


def test_the_exchange_runs_on_a_thread_and_answers_from_any() -> None:
    with Simulator(Config(symbols=SYMBOLS, rate=400.0, start=START)) as simulator:
        url = f"{simulator.ws_url}/ws/btcusdt@trade"
        with connect_here(url) as client:
            ids = [json.loads(client.recv())["t"] for _ in range(50)]
            simulator.inject(Fault("abort"))
            with suppress(ConnectionClosed):
                while True:
                    client.recv()
            assert client.close_code == 1006
        block = simulator.trades("BTCUSDT", ids[0], ids[-1])
        assert block["id"].tolist() == ids
        with pytest.raises(ValueError, match="not traded here"):
            simulator.inject(Fault("halt", symbol="NOSUCH"))
    assert simulator.trades("BTCUSDT").size > 50


@scenario
async def test_two_runs_of_one_seed_are_the_same_byte_for_byte() -> None:
    digests = []
    for _ in range(2):
        async with (
            exchange(rate=3_000.0, faults=(Fault("duplicate", at=0.6, count=50),)) as (simulator, _),
            stream(simulator, "/stream?streams=btcusdt@trade/ethusdt@trade") as client,
        ):
            first = simulator.market.ids_at(0, START + SECOND // 2)[0]
            text = await client.recv()
            while orjson.loads(text)["data"]["t"] != first:
                text = await client.recv()
            digest = hashlib.sha256(text.encode() if isinstance(text, str) else text)
            for _ in range(3_000):
                digest.update(str(await client.recv()).encode())
            digests.append(digest.hexdigest())
    assert digests[0] == digests[1]


PROGRAM = (sys.executable, "-m", "connectors.simulator")


def test_the_program_says_where_it_listens_and_ends_when_its_parent_does() -> None:
    with running(*PROGRAM, "--exit-with-parent", "--rate", "50", piped=True) as process:
        line = wait_for_line(process)
        assert line.startswith("listening on http://127.0.0.1:")
        host, port = line.split("//")[1].strip().split(":")
        socket.create_connection((host, int(port))).close()
        finish(process)  # its stdin is closed, as it is when a parent ends


def test_the_program_ends_in_order_on_sigterm() -> None:
    with running(*PROGRAM, piped=True) as process:
        assert wait_for_line(process).startswith("listening on ")
        process.terminate()
        assert finish(process) == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ("--symbols", "btc/usdt"),
        ("--symbols", ""),
        ("--rate", "0"),
        ("--rate", "1e9"),
        ("--quiet", "NOSUCH"),
        ("--history", "nan"),
        ("--fault", '{"kind": "halt", "symbol": "NOSUCH"}'),
        ("--rate", "fast"),
        ("--market", "options"),
        ("--speed", "-1"),
        ("--port", "70000"),
        ("--recording", "/nonexistent"),
        ("--recording", __file__),
        ("--fault", '{"kind": "nothing"}'),
        ("--fault", "{"),
        ("--start", "yesterday"),
        ("--nonsense",),
    ],
)
def test_a_bad_option_is_one_clear_line_and_exit_code_2(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main(list(arguments))
    except SystemExit as end:
        code = int(end.code or 0)
    assert code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("simulator: ")
    assert err.count("\n") == 1


def recording(folder: Path, packed: bool) -> Path:
    lines = []
    for i in range(200):
        at = 1_723_161_255_000 + 37 * i
        price = f"{61_800 + i % 7}.50000000"
        data = f'{{"e":"trade","E":{at + 1},"s":"BTCUSDT","t":{100 + i},"p":"{price}",'
        data += f'"q":"0.00{1 + i % 9}00000",'
        data += f'"T":{at},"m":{"true" if i % 3 else "false"},"M":true}}'
        lines.append(f'{at * 1_000_000} {{"stream":"btcusdt@trade","data":{data}}}\n')
        lines.append(f'{at * 1_000_000} {{"stream":"btcusdt@bookTicker","data":{{"u":1,"s":"BTCUSDT"}}}}\n')
    path = folder / ("trades.gz" if packed else "trades.txt")
    with gzip.open(path, "wt") if packed else path.open("w") as out:
        out.writelines(lines)
    return path


@pytest.mark.parametrize("packed", [False, True])
def test_a_recording_is_played_at_its_own_times_or_shifted_by_whole_minutes(
    packed: bool, tmp_path: Path
) -> None:
    @scenario
    async def run() -> None:
        path = recording(tmp_path, packed)
        async with exchange(start=None, recording=(path,), keep_times=True, speed=10.0) as (
            simulator,
            _session,
        ):
            async with stream(simulator, "/ws/btcusdt@trade") as client:
                sent = await events(client, 100)
            ids = [e["t"] for e in sent]
            assert ids == list(range(ids[0], ids[0] + 100))
            assert all(e["T"] == 1_723_161_255_000 + 37 * (e["t"] - 100) for e in sent)
            assert sent[0]["p"] == f"{61_800 + (ids[0] - 100) % 7}.50000000"
            with pytest.raises(ValueError, match="cannot be halted"):
                simulator.inject(Fault("halt"))
        shifted = RecordedMarket([path], None, START + 12_345)
        first = int(shifted.read(0, 2**62).time[0])
        assert (first - 1_723_161_255_000_000) % (60 * SECOND) == 0
        assert START - 60 * SECOND < first <= START + 12_345

    run()


def test_klines_of_a_recording_equal_binances_own() -> None:
    if not DATA.exists():
        pytest.skip("no recorded data beside the repository")
    for index, name in enumerate(("BTCUSDT", "ETHUSDT")):
        paths = sorted((DATA / "recorded" / "usdm").glob("*.gz"))
        traded = RecordedMarket(paths)
        end = int(traded.read(0, 2**62).time[-1]) + 1
        klines = Klines(traded)
        klines.add(traded.read(traded.start, end), end)
        theirs = [
            r.split(",") for r in (DATA / "klines" / f"{name}-1m-2024-08-08.usdm.csv").read_text().split()
        ]
        whole = [
            r for r in theirs if r[0].isdecimal() and traded.start < int(r[0]) * 1_000 < end - 60 * SECOND
        ]
        assert len(whole) >= 4
        text = Text(traded)
        for k, row in zip(
            klines.query(index, "1m", 0, [int(r[0]) * 1_000 for r in whole], end), whole, strict=True
        ):
            ours = [text.price(index, p) for p in (k.open, k.high, k.low, k.close)]
            ours += [
                text.quantity(index, k.volume),
                str(k.close_time // 1_000 - 1),
                text.quote(index, k.quote),
            ]
            ours += [str(k.trades), text.quantity(index, k.taker_volume), text.quote(index, k.taker_quote)]
            assert ours == row[1:11]
