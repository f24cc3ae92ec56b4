"""Run the live feed against an exchange that misbehaves by seeded schedules, and count every trade.

    python -m benchmarks.faults --seeds 1000

Each schedule breaks, stalls, doubles, cuts, reorders and refuses what it can, while the reader is now and
then slow, short of memory, or restarted from its last snapshot. Whatever happens, each symbol's trades must
come once, in id order, without a hole, equal to what the exchange did, and each healed hole must be a row of
`gaps`.
"""

import argparse
import logging
import random
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import takewhile
from multiprocessing import get_context
from typing import Any

import numpy as np
import structlog

from connectors.binance.stream import BinanceSource, Endpoints, FeedState, FeedStatus
from connectors.simulator import Config, Simulator
from connectors.simulator.faults import schedule
from kernels.records import GAP, GAP_REPAIRS, TRADE, Block, Trades

SPEED = 5.0
"""Exchange seconds per second: faults last seconds of exchange time."""
FAULTS_FOR = 40.0
"""Exchange seconds during which faults occur."""
CATCH_UP = 60.0
"""Seconds in which the feed must have healed once the faults are over."""


@dataclass
class Outcome:
    """What a schedule led to."""

    seed: int
    trades: int
    gaps: int
    restored: int
    reconnections: int
    restarts: int
    overflows: int
    malformed: int
    problems: list[str]


class _Reader:
    """Polls a partition as a dataflow does, with the habits that the seed gives it."""

    def __init__(self, draw: random.Random, source_options: dict[str, Any], symbols: Sequence[str]) -> None:
        self.draw = draw
        self.options = source_options
        self.symbols = symbols
        self.blocks: list[Trades] = []
        self.problems: list[str] = []
        self.restarts = 0
        self.status = FeedStatus()
        self.totals = [0, 0, 0, 0]
        self.most_held = self.most_buffered = 0
        self.partition = self._build(None)

    def _build(self, state: FeedState | None) -> Any:
        self.totals = [a + b for a, b in zip(self.totals, self._counts())]
        self.status = FeedStatus()
        source = BinanceSource(self.symbols, stop=threading.Event(), status=self.status, **self.options)
        return source.build_part("trades", "0", state)

    def _counts(self) -> list[int]:
        status = self.status
        return [status.restored, status.reconnections, status.overflows, status.decode.malformed]

    def poll(self, until: float, restless: bool) -> None:
        """Poll until a monotonic time."""
        while time.monotonic() < until:
            for _, trades in self.partition.next_batch():
                if self.blocks and trades.watermark < self.blocks[-1].watermark:
                    self.problems.append("the watermark went back")
                self.blocks.append(trades)
            self.most_held = max(self.most_held, self.status.held)
            self.most_buffered = max(self.most_buffered, self.status.buffered_bytes)
            time.sleep(0.002)
            if restless and self.draw.random() < 0.0005:
                time.sleep(self.draw.uniform(0.1, 1.0))
            elif restless and self.draw.random() < 0.0003:
                state = self.partition.snapshot()
                self.partition.close()
                self.restarts += 1
                self.partition = self._build(state)

    def emitted(self) -> Block:
        """Return all trades handed out so far."""
        return np.concatenate([np.empty(0, TRADE), *(block.trades for block in self.blocks)])

    def gaps(self) -> Block:
        """Return all gap rows handed out so far."""
        return np.concatenate([np.empty(0, GAP), *(block.gaps for block in self.blocks)])


def run(seed: int) -> Outcome:
    """Run one schedule and check what came of it."""
    draw = random.Random(seed)
    symbols = ("AAAUSDT", "BBBUSDT", "CCCUSDT", "DDDUSDT")[: draw.randint(1, 4)]
    faults = takewhile(lambda fault: (fault.at or 0) < FAULTS_FOR, schedule(seed, symbols, mean=4.0))
    config = Config(
        symbols=symbols,
        rate=draw.choice([20.0, 100.0, 300.0]),
        seed=seed,
        speed=SPEED,
        quiet=symbols[1:2] if draw.random() < 0.5 else (),
        history=600,
        faults=tuple(faults),
        weight_limit=60_000,
        life=draw.choice([86_400.0, 2.0]),
    )
    stream = draw.choice(["trade", "trade", "aggTrade"])
    queue_bytes, max_held = draw.choice([64 << 20, 100_000]), draw.choice([1_000_000, 1_000])
    with Simulator(config) as exchange:
        endpoints = Endpoints((exchange.ws_url,), (exchange.url,))
        options = {
            "stream": stream,
            "endpoints": endpoints,
            "queue_bytes": queue_bytes,
            "max_held": max_held,
            "stale": 1.0,
            "life": draw.choice([86_400.0, 1.5]),
        }
        reader = _Reader(draw, options, symbols)
        try:
            reader.poll(time.monotonic() + FAULTS_FOR / SPEED, restless=True)
            problems = _settle(reader, exchange)
        finally:
            reader.partition.close()
        problems += reader.problems + _check(reader, exchange, stream)
        if reader.most_held > 2 * max_held:
            problems.append(f"{reader.most_held} trades held, at most {2 * max_held} allowed")
        if reader.most_buffered > queue_bytes + (1 << 18):
            problems.append(f"{reader.most_buffered} bytes queued, at most {queue_bytes} allowed")
    restored, reconnections, overflows, malformed = (a + b for a, b in zip(reader.totals, reader._counts()))
    gaps = reader.gaps()
    return Outcome(
        seed,
        len(reader.emitted()),
        len(np.unique(gaps[["symbol", "first_id"]])) if len(gaps) else 0,
        restored,
        reconnections,
        reader.restarts,
        overflows,
        malformed,
        problems,
    )


