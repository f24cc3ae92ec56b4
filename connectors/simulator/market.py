"""What is traded on the simulated exchange: a seeded model, or a recording played back.

A market answers two questions, and both answers are pure functions of its seed (or its files): which trades
happened between two instants, and which trades carry these ids. Nothing is kept, so that the past reaches as
far back as asked, and a back-fill returns exactly what the stream sent.

The model: one hidden factor moves every symbol. The logarithm of a price is ``beta * factor + spread``, where
the spread is an Ornstein-Uhlenbeck process and ``beta`` jumps now and then (a regime break; the price itself
does not jump). Two symbols are therefore cointegrated within a regime; the ratio of betas is the hedge ratio.
Taker orders arrive as a Poisson process whose rate drifts; each fills one or more trades at one time and one
price (that is an aggregate trade), and now and then hundreds of orders fall into one millisecond.

    >>> market = ModelMarket(("BTCUSDT", "ETHUSDT"), rate=100.0, seed=7, start=1_700_000_000_000_000)
    >>> ticks = market.read(market.start, market.start + 1_000_000)
    >>> bool((ticks.time[1:] >= ticks.time[:-1]).all())
    True
"""

import gzip
import hashlib
import math
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray
from typing_extensions import override

from kernels.records import SECOND, TRADE, Block

MarketName = Literal["spot", "usdm"]
Int64 = NDArray[np.int64]

CHUNK = 4096
"""Seconds whose paths and counts are drawn at once."""

PAST_RATE = 5.0
"""Trades per second and symbol before the start, at most. A client that warms up with 1,000 five-minute
klines makes the model produce 1,500,000 trades, half a second's work."""

MAX_RATE = 250_000.0
"""Trades per second: beyond, the taker orders of one symbol would no longer have a microsecond each."""

FILLS_PER_ORDER = 1.8
BURST_SHARE = 0.05
BURST_ORDERS = (20, 600)
"""Taker orders in a burst of one millisecond: up to about a thousand trades (recorded: 735)."""

NON_MARKET_SHARE = 1 / 2_000
"""Share of USD-M orders whose last fill is no market trade: it uses an id, klines leave it out. Recordings
show the insurance fund's, far off the market, and some of price 0 with an empty kind."""

QUOTES = ("USDT", "FDUSD", "USDC", "TUSD", "DAI", "USD", "EUR", "TRY", "BRL", "JPY", "BTC", "ETH", "BNB")
_QUOTE_IN_DOLLARS = {
    "EUR": 1.1,
    "TRY": 0.025,
    "BRL": 0.18,
    "JPY": 0.0065,
    "BTC": 65e3,
    "ETH": 3.2e3,
    "BNB": 580.0,
}


class Symbol(NamedTuple):
    """Trading rules of a symbol and how the model trades it.

    :arg price_decimals: a price is an integer number of ``10**-price_decimals``.
    :arg quantity_decimals: likewise. The sum of both is at most 8, so that a quote quantity has no more
        decimals than Binance shows.
    :arg tick: smallest price step, in units of ``10**-price_decimals``.
    :arg price: price at the start.
    :arg weight: share of the market's trades, relative to the other symbols.
    :arg beta: hedge ratio to the hidden factor at the start.
    """

    name: str
    base: str
    quote: str
    price_decimals: int
    quantity_decimals: int
    tick: int
    price: float
    weight: float
    beta: float


# name: price, price decimals, quantity decimals, weight, beta. Tick and lot sizes are those of Binance spot;
# prices are of the order seen in 2024, the rest is chosen.
_KNOWN: dict[str, tuple[float, int, int, float, float]] = {
    "BTCUSDT": (65_000.0, 2, 5, 1.0, 1.0),
    "ETHUSDT": (3_200.0, 2, 4, 0.7, 1.2),
    "BNBUSDT": (580.0, 2, 3, 0.2, 0.8),
    "SOLUSDT": (150.0, 2, 3, 0.4, 1.5),
    "XRPUSDT": (0.58, 4, 1, 0.2, 0.9),
    "DOGEUSDT": (0.12, 5, 0, 0.2, 1.4),
    "ADAUSDT": (0.40, 4, 1, 0.1, 1.1),
    "AVAXUSDT": (27.0, 2, 2, 0.1, 1.4),
    "LINKUSDT": (13.5, 2, 2, 0.1, 1.2),
    "DOTUSDT": (5.8, 3, 2, 0.06, 1.2),
    "LTCUSDT": (72.0, 2, 3, 0.08, 0.8),
    "BCHUSDT": (350.0, 1, 3, 0.05, 0.9),
    "TRXUSDT": (0.13, 4, 1, 0.06, 0.4),
    "SHIBUSDT": (0.0000175, 8, 0, 0.1, 1.3),
    "PEPEUSDT": (0.0000098, 8, 0, 0.2, 1.7),
    "UNIUSDT": (7.6, 3, 2, 0.05, 1.1),
    "ATOMUSDT": (6.1, 3, 2, 0.04, 1.1),
    "ETCUSDT": (21.0, 2, 2, 0.04, 1.1),
    "XLMUSDT": (0.098, 4, 0, 0.03, 0.9),
    "NEARUSDT": (4.9, 3, 1, 0.08, 1.4),
    "FILUSDT": (4.1, 3, 2, 0.04, 1.3),
    "ARBUSDT": (0.68, 4, 1, 0.06, 1.4),
    "SUIUSDT": (0.95, 4, 1, 0.1, 1.5),
    "ETHBTC": (0.049, 5, 3, 0.05, 0.2),
    "BNBBTC": (0.0089, 6, 2, 0.02, -0.2),
    "USDCUSDT": (1.0, 4, 0, 0.05, 0.0),
}


