"""Recovery by itself, with a clock of the test: what it asks for, when, and what it hands out meanwhile."""

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from structlog.testing import capture_logs

from connectors.binance.events import Arrived, ClockReading, Down, Liveness, Notice, Page, Request, Up
from connectors.binance.recovery import Recovery, RecoveryState, Step
from connectors.binance.rest import RestError
from kernels.records import GAP, GAP_CAUSES, GAP_REPAIRS, SECOND, TRADE, Block, Trades

SYMBOLS = ["AAAUSDT", "BBBUSDT"]
START = 1_700_000_000 * SECOND


class FakeClock:
    """Clocks that stand still until the test moves them on."""

    def __init__(self) -> None:
        self.seconds = 1_000.0

    def monotonic(self) -> float:
        return self.seconds

    def now(self) -> int:
        return START + round((self.seconds - 1_000.0) * SECOND)


def trades(*ids: int, symbol: int = 0, second: float = 0.0) -> Block:
    block = np.zeros(len(ids), TRADE)
    block["id"] = block["first_id"] = block["last_id"] = ids
    block["time"] = START + round(second * SECOND)
    block["symbol"] = symbol
    block["price"] = 1.0
    return block


def arrived(*ids: int, symbol: int = 0, second: float = 0.0) -> Arrived:
    return Arrived(0, trades(*ids, symbol=symbol, second=second), None, START)


def page(first: int, *ids: int, symbol: int = 0, second: float = 0.0) -> Page:
    return Page(symbol, first, trades(*ids, symbol=symbol, second=second))