def _settle(reader: _Reader, exchange: Simulator) -> list[str]:
    """Poll until everything that had happened when the faults ended has come."""
    deadline = time.monotonic() + CATCH_UP
    reader.poll(time.monotonic() + 0.5, restless=False)
    target = exchange.now()
    while time.monotonic() < deadline:
        reader.poll(time.monotonic() + 0.2, restless=False)
        watermark = reader.blocks[-1].watermark if reader.blocks else 0
        if watermark >= target and reader.status.open_gaps == 0 and reader.status.held == 0:
            return []
    return [f"not healed {CATCH_UP:g} s after the last fault: {reader.status}"]


def _check(reader: _Reader, exchange: Simulator, stream: str) -> list[str]:
    problems = []
    emitted, gaps = reader.emitted(), reader.gaps()
    for symbol, name in enumerate(reader.symbols):
        trades = emitted[emitted["symbol"] == symbol]
        ids = trades["id"]
        if len(ids) and not (len(ids) == len(np.unique(ids)) == ids[-1] - ids[0] + 1):
            problems.append(f"{name}: {len(ids)} trades, ids {ids[0]} to {ids[-1]}")
        if (np.diff(ids) != 1).any():
            problems.append(f"{name}: out of order at {ids[1:][np.diff(ids) != 1][:5]}")
        if stream == "trade" and len(ids):
            truth = exchange.trades(name, int(ids[0]), int(ids[-1]))
            for column in ("id", "time", "price", "quantity", "buyer_is_maker"):
                if len(truth) != len(trades) or (truth[column] != trades[column]).any():
                    problems.append(f"{name}: {column} differs from what the exchange did")
                    break
        mine = gaps[gaps["symbol"] == symbol]
        opened = mine["first_id"][mine["repair"] == GAP_REPAIRS.index("open")]
        closed = np.sort(mine[mine["repair"] != GAP_REPAIRS.index("open")], order="first_id")
        if not np.isin(opened, closed["first_id"]).all():
            problems.append(f"{name}: a gap was never closed")
        if (closed["first_id"][1:] <= closed["last_id"][:-1]).any():
            problems.append(f"{name}: closed gaps overlap")
        if (closed["repair"] == GAP_REPAIRS.index("unavailable")).any():
            problems.append(f"{name}: trades given up although REST has them")
    restored = reader.status.restored
    # A restart fetches again what had been restored but not handed out.
    if reader.restarts == 0 and restored > gaps["restored"].sum():
        problems.append(f"{restored} trades restored, {gaps['restored'].sum()} of them in gap rows")
    return problems


def _quiet() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))


def run_all(seeds: Iterable[int], at_once: int = 8) -> Iterator[Outcome]:
    """Run schedules side by side, in processes of their own."""
    with ProcessPoolExecutor(at_once, get_context("spawn"), _quiet) as pool:
        yield from pool.map(run, seeds)


def main(arguments: list[str] | None = None) -> int:
    """Run schedules; print those that failed and a summary."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=__doc__)
    parser.add_argument("--seeds", type=int, default=20, help="how many schedules")
    parser.add_argument("--first", type=int, default=0, help="seed of the first")
    parser.add_argument("--at-once", type=int, default=8, help="how many side by side")
    options = parser.parse_args(arguments)
    outcomes = []
    for outcome in run_all(range(options.first, options.first + options.seeds), options.at_once):
        outcomes.append(outcome)
        for problem in outcome.problems:
            print(f"seed {outcome.seed}: {problem}", flush=True)
    failed = sum(bool(outcome.problems) for outcome in outcomes)
    names = ("trades", "gaps", "restored", "reconnections", "restarts", "overflows", "malformed")
    totals = ", ".join(f"{sum(getattr(o, name) for o in outcomes):,} {name}" for name in names)
    print(f"{len(outcomes)} schedules, {failed} failed; {totals}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
