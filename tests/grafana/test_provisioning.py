"""What would keep Grafana from starting, or an alert from telling the truth, is found without a Grafana."""

import json
import re
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pyarrow as pa
import pytest
import yaml

from connectors.clickhouse.store import Dsn, Store
from grafana.notifications import CHANNELS, ChannelError, notifications
from grafana.start import write_provisioning
from tests.support.grafana_data_source import NUMBERS, TEXTS, Range, expand_macros
from tests.support.grafana_provisioning import RULES, Alerting, Sql, faults, queries
from tests.support.paths import ROOT
from tests.support.processes import served
from tests.support.served import Served

SECRETS = {
    "ALERT_WEBHOOK_URL": "http://127.0.0.1:9/hook",
    "TELEGRAM_BOT_TOKEN": "123:secret$HOME",
    "TELEGRAM_CHAT_ID": "-1001234567890",
    "SLACK_WEBHOOK_URL": "http://127.0.0.1:9/slack",
    "ALERT_EMAIL_TO": "desk@example.org",
    "GF_SMTP_HOST": "127.0.0.1:25",
}


SQL = [(f"{rule.uid}-{q.refId}", q.model.rawSql) for rule, q in queries(RULES) if isinstance(q.model, Sql)]


def in_use(*kinds: str) -> dict[str, str]:
    names = [name for kind in kinds for name in CHANNELS[kind].variables]
    return {name: SECRETS[name] for name in names}


@pytest.mark.parametrize("number", range(len(CHANNELS) + 1))
def test_provisioning_is_sound_with_any_channels_in_use(tmp_path: Path, number: int) -> None:
    for kinds in combinations(CHANNELS, number):
        environment = in_use(*kinds)
        write_provisioning(tmp_path / "p", environment)
        assert faults(tmp_path / "p", environment) == []
        text = (tmp_path / "p" / "alerting" / "notifications.yaml").read_text()
        written = Alerting.model_validate(yaml.safe_load(text), strict=False)
        assert {r.type for r in written.contactPoints[0].receivers} == (set(kinds) or {"email"})
        assert not any(SECRETS[name] in text for name in environment if name != "TELEGRAM_CHAT_ID")
        kept = {r.uid for r in written.contactPoints[0].receivers}
        assert not kept & {deleted.uid for deleted in written.deleteContactPoints}
        muted = [bool(route.mute_time_intervals) for route in written.policies[0].routes]
        assert any(muted) == (not kinds)
        assert all(muted) == (not kinds)


def test_a_channel_half_set_says_what_is_missing() -> None:
    with pytest.raises(ChannelError, match="TELEGRAM_CHAT_ID must be set too"):
        notifications({"TELEGRAM_BOT_TOKEN": "1:x"})
    with pytest.raises(ChannelError, match="GF_SMTP_HOST must be set too"):
        notifications({"ALERT_EMAIL_TO": "a@example.org"})


def _replace(old: str, new: str) -> Callable[[str], str]:
    def change(text: str) -> str:
        assert old in text
        return text.replace(old, new, 1)

    return change


BROKEN: list[tuple[str, str, Callable[[str], str], str]] = [
    (
        "an interval that is not whole tens",
        "rules",
        _replace("interval: 10s", "interval: 15s"),
        "tens of seconds",
    ),
    ("snake case", "rules", _replace("for: 0s", "for: 0s\n        keep_firing_for: 1m"), "keep_firing_for"),
    ("a misspelt key", "notifications", _replace('"group_interval"', '"group_internval"'), "group_internval"),
    (
        "an unknown receiver",
        "notifications",
        _replace('"receiver": "pairflow"', '"receiver": "x"'),
        "no contact",
    ),
    ("an empty variable", "notifications", _replace("unused@localhost", "${UNSET}"), "would not start"),
    ("a plain $ in a label", "rules", _replace("title: Your rule", "title: Your $rule"), r"written \$\$"),
    ("an unknown mute time", "notifications", _replace('"always"', '"never"'), "no mute time always"),
    ("a condition that is nowhere", "rules", _replace("condition: C", "condition: D"), "condition D"),
    ("an expression of nothing", "rules", _replace("expression: A", "expression: X"), "judges X"),
    (
        "an unknown data source",
        "rules",
        _replace("datasourceUid: clickhouse", "datasourceUid: other"),
        "data source",
    ),
    ("a time range backwards", "rules", _replace("{from: 3600, to: 0}", "{from: 0, to: 600}"), "from > to"),
    ("two rules of one uid", "rules", _replace("uid: pairflow-lag", "uid: pairflow-gap"), "unique"),
    ("hysteresis over NaN", "rules", _replace("WHERE isFinite(value)", ""), "never recover"),
    (
        "a macro of the front end",
        "rules",
        _replace("ORDER BY pair", "HAVING $__conditionalAll(1, $x)"),
        "no such",
    ),
    ("a statement macro", "rules", _replace("SELECT market", "$__columns(SELECT market"), "no such macro"),
    ("a variable of a dashboard", "rules", _replace("ORDER BY pair", "LIMIT $n"), "only a dashboard"),
    ("a value that no query gives", "rules", _replace("if $values.B", "if $values.Z"), "shows Z"),
    ("an alert without a summary", "rules", _replace("summary: >-", "sumary: >-"), "sumary"),
    ("a time series for a table", "rules", _replace("format: 1", "format: 0"), "format"),
    ("pool settings, ignored", "sources", _replace("validateSql: true", "maxOpenConns: 5"), "maxOpenConns"),
    ("an unpinned uid", "sources", _replace("uid: prometheus", "uid: p1"), "data sources are"),
]


