"""Dashboards open beside a replay: how long their queries take, and what they cost the flow.

    python -m benchmarks.bench_dashboards [--minutes 10] [--trades 10000000] [--rows 10000000] [--speed 0]

A store with statistics of 45 pairs is made, and a flow replays recorded trades into a copy of it, as fast as
it can unless a speed is given: first undisturbed, then with 1,000 queries a minute, then again, replay after
replay, until queries were asked for that many minutes. The queries are those of all panels and annotations of
the dashboards, as Grafana sends them: most over the time span that the dashboard opens with, some longer, at
the newest rows or anywhere in history, for any pair.

Queries are sent at fixed times, whether those before were answered or not, and a query's time is counted
from when it was due: a server that falls behind cannot hide it. While 100 of them wait, those that come due
are not sent, and count as errors: on a machine that cannot keep up the figures say so, in bounded time.

A replay at full speed keeps both cores of the machine busy that these figures are from, so that what queries
take, the replay loses. Of the 20 to 30 ms of a query most is ClickHouse planning it: some 5 ms for the least
that names a table, a series and a time, more with each subquery.

Tried, and left out:

* Query threads of a lower priority than the flow (nice 3, nice 10): queries take up to twice as long, and the
  replay, too: a thread that waits for a core may hold Python's lock meanwhile.
* Wider merges (merge_selector_base 12, min_parts_to_merge_at_once 10): within the noise. Merges of trades
  from 40 parts on: the replay loses a twentieth less, and the newest 1,000 trades take 195 ms instead of 95.
* Granules of 8,192 rows: a fifth less work to store statistics, and the market's panels take twice as long.
* No compiled expressions, no PREWHERE, no splitting of ranges for FINAL, and each other Boolean setting of
  ClickHouse turned round, one by one; columns without codecs and comments: within the noise.
* A map of the newest times instead of the window in latest_pair_metrics: no faster to plan.
* alert_states with its waiting pairs in a subquery or not named at all: as slow, or slow with many pairs.
* alert_states over one view of the newest rows and of history (UNION ALL): 111 ms instead of 70 ms to answer.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import urllib3

from benchmarks.bench_flow import RECORDINGS, _lines, _repeated
from benchmarks.report import Row, report
from tests.support.grafana_data_source import Range, expand_macros, interpolate
from tests.support.paths import ROOT
from tests.support.processes import Process, finish, free_port, running_flow, store_statements
from tests.support.served import Served

QUERIES_A_MINUTE = 1_000
WAITING = 100
LIVE = {"y": "ETHUSDT", "x": "BTCUSDT"}
SYMBOLS = ["BTCUSDT", "ETHUSDT", *(f"S{i}USDT" for i in range(8))]
PAIRS = [(y, x) for i, x in enumerate(SYMBOLS) for y in SYMBOLS[i + 1 :]]
WINDOWS = (60, 300)
REPLAYED = 1_723_161_180
"""Where the recordings begin, s since the epoch; history is made up to there."""

_HOUR = 3600.0


@dataclass(frozen=True)
class Panel:
    """A query of a dashboard.

    :arg dashboard: its name.
    :arg title: of the panel, or the annotation.
    :arg sql: with variables and macros.
    :arg span: seconds that the dashboard shows when it opens.
    :arg points: that its panel draws at most.
    """

    dashboard: str
    title: str
    sql: str
    span: float
    points: int


def panels() -> list[Panel]:
    """Return every query to ClickHouse of every dashboard."""
    found = []
    for file in sorted((ROOT / "grafana" / "dashboards").glob("*.json")):
        dashboard = json.loads(file.read_text())
        span = {"now-15m": _HOUR / 4, "now-1h": _HOUR}[dashboard["time"]["from"]]
        for panel in dashboard["panels"]:
            for each in (panel, *panel.get("panels", ())):
                for query in each.get("targets", ()):
                    if "rawSql" in query:
                        points = each.get("maxDataPoints") or 1_000
                        found.append(Panel(file.stem, each["title"], query["rawSql"], span, points))
        for note in dashboard["annotations"]["list"]:
            if "rawSql" in note.get("target", {}):
                found.append(Panel(file.stem, note["name"], note["target"]["rawSql"], span, 1_000))
    return found


def _history(rows: int) -> list[str]:
    """Return statements that fill a store with bars and statistics of a second, signals and rules."""
    series = len(PAIRS) * len(WINDOWS)
    seconds = rows // series
    pairs = "[" + ", ".join(f"('{y}', '{x}')" for y, x in PAIRS) + "]"
    names = [
        *("hedge_ratio", "intercept", "spread", "correlation", "return_correlation", "adf_statistic"),
        *("half_life", "price_y", "price_x", "hedge_ratio_stderr", "intercept_stderr", "r_squared"),
        *("spread_mean", "spread_std", "volatility_y", "volatility_x", "hurst", "variance_ratio"),
    ]
    values = ", ".join(f"1 + rand64({i}) / 18446744073709551616" for i in range(len(names)))
    start = REPLAYED - seconds
    when = f"toDateTime64({start}, 6, 'UTC') + intDiv(number, {{}})"
    metrics = (
        "INSERT INTO stored_pair_metrics (market, pair, y, x, timeframe, window, method, time, z_score,"
        f" adf_p_value, adf_lag, observations, version, source, {', '.join(names)})"
        f" WITH {pairs}[intDiv(number, {len(WINDOWS)}) % {len(PAIRS)} + 1] AS legs"
        " SELECT 'usdm', legs.1 || '/' || legs.2, legs.1, legs.2, '1s',"
        f" {list(WINDOWS)}[number % {len(WINDOWS)} + 1], 'ols', {when.format(series)},"
        f" 3 * sin(number / {series} / 50 + number % {series}), rand32(99) / 4294967296, 1, 60, 1,"
        f" 'recording', {values} FROM numbers({seconds * series})"
    )
    bars = (
        "INSERT INTO stored_bars (market, symbol, timeframe, open_time, open, high, low, close, volume,"
        " quote_volume, trades, first_id, last_id, close_time, version, source)"
        f" WITH 1000 + rand32(1) % 100 AS price, {when.format(len(SYMBOLS))} AS opened"
        f" SELECT 'usdm', {SYMBOLS}[number % {len(SYMBOLS)} + 1], '1s', opened, price, price + 1, price - 1,"
        " price, 5, 5 * price, 5, 5 * number, 5 * number + 4, opened + 0.999999, 1, 'recording'"
        f" FROM numbers({seconds * len(SYMBOLS)})"
    )
    signals = (
        "INSERT INTO stored_signals (market, pair, y, x, timeframe, window, method, time, signal, z_score,"
        f" version, source) WITH {pairs}[number % {len(PAIRS)} + 1] AS legs"
        " SELECT 'usdm', legs.1 || '/' || legs.2, legs.1, legs.2, '1s', 60, 'ols',"
        f" toDateTime64({start}, 6, 'UTC') + 100 * intDiv(number, {len(PAIRS)}),"
        f" ['short', 'exit', 'long', 'exit'][intDiv(number, {len(PAIRS)}) % 4 + 1], 2, 1, 'recording'"
        f" FROM numbers({seconds // 100 * len(PAIRS)})"
    )
    rules = (
        "INSERT INTO alert_rules (name, timeframe, threshold, for_seconds) VALUES"
        " ('far out', '1s', 2, 0), ('far out for a while', '1s', 1, 60)"
    )
    # As the tables of a store are that has been there for a while.
    merged = [f"OPTIMIZE TABLE stored_{name} FINAL" for name in ("pair_metrics", "bars", "signals")]
    return [metrics, bars, signals, rules, *merged]


@dataclass
class Asked:
    """What came of the queries."""

    seconds: dict[Panel, list[float]] = field(default_factory=lambda: defaultdict(list))
    errors: list[str] = field(default_factory=list)


class Viewer:
    """Asks a running flow, at fixed times, as dashboards would."""

    def __init__(self, port: int, asked: Asked, turn: int) -> None:
        self._url = f"http://127.0.0.1:{port}/"
        self._served = Served(port)
        self._asked = asked
        self._random = np.random.default_rng(turn)
        self._http = urllib3.PoolManager(maxsize=32)
        self._newest = 0.0

    def watch(self, process: Process, first: float) -> float:
        """Ask until the flow ends; return for how many seconds.

        :arg process: the flow.
        :arg first: where the stored history begins, s since the epoch.
        """
        chosen = {
            file.stem: self._variables(json.loads(file.read_text())["templating"]["list"])
            for file in (ROOT / "grafana" / "dashboards").glob("*.json")
        }
        every = panels()
        began = time.monotonic()
        sent = 0
        waiting: set[Future[None]] = set()
        with ThreadPoolExecutor(32) as pool:
            while process.poll() is None:
                if sent % 32 == 0:
                    pool.submit(self._look)
                if sent % len(every) == 0:
                    order = self._random.permutation(len(every))
                panel = every[order[sent % len(every)]]
                sql = self._expanded(panel, chosen[panel.dashboard], first)
                due = began + sent * 60 / QUERIES_A_MINUTE
                time.sleep(max(0.0, due - time.monotonic()))
                waiting = {each for each in waiting if not each.done()}
                if len(waiting) < WAITING:
                    waiting.add(pool.submit(self._ask, process, panel, sql, due))
                else:
                    self._asked.errors.append(f"{panel.dashboard}, {panel.title}: not sent, others wait")
                sent += 1
        return time.monotonic() - began

    def _variables(self, variables: list[dict[str, Any]]) -> dict[str, str]:
        values: dict[str, str] = {}
        for variable in variables:
            rows = self._served.ask(interpolate(variable["query"]["rawSql"], values)).rows
            found = [str(row[0]) for row in rows]
            current = (variable.get("current") or {}).get("value")
            values[variable["name"]] = current if current in found else found[0]
        return values

    def _look(self) -> None:
        """See where the replay is."""
        sql = (
            "SELECT toUnixTimestamp64Micro(max(time)) / 1e6 FROM pairflow.stored_latest_pair_metrics"
            " WHERE market = 'usdm' AND pair = 'ETHUSDT/BTCUSDT' AND timeframe = '1s'"
        )
        answer = self._http.request("POST", self._url, body=sql, timeout=60, retries=False)
        if answer.status == 200:
            self._newest = float(answer.data)

    def _expanded(self, panel: Panel, variables: Mapping[str, str], first: float) -> str:
        """Write a panel's query for somebody who looks at what is newest, or at history."""
        span = float(self._random.choice([panel.span, panel.span, panel.span, 6 * _HOUR]))
        values = dict(variables)
        if panel.dashboard == "pipeline":
            end = time.time()
        elif self._random.random() < 0.5:
            end = self._newest
            values |= LIVE
        else:
            end = float(self._random.uniform(min(first + span, REPLAYED), REPLAYED))
            values |= dict(zip(("y", "x"), PAIRS[self._random.integers(len(PAIRS))], strict=True))
        over = Range(end - span, end, max(1_000, round(span * 1_000 / panel.points)))
        return expand_macros(interpolate(panel.sql, values), over)

    def _ask(self, process: Process, panel: Panel, sql: str, due: float) -> None:
        query = "?client_protocol_version=54460&database=pairflow&default_format=Native&max_execution_time=34"
        try:
            answer = self._http.request(
                "POST", self._url + query, body=sql.encode(), timeout=60, retries=False
            )
            problem = answer.data.decode() if answer.status != 200 else ""
        except urllib3.exceptions.HTTPError as error:
            problem = str(error)
        spent = time.monotonic() - due
        if problem:
            try:
                process.wait(10)  # cut off by the end of the replay, else an error
            except subprocess.TimeoutExpired:
                self._asked.errors.append(f"{panel.dashboard}, {panel.title}: {problem[:300]}")
            return
        self._asked.seconds[panel].append(spent)


