"""What dashboards and a replay at full speed cost each other.

    python -m benchmarks.bench_queries [--minutes 10]

In a process of its own the flow replays the USD-M recordings over and over, with ids and times that go on,
into a store that holds ten million rows of pair metrics already. Before, between and after, the queries of
the dashboards are sent to its server, 1,000 a minute, evenly spread, each of a random hour of a random pair,
or of the replay's last hour.
"""

import argparse
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition

from benchmarks.bench_flow import RECORDINGS
from benchmarks.report import Row, report
from connectors.clickhouse.store import Store
from kernels.records import Trades
from tests.grafana_checks import Range, Served, expand_macros, interpolate

ROOT = Path(__file__).parents[1]
DASHBOARDS = ROOT / "grafana" / "dashboards"
SYMBOLS = ["BTCUSDT", "ETHUSDT", "SOLUSDT", "BNBUSDT", "XRPUSDT"]
PAIRS = [(y, x) for j, y in enumerate(SYMBOLS) for x in SYMBOLS[:j]]
ROWS = 10_000_000
A_MINUTE = 1_000
_BEGIN = 1_720_000_000  # s; of the stored rows, a month before the recordings
_BARS = ROWS // len(PAIRS) // 2  # of each pair and window
_LEAST = {"100ms": 100, "1s": 1000, "5s": 5000}


class _Endless(FixedPartitionedSource[tuple[str, Trades], None]):
    """Recordings, read and decoded again and again, ids and times going on."""

    def __init__(self, symbols: list[str]) -> None:
        self.symbols = symbols

    def list_parts(self) -> list[str]:
        return ["recording"]

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> "_Repeated":
        return _Repeated(self.symbols)


class _Repeated(StatefulSourcePartition[tuple[str, Trades], None]):
    def __init__(self, symbols: list[str]) -> None:
        from connectors.binance.recording import RecordingSource

        self._source = RecordingSource([RECORDINGS], symbols, grace=250_000)
        self._part = self._source.build_part("", "recording", None)
        self._first: dict[int, int] = {}
        self._last: dict[int, int] = {}
        self._times = [2**62, 0]
        self._turn = 0

    def next_batch(self) -> list[tuple[str, Trades]]:
        try:
            items = list(self._part.next_batch())
        except StopIteration:
            self._turn += 1
            self._part = self._source.build_part("", "recording", None)
            return []
        return [(name, self._shifted(item)) for name, item in items]

    def _shifted(self, item: Trades) -> Trades:
        trades = item.trades.copy()
        if not self._turn:
            for trade in trades:
                self._first.setdefault(int(trade["symbol"]), int(trade["id"]))
                self._last[int(trade["symbol"])] = int(trade["id"])
            if len(trades):
                self._times = [
                    min(self._times[0], trades["time"].min()),
                    max(self._times[1], trades["time"].max()),
                ]
            return item
        span = int(self._times[1] - self._times[0]) // 1_000_000 * 1_000_000 + 2_000_000
        trades["time"] += self._turn * span
        for symbol, first in self._first.items():
            shift = self._turn * (self._last[symbol] - first + 1)
            mine = trades["symbol"] == symbol
            for name in ("id", "first_id", "last_id"):
                trades[name][mine] += shift
        return item._replace(trades=trades, watermark=item.watermark + self._turn * span)

    def snapshot(self) -> None:
        return None


def replay() -> None:
    """Run the flow until it is told to end: what the process beside the queries does."""
    from bytewax.testing import run_main

    from connectors.clickhouse.sink import ClickHouseSink
    from flows import pairs, run
    from flows.settings import load_settings

    settings = load_settings()
    sink = ClickHouseSink(
        settings.dsn,
        market=settings.market,
        source=settings.source_name,
        symbols=settings.symbols,
        pairs=settings.pair_names,
        settings=settings.public(),
    )
    flow = pairs.build(
        settings,
        run.GuardedSource(_Endless(list(settings.symbols))),
        run.AccompaniedSink(sink, settings, None),
    )
    run_main(flow)  # type: ignore[no-untyped-call]


