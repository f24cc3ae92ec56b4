"""Receive trades over a WebSocket, from the exchange's process to ordered TRADE blocks, beside the usual way.

Tried, and left out:

* ``batch_async``, Bytewax's own helper: 41,000 messages a second at most, and 100 ms behind at 50,000.
* ``websockets`` message by message into a queue: 5 us a message before anything is decoded.
* permessage-deflate: the exchange offers it, but inflating costs more than it saves on a local network.
"""

import argparse
import asyncio
import base64
import hashlib
import logging
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import aiohttp
import bytewax.operators as op
import numpy as np
import orjson
import structlog
from bytewax.dataflow import Dataflow
from bytewax.testing import TestingSink, run_main
from numpy.typing import NDArray
from typing_extensions import override
from websockets.asyncio.client import connect

from benchmarks.report import Row, report
from connectors.binance.clock import now_us
from connectors.binance.endpoints import Endpoints
from connectors.binance.events import Arrived, Frames
from connectors.binance.stream import BinanceSource
from flows.bars import BarLogic
from kernels.records import SECOND, Block, TableRows, Trades
from tests.support.processes import running, wait_for_line

_Result = TypeVar("_Result")

COMMAND = "python -m benchmarks.bench_feed"
PACKAGES = ["bytewax", "websockets", "aiohttp", "orjson", "numpy", "numba"]
STREAM = "/stream?streams=btcusdt@trade"
FLAT_OUT = 400_000
"""Trades sent as fast as they are taken."""
PACED = 20_000
"""Trades a second where delay is measured, for `SECONDS`."""
SECONDS = 4
SUSTAINED = 125_000
"""Mean trades a second of the simulated exchange; its rate drifts, above 100,000 all through this minute."""
SYMBOLS = [
    f"{name}USDT" for name in ("BTC", "ETH", "SOL", "BNB", "XRP", "DOGE", "ADA", "AVAX", "LINK", "DOT")
]
WARM_UP = 0.25
"""Part of a paced run that is left out: connections and caches settle."""


class Run(NamedTuple):
    """What receiving all trades of a server led to."""

    trades: int
    seconds: float
    cpu: float
    delays: NDArray[np.float64]  # ms from the server's stamp until the trade can be computed with


