"""Run the live feed against an exchange that misbehaves by seeded schedules, and count every trade.

    python -m tests.faults.schedules --seeds 1000

Each schedule breaks, stalls, doubles, cuts, reorders and refuses what it can, halts or delists a symbol,
while the reader is now and then slow, short of memory, or restarted from its last snapshot. Whatever happens,
each symbol's trades must come once, in id order, without a hole, equal to what the exchange did; their bars
must equal those of a run that nothing disturbs; each healed hole must be a row of `gaps`; and what waits must
stay within its bounds.
"""

import argparse
import logging
import os
import random
import re
import resource
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import takewhile
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import structlog

from connectors.binance.endpoints import Endpoints
from connectors.binance.feed import FeedStatus
from connectors.binance.stream import BinanceSource, FeedState
from connectors.simulator import Config, Simulator
from connectors.simulator.faults import KINDS, Fault, schedule
from flows.bars import BarLogic
from kernels.records import BAR, GAP, GAP_REPAIRS, SECOND, TRADE, Block, Trades

SPEED = 5.0
"""Exchange seconds per second: faults last seconds of exchange time."""
FAULTS_FOR = 40.0
"""Exchange seconds during which faults occur."""
CATCH_UP = 150.0
"""Seconds in which the feed must have healed once the faults are over: REST may time out for 50 of them."""
MOST_MEMORY = 1_000
"""MB that a process may ever hold: exchange, feed, and all trades and bars of one schedule."""
TIMEFRAMES = (SECOND, 60 * SECOND)
LATENESS = SECOND // 4
_OPEN, _UNAVAILABLE = GAP_REPAIRS.index("open"), GAP_REPAIRS.index("unavailable")


@dataclass
class Outcome:
    """What a schedule led to."""

    seed: int
    trades: int
    bars: int
    gaps: int
    restored: int
    reconnections: int
    restarts: int
    pauses: int
    overflows: int
    malformed: int
    most_held: int
    most_buffered: int  # bytes
    process: int
    memory: float  # MB that the process has held at most so far
    faults: Counter[str]
    """How often each kind of fault hit something."""
    problems: list[str]


class _Reader:
    """Polls a partition as a dataflow does, with the habits that the seed gives it."""

    def __init__(self, draw: random.Random, source_options: dict[str, Any], symbols: Sequence[str]) -> None:
        self.draw = draw
        self.options = source_options
        self.symbols = symbols
        self.blocks: list[Trades] = []
        self.bars = [np.empty(0, BAR)]
        self.problems: list[str] = []
        self.restarts = self.pauses = 0
        self.status = FeedStatus()
        self.totals = [0, 0, 0, 0]
        self.most_held = self.most_buffered = 0
        self.partition = self._build(None)
        self.logic = new_bars(symbols, None)

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
                self.bars += bars_out(self.logic, trades)
            self.most_held = max(self.most_held, self.status.held)
            self.most_buffered = max(self.most_buffered, self.status.buffered_bytes)
            time.sleep(0.002)
            if restless and self.draw.random() < 0.0005:
                self.pauses += 1
                time.sleep(self.draw.uniform(0.1, 1.0))
            elif restless and self.draw.random() < 0.0003:
                state, bars = self.partition.snapshot(), self.logic.snapshot()
                self.partition.close()
                self.restarts += 1
                self.partition = self._build(state)
                self.logic = new_bars(self.symbols, bars)

    def emitted(self) -> Block:
        """Return all trades handed out so far."""
        return np.concatenate([np.empty(0, TRADE), *(block.trades for block in self.blocks)])

    def gaps(self) -> Block:
        """Return all gap rows handed out so far."""
        return np.concatenate([np.empty(0, GAP), *(block.gaps for block in self.blocks)])


def _peak_memory() -> float:
    """Return the most memory that this process has had, MB."""
    try:
        # Not ru_maxrss, which begins with that of the process that started this one.
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    except OSError:
        found = None
    if found:
        return int(found[1]) / 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (2**20 if sys.platform == "darwin" else 1024)


def new_bars(symbols: Sequence[str], state: bytes | None) -> BarLogic:
    """Return the step that makes bars, as the dataflow has it."""
    return BarLogic(state, symbols=symbols, timeframes=TIMEFRAMES, lateness=LATENESS)


def bars_out(logic: BarLogic, trades: Trades) -> list[Block]:
    """Return the bars that some trades close or change."""
    return [block for table, block in logic.on_batch([trades])[0] if table == "bars"]


def stopped_symbols(seed: int, symbols: Sequence[str]) -> list[Fault]:
    """Return the halts and delistings of a schedule: in some, of one symbol each."""
    draw = random.Random(f"symbols {seed}")
    faults = []
    if draw.random() < 0.5:
        duration = round(draw.uniform(2.0, 15.0), 3)
        faults.append(Fault("halt", draw.uniform(0, FAULTS_FOR), duration, symbol=draw.choice(symbols)))
    if draw.random() < 0.2:
        faults.append(Fault("delist", draw.uniform(5, FAULTS_FOR), symbol=draw.choice(symbols)))
    return faults