class Driver:
    """A recovery, and everything that came out of it."""

    def __init__(self, state: RecoveryState | None = None, **options: Any) -> None:
        self.clock = FakeClock()
        options = {"grace": SECOND // 2, "patience": 10.0, "max_held": 1_000_000} | options
        self.recovery = Recovery(SYMBOLS, [range(2)], self.clock, state=state, **options)
        self.outputs: list[Trades] = []

    def step(self, *events: Arrived | Notice, merging: Sequence[int] = (), waits: bool = False) -> Step:
        found = self.recovery.step(events, merging=merging, waits_for_weight=waits)
        if found.output is not None:
            self.outputs.append(found.output)
        return found

    def ids(self, symbol: int = 0) -> list[int]:
        every = np.concatenate([np.empty(0, TRADE), *(output.trades for output in self.outputs)])
        return [int(id_) for id_ in every["id"][every["symbol"] == symbol]]

    def gaps(self) -> list[tuple[int, int, str, str]]:
        rows = np.concatenate([np.empty(0, GAP), *(output.gaps for output in self.outputs)])
        return [
            (int(row["first_id"]), int(row["last_id"]), GAP_CAUSES[row["cause"]], GAP_REPAIRS[row["repair"]])
            for row in rows
        ]


def test_a_hole_is_asked_for_once_until_the_answer_comes() -> None:
    driver = Driver()
    driver.step(arrived(1, 2))
    assert driver.step(arrived(5)).requests == [Request(0, 3, START)]
    driver.clock.seconds += 3
    assert driver.step(arrived(6)).requests == []
    assert driver.ids() == [1, 2]
    driver.step(page(3, 3, 4, 5, 6))
    assert driver.ids() == [1, 2, 3, 4, 5, 6]
    driver.step()
    assert driver.gaps() == [(3, 4, "hole", "open"), (3, 4, "hole", "rest")]


def test_a_page_that_does_not_fill_a_hole_is_followed_by_a_request_for_the_next() -> None:
    driver = Driver()
    driver.step(arrived(1))
    assert driver.step(arrived(10)).requests == [Request(0, 2, START)]
    assert driver.step(page(2, 2, 3, 4)).requests == [Request(0, 5, START)]
    assert driver.ids() == [1, 2, 3, 4]


def test_ids_that_rest_does_not_have_are_asked_for_again_and_given_up_after_five_seconds() -> None:
    driver = Driver()
    driver.step(arrived(1))
    driver.step(arrived(3))
    began = driver.clock.seconds
    asked = 1
    driver.step(page(2))
    while not driver.ids()[1:]:
        driver.clock.seconds += 0.1
        if driver.step().requests:
            asked += 1
            driver.step(page(2))
    assert (asked, driver.ids()) == (5, [1, 3])
    assert 4.9 <= driver.clock.seconds - began <= 5.5
    assert driver.recovery.unavailable == 1
    assert driver.gaps()[-1] == (2, 2, "hole", "unavailable")


def test_a_hole_between_two_connections_gets_a_quarter_of_a_second_to_fill_by_itself() -> None:
    driver = Driver()
    driver.step(arrived(1))
    assert driver.step(arrived(3), merging=[0]).requests == []
    driver.clock.seconds += 0.2
    assert driver.step(merging=[0]).requests == []
    driver.clock.seconds += 0.06
    assert driver.step(merging=[0]).requests == [Request(0, 2, START)]


def test_after_a_lost_connection_symbols_without_a_trade_are_verified_by_rest() -> None:
    driver = Driver()
    driver.step(arrived(1), arrived(1, symbol=1))
    driver.step(Down(0, "disconnect"))
    driver.step(Up(0))
    driver.clock.seconds += 0.4
    assert driver.step(arrived(2, second=1)).requests == []
    driver.clock.seconds += 0.2
    assert driver.step().requests == [Request(1, 2, START)]
    assert driver.ids() == [1]  # the other symbol may have missed an older one
    driver.step(page(2, symbol=1))
    assert driver.ids() == [1, 2]
    assert driver.gaps() == []


def test_the_watermark_waits_for_a_hole_until_rest_has_been_silent_too_long() -> None:
    driver = Driver(patience=10.0)
    driver.step(arrived(1), arrived(1, symbol=1))
    with capture_logs() as logs:
        driver.step(arrived(3, second=1), arrived(2, symbol=1, second=2))
        assert driver.recovery.watermark == START
        driver.clock.seconds += 9.9
        driver.step()
        assert driver.recovery.watermark == START
        driver.clock.seconds += 0.2
        driver.step(waits=True)
        assert driver.recovery.watermark == START  # a pause for the weight limit is no silence
        driver.step()
    assert driver.recovery.watermark == START + 2 * SECOND
    assert [log["event"] for log in logs] == ["REST does not answer; what was missed comes late"]


def test_a_silent_market_follows_the_clock_of_the_exchange_by_the_grace() -> None:
    driver = Driver(grace=SECOND // 2)
    driver.step(ClockReading(START + 3 * SECOND, START))
    driver.step(Liveness(0, START + 10 * SECOND, 1.0))
    assert driver.recovery.watermark == START + 12 * SECOND + SECOND // 2


def test_a_silent_stream_is_probed_and_replaced_only_if_it_should_have_sent_something() -> None:
    driver = Driver()
    driver.step(ClockReading(START, START), arrived(1))
    assert driver.step(Liveness(0, START, 29.0)).requests == []
    driver.clock.seconds += 40
    assert driver.step(Liveness(0, START, 31.0)).requests == [Request(0, 2, START)]
    found = driver.step(page(2, 2, second=39))  # a moment ago: it comes by itself
    assert (found.stale, driver.ids()) == ([], [1])
    driver.clock.seconds += 40
    assert driver.step(Liveness(0, START, 71.0)).requests == [Request(0, 2, START)]
    found = driver.step(page(2, 2, second=39))
    assert (found.stale, driver.ids()) == ([0], [1, 2])


def test_what_the_exchange_refuses_is_given_up_and_logged_once() -> None:
    driver = Driver()
    driver.step(arrived(1))
    with capture_logs() as logs:
        for id_ in (3, 5):
            driver.step(arrived(id_))
            driver.step(Page(0, id_ - 1, np.empty(0, TRADE), RestError("no such symbol")))
    assert driver.ids() == [1, 3, 5]
    assert [log["reason"] for log in logs] == ["no such symbol"]


def test_a_later_run_goes_on_behind_what_was_handed_out() -> None:
    first = Driver()
    first.step(arrived(1, 2))
    first.step(arrived(5))
    later = Driver(first.recovery.state())
    assert later.step(Up(0)).requests == []
    later.clock.seconds += 0.6
    assert later.step().requests == [Request(0, 3, START)]
    later.step(page(3, 3, 4, 5))
    assert later.step(page(6)).requests == []
    assert later.ids() == [3, 4, 5]
    later.step()
    assert later.gaps()[-2:] == [(3, 4, "hole", "rest"), (5, 5, "restart", "rest")]


@pytest.mark.parametrize("seed", range(40))
def test_whatever_is_lost_each_trade_comes_once_in_order(seed: int) -> None:
    """A market of some minutes, of which the stream loses much and REST answers late and in small pages."""
    draw = random.Random(seed)
    driver = Driver(max_held=draw.choice([0, 20, 1_000_000]))
    made: list[list[float]] = [[0.0], [0.0]]  # time of each id, s
    waiting: list[tuple[float, Request]] = []
    is_up = True
    for second in range(1, 240):
        driver.clock.seconds += 1.0
        is_calm = second > 200
        events: list[Arrived | Notice] = []
        if is_up and not is_calm and draw.random() < 0.05:
            is_up = False
            events.append(Down(0, draw.choice(["disconnect", "stale", "overflow"])))
        elif not is_up and (is_calm or draw.random() < 0.2):
            is_up = True
            events.append(Up(0))
        for symbol in (0, 1):
            for _ in range(draw.choice([0, 0, 1, 5]) if not is_calm or second < 210 else 0):
                made[symbol].append(float(second))
                if is_up and (is_calm or draw.random() < 0.9):
                    events.append(arrived(len(made[symbol]) - 1, symbol=symbol, second=second))
        for due, request in [entry for entry in waiting if entry[0] <= second]:
            waiting.remove((due, request))
            last = min(len(made[request.symbol]), request.first + 30)
            times = made[request.symbol][request.first : last]
            block = trades(*range(request.first, last), symbol=request.symbol)
            block["time"] = [START + round(time * SECOND) for time in times]
            events.append(Page(request.symbol, request.first, block))
        requests = driver.step(*events).requests
        waiting += [(second + draw.choice([0, 0, 1, 4]), request) for request in requests]
    for symbol in (0, 1):
        ids = driver.ids(symbol)
        assert ids == list(range(ids[0], len(made[symbol])))
    assert (driver.recovery.held, driver.recovery.open_gaps, driver.recovery.unavailable) == (0, 0, 0)
    watermarks = [output.watermark for output in driver.outputs]
    assert watermarks == sorted(watermarks)
    opened = {row[0] for row in driver.gaps() if row[3] == "open"}
    assert opened <= {row[0] for row in driver.gaps() if row[3] != "open"}
