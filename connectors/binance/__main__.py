"""Check whether Binance can be reached from here, and whether its trades add up to its own bars.

    python -m connectors.binance check --symbols BTCUSDT,ETHUSDT

The check receives trades for some seconds, builds 1 s bars of them, and compares these with the exchange's
own klines. USD-M futures have no 1 s klines: there, it compares the trades with those that REST returns. Exit
codes: 0, everything is as expected; 1, something is not, and is named; 2, the command is wrong.
"""

import argparse
import asyncio
import logging
import sys
import threading
import time
from collections.abc import Awaitable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import structlog

from connectors.binance.clock import now_us
from connectors.binance.continuity import NO_TRADES
from connectors.binance.endpoints import Endpoints, default_endpoints
from connectors.binance.rest import KLINE_COLUMNS, PAGE, RestClient, RestError
from connectors.binance.stream import BinanceSource
from kernels import ohlcv
from kernels.compile import warm_up
from kernels.records import SECOND, Block

_T = TypeVar("_T")

_PATIENCE = 15.0  # s for the exchange to answer
_SETTLE = 2.0  # s for the exchange to finish its klines
_CLOCK_NOTICE = 1.0  # s by which the clocks may differ without a note
_COLUMNS = ("open", "high", "low", "close", "volume", "quote_volume", "trades")  # that are compared


class Finding(NamedTuple):
    """One line of the diagnosis."""

    state: Literal["ok", "note", "FAIL"]
    what: str
    text: str


def check(
    symbols: Sequence[str], market: str, stream: str, endpoints: Endpoints, seconds: float
) -> Iterator[Finding]:
    """Diagnose step by step, up to the first failure after which the next steps make no sense."""
    try:
        offset, states, text = asyncio.run(_ask_rest(symbols, market, endpoints))
    except RestError as error:
        yield Finding("FAIL", "REST", str(error))
        return
    yield Finding("ok", "REST", text)
    side = "ahead of" if offset >= 0 else "behind"
    differs = abs(offset) > _CLOCK_NOTICE * SECOND
    yield Finding(
        "note" if differs else "ok",
        "clock",
        f"the exchange is {abs(offset) / SECOND:.3f} s {side} this machine"
        + ("; bars follow the exchange's time, logs and gaps this one's" if differs else ""),
    )
    unknown = [symbol for symbol in symbols if symbol not in states]
    if unknown:
        yield Finding("FAIL", "symbols", f"no such symbol on Binance {market}: {', '.join(unknown)}")
        return
    halted = [f"{symbol} ({states[symbol]})" for symbol in symbols if states[symbol] != "TRADING"]
    if halted:
        yield Finding("note", "symbols", f"not trading now: {', '.join(halted)}")
    else:
        yield Finding("ok", "symbols", f"{len(symbols)} known and trading")
    yield from _listen(symbols, market, stream, endpoints, seconds, offset)


