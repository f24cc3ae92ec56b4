r"""The REST routes of the embedded server: ``/api/v1/...``.

    curl 'http://127.0.0.1:8123/api/v1/bars/BTCUSDT/1m?limit=2'
    curl 'http://127.0.0.1:8123/api/v1/analytics/BTCUSDT/ETHUSDT/1m?window=50&format=csv'
    curl -X POST -H 'Content-Type: application/json' -d '{"pair": "ETHUSDT/BTCUSDT", "threshold": 2.5}' \
        http://127.0.0.1:8123/api/v1/alerts

A route is a line of `ROUTES`: its path, its SQL (a parameterized view of ``clickhouse/009_api.sql``) and its
parameters. The handler and ``openapi.json`` are made from the same line.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from kernels.records import STATISTICS

PREFIX = "/api/v1"

DOCS = Path(__file__).with_name("docs.html")
"""Page that shows the routes and tries them."""

MOST_ROWS = 100_000
"""Rows of one answer at most."""

FORMATS = {"json": "JSONEachRow", "ndjson": "JSONEachRow", "csv": "CSVWithNames", "parquet": "Parquet"}
"""Names of formats in URLs, and ClickHouse's."""


ANSWER = {"date_time_output_format": "iso", "output_format_json_escape_forward_slashes": "0"}
"""Settings under which rows are written."""

_ARRAY = {"output_format_json_array_of_rows": "1"}  # makes one JSON document of them

_IN_SQL = {"from": "since", "to": "until", "limit": "row_limit"}  # where a parameter has another name there


class RequestError(ValueError):
    """Say in one line what is wrong with a request."""


@dataclass(frozen=True)
class Parameter:
    """A parameter of a route.

    :arg name: In the URL.
    :arg kind: string, integer or time.
    :arg default: Used where it is left out.
    :arg pattern: What the text must look like.
    :arg about: What it chooses.
    """

    name: str
    kind: str
    default: str
    pattern: str
    about: str

    def read(self, text: str | None) -> str:
        """Check a text given for it.

        :returns: The value, as ClickHouse reads it.
        :raises RequestError: If it does not fit.
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
    """Tell whether it is in the calendar, which ClickHouse does not mind."""
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

    :arg path: Below `PREFIX`, with ``{names}``.
    :arg summary: What it gives.
    :arg sql: What it asks.
    :arg parameters: Of path and query.
    :arg one: Whether there is one row, which is then an object instead of an array of them.
    """

    path: str
    summary: str
    sql: str
    parameters: tuple[Parameter, ...] = ()
    one: bool = False

    def settings(self, form: str = "json") -> dict[str, str]:
        """Return the settings under which its rows are written.

        :arg form: Of `FORMATS`.
        """
        return ANSWER if self.one or form != "json" else {**ANSWER, **_ARRAY}

    def bind(self, path: Mapping[str, str], query: Mapping[str, str]) -> dict[str, str]:
        """Read the parameters of a request.

        :returns: The values of the parameters of `sql`.
        :raises RequestError: If one is unknown or does not fit.
        """
        known = {parameter.name for parameter in self.parameters} | {"format"}
        if unknown := sorted(set(query) - known):
            msg = f"unknown parameter {unknown[0]!r}: expected {', '.join(sorted(known - set(path)))}"
            raise RequestError(msg)
        values = {p.name: p.read(path.get(p.name, query.get(p.name))) for p in self.parameters}
        if "symbol_y" in values:
            values["pair"] = f"{values.pop('symbol_y')}/{values.pop('symbol_x')}"
        return {_IN_SQL.get(name, name): value for name, value in values.items()}


_RANGE = (_SINCE, _UNTIL, _MARKET)
_RANGE_SQL = (
    "since = {since:String}, until = {until:String}, row_limit = {row_limit:UInt64}, market = {market:String}"
)

# The texts put together here are constants; what a request gives are parameters.
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

