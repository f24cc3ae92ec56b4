"""Binance's text: JSON payloads of the streams and WebSocket frames around them, from exact integers.

Every payload has two writers, which give the same bytes. One writes a row at a time and is easy to check
against the documentation. The other writes thousands of rows at once as a matrix of bytes: a frame is a row,
absent bytes are NUL, and dropping the NULs leaves the frames end to end, ready for one write.
"""

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from connectors.simulator.klines import Kline
from connectors.simulator.market import Aggregates, Market, Ticks

LATENCY = 1_000
"""Event time minus trade time, us (recorded: 1 to 2 ms)."""

BULK = 32
"""Rows from which the matrix is faster than a row at a time."""

Bytes = NDArray[np.uint8]

_DECIMALS = 8
# No int64 has twenty digits, which the last entry says.
_POWERS = np.append(10 ** np.arange(19, dtype=np.int64), np.iinfo(np.int64).max)
_FOUR_DIGITS = np.frombuffer("".join(f"{i:04d}" for i in range(10_000)).encode(), np.uint8).reshape(-1, 4)


def decimal_text(units: int, decimals: int, shown: int) -> str:
    """Write ``units * 10**-decimals`` with exactly ``shown`` decimals, cutting what is beyond.

    :arg units: not negative.
    """
    units = units * 10 ** (shown - decimals) if shown >= decimals else units // 10 ** (decimals - shown)
    if shown == 0:
        return str(units)
    whole, part = divmod(units, 10**shown)
    return f"{whole}.{part:0{shown}d}"


def frame(payload: bytes, opcode: int = 1) -> bytes:
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
        return decimal_text(units, decimals, _DECIMALS if self._spot else decimals)

    def quantity(self, symbol: int, units: int) -> str:
        """Write a quantity of the base asset."""
        decimals = self._symbols[symbol].quantity_decimals
        return decimal_text(units, decimals, _DECIMALS if self._spot else decimals)

    def quote(self, symbol: int, units: int) -> str:
        """Write a quantity of the quote asset, given in price units times quantity units."""
        spec = self._symbols[symbol]
        decimals = spec.price_decimals + spec.quantity_decimals
        return decimal_text(units, decimals, _DECIMALS if self._spot else decimals)


