"""The dashboards, without a Grafana: schema, queries on a store, links, thresholds and names."""

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
from prometheus_client import REGISTRY
from pydantic import ValidationError

from connectors import telemetry
from connectors.binance.feed import FeedStatus
from connectors.clickhouse.sink import SinkStatus
from connectors.clickhouse.store import Store
from flows.settings import Settings
from grafana.build import FOLDER, as_text, dashboards
from grafana.levels import SIGNIFICANT, STALE_SECONDS
from tests.support.grafana_data_source import (
    DATA_SOURCES,
    NUMBERS,
    TEXTS,
    TIMES,
    Range,
    expand_macros,
    interpolate,
)
from tests.support.grafana_schema import Dashboard, Json, check_panel
from tests.support.paths import ROOT
from tests.support.processes import run_flow, run_flow_until, served, store_statements
from tests.support.served import Answer, Served

FILES = sorted(FOLDER.rglob("*.json"))
DASHBOARDS: dict[str, Json] = {file.stem: json.loads(file.read_text()) for file in FILES}


def panels_of(dashboard: Json) -> Iterator[Json]:
    for panel in dashboard.get("panels", []):
        yield panel
        yield from panel.get("panels", [])


PANELS = [(name, panel) for name, dashboard in DASHBOARDS.items() for panel in panels_of(dashboard)]
QUERIES = [
    pytest.param(name, panel, query, id=f"{name}-{panel['title']}-{query['refId']}")
    for name, panel in PANELS
    for query in panel.get("targets", [])
    if "rawSql" in query
]


# ---------------------------------------------------------------------------------------------- schema


@pytest.mark.parametrize("name", DASHBOARDS)
def test_a_dashboard_has_no_key_or_value_that_grafana_does_not_know(name: str) -> None:
    Dashboard.model_validate(DASHBOARDS[name])
    for panel in panels_of(DASHBOARDS[name]):
        check_panel(panel)


@pytest.mark.parametrize(
    "mistake",
    [
        {"options": {"mode": "candels"}},
        {"fieldConfig": {"defaults": {"thresholds": {"mode": "absolute", "steps": [{"color": "red"}]}}}},
        {"targets": [{"format": 256}]},
        {"typ": "candlestick"},
    ],
)
def test_the_schema_refuses_typing_errors_and_the_plugins_own_bad_default(mistake: Json) -> None:
    def merge(into: Any, change: Any) -> Any:
        if isinstance(change, dict):
            return into | {key: merge(into.get(key, {}), value) for key, value in change.items()}
        if isinstance(change, list) and isinstance(into, list):
            return [merge(old, new) for old, new in zip(into, change)] + into[len(change) :]
        return change

    dashboard = DASHBOARDS["pair"]
    at = next(i for i, panel in enumerate(dashboard["panels"]) if panel["type"] == "candlestick")
    broken = merge(dashboard["panels"][at], mistake)
    with pytest.raises(ValidationError):
        check_panel(broken)


def test_a_dashboard_of_the_new_format_is_refused() -> None:
    """A file provider cannot load it, and an export from the page of Grafana 13 is one."""
    exported = {"apiVersion": "dashboard.grafana.app/v2", "kind": "Dashboard", "spec": DASHBOARDS["pair"]}
    for wrapped in (exported, {"dashboard": DASHBOARDS["pair"]}, DASHBOARDS["pair"] | {"__inputs": []}):
        with pytest.raises(ValidationError):
            Dashboard.model_validate(wrapped)


@pytest.mark.skipif(shutil.which("npm") is None, reason="no Node.js here to read Grafana's own types with")
def test_the_types_that_grafana_publishes_accept_every_dashboard(tmp_path: Path) -> None:
    packages = ["@grafana/schema@12.3.3", "ts-json-schema-generator@2", "ajv@8"]
    install = ["npm", "install", "--silent", "--no-audit", "--no-fund", *packages]
    if subprocess.run(install, cwd=tmp_path, check=False, capture_output=True).returncode:
        pytest.skip("npm gave no packages: no network?")
    shutil.copy(ROOT / "tests" / "support" / "grafana_schema.mjs", tmp_path)
    broken = tmp_path / "broken.json"
    broken.write_text(FILES[0].read_text().replace('"graphTooltip"', '"graphTooltips"'))
    for files, expected in ((FILES, 0), ([broken], 1)):
        command = ["node", "grafana_schema.mjs", *map(str, files)]
        done = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
        assert len(done.stdout.splitlines()) == expected, done.stdout


# ------------------------------------------------------------------------------------------ consistency


