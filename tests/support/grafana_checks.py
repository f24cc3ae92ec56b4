"""What checks of dashboards and of alerts share: the plugin's macros, Grafana's variables, a store to ask.

Macros expand as in the ClickHouse plugin 4.20.0 (pkg/macros/macros.go); what it does not know it leaves, and
ClickHouse then refuses, so an unknown macro is a fault here.
"""

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from pydantic import BaseModel, ConfigDict

from tests.support.paths import ROOT

DATA_SOURCES = {"clickhouse": "grafana-clickhouse-datasource", "prometheus": "prometheus"}
"""Pinned uid of each data source that is provisioned, with its type."""

NUMBERS = re.compile(r"(Nullable\()?(LowCardinality\()?(U?Int(8|16|32|64)|Float(32|64)|Decimal.*)\)*")
TEXTS = re.compile(r"(LowCardinality\()?(Nullable\()?(String|Enum8.*|Enum16.*)\)*")
TIMES = re.compile(r"(Nullable\()?(DateTime64\(\d(, 'UTC')?\)|DateTime(\('UTC'\))?)\)?")
"""Types of ClickHouse that reach Grafana as numbers, texts and times."""


class Strict(BaseModel):
    """A JSON or YAML object of which every key is known and every value has its type."""

    model_config = ConfigDict(extra="forbid", strict=True)


@dataclass(frozen=True)
class Range:
    """What a panel is asked for.

    :arg start: of the visible time, s since the epoch.
    :arg end: likewise.
    :arg interval_ms: between points, as Grafana computes it from the panel's width.
    """

    start: float
    end: float
    interval_ms: int = 1000


def _milliseconds(seconds: float) -> str:
    return f"fromUnixTimestamp64Milli({round(seconds * 1000)})"


def _duration(text: str) -> int:
    """Seconds of a Go duration: it knows no days."""
    parts = re.findall(r"(\d+)(h|m|s)", text)
    whole = "".join(n + unit for n, unit in parts)
    assert whole == text != "", f"{text!r} is no Go duration"
    return sum(int(n) * {"h": 3600, "m": 60, "s": 1}[unit] for n, unit in parts)


