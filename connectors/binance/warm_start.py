"""Load the exchange's recent klines, so that windows are full and dashboards show data from the first minute.

A source that starts without a stored position waits for its first trades, fetches the closed klines before
them, and hands these out first. Their version is 0: bars built from trades, in this run or an earlier one,
take precedence.
"""

import asyncio
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import structlog
from bytewax.inputs import StatefulSourcePartition
from typing_extensions import override

from connectors.binance.continuity import NO_TRADES
from connectors.binance.decoder import microseconds
from connectors.binance.endpoints import Endpoints
from connectors.binance.feed import FeedStatus
from connectors.binance.rest import KLINE_COLUMNS, PAGE, RestClient, RestError
from connectors.binance.stream import BinanceSource, FeedState
from kernels.records import BAR, GAP, SECOND, Block, Trades

_LOG = structlog.get_logger()

_MINUTE, _HOUR = 60 * SECOND, 3_600 * SECOND
_INTERVALS = {
    SECOND: "1s",
    **{n * _MINUTE: f"{n}m" for n in (1, 3, 5, 15, 30)},
    **{n * _HOUR: f"{n}h" for n in (1, 2, 4, 6, 8, 12)},
    24 * _HOUR: "1d",
}
_AT_ONCE = 8  # requests under way; each is answered in some 50 ms


async def load_klines(
    rest: RestClient, symbols: Sequence[str], timeframes: Iterable[int], before: int, count: int
) -> Block:
    """Fetch the last closed klines before a time.

    :arg rest: Client of the exchange.
    :arg symbols: The run's symbol table.
    :arg timeframes: Lengths, us; those for which the exchange has no klines are left out.
    :arg before: Time, us: klines are closed before the interval that holds it.
    :arg count: How many klines of each symbol and timeframe to fetch, at most.
    :returns: BAR block of version 0, sorted by timeframe, open time and symbol; ids are unknown, -1.
    :raises RestError: If the exchange refuses.
    """
    known = {length: _INTERVALS[length] for length in timeframes if length in _INTERVALS}
    if rest.market != "spot":
        known.pop(SECOND, None)
    gate = asyncio.Semaphore(_AT_ONCE)

    async def load(symbol: int, length: int) -> Block:
        end = before // length * length
        blocks = []
        for page_end in range(end, end - count * length, -PAGE * length):
            first = max(page_end - PAGE * length, end - count * length)
            async with gate:
                rows = await rest.klines(symbols[symbol], known[length], start=first, end=page_end - 1)
            blocks.append(_bars(rows, symbol, length, end))
        return np.concatenate([np.empty(0, BAR), *blocks])

    loads = (load(symbol, length) for length in known for symbol in range(len(symbols)))
    bars = np.concatenate([np.empty(0, BAR), *await asyncio.gather(*loads)])
    return bars[np.lexsort((bars["symbol"], bars["open_time"], bars["timeframe"]))]


def _bars(rows: list[list[Any]], symbol: int, length: int, end: int) -> Block:
    block = np.zeros(len(rows), BAR)
    if rows:
        block["open_time"] = [microseconds(row[0]) for row in rows]
        for name, column in KLINE_COLUMNS.items():
            block[name] = [float(row[column]) for row in rows]
    block["timeframe"], block["symbol"] = length, symbol
    block["first_id"] = block["last_id"] = -1
    return block[block["open_time"] < end]


class _WarmPartition(StatefulSourcePartition[tuple[str, Trades], FeedState]):
    """A live partition that hands out klines right before its first trades."""

    def __init__(
        self,
        key: str,
        live: StatefulSourcePartition[tuple[str, Trades], FeedState],
        load: Callable[[int], Block],
    ) -> None:
        self._key = key
        self._live = live
        self._load: Callable[[int], Block] | None = load

    @override
    def next_batch(self) -> Iterable[tuple[str, Trades]]:
        items = self._live.next_batch()
        if self._load is None:
            return items
        items = list(items)
        times = [int(item.trades["time"][0]) for _, item in items if len(item.trades)]
        if times:
            history = Trades(NO_TRADES, 0, np.empty(0, GAP), self._load(min(times)))
            self._load = None
            items.insert(0, (self._key, history))
        return items

    @override
    def snapshot(self) -> FeedState:
        return self._live.snapshot()

    @override
    def close(self) -> None:
        self._live.close()


class WarmSource(BinanceSource):
    """Binance's trades, live, behind the klines that came before them.

    :arg symbols: The run's symbol table.
    :arg market: ``spot`` or ``usdm``.
    :arg stream: ``trade`` or ``aggTrade``.
    :arg endpoints: Where the exchange is.
    :arg stop: Ends the source when set.
    :arg status: Receives what the feed is doing.
    :arg timeframes: Lengths of the bars to load, us.
    :arg count: How many bars of each to load; 0 for none.
    :arg patience: Seconds after which the source goes on without them.
    """

    def __init__(
        self,
        symbols: Sequence[str],
        *,
        market: str,
        stream: str,
        endpoints: Endpoints,
        stop: threading.Event,
        status: FeedStatus,
        timeframes: Sequence[int],
        count: int,
        patience: float = 20.0,
    ) -> None:
        super().__init__(symbols, market=market, stream=stream, endpoints=endpoints, stop=stop, status=status)
        self._names = symbols
        self._where = market, endpoints
        self._timeframes = timeframes
        self._count = count
        self._seconds = patience

    @override
    def build_part(
        self, step_id: str, for_part: str, resume_state: FeedState | None
    ) -> StatefulSourcePartition[tuple[str, Trades], FeedState]:
        live = super().build_part(step_id, for_part, resume_state)
        if resume_state is not None or not self._count:
            return live
        return _WarmPartition(for_part, live, self._load)

    def _load(self, before: int) -> Block:
        market, endpoints = self._where

        async def load() -> Block:
            async with asyncio.timeout(self._seconds), RestClient(market, endpoints.rest) as rest:
                return await load_klines(rest, self._names, self._timeframes, before, self._count)

        try:
            return asyncio.run(load())
        except (RestError, TimeoutError) as error:
            _LOG.warning(
                "no klines to begin with: windows fill as bars close",
                reason=str(error) or "no answer in time",
            )
            return np.empty(0, BAR)