async def _ask_rest(
    symbols: Sequence[str], market: str, endpoints: Endpoints
) -> tuple[int, dict[str, str], str]:
    async with RestClient(market, endpoints.rest) as rest:
        try:
            async with asyncio.timeout(_PATIENCE):
                readings = []
                for _ in range(3):
                    sent = now_us()
                    exchange = await rest.time()
                    received = now_us()
                    readings.append((received - sent, exchange - (sent + received) // 2))
                # The shortest round trip has the smallest error.
                trip, offset = min(readings)
                states = await rest.symbols(symbols)
        except TimeoutError:
            msg = f"no answer from {', '.join(endpoints.rest)}; the last problem: {rest.problem or 'silence'}"
            raise RestError(msg) from None
        return offset, states, f"{rest.endpoint} answers in {trip / 1000:.0f} ms"


def _ask(question: Awaitable[_T]) -> _T:
    async def ask() -> _T:
        async with asyncio.timeout(_PATIENCE):
            return await question

    return asyncio.run(ask())


def _listen(
    symbols: Sequence[str], market: str, stream: str, endpoints: Endpoints, seconds: float, offset: int
) -> Iterator[Finding]:
    source = BinanceSource(symbols, market=market, stream=stream, endpoints=endpoints, stop=threading.Event())
    status = source.status
    partition = source.build_part("check", "0", None)
    blocks, lags = [], []
    gaps = 0
    began = time.monotonic()
    live = None
    try:
        while time.monotonic() < (began + _PATIENCE if live is None else live + seconds):
            for _, item in partition.next_batch():
                blocks.append(item.trades)
                gaps += int((item.gaps["repaired"] == 0).sum())
                lags.append(status.lag)
            if live is None and "live" in status.connections.values():
                live = time.monotonic()
                start = now_us() + offset
                yield Finding("ok", "WebSocket", f"{status.endpoint} connected in {live - began:.1f} s")
            time.sleep(0.005)
    finally:
        partition.close()
    if live is None:
        yield Finding("FAIL", "WebSocket", f"none of {', '.join(endpoints.ws)} accepts a connection")
        return
    end = now_us() + offset
    trades = np.concatenate([NO_TRADES, *blocks])
    if len(trades) == 0:
        yield Finding("note", "trades", f"none in {seconds:g} s: a quiet market, or streams that are silent")
        return
    lag = float(np.nanmedian(lags)) + offset / SECOND
    text = f"{len(trades):,} in {seconds:g} s, {lag * 1000:.0f} ms after the event"
    counts = status.decode
    if counts.malformed or counts.unknown_symbol:
        yield Finding("FAIL", "trades", f"{text}; {counts.malformed} messages could not be read")
        return
    yield Finding("note" if gaps else "ok", "trades", f"{text}, {gaps or 'no'} gap{'s' * (gaps != 1)}")
    if market == "usdm":
        yield _compare_trades(trades, symbols, market, stream, endpoints)
    else:
        first = -(-start // SECOND) * SECOND + SECOND
        yield _compare_bars(trades, symbols, market, endpoints, first, end // SECOND * SECOND - SECOND)


def _compare_bars(
    trades: Block, symbols: Sequence[str], market: str, endpoints: Endpoints, first: int, last: int
) -> Finding:
    """Compare 1 s bars of these trades, open times ``first`` to ``last``, with the exchange's klines."""
    if last < first:
        return Finding("note", "bars", "too short for a whole second; try --seconds 10")
    time.sleep(_SETTLE)
    bars = bars_of(trades, len(symbols))

    async def fetch() -> list[list[list[Any]]]:
        async with RestClient(market, endpoints.rest) as rest:
            return [await rest.klines(symbol, "1s", start=first, end=last) for symbol in symbols]

    try:
        klines = _ask(fetch())
    except (TimeoutError, RestError) as error:
        return Finding("FAIL", "bars", f"the exchange's klines cannot be had: {error or 'no answer'}")
    same = 0
    for symbol, rows in enumerate(klines):
        mine = {int(bar["open_time"]): bar for bar in bars[bars["symbol"] == symbol]}
        for row in rows:
            theirs = [float(row[KLINE_COLUMNS[name]]) for name in _COLUMNS]
            if theirs[-1] == 0 and int(row[0]) not in mine:
                continue
            bar = mine.get(int(row[0]))
            ours = [0.0] * len(_COLUMNS) if bar is None else [float(bar[name]) for name in _COLUMNS]
            if ours != theirs:
                when = np.datetime64(int(row[0]), "us")
                details = ", ".join(
                    f"{name} {a:.15g}, not {b:.15g}"
                    for name, a, b in zip(_COLUMNS, ours, theirs, strict=True)
                    if a != b
                )
                return Finding("FAIL", "bars", f"{symbols[symbol]} {when}: {details}")
            same += 1
    return Finding("ok", "bars", f"{same} bars of 1 s equal the exchange's klines in all fields")


def bars_of(trades: Block, symbols: int) -> Block:
    """Build the 1 s bars of some trades.

    :returns: BAR block of the bars that have trades.
    """
    warm_up(ohlcv.add_trades)
    trades = trades[np.argsort(trades["time"], kind="stable")]
    out = ohlcv.empty_bars(2 * symbols * (len(trades) + 1))
    end = int(trades["time"].max(initial=0)) + 2 * SECOND
    _, rows = ohlcv.add_trades(trades, 0, end, ohlcv.new_bar_state(symbols, [SECOND], [False], 0), out)
    return out[:rows]


def _compare_trades(
    trades: Block, symbols: Sequence[str], market: str, stream: str, endpoints: Endpoints
) -> Finding:
    """Compare trades with those that REST has under the same ids."""

    async def fetch(symbol: int, first: int, last: int) -> Block:
        pages = []
        async with RestClient(market, endpoints.rest) as rest:
            while first <= last:
                page = await rest.trades(symbols[symbol], first, aggregate=stream == "aggTrade")
                pages.append(page[page["id"] <= last])
                if len(page) < PAGE:
                    break
                first = int(page["id"][-1]) + 1
        return np.concatenate([NO_TRADES, *pages])

    for symbol, name in enumerate(symbols):
        mine = trades[trades["symbol"] == symbol]
        if len(mine) == 0:
            continue
        try:
            theirs = _ask(fetch(symbol, int(mine["id"][0]), int(mine["id"][-1])))
        except (TimeoutError, RestError) as error:
            return Finding("note", "ids", f"not compared: {error or 'REST does not answer'}")
        for column in ("id", "time", "price", "quantity", "buyer_is_maker"):
            if len(mine) != len(theirs) or (mine[column] != theirs[column]).any():
                return Finding("FAIL", "ids", f"{name}: {column} differs between the stream and REST")
    return Finding("ok", "ids", f"{len(trades):,} trades equal what REST returns")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    :arg arguments: Of the command line; None takes the process's own.
    :returns: The exit code.
    """
    parser = argparse.ArgumentParser(
        prog="python -m connectors.binance", description="Commands on Binance itself."
    )
    commands = parser.add_subparsers(required=True, metavar="check")
    command = commands.add_parser("check", help="say whether endpoints, clock and data are as expected")
    command.add_argument("--symbols", default="BTCUSDT,ETHUSDT", help="comma-separated (%(default)s)")
    command.add_argument("--market", choices=("spot", "usdm"), default="spot")
    command.add_argument("--stream", choices=("trade", "aggTrade"), help="trade on spot, aggTrade on usdm")
    command.add_argument("--seconds", type=float, default=8.0, help="how long to listen (%(default)s)")
    command.add_argument(
        "--endpoint",
        action="append",
        metavar="URL",
        help="base URL, wss:// for streams or https:// for REST; https:// alone stands for both",
    )
    options = parser.parse_args(arguments)
    symbols = list(dict.fromkeys(name.strip().upper() for name in options.symbols.split(",") if name.strip()))
    if not symbols:
        parser.error("--symbols: expected at least one, such as BTCUSDT")
    stream = options.stream or ("trade" if options.market == "spot" else "aggTrade")
    endpoints = default_endpoints(options.market)
    if options.endpoint:
        if not all(url.startswith(("ws://", "wss://", "http://", "https://")) for url in options.endpoint):
            parser.error("--endpoint: expected a URL that begins with wss:// or https://")
        rest = tuple(url for url in options.endpoint if url.startswith("http"))
        ws = tuple(url for url in options.endpoint if url.startswith("ws"))
        endpoints = Endpoints(
            ws or tuple(url.replace("http", "ws", 1) for url in rest), rest or endpoints.rest
        )
    print(f"Binance {options.market}, {stream} stream of {', '.join(symbols)}")
    failed = False
    for finding in check(symbols, options.market, stream, endpoints, options.seconds):
        print(f"  {finding.state:4}  {finding.what:9}  {finding.text}", flush=True)
        failed |= finding.state == "FAIL"
    print("Something is wrong: see FAIL above." if failed else "All is as expected.")
    return 1 if failed else 0


if __name__ == "__main__":
    # The findings say it all.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    sys.exit(main())