ALERT_FIELDS: dict[str, type | tuple[type, ...]] = {
    "name": str, "pair": str, "timeframe": str, "window": int, "method": str, "metric": str, "condition": str,
    "threshold": (int, float), "for_seconds": int, "enabled": bool, "note": str,
}  # fmt: skip
"""What an alert rule may say; each may be left out."""


CONDITIONS = (">", ">=", "<", "<=", "abs >", "abs >=", "abs <", "abs <=")
"""How an alert rule compares a metric, or its magnitude, with the threshold."""

_CHOICES = {"metric": STATISTICS, "condition": CONDITIONS}


def read_rule(body: bytes) -> dict[str, Any]:
    """Read an alert rule from JSON.

    :arg body: An object with some of `ALERT_FIELDS`.
    :returns: It.
    :raises RequestError: If it is something else.
    """
    try:
        rule = json.loads(body)
    except ValueError as ex:
        msg = f"the body is not JSON: {ex}"
        raise RequestError(msg) from None
    return _checked(rule)


def _checked(rule: object) -> dict[str, Any]:
    if not isinstance(rule, dict) or not rule:
        msg = 'expected an object, for example {"pair": "ETHUSDT/BTCUSDT", "threshold": 2.5}'
        raise RequestError(msg)
    for name, value in rule.items():
        if name not in ALERT_FIELDS:
            msg = f"unknown field {name!r}: expected {', '.join(ALERT_FIELDS)}"
            raise RequestError(msg)
        if not isinstance(value, ALERT_FIELDS[name]) or (isinstance(value, bool) and name != "enabled"):
            msg = f"{name}={value!r} has the wrong type"
            raise RequestError(msg)
        if name in _CHOICES and value not in _CHOICES[name]:
            msg = f"{name}={value!r} is not known: expected {', '.join(_CHOICES[name])}"
            raise RequestError(msg)
    return rule


_RULES = r"(?:(?P<database>\w+)\s*\.\s*)?`?alert_rules`?"
_INSERT = re.compile(
    rf"\s*INSERT\s+INTO\s+(?:TABLE\s+)?{_RULES}\s*"
    r"(?:\((?P<columns>[\w\s,`]*)\)\s*)?(?:VALUES|FORMAT\s+(?P<format>\w+))\s*(?P<data>.*?)[\s;]*",
    re.IGNORECASE | re.DOTALL,
)
_DELETE = re.compile(
    rf"\s*DELETE\s+FROM\s+{_RULES}\s+WHERE\s+(?P<where>.+?)[\s;]*", re.IGNORECASE | re.DOTALL
)
_LITERAL = re.compile(
    r"\s*(?:'((?:[^'\\]|\\.|'')*)'|(true|false)\b|([-+]?[\d.]+(?:e[-+]?\d+)?))\s*", re.IGNORECASE
)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "0": "\0", "b": "\b", "f": "\f"}


def inserted_rules(sql: str, database: str) -> list[dict[str, Any]] | None:
    """Read the rules that an ``INSERT INTO alert_rules`` gives as literals: after VALUES, or as JSON.

    :arg sql: A statement.
    :arg database: In which the table is.
    :returns: The rules, or None where the statement is another.
    :raises RequestError: If it cannot be read.
    """
    found = _INSERT.fullmatch(sql)
    if found is None or (found["database"] or database) != database:
        return None
    if found["format"]:
        if found["format"] not in ("JSONEachRow", "NDJSON", "JSONLines", "JSONL"):
            msg = f"alert rules are taken as VALUES or FORMAT JSONEachRow, not as {found['format']}"
            raise RequestError(msg)
        return [read_rule(line.encode()) for line in found["data"].splitlines() if line.strip()]
    names = re.findall(r"\w+", found["columns"] or "")
    if not names:
        msg = "name the columns: INSERT INTO alert_rules (pair, threshold) VALUES ('ETHUSDT/BTCUSDT', 2.5)"
        raise RequestError(msg)
    rows = list(_tuples(found["data"]))
    if not rows or any(len(row) != len(names) for row in rows):
        msg = f"expected rows of {len(names)} literal{'s' * (len(names) != 1)}: ({', '.join(names)})"
        raise RequestError(msg)
    return [_checked(dict(zip(names, row, strict=True))) for row in rows]


