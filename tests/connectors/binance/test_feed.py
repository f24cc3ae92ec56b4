"""The feed's connections, against an exchange that ends, mutes and refuses them."""

import asyncio
import threading
import time

import pytest
from structlog.testing import capture_logs
from websockets.exceptions import InvalidURI

from connectors.binance import feed
from connectors.binance.endpoints import Endpoints
from connectors.binance.stream import BinanceSource
from tests.support.exchange import Exchange, Reader, connected, start


def test_the_thread_ends_and_the_stop_is_graceful(exchange: Exchange, readers: list[Reader]) -> None:
    stop = threading.Event()
    reader = Reader(BinanceSource(["AAAUSDT"], endpoints=exchange.endpoints, stop=stop))
    reader.until(connected(exchange))
    stop.set()
    with pytest.raises(StopIteration):
        reader.partition.next_batch()
    reader.partition.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "binance-feed"]


def test_without_a_network_one_line_says_so(readers: list[Reader]) -> None:
    nowhere = Endpoints(("ws://127.0.0.1:9",), ("http://127.0.0.1:9",))
    with capture_logs() as logs:
        reader = Reader(BinanceSource(["AAAUSDT"], endpoints=nowhere, stop=threading.Event()))
        readers.append(reader)
        reader.poll_for(1.5)
    warnings = [log["event"] for log in logs if log["log_level"] == "warning"]
    assert len(warnings) == 1
    assert "make demo" in warnings[0]
    assert reader.blocks == []


@pytest.mark.parametrize(
    "message",
    [
        '{"e":"serverShutdown","E":1}',
        '{"stream":"!serverShutdown","data":{"e":"serverShutdown","E":1}}',
    ],
    ids=["raw", "combined"],
)
def test_the_next_connection_is_made_before_the_exchange_shuts_the_old_one(
    exchange: Exchange, readers: list[Reader], message: str
) -> None:
    reader = start(exchange, readers, ["AAAUSDT"])
    reader.until(connected(exchange))
    exchange.trade("AAAUSDT", 1)
    exchange.say(message)
    reader.until(connected(exchange, 2))
    exchange.trade("AAAUSDT", 2, 3)
    reader.wait_for(1, 2, 3)
    reader.until(lambda: reader.status.duplicates == 2)
    reader.until(connected(exchange, 1))
    exchange.trade("AAAUSDT", 4)
    reader.wait_for(1, 2, 3, 4)
    assert reader.gaps() == []
    assert reader.status.reconnections == 1


def test_a_connection_is_replaced_before_its_life_ends(exchange: Exchange, readers: list[Reader]) -> None:
    reader = start(exchange, readers, ["AAAUSDT"], life=0.5)
    reader.until(connected(exchange))
    id_ = 0
    while reader.status.reconnections < 3:
        id_ += 1
        exchange.trade("AAAUSDT", id_)
        reader.poll_for(0.02)
    reader.wait_for(*range(1, id_ + 1))
    assert reader.gaps() == []


def test_a_connection_that_does_not_answer_is_given_up_and_its_trades_are_fetched(
    exchange: Exchange, readers: list[Reader]
) -> None:
    reader = start(exchange, readers, ["AAAUSDT"], stale=0.5)
    reader.until(connected(exchange))
    exchange.trade("AAAUSDT", 1)
    reader.wait_for(1)
    exchange.mute = True
    exchange.trade("AAAUSDT", 2, send=False)
    reader.until(lambda: reader.status.reconnections == 1)
    exchange.mute = False
    reader.wait_for(1, 2)
    reader.until(lambda: len(reader.gaps()) == 2)
    assert reader.gaps()[-1] == (2, 2, "stale", "rest", 1)


def test_a_silent_market_is_pinged_less_often_than_the_exchange_allows(
    exchange: Exchange, readers: list[Reader]
) -> None:
    reader = start(exchange, readers, ["AAAUSDT"])
    reader.until(connected(exchange))
    reader.poll_for(0.6)
    before = exchange.pings
    reader.poll_for(2.0)
    assert 2 <= exchange.pings - before <= 2 * 4


def test_attempts_to_connect_stay_below_the_limit_of_the_exchange() -> None:
    async def times() -> list[float]:
        attempts = feed._Attempts(limit=3, period=0.4)
        taken = []
        for _ in range(8):
            await attempts.take()
            taken.append(time.monotonic())
        return taken

    taken = asyncio.run(times())
    assert all(later - earlier >= 0.4 for earlier, later in zip(taken, taken[3:]))


def test_symbols_outside_ascii_are_received(exchange: Exchange, readers: list[Reader]) -> None:
    reader = start(exchange, readers, ["币安人生USDT"])
    reader.until(connected(exchange))
    exchange.trade("币安人生USDT", 1)
    exchange.trade("币安人生USDT", 2, send=False)
    exchange.trade("币安人生USDT", 3)
    reader.wait_for(1, 2, 3)


def test_symbols_that_do_not_exist_are_named_and_left_out(exchange: Exchange, readers: list[Reader]) -> None:
    with capture_logs() as logs:
        reader = start(exchange, readers, ["AAAUSDT", "NOPEUSDT"])
        reader.until(lambda: any("NOPEUSDT" in log["event"] for log in logs))
    assert [log["event"] for log in logs if log["log_level"] == "warning"] == [
        "no such symbol on Binance spot: NOPEUSDT; left out"
    ]
    exchange.trade("AAAUSDT", 1)
    reader.wait_for(1)


def test_many_symbols_are_spread_over_connections(exchange: Exchange, readers: list[Reader]) -> None:
    symbols = [f"S{i}USDT" for i in range(1030)]
    exchange.listed = symbols
    reader = start(exchange, readers, symbols)
    reader.until(lambda: list(reader.status.connections.values()) == ["live", "live"])
    subscribed = sorted(len(streams) for streams in exchange.sockets.values())
    assert subscribed == [6, 1024]
    exchange.trade("S0USDT", 5)
    exchange.trade("S1023USDT", 6)
    exchange.trade("S1029USDT", 7)
    reader.wait_for(5)
    reader.wait_for(6, symbol=1023)
    reader.wait_for(7, symbol=1029)


def test_endpoints_are_tried_in_turn(exchange: Exchange, readers: list[Reader]) -> None:
    both = Endpoints(
        ("ws://127.0.0.1:9", *exchange.endpoints.ws), ("http://127.0.0.1:9", *exchange.endpoints.rest)
    )
    reader = start(exchange, readers, ["AAAUSDT"], endpoints=both)
    reader.until(connected(exchange))
    exchange.trade("AAAUSDT", 1, 3)
    exchange.trade("AAAUSDT", 2, send=False)
    exchange.history["AAAUSDT"].sort(key=lambda trade: int(trade["t"]))
    reader.wait_for(1, 2, 3)
    assert reader.status.endpoint == exchange.endpoints.ws[0]


def test_an_error_of_the_thread_reaches_the_dataflow(readers: list[Reader]) -> None:
    reader = Reader(
        BinanceSource(["AAAUSDT"], endpoints=Endpoints(("nonsense",), ()), stop=threading.Event())
    )
    readers.append(reader)
    with pytest.raises(InvalidURI):
        reader.poll_for(5)
