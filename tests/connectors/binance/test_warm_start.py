"""Warm start: the exchange's klines before the first trade, once, and only where a run begins anew."""

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import structlog

from connectors.binance.endpoints import Endpoints
from connectors.binance.feed import FeedStatus
from connectors.binance.rest import RestClient
from connectors.binance.warm_start import WarmSource, load_klines
from connectors.simulator import Config, Simulator
from kernels.records import SECOND, Block, Trades

SYMBOLS = ["BTCUSDT", "ETHUSDT"]
MINUTE = 60 * SECOND


@pytest.fixture(scope="module")
def exchange() -> Iterator[Simulator]:
    with Simulator(Config(symbols=tuple(SYMBOLS), rate=500.0, seed=3)) as running:
        yield running


def load(exchange: Simulator, *timeframes: int, before: int, count: int) -> Block:
    async def ask() -> Block:
        async with RestClient("spot", [exchange.url]) as rest:
            return await load_klines(rest, SYMBOLS, timeframes, before, count)

    return asyncio.run(ask())


def begin(
    exchange: Simulator, resume: Any = None, rest: str = "", **options: Any
) -> tuple[list[Trades], Any]:
    """Return the items of a source up to the first trades, and its snapshot then."""
    stop = threading.Event()
    source = WarmSource(
        SYMBOLS,
        market="spot",
        stream="trade",
        endpoints=Endpoints(ws=(exchange.ws_url,), rest=(rest or exchange.url,)),
        stop=stop,
        status=FeedStatus(),
        timeframes=[SECOND, MINUTE],
        **{"count": 30, **options},
    )
    part = source.build_part("step", "0", resume)
    items: list[Trades] = []
    deadline = time.monotonic() + 20
    while not any(len(item.trades) for item in items) and time.monotonic() < deadline:
        items += [item for _, item in part.next_batch()]
        time.sleep(0.01)
    stop.set()
    position = part.snapshot()
    part.close()
    return items, position


def test_the_last_closed_klines_come_by_interval_with_version_0(exchange: Simulator) -> None:
    now = exchange.now()
    bars = load(exchange, SECOND, MINUTE, before=now, count=5)
    assert len(bars) == 2 * 2 * 5
    assert (bars["version"] == 0).all()
    assert (bars["open_time"] + bars["timeframe"] <= now).all()
    for length in (SECOND, MINUTE):
        mine = bars[bars["timeframe"] == length]
        assert mine["symbol"].tolist() == [0, 1] * 5
        assert np.unique(np.diff(mine["open_time"][::2])).tolist() == [length]
        assert mine["open_time"][-1] == now // length * length - length


def test_klines_are_those_of_the_exchange(exchange: Simulator) -> None:
    bars = load(exchange, SECOND, before=exchange.now(), count=3)
    for bar in bars[bars["symbol"] == 0]:
        trades = exchange.trades("BTCUSDT")
        inside = trades[(trades["time"] >= bar["open_time"]) & (trades["time"] < bar["open_time"] + SECOND)]
        if len(inside) and inside["time"][0] > trades["time"][0]:
            assert bar["close"] == inside["price"][-1]
            assert bar["trades"] == len(inside)


def test_more_klines_than_a_page_holds_are_fetched_page_by_page(exchange: Simulator) -> None:
    bars = load(exchange, SECOND, before=exchange.now(), count=1_500)
    times = bars["open_time"][bars["symbol"] == 0]
    assert len(times) == 1_500
    assert np.unique(np.diff(times)).tolist() == [SECOND]


def test_timeframes_the_exchange_has_no_klines_of_are_left_out(exchange: Simulator) -> None:
    bars = load(exchange, 7 * SECOND, MINUTE, before=exchange.now(), count=2)
    assert np.unique(bars["timeframe"]).tolist() == [MINUTE]


def test_a_source_that_begins_hands_out_klines_before_its_first_trade(exchange: Simulator) -> None:
    items, _ = begin(exchange)
    with_bars = [i for i, item in enumerate(items) if len(item.bars)]
    first = next(i for i, item in enumerate(items) if len(item.trades))
    assert with_bars == [first - 1]
    bars, trades = items[first - 1].bars, items[first].trades
    newest = bars["open_time"][bars["timeframe"] == SECOND].max()
    assert newest == trades["time"][0] // SECOND * SECOND - SECOND


def test_a_source_that_resumes_does_not(exchange: Simulator) -> None:
    _, position = begin(exchange)
    items, _ = begin(exchange, resume=position)
    assert not any(len(item.bars) for item in items)


def test_without_klines_the_source_goes_on_and_says_so(exchange: Simulator) -> None:
    with structlog.testing.capture_logs() as logs:
        items, _ = begin(exchange, rest="http://127.0.0.1:9", patience=0.3)
    assert len(items[-1].trades)
    assert not any(len(item.bars) for item in items)
    assert [log["event"] for log in logs if "klines" in log["event"]]
