"""Where the exchange is: the addresses of Binance's streams and of its REST API, by market."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Endpoints:
    """Addresses of an exchange.

    :arg ws: Base URLs of the WebSocket streams, tried in turn.
    :arg rest: Base URLs of the REST API, tried in turn.
    """

    ws: tuple[str, ...]
    rest: tuple[str, ...]


_ENDPOINTS: Final = {
    "spot": Endpoints(
        (
            "wss://stream.binance.com:9443",
            "wss://stream.binance.com:443",
            "wss://data-stream.binance.vision",
        ),
        (
            "https://api.binance.com",
            "https://api-gcp.binance.com",
            "https://api1.binance.com",
            "https://api2.binance.com",
            "https://api3.binance.com",
            "https://api4.binance.com",
            "https://data-api.binance.vision",
        ),
    ),
    "usdm": Endpoints(("wss://fstream.binance.com/market",), ("https://fapi.binance.com",)),
}


def default_endpoints(market: str) -> Endpoints:
    """Return Binance's own endpoints of a market.

    :arg market: ``spot`` or ``usdm``.
    :raises ValueError: If there is no such market.
    """
    if market not in _ENDPOINTS:
        msg = f"unknown market {market!r}: expected one of {', '.join(_ENDPOINTS)}"
        raise ValueError(msg)
    return _ENDPOINTS[market]