def serve(rate: int, count: int) -> None:
    """Send ``count`` trades to whoever connects: ``rate`` a second, or as fast as they are taken if 0."""
    template = (
        '{"stream":"btcusdt@trade","data":{"e":"trade","E":%d,"s":"BTCUSDT","t":%d,'
        '"p":"61234.56000000","q":"0.01234000","T":%d,"m":true,"M":true}}'
    )
    size = len(template % (10**15, 10**9, 10**15))
    head = bytes([0x81, 126]) + size.to_bytes(2, "big")

    def frame(i: int, now: int) -> bytes:
        return head + (template % (now, 10**9 + i, now)).encode()

    async def stream(incoming: asyncio.StreamReader, outgoing: asyncio.StreamWriter) -> None:
        request = await incoming.readuntil(b"\r\n\r\n")
        key = re.search(rb"(?i)sec-websocket-key: (\S+)", request)
        assert key is not None
        accept = base64.b64encode(hashlib.sha1(key[1] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
        outgoing.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
        )
        await asyncio.sleep(0.2)
        began, sent = time.perf_counter(), 0
        while sent < count:
            due = min(count, int((time.perf_counter() - began) * rate)) if rate else count
            if rate:
                now = time.time_ns() // 1_000
                outgoing.write(b"".join(frame(i, now) for i in range(sent, due)))
                sent = due
                await asyncio.sleep(0.0005)
            else:
                for i in range(0, count, 500):
                    outgoing.write(b"".join(ready[i : i + 500]))
                    await outgoing.drain()
                sent = count
        await incoming.read(1)
        outgoing.close()

    ready = [] if rate else [frame(i, 10**15) for i in range(count)]

    async def main() -> None:
        server = await asyncio.start_server(stream, "127.0.0.1", 0)
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.sleep(600)

    asyncio.run(main())


def pairflow(port: int, count: int) -> Run:
    """Poll the source as Bytewax does: again at once after a batch, after 1 ms without one."""
    endpoints = Endpoints((f"ws://127.0.0.1:{port}",), ("http://127.0.0.1:9",))
    partition = BinanceSource(["BTCUSDT"], endpoints=endpoints, stop=threading.Event()).build_part(
        "trades", "0", None
    )
    meter = _Meter(count)
    try:
        while meter.trades < count:
            items = list(partition.next_batch())
            for _, item in items:
                meter.note(item.trades["time"])
            if not items:
                time.sleep(0.001)
        return meter.stop()
    finally:
        partition.close()


class _Meter:
    def __init__(self, count: int) -> None:
        self.trades = 0
        self._count = count
        self._began = self._cpu = 0.0
        self._delays: list[NDArray[np.float64]] = []

    def note(self, times: NDArray[np.int64]) -> None:
        if not len(times):
            return
        if not self.trades:
            self._began, self._cpu = time.perf_counter(), time.process_time()
        self.trades += len(times)
        self._delays.append((time.time_ns() / 1_000 - times) / 1_000)

    def stop(self) -> Run:
        delays = np.concatenate(self._delays)[int(WARM_UP * self._count) :]
        return Run(self.trades, time.perf_counter() - self._began, time.process_time() - self._cpu, delays)


def _one_by_one(
    receive: Callable[[int, Callable[[bytes | str], bool]], object], port: int, count: int
) -> Run:
    """Decode each message by orjson as it comes; what a dataflow would do with it is not counted."""
    arrivals: list[int] = []
    values: list[tuple[int, int, float, float, str, bool]] = []
    cpu = 0.0

    def take(message: bytes | str) -> bool:
        nonlocal cpu
        data = orjson.loads(message)["data"]
        values.append((data["t"], data["T"], float(data["p"]), float(data["q"]), data["s"], data["m"]))
        arrivals.append(time.time_ns())
        cpu = cpu or time.process_time()
        return len(values) < count

    receive(port, take)
    delays = (np.array(arrivals) / 1_000 - np.array([value[1] for value in values])) / 1_000
    seconds = (arrivals[-1] - arrivals[0]) / 1e9
    return Run(count, seconds, time.process_time() - cpu, delays[int(WARM_UP * count) :])


def _websockets(port: int, take: Callable[[bytes | str], bool]) -> None:
    async def main() -> None:
        async with connect(f"ws://127.0.0.1:{port}{STREAM}", compression=None) as socket:
            async for message in socket:
                if not take(message):
                    break

    asyncio.run(main())


def _aiohttp(port: int, take: Callable[[bytes | str], bool]) -> None:
    async def main() -> None:
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(f"http://127.0.0.1:{port}{STREAM}") as socket,
        ):
            async for message in socket:
                if not take(message.data):
                    break

    asyncio.run(main())


RECEIVERS: dict[str, Callable[[int, int], Run]] = {
    "pairflow, ordered TRADE blocks": pairflow,
    "websockets + orjson, tuples": lambda port, count: _one_by_one(_websockets, port, count),
    "aiohttp + orjson, tuples": lambda port, count: _one_by_one(_aiohttp, port, count),
}


def against_server(receiver: Callable[[int, int], _Result], rate: int, count: int) -> _Result:
    """Run a receiver against a server in another process."""
    command = (sys.executable, "-m", "benchmarks.bench_feed", "--serve", str(rate), str(count))
    with running(*command, piped=True) as server:
        return receiver(int(wait_for_line(server)), count)


@contextmanager
def simulator(*arguments: str) -> Iterator[Endpoints]:
    """Run the simulated exchange in another process."""
    command = (sys.executable, "-m", "connectors.simulator", "--exit-with-parent", *arguments)
    with running(*command, piped=True) as exchange:
        url = wait_for_line(exchange).split()[-1]
        yield Endpoints((url.replace("http", "ws", 1),), (url,))


