"""The files of grafana/queries: each is used, filled in by one rule, and nothing else makes SQL."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from grafana import sql as queries
from grafana.sql import QUERIES, QueryError, sql
from tests.support.grafana_dashboards import DASHBOARDS, panels_of
from tests.support.grafana_schema import Json
from tests.support.paths import ROOT

FILES = {
    str(file.relative_to(QUERIES).with_suffix("")): file.read_text()
    for file in sorted(QUERIES.rglob("*.sql"))
    if file.name != "parts.sql"
}
FRAMES = ("data", "timeline")
"""Queries around queries of the same panel."""

PAGES = "\n".join(file.read_text() for file in (ROOT / "grafana").rglob("*.py"))
NAMED = re.findall(r'\bsql\(\s*"([\w/]+)"', PAGES)


def queries_of(dashboard: Json) -> Iterator[tuple[str, str]]:
    """Every query to ClickHouse in a dashboard, with the title of its panel or the name of its variable."""
    for variable in dashboard["templating"]["list"]:
        yield f"variable {variable['name']}", variable["query"]["rawSql"]
    for annotation in dashboard["annotations"]["list"]:
        yield f"annotation {annotation['name']}", annotation["target"]["rawSql"]
    for panel in panels_of(dashboard):
        for query in panel.get("targets", ()):
            if "rawSql" in query:
                yield panel["title"], query["rawSql"]


SHOWN = [
    (name, title, query) for name, dashboard in DASHBOARDS.items() for title, query in queries_of(dashboard)
]


def words(text: str) -> str:
    return " ".join(text.split())


def pattern(name: str) -> re.Pattern[str]:
    """A file as a pattern of the SQL that is made from it: anything may stand where a name is."""
    lines = [line for line in FILES[name].splitlines() if not line.startswith("--")]
    return re.compile(".+?".join(map(re.escape, re.split(r"@\w+", words("\n".join(lines))))))


MADE_OF = {
    (dashboard, title, query): [name for name in FILES if pattern(name).search(words(query))]
    for dashboard, title, query in SHOWN
}


def test_every_file_is_named_by_a_page_and_every_named_file_is_there() -> None:
    assert set(NAMED) == set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_used_by_panels_of_the_dashboard_in_whose_folder_it_is(name: str) -> None:
    users = {dashboard for (dashboard, _, _), names in MADE_OF.items() if name in names}
    assert users
    folder = Path(name).parent.name
    if folder not in ("", "variables"):  # which all dashboards share
        assert users == {folder}


def test_every_query_of_a_dashboard_is_made_of_one_file_and_perhaps_a_frame() -> None:
    for (dashboard, title, _), names in MADE_OF.items():
        assert len([name for name in names if name not in FRAMES]) == 1, (dashboard, title, names)
        assert ("data" in names) == (title == "Data")


def test_a_file_that_is_named_once_is_the_query_of_one_panel_of_its_dashboard() -> None:
    shared = {"candles", "market/matrix", "pipeline/gauges", "pipeline/mean", "pipeline/rate"}
    for name in set(FILES) - shared - set(FRAMES):
        titles = {title for (_, title, _), names in MADE_OF.items() if name in names}
        assert len(titles) == 1 or name == "variables/z_level", (name, titles)
        assert NAMED.count(name) == 1


def test_every_part_is_used_by_a_file() -> None:
    text = (QUERIES / "parts.sql").read_text()
    parts = re.findall(r"^-- @(\w+):", text, re.MULTILINE)
    assert len(set(parts)) == len(parts)
    used = set(re.findall(r"@(\w+)", "\n".join(FILES.values()) + re.sub(r"(?m)^--.*", "", text)))
    assert set(parts) <= used


def test_a_dashboard_has_no_name_that_was_not_filled_in() -> None:
    assert not any("@" in query or "--" in query for _, _, query in SHOWN)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(queries, "QUERIES", tmp_path)
    (tmp_path / "parts.sql").write_text(
        "-- Parts.\n\n-- @few: some rows\n-- A further comment.\nLIMIT @count\n\n"
        "-- @inner: a query\nSELECT a\nFROM t\n@few\n"
    )
    return tmp_path


def test_names_are_filled_in_with_the_indentation_of_their_line(folder: Path) -> None:
    (folder / "q.sql").write_text(
        "-- What it is.\nSELECT max(a) FROM\n(\n    @inner\n) WHERE a < ${y} -- @count\n"
    )
    assert sql("q", count=3) == (
        "SELECT max(a) FROM\n(\n    SELECT a\n    FROM t\n    LIMIT 3\n) WHERE a < ${y} -- 3"
    )


def test_a_name_without_a_value_and_a_value_without_a_name_are_refused(folder: Path) -> None:
    (folder / "q.sql").write_text("SELECT @what @few")
    with pytest.raises(QueryError, match="@what is neither"):
        sql("q", count=3)
    with pytest.raises(QueryError, match=r"q.sql has no @other"):
        sql("q", what=1, count=3, other=2)
