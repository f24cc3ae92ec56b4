"""The queries of panels, run on stores: what they return is what their panels show."""

import json
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest

from grafana.levels import STALE_SECONDS
from tests.support.grafana_dashboards import DASHBOARDS, PANELS, choose, panels_of
from tests.support.grafana_data_source import NUMBERS, TEXTS, TIMES, Range, expand_macros, interpolate
from tests.support.grafana_schema import Json
from tests.support.processes import run_flow_until, served, store_statements
from tests.support.served import Answer, Served

QUERIES = [
    pytest.param(name, panel, query, id=f"{name}-{panel['title']}-{query['refId']}")
    for name, panel in PANELS
    for query in panel.get("targets", [])
    if "rawSql" in query
]


@pytest.fixture(scope="module")
def simulated_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A store of the simulated exchange, with an alert rule of the user and an open gap."""
    folder = tmp_path_factory.mktemp("simulated") / "data"
    settings = {"SYMBOLS": "BTCUSDT,ETHUSDT,SOLUSDT", "TIMEFRAMES": "1s", "WINDOWS": "4", "Z_WINDOW": "4"}
    # Samples of the pipeline are 5 s apart, and a rate needs two of them.
    samples, signals = "SELECT uniqExact(time) FROM pipeline_metrics", "SELECT count() FROM latest_signals"
    enough = f"SELECT ({samples}) >= 3 AND ({signals}) > 0"
    run_flow_until(folder, enough, SOURCE="simulator", Z_ENTRY="0.9", Z_EXIT="0.3", **settings)
    store_statements(
        folder,
        "INSERT INTO alert_rules (name, threshold) VALUES ('Far out', 0.1)",
        "INSERT INTO stored_gaps"
        " (market, symbol, first_id, last_id, detected, restored, cause, repair, version, source) VALUES"
        " ('spot', 'ETHUSDT', 11, 20, now64(6), 4, 'disconnect', 'open', 4, 'simulator')",
    )
    with served(folder) as store:
        yield store


RECORDED = Range(1723161180.0, 1723161600.0)
"""Time range of the recordings, 2024-08-08 23:53 to 24:00."""


@pytest.fixture(scope="module")
def chosen(
    replayed_store: Served, simulated_store: Served
) -> dict[str, tuple[Served, Range, dict[str, str]]]:
    """Return a store, a time range and the variables for each dashboard."""
    first, last = simulated_store.ask(
        "SELECT toUnixTimestamp(min(time)), toUnixTimestamp(max(time)) FROM pipeline_metrics"
    ).rows[0]
    found = {}
    for name, dashboard in DASHBOARDS.items():
        store = replayed_store if name in ("pair", "market") else simulated_store
        over = RECORDED if name in ("pair", "market") else Range(int(first) - 5, int(last) + 5)
        found[name] = (store, over, choose(store, dashboard))
    return found


FOR_ALL_TABLES = ("^(At|Noticed|Started|Hour|Written)$", "^Pair$")
"""Overrides that every table has, whether it has such a column or not."""

ANSWERS: dict[str, Answer] = {}


def run(chosen: Any, name: str, panel: Json, query: Json) -> Answer:
    """Run the query of a panel, once for all tests that use its answer."""
    store, over, variables = chosen[name]
    least = {"100ms": 100, "1s": 1000, "5s": 5000}[panel.get("interval", "1s")]
    over = Range(over.start, over.end, max(least, 1000))
    sql = expand_macros(interpolate(query["rawSql"], variables), over)
    if sql not in ANSWERS:
        ANSWERS[sql] = store.ask(sql)
    return ANSWERS[sql]


@pytest.mark.parametrize(("name", "panel", "query"), QUERIES)
def test_a_query_returns_rows_with_the_columns_that_its_panel_needs(
    chosen: Any, name: str, panel: Json, query: Json
) -> None:
    answer = run(chosen, name, panel, query)
    times, numbers, texts = (answer.matching(types) for types in (TIMES, NUMBERS, TEXTS))
    assert answer.rows
    # Bool, Array, Map and UUID become labels or JSON in Grafana.
    assert len(times) + len(numbers) + len(texts) == len(answer.columns), answer.columns
    kind = panel["type"]
    if query["format"] == 0:
        assert next(iter(answer.columns)) == "Time"
        assert times == ["Time"]
        column = [row[0] for row in answer.rows]
        assert column == sorted(column), "series must be in order of time"
        assert len(texts) <= 1
        assert numbers if not texts else len(numbers) == 1
        series = [
            tuple(row[i] for i, c in enumerate(answer.columns) if c in [*times, *texts])
            for row in answer.rows
        ]
        assert len(set(series)) == len(series), "one value for each series and time"
        assert not texts or numbers == ["Value"], "Grafana would put its name before that of the series"
    if kind == "candlestick":
        assert {"open", "high", "low", "close", "volume"} == set(numbers)
        assert len({row[0] for row in answer.rows}) == len(answer.rows)
    if kind == "state-timeline":
        assert len(texts) == len(numbers) == 1
        known = panel["fieldConfig"]["defaults"]["mappings"][0]["options"]
        assert {str(row[-1]) for row in answer.rows} <= set(known)
    if kind == "stat":
        assert len(answer.rows) == 1
    if kind == "xychart" and query["refId"] == "A":
        assert len(numbers) == 3  # the first is x, the others are series over it
        assert not any(value is None for row in answer.rows for value in row)


@pytest.mark.parametrize(("name", "panel"), [pytest.param(n, p, id=f"{n}-{p['title']}") for n, p in PANELS])
def test_overrides_links_and_transformations_name_fields_of_the_panel(
    chosen: Any, name: str, panel: Json
) -> None:
    queries = [query for query in panel.get("targets", []) if "rawSql" in query]
    if not queries:
        return
    fields = set().union(*(fields_of(run(chosen, name, panel, query), query) for query in queries))
    named = re.findall(r"__data\.fields\.(\w+)", json.dumps(panel))
    named += [sort["displayName"] for sort in panel["options"].get("sortBy", [])]
    for transformation in panel.get("transformations", []):
        options = transformation["options"]
        match transformation["id"]:
            case "groupingToMatrix":
                named += [options["rowField"], options["columnField"], options["valueField"]]
            case "configFromData":
                named += [options["applyTo"]["options"], options["mappings"][0]["fieldName"]]
    matchers = [override["matcher"]["options"] for override in panel["fieldConfig"]["overrides"]]
    named += [matcher for matcher in matchers if not matcher.startswith("/")]
    assert set(named) <= fields
    for pattern in (matcher.strip("/") for matcher in matchers if matcher.startswith("/")):
        if pattern not in FOR_ALL_TABLES:
            assert any(re.search(pattern, field) for field in fields), pattern


def fields_of(answer: Answer, query: Json) -> set[str]:
    """Return the names of the fields that Grafana makes of an answer: columns, and series by their texts."""
    columns = list(answer.columns)
    texts = answer.matching(TEXTS) if query["format"] == 0 else []
    return {*columns, *(str(row[columns.index(text)]) for text in texts for row in answer.rows)}


@pytest.mark.parametrize(
    "name", [name for name, d in DASHBOARDS.items() if d.get("annotations", {}).get("list")]
)
def test_annotations_have_a_time_a_text_and_existing_panels(chosen: Any, name: str) -> None:
    store, over, variables = chosen[name]
    ids = {panel["id"] for panel in panels_of(DASHBOARDS[name])}
    for annotation in DASHBOARDS[name]["annotations"]["list"]:
        answer = store.ask(expand_macros(interpolate(annotation["target"]["rawSql"], variables), over))
        assert {"time", "text", "title", "tags"} <= set(answer.columns)
        assert set(answer.matching(TIMES)) <= {"time", "timeEnd"}
        assert set(annotation["filter"]["ids"]) <= ids
    entries = DASHBOARDS["pair"]["annotations"]["list"][0]
    sql = interpolate(entries["target"]["rawSql"], variables)
    assert not store.ask(expand_macros(sql, over)).rows, "so many marks would hide the panel"
    assert store.ask(expand_macros(sql, Range(over.end - 120, over.end))).rows


@pytest.mark.parametrize(("name", "panel", "query"), QUERIES)
def test_no_query_reads_the_whole_of_a_large_table(chosen: Any, name: str, panel: Json, query: Json) -> None:
    store, over, variables = chosen[name]
    sql = expand_macros(interpolate(query["rawSql"], variables), over)
    plan = "\n".join(re.sub("[│├└─]", " ", row[0]) for row in store.ask(f"EXPLAIN indexes = 1 {sql}").rows)
    for read in re.split(r"(?=ReadFromMergeTree)", plan)[1:]:
        table = re.match(r"ReadFromMergeTree \(\w+\.(\w+)\)", read)
        if table and table[1] in ("stored_bars", "stored_pair_metrics", "stored_trades", "pipeline_metrics"):
            if "Indexes:" not in read:
                continue  # no part of the table can match
            key = re.search(r"PrimaryKey\n\s+Keys:\s*\n", read)
            assert key, f"{panel['title']} reads all of {table[1]}:\n{plan}"


@pytest.mark.parametrize(("name", "panel", "query"), QUERIES)
def test_queries_ask_for_no_settings_and_shadow_no_key_column(name: str, panel: Json, query: Json) -> None:
    assert "SETTINGS" not in query["rawSql"], "a read-only user may not change them"
    assert not shadowed(query["rawSql"]), "WHERE would use the alias, and the index would not be used"


def shadowed(sql: str) -> list[str]:
    """Return the aliases that have the name of a column of the sorting key of the table that is read."""
    selects = re.findall(r"SELECT\b((?:(?!SELECT\b|FROM\b).)*)FROM stored_", sql, re.DOTALL)
    keys = r'AS "?(time|open_time|market|timeframe|window|method)\b'
    return [alias for select in selects for alias in re.findall(keys, select)]


def test_an_alias_that_shadows_a_key_column_is_found() -> None:
    sql = 'SELECT a FROM (SELECT max(b.time) AS "time", 1 AS c\nFROM stored_bars AS b) WHERE time > 1'
    assert shadowed(sql) == ["time"]


@pytest.mark.parametrize("name", DASHBOARDS)
def test_on_an_empty_store_each_panel_says_that_it_has_no_data(empty_store: Served, name: str) -> None:
    values: dict[str, str] = {}
    for variable in DASHBOARDS[name]["templating"]["list"]:
        rows = empty_store.ask(interpolate(variable["query"]["rawSql"], values)).rows
        values[variable["name"]] = str(rows[0][0]) if rows else ""
    for panel in panels_of(DASHBOARDS[name]):
        for query in panel.get("targets", []):
            if "rawSql" not in query:
                continue
            found = empty_store.ask(expand_macros(interpolate(query["rawSql"], values), Range(0, 600)))
            told = json.dumps(found.rows)
            if panel["title"] == "Data" or panel["type"] == "state-timeline" or query["refId"] == "B":
                assert "is the flow running" in told.lower() or not found.rows, panel["title"]
            elif panel["type"] == "xychart":
                assert found.rows == [[0, None, None]]
            elif panel["type"] == "stat":  # counts are 0, other values NULL
                assert not any(value for row in found.rows for value in row if value != "not known yet")
            else:
                assert found.rows == [], panel["title"]
            if not found.rows and panel["type"] in ("table", "stat"):
                # Without rows this column makes no frame, and the panel shows its text.
                assert "one_frame" in found.columns


def test_an_empty_time_range_shows_nothing_instead_of_zeros(replayed_store: Served) -> None:
    """Aggregates of no rows are 0 in ClickHouse, unless they have the suffix -OrNull."""
    variables = choose(replayed_store, DASHBOARDS["pair"])
    panel = next(p for p in DASHBOARDS["pair"]["panels"] if p["title"] == "Now")
    never = Range(1.0, 2.0)
    (row,) = replayed_store.ask(
        expand_macros(interpolate(panel["targets"][0]["rawSql"], variables), never)
    ).rows
    assert [value for value in row if value] == ["not known yet"]
    assert row.count(None) == len(row) - 3, "all but the position, which is flat"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "Replay of a recording, up to 2024-08-08 23:59:5"),
        ({"timeframe": "1h"}, "No bars of ETHUSDT/BTCUSDT at 1h are stored yet. Is the flow running?"),
    ],
)
def test_the_panel_data_says_why_there_are_no_current_data(
    replayed_store: Served, settings: dict[str, str], said: str
) -> None:
    sql = next(p for p in DASHBOARDS["pair"]["panels"] if p["title"] == "Data")["targets"][0]["rawSql"]
    variables = choose(replayed_store, DASHBOARDS["pair"]) | settings
    (row,) = replayed_store.ask(expand_macros(interpolate(sql, variables), RECORDED)).rows
    assert row[0].startswith(said)
    (row,) = replayed_store.ask(expand_macros(interpolate(sql, variables), Range(1.0, 2.0))).rows
    assert settings or row[0].startswith("Outside this time range: the recording ends 2024-08-08")


def test_live_data_that_have_stopped_are_reported(simulated_store: Served) -> None:
    sql = next(p for p in DASHBOARDS["pair"]["panels"] if p["title"] == "Data")["targets"][0]["rawSql"]
    variables = choose(simulated_store, DASHBOARDS["pair"])
    expanded = expand_macros(interpolate(sql, variables), Range(time.time() - 900, time.time()))
    late = expanded.replace("now64(6)", f"(now64(6) + INTERVAL {STALE_SECONDS + 30} SECOND)")
    assert late != expanded
    assert re.match(r"No bars for .*: is the flow running\?", simulated_store.ask(late).rows[0][0])


@pytest.mark.parametrize(
    "sql", ["SELECT $__columns(a, b)", "SELECT $__lttb(1)", "SELECT 1 WHERE $__conditionalAll(a, $b)"]
)
def test_macros_that_the_plugin_does_not_expand_in_queries_are_refused(sql: str) -> None:
    with pytest.raises(AssertionError, match="expands no such macro"):
        expand_macros(sql, RECORDED)