class _MeteredSource(BinanceSource):
    """Notes when the messages that a batch was made of were received."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.received: list[tuple[int, int]] = []  # local us, messages

    @override
    def build_part(self, step_id: str, for_part: str, resume_state: Any) -> Any:
        partition = super().build_part(step_id, for_part, resume_state)
        inbox: Any = getattr(partition, "_inbox")  # noqa: B009
        decoded = inbox._decoded

        def note(events: list[Frames]) -> Iterator[Arrived]:
            self.received += [(event.received, len(event.starts)) for event in events]
            return decoded(events)  # type: ignore[no-any-return]

        inbox._decoded = note
        return partition


class _MeteredBars(BarLogic):
    """The step that makes bars; counts the trades and says how long they took to get here."""

    def __init__(self, source: _MeteredSource, symbols: Sequence[str], counted: Callable[[], object]) -> None:
        timeframes = [0, SECOND, 60 * SECOND, 300 * SECOND]
        super().__init__(None, symbols=symbols, timeframes=timeframes, lateness=SECOND // 4)
        self._source = source
        self._counted = counted
        self.first = np.full(len(symbols), -1, np.int64)
        self.last = np.full(len(symbols), -1, np.int64)
        self.count = np.zeros(len(symbols), np.int64)
        self.out_of_order = self.gaps = self.bars = self.in_bars = 0
        self.waits: list[tuple[int, int]] = []  # us since a message was received, messages
        self.ages: list[NDArray[np.int64]] = []  # us since the sender's stamp
        self.began = self.cpu = 0.0

    @override
    def on_batch(self, values: list[Trades]) -> tuple[list[TableRows], bool]:
        now = now_us()
        if not self.began and any(len(block.trades) for block in values):
            self.began, self.cpu = time.perf_counter(), time.process_time()
        self.waits += [(now - received, messages) for received, messages in self._source.received]
        self._source.received.clear()
        for block in values:
            self.ages.append(now - block.trades["time"])
            self.gaps += int((block.gaps["repaired"] == 0).sum())
            self._count(block.trades)
        rows, keep = super().on_batch(values)
        for table, bars in rows:
            if table == "bars":
                seconds = bars[(bars["timeframe"] == SECOND) & (bars["version"] == 1)]
                self.bars += len(seconds)
                self.in_bars += int(seconds["trades"].sum())
        self._counted()
        return rows, keep

    def _count(self, trades: Block) -> None:
        if len(trades) == 0:
            return
        by_symbol = np.argsort(trades["symbol"], kind="stable")
        symbols, ids = trades["symbol"][by_symbol], trades["id"][by_symbol]
        cuts = np.flatnonzero(np.diff(symbols, prepend=-1))
        for begin, end in zip(cuts, np.append(cuts[1:], len(ids)), strict=True):
            symbol, mine = symbols[begin], ids[begin:end]
            if self.last[symbol] < 0:
                self.first[symbol], self.last[symbol] = mine[0], mine[0] - 1
            self.out_of_order += int((np.diff(mine, prepend=self.last[symbol]) != 1).sum())
            self.last[symbol] = mine[-1]
            self.count[symbol] += len(mine)


def through_flow(endpoints: Endpoints, symbols: Sequence[str], enough: Callable[[_MeteredBars], bool]) -> Row:
    """Run the real source, the real engine and the step that makes bars until there is enough."""
    stop = threading.Event()
    source = _MeteredSource(symbols, endpoints=endpoints, stop=stop)
    logics: list[_MeteredBars] = []

    def to_bars(state: Any) -> _MeteredBars:
        logics.append(_MeteredBars(source, symbols, lambda: stop.set() if enough(logics[0]) else None))
        return logics[0]

    flow = Dataflow("feed")
    arrived = op.input("trades", flow, source)
    bars = op.stateful_batch("bars", op.map("key", arrived, lambda item: ("all", item[1])), to_bars)
    op.output("nowhere", bars, TestingSink([]))
    run_main(flow)  # type: ignore[no-untyped-call]
    (logic,) = logics
    seconds, cpu = time.perf_counter() - logic.began, time.process_time() - logic.cpu
    trades = int(logic.count.sum())
    waits = np.repeat(*np.array(logic.waits).T)[int(WARM_UP * trades) :] / 1_000
    ages = np.concatenate(logic.ages)[int(WARM_UP * trades) :] / 1_000
    spans = logic.last - logic.first + 1
    exact = logic.out_of_order == 0 and (logic.count == spans)[logic.count > 0].all()
    return {
        "trades": trades,
        "seconds": seconds,
        "trades/s": int(trades / seconds),
        "symbols": int((logic.count > 0).sum()),
        "lost, twice or out of order": 0
        if exact
        else int(abs(logic.count - spans).sum() + logic.out_of_order),
        "gaps": logic.gaps,
        "trades in closed 1s bars": logic.in_bars,
        "CPU, %": cpu / seconds * 100,
        "hand-over p50, ms": float(np.percentile(waits, 50)),
        "p99, ms": float(np.percentile(waits, 99)),
        "since the sender's stamp p50, ms": float(np.percentile(ages, 50)),
        "p99 of that, ms": float(np.percentile(ages, 99)),
    }


def _receive() -> str:
    rows: list[Row] = []
    for name, receiver in RECEIVERS.items():
        fast = against_server(receiver, 0, FLAT_OUT)
        paced = against_server(receiver, PACED, PACED * SECONDS)
        p50, p99 = np.percentile(paced.delays, [50, 99])
        rows.append(
            {
                "receiver": name,
                "trades/s, flat out": int(fast.trades / fast.seconds),
                "CPU, us a trade": fast.cpu / fast.trades * 1e6,
                f"CPU at {PACED:,}/s, %": paced.cpu / paced.seconds * 100,
                "delay p50, ms": float(p50),
                "p99, ms": float(p99),
            }
        )
    note = (
        "Trades of one stream from a server in another process. Delay: from the server's stamp until the "
        "trade can be computed with; for pairflow that includes the hand-over to the dataflow's thread, "
        "which polls once a millisecond."
    )
    return report("Receive trades", COMMAND, rows, PACKAGES, note)


def _hand_over(seconds: int) -> str:
    count = PACED * seconds

    def flow(port: int, count: int) -> Row:
        endpoints = Endpoints((f"ws://127.0.0.1:{port}",), ("http://127.0.0.1:9",))
        return through_flow(endpoints, ["BTCUSDT"], lambda logic: int(logic.count.sum()) >= count)

    row = against_server(flow, PACED, count)
    note = (
        f"{PACED:,} trades a second from a server in another process, through Bytewax to the step that "
        "makes bars. Hand-over: from the moment the socket gave the message until that step was called with "
        "its trade, decoded and in order. Since the sender's stamp: with the way through the kernel, and all "
        "that the sender itself was late."
    )
    return report("Hand trades over to the dataflow", f"{COMMAND} hand-over", [row], PACKAGES, note)


def _sustain(seconds: int) -> str:
    with simulator("--symbols", ",".join(SYMBOLS), "--rate", str(SUSTAINED), "--history", "0") as endpoints:
        ends: list[float] = []

        def enough(logic: _MeteredBars) -> bool:
            if not ends and logic.began:
                ends.append(time.perf_counter() + seconds)
            return bool(ends) and time.perf_counter() > ends[0]

        row = through_flow(endpoints, SYMBOLS, enough)
    note = (
        f"The simulated exchange in another process, set to {SUSTAINED:,} trades a second in {len(SYMBOLS)} "
        f"symbols, for {seconds} s: over one WebSocket connection, through Bytewax, to bars of 100 ms, 1 s, "
        "1 min and 5 min. Lost, twice or out of order: against last id - first id + 1 of each symbol. The "
        "exchange sends what 10 ms brought at once: its stamps are 5 ms older than the messages on average."
    )
    return report("Sustain a fast market", f"{COMMAND} sustain", [row], PACKAGES, note)


def main() -> None:
    """Measure, and print the reports."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help="receive, hand-over, sustain (default: all)")
    parser.add_argument("--seconds", type=int, default=60, help="of the two last parts (%(default)s)")
    parser.add_argument("--serve", nargs=2, type=int, metavar=("RATE", "COUNT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(*options.serve)
        return
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    parts: dict[str, Callable[[], str]] = {
        "receive": _receive,
        "hand-over": lambda: _hand_over(options.seconds),
        "sustain": lambda: _sustain(options.seconds),
    }
    if unknown := [part for part in options.parts if part not in parts]:
        parser.error(f"{unknown[0]}: expected some of {', '.join(parts)}")
    for part in options.parts or parts:
        print(parts[part]())


if __name__ == "__main__":
    main()