@pytest.mark.parametrize(("trap", "file", "change", "message"), BROKEN, ids=[case[0] for case in BROKEN])
def test_each_trap_is_seen(
    tmp_path: Path, trap: str, file: str, change: Callable[[str], str], message: str
) -> None:
    write_provisioning(tmp_path / "p", {})
    (path,) = (tmp_path / "p").glob(f"*/{file}.yaml")
    path.write_text(change(path.read_text()))
    found = faults(tmp_path / "p")
    assert re.search(message, "\n".join(found)), f"{trap}: {found}"


def test_a_recovery_threshold_outside_the_condition_is_seen(tmp_path: Path) -> None:
    write_provisioning(tmp_path / "p", {})
    path = tmp_path / "p" / "alerting" / "rules.yaml"
    content = yaml.safe_load(path.read_text())
    (rule,) = (r for g in content["groups"] for r in g["rules"] if r["uid"] == "pairflow-lag")
    rule["condition"] = "A"
    path.write_text(yaml.safe_dump(content))
    assert any("only allowed in the condition" in fault for fault in faults(tmp_path / "p"))


def test_a_second_policy_tree_is_seen(tmp_path: Path) -> None:
    write_provisioning(tmp_path / "p", {})
    second = {key: notifications({})[key] for key in ("apiVersion", "policies")}
    (tmp_path / "p" / "alerting" / "second.yaml").write_text(json.dumps(second))
    assert any("one policy tree" in fault for fault in faults(tmp_path / "p"))


def test_a_variable_that_looks_like_a_number_is_seen(tmp_path: Path) -> None:
    environment = in_use("telegram")
    write_provisioning(tmp_path / "p", environment)
    path = tmp_path / "p" / "alerting" / "notifications.yaml"
    path.write_text(path.read_text().replace(SECRETS["TELEGRAM_CHAT_ID"], "${TELEGRAM_CHAT_ID}"))
    assert any("chatid is -1001234567890" in fault for fault in faults(tmp_path / "p", environment))


@pytest.mark.parametrize(("name", "sql"), SQL, ids=[name for name, _ in SQL])
def test_an_alert_query_gives_labels_and_one_number(replayed_store: Served, name: str, sql: str) -> None:
    answer = replayed_store.ask(expand_macros(sql, Range(0, 600)))
    numbers, texts = answer.matching(NUMBERS), answer.matching(TEXTS)
    assert numbers == ["value"]
    assert len(numbers) + len(texts) == len(answer.columns), answer.columns
    labels = [
        tuple(value for column, value in zip(answer.columns, row) if column != "value") for row in answer.rows
    ]
    assert len(set(labels)) == len(labels), "two alerts with the same labels"
    alerts = {"pairflow-z-score-A": 2, "pairflow-correlation-A": 1, "pairflow-hedge-ratio-A": 1}
    assert len(labels) == alerts.get(name, len(labels)), "for the one pair of the recording, and both sides"


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("empty") / "data"
    Store.open(f"chdb://{folder}", source="binance").close()
    with served(folder) as store:
        yield store


@pytest.mark.parametrize(("name", "sql"), SQL, ids=[name for name, _ in SQL])
def test_a_store_without_rows_gives_no_value(empty_store: Served, name: str, sql: str) -> None:
    # max() and sum() of nothing are 0, which would read as "all is well".
    assert empty_store.ask(expand_macros(sql, Range(0, 600))).rows == [], name


