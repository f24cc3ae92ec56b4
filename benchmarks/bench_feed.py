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
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

import aiohttp
import numpy as np
import orjson
import structlog
from numpy.typing import NDArray
from websockets.asyncio.client import connect

from benchmarks.report import Row, report
from connectors.binance.stream import BinanceSource, Endpoints

COMMAND = "python -m benchmarks.bench_feed"
PACKAGES = ["websockets", "aiohttp", "orjson", "numpy", "numba"]
STREAM = "/stream?streams=btcusdt@trade"
FLAT_OUT = 400_000
"""Trades sent as fast as they are taken."""
PACED = 20_000
"""Trades a second where delay is measured, for `SECONDS`."""
SECONDS = 4
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
        await asyncio.sleep(120)

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


def against_server(receiver: Callable[[int, int], Run], rate: int, count: int) -> Run:
    """Run a receiver against a server in another process."""
    command = [sys.executable, "-m", "benchmarks.bench_feed", "--serve", str(rate), str(count)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            return receiver(int(server.stdout.readline()), count)
        finally:
            server.kill()


def main() -> None:
    """Measure, and print the report."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument("--serve", nargs=2, type=int, metavar=("RATE", "COUNT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(*options.serve)
        return
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
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
    print(report("Receive trades", COMMAND, rows, PACKAGES, note))


if __name__ == "__main__":
    main()