def run(seed: int) -> Outcome:
    """Run one schedule and check what came of it."""
    draw = random.Random(seed)
    symbols = ("AAAUSDT", "BBBUSDT", "CCCUSDT", "DDDUSDT")[: draw.randint(1, 4)]
    drawn = takewhile(lambda fault: (fault.at or 0) < FAULTS_FOR, schedule(seed, symbols, mean=4.0))
    faults = [*drawn, *stopped_symbols(seed, symbols)]
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
        hits = exchange.hits
        if reader.most_held > 2 * max_held:
            problems.append(f"{reader.most_held} trades held, at most {2 * max_held} allowed")
        if reader.most_buffered > queue_bytes + (1 << 18):
            problems.append(f"{reader.most_buffered} bytes queued, at most {queue_bytes} allowed")
    memory = _peak_memory()
    if memory > MOST_MEMORY:
        problems.append(f"{memory:.0f} MB of memory, at most {MOST_MEMORY} expected")
    restored, reconnections, overflows, malformed = (a + b for a, b in zip(reader.totals, reader._counts()))
    gaps = reader.gaps()
    return Outcome(
        seed,
        len(reader.emitted()),
        len(latest(reader.bars)),
        len(np.unique(gaps[["symbol", "first_id"]])) if len(gaps) else 0,
        restored,
        reconnections,
        reader.restarts,
        reader.pauses,
        overflows,
        malformed,
        reader.most_held,
        reader.most_buffered,
        os.getpid(),
        memory,
        hits,
        problems,
    )


def _settle(reader: _Reader, exchange: Simulator) -> list[str]:
    """Poll until everything that had happened when the faults ended has come."""
    deadline = time.monotonic() + CATCH_UP
    reader.poll(time.monotonic() + 0.5, restless=False)
    target = exchange.now()
    while time.monotonic() < deadline:
        reader.poll(time.monotonic() + 0.1, restless=False)
        watermark = reader.blocks[-1].watermark if reader.blocks else 0
        if watermark >= target and reader.status.open_gaps == 0 and reader.status.held == 0:
            return []
    return [f"not healed {CATCH_UP:g} s after the last fault: {reader.status}"]


def _check(reader: _Reader, exchange: Simulator, stream: str) -> list[str]:
    problems = []
    emitted, gaps = reader.emitted(), reader.gaps()
    truth: list[Block] = []
    for symbol, name in enumerate(reader.symbols):
        trades = emitted[emitted["symbol"] == symbol]
        ids = trades["id"]
        if len(ids) and not (len(ids) == len(np.unique(ids)) == ids[-1] - ids[0] + 1):
            problems.append(f"{name}: {len(ids)} trades, ids {ids[0]} to {ids[-1]}")
        if (np.diff(ids) != 1).any():
            problems.append(f"{name}: out of order at {ids[1:][np.diff(ids) != 1][:5]}")
        if len(ids):
            did = exchange.trades(name, int(trades["first_id"][0]), int(trades["last_id"][-1]))
            truth.append(did)
            problems += [f"{name}: {difference}" for difference in _differences(trades, did, stream)]
        mine = gaps[gaps["symbol"] == symbol]
        opened = mine["first_id"][mine["repair"] == _OPEN]
        closed = np.sort(mine[mine["repair"] != _OPEN], order="first_id")
        if not np.isin(opened, closed["first_id"]).all():
            problems.append(f"{name}: a gap was never closed")
        if (closed["first_id"][1:] <= closed["last_id"][:-1]).any():
            problems.append(f"{name}: closed gaps overlap")
        if (closed["repair"] == _UNAVAILABLE).any():
            problems.append(f"{name}: trades given up although REST has them")
    restored = reader.status.restored
    # A restart fetches again what had been restored but not handed out.
    if reader.restarts == 0 and restored > gaps["restored"].sum():
        problems.append(f"{restored} trades restored, {gaps['restored'].sum()} of them in gap rows")
    if truth:
        problems += _compare_bars(reader, np.concatenate(truth))
    return problems


def _differences(trades: Block, truth: Block, stream: str) -> Iterator[str]:
    """Tell how trades, or aggregates, of a symbol differ from the trades that the exchange did."""
    if stream == "trade":
        if len(trades) != len(truth):
            yield f"{len(trades)} trades, the exchange did {len(truth)}"
            return
    else:
        # Each aggregate holds the trades behind those of the one before, all at its price and time.
        begins = trades["first_id"] - trades["first_id"][0]
        if (trades["first_id"][1:] != trades["last_id"][:-1] + 1).any():
            yield "aggregates do not hold each trade once"
            return
        quantities = np.round(np.add.reduceat(truth["quantity"], begins), 8)
        sizes = trades["last_id"] - trades["first_id"] + 1
        if (np.repeat(trades["price"], sizes) != truth["price"]).any():
            yield "aggregates hold trades of other prices"
        truth = truth[begins]
        truth["quantity"] = quantities
    for column in ("time", "price", "quantity", "buyer_is_maker"):
        if (truth[column] != trades[column]).any():
            yield f"{column} differs from what the exchange did"


