"""How soon trades that were missed during an outage are there again.

    python -m benchmarks.bench_heal [--cuts 6]

The simulated exchange runs in another process, with Binance's weights and limits, and takes as long for each
REST answer as a distant host. Its port closes for some seconds, and all connections with it; the trades of
that time can be had by REST alone, while the market goes on.
"""

import argparse
import json
import logging
import sys
import threading
import time
import urllib.request
from collections.abc import Sequence
from typing import Any

import numpy as np
import structlog

from benchmarks.bench_feed import simulator
from benchmarks.report import Row, report
from connectors.binance.endpoints import Endpoints
from connectors.binance.stream import BinanceSource
from kernels.records import GAP_REPAIRS, SECOND, Block, Trades

COMMAND = "python -m benchmarks.bench_heal"
SYMBOLS = 50
RATE = 1_500.0
"""Trades a second of all symbols together; fifty busy symbols of Binance average about as many."""
OUTAGE = 10.0
LATENCY = 0.1
"""Seconds that REST takes to answer."""
BETWEEN = 30.0
"""Seconds from one outage to the next: two outages share the weight of a minute."""
GIVE_UP = 120.0
_OPEN = GAP_REPAIRS.index("open")
_UNAVAILABLE = GAP_REPAIRS.index("unavailable")


class _Reader:
    """Polls a source as the engine does, on a thread of its own."""

    def __init__(self, source: BinanceSource) -> None:
        self.status = source.status
        self.trades: list[Block] = []
        self.gaps: list[Block] = []
        self._source = source
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        partition = self._source.build_part("trades", "0", None)
        try:
            while not self._ended.is_set():
                items: list[tuple[str, Trades]] = list(partition.next_batch())
                for _, item in items:
                    self.trades.append(item.trades[["symbol", "id"]].copy())
                    self.gaps.append(item.gaps)
                if not items:
                    time.sleep(0.001)
        finally:
            partition.close()

    @property
    def live(self) -> bool:
        return "live" in self.status.connections.values()

    def close(self) -> None:
        self._ended.set()
        self._thread.join()


def _wait(condition: Any, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return False


def _order(endpoints: Endpoints, faults: Sequence[dict[str, Any]]) -> None:
    request = urllib.request.Request(f"{endpoints.rest[0]}/simulator/faults", json.dumps(faults).encode())
    urllib.request.urlopen(request).close()


def _outage(endpoints: Endpoints, reader: _Reader) -> tuple[float, float]:
    """Cut the feed; return the seconds until it was connected again, and from there until all was healed."""
    _order(endpoints, [{"kind": "refuse", "duration": OUTAGE}, {"kind": "abort"}])
    cut = time.monotonic()
    if not _wait(lambda: not reader.live, 10) or not _wait(lambda: reader.live, 60):
        sys.exit("the connection was not cut, or not made again")
    again = time.monotonic()
    before = len(reader.gaps)
    # A moment in which nothing is missing may come before it is known what is.
    _wait(lambda: any(len(block) for block in reader.gaps[before:]), 30)

    def healed() -> bool:
        return reader.status.open_gaps == 0 and reader.status.held == 0

    while _wait(healed, GIVE_UP):
        done = time.monotonic()
        if not _wait(lambda: not healed(), 2.0):
            return again - cut, done - again
    return again - cut, float("inf")


def measure(cuts: int) -> Row:
    """Cut the feed some times; return the figures."""
    names = [f"{chr(65 + i // 26)}{chr(65 + i % 26)}COINUSDT" for i in range(SYMBOLS)]
    arguments = ("--symbols", ",".join(names), "--rate", str(RATE), "--rest-latency", str(LATENCY))
    with simulator(*arguments, "--history", "0.1") as endpoints:
        source = BinanceSource(names, endpoints=endpoints, stop=threading.Event())
        reader = _Reader(source)
        try:
            if not _wait(lambda: reader.live, 30):
                sys.exit("no connection")
            time.sleep(60 - time.time() % 60 + 5)  # the start used some weight too
            walls, offline, weights = [], [], []
            for _ in range(cuts):
                began = time.monotonic()
                down, wall = _outage(endpoints, reader)
                walls.append(wall)
                offline.append(down)
                weights.append(reader.status.weight_used)
                print(f"offline {down:.1f} s, healed after {wall:.2f} s", file=sys.stderr, flush=True)
                time.sleep(max(0.0, began + BETWEEN - time.monotonic()))
        finally:
            reader.close()
    trades = np.concatenate(reader.trades)
    spans = []
    for symbol in range(SYMBOLS):
        ids = trades["id"][trades["symbol"] == symbol]
        spans.append(len(ids) == 0 or bool((np.diff(ids) == 1).all()))
    gaps = np.concatenate(reader.gaps)
    closed = gaps[gaps["repair"] != _OPEN]
    times = (closed["repaired"] - closed["detected"]) / SECOND
    return {
        "outages": cuts,
        "offline, s": float(np.median(offline)),
        "gaps": len(closed),
        "trades restored": int(closed["restored"].sum()),
        "given up": int((closed["repair"] == _UNAVAILABLE).sum()),
        "symbols whole": int(sum(spans)),
        "a gap p50, s": float(np.median(times)),
        "p99, s": float(np.percentile(times, 99)),
        "all healed p50, s": float(np.median(walls)),
        "worst, s": float(max(walls)),
        "weight of a minute, most": int(max(weights)),
    }


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument("--cuts", type=int, default=6, help="how many outages (%(default)s)")
    cuts = parser.parse_args().cuts
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    note = (
        f"{SYMBOLS} symbols with {RATE:,.0f} trades a second in all, from the simulated exchange in another "
        "process, with Binance's limits: 6,000 weight a minute, of which 80 % is used, 25 a page of 1,000 "
        f"trades; REST takes {LATENCY * 1000:.0f} ms to answer. Its port is closed for {OUTAGE:.0f} s, every "
        f"{BETWEEN:.0f} s. A gap: from its detection until its last trade was handed out. All healed: from "
        "the reconnection until nothing is missing any more. Symbols whole: every id once, in order."
    )
    print(report("Heal an outage", COMMAND, [measure(cuts)], ["websockets", "aiohttp", "numpy"], note))


if __name__ == "__main__":
    main()
