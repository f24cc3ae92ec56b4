"""Binance's text: JSON payloads of the streams and WebSocket frames around them, from exact integers."""

import struct

from connectors.simulator.klines import Kline
from connectors.simulator.market import Aggregates, Market, Ticks

LATENCY = 1_000
"""Event time minus trade time, us (recorded: 1 to 2 ms)."""


def decimal_text(units: int, decimals: int, shown: int) -> str:
    """Write ``units * 10**-decimals`` with exactly ``shown`` decimals, rounding half up as Binance's zeros do."""
    if shown < decimals:
        units = (units + 10 ** (decimals - shown) // 2) // 10 ** (decimals - shown)
    else:
        units *= 10 ** (shown - decimals)
    if shown == 0:
        return str(units)
    whole, part = divmod(units, 10**shown)
    return f"{whole}.{part:0{shown}d}"


def text_frame(payload: bytes, opcode: int = 1) -> bytes:
    """Return an unmasked, final WebSocket frame (RFC 6455, 5.2)."""
    size = len(payload)
    if size < 126:
        return bytes((0x80 | opcode, size)) + payload
    if size < 65_536:
        return struct.pack(">BBH", 0x80 | opcode, 126, size) + payload
    return struct.pack(">BBQ", 0x80 | opcode, 127, size) + payload


class Text:
    """How prices, quantities and times of a market are written.

    Spot shows eight decimals everywhere; USD-M futures show each symbol's own.

    :arg market: the market.
    """

    def __init__(self, market: Market) -> None:
        self._symbols = market.symbols
        self._spot = market.name == "spot"

    def price(self, symbol: int, units: int) -> str:
        """Write a price."""
        decimals = self._symbols[symbol].price_decimals
        return decimal_text(units, decimals, 8 if self._spot else decimals)

    def quantity(self, symbol: int, units: int) -> str:
        """Write a quantity of the base asset."""
        decimals = self._symbols[symbol].quantity_decimals
        return decimal_text(units, decimals, 8 if self._spot else decimals)

    def quote(self, symbol: int, units: int) -> str:
        """Write a quantity of the quote asset, given in price units times quantity units."""
        spec = self._symbols[symbol]
        decimals = spec.price_decimals + spec.quantity_decimals
        return decimal_text(units, decimals, 8 if self._spot else decimals)


class Encoder:
    """Turn trades into stream frames.

    :arg market: the market whose symbols and payload form are written.
    """

    def __init__(self, market: Market) -> None:
        self._text = Text(market)
        self._market = market
        self._lower = [s.name.lower() for s in market.symbols]

    def trades(self, ticks: Ticks, combined: bool, micro: bool) -> bytes:
        """Return one frame per trade."""
        unit = 1 if micro else 1_000
        out = []
        spot = self._market.name == "spot"
        for symbol, number, _, time, price, quantity, maker, market in zip(*(c.tolist() for c in ticks)):
            name = self._market.symbols[symbol].name
            p, q = self._text.price(symbol, price), self._text.quantity(symbol, quantity)
            m = "true" if maker else "false"
            event, trade = (time + LATENCY) // unit, time // unit
            if spot:
                data = f'{{"e":"trade","E":{event},"s":"{name}","t":{number},"p":"{p}","q":"{q}","T":{trade},"m":{m},"M":true}}'
            else:
                kind = "MARKET" if market else "INSURANCE_FUND"
                data = f'{{"e":"trade","E":{event},"T":{trade},"s":"{name}","t":{number},"p":"{p}","q":"{q}","X":"{kind}","m":{m}}}'
            out.append(self._frame(f"{self._lower[symbol]}@trade", data, combined))
        return b"".join(out)

    def aggregates(self, rows: Aggregates, combined: bool, micro: bool) -> bytes:
        """Return one frame per aggregate trade."""
        unit = 1 if micro else 1_000
        out = []
        tail = ',"M":true' if self._market.name == "spot" else ""
        for symbol, number, first, last, time, price, quantity, maker in zip(*(c.tolist() for c in rows)):
            name = self._market.symbols[symbol].name
            p, q = self._text.price(symbol, price), self._text.quantity(symbol, quantity)
            m = "true" if maker else "false"
            event, trade = (time + LATENCY) // unit, time // unit
            data = (
                f'{{"e":"aggTrade","E":{event},"s":"{name}","a":{number},"p":"{p}","q":"{q}",'
                f'"f":{first},"l":{last},"T":{trade},"m":{m}{tail}}}'
            )
            out.append(self._frame(f"{self._lower[symbol]}@aggTrade", data, combined))
        return b"".join(out)

    def kline(
        self, symbol: int, stream: str, interval: str, k: Kline, now: int, combined: bool, micro: bool
    ) -> bytes:
        """Return the frame of a kline as it is at an exchange time, us."""
        unit = 1 if micro else 1_000
        text, name = self._text, self._market.symbols[symbol].name
        data = (
            f'{{"e":"kline","E":{now // unit},"s":"{name}","k":{{"t":{k.open_time // unit},'
            f'"T":{(k.close_time - unit) // unit},"s":"{name}","i":"{interval}","f":{k.first},"L":{k.last},'
            f'"o":"{text.price(symbol, k.open)}","c":"{text.price(symbol, k.close)}",'
            f'"h":"{text.price(symbol, k.high)}","l":"{text.price(symbol, k.low)}",'
            f'"v":"{text.quantity(symbol, k.volume)}","n":{k.trades},"x":{"true" if now >= k.close_time else "false"},'
            f'"q":"{text.quote(symbol, k.quote)}","V":"{text.quantity(symbol, k.taker_volume)}",'
            f'"Q":"{text.quote(symbol, k.taker_quote)}","B":"0"}}}}'
        )
        return self._frame(stream, data, combined)

    @staticmethod
    def _frame(stream: str, data: str, combined: bool) -> bytes:
        return text_frame((f'{{"stream":"{stream}","data":{data}}}' if combined else data).encode())