def latest(bars: Sequence[Block]) -> Block:
    """Return the highest version of each bar, in order of timeframe, symbol and time."""
    rows = np.concatenate(list(bars))
    rows = rows[np.lexsort((rows["version"], rows["open_time"], rows["symbol"], rows["timeframe"]))]
    keys = rows[["timeframe", "symbol", "open_time"]]
    return rows[np.append(keys[1:] != keys[:-1], True)] if len(rows) else rows


def _compare_bars(reader: _Reader, truth: Block) -> Iterator[str]:
    """Tell how bars differ from those of the same trades in one piece and in order."""
    # Bars that late trades changed come out when the next one closes; trades move the clock too.
    watermark = max(reader.blocks[-1].watermark, int(truth["time"].max())) + 2 * SECOND
    no_gaps = np.empty(0, GAP)
    last = bars_out(reader.logic, Trades(np.empty(0, TRADE), watermark, no_gaps))
    found = latest([*reader.bars, *last])
    truth = truth[np.argsort(truth["time"], kind="stable")]
    calm = bars_out(new_bars(reader.symbols, None), Trades(truth, watermark, no_gaps))
    expected = latest([np.empty(0, BAR), *calm])
    begins = {s: int(truth["time"][truth["symbol"] == s].min()) for s in np.unique(truth["symbol"])}
    began = int(reader.emitted()["time"][0])  # bars from before the first trade handed out are provisional
    for symbol, name in enumerate(reader.symbols):
        ours, theirs = (
            rows[(rows["symbol"] == symbol) & (rows["open_time"] >= max(begins.get(symbol, 0), began))]
            for rows in (found, expected)
        )
        if len(ours) != len(theirs):
            yield f"{name}: {len(ours)} bars, {len(theirs)} without faults"
            continue
        for column in BAR.names or ():
            if column == "version":
                continue
            differ = ours[column] != theirs[column]
            if differ.any():
                row = ours[np.argmax(differ)]
                yield f"{name}: {column} of {differ.sum()} bars differs, first at {row['open_time']}"


def _quiet() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))


def run_all(seeds: Iterable[int], at_once: int = 8) -> Iterator[Outcome]:
    """Run schedules side by side, in processes of their own."""
    with ProcessPoolExecutor(at_once, get_context("spawn"), _quiet) as pool:
        yield from pool.map(run, seeds)


def main(arguments: list[str] | None = None) -> int:
    """Run schedules; print those that failed and a summary."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.schedules", description=__doc__)
    parser.add_argument("--seeds", type=int, default=20, help="how many schedules")
    parser.add_argument("--first", type=int, default=0, help="seed of the first")
    parser.add_argument("--at-once", type=int, default=8, help="how many side by side")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the processes end with this one
    outcomes = []
    for outcome in run_all(range(options.first, options.first + options.seeds), options.at_once):
        outcomes.append(outcome)
        for problem in outcome.problems:
            print(f"seed {outcome.seed}: {problem}", flush=True)
        if len(outcomes) % 100 == 0:
            print(f"{len(outcomes)} schedules done", flush=True)
    return summarise(outcomes)


def summarise(outcomes: Sequence[Outcome]) -> int:
    """Print what schedules led to, and how often each fault occurred; return 1 if any failed."""
    failed = [outcome.seed for outcome in outcomes if outcome.problems]
    print(f"{len(outcomes)} schedules, {len(failed)} failed{': seeds ' * bool(failed)}{str(failed)[1:-1]}")
    names = ("trades", "bars", "gaps", "restored", "reconnections", "restarts", "pauses", "overflows")
    totals = ((name, sum(getattr(o, name) for o in outcomes)) for name in (*names, "malformed"))
    print(", ".join(f"{total:,} {name}" for name, total in totals))
    held, buffered = max(o.most_held for o in outcomes), max(o.most_buffered for o in outcomes)
    first = {o.process: o.memory for o in reversed(outcomes)}
    last = {o.process: o.memory for o in outcomes}
    print(
        f"at most {held:,} trades held and {buffered:,} bytes queued; memory of a process at most "
        f"{max(last.values()):.0f} MB, after its first schedule {max(first.values()):.0f} MB"
    )
    hits: Counter[str] = Counter()
    schedules: Counter[str] = Counter()
    for outcome in outcomes:
        hits += outcome.faults
        schedules.update(kind for kind, times in outcome.faults.items() if times)
    absent = [kind for kind in KINDS if kind != "remove" and not any(hit.split()[0] == kind for hit in hits)]
    for kind in sorted(hits):
        print(f"  {kind:<10} hit {hits[kind]:>7,} times, in {schedules[kind]:>5,} schedules")
    print(f"never: {', '.join(absent) or 'none'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