def deleted_rules(sql: str, database: str) -> str | None:
    """Return the condition of a ``DELETE FROM alert_rules``.

    :arg sql: A statement.
    :arg database: In which the table is.
    :returns: What stands behind WHERE, or None where the statement is another.
    """
    found = _DELETE.fullmatch(sql)
    return found["where"] if found is not None and (found["database"] or database) == database else None


def _tuples(text: str) -> Iterator[list[str | float | bool]]:
    """Read ``('a', 1), ('b', 2)``: literals alone, nothing is evaluated."""
    at = 0
    while at < len(text):
        row: list[str | float | bool] = []
        opener = "("
        while text[at : at + 1] == opener and (literal := _LITERAL.match(text, at + 1)):
            quoted, truth, number = literal.groups()
            if quoted is not None:
                row.append(re.sub(r"\\(.)|''", lambda m: _ESCAPES.get(m[1], m[1]) if m[1] else "'", quoted))
            elif truth:
                row.append(truth.lower() == "true")
            else:
                row.append(int(number) if re.fullmatch(r"[-+]?\d+", number) else float(number))
            at, opener = literal.end(), ","
        if not row or text[at : at + 1] != ")":
            msg = f"expected literals in brackets, as ('ETHUSDT/BTCUSDT', 2.5), at {text[at : at + 40]!r}"
            raise RequestError(msg)
        at = len(text) - len(text[at + 1 :].lstrip(" \t\r\n,"))
        yield row


def openapi() -> dict[str, Any]:
    """Describe the routes.

    :returns: An OpenAPI 3.1 document.
    """
    row = {"type": "object"}
    error = {"description": "What was wrong, in one line.", "content": {"application/json": {}}}
    paths: dict[str, Any] = {}
    for route in ROUTES:
        parameters = [_describe(parameter, route) for parameter in route.parameters]
        form = {"type": "string", "enum": list(FORMATS), "default": "json"}
        parameters.append({"name": "format", "in": "query", "schema": form})
        schema = row if route.one else {"type": "array", "items": row}
        answer = {"description": "Rows.", "content": {"application/json": {"schema": schema}}}
        operation = {
            "summary": route.summary,
            "parameters": parameters,
            "responses": {"200": answer, "400": error, "404": error} if route.parameters else {"200": answer},
        }
        paths[PREFIX + route.path] = {"get": operation}
    kinds = {str: "string", int: "integer", bool: "boolean", (int, float): "number"}
    properties = {name: {"type": kinds[kind]} for name, kind in ALERT_FIELDS.items()}
    paths[f"{PREFIX}/alerts"]["post"] = {
        "summary": "Add an alert rule.",
        "requestBody": {
            "content": {
                "application/json": {
                    "schema": {"type": "object", "properties": properties},
                    "example": {"metric": "z_score", "condition": ">", "threshold": 2.0},
                }
            }
        },
        "responses": {"201": {"description": "The rule, with its id."}, "400": error},
    }
    identifier = {
        "name": "id",
        "in": "path",
        "required": True,
        "schema": {"type": "string", "format": "uuid"},
    }
    paths[f"{PREFIX}/alerts/{{id}}"] = {
        "delete": {
            "summary": "Remove an alert rule.",
            "parameters": [identifier],
            "responses": {"204": {"description": "It is removed."}, "404": error},
        }
    }
    return {"openapi": "3.1.0", "info": {"title": "pairflow", "version": "1"}, "paths": paths}


