"""The alert rules: their queries, run on stores, the dashboards they link to, and the views they read."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from connectors.clickhouse.store import Store
from tests.support.grafana_dashboards import DASHBOARDS, panels_of
from tests.support.grafana_data_source import NUMBERS, TEXTS, Range, expand_macros
from tests.support.grafana_provisioning import RULES, Sql, queries
from tests.support.served import Served

SQL = [(f"{rule.uid}-{q.refId}", q.model.rawSql) for rule, q in queries(RULES) if isinstance(q.model, Sql)]


@pytest.mark.parametrize(("name", "sql"), SQL, ids=[name for name, _ in SQL])
def test_an_alert_query_returns_labels_and_one_number(replayed_store: Served, name: str, sql: str) -> None:
    answer = replayed_store.ask(expand_macros(sql, Range(0, 600)))
    numbers, texts = answer.matching(NUMBERS), answer.matching(TEXTS)
    assert numbers == ["value"]
    assert len(numbers) + len(texts) == len(answer.columns), answer.columns
    labels = [
        tuple(value for column, value in zip(answer.columns, row) if column != "value") for row in answer.rows
    ]
    assert len(set(labels)) == len(labels), "two alerts with the same labels"
    alerts = {"pairflow-z-score-A": 2, "pairflow-correlation-A": 1, "pairflow-hedge-ratio-A": 1}
    assert len(labels) == alerts.get(name, len(labels)), (
        "one pair in the recording; the z-score has an alert for each side"
    )


@pytest.mark.parametrize(("name", "sql"), SQL, ids=[name for name, _ in SQL])
def test_an_alert_query_returns_no_value_from_an_empty_store(
    empty_store: Served, name: str, sql: str
) -> None:
    # max() and sum() of no rows are 0, and the alert would then show that all is well.
    assert empty_store.ask(expand_macros(sql, Range(0, 600))).rows == [], name


def test_an_alert_links_to_a_dashboard_and_is_listed_in_the_history() -> None:
    titles, variables = {}, {}
    for dashboard in DASHBOARDS.values():
        variables[dashboard["uid"]] = {variable["name"] for variable in dashboard["templating"]["list"]}
        for panel in panels_of(dashboard):
            titles[dashboard["uid"], str(panel["id"])] = panel["title"]
    for group in RULES.groups:
        for rule in group.rules:
            assert titles[rule.annotations.dashboard, rule.annotations.panel] == "History of alerts"
            # Grafana's external URL ends with a slash.
            found = re.search(r"\{\{ externalURL \}\}d/([\w-]+)\??(.*)", rule.annotations.link)
            assert found
            uid, query = found.groups()
            assert uid in variables
            # A function of a missing label logs an error in Grafana at each evaluation.
            assert ("reReplaceAll" in query) == ("{{ if $labels.pair }}" in rule.annotations.link)
            assert set(re.findall(r"var-(\w+)=", query)) <= variables[uid], rule.uid


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(f"chdb://{tmp_path / 'data'}", source="binance")
    yield opened
    opened.close()


def _metrics(store: Store, timeframe: str, window: int, method: str, observations: int) -> None:
    store.client.command(
        "INSERT INTO stored_pair_metrics (market, pair, timeframe, window, method, time, observations) VALUES"
        f" ('spot', 'ETHUSDT/BTCUSDT', '{timeframe}', {window}, '{method}', now64(6), {observations})"
    )


def test_a_pair_is_watched_at_minute_bars_once_their_window_is_full(store: Store) -> None:
    watched = "SELECT timeframe, window, method FROM watched_pairs"
    for timeframe in ("tick", "1s", "5m"):
        for window in (300, 60):
            _metrics(store, timeframe, window, "ols", window if timeframe != "5m" else 10)
    assert store.query(watched) == [("1s", 60, "ols")]
    _metrics(store, "1m", 60, "kalman", 59)
    assert store.query(watched) == [("1s", 60, "ols")]
    _metrics(store, "1m", 60, "kalman", 60)
    assert store.query(watched) == [("1m", 60, "kalman")]
    _metrics(store, "1m", 60, "ols", 60)
    assert store.query(watched) == [("1m", 60, "ols")]


def _signal(store: Store, seconds_ago: int, signal: str) -> None:
    store.client.command(
        "INSERT INTO stored_signals (market, pair, timeframe, window, method, time, signal, version) VALUES"
        f" ('spot', 'ETHUSDT/BTCUSDT', '1m', 60, 'ols', now64(6) - {seconds_ago}, '{signal}', 1)"
    )


def test_a_position_follows_the_signals_and_lasts_until_an_alert_rule_has_read_it(store: Store) -> None:
    _metrics(store, "1m", 60, "ols", 60)
    position = "SELECT position FROM pair_positions"
    assert store.query(position) == [(0,)]
    _signal(store, 300, "short")
    assert store.query(position) == [(-1,)]
    _signal(store, 200, "exit")
    assert store.query(position) == [(0,)]
    _signal(store, 9, "long")
    assert store.query(position) == [(1,)]
    _signal(store, 8, "exit")  # between two evaluations of Grafana
    assert store.query(position) == [(1,)]
