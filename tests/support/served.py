"""A store behind its HTTP server, asked as Grafana asks it."""

import json
import re
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode


@dataclass(frozen=True)
class Answer:
    """The answer to a query.

    :arg columns: ClickHouse's type of each column by its name, in order.
    :arg rows: the rows.
    """

    columns: dict[str, str]
    rows: list[list[Any]]

    def matching(self, types: re.Pattern[str]) -> list[str]:
        """Return the names of the columns whose types match."""
        return [name for name, kind in self.columns.items() if types.fullmatch(kind)]


class Served:
    """A store whose server listens on a port of this machine."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/"

    def ask(self, sql: str) -> Answer:
        """Run a query with the database and the time limit that Grafana's data source sends.

        :raises AssertionError: with the server's message if it refuses the query.
        :raises OSError: if no server answers.
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
