"""How many trades a second the whole flow takes, from recorded messages to stored rows, and where time goes.

    python -m benchmarks.bench_flow [--trades 5000000]

The recordings of USD-M futures are repeated, with ids and times shifted so that they go on, until there are
as many trades as asked for: real messages in their real rhythm, but not real history.
"""

import argparse
import gzip
import re
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.report import report
from tests.support.processes import run_flow

RECORDINGS = Path(__file__).parents[2] / "shared" / "data" / "recorded" / "usdm"
_TRADE = re.compile(rb'(\d+) (.*"E":)(\d+)(,"T":)(\d+)(,"s":")(\w+)(","t":)(\d+)(,.*)\n', re.DOTALL)


def _lines() -> list[bytes]:
    """Return the recorded trade messages, by time of arrival."""
    lines = []
    for file in sorted(RECORDINGS.glob("*.gz")):
        with gzip.open(file) as stream:
            lines += [line for line in stream if b"@trade" in line[:60]]
    return sorted(lines, key=lambda line: int(line.split(b" ", 1)[0]))


def _repeated(lines: list[bytes], trades: int) -> Iterator[bytes]:
    """Repeat the messages, ids and times going on where the repetition before ended."""
    parts = [found.groups() for line in lines if (found := _TRADE.fullmatch(line))]
    counts: dict[bytes, int] = {}
    for part in parts:
        counts[part[6]] = counts.get(part[6], 0) + 1
    span = (int(parts[-1][4]) - int(parts[0][4])) // 1_000 * 1_000 + 2_000  # ms
    for turn in range(-(-trades // len(parts))):
        ms = turn * span
        for came, a, event, b, traded, c, symbol, d, number, e in parts[: trades - turn * len(parts)]:
            yield b"%d %s%d%s%d%s%s%s%d%s\n" % (
                int(came) + ms * 1_000_000,
                a,
                int(event) + ms,
                b,
                int(traded) + ms,
                c,
                symbol,
                d,
                int(number) + turn * counts[symbol],
                e,
            )


def measure_flow(source: str, folder: Path, **settings: str) -> tuple[float, float, float]:
    """Run the flow on a source; return wall and CPU seconds and the peak of its memory in MB."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    run_flow(folder / "data", SOURCE=source, STATUS_INTERVAL="0", **settings)
    wall = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, cpu, after.ru_maxrss / 1024


def _stages(recording: Path, folder: Path) -> dict[str, float]:
    """Run the parts of the flow one after another, without the engine; return the seconds of each."""
    import numpy as np

    from connectors.binance.recording import RecordingSource
    from connectors.clickhouse.sink import Columns
    from connectors.clickhouse.store import Store
    from flows.bars import TICKS, BarLogic
    from flows.pair_metrics import PairLogic, PairOptions
    from kernels.records import Block

    symbols, pairs, timeframes = (
        ["BTCUSDT", "ETHUSDT"],
        ["ETHUSDT/BTCUSDT"],
        [0, 10**6, 60 * 10**6, 300 * 10**6],
    )
    part = RecordingSource([recording], symbols, grace=250_000).build_part("", "", None)
    bars = BarLogic(None, symbols=symbols, timeframes=timeframes, lateness=250_000)
    metrics = PairLogic(None, options=PairOptions(symbols, pairs, [60, 300], 20), timeframes=timeframes)
    columns = Columns(market="usdm", source="recording", symbols=symbols, pairs=pairs)
    seconds = dict.fromkeys(
        ["read, split and decode", "bars", "pair metrics and signals", "rows to columns", "insert"], 0.0
    )
    clock = time.perf_counter
    waiting: dict[str, list[Block]] = {}
    with Store.open(f"chdb://{folder / 'stages'}", source="recording") as store:
        while True:
            t0 = clock()
            try:
                items = [item for _, item in part.next_batch()]
            except StopIteration:
                break
            t1 = clock()
            closed, _ = bars.on_batch(items)
            t2 = clock()
            measured, _ = metrics.on_batch(closed)
            t3 = clock()
            for item in items:
                waiting.setdefault("trades", []).append(item.trades)
            for table, block in (*(found for found in closed if found.table != TICKS), *measured):
                waiting.setdefault(table, []).append(block)
            tables = []
            if sum(len(block) for block in waiting["trades"]) >= 100_000:  # as the sink does
                tables = [(name, columns(name, np.concatenate(blocks))) for name, blocks in waiting.items()]
                waiting = {}
            t4 = clock()
            for table, arrow in tables:
                store.insert(f"stored_{table}", arrow)
            t5 = clock()
            for name, spent in zip(seconds, (t1 - t0, t2 - t1, t3 - t2, t4 - t3, t5 - t4), strict=True):
                seconds[name] += spent
    return seconds


def _windowing(lines: list[bytes]) -> float:
    """Make 1 s bars by Bytewax's own windowing operators, item by item; return seconds."""
    from datetime import UTC, datetime, timedelta

    import bytewax.operators as op
    import bytewax.operators.windowing as w
    import orjson
    from bytewax.dataflow import Dataflow
    from bytewax.testing import TestingSink, TestingSource, run_main

    def parse(line: bytes) -> tuple[str, tuple[datetime, float, float]]:
        data = orjson.loads(line.split(b" ", 1)[1])["data"]
        return data["s"], (datetime.fromtimestamp(data["T"] / 1000, UTC), float(data["p"]), float(data["q"]))

    def fold(bar: list[float], trade: tuple[datetime, float, float]) -> list[float]:
        _, price, quantity = trade
        if not bar:
            return [price, price, price, price, quantity]
        return [bar[0], max(bar[1], price), min(bar[2], price), price, bar[4] + quantity]

    flow = Dataflow("windowing")
    trades = op.map("parse", op.input("in", flow, TestingSource(lines, 1_000)), parse)
    clock: Any = w.EventClock(lambda trade: trade[0], wait_for_system_duration=timedelta(milliseconds=250))
    windower = w.TumblingWindower(timedelta(seconds=1), datetime(2024, 1, 1, tzinfo=UTC))
    bars = w.fold_window("bars", trades, clock, windower, list, fold, lambda a, b: a + b)
    out: list[object] = []
    op.output("out", bars.down, TestingSink(out))
    began = time.perf_counter()
    run_main(flow)  # type: ignore[no-untyped-call]
    assert out
    return time.perf_counter() - began


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trades", type=int, default=5_000_000)
    trades: int = parser.parse_args().trades
    lines = _lines()
    if not lines:
        sys.exit(f"no recordings in {RECORDINGS}: nothing to repeat")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        recording, empty = folder / "trades.txt", folder / "empty.txt"
        print(f"writing {trades:,} trades", file=sys.stderr)
        with recording.open("wb") as stream:
            stream.writelines(_repeated(lines, trades))
        empty.write_bytes(lines[0])
        measure_flow(f"recording:{empty}", folder / "warm", MARKET="usdm")
        rows = []
        start, *_ = measure_flow(f"recording:{empty}", folder / "start", MARKET="usdm")
        for title, settings in (
            ("everything, trades stored", {}),
            ("everything, trades not stored", {"STORE_TRADES": "false"}),
            ("as the first, without ticks", {"TIMEFRAMES": "1s,1m,5m"}),
        ):
            print(title, file=sys.stderr)
            data = folder / title.replace(" ", "-")
            wall, cpu, memory = measure_flow(f"recording:{recording}", data, MARKET="usdm", **settings)
            rows.append(
                {
                    "flow": title,
                    "trades": trades,
                    "wall s": wall,
                    "CPU s": cpu,
                    "of it start s": start,
                    "trades/s": int(trades / (wall - start)),
                    "peak MB": memory,
                }
            )
        sample = list(_repeated(lines, 100_000))
        spent = _windowing(sample)
        rows.append(
            {
                "flow": "Bytewax's windowing operators, 1 s bars, nothing stored",
                "trades": len(sample),
                "wall s": spent,
                "CPU s": spent,
                "of it start s": 0.0,
                "trades/s": int(len(sample) / spent),
                "peak MB": float("nan"),
            }
        )
        stages = _stages(recording, folder)
        shares = [
            {
                "stage": stage,
                "ns a trade": 1e9 * seconds / trades,
                "share": f"{seconds / sum(stages.values()):.0%}",
            }
            for stage, seconds in stages.items()
        ]
    packages = ["bytewax", "numba", "numpy", "chdb", "clickhouse-connect", "pyarrow"]
    note = f"{trades:,} trades: the USD-M recordings of BTCUSDT and ETHUSDT repeated, ids and times shifted."
    command = f"python -m benchmarks.bench_flow --trades {trades}"
    print(report("The whole flow, trades/s", command, rows, packages, note))
    print(
        report("Where the time goes, one stage after another in one thread", command, shares, packages, note)
    )


if __name__ == "__main__":
    main()
