"""The schema as the SQL files in ``clickhouse/`` declare it, read statement by statement.

Each table and view is declared once, as it should be. `connectors.clickhouse.upgrade` makes a new database
from the statements, and brings an older one up to date by comparing its tables with them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import cache, cached_property
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "clickhouse"
"""Folder of the SQL files."""

FILES = ("tables.sql", "latest.sql", "views.sql", "alerts.sql", "pipeline.sql", "api.sql")
"""The files in the order in which they are applied: each uses only what stands before it."""

VERSION = 12
"""Version of the schema. A program refuses a store that has a later one than its own.

Raise it with each change after which earlier programs must not write to the store, as a column that they
would leave empty. Any other change is noticed by the fingerprint of the statements.
"""

STRING = r"'(?:[^'\\]|\\.|'')*'"
"""A string in single quotes, as a regular expression."""


class Kind(StrEnum):
    """What a statement of the schema does."""

    TABLE = "creates a table, if there is none of its name"
    VIEW = "creates a view, in place of one of its name"
    MATERIALIZED = "creates a materialized view, if there is none of its name"
    FILL = "copies the rows of a table to one that a materialized view will fill"
    COMMENT = "comments columns of a view"
    DROP = "drops a view of earlier programs"


_KINDS = {
    Kind.TABLE: (
        r"CREATE TABLE IF NOT EXISTS (?P<name>\w+)"
        r"(?: AS (?P<other>\w+)(?=\s+ENGINE = \w*MergeTree)|(?=\s*\((?s:.*)ENGINE = \w*MergeTree))"
    ),
    Kind.VIEW: r"CREATE OR REPLACE VIEW (?P<name>\w+)(?P<other>)(?=\s+AS\s)",
    Kind.MATERIALIZED: r"CREATE MATERIALIZED VIEW IF NOT EXISTS (?P<name>\w+)(?=\s+TO (?P<other>\w+)\s+AS\s)",
    Kind.FILL: r"INSERT INTO (?P<name>\w+)(?= SELECT \* FROM (?P<other>\w+)$)",
    Kind.COMMENT: rf"ALTER TABLE (?P<name>\w+)(?P<other>)(?=(?:\s+COMMENT COLUMN \w+ {STRING},?)+$)",
    Kind.DROP: r"DROP VIEW IF EXISTS (?P<name>\w+)(?P<other>)$",
}
_READ = re.compile(r"\b(?:FROM|JOIN) (\w+)\b(?! *\.)")
_COLUMN = re.compile(
    rf"(?P<name>\w+) (?P<type>.+?)(?: DEFAULT (?P<default>.+?))? COMMENT (?P<comment>{STRING})"
    r"(?: CODEC\((?P<codec>.+)\))?"
)
_CONSTRAINT = re.compile(r"CONSTRAINT (\w+) CHECK (.+)")


@dataclass(frozen=True)
class Column:
    """A column of a table, each part written as ClickHouse prints it.

    :arg declaration: The whole of it.
    :arg name: Its name.
    :arg type: Its type.
    :arg default: The expression of its default; "" for none.
    :arg comment: Its comment.
    :arg codec: Its codecs with commas between; "" for none.
    """

    declaration: str
    name: str
    type: str
    default: str
    comment: str
    codec: str

    @classmethod
    def read(cls, declaration: str) -> Column:
        """Read a declaration: name, type, DEFAULT, COMMENT, CODEC, in this order.

        :arg declaration: In one line.
        :raises ValueError: If it has another form.
        """
        found = _COLUMN.fullmatch(declaration)
        if found is None:
            msg = f"not declared as name, type, DEFAULT, COMMENT, CODEC: {declaration}"
            raise ValueError(msg)
        parts = {name: text or "" for name, text in found.groupdict().items()}
        return cls(declaration, **{**parts, "comment": unquoted(parts["comment"])})


@dataclass(frozen=True)
class Table:
    """A table as it is declared.

    :arg name: Its name.
    :arg columns: Its columns, in order.
    :arg constraints: The expression of each constraint, by its name.
    :arg comment: Its comment.
    :arg options: What follows the columns: engine, keys, settings and comment.
    """

    name: str
    columns: tuple[Column, ...]
    constraints: dict[str, str]
    comment: str
    options: str


@dataclass(frozen=True)
class Statement:
    """A statement of the schema.

    :arg kind: What it does.
    :arg name: Of the table or view that it is about.
    :arg other: Of the table whose columns a table has, that a materialized view writes to, or that a fill
        reads; "" for none.
    :arg text: The whole statement.
    :arg name_end: Where in the text the name ends.
    :arg head_end: Where in the text its first words end.
    """

    kind: Kind
    name: str
    other: str
    text: str
    name_end: int
    head_end: int

    @classmethod
    def read(cls, text: str) -> Statement:
        """Recognise a statement.

        :arg text: Without a semicolon; names in it have no database.
        :raises ValueError: If it is of another kind than those of `Kind`.
        """
        for kind, pattern in _KINDS.items():
            if match := re.match(pattern, text):
                return cls(kind, match["name"], match["other"] or "", text, match.end("name"), match.end())
        msg = f"a statement that the schema does not use: {text.splitlines()[0]}"
        raise ValueError(msg)


class Schema:
    """The schema of one folder of SQL files.

    :arg folder: With the files of `FILES`.
    """

    def __init__(self, folder: Path) -> None:
        texts = (text for name in FILES for text in statements((folder / name).read_text()))
        self.statements = tuple(Statement.read(text) for text in texts)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the statements: a database that has it needs no upgrade."""
        return hashlib.sha256("\0".join(each.text for each in self.statements).encode()).hexdigest()[:16]

    @cached_property
    def tables(self) -> dict[str, Table]:
        """Tables by their names, in the order of their statements."""
        found: dict[str, Table] = {}
        for statement in self.statements:
            if statement.kind is Kind.TABLE:
                found[statement.name] = _read_table(statement, found)
        return found

    @cached_property
    def views(self) -> dict[str, tuple[str, ...]]:
        """Views by their names, in the order of their statements, each with the tables and views it reads."""
        found: dict[str, tuple[str, ...]] = {}
        for statement in self.statements:
            if statement.kind is Kind.VIEW:
                read = dict.fromkeys(_READ.findall(statement.text))
                found[statement.name] = tuple(name for name in read if name in found or name in self.tables)
        return found

    @cached_property
    def materialized(self) -> dict[str, str]:
        """Names of materialized views, by the table that each writes to."""
        return {each.other: each.name for each in self.statements if each.kind is Kind.MATERIALIZED}

    @cached_property
    def objects(self) -> frozenset[str]:
        """Names of all tables and views."""
        return frozenset((*self.tables, *self.views, *self.materialized.values()))