def test_the_files_are_what_the_generator_writes() -> None:
    written = {file.name: file.read_text() for file in FILES}
    generated = {name: as_text(dashboard) for name, dashboard in dashboards().items()}
    assert written == generated, "run python -m grafana.build"


def test_the_uids_that_links_and_alerts_rely_on_are_there_once() -> None:
    uids = sorted(dashboard["uid"] for dashboard in DASHBOARDS.values())
    assert uids == ["pairflow-alerts", "pairflow-market", "pairflow-pair", "pairflow-pipeline"]
    assert len({dashboard["title"] for dashboard in DASHBOARDS.values()}) == len(DASHBOARDS)


@pytest.mark.parametrize("name", DASHBOARDS)
def test_panels_have_numbers_of_their_own_and_lie_side_by_side(name: str) -> None:
    panels = list(panels_of(DASHBOARDS[name]))
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        grid = panel["gridPos"]
        cells = {(grid["x"] + i, grid["y"] + j) for i in range(grid["w"]) for j in range(grid["h"])}
        assert grid["x"] + grid["w"] <= 24, panel["title"]
        assert not cells & taken, panel["title"]
        taken |= cells


@pytest.mark.parametrize("name", DASHBOARDS)
def test_every_data_source_is_one_that_is_provisioned(name: str) -> None:
    text = json.dumps(DASHBOARDS[name])
    for found in re.findall(r'"datasource": (\{[^}]*\})', text):
        source = json.loads(found)
        assert (DATA_SOURCES | {"grafana": "grafana"})[source["uid"]] == source[
            "type"
        ]  # this is always there
    assert "${DS_" not in text


@pytest.mark.parametrize(("name", "panel"), [pytest.param(n, p, id=f"{n}-{p['title']}") for n, p in PANELS])
def test_a_panel_says_what_it_shows_and_what_to_do_when_it_is_empty(name: str, panel: Json) -> None:
    assert panel["title"].strip()
    if panel["type"] in ("row", "text"):
        return
    assert panel["description"].endswith(".")
    if "fieldConfig" in panel:
        assert panel["fieldConfig"]["defaults"]["noValue"]
    for query in panel.get("targets", []):
        if "$__interval_ms" in query.get("rawSql", ""):
            assert panel["interval"] in ("100ms", "1s", "5s")
            assert panel["maxDataPoints"] <= 1200


def test_links_between_dashboards_carry_pair_time_and_variables() -> None:
    carried = {"market", "y", "x", "timeframe", "window", "method"}
    for dashboard in DASHBOARDS.values():
        assert carried <= {variable["name"] for variable in dashboard["templating"]["list"]}
        for variable in dashboard["templating"]["list"]:
            assert not (variable["skipUrlSync"] and variable["name"] in carried)
        (link,) = dashboard["links"]
        assert link["includeVars"]
        assert link["keepTime"]
        assert set(link["tags"]) <= set(dashboard["tags"])
    uids = {dashboard["uid"] for dashboard in DASHBOARDS.values()}
    seen = 0
    for name, panel in PANELS:
        for url in re.findall(r'"url": "(/[^"]*)"', json.dumps(panel)):
            seen += 1
            path, _, query = url.partition("?")
            assert path.removeprefix("/d/") in uids
            parameters = dict(part.partition("=")[::2] for part in query.split("&"))
            assert carried <= {key.removeprefix("var-") for key in parameters}, (name, panel["title"])
            assert {"from", "to"} <= set(parameters) or "${__url_time_range}" in query
    assert seen > 4


# ---------------------------------------------------------------------------------------------- queries


