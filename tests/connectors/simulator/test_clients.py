"""Clients that no one here wrote use the simulated exchange unchanged but for the URL."""

import asyncio
import functools
import importlib
from collections.abc import Awaitable, Callable
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest

from connectors.simulator import Config, Fault, Simulator

# Both clients warn of their own accord (event loops, deprecated calls): not this project's to mend.
pytestmark = pytest.mark.filterwarnings("default")

SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT", "FOOUSDT")

Scenario = Callable[..., Awaitable[None]]


def scenario(function: Scenario) -> Callable[..., None]:
    """Run an async test on a loop of its own."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(asyncio.wait_for(function(*args, **kwargs), 60))

    return run


def simulated(**values: Any) -> Simulator:
    return Simulator(Config(**{"symbols": SYMBOLS, "rate": 500.0, **values}))


async def binance_client(exchange: Simulator) -> Any:
    binance: Any = importlib.import_module("binance")
    if exchange.market.name == "spot":
        # Its constructor formats the class's URLs, and `create` already calls the exchange.
        urls = {"API_URL": exchange.url + "/api"}
        return await type("Client", (binance.AsyncClient,), urls).create()  # type: ignore[attr-defined]
    client = binance.AsyncClient("any key", "any secret")
    client.FUTURES_URL = exchange.url + "/fapi"
    return client


@scenario
async def test_python_binance_reads_rest() -> None:
    async with simulated() as exchange:
        client = await binance_client(exchange)
        try:
            info = await client.get_exchange_info()
            assert [s["symbol"] for s in info["symbols"]] == list(SYMBOLS)
            assert (await client.get_symbol_info("FOOUSDT"))["baseAsset"] == "FOO"
            klines = await client.get_klines(symbol="ETHUSDT", interval="1m", limit=1_000)
            assert len(klines) == 1_000
            # Pages through by itself.
            klines = await client.get_historical_klines("ETHUSDT", "1m", "30 hours ago UTC")
            assert len(klines) == pytest.approx(1_800, abs=2)
            assert all(a[6] + 1 == b[0] for a, b in pairwise(klines))
            await asyncio.sleep(0.5)
            recent = await client.get_recent_trades(symbol="BTCUSDT", limit=10)
            old = await client.get_historical_trades(symbol="BTCUSDT", limit=10, fromId=recent[0]["id"])
            assert old == recent
            merged = await client.get_aggregate_trades(symbol="BTCUSDT", limit=10)
            assert [m["a"] for m in merged] == list(range(merged[0]["a"], merged[0]["a"] + 10))
            count, last = 0, None
            async for trade in client.aggregate_trade_iter("BTCUSDT", start_str="2 minutes ago UTC"):
                assert last in (None, trade["a"] - 1)
                count, last = count + 1, trade["a"]
            assert count > 500
        finally:
            await client.close_connection()


@scenario
async def test_python_binance_gets_its_own_errors() -> None:
    async with simulated() as exchange:
        client = await binance_client(exchange)
        error: Any = importlib.import_module("binance.exceptions").BinanceAPIException
        try:
            with pytest.raises(error) as caught:
                await client.get_klines(symbol="NOSUCH", interval="1m")
            assert (caught.value.code, caught.value.message) == (-1121, "Invalid symbol.")
            exchange.inject(Fault("error", amount=429))
            with pytest.raises(error) as caught:
                await client.get_recent_trades(symbol="BTCUSDT")
            assert caught.value.status_code == 429
        finally:
            await client.close_connection()


@scenario
async def test_python_binance_reads_a_multiplex_socket_and_reconnects() -> None:
    async with simulated() as exchange:
        client = await binance_client(exchange)
        binance: Any = importlib.import_module("binance")
        manager = binance.BinanceSocketManager(client, max_queue_size=100_000)
        manager.STREAM_URL = exchange.ws_url + "/"
        streams = ["btcusdt@trade", "ethusdt@aggTrade", "solusdt@kline_1m"]
        try:
            async with manager.multiplex_socket(streams) as socket:
                seen = [await socket.recv() for _ in range(600)]
                ids = [m["data"]["t"] for m in seen if m["stream"] == "btcusdt@trade"]
                assert ids == list(range(ids[0], ids[0] + len(ids)))
                assert {m["stream"] for m in seen} >= {"btcusdt@trade", "ethusdt@aggTrade"}
                while not any(m.get("stream") == "solusdt@kline_1m" for m in seen):
                    seen.append(await socket.recv())
                exchange.inject(Fault("abort"))
                again = await socket.recv()
                while again.get("stream") != "btcusdt@trade" or again["data"]["t"] <= ids[-1] + 1_000:
                    again = await socket.recv()
                assert exchange.connections == 1
            async with manager.trade_socket("BTCUSDT") as socket:
                assert (await socket.recv())["e"] == "trade"
            async with manager.kline_socket("BTCUSDT", interval="1s") as socket:
                assert (await socket.recv())["k"]["x"] is True
        finally:
            await client.close_connection()


@scenario
async def test_python_binance_reads_futures() -> None:
    async with simulated(market="usdm") as exchange:
        client = await binance_client(exchange)
        binance: Any = importlib.import_module("binance")
        manager = binance.BinanceSocketManager(client)
        manager.FSTREAM_URL = exchange.ws_url + "/"
        try:
            assert (await client.futures_ping()) == {}
            info = await client.futures_exchange_info()
            assert info["symbols"][0]["contractType"] == "PERPETUAL"
            assert len(await client.futures_klines(symbol="BTCUSDT", interval="5m", limit=1_500)) == 1_500
            await asyncio.sleep(0.5)
            recent = await client.futures_recent_trades(symbol="BTCUSDT", limit=10)
            old = await client.futures_historical_trades(symbol="BTCUSDT", limit=10, fromId=recent[0]["id"])
            assert old == recent
            assert len(await client.futures_aggregate_trades(symbol="BTCUSDT", limit=10)) == 10
            async with manager.futures_multiplex_socket(["btcusdt@aggTrade", "ethusdt@aggTrade"]) as socket:
                seen = [(await socket.recv())["data"] for _ in range(200)]
            ids = [m["a"] for m in seen if m["s"] == "BTCUSDT"]
            assert ids == list(range(ids[0], ids[0] + len(ids)))
        finally:
            await client.close_connection()


def at(exchange: Simulator, client: Any) -> Any:
    """Point a ccxt client at the exchange, all its base URLs alike."""

    def moved(urls: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, url in urls.items():
            if isinstance(url, dict):
                found[key] = moved(url)
            else:
                scheme, _, rest = url.partition("://")
                base = exchange.ws_url if scheme == "wss" else exchange.url
                found[key] = base + "/" + rest.partition("/")[2]
        return found

    client.urls["api"] = moved(client.urls["api"])
    return client


@pytest.mark.parametrize("market", ["spot", "usdm"])
def test_ccxt_reads_rest(market: str) -> None:
    ccxt = importlib.import_module("ccxt.async_support")

    @scenario
    async def run() -> None:
        async with simulated(market=market) as exchange:
            client = at(exchange, ccxt.binance() if market == "spot" else ccxt.binanceusdm())
            symbol = "BTC/USDT" if market == "spot" else "BTC/USDT:USDT"
            try:
                markets = await client.load_markets()
                assert len(markets) == len(SYMBOLS)
                assert markets[symbol]["precision"]["price"] == (0.01 if market == "spot" else 0.1)
                assert markets[symbol]["active"]
                assert abs(await client.fetch_time() - exchange.now() / 1_000) < 1_000
                bars = await client.fetch_ohlcv(symbol, "1m", limit=1_000)
                assert len(bars) == 1_000
                assert all(a[0] + 60_000 == b[0] for a, b in pairwise(bars))
                assert all(low <= min(o, c) <= max(o, c) <= high for _, o, high, low, c, _ in bars)
                await asyncio.sleep(0.5)
                trades = await client.fetch_trades(symbol, limit=50)
                block = exchange.trades("BTCUSDT")
                for trade in trades:
                    # ccxt reads aggregates: the id is an aggregate's.
                    info = trade["info"]
                    rows = block[(block["id"] >= int(info["f"])) & (block["id"] <= int(info["l"]))]
                    total = sum(Decimal(repr(q)) for q in rows["quantity"].tolist())
                    assert trade["amount"] == float(total)
                    assert set(rows["price"].tolist()) == {trade["price"]}
                with pytest.raises(ccxt.BadSymbol):
                    await client.fetch_trades("NO/SUCH")
                for status in (418, 429):
                    exchange.inject(Fault("error", amount=status))
                    with pytest.raises(ccxt.DDoSProtection, match=str(status)):
                        await client.fetch_trades(symbol)
            finally:
                await client.close()

    run()


@pytest.mark.parametrize("market", ["spot", "usdm"])
def test_ccxt_pro_watches_trades_and_klines(market: str) -> None:
    ccxt = importlib.import_module("ccxt.pro")

    @scenario
    async def run() -> None:
        async with simulated(market=market) as exchange:
            client = at(exchange, ccxt.binance() if market == "spot" else ccxt.binanceusdm())
            symbol = "BTC/USDT" if market == "spot" else "BTC/USDT:USDT"
            try:
                seen: dict[int, Any] = {}
                while len(seen) < 300:
                    for trade in await client.watch_trades(symbol):
                        seen[int(trade["id"])] = trade
                ids = sorted(seen)
                assert ids == list(range(ids[0], ids[0] + len(ids)))
                block = exchange.trades("BTCUSDT", ids[0], ids[-1])
                assert [seen[i]["price"] for i in ids] == block["price"].tolist()
                assert [seen[i]["amount"] for i in ids] == block["quantity"].tolist()
                before = exchange.now()
                bars = await client.watch_ohlcv(symbol, "1m")
                assert before // 60_000_000 <= bars[-1][0] / 60_000 <= exchange.now() // 60_000_000
                await client.un_watch_trades(symbol)
            finally:
                await client.close()

    run()