def load() -> Schema:
    """Return the schema of this program."""
    return _load(FOLDER)


@cache
def _load(folder: Path) -> Schema:
    return Schema(folder)


def statements(text: str) -> Iterator[str]:
    """Split SQL into its statements, without comments.

    :arg text: SQL; strings in single quotes, comments from ``--`` to the end of the line.
    :returns: The statements, without their semicolons.
    """
    parts = [""]
    for piece in re.findall(rf"--[^\n]*|{STRING}|;|[^;'-]+|-", text):
        if piece == ";":
            parts.append("")
        elif not piece.startswith("--"):
            parts[-1] += piece
    return (part.strip() for part in parts if part.strip())


def unquoted(literal: str) -> str:
    """Return the text of a string in single quotes.

    :arg literal: With its quotes; a quote inside is doubled.
    """
    return literal[1:-1].replace("''", "'")


def _read_table(statement: Statement, known: dict[str, Table]) -> Table:
    text = statement.text
    if statement.other:
        columns, constraints = known[statement.other].columns, known[statement.other].constraints
        options = text[statement.head_end :].strip()
    else:
        start = text.index("(", statement.head_end)
        end = _closing(text, start)
        parts = [" ".join(part.split()) for part in _split(text[start + 1 : end])]
        checks = (_CONSTRAINT.fullmatch(part) for part in parts)
        constraints = {check[1]: check[2] for check in checks if check}
        columns = tuple(Column.read(part) for part in parts if not _CONSTRAINT.fullmatch(part))
        options = text[end + 1 :].strip()
    comment = re.search(rf"\bCOMMENT ({STRING})$", options)
    return Table(statement.name, columns, constraints, unquoted(comment[1]) if comment else "", options)


def marks(text: str) -> Iterator[tuple[int, str]]:
    """Return the brackets and commas of a text that are not inside strings, with their positions.

    :arg text: SQL.
    """
    for found in re.finditer(rf"{STRING}|[(),]", text):
        if not found[0].startswith("'"):
            yield found.start(), found[0]


def _closing(text: str, start: int) -> int:
    """Return where the bracket at a position is closed."""
    depth = 0
    for at, mark in marks(text[start:]):
        depth += {"(": 1, ")": -1}.get(mark, 0)
        if depth == 0:
            return start + at
    msg = f"a bracket is not closed: {text[start : start + 40]}"
    raise ValueError(msg)


def _split(text: str) -> Iterator[str]:
    """Split a list at its commas, but not inside brackets and strings."""
    depth = start = 0
    for at, mark in marks(text):
        depth += {"(": 1, ")": -1}.get(mark, 0)
        if mark == "," and depth == 0:
            yield text[start:at]
            start = at + 1
    yield text[start:]
