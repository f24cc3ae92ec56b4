"""The REST client against HTTP servers on the loop-back interface that answer as Binance does, also badly."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from connectors.binance.rest import PAGE, RestClient, RestError, UnavailableError, WeightBudget
from kernels.records import Block

Answer = web.Response | Callable[[web.Request], web.Response] | float
"""What a host answers: a response, made or ready, or seconds of silence."""


class Host:
    """One host of the exchange; answers are taken in turn, the last one for ever."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.requests: list[web.Request] = []
        self.url = ""

    async def answer(self, request: web.Request) -> web.Response:
        """Answer one request."""
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, float):
            await asyncio.sleep(answer)
            return web.json_response({})
        if callable(answer):
            return answer(request)
        # A response can be sent once only.
        return web.Response(body=answer.body, status=answer.status, headers=answer.headers)

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[None]:
        """Listen on a free port."""
        app = web.Application()
        app.router.add_get("/{path:.*}", self.answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield
        finally:
            await runner.cleanup()


def json(body: Any, status: int = 200, **headers: str) -> web.Response:
    return web.json_response(
        body, status=status, headers={k.replace("_", "-"): v for k, v in headers.items()}
    )


def trade_rows(request: web.Request) -> web.Response:
    first, limit = max(int(request.query["fromId"]), 100), int(request.query["limit"])
    ids = range(first, min(first + limit, 2500))
    rows = [
        {
            "id": i,
            "price": "0.10000000",
            "qty": "3.5",
            "quoteQty": "0.35",
            "time": i * 1000,
            "isBuyerMaker": i % 2 == 0,
        }
        for i in ids
    ]
    return json(rows)


def run(
    hosts: list[Host], work: Callable[[RestClient], Awaitable[Any]], market: str = "spot", **options: Any
) -> Any:
    """Do some work with a client of these hosts."""

    async def main() -> Any:
        async with asyncio.timeout(20):
            return await nested(hosts)

    async def nested(left: list[Host]) -> Any:
        if left:
            async with left[0].serve():
                return await nested(left[1:])
        async with RestClient(market, [host.url for host in hosts], **options) as rest:
            return await work(rest)

    return asyncio.run(main())


OK = json({"serverTime": 1_700_000_000_123_456})


def test_trades_are_paged_by_id_and_keep_the_exact_numbers() -> None:
    host = Host(trade_rows)

    async def work(rest: RestClient) -> list[Block]:
        pages: list[Block] = []
        first = 50
        while not pages or len(pages[-1]) == PAGE:
            pages.append(await rest.trades("BTCUSDT", first))
            first = int(pages[-1]["id"][-1]) + 1
        return pages

    pages = run([host], work)
    assert [len(page) for page in pages] == [1000, 1000, 400]
    assert [int(id_) for page in pages for id_ in page["id"]] == list(range(100, 2500))
    row = pages[0][0]
    assert (row["price"], row["quantity"], row["first_id"], row["last_id"]) == (0.1, 3.5, 100, 100)
    assert row["buyer_is_maker"]
    assert row["in_bars"]
    assert host.requests[0].path == "/api/v3/historicalTrades"
    assert host.requests[0].headers["X-MBX-TIME-UNIT"] == "MICROSECOND"


def test_aggregate_trades_keep_the_ids_they_span() -> None:
    row = {"a": 7, "p": "2.5", "q": "4", "f": 10, "l": 12, "T": 1_700_000_000_123, "m": False, "M": True}
    host = Host(json([row]))
    block = run([host], lambda rest: rest.trades("BTCUSDT", 7, aggregate=True), "usdm")
    assert block[["id", "first_id", "last_id"]].tolist() == [(7, 10, 12)]
    assert block["time"].tolist() == [1_700_000_000_123_000]
    assert not block["buyer_is_maker"][0]
    assert host.requests[0].path == "/fapi/v1/aggTrades"
    assert "X-MBX-TIME-UNIT" not in host.requests[0].headers


@pytest.mark.parametrize(
    "bad",
    [
        json({"code": -1000, "msg": "unknown"}, 500),
        json({}, 503),
        web.Response(text="<html>firewall</html>", status=403),
        web.Response(text='{"serverTime": 17', status=200),
        json([{"something": "else"}]),
        0.5,
    ],
    ids=["500", "503", "403", "cut short", "another's answer", "silent"],
)
def test_a_host_that_fails_is_passed_over_for_the_next(bad: Answer) -> None:
    first, second = Host(bad), Host(OK)

    async def work(rest: RestClient) -> int:
        await rest.time()
        assert await rest.time() == 1_700_000_000_123_456
        assert rest.endpoint == second.url
        return rest.failures

    assert run([first, second], work, timeout=0.2) == 1
    assert len(first.requests) == 1


def test_a_host_that_is_not_there_is_passed_over_and_a_lone_one_is_asked_again() -> None:
    host = Host(json({}, 502), json({}, 502), OK)

    async def work(rest: RestClient) -> int:
        rest.endpoints = ("http://127.0.0.1:9", host.url)
        return await rest.time()

    assert run([host], work) == 1_700_000_000_123_456
    assert len(host.requests) == 3


@pytest.mark.parametrize("status", [429, 418])
def test_a_pause_that_the_exchange_asks_for_is_kept_for_all_hosts(status: int) -> None:
    first = Host(json({"code": -1003, "msg": "slow down"}, status, Retry_After="1"), OK)
    second = Host(OK)

    async def work(rest: RestClient) -> float:
        began = time.monotonic()
        await rest.time()
        return time.monotonic() - began

    assert run([first, second], work) >= 1.0
    assert len(first.requests) == 1


def test_a_pause_without_a_length_lasts_a_minute() -> None:
    host = Host(json({"code": -1003, "msg": "slow down"}, 429, Retry_After="Wed, 21 Oct 2026 07:28:00 GMT"))

    async def work(rest: RestClient) -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await rest.time()
        return rest.budget.delay(1, time.time())

    assert 55 < run([host], work) <= 60
    assert len(host.requests) == 1


def test_an_unknown_symbol_is_an_error_that_names_request_and_reason() -> None:
    host = Host(json({"code": -1121, "msg": "Invalid symbol."}, 400))
    with pytest.raises(RestError, match=r"historicalTrades.*NOPE.*Invalid symbol"):
        run([host], lambda rest: rest.trades("NOPE", 1))
    assert len(host.requests) == 1


def test_what_one_host_does_not_serve_is_asked_of_the_others_only() -> None:
    without, with_ = Host(web.Response(text="not found", status=404)), Host(trade_rows)

    async def work(rest: RestClient) -> int:
        await rest.trades("BTCUSDT", 100)
        rest._current = 0
        return len(await rest.trades("BTCUSDT", 2400))

    assert run([without, with_], work) == 100
    assert len(without.requests) == 1


def test_what_no_host_serves_without_a_key_is_unavailable() -> None:
    host = Host(json({"code": -2014, "msg": "API-key format invalid."}, 401))

    async def work(rest: RestClient) -> None:
        for _ in range(2):
            with pytest.raises(UnavailableError, match="serves historicalTrades without a key"):
                await rest.trades("BTCUSDT", 100)

    run([host], work, "usdm")
    assert len(host.requests) == 1


def test_futures_trades_are_asked_for_by_the_page_and_weight_of_futures() -> None:
    host = Host(trade_rows)

    async def work(rest: RestClient) -> int:
        block = await rest.trades("BTCUSDT", 100)
        assert rest.budget.used == 200
        return len(block)

    assert run([host], work, "usdm") == 500


def test_a_host_that_bars_this_address_is_left_alone_longer_each_time_and_it_is_said_once() -> None:
    clock = [1_000.0]
    hosts = [Host(web.Response(text="<html>", status=status)) for status in (403, 451)]

    async def work(rest: RestClient) -> list[int]:
        asked = []
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(2):
                await rest.time()
        asked.append(rest.requests)
        for _ in range(12):
            clock[0] += 60
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.7):
                    await rest.time()
            asked.append(rest.requests)
        hosts[0].answers = [OK]
        clock[0] += 120
        assert await rest.time() == 1_700_000_000_123_456
        return asked

    with capture_logs() as logs:
        asked = run(hosts, work, clock=lambda: clock[0])
    assert asked[0] == 2  # nothing is asked of a barred host, however often a caller asks
    assert asked[-1] - asked[-5] == 4  # every two minutes, at last
    warnings = [log["event"] for log in logs if log["log_level"] == "warning"]
    assert len(warnings) == 1
    assert "403" in warnings[0] or "451" in warnings[0]
    assert "PAIRFLOW_REST_URL" in warnings[0]


