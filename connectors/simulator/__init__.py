"""A Binance-compatible exchange on localhost, for demo, tests and fault injection.

    python -m connectors.simulator --symbols BTCUSDT,ETHUSDT --rate 200

or in process::

    async with Simulator(Config(symbols=("BTCUSDT",), rate=200.0)) as exchange:
        exchange.url, exchange.ws_url, exchange.trades("BTCUSDT")
"""

from connectors.simulator.faults import Fault
from connectors.simulator.server import Config, Simulator

__all__ = ["Config", "Fault", "Simulator"]