def expand_macros(sql: str, over: Range, table: str = "", column: str = "") -> str:
    """Expand the plugin's macros.

    :arg sql: with `$__` macros.
    :arg over: the panel's range.
    :arg table: the query's field of that name.
    :arg column: likewise.
    :returns: SQL for ClickHouse.
    :raises AssertionError: naming a macro that the plugin does not know, or has only in its front end.
    """
    start, end = int(over.start), int(over.end)
    low, high = _milliseconds(over.start), _milliseconds(over.end)
    days = [f"toDate('{datetime.fromtimestamp(at, UTC):%Y-%m-%d}')" for at in (over.start, over.end)]
    seconds = max(over.interval_ms // 1000, 1)

    def time_filter(c: str) -> str:
        return f"{c} >= toDateTime({start}) AND {c} <= toDateTime({end})"

    def date_filter(c: str) -> str:
        return f"{c} >= {days[0]} AND {c} <= {days[1]}"

    def group(c: str, every: str) -> str:
        return f"toStartOfInterval(toDateTime({c}), INTERVAL {every} second)"

    macros: dict[str, Callable[..., str]] = {
        "timeFilter": time_filter,
        "timeFilter_ms": lambda c: f"{c} >= {low} AND {c} <= {high}",
        "fromTime": lambda: f"toDateTime({start})",
        "toTime": lambda: f"toDateTime({end})",
        "fromTime_ms": lambda: low,
        "toTime_ms": lambda: high,
        "dateFilter": date_filter,
        "dateTimeFilter": lambda d, t: f"({date_filter(d)}) AND ({time_filter(t)})",
        "dt": lambda d, t: f"({date_filter(d)}) AND ({time_filter(t)})",
        "timeFrom": lambda c: f"{c} >= toDateTime({start})",
        "timeTo": lambda c: f"{c} <= toDateTime({end})",
        "timeInterval": lambda c: group(c, str(seconds)),
        "timeInterval_ms": lambda c: (
            f"toStartOfInterval(toDateTime64({c}, 3), INTERVAL {max(over.interval_ms, 1)} millisecond)"
        ),
        "timeGroup": lambda c, every: group(c, str(_duration(every))),
        "interval_s": lambda: str(seconds),
        "interval_ms": lambda: str(over.interval_ms),
        "interval": lambda: f"{seconds}s",
        "table": lambda: table,
        "column": lambda: column,
    }

    def expand(found: re.Match[str]) -> str:
        name, given = found[1], found[2]
        assert name in macros, f"$__{name}: the plugin 4.20.0 expands no such macro in a query"
        return macros[name](*(part.strip() for part in given.split(",")) if given else ())

    # Innermost arguments first: one of them may be a macro itself.
    previous = ""
    while sql != previous:
        previous = sql
        sql = re.sub(r"\$__(\w+)(?:\(([^()]*)\))?", expand, sql, count=1)
    return sql


def interpolate(sql: str, variables: Mapping[str, str]) -> str:
    """Replace dashboard variables as Grafana's front end does, for variables of one value.

    :arg sql: with `$name`, `${name}` or `${name:format}`.
    :arg variables: their values.
    :returns: SQL with macros still in it.
    :raises AssertionError: naming a variable that the dashboard does not have.
    """

    def replace(found: re.Match[str]) -> str:
        name, form = found[1] or found[3], found[2] or ""
        assert name in variables, f"the dashboard has no variable {name}"
        value = variables[name]
        if form == "singlequote":
            return "'" + value.replace("'", "\\'") + "'"
        assert form in ("", "raw"), f"format {form} is not known here"
        return value

    return re.sub(r"\$\{(?!__)(\w+)(?::(\w+))?\}|\$(?!__|\{)(\w+)", replace, sql)


@dataclass(frozen=True)
class Answer:
    """What a query gave.

    :arg columns: type of each column by its name, in order.
    :arg rows: the rows.
    """

    columns: dict[str, str]
    rows: list[list[Any]]

    def matching(self, types: re.Pattern[str]) -> list[str]:
        """Return the names of columns of some types."""
        return [name for name, kind in self.columns.items() if types.fullmatch(kind)]


class Served:
    """A store that its server answers for, as Grafana asks it."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/"

    def ask(self, sql: str) -> Answer:
        """Run a query in the data source's default database.

        :raises AssertionError: with the server's words when it refuses.
        """
        parameters = {"database": "pairflow", "default_format": "JSONCompact", "max_execution_time": "34"}
        request = urllib.request.Request(f"{self.url}?{urlencode(parameters)}", sql.encode())
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                answer = json.load(response)
        except urllib.error.HTTPError as refused:
            msg = f"{refused.read().decode()}\nin the query\n{sql}"
            raise AssertionError(msg) from None
        return Answer({column["name"]: column["type"] for column in answer["meta"]}, answer["data"])


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def run_flow(folder: Path, until: str = "", **settings: str) -> None:
    """Run the flow, in a process of its own.

    :arg folder: of the store; made by the flow.
    :arg until: query that, once its one value is not 0, ends the run; empty to let it come to its end.
    :arg settings: of the run, without their prefix.
    """
    port = _free_port() if until else 0
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PAIRFLOW_")}
    defaults = {"CLICKHOUSE": f"chdb://{folder}", "METRICS_PORT": "0", "STATUS_INTERVAL": "0"}
    for name, value in (defaults | {"HTTP_PORT": str(port)} | settings).items():
        environment[f"PAIRFLOW_{name}"] = value
    process = subprocess.Popen(
        [sys.executable, "-m", "bytewax.run", "flows.pairs"],
        cwd=ROOT,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        while until and process.poll() is None:
            time.sleep(0.5)
            with contextlib.suppress(OSError):
                if Served(port).ask(until).rows[0][0]:
                    process.terminate()
                    break
        _, told = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 0, told


def store_statements(folder: Path, *statements: str) -> None:
    """Run statements on a store that no flow has open, in a process of its own: only one may open a folder.

    :arg folder: of the store.
    """
    program = (
        "import sys\nfrom connectors.clickhouse.store import Store\n"
        "with Store.open('chdb://' + sys.argv[1]) as store:\n"
        "    for sql in sys.argv[2:]:\n        store.client.command(sql)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(folder), *statements], cwd=ROOT, check=True)


@contextmanager
def served(folder: Path) -> Iterator[Served]:
    """Serve a store that no flow has open, in a process of its own.

    :arg folder: of the store.
    """
    port = _free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "connectors.clickhouse", "serve", str(folder), "--port", str(port)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert line.startswith("serving"), line + process.stderr.read()
        yield Served(port)
    finally:
        process.terminate()
        process.communicate(timeout=30)
