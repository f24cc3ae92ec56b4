"""Levels that dashboards draw are those of the alert rules, the view, the REST client and the literature."""

import re

import pytest
from statsmodels.tsa.adfvalues import mackinnoncrit

from connectors.binance.rest import _APIS
from connectors.clickhouse.schema import FOLDER
from grafana.levels import CORRELATED, DICKEY_FULLER_5, LAG_SECONDS, SIGNIFICANT, WEIGHT_LIMIT
from tests.support.grafana_provisioning import RULES, Threshold


@pytest.mark.parametrize(("uid", "level"), [("correlation", CORRELATED), ("lag", LAG_SECONDS)])
def test_a_level_is_that_at_which_its_alert_fires(uid: str, level: float) -> None:
    (rule,) = (rule for group in RULES.groups for rule in group.rules if rule.uid == f"pairflow-{uid}")
    (threshold,) = (query.model for query in rule.data if isinstance(query.model, Threshold))
    assert threshold.conditions[0].evaluator.params == [level]


def test_a_spread_counts_as_stationary_where_the_view_says_so() -> None:
    assert re.findall(r"adf_p_value < ([\d.]+) AS stationary", (FOLDER / "views.sql").read_text()) == [
        str(SIGNIFICANT)
    ]


def test_the_limit_of_request_weight_is_that_of_the_client() -> None:
    assert _APIS["spot"].weight_limit == WEIGHT_LIMIT


def test_the_critical_value_is_that_of_an_independent_implementation() -> None:
    assert round(mackinnoncrit(N=1, regression="c")[1], 2) == DICKEY_FULLER_5