def http_handlers(database: str) -> str:
    """Return the routes as configuration of a ClickHouse server: its ``http_handlers``.

    A server chooses a handler by the path alone, and a query there has no optional parameters: so each route
    is there without any, and with ``limit``.

    :arg database: Of the store.
    :returns: XML.
    """
    rules = [
        _handler(route, database, limited=limited)
        for route in ROUTES
        for limited in (False, True)
        if not limited or any(parameter.name == "limit" for parameter in route.parameters)
    ]
    fields = ", ".join(ALERT_FIELDS)
    rules.append(
        _rule(
            f"{PREFIX}/alerts",
            "POST",
            "predefined_query_handler",
            # The rows are the body of the request.
            query=f"INSERT INTO {database}.alert_rules ({fields}) FORMAT JSONEachRow",
        )
    )
    for path, content_type, content in (
        (f"{PREFIX}/openapi.json", "application/json; charset=UTF-8", json.dumps(openapi())),
        ("/docs", "text/html; charset=UTF-8", DOCS.read_text()),
    ):
        rules.append(
            _rule(path, "GET", "static", status="200", content_type=content_type, response_content=content)
        )
    return (
        "<!-- REST on a ClickHouse server, as the embedded one has it. Made, not written:\n"
        "     python -m connectors.clickhouse handlers > clickhouse/config.d/http_handlers.xml -->\n"
        "<clickhouse>\n<http_handlers>\n" + "".join(rules) + "<defaults/>\n</http_handlers>\n</clickhouse>\n"
    )


def _handler(route: Route, database: str, *, limited: bool) -> str:
    sql, path = route.sql, re.escape(PREFIX + route.path).replace(r"\{", "{").replace(r"\}", "}")
    path = re.sub("/$", "/?", path)
    sql = sql.replace("{pair:String}", "concat({symbol_y:String}, '/', {symbol_x:String})")
    for parameter in route.parameters:
        in_path = f"{{{parameter.name}}}"
        if in_path in path:
            path = path.replace(in_path, f"(?P<{parameter.name}>{parameter.pattern})")
            continue
        name = _IN_SQL.get(parameter.name, parameter.name)
        given = (
            f"{{{parameter.name}:UInt64}}" if limited and parameter.name == "limit" else _quoted(parameter)
        )
        sql = re.sub(rf"\{{{name}:\w+\}}", lambda _, given=given: given, sql)  # type: ignore[misc]
    sql = re.sub(r"\bFROM (?=\w)", f"FROM {database}.", sql)
    return _rule(
        f"regex:^{path}$",
        "GET",
        "predefined_query_handler",
        empty=not limited,
        query=f"{sql} FORMAT JSONEachRow SETTINGS "
        + ", ".join(f"{name} = {value!r}" for name, value in route.settings().items()),
    )


def _quoted(parameter: Parameter) -> str:
    return parameter.default if parameter.kind == "integer" else f"'{parameter.default}'"


def _rule(url: str, method: str, kind: str, *, empty: bool = False, **handler: str) -> str:
    parts = "".join(
        f"<{name}>{html.escape(value, quote=False)}</{name}>\n" for name, value in handler.items()
    )
    return (
        f"<rule>\n<url>{html.escape(url, quote=False)}</url>\n<methods>{method}</methods>\n"
        + ("<empty_query_string/>\n" if empty else "")
        + f"<handler>\n<type>{kind}</type>\n{parts}</handler>\n</rule>\n"
    )


def _describe(parameter: Parameter, route: Route) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "integer" if parameter.kind == "integer" else "string"}
    if parameter.default and parameter.kind == "integer":
        schema["default"] = int(parameter.default)
    in_path = f"{{{parameter.name}}}" in route.path
    described: dict[str, Any] = {
        "name": parameter.name,
        "in": "path" if in_path else "query",
        "description": parameter.about,
        "schema": schema,
    }
    if in_path:
        described["required"] = True
    return described
