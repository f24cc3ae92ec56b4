"""The SQL of the dashboards: the files of ``grafana/queries``, with their placeholders filled in.

A file holds one query, as it stands in Grafana's query editor. Three kinds of names in it are replaced:

* ``$__macro`` by the ClickHouse plugin, at each refresh of a panel;
* ``${variable:singlequote}`` by Grafana, with what the user has selected;
* ``@name`` here, when the dashboards are built. It is a value that the page passes to `sql`, or a part of
  ``queries/parts.sql``, which may contain names itself. Where it stands alone on a line, all lines of its
  text get the indentation of that line.

Lines that begin with ``--`` are comments for the reader of the file, and do not reach Grafana.

What holds for all queries:

* Grafana knows times, numbers and texts: undefined statistics (NaN, inf) become NULL, and Bool a number.
* Every query limits the leading columns of a sorting key and a range of time, or reads a table that is always
  small. Points are aggregated from whole bars, about as many as the panel has room for.
* The alias of a column is never the name of a column of the table (``"Time"``, not ``time``): ClickHouse
  would use the alias in WHERE, and then not the index.
* Tables are read with FINAL, as in the views that show each row once. For one pair this takes 7 ms, and the
  view 10 ms (chDB 4.4, 10 million rows).
"""

import re
import textwrap
from collections.abc import Mapping
from pathlib import Path

from grafana.levels import SIGNIFICANT

QUERIES = Path(__file__).parent / "queries"

_NAME = re.compile(r"^(?P<indent> *)@(?P<line>\w+)$|@(?P<inside>\w+)", re.MULTILINE)


class QueryError(Exception):
    """A query and the values for it do not fit together."""


def sql(query: str, **values: object) -> str:
    """Return the SQL of a file, as Grafana gets it.

    :arg query: name of the file below ``grafana/queries``, without its suffix.
    :arg values: text for each ``@name`` that is not a shared part.
    :returns: SQL with Grafana's macros and variables in it.
    :raises QueryError: if a name has no value, or a value is not used.
    """
    text = _without_comments((QUERIES / f"{query}.sql").read_text())
    known = (
        _parts() | {"significant": str(SIGNIFICANT)} | {name: str(value) for name, value in values.items()}
    )
    used: set[str] = set()
    filled = _filled(text, known, used)
    if unused := values.keys() - used:
        msg = f"{query}.sql has no @{', @'.join(sorted(unused))}"
        raise QueryError(msg)
    return textwrap.dedent(filled)


def _filled(text: str, known: Mapping[str, str], used: set[str]) -> str:
    def replacement(found: re.Match[str]) -> str:
        name = found["line"] or found["inside"]
        if name not in known:
            msg = f"@{name} is neither a part of parts.sql nor a value that is passed"
            raise QueryError(msg)
        used.add(name)
        return textwrap.indent(_filled(known[name], known, used), found["indent"] or "")

    return _NAME.sub(replacement, text)


def _parts() -> dict[str, str]:
    """Return the text of each part by its name."""
    texts = re.split(r"^-- @(\w+):", (QUERIES / "parts.sql").read_text(), flags=re.MULTILINE)
    named = zip(texts[1::2], texts[2::2], strict=True)
    return {name: _without_comments(text.partition("\n")[2]) for name, text in named}


def _without_comments(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if not line.startswith("--")).strip("\n")


def quoted(*texts: str) -> str:
    """Return texts as a list in SQL, without brackets."""
    return ", ".join(f"'{text}'" for text in texts)