def fill(dsn: str) -> None:
    """Store bars and pair metrics of some days, a second each."""
    seconds = f"toDateTime64({_BEGIN}, 6, 'UTC') + toIntervalSecond(number)"
    with Store.open(dsn, source="recording") as store:
        for symbol in SYMBOLS:
            store.client.command(
                "INSERT INTO stored_bars (market, symbol, timeframe, open_time, open, high, low, close,"
                " volume, quote_volume, trades, version, source)"
                f" SELECT 'usdm', '{symbol}', '1s', {seconds}, p, p + 1, p - 1, p + sin(number), 1, p, 9, 1,"
                " 'recording'"
                f" FROM (SELECT number, 1000 + 10 * sin(number / 1000) AS p FROM numbers({_BARS}))"
            )
        for y, x in PAIRS:
            for window in (60, 300):
                store.client.command(
                    "INSERT INTO stored_pair_metrics (market, pair, timeframe, window, method, time,"
                    " hedge_ratio, intercept, spread, z_score, correlation, return_correlation,"
                    " adf_statistic, adf_p_value, half_life, y, x, observations, price_y, price_x,"
                    " spread_std, volatility_y, volatility_x, version, source)"
                    f" SELECT 'usdm', '{y}/{x}', '1s', {window}, 'ols', {seconds}, 1 + u / 100, u, u, 3 * u,"
                    f" u, u / 2, -3 * u, u, 10 * u, '{y}', '{x}', {window}, 1000 + u, 900 + u, 1, u / 1e4,"
                    " u / 1e4, 1, 'recording'"
                    f" FROM (SELECT number, randCanonical() AS u FROM numbers({_BARS}))"
                )
                print(f"stored {y}/{x}, window {window}", file=sys.stderr)


class Questions:
    """The queries of the dashboards, as Grafana would send them."""

    def __init__(self, store: Served) -> None:
        self._store = store
        self._panels: list[tuple[str, str, int]] = []
        self._variables: dict[str, dict[str, str]] = {}
        for name in ("pair", "market", "pipeline", "alerts"):
            dashboard = json.loads((DASHBOARDS / f"{name}.json").read_text())
            values: dict[str, str] = {}
            for variable in dashboard["templating"]["list"]:
                rows = store.ask(interpolate(variable["query"]["rawSql"], values)).rows
                values[variable["name"]] = str(rows[0][0])
            self._variables[name] = values
            for panel in dashboard["panels"]:
                for query in panel.get("targets", []):
                    if "rawSql" in query:
                        least = _LEAST[panel.get("interval", "1s")]
                        self._panels.append((name, query["rawSql"], least))

    def pick(self, chance: random.Random, newest: float) -> str:
        """Return a query of a random panel: of the stored rows, or of the replay's last hour."""
        name, sql, least = chance.choice(self._panels)
        variables = dict(self._variables[name])
        end = newest
        if chance.random() < 0.5:
            y, x = chance.choice(PAIRS)
            variables |= {
                "market": "usdm",
                "y": y,
                "x": x,
                "timeframe": "1s",
                "window": "60",
                "method": "ols",
            }
            end = _BEGIN + 3_600 + chance.random() * (_BARS - 3_600)
        if name in ("pipeline", "alerts"):
            end = time.time()
        return expand_macros(interpolate(sql, variables), Range(end - 3_600, end, max(least, 4_000)))


