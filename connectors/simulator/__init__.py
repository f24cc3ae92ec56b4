"""A Binance-compatible exchange on localhost, for demo, tests and fault injection.

    python -m connectors.simulator --symbols BTCUSDT,ETHUSDT --rate 200

or in process::

    async with Simulator(Config(symbols=("BTCUSDT",), rate=200.0)) as exchange:
        exchange.url, exchange.ws_url, exchange.trades("BTCUSDT")

It has trades and klines, spot or USD-M futures: the streams trade, aggTrade and kline, and the REST endpoints
ping, time, exchangeInfo, trades, historicalTrades, aggTrades, klines and uiKlines, with Binance's limits and
errors. It has no order books, tickers, accounts or orders: such streams are silent, such endpoints are 404.
"""

from connectors.simulator.faults import Fault
from connectors.simulator.server import Config, Simulator

__all__ = ["Config", "Fault", "Simulator"]