def symbol_of(name: str, market: MarketName, seed: int) -> Symbol:
    """Return the trading rules of a symbol: Binance's for a known one, else derived from name and seed.

    :raises ValueError: when the name cannot be a symbol.
    """
    if not 2 <= len(name) <= 32 or not name.isalnum() or name != name.upper():
        msg = f"symbol {name!r}: expected 2 to 32 letters and digits, upper case, such as BTCUSDT"
        raise ValueError(msg)
    quote = next((q for q in QUOTES if name.endswith(q) and len(name) > len(q)), name[len(name) // 2 :])
    base = name[: len(name) - len(quote)]
    known = _KNOWN.get(name)
    if known:
        price, price_decimals, quantity_decimals, weight, beta = known
    else:
        draw = np.random.default_rng([seed, _number(name)])
        worth = _QUOTE_IN_DOLLARS.get(quote, 1.0)
        # Not so low that eight decimals would leave a price of a few ticks.
        dollars = math.exp(draw.uniform(math.log(1.0 if worth > 100 else 0.01), math.log(500.0)))
        price = dollars / worth
        price_decimals = min(8, max(0, 4 - math.floor(math.log10(price))))
        quantity_decimals = min(8 - price_decimals, max(0, 1 + math.floor(math.log10(dollars))))
        weight, beta = float(draw.uniform(0.005, 0.1)), float(draw.uniform(0.5, 1.6))
    tick = 1
    if market == "usdm":
        # Futures have coarser lots, and BTCUSDT a tick of 0.10 shown with two decimals.
        quantity_decimals = 3 if name in ("BTCUSDT", "ETHUSDT") else max(0, quantity_decimals - 2)
        tick = 10 if name == "BTCUSDT" else 1
    return Symbol(name, base, quote, price_decimals, quantity_decimals, tick, price, weight, beta)


class Ticks(NamedTuple):
    """Trades as the exchange keeps them: exact integers, one array per field, all of one length.

    :arg symbol: index into the market's symbols.
    :arg aggregate: id of the aggregate trade it belongs to.
    :arg time: us.
    :arg price: in units of ``10**-price_decimals`` of the symbol.
    :arg quantity: in units of ``10**-quantity_decimals``.
    :arg maker: whether the buyer was the maker.
    :arg market: false for a futures fill that is no market trade: klines and aggregates leave it out.
    """

    symbol: NDArray[np.int32]
    id: Int64
    aggregate: Int64
    time: Int64
    price: Int64
    quantity: Int64
    maker: NDArray[np.bool_]
    market: NDArray[np.bool_]

    def take(self, rows: slice | NDArray[np.bool_] | NDArray[np.intp]) -> "Ticks":
        """Return some rows, by slice, mask or index."""
        return Ticks._make(column[rows] for column in self)


class Aggregates(NamedTuple):
    """Aggregate trades: runs of trades of one taker order at one price and time."""

    symbol: NDArray[np.int32]
    id: Int64
    first: Int64
    last: Int64
    time: Int64
    price: Int64
    quantity: Int64
    maker: NDArray[np.bool_]


NO_TICKS = Ticks._make(np.empty(0, t) for t in (np.int32, *[np.int64] * 5, np.bool_, np.bool_))


def concatenate(parts: Sequence[Ticks]) -> Ticks:
    """Join ticks end to end."""
    if len(parts) == 1:
        return parts[0]
    return Ticks._make(map(np.concatenate, zip(*parts))) if parts else NO_TICKS


def aggregate(ticks: Ticks) -> Aggregates:
    """Merge the trades of each aggregate.

    :arg ticks: whole aggregates, each in one piece, as `Market.read` and `Market.trades` return them.
    """
    if not ticks.market.all():
        ticks = ticks.take(ticks.market)
    size = ticks.id.size
    # Trades of one aggregate share its time, and markets keep a symbol's trades of one time together.
    edge = (ticks.aggregate[1:] != ticks.aggregate[:-1]) | (ticks.symbol[1:] != ticks.symbol[:-1])
    starts = np.flatnonzero(np.r_[True, edge][:size])
    ends = np.r_[starts[1:], size][: starts.size] - 1
    return Aggregates(
        ticks.symbol[starts],
        ticks.aggregate[starts],
        ticks.id[starts],
        ticks.id[ends],
        ticks.time[starts],
        ticks.price[starts],
        np.add.reduceat(ticks.quantity, starts) if size else ticks.quantity,
        ticks.maker[starts],
    )


class Market(ABC):
    """Where trades come from.

    :ivar name: ``spot`` or ``usdm``.
    :ivar symbols: the symbols traded; a position here is the ``symbol`` of `Ticks`.
    :ivar start: exchange time, us, at which the exchange opens.
    """

    name: MarketName
    symbols: tuple[Symbol, ...]
    start: int

    @abstractmethod
    def read(self, start: int, stop: int) -> Ticks:
        """Return the trades of all symbols with ``start <= time < stop``, us, in time order."""

    @abstractmethod
    def trades(self, symbol: int, first: int, stop: int) -> Ticks:
        """Return the trades of a symbol with ``first <= id < stop`` that exist, in id order."""

    @abstractmethod
    def aggregates(self, symbol: int, first: int, stop: int) -> Aggregates:
        """Return the aggregates of a symbol with ``first <= id < stop`` that exist, in id order."""

    @abstractmethod
    def ids_at(self, symbol: int, time: int) -> tuple[int, int]:
        """Return the ids of the first trade and the first aggregate at or after a time."""

    @abstractmethod
    def earliest(self, symbol: int) -> int:
        """Return the time, us, of the oldest trade that can be asked for."""

    @abstractmethod
    def halt(self, symbol: int, start: int, stop: int) -> None:
        """Stop trading a symbol from the first whole second after ``start`` until ``stop``, us."""

    def block(self, symbol: int, first: int, stop: int) -> Block:
        """Return trades as a `kernels.records.TRADE` block: what a correct client ends up with."""
        ticks = self.trades(symbol, first, stop)
        spec = self.symbols[symbol]
        block = np.zeros(ticks.id.size, TRADE)
        for name in ("id", "first_id", "last_id"):
            block[name] = ticks.id
        block["time"] = ticks.time
        block["price"] = _to_float(ticks.price, spec.price_decimals)
        block["quantity"] = _to_float(ticks.quantity, spec.quantity_decimals)
        block["symbol"] = symbol
        block["buyer_is_maker"] = ticks.maker
        block["in_bars"] = ticks.market
        return block


def _to_float(units: Int64, decimals: int) -> NDArray[np.float64]:
    # One correctly rounded division of two exact numbers is float(text); exact below 2**53.
    return units / np.float64(10**decimals)


class _Edge(NamedTuple):
    """What one end of a chunk hands on to its neighbour."""

    orders: int
    trades: int
    path: float
    beta: float
    spread: float


class _Chunk(NamedTuple):
    """`CHUNK` seconds of one symbol: cumulative counts (relative to the start) and path of the log price."""

    orders: Int64  # CHUNK + 1
    trades: Int64  # CHUNK + 1
    path: NDArray[np.float64]  # CHUNK + 1, log price relative to the start
    burst: Int64  # CHUNK, orders in the burst
    before: Int64  # CHUNK, orders before the burst
    drift: NDArray[np.float64]  # CHUNK, log price at the end of the burst
    beta: NDArray[np.float64]  # CHUNK, hedge ratio to the factor
    spread: NDArray[np.float64]  # CHUNK + 1

    def edge(self, end: Literal[0, -1]) -> _Edge:
        """Return the first or the last values."""
        return _Edge(
            int(self.orders[end]),
            int(self.trades[end]),
            float(self.path[end]),
            float(self.beta[end]),
            float(self.spread[end]),
        )


class ModelMarket(Market):
    """A seeded model market (see the module's text).

    The same seed gives the same ids, prices and quantities; ``start`` shifts the times only.

    :arg names: symbols.
    :arg rate: trades per second, of all symbols together, on average.
    :arg seed: any integer >= 0.
    :arg start: exchange time of the opening, us; rounded down to a whole second.
    :arg market: ``spot`` or ``usdm``.
    :arg history: seconds before the start of which trades and klines exist.
    :arg quiet: symbols that trade about twice a minute whatever the rate.
    :arg regime: mean seconds between two jumps of a hedge ratio.
    :arg half_life: mean half-life of the spread, seconds.
    :raises ValueError: for a name that cannot be a symbol, a duplicate, or a rate that is not positive.
    """

    def __init__(
        self,
        names: Iterable[str],
        rate: float,
        seed: int,
        start: int,
        market: MarketName = "spot",
        history: int = 7 * 86_400,
        quiet: Iterable[str] = (),
        regime: float = 7_200.0,
        half_life: float = 300.0,
    ) -> None:
        names, quiet = tuple(names), frozenset(quiet)
        if not names or len(set(names)) != len(names):
            msg = f"symbols {','.join(names)!r}: expected one or more, each once"
            raise ValueError(msg)
        if not 0 < rate <= MAX_RATE:
            msg = f"rate {rate}: expected trades per second, more than 0 and at most {MAX_RATE:,.0f}"
            raise ValueError(msg)
        if not quiet <= set(names):
            msg = f"quiet symbols {','.join(sorted(quiet))!r}: expected some of {','.join(names)}"
            raise ValueError(msg)
        self.name = market
        self.symbols = tuple(symbol_of(name, market, seed) for name in names)
        self.start = start // SECOND * SECOND
        self._seed = seed
        self._history = history
        self._regime = regime
        self._half_life = half_life
        weights = [0.0 if s.name in quiet else s.weight for s in self.symbols]
        whole = sum(weights) or 1.0
        self._rates = [1 / 30 if s.name in quiet else rate * w / whole for s, w in zip(self.symbols, weights)]
        self._factor: dict[int, NDArray[np.float64]] = {}
        # Chunks last used, 230 kB each, and the edges of all: a month of a symbol is no more than 600 edges.
        self._chunks: OrderedDict[tuple[int, int], _Chunk] = OrderedDict()
        self._edges: dict[tuple[int, int], tuple[_Edge, _Edge]] = {}
        self._halts: list[tuple[int, int, int]] = []
        self._slots: OrderedDict[tuple[int, int], Ticks] = OrderedDict()
        self._ahead = (self.start, self.start, NO_TICKS)  # what `read` holds: from, to, trades
        keys = [_number(f"{seed}/{s.name}") for s in self.symbols]
        self._keys = keys
        # Ids start where nothing else would: ten digits, as Binance's busy symbols have today.
        self._first_trade = [2_000_000_000 + key % 1_000_000_000 for key in keys]
        self._first_order = [1_000_000_000 + (key >> 32) % 900_000_000 for key in keys]

    @override
    def read(self, start: int, stop: int) -> Ticks:
        parts: list[Ticks] = []
        held_from, held_to, held = self._ahead
        if not held_from <= start <= held_to:
            held_from, held_to, held = start, start, NO_TICKS
        while True:
            low, high = np.searchsorted(held.time, (start, stop))
            if high > low:
                parts.append(held.take(slice(int(low), int(high))))
            if stop <= held_to:
                break
            start = held_to
            first = (held_to - self.start) // SECOND
            # A batch large enough to be worth its calls, small enough not to stall the server: about
            # 20,000 trades, at most 8 s.
            seconds = max(1, min(8, int(20_000 / sum(self._rates))))
            ticks = concatenate([self._seconds(i, first, first + seconds) for i in range(len(self.symbols))])
            held = ticks.take(np.argsort(ticks.time, kind="stable"))
            held_from, held_to = held_to, self.start + (first + seconds) * SECOND
        self._ahead = (held_from, held_to, held)
        return concatenate(parts)

    @override
    def trades(self, symbol: int, first: int, stop: int) -> Ticks:
        if stop <= first:
            return NO_TICKS
        origin = self._first_trade[symbol]
        low, high = (
            self._find(symbol, "trades", first - origin),
            self._find(symbol, "trades", stop - 1 - origin),
        )
        ticks = self._slots_of(symbol, low, high + 1)
        a, b = np.searchsorted(ticks.id, (first, stop))
        return ticks.take(slice(int(a), int(b)))

    @override
    def aggregates(self, symbol: int, first: int, stop: int) -> Aggregates:
        if stop <= first:
            return aggregate(NO_TICKS)
        origin = self._first_order[symbol]
        low, high = (
            self._find(symbol, "orders", first - origin),
            self._find(symbol, "orders", stop - 1 - origin),
        )
        merged = aggregate(self._slots_of(symbol, low, high + 1))
        a, b = np.searchsorted(merged.id, (first, stop))
        return Aggregates._make(column[a:b] for column in merged)

    @override
    def ids_at(self, symbol: int, time: int) -> tuple[int, int]:
        second = max((time - self.start) // SECOND, -self._history)
        chunk = self._chunk(symbol, second // CHUNK)
        at = second % CHUNK
        trade = int(chunk.trades[at]) + self._first_trade[symbol]
        order = int(chunk.orders[at]) + self._first_order[symbol]
        if time <= self.start + second * SECOND:
            return trade, order
        ticks = self._slot(symbol, second)
        row = int(np.searchsorted(ticks.time, time))
        if row == ticks.id.size:
            return int(chunk.trades[at + 1]) + self._first_trade[symbol], int(
                chunk.orders[at + 1]
            ) + self._first_order[symbol]
        return int(ticks.id[row]), int(ticks.aggregate[row])

    @override
    def earliest(self, symbol: int) -> int:
        return self.start - self._history * SECOND

    @override
    def halt(self, symbol: int, start: int, stop: int) -> None:
        first = max(0, (start - self.start) // SECOND + 1)
        last = max(first, -((self.start - stop) // SECOND))
        self._halts.append((symbol, first, last))
        for key in [k for k in self._edges if k[0] == symbol and k[1] >= first // CHUNK]:
            del self._edges[key]
            self._chunks.pop(key, None)
        self._slots.clear()
        held_from, held_to, held = self._ahead
        edge = self.start + first * SECOND
        if edge < held_to:
            self._ahead = (held_from, edge, held.take(slice(0, int(np.searchsorted(held.time, edge)))))

    def hedge_ratio(self, y: str, x: str, time: int) -> float:
        """Return the true ratio of log-price moves of Y to those of X at a time, us, spreads apart."""
        names = [s.name for s in self.symbols]
        second = (time - self.start) // SECOND
        beta = [self._chunk(names.index(n), second // CHUNK).beta[second % CHUNK] for n in (y, x)]
        return float(beta[0] / beta[1])

    def _seconds(self, symbol: int, first: int, stop: int) -> Ticks:
        first = max(first, -self._history)
        parts = []
        while first < stop:
            index = first // CHUNK
            end = min(stop, (index + 1) * CHUNK)
            parts.append(self._generate(symbol, self._chunk(symbol, index), index, first, end))
            first = end
        return concatenate(parts)

    def _slots_of(self, symbol: int, first: int, stop: int) -> Ticks:
        """Return the trades of seconds [first, stop), a few from the cache: back-fills go page by page."""
        if stop - first > 3:
            return self._seconds(symbol, first, stop)
        return concatenate([self._slot(symbol, second) for second in range(first, stop)])

    def _slot(self, symbol: int, second: int) -> Ticks:
        key = (symbol, second)
        ticks = self._slots.get(key)
        if ticks is None:
            ticks = self._slots[key] = self._seconds(symbol, second, second + 1)
            if len(self._slots) > 4 * len(self.symbols):
                self._slots.popitem(last=False)
        return ticks

    def _find(self, symbol: int, field: Literal["trades", "orders"], count: int) -> int:
        """Return the second of the trade or order of this number (relative to the start)."""
        index = 0
        while True:
            first, last = self._edges_of(symbol, index)
            if count < getattr(first, field):
                if index * CHUNK <= -self._history:
                    return -self._history
                index -= 1
            elif count >= getattr(last, field):
                index += 1
                if index > 1_000:  # seven weeks after the start: no such id yet
                    return index * CHUNK
            else:
                counts: Int64 = getattr(self._chunk(symbol, index), field)
                return index * CHUNK + int(np.searchsorted(counts, count, side="right")) - 1

    def _draw(self, *key: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, *(k % 2**32 for k in key)])

    def _factor_path(self, index: int) -> NDArray[np.float64]:
        path = self._factor.get(index)
        if path is None:
            draw = self._draw(0, index)
            # One basis point a second is an annual volatility of 45 %.
            steps = draw.standard_normal(CHUNK) * (0.8e-4 * math.exp(0.4 * draw.standard_normal()))
            if index >= 0:
                begin = self._factor_path(index - 1)[-1] if index else 0.0
                path = np.r_[begin, begin + np.cumsum(steps)]
            else:
                end = self._factor_path(index + 1)[0]
                path = np.r_[end - np.cumsum(steps)[::-1], end]
            self._factor[index] = path
        return path

    def _chunk(self, symbol: int, index: int) -> _Chunk:
        key = (symbol, index)
        chunk = self._chunks.get(key)
        if chunk is not None:
            self._chunks.move_to_end(key)
            return chunk
        # Outwards from the start, because each chunk goes on from the edge of the one before.
        step = 1 if index >= 0 else -1
        near = index
        while near and (symbol, near - step) not in self._edges:
            near -= step
        for at in range(near, index + step, step):
            chunk = self._make_chunk(symbol, at)
            self._edges[symbol, at] = chunk.edge(0), chunk.edge(-1)
        assert chunk is not None
        self._chunks[key] = chunk
        if len(self._chunks) > 32 + 4 * len(self.symbols):
            self._chunks.popitem(last=False)
        return chunk

    def _edges_of(self, symbol: int, index: int) -> tuple[_Edge, _Edge]:
        if (symbol, index) not in self._edges:
            self._chunk(symbol, index)
        return self._edges[symbol, index]

    def _make_chunk(self, symbol: int, index: int) -> _Chunk:
        forward = index >= 0
        spec = self.symbols[symbol]
        factor = self._factor_path(index)
        # Where the neighbour nearer to the start ends.
        edge = _Edge(0, 0, 0.0, spec.beta, 0.0)
        if index:
            edge = self._edges[symbol, index - 1][1] if forward else self._edges[symbol, index + 1][0]
        draw = self._draw(1, self._keys[symbol], index)

        beta = np.full(CHUNK, edge.beta)
        breaks = draw.random() < CHUNK / self._regime
        where, jump = int(draw.integers(CHUNK)), 0.25 * draw.standard_normal()
        if breaks and spec.name != "BTCUSDT":
            if forward:
                beta[where:] = spec.beta * math.exp(jump)
            else:
                beta[:where] = spec.beta * math.exp(jump)
        spread = np.zeros(CHUNK + 1)
        noise = draw.standard_normal(CHUNK)
        if spec.name != "BTCUSDT":
            half_life = self._half_life * (0.5 + (self._keys[symbol] % 1_000) / 1_000)
            sigma = 8e-4 * math.sqrt(2 * math.log(2) / half_life)  # stationary deviation 8 basis points
            spread = _ornstein_uhlenbeck(edge.spread, math.exp(-math.log(2) / half_life), sigma * noise)
            spread = spread if forward else spread[::-1]
        steps = beta * np.diff(factor) + np.diff(spread)
        if forward:
            path = np.r_[edge.path, edge.path + np.cumsum(steps)]
        else:
            path = np.r_[edge.path - np.cumsum(steps[::-1])[::-1], edge.path]

        rate = self._rates[symbol] if forward else min(self._rates[symbol], PAST_RATE)
        orders_rate = rate / FILLS_PER_ORDER
        # Busy and calm minutes: stationary variance 0.11, half of it taken off so that the mean is the rate.
        activity = _ornstein_uhlenbeck(0.0, math.exp(-1 / 60), 0.06 * draw.standard_normal(CHUNK))[1:] - 0.055
        burst_rate = min(0.1, BURST_SHARE * orders_rate / (sum(BURST_ORDERS) / 2))
        burst = np.where(draw.random(CHUNK) < burst_rate, draw.integers(*BURST_ORDERS, CHUNK), 0)
        orders = draw.poisson(orders_rate * (1 - BURST_SHARE) * np.exp(activity))
        orders = np.where(burst > 0, np.maximum(orders, 1), orders)
        before = (draw.random(CHUNK) * orders).astype(np.int64)
        drift = np.where(draw.random(CHUNK) < 0.5, -4e-4, 4e-4)
        orders = orders + burst
        trades = orders + draw.poisson((FILLS_PER_ORDER - 1) * orders)
        for halted, first, last in self._halts:
            if halted == symbol:
                low, high = (min(max(s - index * CHUNK, 0), CHUNK) for s in (first, last))
                orders[low:high] = trades[low:high] = burst[low:high] = 0
        counts = []
        for start, count in ((edge.orders, orders), (edge.trades, trades)):
            sums = np.r_[0, np.cumsum(count)]
            counts.append(sums + start if forward else sums - sums[-1] + start)
        return _Chunk(counts[0], counts[1], path, burst, before, drift, beta, spread)

    def _generate(self, symbol: int, chunk: _Chunk, index: int, first: int, stop: int) -> Ticks:
        """Produce the trades of seconds [first, stop) of a chunk: a pure function of seed and position."""
        spec, key = self.symbols[symbol], self._keys[symbol]
        low, high = first - index * CHUNK, stop - index * CHUNK
        counts = np.diff(chunk.orders[low : high + 1])
        total = int(chunk.orders[high] - chunk.orders[low])
        if total == 0:
            return NO_TICKS
        second = np.repeat(np.arange(low, high), counts)
        order = np.arange(total, dtype=np.int64) + chunk.orders[low]
        within = order - chunk.orders[second]
        bits = _hash(order, key)

        # Times: strictly rising within a second. A stratum per order, jitter in its first four fifths (a
        # fifth is still over 1 us at 150,000 orders a second); the burst takes a millisecond out.
        jitter = 0.8 * _uniform(bits)
        burst, before = chunk.burst[second], chunk.before[second]
        plain = counts[second - low] - burst
        in_burst = (within >= before) & (within < before + burst)
        after = (within >= before + burst) & (burst > 0)
        place = np.where(after, within - burst, within)
        offset = ((place + jitter) / np.maximum(plain, 1) * (SECOND - 2_000)).astype(np.int64)
        begin = -((-before * (SECOND - 2_000) // np.maximum(plain, 1)) // 1_000) * 1_000
        position = within - before
        offset = np.where(in_burst, begin + position * 1_000 // np.maximum(burst, 1), offset)
        offset = np.where(after, offset + 2_000, offset)
        time = self.start + (second + index * CHUNK) * SECOND + offset

        # Prices: on the path, a little off it, on the taker's side of the spread, on the tick.
        level = chunk.path[second] + (chunk.path[second + 1] - chunk.path[second]) * (offset / SECOND)
        level = level + np.where(in_burst, chunk.drift[second] * position / np.maximum(burst, 1), 0.0)
        more = _hash(order, key ^ 0x5851F42D4C957F2D)
        level = level + 3e-5 * (_uniform(more) - 0.5)
        maker = (bits & np.uint64(1)).astype(np.bool_)
        units = spec.price * 10**spec.price_decimals / spec.tick
        price = np.maximum(np.rint(np.exp(level) * units).astype(np.int64) + ~maker, 1) * spec.tick

        # Fills: one per order, and the second's surplus falls on its orders at random.
        extra_counts = np.diff(chunk.trades[low : high + 1]) - counts
        surplus = int(extra_counts.sum())
        where = np.repeat(np.arange(low, high), extra_counts)
        extra = np.arange(surplus, dtype=np.int64) + (chunk.trades[low] - chunk.orders[low])
        chosen = (_uniform(_hash(extra, key ^ 0x14057B7EF767814F)) * counts[where - low]).astype(np.int64)
        target = chosen + (chunk.orders[where] - chunk.orders[low])
        fills = 1 + np.bincount(target, minlength=total)

        trade = np.arange(total + surplus, dtype=np.int64) + chunk.trades[low]
        typical = 0.012 * 65_000 / max(spec.price * _QUOTE_IN_DOLLARS.get(spec.quote, 1.0), 1e-12)
        lot = typical * 10**spec.quantity_decimals
        draw = -np.log1p(-_uniform(_hash(trade, key ^ 0x2545F4914F6CDD1D)))
        quantity = 1 + (lot * draw * np.sqrt(draw)).astype(np.int64)
        source = np.repeat(np.arange(total), fills)
        price = price[source]
        in_market = np.ones(trade.size, np.bool_)
        if self.name == "usdm":
            odd = np.flatnonzero(
                (fills > 1) & (_uniform(_hash(order, key ^ 0x9E6C63D0876A9A47)) < NON_MARKET_SHARE)
            )
            rows = np.cumsum(fills)[odd] - 1
            in_market[rows] = False
            # Far off the market, or at no price at all.
            off = np.maximum(price[rows] * 99 // 100 // spec.tick, 1) * spec.tick
            price[rows] = np.where(trade[rows] % 3 == 0, 0, off)
        return Ticks(
            np.full(trade.size, symbol, np.int32),
            trade + self._first_trade[symbol],
            order[source] + self._first_order[symbol],
            time[source],
            price,
            quantity,
            maker[source],
            in_market,
        )


def _ornstein_uhlenbeck(begin: float, decay: float, noise: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the n + 1 values of ``x[i + 1] = decay * x[i] + noise[i]``."""
    out = np.empty(noise.size + 1)
    out[0] = begin
    # In pieces, because the closed form scales by decay**-i, which must not overflow.
    piece = max(1, min(noise.size, int(-20 / math.log(decay))))
    for low in range(0, noise.size, piece):
        part = noise[low : low + piece]
        power = decay ** np.arange(1, part.size + 1)
        out[low + 1 : low + 1 + part.size] = power * (out[low] + np.cumsum(part / power))
    return out


def _number(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _hash(numbers: Int64, key: int) -> NDArray[np.uint64]:
    """Hash each number to 64 random bits (splitmix64, Steele, Lea and Flood 2014): randomness by position."""
    x = numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(key % 2**64)
    x ^= x >> np.uint64(30)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x


def _uniform(bits: NDArray[np.uint64]) -> NDArray[np.float64]:
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


class RecordedMarket(Market):
    """Recorded messages, played back.

    :arg paths: files of lines ``<receive time, ns> <raw message>``, gzip or plain; trade messages are used,
        raw or combined, all others skipped.
    :arg shift: us added to every time; None: as many whole minutes as bring the first trade to ``now``, so
        that the recording's one-minute bars stay what they were.
    :arg now: exchange time, us, at which the exchange opens; None: with the first trade.
    :raises ValueError: when a file cannot be read, no trade is found, or spot and futures are mixed.
    """

    def __init__(self, paths: Iterable[str | Path], shift: int | None = None, now: int | None = None) -> None:
        rows: dict[str, dict[int, tuple[int, str, str, bool, bool]]] = {}
        markets: set[MarketName] = set()
        for path in paths:
            for trade in _recorded_trades(Path(path)):
                markets.add("usdm" if "X" in trade else "spot")
                rows.setdefault(trade["s"], {})[trade["t"]] = (
                    trade["T"],
                    trade["p"],
                    trade["q"],
                    trade["m"],
                    trade.get("X", "MARKET") == "MARKET",
                )
        if len(markets) != 1:
            found = "both spot and USD-M trades" if markets else "no trade message"
            msg = f"recording {', '.join(map(str, paths))}: expected the trades of one market, found {found}"
            raise ValueError(msg)
        self.name = markets.pop()
        first = min(min(trades.values())[0] for trades in rows.values()) * 1_000
        if shift is None:
            shift = 0 if now is None else (now - first) // (60 * SECOND) * 60 * SECOND
        self.start = (first + shift if now is None else now) // SECOND * SECOND
        symbols: list[Symbol] = []
        parts: list[Ticks] = []
        for name in sorted(rows):
            symbol, ticks = self._load(len(symbols), name, rows[name], shift)
            symbols.append(symbol)
            parts.append(ticks)
        self.symbols = tuple(symbols)
        self._parts = parts
        merged = concatenate(parts)
        self._merged = merged.take(np.argsort(merged.time, kind="stable"))

    def _load(
        self, index: int, name: str, rows: dict[int, tuple[int, str, str, bool, bool]], shift: int
    ) -> tuple[Symbol, Ticks]:
        ids = np.array(sorted(rows), np.int64)
        columns = list(zip(*(rows[i] for i in ids.tolist())))
        # A time that steps back, none in any recording seen, would break every search.
        time = np.maximum.accumulate(np.array(columns[0], np.int64) * 1_000 + shift)
        price, price_decimals = _exact(columns[1], self.name == "spot")
        quantity, quantity_decimals = _exact(columns[2], self.name == "spot")
        maker, market = np.array(columns[3], np.bool_), np.array(columns[4], np.bool_)
        same = (time[1:] == time[:-1]) & (price[1:] == price[:-1]) & (maker[1:] == maker[:-1])
        # The recordings carry no aggregate ids; number what the exchange would have merged.
        order = 1_000_000_000 + np.cumsum(np.r_[0, ~(same & market[1:] & market[:-1])])
        spec = symbol_of(name, self.name, 0)._replace(
            price_decimals=price_decimals, quantity_decimals=quantity_decimals, price=float(columns[1][0])
        )
        return spec, Ticks(
            np.full(ids.size, index, np.int32), ids, order, time, price, quantity, maker, market
        )

    @override
    def read(self, start: int, stop: int) -> Ticks:
        low, high = np.searchsorted(self._merged.time, (start, stop))
        return self._merged.take(slice(int(low), int(high)))

    @override
    def trades(self, symbol: int, first: int, stop: int) -> Ticks:
        part = self._parts[symbol]
        low, high = np.searchsorted(part.id, (first, stop))
        return part.take(slice(int(low), int(high)))

    @override
    def aggregates(self, symbol: int, first: int, stop: int) -> Aggregates:
        part = self._parts[symbol]
        low, high = np.searchsorted(part.aggregate, (first, stop))
        return aggregate(part.take(slice(int(low), int(high))))

    @override
    def ids_at(self, symbol: int, time: int) -> tuple[int, int]:
        part = self._parts[symbol]
        row = int(np.searchsorted(part.time, time))
        if row == part.id.size:
            return int(part.id[-1]) + 1, int(part.aggregate[-1]) + 1
        return int(part.id[row]), int(part.aggregate[row])

    @override
    def earliest(self, symbol: int) -> int:
        return int(self._parts[symbol].time[0])

    @override
    def halt(self, symbol: int, start: int, stop: int) -> None:
        msg = "a recording cannot be halted: its trades have happened"
        raise ValueError(msg)


def _recorded_trades(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the trade payloads of a recording."""
    try:
        with path.open("rb") as plain:
            packed = plain.read(2) == b"\x1f\x8b"
        with gzip.open(path, "rb") if packed else path.open("rb") as lines:
            for line in lines:
                if b'"trade"' not in line:
                    continue
                message = orjson.loads(line[line.index(b" ") + 1 :])
                data = message.get("data", message)
                if data.get("e") == "trade":
                    yield data
    except (OSError, EOFError, ValueError, AttributeError) as error:
        msg = (
            f"recording {path}: {error}; expected lines of '<receive time, ns> <raw message>', gzip or plain"
        )
        raise ValueError(msg) from None


def _exact(texts: Sequence[str], strip: bool) -> tuple[Int64, int]:
    """Return decimals as integers of one scale, and the scale's number of decimals."""
    decimals = max(len(text.partition(".")[2]) for text in texts)
    values = np.array([int((p := t.partition("."))[0] + p[2].ljust(decimals, "0")) for t in texts], np.int64)
    while strip and decimals and not (values % 10).any():
        values //= 10
        decimals -= 1
    return values, decimals
