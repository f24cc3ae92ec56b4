"""The committed dashboards: their schema, numbers, places and links."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from grafana.build import as_text, dashboards
from tests.support.grafana_dashboards import DASHBOARDS, FILES, PANELS, panels_of
from tests.support.grafana_data_source import DATA_SOURCES
from tests.support.grafana_schema import Dashboard, Json, check_panel
from tests.support.paths import ROOT


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
def test_the_schema_refuses_misspelt_keys_and_wrong_values(mistake: Json) -> None:
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
    """Grafana 13 exports it, but a file provider cannot load it."""
    exported = {"apiVersion": "dashboard.grafana.app/v2", "kind": "Dashboard", "spec": DASHBOARDS["pair"]}
    for wrapped in (exported, {"dashboard": DASHBOARDS["pair"]}, DASHBOARDS["pair"] | {"__inputs": []}):
        with pytest.raises(ValidationError):
            Dashboard.model_validate(wrapped)


@pytest.mark.skipif(shutil.which("npm") is None, reason="Node.js is needed to read Grafana's own types")
def test_the_types_that_grafana_publishes_accept_every_dashboard(tmp_path: Path) -> None:
    packages = ["@grafana/schema@12.3.3", "ts-json-schema-generator@2", "ajv@8"]
    install = ["npm", "install", "--silent", "--no-audit", "--no-fund", *packages]
    if subprocess.run(install, cwd=tmp_path, check=False, capture_output=True).returncode:
        pytest.skip("npm could not install packages: no network?")
    shutil.copy(ROOT / "tests" / "support" / "grafana_schema.mjs", tmp_path)
    broken = tmp_path / "broken.json"
    broken.write_text(FILES[0].read_text().replace('"graphTooltip"', '"graphTooltips"'))
    for files, expected in ((FILES, 0), ([broken], 1)):
        command = ["node", "grafana_schema.mjs", *map(str, files)]
        done = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
        assert len(done.stdout.splitlines()) == expected, done.stdout


def test_the_committed_files_are_what_the_builder_writes() -> None:
    written = {file.name: file.read_text() for file in FILES}
    generated = {name: as_text(dashboard) for name, dashboard in dashboards().items()}
    assert written == generated, "run python -m grafana.build"


def test_dashboards_have_the_uids_that_links_and_alerts_use() -> None:
    uids = sorted(dashboard["uid"] for dashboard in DASHBOARDS.values())
    assert uids == ["pairflow-alerts", "pairflow-market", "pairflow-pair", "pairflow-pipeline"]
    assert len({dashboard["title"] for dashboard in DASHBOARDS.values()}) == len(DASHBOARDS)


@pytest.mark.parametrize("name", DASHBOARDS)
def test_panels_have_unique_numbers_and_do_not_overlap(name: str) -> None:
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
    known = DATA_SOURCES | {"grafana": "grafana"}  # which every Grafana has
    for found in re.findall(r'"datasource": (\{[^}]*\})', text):
        source = json.loads(found)
        assert known[source["uid"]] == source["type"]
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