def test_an_alert_leads_to_the_dashboard_that_shows_it_and_is_listed_among_the_others() -> None:
    titles, variables = {}, {}
    for path in (ROOT / "grafana" / "dashboards").glob("*.json"):
        dashboard = json.loads(path.read_text())
        variables[dashboard["uid"]] = {variable["name"] for variable in dashboard["templating"]["list"]}
        for outer in dashboard["panels"]:
            for panel in (outer, *outer.get("panels", ())):
                titles[dashboard["uid"], str(panel["id"])] = panel["title"]
    for group in RULES.groups:
        for rule in group.rules:
            assert titles[rule.annotations.dashboard, rule.annotations.panel] == "History of alerts"
            # Grafana's external URL ends with a slash.
            found = re.search(r"\{\{ externalURL \}\}d/([\w-]+)\??(.*)", rule.annotations.link)
            assert found
            uid, query = found.groups()
            assert uid in variables
            # A function of an absent label is an error in Grafana's log at each evaluation.
            assert ("reReplaceAll" in query) == ("{{ if $labels.pair }}" in rule.annotations.link)
            assert set(re.findall(r"var-(\w+)=", query)) <= variables[uid], rule.uid


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(f"chdb://{tmp_path / 'data'}", source="binance")
    yield opened
    opened.close()


def test_a_block_that_is_stored_twice_shows_once(store: Store) -> None:
    """Targets of views do not drop repeated blocks unless they ask for it: equal rows replace each other."""
    here = "FROM system.tables WHERE database = currentDatabase()"
    made = [
        sql for (sql,) in store.query(f"SELECT create_table_query {here} AND engine = 'MaterializedView'")
    ]
    assert made
    for sql in made:
        target = re.search(r" TO (?:\w+\.)?(\w+)", sql)
        assert target, f"a view with a table of its own: {sql}"
        engine = (
            "SELECT engine_full FROM system.tables WHERE database = currentDatabase() AND name = {t:String}"
        )
        ((kind,),) = store.query(engine, {"t": target[1]})
        assert re.match(r"(Replicated)?ReplacingMergeTree|.*deduplication_window = [1-9]", kind), target[1]
    store.client.command("SYSTEM STOP MERGES")
    row = "INSERT INTO stored_pair_metrics (market, pair, timeframe, time) VALUES ('spot', 'A/B', '1m', 1)"
    for _ in range(2):
        store.client.command(row)
    assert store.query("SELECT count() FROM stored_pair_metrics") == [(2,)]
    for view in ("pair_metrics", "latest_pair_metrics"):
        assert store.query(f"SELECT count() FROM {view}") == [(1,)]


class _Client:
    """Stands for a server: notes the settings of inserts."""

    settings: dict[str, str]

    def insert_arrow(self, table: str, rows: Any, *, database: str, settings: dict[str, str]) -> None:
        self.settings = settings


def test_a_server_answers_an_insert_once_its_rows_are_stored() -> None:
    """It would else gather rows first, which is its default since 26.3."""
    client = _Client()
    Store(Dsn.parse("clickhouse://h/pairflow"), client, "").insert("bars", pa.table({"a": [1]}))  # type: ignore[arg-type]
    assert client.settings["async_insert"] == "0"
    users = ElementTree.parse(ROOT / "clickhouse" / "users.d" / "pairflow.xml")
    assert users.findtext("profiles/pairflow_writer/async_insert") == "0"


def test_types_of_grafana_are_those_of_its_version() -> None:
    """An epoch in its version makes the package index prefer types of Grafana 10.1."""
    for name in ("pyproject.toml", "requirements.lock", "requirements-dev.lock"):
        found = re.findall(r"grafana-foundation-sdk([^\s;\\\"']*)", (ROOT / name).read_text())
        assert set(found) <= {"==0.0.21"}, f"{name}: pin grafana-foundation-sdk==0.0.21"


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


def test_a_position_follows_the_signals_and_is_held_until_it_was_seen(store: Store) -> None:
    _metrics(store, "1m", 60, "ols", 60)
    position = "SELECT position FROM pair_positions"
    assert store.query(position) == [(0,)]
    _signal(store, 300, "short")
    assert store.query(position) == [(-1,)]
    _signal(store, 200, "exit")
    assert store.query(position) == [(0,)]
    _signal(store, 9, "long")
    assert store.query(position) == [(1,)]
    _signal(store, 8, "exit")  # between two looks of Grafana
    assert store.query(position) == [(1,)]