@pytest.fixture(scope="module")
def simulated_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A store of the simulated exchange, with what users and a bad day would add to it."""
    folder = tmp_path_factory.mktemp("simulated") / "data"
    settings = {"SYMBOLS": "BTCUSDT,ETHUSDT,SOLUSDT", "TIMEFRAMES": "1s", "WINDOWS": "4", "Z_WINDOW": "4"}
    # Samples of the pipeline are 5 s apart, and a growth takes two of them.
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


def choose(store: Served, dashboard: Json) -> dict[str, str]:
    """Set the variables as Grafana does when the dashboard opens."""
    values: dict[str, str] = {}
    for variable in dashboard["templating"]["list"]:
        answer = store.ask(interpolate(variable["query"]["rawSql"], values))
        found = [str(row[0]) for row in answer.rows]
        assert found, variable["name"]
        assert all(found), variable["name"]
        current = (variable.get("current") or {}).get("value")
        values[variable["name"]] = current if current in found else found[0]
    return values


RECORDED = Range(1723161180.0, 1723161600.0)
"""The time of the recordings, 2024-08-08 23:53 to 24:00."""


@pytest.fixture(scope="module")
def chosen(
    replayed_store: Served, simulated_store: Served
) -> dict[str, tuple[Served, Range, dict[str, str]]]:
    """For each dashboard a store, a time range, and the variables."""
    first, last = simulated_store.ask(
        "SELECT toUnixTimestamp(min(time)), toUnixTimestamp(max(time)) FROM pipeline_metrics"
    ).rows[0]
    found = {}
    for name, dashboard in DASHBOARDS.items():
        store = replayed_store if name in ("pair", "market") else simulated_store
        over = RECORDED if name in ("pair", "market") else Range(int(first) - 5, int(last) + 5)
        found[name] = (store, over, choose(store, dashboard))
    return found


ANSWERS: dict[str, Answer] = {}


def run(chosen: Any, name: str, panel: Json, query: Json) -> Answer:
    """Run a panel's query, once for all tests that look at its answer."""
    store, over, variables = chosen[name]
    least = {"100ms": 100, "1s": 1000, "5s": 5000}[panel.get("interval", "1s")]
    over = Range(over.start, over.end, max(least, 1000))
    sql = expand_macros(interpolate(query["rawSql"], variables), over)
    if sql not in ANSWERS:
        ANSWERS[sql] = store.ask(sql)
    return ANSWERS[sql]


@pytest.mark.parametrize(("name", "panel", "query"), QUERIES)
def test_a_query_gives_the_columns_its_panel_needs_and_at_least_a_row(
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
def test_overrides_and_links_name_fields_that_there_are(chosen: Any, name: str, panel: Json) -> None:
    queries = [query for query in panel.get("targets", []) if "rawSql" in query]
    if not queries:
        return
    fields: set[str] = set()
    for query in queries:
        answer = run(chosen, name, panel, query)
        texts = answer.matching(TEXTS) if query["format"] == 0 else []
        fields |= set(answer.columns)
        fields |= {str(row[list(answer.columns).index(text)]) for text in texts for row in answer.rows}
    for transformation in panel.get("transformations", []):
        options = transformation["options"]
        match transformation["id"]:
            case "groupingToMatrix":
                assert {options["rowField"], options["columnField"], options["valueField"]} <= fields
            case "configFromData":
                assert {options["applyTo"]["options"], options["mappings"][0]["fieldName"]} <= fields
    for override in panel["fieldConfig"]["overrides"]:
        wanted = override["matcher"]["options"]
        if wanted in ("/^(At|Noticed|Started|Hour|Written)$/", "/^Pair$/"):
            continue  # of all tables
        if wanted.startswith("/"):
            assert any(re.search(wanted.strip("/"), field) for field in fields), wanted
        else:
            assert wanted in fields, wanted
    for found in re.findall(r"__data\.fields\.(\w+)", json.dumps(panel)):
        assert found in fields, found
    for sort in panel["options"].get("sortBy", []):
        assert sort["displayName"] in fields


@pytest.mark.parametrize(
    "name", [name for name, d in DASHBOARDS.items() if d.get("annotations", {}).get("list")]
)
def test_annotations_have_a_time_a_text_and_panels_to_lie_on(chosen: Any, name: str) -> None:
    store, over, variables = chosen[name]
    ids = {panel["id"] for panel in panels_of(DASHBOARDS[name])}
    for annotation in DASHBOARDS[name]["annotations"]["list"]:
        answer = store.ask(expand_macros(interpolate(annotation["target"]["rawSql"], variables), over))
        assert {"time", "text", "title", "tags"} <= set(answer.columns)
        assert set(answer.matching(TIMES)) <= {"time", "timeEnd"}
        assert set(annotation["filter"]["ids"]) <= ids
    entries = DASHBOARDS["pair"]["annotations"]["list"][0]
    sql = interpolate(entries["target"]["rawSql"], variables)
    assert not store.ask(expand_macros(sql, over)).rows, "as many as these would hide the panel"
    assert store.ask(expand_macros(sql, Range(over.end - 120, over.end))).rows


@pytest.mark.parametrize(("name", "panel", "query"), QUERIES)
def test_no_query_reads_the_whole_of_a_big_table(chosen: Any, name: str, panel: Json, query: Json) -> None:
    store, over, variables = chosen[name]
    sql = expand_macros(interpolate(query["rawSql"], variables), over)
    plan = "\n".join(re.sub("[│├└─]", " ", row[0]) for row in store.ask(f"EXPLAIN indexes = 1 {sql}").rows)
    for read in re.split(r"(?=ReadFromMergeTree)", plan)[1:]:
        table = re.match(r"ReadFromMergeTree \(\w+\.(\w+)\)", read)
        if table and table[1] in ("stored_bars", "stored_pair_metrics", "stored_trades", "pipeline_metrics"):
            if "Indexes:" not in read:
                continue  # nothing of it can match
            key = re.search(r"PrimaryKey\n\s+Keys:\s*\n", read)
            assert key, f"{panel['title']} reads all of {table[1]}:\n{plan}"


@pytest.mark.parametrize(("name", "panel", "query"), QUERIES)
def test_queries_ask_for_no_settings_and_shadow_no_column(name: str, panel: Json, query: Json) -> None:
    sql = query["rawSql"]
    assert "SETTINGS" not in sql, "a read-only user may not change them"
    # WHERE would take the alias for the column, and the index would not be used.
    assert not re.search(
        r'AS "?(time|open_time|market|timeframe|window|method)"?\b(?=.*\n\s*FROM (bars|pair_metrics))', sql
    )


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("empty") / "data"
    Store.open(f"chdb://{folder}", source="binance").close()
    with served(folder) as store:
        yield store


@pytest.mark.parametrize("name", DASHBOARDS)
def test_on_an_empty_store_each_panel_says_that_there_is_nothing(empty_store: Served, name: str) -> None:
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
            elif panel["type"] == "stat":  # of counts, or of nothing
                assert not any(value for row in found.rows for value in row if value != "not known yet")
            else:
                assert found.rows == [], panel["title"]
            if not found.rows and panel["type"] in ("table", "stat"):
                # With a column that is the same in all rows, no rows are no frame, and not headers alone.
                assert "one_frame" in found.columns


def test_an_empty_time_range_is_told_from_zero(replayed_store: Served) -> None:
    """Aggregates of nothing are 0 in ClickHouse, unless asked for as -OrNull."""
    variables = choose(replayed_store, DASHBOARDS["pair"])
    panel = next(p for p in DASHBOARDS["pair"]["panels"] if p["title"] == "Now")
    never = Range(1.0, 2.0)
    (row,) = replayed_store.ask(
        expand_macros(interpolate(panel["targets"][0]["rawSql"], variables), never)
    ).rows
    assert [value for value in row if value] == ["not known yet"]
    assert row.count(None) == len(row) - 3, "save of the position, which is flat"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "Replay of a recording, up to 2024-08-08 23:59:5"),
        ({"timeframe": "1h"}, "No bars of ETHUSDT/BTCUSDT at 1h are stored yet. Is the flow running?"),
    ],
)
def test_the_panel_data_says_what_is_wrong(
    replayed_store: Served, settings: dict[str, str], said: str
) -> None:
    sql = next(p for p in DASHBOARDS["pair"]["panels"] if p["title"] == "Data")["targets"][0]["rawSql"]
    variables = choose(replayed_store, DASHBOARDS["pair"]) | settings
    (row,) = replayed_store.ask(expand_macros(interpolate(sql, variables), RECORDED)).rows
    assert row[0].startswith(said)
    (row,) = replayed_store.ask(expand_macros(interpolate(sql, variables), Range(1.0, 2.0))).rows
    assert settings or row[0].startswith("Outside this time range: the recording ends 2024-08-08")