class Encoder:
    """Turn trades into stream frames.

    :arg market: the market whose symbols and payload form are written.
    """

    def __init__(self, market: Market) -> None:
        self._text = Text(market)
        self._spot = market.name == "spot"
        self._names = [s.name for s in market.symbols]
        self._price = _Decimal([s.price_decimals for s in market.symbols], self._spot)
        self._quantity = _Decimal([s.quantity_decimals for s in market.symbols], self._spot)
        self._tables: dict[tuple[str, bool], tuple[Bytes, Bytes]] = {}

    def trades(self, ticks: Ticks, combined: bool, micro: bool) -> bytes:
        """Return one frame per trade, end to end."""
        if ticks.id.size < BULK:
            return b"".join(map(frame, self.trade_payloads(ticks, combined, micro)))
        prefix, name = self._table("trade", combined)
        unit = 1 if micro else 1_000
        event, time = (ticks.time + LATENCY) // unit, ticks.time // unit
        page = _Page(ticks.id.size)
        page.rows(prefix, ticks.symbol)
        page.integer(event)
        if not self._spot:
            page.text(b',"T":')
            page.integer(time)
        page.rows(name, ticks.symbol)
        page.text(b',"t":')
        page.integer(ticks.id)
        page.text(b',"p":"')
        self._price.write(page, ticks.price, ticks.symbol)
        page.text(b'","q":"')
        self._quantity.write(page, ticks.quantity, ticks.symbol)
        if self._spot:
            page.text(b'","T":')
            page.integer(time)
        else:
            page.rows(_KIND_TABLE, np.where(ticks.market, 0, np.where(ticks.price > 0, 1, 2)))
        page.choice(ticks.maker, b',"m":true', b',"m":false')
        page.text((b',"M":true}' if self._spot else b"}") + b"}" * combined)
        return page.frames()

    def trade_payloads(self, ticks: Ticks, combined: bool, micro: bool) -> list[bytes]:
        """Return one payload per trade."""
        unit = 1 if micro else 1_000
        payloads = []
        for symbol, number, _, time, price, quantity, maker, market in zip(*(c.tolist() for c in ticks)):
            name = self._names[symbol]
            p, q = self._text.price(symbol, price), self._text.quantity(symbol, quantity)
            m = "true" if maker else "false"
            event, trade = (time + LATENCY) // unit, time // unit
            if self._spot:
                data = (
                    f'{{"e":"trade","E":{event},"s":"{name}","t":{number},"p":"{p}","q":"{q}","T":{trade},'
                    f'"m":{m},"M":true}}'
                )
            else:
                kind = _KINDS[0 if market else 1 if price else 2]
                data = (
                    f'{{"e":"trade","E":{event},"T":{trade},"s":"{name}","t":{number},"p":"{p}","q":"{q}",'
                    f'"X":"{kind}","m":{m}}}'
                )
            payloads.append(wrap(f"{name.lower()}@trade", data, combined))
        return payloads

    def aggregates(self, rows: Aggregates, combined: bool, micro: bool) -> bytes:
        """Return one frame per aggregate trade, end to end."""
        if rows.id.size < BULK:
            return b"".join(map(frame, self.aggregate_payloads(rows, combined, micro)))
        prefix, name = self._table("aggTrade", combined)
        unit = 1 if micro else 1_000
        page = _Page(rows.id.size)
        page.rows(prefix, rows.symbol)
        page.integer((rows.time + LATENCY) // unit)
        page.rows(name, rows.symbol)
        page.text(b',"a":')
        page.integer(rows.id)
        page.text(b',"p":"')
        self._price.write(page, rows.price, rows.symbol)
        page.text(b'","q":"')
        self._quantity.write(page, rows.quantity, rows.symbol)
        page.text(b'","f":')
        page.integer(rows.first)
        page.text(b',"l":')
        page.integer(rows.last)
        page.text(b',"T":')
        page.integer(rows.time // unit)
        page.choice(rows.maker, b',"m":true', b',"m":false')
        page.text((b',"M":true}' if self._spot else b"}") + b"}" * combined)
        return page.frames()

    def aggregate_payloads(self, rows: Aggregates, combined: bool, micro: bool) -> list[bytes]:
        """Return one payload per aggregate trade."""
        unit = 1 if micro else 1_000
        payloads = []
        tail = ',"M":true' if self._spot else ""
        for symbol, number, first, last, time, price, quantity, maker in zip(*(c.tolist() for c in rows)):
            name = self._names[symbol]
            p, q = self._text.price(symbol, price), self._text.quantity(symbol, quantity)
            m = "true" if maker else "false"
            event, trade = (time + LATENCY) // unit, time // unit
            data = (
                f'{{"e":"aggTrade","E":{event},"s":"{name}","a":{number},"p":"{p}","q":"{q}",'
                f'"f":{first},"l":{last},"T":{trade},"m":{m}{tail}}}'
            )
            payloads.append(wrap(f"{name.lower()}@aggTrade", data, combined))
        return payloads

    def kline(
        self, symbol: int, stream: str, interval: str, k: Kline, now: int, combined: bool, micro: bool
    ) -> bytes:
        """Return the payload of a kline as it is at an exchange time, us."""
        unit = 1 if micro else 1_000
        text, name = self._text, self._names[symbol]
        data = (
            f'{{"e":"kline","E":{now // unit},"s":"{name}","k":{{"t":{k.open_time // unit},'
            f'"T":{(k.close_time - 1) // unit},"s":"{name}","i":"{interval}","f":{k.first},"L":{k.last},'
            f'"o":"{text.price(symbol, k.open)}","c":"{text.price(symbol, k.close)}",'
            f'"h":"{text.price(symbol, k.high)}","l":"{text.price(symbol, k.low)}",'
            f'"v":"{text.quantity(symbol, k.volume)}","n":{k.trades},'
            f'"x":{"true" if now >= k.close_time else "false"},'
            f'"q":"{text.quote(symbol, k.quote)}","V":"{text.quantity(symbol, k.taker_volume)}",'
            f'"Q":"{text.quote(symbol, k.taker_quote)}","B":"0"}}}}'
        )
        return wrap(stream, data, combined)

    def _table(self, event: str, combined: bool) -> tuple[Bytes, Bytes]:
        """Return, per symbol, the text up to the event time, and the text of its name."""
        table = self._tables.get((event, combined))
        if table is None:
            begin = f'{{"e":"{event}","E":'
            wrapped = [f'{{"stream":"{n.lower()}@{event}","data":{begin}' for n in self._names]
            prefix = _matrix(
                [w.encode() for w in wrapped] if combined else [begin.encode()] * len(self._names)
            )
            table = prefix, _matrix([f',"s":"{n}"'.encode() for n in self._names])
            self._tables[event, combined] = table
        return table


def wrap(stream: str, data: str, combined: bool) -> bytes:
    """Return the payload of an event, wrapped when the connection wants combined payloads."""
    return (f'{{"stream":"{stream}","data":{data}}}' if combined else data).encode()


def _matrix(texts: Sequence[bytes]) -> Bytes:
    width = max(map(len, texts))
    return np.frombuffer(b"".join(t.ljust(width, b"\0") for t in texts), np.uint8).reshape(len(texts), width)


_KINDS = ("MARKET", "INSURANCE_FUND", "")
"""A futures trade's ``X``: a market trade; not one; not one and without a price."""

_KIND_TABLE = _matrix([f'","X":"{kind}"'.encode() for kind in _KINDS])


def _digits(values: NDArray[np.int64], least: int) -> Bytes:
    """Write integers >= 0 in decimal, right-aligned, at least ``least`` digits, NUL before the first."""
    groups = max(-(-len(str(int(values.max()))) // 4), -(-least // 4))
    matrix = np.empty((values.size, 4 * groups), np.uint8)
    rest = values
    for group in range(groups - 1, -1, -1):
        above = rest // 10_000
        matrix[:, 4 * group : 4 * group + 4] = _FOUR_DIGITS[rest - above * 10_000]
        rest = above
    low = int(values.min())
    for column in range(4 * groups - max(least, len(str(low)))):
        # Only columns where some row has a leading zero: with ids and times that is none or a few.
        matrix[:, column] *= values >= _POWERS[4 * groups - 1 - column]
    return matrix


class _Decimal:
    """Write decimals of many symbols: eight decimals each, then those not shown are taken away."""

    def __init__(self, decimals: Sequence[int], spot: bool) -> None:
        self._scale = 10 ** (_DECIMALS - np.array(decimals, np.int64))
        shown = np.full(len(decimals), _DECIMALS) if spot else np.array(decimals)
        # The point goes too where no decimal is shown.
        self._kept = (np.arange(1 + _DECIMALS) <= shown[:, None]) & (shown[:, None] > 0)
        self._all = bool(self._kept.all())

    def write(self, page: "_Page", units: NDArray[np.int64], symbol: NDArray[np.int32]) -> None:
        """Append a column."""
        digits = _digits(units * self._scale[symbol], _DECIMALS + 1)
        page.column(digits[:, :-_DECIMALS])
        if self._all:
            page.text(b".")
            page.column(digits[:, -_DECIMALS:])
        else:
            tail = np.empty((units.size, 1 + _DECIMALS), np.uint8)
            tail[:, 0] = ord(".")
            tail[:, 1:] = digits[:, -_DECIMALS:]
            page.column(tail * self._kept[symbol])


class _Page:
    """A matrix of frames under construction: columns of bytes, NUL where a row has none."""

    def __init__(self, rows: int) -> None:
        self._size = rows
        self._columns: list[Bytes | tuple[Bytes, NDArray[np.integer[Any]]]] = []

    def column(self, column: Bytes) -> None:
        """Append bytes, a row each or one row for all."""
        self._columns.append(column)

    def text(self, text: bytes) -> None:
        """Append the same text to every row."""
        self.column(np.frombuffer(text, np.uint8)[None, :])

    def rows(self, table: Bytes, index: NDArray[np.integer[Any]]) -> None:
        """Append to each row the row of a table that the index names."""
        self._columns.append((table, index) if len(table) > 1 else table)

    def integer(self, values: NDArray[np.int64]) -> None:
        """Append integers >= 0."""
        self.column(_digits(values, 1))

    def choice(self, which: NDArray[np.bool_], yes: bytes, no: bytes) -> None:
        """Append one of two texts to each row."""
        self.rows(_matrix([no, yes]), which.astype(np.int32))

    def frames(self) -> bytes:
        """Return the rows as text frames, end to end."""
        widths = [(c[0] if isinstance(c, tuple) else c).shape[1] for c in self._columns]
        matrix = np.empty((self._size, 4 + sum(widths)), np.uint8)
        at = 4
        for width, column in zip(widths, self._columns):
            matrix[:, at : at + width] = column[0][column[1]] if isinstance(column, tuple) else column
            at += width
        kept = matrix != 0
        size = np.count_nonzero(kept[:, 4:], axis=1)
        long = size >= 126  # then two bytes of length follow, and they may be NUL
        matrix[:, 0] = 0x81
        matrix[:, 1] = np.where(long, 126, size)
        matrix[:, 2], matrix[:, 3] = size >> 8, size & 255
        kept[:, :2] = True
        kept[:, 2] = kept[:, 3] = long
        data: bytes = matrix[kept].tobytes()
        return data
