"""What a reader may ask: the check of a query against the lists in `policy`.

Read-only is more than chDB's ``readonly = 1``, which still lets a query read any file (``file(path)``), write
one (``INTO OUTFILE``), read variables of this Python process (``Python(name)``) and end other queries. So
ClickHouse parses each query first, and only what is known to be harmless runs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from connectors.clickhouse.server import policy
from connectors.clickhouse.server.connections import Connection, ask_text, escape
from connectors.clickhouse.server.errors import UNKNOWN_FORMAT, UNKNOWN_SETTING, fail, refuse
from connectors.clickhouse.server.memory import LONGEST_REMEMBERED, remember
from connectors.clickhouse.server.query import Query, Shape

_PARSE = "SELECT formatQuerySingleLine({q:String})"

# A whole number that is not part of a name. When a dashboard repeats a query, it differs in these only.
_NUMBER = re.compile(r"(?<![\w$.\\])[0-9]+(?![\w$.])")

_QUOTED = re.compile(r"'(?:[^'\\]|\\.|'')*'|`(?:[^`\\]|\\.|``)*`|\"(?:[^\"\\]|\\.)*\"")
_ASSIGNMENT = re.compile(
    r"(\w+) = ('(?:[^'\\]|\\.|'')*'|\{(?:[^{}']|'(?:[^'\\]|\\.|'')*')*\}|\[[^\]]*\]|[\w.+-]+)"
    r"(, (?=\w+ = ))?"
)


class Gate:
    """Lets a query pass if it only reads the store.

    ClickHouse itself parses the query (``formatQuery`` and ``EXPLAIN AST`` parse a query and do not run it),
    and the nodes of its syntax tree are compared with the lists of what is allowed.

    This takes about 4 of the 30 ms that a panel of a dashboard takes. So a query that passed is remembered:
    another one that differs in whole numbers only names the same tables, functions and formats. A query is
    not remembered where a number may matter, as in a SETTINGS clause, and where a parameter may be a name.

    :arg connection: Without limits.
    """

    def __init__(self, connection: Connection) -> None:
        self._passed: dict[Shape, tuple[str | None, bool]] = {}
        names = ask_text(connection, "SELECT lower(name) FROM system.table_functions", {})
        self._table_functions = frozenset(names.split()) - policy.TABLE_FUNCTIONS
        names = ask_text(connection, "SELECT lower(name) FROM system.functions", {})
        self._functions = frozenset(names.split())

    def check(self, connection: Connection, query: Query) -> None:
        """Refuse a query, or set its format and settings from its own clauses.

        :arg connection: Without limits; its settings are the defaults.
        :arg query: What came in; its format, settings and shape are set.
        :raises QueryError: If it does not parse, or is not allowed.
        """
        sql = query.sql
        shape = (_NUMBER.sub("0", sql), query.database)
        passed = self._passed.get(shape)
        if passed is None:
            passed = self._check_text(connection, query)
            plain = not re.search(r"settings|identifier", sql, re.IGNORECASE)
            if plain and query.sql == sql and len(sql) <= LONGEST_REMEMBERED:
                remember(self._passed, shape, passed)
        if shape in self._passed:
            query.shape = shape
        named, whole = passed
        query.format = named or query.format
        query.whole = query.whole or whole
        if query.format not in policy.FORMATS:
            fail(UNKNOWN_FORMAT, f"Format {query.format} is not known or not allowed here")
        self._check_settings(connection, query)

    def _check_text(self, connection: Connection, query: Query) -> tuple[str | None, bool]:
        """Refuse a query for its text; return the format that it names, and whether it must be made whole."""
        # formatQuery refuses several statements at once, so from here on the text is one statement.
        text = ask_text(connection, _PARSE, {"q": escape(query.sql)})
        masked = _QUOTED.sub(lambda m: "_" * len(m[0]), text)
        if re.search(r"\bINTO OUTFILE\b", masked):
            refuse("INTO OUTFILE is not allowed")
        found = re.search(r" FORMAT (\w+)(?: SETTINGS .*)?$", masked)
        if found and found[1] in ("Arrow", "Parquet"):
            # `formats` writes these from a stream of Arrow: the query must not name another format.
            query.sql = text[: found.start()] + text[found.end(1) :]
        for start in re.finditer(r"\bSETTINGS (?=\w+ = )", masked):
            clause = dict(_assignments(text, start.end()))
            if forbidden := [name for name in clause if not policy.SETTINGS.fullmatch(name)]:
                refuse(f"Setting {forbidden[0]} cannot be changed")
            query.settings.update(clause)
        tree = ask_text(connection, f"EXPLAIN AST {query.sql}", query.parameters)
        if not tree.strip():
            refuse("A query that shows no syntax tree is not allowed")
        self._check_tree(tree, query.database)
        # chDB streams the answers of SELECT only.
        return (found[1] if found else None), not tree.startswith("Select")

    def _check_settings(self, connection: Connection, query: Query) -> None:
        for name, value in list(query.settings.items()):
            if not policy.SETTINGS.fullmatch(name):
                self._check_unchanged(connection, name, value)
                del query.settings[name]
            elif name == "additional_table_filters":
                values = "SELECT arrayJoin(mapValues({v:Map(String, String)}))"
                conditions = ask_text(connection, values, {"v": value})
                # One condition a line. A line break inside a condition leaves parts that do not parse, or
                # that parse and are checked: nothing passes unchecked.
                for condition in conditions.splitlines():
                    self._check_condition(connection, condition, query.database)
            elif name == "additional_result_filter":
                self._check_condition(connection, value, query.database)

    def _check_unchanged(self, connection: Connection, name: str, value: str) -> None:
        """Accept a setting that may not be changed if it is sent with the value in force, as servers do."""
        sql = "SELECT value FROM system.settings WHERE name = {name:String} FORMAT TSVRaw"
        found = ask_text(connection, sql, {"name": escape(name)})
        if not found:
            fail(UNKNOWN_SETTING, f"Setting {name} is not known")
        as_number = {"true": "1", "false": "0"}
        if as_number.get(value.lower(), value) != found.removesuffix("\n"):
            refuse(f"Setting {name} cannot be changed")

    def _check_condition(self, connection: Connection, condition: str, database: str) -> None:
        """Check a condition given as text, which ClickHouse parses apart from the query."""
        sql = f"SELECT {condition}"
        ask_text(connection, _PARSE, {"q": escape(sql)})
        self._check_tree(ask_text(connection, f"EXPLAIN AST {sql}", {}), database)

    def _check_tree(self, tree: str, database: str) -> None:
        path: list[str] = []
        for line in tree.splitlines():
            node = line.lstrip(" ")
            if not node:
                continue
            kind, _, rest = node.partition(" ")
            del path[len(line) - len(node) :]
            parent = path[-1] if path else ""
            path.append(kind)
            name = rest.split(" (")[0].strip()
            if not parent and kind == "InsertQuery":
                refuse(
                    "INSERT is not allowed, save of literals into alert_rules: INSERT INTO alert_rules "
                    "(pair, threshold) VALUES ('ETHUSDT/BTCUSDT', 2.5)"
                )
            if not parent and kind not in policy.STATEMENTS:
                refuse(f"A statement of this kind ({kind}) is not allowed")
            if kind == "Literal" and parent in policy.STATEMENTS:
                refuse("INTO OUTFILE is not allowed")
            if kind == "Function":
                self._check_function(name.lower(), is_table=parent == "TableExpression")
            elif kind in ("Identifier", "TableIdentifier", "StorageID"):
                self._check_table(name, database, is_table=kind != "Identifier")

    def _check_function(self, name: str, *, is_table: bool) -> None:
        forbidden = name in self._table_functions and (is_table or name not in self._functions)
        if forbidden or policy.FUNCTIONS.fullmatch(name):
            refuse(f"Function {name} is not allowed")

    def _check_table(self, name: str, database: str, *, is_table: bool) -> None:
        parts = name.split(".")
        qualified = len(parts) > 1
        schema = parts[0] if qualified else database
        if schema != "system" or (not qualified and not is_table):
            return
        if parts[-1 if not qualified else 1] not in policy.SYSTEM_TABLES:
            refuse(f"Table {name} is not allowed")


def _assignments(text: str, at: int) -> Iterator[tuple[str, str]]:
    """Read ``name = value, name = value`` from a query that ClickHouse has formatted."""
    while found := _ASSIGNMENT.match(text, at):
        raw = found[2]
        if raw.startswith("'"):
            raw = re.sub(r"\\(.)|''", lambda m: m[1] or "'", raw[1:-1])
        yield found[1], raw
        if not found[3]:
            return
        at = found.end()
