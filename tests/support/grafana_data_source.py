"""What Grafana and its ClickHouse plugin do with a query and its answer: macros, variables, types of columns.

Macros expand as in the plugin 4.20.0 (pkg/macros/macros.go). It leaves an unknown macro as it is, and
ClickHouse then refuses the query: so an unknown macro is an error here.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

DATA_SOURCES = {"clickhouse": "grafana-clickhouse-datasource", "prometheus": "prometheus"}
"""Type of each data source that is provisioned, by its uid."""

NUMBERS = re.compile(r"(Nullable\()?(LowCardinality\()?(U?Int(8|16|32|64)|Float(32|64)|Decimal.*)\)*")
TEXTS = re.compile(r"(LowCardinality\()?(Nullable\()?(String|Enum8.*|Enum16.*)\)*")
TIMES = re.compile(r"(Nullable\()?(DateTime64\(\d(, 'UTC')?\)|DateTime(\('UTC'\))?)\)?")
"""Types of ClickHouse that Grafana takes for numbers, texts and times."""


@dataclass(frozen=True)
class Range:
    """The time range of a panel.

    :arg start: its beginning, s since the epoch.
    :arg end: its end, s since the epoch.
    :arg interval_ms: time between two points, which Grafana computes from the width of the panel.
    """

    start: float
    end: float
    interval_ms: int = 1000


def _milliseconds(seconds: float) -> str:
    return f"fromUnixTimestamp64Milli({round(seconds * 1000)})"


def _duration(text: str) -> int:
    """Return the seconds of a Go duration, which has no days."""
    parts = re.findall(r"(\d+)(h|m|s)", text)
    whole = "".join(n + unit for n, unit in parts)
    assert whole == text != "", f"{text!r} is no Go duration"
    return sum(int(n) * {"h": 3600, "m": 60, "s": 1}[unit] for n, unit in parts)


def expand_macros(sql: str, over: Range, table: str = "", column: str = "") -> str:
    """Expand the plugin's macros.

    :arg sql: with `$__` macros.
    :arg over: time range of the panel.
    :arg table: the query's table, for `$__table`.
    :arg column: the query's column of times, for `$__column`.
    :returns: SQL for ClickHouse.
    :raises AssertionError: if the plugin does not have a macro, or has it only in its front end.
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

    # The innermost macros first: an argument may be a macro itself.
    previous = ""
    while sql != previous:
        previous = sql
        sql = re.sub(r"\$__(\w+)(?:\(([^()]*)\))?", expand, sql, count=1)
    return sql


def interpolate(sql: str, variables: Mapping[str, str]) -> str:
    """Replace the variables of a dashboard as Grafana's front end does for variables of one value.

    :arg sql: with `$name`, `${name}` or `${name:format}`.
    :arg variables: their values.
    :returns: SQL, still with the macros.
    :raises AssertionError: if the dashboard does not have a variable.
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