def test_symbols_are_told_from_unknown_ones() -> None:
    listing = {
        "symbols": [
            {"symbol": "BTCUSDT", "status": "TRADING"},
            {"symbol": "OLDUSDT", "status": "BREAK"},
            {"symbol": "ETHUSDT", "status": "TRADING"},
        ]
    }
    host = Host(json({"code": -1121, "msg": "Invalid symbol."}, 400), json(listing))
    found = run([host], lambda rest: rest.symbols(["BTCUSDT", "OLDUSDT", "NOPE"]))
    assert found == {"BTCUSDT": "TRADING", "OLDUSDT": "BREAK"}


def test_klines_are_asked_for_in_the_unit_of_the_market() -> None:
    host = Host(json([]))
    run([host], lambda rest: rest.klines("BTCUSDT", "1s", start=5_000_000, end=6_000_000), "usdm")
    assert dict(host.requests[0].query) == {
        "symbol": "BTCUSDT",
        "interval": "1s",
        "limit": "1000",
        "startTime": "5000",
        "endTime": "6000",
    }


def test_the_weight_that_the_exchange_reports_counts() -> None:
    host = Host(json({"serverTime": 1}, X_MBX_USED_WEIGHT_1M="4321"))

    async def work(rest: RestClient) -> int:
        await rest.time()
        return rest.budget.used

    assert run([host], work) == 4321


def test_a_spent_budget_waits_for_the_next_minute() -> None:
    budget = WeightBudget(100, share=0.5)
    assert budget.delay(30, 600.0) == 0
    assert budget.delay(30, 610.0) == pytest.approx(50.25)
    assert budget.delay(30, 660.25) == 0
    budget.report(90, 661.0)
    assert budget.delay(1, 662.0) == pytest.approx(58.25)
    budget.pause(500.0, 662.0)
    assert budget.delay(1, 900.0) == pytest.approx(262.0)
    assert budget.delay(1, 1162.0) == 0


def test_a_request_heavier_than_the_share_is_sent_when_nothing_else_is() -> None:
    assert WeightBudget(10, share=0.5).delay(8, 0.0) == 0


@given(st.lists(st.tuples(st.integers(1, 40), st.floats(0, 30)), max_size=60))
def test_no_minute_ever_uses_more_than_the_share(requests: list[tuple[int, float]]) -> None:
    budget = WeightBudget(100, share=0.8)
    now = 0.0
    used: dict[int, int] = {}
    for weight, pause in requests:
        now += pause
        while delay := budget.delay(weight, now):
            now += delay
        used[int(now // 60)] = used.get(int(now // 60), 0) + weight
    assert all(weight <= 80 for weight in used.values())
