"""Alert rules, the one table that users write to: INSERT of literals and DELETE, by REST and by SQL.

A statement is read here and never run as it came in: values become parameters, and rows are deleted by id.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from connectors.clickhouse.alert_rules import SQL_TYPES, AlertRule, fault
from connectors.clickhouse.server.api import RequestError
from connectors.clickhouse.server.connections import escape
from connectors.clickhouse.server.errors import SYNTAX, QueryError, refuse
from connectors.clickhouse.server.execution import Execution
from connectors.clickhouse.server.query import Query


def read_rule(body: bytes) -> dict[str, Any]:
    """Read an alert rule from JSON.

    :arg body: An object with some of the fields of `AlertRule`.
    :returns: The fields that are given.
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
    try:
        AlertRule.model_validate(rule)
    except ValidationError as ex:
        first = ex.errors()[0]
        raise RequestError(fault(str(first["loc"][0]), first["input"])) from None
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
    :returns: The rules, or None for another statement.
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
    :returns: The text after WHERE, or None for another statement.
    """
    found = _DELETE.fullmatch(sql)
    return found["where"] if found is not None and (found["database"] or database) == database else None


def _tuples(text: str) -> Iterator[list[str | float | bool]]:
    """Read ``('a', 1), ('b', 2)``: only literals, as nothing is evaluated."""
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


class RuleWriter:
    """Changes the alert rules of one store.

    :arg execution: Runs the statements.
    :arg database: Of the store.
    """

    def __init__(self, execution: Execution, database: str) -> None:
        self._execution = execution
        self._database = database
        self._table = f"{database}.alert_rules"

    async def change(self, query: Query, *, is_post: bool) -> bool:
        """Run a statement that inserts or deletes alert rules.

        :arg query: As it came in.
        :arg is_post: Whether it came by POST.
        :returns: False if the statement is another.
        :raises QueryError: If it cannot be read, came by GET, or fails; then no rule is changed.
        """
        try:
            rules = inserted_rules(query.sql, self._database)
        except (RequestError, ValueError) as ex:
            raise QueryError(SYNTAX, str(ex)) from None
        condition = None if rules is not None else deleted_rules(query.sql, self._database)
        if rules is None and condition is None:
            return False
        if not is_post:
            refuse("A GET changes nothing: send the statement by POST")
        made: list[str] = []
        try:
            for rule in rules or ():
                made.append((await self.insert(rule))["id"])
        except QueryError:
            for rule_id in made:
                await self.delete(rule_id)
            raise
        if condition is not None:
            # The gate checks the condition as part of a query; what the query finds is deleted by id.
            sql = f"SELECT id FROM alert_rules WHERE ({condition}\n)"  # noqa: S608
            chosen = Query(sql, self._database, "TSVRaw", query.parameters)
            for line in (await self._execution.read(chosen)).split():
                await self.delete(str(uuid.UUID(line)))
        return True

    async def insert(self, rule: Mapping[str, Any]) -> dict[str, Any]:
        """Add a rule.

        :arg rule: As `read_rule` returns it.
        :returns: The rule, with its id.
        :raises QueryError: If ClickHouse refuses it.
        """
        made = {"id": str(uuid.uuid4()), **rule}
        types = {"id": "UUID", **SQL_TYPES}
        values = ", ".join(f"{{{name}:{types[name]}}}" for name in made)
        # The names are fields of AlertRule, and the values are parameters.
        sql = f"INSERT INTO {self._table} ({', '.join(made)}) SELECT {values}"
        texts = {
            name: escape(str(value).lower() if isinstance(value, bool) else str(value))
            for name, value in made.items()
        }
        await self._execution.run_unchecked(sql, texts)
        return made

    async def delete(self, rule_id: str) -> bool:
        """Delete a rule.

        :arg rule_id: A UUID.
        :returns: Whether there was such a rule.
        """
        given = {"id": rule_id}
        sql = f"SELECT count() FROM {self._table} WHERE id = {{id:UUID}}"  # noqa: S608
        if (await self._execution.run_unchecked(sql, given)).strip() == "0":
            return False
        await self._execution.run_unchecked(f"DELETE FROM {self._table} WHERE id = {{id:UUID}}", given)  # noqa: S608
        return True