def test_live_data_that_stopped_are_called_stale(simulated_store: Served) -> None:
    sql = next(p for p in DASHBOARDS["pair"]["panels"] if p["title"] == "Data")["targets"][0]["rawSql"]
    variables = choose(simulated_store, DASHBOARDS["pair"])
    expanded = expand_macros(interpolate(sql, variables), Range(time.time() - 900, time.time()))
    late = expanded.replace("now64(6)", f"(now64(6) + INTERVAL {STALE_SECONDS + 30} SECOND)")
    assert late != expanded
    assert re.match(r"No bars for .*: is the flow running\?", simulated_store.ask(late).rows[0][0])


@pytest.mark.parametrize(
    "sql", ["SELECT $__columns(a, b)", "SELECT $__lttb(1)", "SELECT 1 WHERE $__conditionalAll(a, $b)"]
)
def test_macros_that_the_pinned_plugin_lacks_or_has_only_in_its_front_end_are_refused(sql: str) -> None:
    with pytest.raises(AssertionError, match="expands no such macro"):
        expand_macros(sql, RECORDED)


# ---------------------------------------------------------------------------- Prometheus and thresholds


def metric_names() -> set[str]:
    """Names of the samples that a running flow shows."""
    sink = SinkStatus()
    sink.rows_written["bars"] = sink.inserts_by_table["bars"] = 1
    sink.insert_seconds["bars"] = 0.1
    shown = [*REGISTRY.collect(), *telemetry._Statuses(sink, FeedStatus()).collect()]
    names = {sample.name for metric in shown for sample in metric.samples}
    # Labelled ones have no sample before their first use.
    return (
        names
        | {f"{metric.name}_total" for metric in shown if metric.type == "counter"}
        | {metric.name for metric in shown if metric.type == "gauge"}
    )


