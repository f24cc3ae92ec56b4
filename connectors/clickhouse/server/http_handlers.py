"""The REST routes as configuration of a ClickHouse server: its ``http_handlers``."""

from __future__ import annotations

import html
import json
import re

from connectors.clickhouse.alert_rules import FIELDS
from connectors.clickhouse.server.api import DOCS, PREFIX, ROUTES, SQL_NAMES, Parameter, Route
from connectors.clickhouse.server.openapi import openapi


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
    fields = ", ".join(FIELDS)
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
        name = SQL_NAMES.get(parameter.name, parameter.name)
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