def replay(
    recording: Path, speed: float, prepared: Path, asked: Asked | None, turn: int
) -> tuple[float, float]:
    """Run the flow into a copy of the store.

    :arg recording: what it replays.
    :arg speed: how many times as fast as it was recorded; 0 for as fast as it goes.
    :arg prepared: the store, which stays as it is.
    :arg asked: what queries beside it come to; None for none.
    :arg turn: of which other queries are drawn.
    :returns: seconds of the run from the first answer of its server to its end, and of those with queries.
    """
    folder = prepared.with_name("copy")
    shutil.copytree(prepared, folder, symlinks=True)
    port = free_port()
    settings = {
        "SOURCE": f"recording:{recording}",
        "REPLAY_SPEED": str(speed or "max"),
        "MARKET": "usdm",
        "HTTP_PORT": str(port),
        "STATUS_INTERVAL": "0",
    }
    with running_flow(folder, **settings) as process:
        http = urllib3.PoolManager()
        while process.poll() is None:
            try:
                http.request("GET", f"http://127.0.0.1:{port}/ping", retries=False)
                break
            except urllib3.exceptions.HTTPError:
                time.sleep(0.02)
        began = time.monotonic()
        spent = Viewer(port, asked, turn).watch(process, _first(port)) if asked else 0.0
        finish(process)
        wall = time.monotonic() - began
    shutil.rmtree(folder)
    return wall, spent