def test_metrics_that_dashboards_name_are_metrics_that_the_flow_has() -> None:
    known = metric_names() | {"up"}
    used = set(re.findall(r"\b(?:pairflow|process)_\w+", json.dumps(DASHBOARDS)))
    assert used <= known, used - known
    assert len(used) > 20


def metrics_of(node: Any) -> Iterator[str]:
    """Names of the metrics that a parsed expression of PromQL selects."""
    match node:
        case promql_parser.VectorSelector():
            yield node.name or ""
        case promql_parser.MatrixSelector():
            yield from metrics_of(node.vector_selector)
        case promql_parser.BinaryExpr():
            yield from metrics_of(node.lhs)
            yield from metrics_of(node.rhs)
        case promql_parser.Call():
            for argument in node.args:
                yield from metrics_of(argument)
        case promql_parser.NumberLiteral() | promql_parser.StringLiteral():
            pass
        case _:
            yield from metrics_of(node.expr)


EXPRESSIONS = [query["expr"] for _, panel in PANELS for query in panel.get("targets", []) if "expr" in query]


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_expressions_for_prometheus_parse(expression: str) -> None:
    names = set(metrics_of(promql_parser.parse(expression.replace("$__rate_interval", "1m"))))
    assert names
    assert names <= metric_names() | {"up"}


def thresholds(dashboard: str, title: str, field: str = "") -> list[float]:
    panel = next(p for p in panels_of(DASHBOARDS[dashboard]) if p["title"] == title)
    config = panel["fieldConfig"]["defaults"].get("thresholds")
    for override in panel["fieldConfig"]["overrides"]:
        if override["matcher"]["options"] == field:
            config = next(p["value"] for p in override["properties"] if p["id"] == "thresholds")
    return [step["value"] for step in config["steps"] if step["value"] is not None]


def test_thresholds_in_dashboards_are_those_of_the_settings() -> None:
    entry, exit_ = (Settings.model_fields[name].default for name in ("z_entry", "z_exit"))
    assert thresholds("market", "z-scores of the pairs that are farthest out") == [
        -entry,
        -exit_,
        exit_,
        entry,
    ]
    assert thresholds("market", "Ranking of pairs", "|z|") == [exit_, entry]
    assert thresholds("pair", "Now", "z-score") == [-entry, entry]
    assert thresholds("pair", "Stationarity of the spread") == [0.05]
    assert thresholds("pair", "Correlation") == [0.7]
    view = (FOLDER.parents[1] / "clickhouse" / "views.sql").read_text()
    assert f"adf_p_value < {SIGNIFICANT} AS stationary" in view
    for name in ("z-score of the spread", "Spread"):
        sql = next(p for p in DASHBOARDS["pair"]["panels"] if p["title"] == name)["targets"][0]["rawSql"]
        assert "${z_entry:singlequote}" in sql  # drawn where the run's own settings put them


def test_thresholds_in_dashboards_are_those_of_the_alerts() -> None:
    rules = (FOLDER.parent / "provisioning" / "alerting" / "rules.yaml").read_text()
    by_uid = dict(re.findall(r"- uid: ([\w-]+)\n(.*?)(?=\n      - uid: |\Z)", rules, re.DOTALL))
    for uid, dashboard, title in (
        ("pairflow-correlation", "pair", "Correlation"),
        ("pairflow-cointegration", "pair", "Stationarity of the spread"),
        ("pairflow-lag", "pipeline", "Lag"),
    ):
        fires = re.search(r"evaluator: \{type: \w+, params: \[([\d.]+)\]\}", by_uid[uid])
        assert fires
        assert float(fires[1]) in thresholds(dashboard, title), uid


def test_lines_follow_the_settings_of_the_run(tmp_path: Path, data: Path) -> None:
    folder = tmp_path / "data"
    source = f"recording:{data / 'recorded' / 'usdm'}"
    run_flow(folder, SOURCE=source, MARKET="usdm", Z_ENTRY="1.5", Z_EXIT="0.25", TIMEFRAMES="1m", WINDOWS="3")
    with served(folder) as store:
        variables = choose(store, DASHBOARDS["pair"])
    assert (float(variables["z_entry"]), float(variables["z_exit"])) == (1.5, 0.25)
    assert (variables["timeframe"], variables["window"], variables["bar_ms"]) == ("1m", "3", "60000")
