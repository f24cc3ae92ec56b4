"""The numbered SQL files that make the schema, read statement by statement."""

import re
from collections.abc import Iterator
from pathlib import Path

SCHEMA = Path(__file__).resolve().parents[2] / "clickhouse"
"""Folder of the numbered SQL files that make the schema."""

VERSIONS = (
    "CREATE TABLE IF NOT EXISTS schema_version"
    " (version UInt32 COMMENT 'number of the last file of clickhouse/ applied',"
    " applied DateTime64(6, 'UTC') DEFAULT now64(6, 'UTC') COMMENT 'when')"
    " ENGINE = MergeTree ORDER BY version COMMENT 'Which schema this database has'"
)
"""Makes the table that keeps which of these files a database has seen."""


def schema_files() -> list[Path]:
    """Return the numbered files, in their order.

    A number once given stays: a file that changes gets the next one, so that databases which have
    seen it see it again.
    """
    return sorted(SCHEMA.glob("[0-9][0-9][0-9]_*.sql"))


def statements(text: str) -> Iterator[str]:
    """Split a schema file into its statements, without comments.

    :arg text: SQL; strings in single quotes, comments from ``--`` to the end of the line.
    :returns: The statements, without their semicolons.
    """
    parts = [""]
    for piece in re.findall(r"--[^\n]*|'(?:[^'\\]|\\.|'')*'|;|[^;'-]+|-", text):
        if piece == ";":
            parts.append("")
        elif not piece.startswith("--"):
            parts[-1] += piece
    return (part.strip() for part in parts if part.strip())
