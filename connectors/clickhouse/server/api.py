r"""The REST routes of the embedded server: ``/api/v1/...``.

    curl 'http://127.0.0.1:8123/api/v1/bars/BTCUSDT/1m?limit=2'
    curl 'http://127.0.0.1:8123/api/v1/analytics/BTCUSDT/ETHUSDT/1m?window=50&format=csv'
    curl -X POST -H 'Content-Type: application/json' -d '{"pair": "ETHUSDT/BTCUSDT", "threshold": 2.5}' \
        http://127.0.0.1:8123/api/v1/alerts

A route is an entry of `ROUTES`: its path, its SQL (a parameterized view of ``clickhouse/api.sql``) and its
parameters. Handlers, ``openapi.json`` and the configuration of a server are made from these entries.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

PREFIX = "/api/v1"

DOCS = Path(__file__).with_name("docs.html")
"""A page that shows the routes and lets a user try them."""

MOST_ROWS = 100_000
"""The largest number of rows in one answer."""

FORMATS = {"json": "JSONEachRow", "ndjson": "JSONEachRow", "csv": "CSVWithNames", "parquet": "Parquet"}
"""Names of formats in URLs, with the name that ClickHouse has for each."""

ANSWER = {"date_time_output_format": "iso", "output_format_json_escape_forward_slashes": "0"}
"""Settings of every answer."""

# Makes one JSON document of the rows.
_ARRAY = {"output_format_json_array_of_rows": "1"}

SQL_NAMES = {"from": "since", "to": "until", "limit": "row_limit"}
"""Parameters of URLs that have another name in SQL."""


class RequestError(ValueError):
    """What is wrong with a request, in one line."""


@dataclass(frozen=True)
class Parameter:
    """A parameter of a route.

    :arg name: Its name in the URL.
    :arg kind: string, integer or time.
    :arg default: Its value if it is left out.
    :arg pattern: A regular expression that the text has to match.
    :arg about: What it chooses, for errors and the description.
    """

    name: str
    kind: str
    default: str
    pattern: str
    about: str

    def read(self, text: str | None) -> str:
        """Check the text that was given.

        :arg text: From the URL; None if it is left out.
        :returns: The value, as ClickHouse reads it.
        :raises RequestError: If the text does not match.
        """
        if text is None:
            return self.default
        if not re.fullmatch(self.pattern, text) or (self.kind == "time" and not _is_time(text)):
            msg = f"{self.name}={text!r} is not understood: expected {self.about}"
            raise RequestError(msg)
        if self.kind == "time":
            return text.replace("T", " ").removesuffix("Z")
        if self.name == "limit" and int(text) > MOST_ROWS:
            msg = f"limit={text} is too large: at most {MOST_ROWS}; ask for stretches by from and to"
            raise RequestError(msg)
        return text


def _is_time(text: str) -> bool:
    """Tell whether the date exists: ClickHouse would accept 2024-02-31."""
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


_NAME = r"[^\s/?&%'\"\\<>]{1,40}"  # symbols may be in any script
_TIME = r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d:\d\d(\.\d{1,6})?Z?)?"

SYMBOL = Parameter("symbol", "string", "", _NAME, "a symbol, BTCUSDT")
SYMBOL_X = Parameter("symbol_x", "string", "", _NAME, "symbol of leg X, on which Y is regressed")
SYMBOL_Y = Parameter("symbol_y", "string", "", _NAME, "symbol of leg Y")
TIMEFRAME = Parameter(
    "timeframe", "string", "", r"tick|\d{1,4}(us|ms|s|m|h|d)", "a timeframe: tick, 1s, 1m, 5m"
)
_MARKET = Parameter("market", "string", "", r"spot|usdm", "spot or usdm; that of the last run if left out")
_SINCE = Parameter("from", "time", "1970-01-01 00:00:00", _TIME, "first time, UTC, 2024-08-09T12:00:00Z")
_UNTIL = Parameter("to", "time", "2200-01-01 00:00:00", _TIME, "time of the first row left out")
_WINDOW = Parameter(
    "window", "integer", "0", r"\d{1,9}", "length of the rolling window; every one if left out"
)
_METHOD = Parameter(
    "method", "string", "", r"[a-z]{1,20}", "estimator of the hedge ratio: ols, rls, kalman, tls"
)


def _limit(default: int) -> Parameter:
    about = f"number of rows, the last ones, at most {MOST_ROWS}"
    return Parameter("limit", "integer", str(default), r"\d{1,9}", about)


@dataclass(frozen=True)
class Route:
    """A route that answers with rows.

    :arg path: Its path below `PREFIX`, with ``{names}`` of parameters.
    :arg summary: What the rows are.
    :arg sql: The query.
    :arg parameters: Of its path and its query string.
    :arg one: Whether the answer is one row, written as an object and not as an array of objects.
    """

    path: str
    summary: str
    sql: str
    parameters: tuple[Parameter, ...] = ()
    one: bool = False

    def settings(self, form: str = "json") -> dict[str, str]:
        """Return the settings of an answer.

        :arg form: One of `FORMATS`.
        """
        return ANSWER if self.one or form != "json" else {**ANSWER, **_ARRAY}

    def bind(self, path: Mapping[str, str], query: Mapping[str, str]) -> dict[str, str]:
        """Read the parameters of a request.

        :arg path: Parameters in the path.
        :arg query: Parameters in the query string.
        :returns: The values of the parameters of `sql`.
        :raises RequestError: If a parameter is unknown or its text does not match.
        """
        known = {parameter.name for parameter in self.parameters} | {"format"}
        if unknown := sorted(set(query) - known):
            msg = f"unknown parameter {unknown[0]!r}: expected {', '.join(sorted(known - set(path)))}"
            raise RequestError(msg)
        values = {p.name: p.read(path.get(p.name, query.get(p.name))) for p in self.parameters}
        if "symbol_y" in values:
            values["pair"] = f"{values.pop('symbol_y')}/{values.pop('symbol_x')}"
        return {SQL_NAMES.get(name, name): value for name, value in values.items()}


_RANGE = (_SINCE, _UNTIL, _MARKET)
_RANGE_SQL = (
    "since = {since:String}, until = {until:String}, row_limit = {row_limit:UInt64}, market = {market:String}"
)

# Only constants are put together to SQL here: what a request gives becomes a parameter.
ROUTES = (
    Route("/", "The same as status.", "SELECT * FROM api_status", one=True),
    Route(
        "/status",
        "How the last run is doing: symbols, messages received, feed, buffers, what is stored.",
        "SELECT * FROM api_status",
        one=True,
    ),
    Route(
        "/ticks/{symbol}",
        "Trades of a symbol.",
        f"SELECT * FROM api_ticks(symbol = {{symbol:String}}, {_RANGE_SQL})",  # noqa: S608
        (SYMBOL, _limit(1000), *_RANGE),
    ),
    Route(
        "/bars/{symbol}/{timeframe}",
        "OHLCV bars of a symbol, each in its newest version.",
        f"SELECT * FROM api_bars(symbol = {{symbol:String}}, timeframe = {{timeframe:String}}, {_RANGE_SQL})",  # noqa: S608
        (SYMBOL, TIMEFRAME, _limit(500), *_RANGE),
    ),
    Route(
        "/analytics/{symbol_x}/{symbol_y}/{timeframe}",
        "Statistics of the pair Y/X; what is not defined is null.",
        "SELECT * FROM api_analytics(pair = {pair:String}, timeframe = {timeframe:String}, "  # noqa: S608
        f"window = {{window:UInt32}}, method = {{method:String}}, {_RANGE_SQL})",
        (SYMBOL_X, SYMBOL_Y, TIMEFRAME, _limit(100), _WINDOW, _METHOD, *_RANGE),
    ),
    Route("/alerts", "Alert rules.", "SELECT * FROM alert_rules ORDER BY created, id"),
    Route(
        "/alerts/states",
        "Alert rules on each pair they fit, and whether they fire.",
        "SELECT * FROM alert_states",
    ),
    Route("/signals", "Last signal of each pair.", "SELECT * FROM latest_signals ORDER BY time DESC, pair"),
    Route(
        "/ranking",
        "Pairs by how unusual their spread is now.",
        "SELECT * FROM pair_ranking ORDER BY rank, pair",
    ),
)
