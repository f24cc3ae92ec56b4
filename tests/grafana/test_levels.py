"""Levels that dashboards draw are those of the settings, the alert rules, the views and the literature."""

import re
from pathlib import Path

import pytest
from statsmodels.tsa.adfvalues import mackinnoncrit

from connectors.binance.rest import _APIS
from connectors.clickhouse.schema import FOLDER
from flows.settings import Settings
from grafana.levels import CORRELATED, DICKEY_FULLER_5, LAG_SECONDS, SIGNIFICANT, WEIGHT_LIMIT
from tests.support.grafana_dashboards import DASHBOARDS, choose, panels_of
from tests.support.grafana_provisioning import RULES, Threshold
from tests.support.processes import run_flow, served


def level_of_alert(uid: str) -> list[float | int]:
    """Return the parameters of the threshold of an alert rule."""
    (rule,) = (rule for group in RULES.groups for rule in group.rules if rule.uid == f"pairflow-{uid}")
    (threshold,) = (query.model for query in rule.data if isinstance(query.model, Threshold))
    return threshold.conditions[0].evaluator.params


def thresholds(dashboard: str, title: str, field: str = "") -> list[float]:
    panel = next(p for p in panels_of(DASHBOARDS[dashboard]) if p["title"] == title)
    config = panel["fieldConfig"]["defaults"].get("thresholds")
    for override in panel["fieldConfig"]["overrides"]:
        if override["matcher"]["options"] == field:
            config = next(p["value"] for p in override["properties"] if p["id"] == "thresholds")
    return [step["value"] for step in config["steps"] if step["value"] is not None]


def test_thresholds_of_z_scores_are_those_of_the_settings() -> None:
    entry, exit_ = (Settings.model_fields[name].default for name in ("z_entry", "z_exit"))
    assert thresholds("market", "z-scores of the pairs that are farthest out") == [
        -entry,
        -exit_,
        exit_,
        entry,
    ]
    assert thresholds("market", "Ranking of pairs", "|z|") == [exit_, entry]
    assert thresholds("pair", "Now", "z-score") == [-entry, entry]
    for name in ("z-score of the spread", "Spread"):
        sql = next(p for p in DASHBOARDS["pair"]["panels"] if p["title"] == name)["targets"][0]["rawSql"]
        assert "${z_entry:singlequote}" in sql  # the level of the run that is shown


@pytest.mark.parametrize(
    ("uid", "dashboard", "title"),
    [
        ("correlation", "pair", "Correlation"),
        ("cointegration", "pair", "Stationarity of the spread"),
        ("lag", "pipeline", "Lag"),
    ],
)
def test_a_panel_draws_a_threshold_where_its_alert_fires(uid: str, dashboard: str, title: str) -> None:
    (level,) = level_of_alert(uid)
    assert thresholds(dashboard, title) == [level]


def test_lines_follow_the_settings_of_the_run(tmp_path: Path, data: Path) -> None:
    folder = tmp_path / "data"
    source = f"recording:{data / 'recorded' / 'usdm'}"
    run_flow(folder, SOURCE=source, MARKET="usdm", Z_ENTRY="1.5", Z_EXIT="0.25", TIMEFRAMES="1m", WINDOWS="3")
    with served(folder) as store:
        variables = choose(store, DASHBOARDS["pair"])
    assert (float(variables["z_entry"]), float(variables["z_exit"])) == (1.5, 0.25)
    assert (variables["timeframe"], variables["window"], variables["bar_ms"]) == ("1m", "3", "60000")


@pytest.mark.parametrize(("uid", "level"), [("correlation", CORRELATED), ("lag", LAG_SECONDS)])
def test_a_level_is_that_at_which_its_alert_fires(uid: str, level: float) -> None:
    assert level_of_alert(uid) == [level]


def test_a_spread_counts_as_stationary_where_the_view_says_so() -> None:
    assert re.findall(r"adf_p_value < ([\d.]+) AS stationary", (FOLDER / "views.sql").read_text()) == [
        str(SIGNIFICANT)
    ]


def test_the_limit_of_request_weight_is_that_of_the_client() -> None:
    assert _APIS["spot"].weight_limit == WEIGHT_LIMIT


def test_the_critical_value_is_that_of_an_independent_implementation() -> None:
    assert round(mackinnoncrit(N=1, regression="c")[1], 2) == DICKEY_FULLER_5