def counted(port: int) -> float:
    """Return how many trades have entered the flow."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        found = re.search(rb"^pairflow_trades_total (\S+)", answer.read(), re.MULTILINE)
    return float(found[1]) if found else 0.0


def rate(port: int, seconds: float, until: threading.Event | None = None) -> float:
    """Return trades a second."""
    began, before = time.monotonic(), counted(port)
    if until is None:
        time.sleep(seconds)
    else:
        until.wait()
    return (counted(port) - before) / (time.monotonic() - began)


def measure(http: int, metrics: int, minutes: float) -> tuple[list[Row], list[tuple[float, str]], list[str]]:
    """Send queries beside the flow.

    :returns: lines of the table, milliseconds with the query, and errors.
    """
    store = Served(http)
    questions = Questions(store)
    chance = random.Random(7)
    taken: list[tuple[float, str]] = []
    errors: list[str] = []

    def ask(sql: str) -> None:
        began = time.perf_counter()
        try:
            store.ask(sql)
        except (AssertionError, OSError) as error:
            errors.append(str(error))
        taken.append(((time.perf_counter() - began) * 1e3, sql))

    alone = [rate(metrics, 30)]
    done = threading.Event()
    busy: list[float] = []
    watch = threading.Thread(target=lambda: busy.append(rate(metrics, 0, done)))
    watch.start()
    count = round(A_MINUTE * minutes)
    newest = 0.0
    with ThreadPoolExecutor(32) as pool:
        began = time.monotonic()
        for number in range(count):
            if number % 500 == 0:
                rows = store.ask("SELECT toUnixTimestamp64Micro(max(open_time)) / 1e6 FROM stored_bars").rows
                newest = float(rows[0][0])
                print(f"{number:,} of {count:,} queries, {len(errors)} errors", file=sys.stderr)
            time.sleep(max(0.0, began + number * 60 / A_MINUTE - time.monotonic()))
            pool.submit(ask, questions.pick(chance, newest))
    done.set()
    watch.join()
    alone.append(rate(metrics, 30))
    times = sorted(milliseconds for milliseconds, _ in taken)
    before = statistics.mean(alone)
    row: Row = {
        "queries": len(times),
        "errors": len(errors),
        "p50 ms": times[len(times) // 2],
        "p95 ms": times[int(len(times) * 0.95)],
        "p99 ms": times[int(len(times) * 0.99)],
        "trades/s before and after": before,
        "trades/s beside": busy[0],
        "slowed by": f"{1 - busy[0] / before:.0%}",
    }
    return [row], taken, errors


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--slowest", type=int, default=0, help="show this many of the slowest queries")
    options = parser.parse_args()
    if not list(RECORDINGS.glob("*.gz")):
        sys.exit(f"no recordings in {RECORDINGS}: nothing to replay")
    http, metrics = 18_123, 19_464
    with tempfile.TemporaryDirectory() as folder:
        dsn = f"chdb://{folder}/store"
        # In a process of its own: only one may have the folder open.
        program = f"from benchmarks.bench_queries import fill; fill({dsn!r})"
        subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
        environment = os.environ | {
            "PAIRFLOW_SOURCE": f"recording:{RECORDINGS}",
            "PAIRFLOW_MARKET": "usdm",
            "PAIRFLOW_CLICKHOUSE": dsn,
            "PAIRFLOW_HTTP_PORT": str(http),
            "PAIRFLOW_METRICS_PORT": str(metrics),
            "PAIRFLOW_STATUS_INTERVAL": "0",
        }
        program = "from benchmarks.bench_queries import replay; replay()"
        flow = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, env=environment)
        try:
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                try:
                    if counted(metrics) > 0:
                        break
                except OSError:
                    time.sleep(0.5)
            time.sleep(5)
            rows, taken, errors = measure(http, metrics, options.minutes)
        finally:
            flow.kill()
            flow.wait()
    for error in errors[:3]:
        print(error, file=sys.stderr)
    for milliseconds, sql in sorted(taken, reverse=True)[: options.slowest]:
        print(f"{milliseconds:.0f} ms: {sql}\n", file=sys.stderr)
    note = (
        f"{A_MINUTE:,} queries a minute of the dashboards' panels, evenly spread, for {options.minutes:g} "
        f"minutes, on {ROWS:,} stored rows of pair metrics, beside a flow that replays as fast as it can."
    )
    packages = ["bytewax", "chdb", "numba", "numpy"]
    command = f"python -m benchmarks.bench_queries --minutes {options.minutes:g}"
    print(report("Dashboards beside a replay", command, rows, packages, note))


if __name__ == "__main__":
    main()
