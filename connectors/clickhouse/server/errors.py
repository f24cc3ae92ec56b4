"""Errors of queries, worded and numbered as a ClickHouse server does."""

from __future__ import annotations

import re
from typing import NoReturn

SYNTAX = 62
UNKNOWN_FORMAT = 73
UNKNOWN_SETTING = 115
READONLY = 164
BUSY = 202
TOO_LARGE = 223
THROWN = 395
"""Raised by throwIf: a view of the REST routes says what is wrong."""
TOO_LONG = 396
"""The result has more rows or bytes than the query may return."""
UNSENDABLE = 44
"""A column has a type that cannot be sent in the format."""
WRONG_PASSWORD = 516

_NOT_IMPLEMENTED = 48
_TIMEOUT = 159

_NAMES = {
    SYNTAX: "SYNTAX_ERROR",
    UNKNOWN_SETTING: "UNKNOWN_SETTING",
    READONLY: "READONLY",
    WRONG_PASSWORD: "AUTHENTICATION_FAILED",
    BUSY: "TOO_MANY_SIMULTANEOUS_QUERIES",
    UNKNOWN_FORMAT: "UNKNOWN_FORMAT",
    UNSENDABLE: "ILLEGAL_COLUMN",
    _NOT_IMPLEMENTED: "NOT_IMPLEMENTED",
    TOO_LARGE: "QUERY_IS_TOO_LARGE",
    TOO_LONG: "TOO_MANY_ROWS_OR_BYTES",
}

# As a ClickHouse server answers: 404 for what does not exist, 400 for what is wrong with the query, and 500
# for everything that is not listed.
_STATUS = {
    **dict.fromkeys((46, 47, 50, 56, 60, 63, 73, 81, 115), 404),
    **dict.fromkeys(
        (6, 8, 10, 16, 20, 27, 36, 38, 41, 42, 43, 44, 53, 62, 70, 72, 117, 130, 184, 215, 386, 456, 457), 400
    ),
    **dict.fromkeys((READONLY, WRONG_PASSWORD), 403),
    _TIMEOUT: 408,
    TOO_LARGE: 413,
    _NOT_IMPLEMENTED: 501,
    BUSY: 503,
}


class QueryError(Exception):
    """A query was refused or failed.

    :arg code: ClickHouse's error code.
    :arg text: What is wrong.
    """

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text

    @classmethod
    def of(cls, ex: Exception) -> QueryError:
        """Read the code and the text from an exception of chDB.

        :arg ex: What chDB raised.
        """
        text = str(ex)
        found = re.search(r"Code: (\d+)\. DB::Exception: (.*)", text, re.DOTALL)
        if not found:
            return cls(1002, text.splitlines()[0] if text else "unknown error")
        text = re.sub(r"(Code: \d+\. DB::Exception: )+", "", found[2]).strip()
        # The user did not write the gate's own query around theirs.
        text = re.sub(
            r":? In scope SELECT formatQuerySingleLine\(.*\)\.? (?=\(\w+\)$)", " ", text, flags=re.DOTALL
        )
        return cls(int(found[1]), text)

    @property
    def status(self) -> int:
        """The HTTP status with which a ClickHouse server answers this error."""
        return _STATUS.get(self.code, 500)

    def body(self, version: str) -> str:
        """Return the error as the body of a server's answer.

        :arg version: Of the engine.
        """
        name = "" if re.search(r"\([A-Z0-9_]+\)$", self.text) else f" ({_NAMES.get(self.code, 'ERROR')})"
        return f"Code: {self.code}. DB::Exception: {self.text}{name} (version {version} (official build))\n"


def fail(code: int, text: str) -> NoReturn:
    """Raise a `QueryError`.

    :arg code: ClickHouse's error code.
    :arg text: What is wrong.
    """
    raise QueryError(code, text)


def refuse(what: str) -> NoReturn:
    """Raise the error of a query that is not allowed on this server.

    :arg what: What is not allowed, as a sentence without its full stop.
    """
    fail(READONLY, f"{what}. This server answers read-only queries of the store.")