def _first(port: int) -> float:
    sql = "SELECT toUnixTimestamp64Micro(min(open_time)) / 1e6 FROM stored_bars"
    return float(Served(port).ask(sql).rows[0][0])


def _percentiles(seconds: list[float]) -> dict[str, float]:
    p50, p95, p99 = np.percentile(seconds, [50, 95, 99]) * 1e3
    return {"p50 ms": float(p50), "p95 ms": float(p95), "p99 ms": float(p99), "max ms": max(seconds) * 1e3}


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="with queries")
    parser.add_argument("--trades", type=int, default=10_000_000, help="of a replay")
    parser.add_argument("--rows", type=int, default=10_000_000, help="of statistics in the store")
    parser.add_argument("--speed", type=float, default=0.0, help="times the recorded speed; 0: full speed")
    given = parser.parse_args()
    lines = _lines()
    if not lines:
        sys.exit(f"no recordings in {RECORDINGS}: nothing to replay")
    asked = Asked()
    quiet: list[float] = []
    viewed: list[float] = []
    open_for = 0.0
    with tempfile.TemporaryDirectory() as name:
        recording, prepared = Path(name) / "trades.txt", Path(name) / "prepared"
        print(f"writing {given.trades:,} trades, {given.rows:,} rows of statistics", file=sys.stderr)
        with recording.open("wb") as stream:
            stream.writelines(_repeated(lines, given.trades))
        store_statements(prepared, *_history(given.rows))
        while open_for < 60 * given.minutes:
            quiet.append(replay(recording, given.speed, prepared, None, 0)[0])
            wall, spent = replay(recording, given.speed, prepared, asked, len(viewed))
            viewed.append(wall)
            open_for += spent
            print(f"{quiet[-1]:.1f} s alone, {viewed[-1]:.1f} s viewed", file=sys.stderr)
    every = [spent for times in asked.seconds.values() for spent in times]
    rows: list[Row] = [{"panel": "all", "asked": len(every), **_percentiles(every)}]
    slowest = sorted(asked.seconds.items(), key=lambda item: -np.percentile(item[1], 95))
    for panel, times in slowest[:10]:
        rows.append(
            {"panel": f"{panel.dashboard}, {panel.title}", "asked": len(times), **_percentiles(times)}
        )
    packages = ["bytewax", "chdb", "aiohttp", "numpy"]
    command = f"python -m benchmarks.bench_dashboards --minutes {given.minutes:g} --speed {given.speed:g}"
    pace = f"{given.speed:g} times the recorded speed" if given.speed else "full speed"
    note = (
        f"{QUERIES_A_MINUTE:,} queries a minute for {open_for / 60:.1f} minutes over {given.rows:,} rows of"
        f" statistics, beside replays at {pace}: {len(asked.errors)} errors."
        " Below all: the ten slowest panels."
    )
    print(report("Panel queries beside a replay", command, rows, packages, note))
    for problem in asked.errors[:5]:
        print(problem)
    alone, beside = float(np.median(quiet)), float(np.median(viewed))
    replays: list[Row] = [
        {"replay": title, "runs": len(walls), "median s": at, "trades/s": int(given.trades / at)}
        for title, walls, at in (("alone", quiet, alone), ("beside queries", viewed, beside))
    ]
    slower = f"{given.trades:,} trades a replay, in turns: {beside / alone - 1:+.0%} time beside queries."
    print(report("What dashboards cost the flow", command, replays, packages, slower))


if __name__ == "__main__":
    main()
