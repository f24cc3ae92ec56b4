"""What would keep Grafana from starting, or an alert from telling the truth, is found without a Grafana."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

import pyarrow as pa
import pytest
import yaml
from pydantic import Field, ValidationError, field_validator

from connectors.clickhouse.store import Dsn, Store
from flows.settings import Settings
from grafana.notifications import CHANNELS, CONTACT_POINT, ChannelError, notifications
from grafana.start import StartError, grafana_variables, source_variables, write_provisioning
from grafana.versions import IMAGE
from tests.support.grafana_data_source import DATA_SOURCES, NUMBERS, TEXTS, Range, expand_macros
from tests.support.grafana_schema import Strict
from tests.support.paths import ROOT
from tests.support.processes import served
from tests.support.served import Served

DURATION = r"^(0|(\d+(ms|s|m|h|d|w|y))+)$"
SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800, "y": 31536000}
EXPRESSION = "__expr__"
RECEIVERS = {"webhook": "url", "telegram": "bottoken chatid", "slack": "url", "email": "addresses"}
"""Settings that Grafana asks of a receiver, by its type (grafana/alerting, receivers/*/v1/config.go)."""

SECRETS = {
    "ALERT_WEBHOOK_URL": "http://127.0.0.1:9/hook",
    "TELEGRAM_BOT_TOKEN": "123:secret$HOME",
    "TELEGRAM_CHAT_ID": "-1001234567890",
    "SLACK_WEBHOOK_URL": "http://127.0.0.1:9/slack",
    "ALERT_EMAIL_TO": "desk@example.org",
    "GF_SMTP_HOST": "127.0.0.1:25",
}


def seconds(duration: str) -> float:
    return sum(float(n) * SECONDS[unit] for n, unit in re.findall(r"(\d+)(ms|s|m|h|d|w|y)", duration))


# The keys below are those that Grafana's loader reads (services/provisioning); it ignores others in silence.


class Evaluator(Strict):
    type: Literal["gt", "lt", "within_range", "outside_range"]
    params: list[float | int] = Field(min_length=1, max_length=2)


class Condition(Strict):
    evaluator: Evaluator
    unloadEvaluator: Evaluator | None = None  # noqa: N815


class Reference(Strict):
    type: str
    uid: str


class Sql(Strict):
    refId: str  # noqa: N815
    datasource: Reference
    editorType: Literal["sql"]  # noqa: N815
    queryType: Literal["table"]  # noqa: N815
    format: Literal[1]
    pluginVersion: Literal["4.20.0"]  # noqa: N815
    rawSql: str  # noqa: N815


class Threshold(Strict):
    refId: str  # noqa: N815
    type: Literal["threshold"]
    datasource: Reference
    expression: str
    conditions: list[Condition] = Field(min_length=1, max_length=1)


class TimeRange(Strict):
    from_: int = Field(alias="from")
    to: int


class Query(Strict):
    refId: str  # noqa: N815
    datasourceUid: str  # noqa: N815
    relativeTimeRange: TimeRange | None = None  # noqa: N815
    model: Sql | Threshold


class Annotations(Strict):
    summary: str = Field(min_length=10)
    description: str = Field(min_length=10)
    value: str
    link: str
    dashboard: Literal["pairflow-alerts"] = Field(alias="__dashboardUid__")
    panel: str = Field(alias="__panelId__", pattern=r"^\d+$")


class Labels(Strict):
    kind: Literal["signal", "pair", "pipeline", "user"]
    severity: Literal["info", "warning", "critical"]


class Rule(Strict):
    uid: str = Field(pattern=r"^[a-z0-9-]{1,40}$")
    title: str
    condition: str
    data: list[Query] = Field(min_length=2)
    noDataState: Literal["NoData", "Alerting", "OK", "KeepLast"]  # noqa: N815
    execErrState: Literal["Alerting", "Error", "OK", "KeepLast"]  # noqa: N815
    for_: str = Field(alias="for", pattern=DURATION)
    keepFiringFor: str = Field("0s", pattern=DURATION)  # noqa: N815
    missing_series_evals_to_resolve: int = Field(2, gt=0)
    annotations: Annotations
    labels: Labels


class Group(Strict):
    orgId: Literal[1]  # noqa: N815
    name: str
    folder: str
    interval: str = Field(pattern=DURATION)
    rules: list[Rule] = Field(min_length=1, max_length=100)

    @field_validator("interval")
    @classmethod
    def beats(cls, interval: str) -> str:
        if seconds(interval) % 10 or seconds(interval) == 0:
            msg = f"interval {interval}: expected whole tens of seconds, or Grafana does not start"
            raise ValueError(msg)
        return interval


class Receiver(Strict):
    uid: str
    type: Literal["webhook", "telegram", "slack", "email"]
    disableResolveMessage: Literal[False]  # noqa: N815
    settings: dict[str, str | bool]


class ContactPoint(Strict):
    orgId: Literal[1]  # noqa: N815
    name: str
    receivers: list[Receiver] = Field(min_length=1)


class Route(Strict):
    receiver: str
    object_matchers: list[tuple[str, Literal["=", "!=", "=~", "!~"], str]] = Field([])
    group_by: list[str] = Field([])
    group_wait: str = Field("30s", pattern=DURATION)
    group_interval: str = Field("5m", pattern=DURATION)
    repeat_interval: str = Field("4h", pattern=DURATION)
    mute_time_intervals: list[str] = Field([])


class Policy(Strict):
    orgId: Literal[1]  # noqa: N815
    receiver: str
    group_by: list[str]
    group_wait: str = Field(pattern=DURATION)
    group_interval: str = Field(pattern=DURATION)
    repeat_interval: str = Field(pattern=DURATION)
    routes: list[Route]


class Template(Strict):
    orgId: Literal[1]  # noqa: N815
    name: str
    template: str


class Times(Strict):
    start_time: str
    end_time: str


class Interval(Strict):
    times: list[Times]


class MuteTime(Strict):
    orgId: Literal[1]  # noqa: N815
    name: str
    time_intervals: list[Interval]


class Deleted(Strict):
    orgId: Literal[1]  # noqa: N815
    uid: str


class Alerting(Strict):
    apiVersion: Literal[1]  # noqa: N815
    groups: list[Group] = Field([])
    deleteRules: list[Deleted] = Field([])  # noqa: N815
    contactPoints: list[ContactPoint] = Field([])  # noqa: N815
    deleteContactPoints: list[Deleted] = Field([])  # noqa: N815
    policies: list[Policy] = Field([])
    templates: list[Template] = Field([])
    muteTimes: list[MuteTime] = Field([])  # noqa: N815


class ClickHouseJson(Strict):
    host: str
    port: str
    protocol: Literal["http"]
    secure: str
    username: str
    defaultDatabase: str  # noqa: N815
    dialTimeout: str  # noqa: N815
    queryTimeout: str  # noqa: N815
    validateSql: bool  # noqa: N815


class PrometheusJson(Strict):
    httpMethod: Literal["POST"]  # noqa: N815
    timeInterval: str  # noqa: N815
    prometheusType: Literal["Prometheus"]  # noqa: N815
    manageAlerts: bool  # noqa: N815


class Source(Strict):
    name: str
    uid: str
    type: str
    access: Literal["proxy"]
    url: str = ""
    isDefault: bool = False  # noqa: N815
    editable: Literal[False]
    jsonData: ClickHouseJson | PrometheusJson  # noqa: N815
    secureJsonData: dict[str, str] = Field({})  # noqa: N815


class Sources(Strict):
    apiVersion: Literal[1]  # noqa: N815
    prune: bool
    datasources: list[Source]


class ProviderOptions(Strict):
    path: str


class Provider(Strict):
    name: str
    orgId: Literal[1]  # noqa: N815
    type: Literal["file"]
    folder: str
    disableDeletion: bool  # noqa: N815
    allowUiUpdates: bool  # noqa: N815
    updateIntervalSeconds: int = Field(ge=10)  # noqa: N815
    options: ProviderOptions


class Providers(Strict):
    apiVersion: Literal[1]  # noqa: N815
    providers: list[Provider]


def literal_dollar(text: str) -> bool:
    """Whether Grafana would take a part of the text for a variable."""
    return re.search(r"\$", text.replace("$$", "")) is not None


def interpolated(value: str | bool, environment: dict[str, str]) -> Any:
    """Fill in variables as Grafana does in settings (provisioning/values, interpolateIfaceValue)."""
    if isinstance(value, bool):
        return value
    parts = [
        re.sub(r"\$\{(\w+)\}|\$(\w+)", lambda found: environment.get(found[1] or found[2], ""), part)
        for part in value.split("$$")
    ]
    if len(parts) == 1 and parts[0] != value and re.fullmatch(r"-?\d+(\.\d+)?", parts[0]):
        return float(parts[0])
    return "$".join(parts)


def queries(alerting: Alerting) -> Iterator[tuple[Rule, Query]]:
    for group in alerting.groups:
        for rule in group.rules:
            for query in rule.data:
                yield rule, query


def rule_faults(rule: Rule, titles: list[str], uids: list[str]) -> Iterator[str]:
    name = rule.uid
    if uids.count(rule.uid) > 1 or titles.count(rule.title) > 1:
        yield f"{name}: uid and title must be unique"
    if any(literal_dollar(text) for text in (rule.uid, rule.title, *rule.labels.model_dump().values())):
        yield f"{name}: a $ in title and labels is written $$"
    known = [query.refId for query in rule.data]
    if len(set(known)) != len(known) or rule.condition not in known:
        yield f"{name}: the condition {rule.condition} is none of {known}, or one is there twice"
    annotations = " ".join(rule.annotations.model_dump().values())
    for used in re.findall(r"\$values\.(\w+)", annotations):
        if used not in known:
            yield f"{name}: an annotation shows {used}, which no query gives"
    for query in rule.data:
        model = query.model
        if (model.refId, model.datasource.uid) != (query.refId, query.datasourceUid):
            yield f"{name}: {query.refId} and its model differ in refId or data source"
        if isinstance(model, Threshold):
            if query.datasourceUid != EXPRESSION or model.expression not in known:
                yield f"{name}: {query.refId} judges {model.expression}, which is none of {known}"
            if model.conditions[0].unloadEvaluator is None:
                continue
            if rule.condition != query.refId:
                yield f"{name}: a recovery threshold is only allowed in the condition"
            judged = [
                q.model.rawSql for q in rule.data if q.refId == model.expression and isinstance(q.model, Sql)
            ]
            if not all("isFinite" in sql for sql in judged):
                yield f"{name}: a NaN would never recover: the query must leave it out with isFinite"
        else:
            if DATA_SOURCES.get(query.datasourceUid) != model.datasource.type:
                yield f"{name}: {query.refId} asks a data source that is not provisioned"
            if query.relativeTimeRange is None or query.relativeTimeRange.from_ <= query.relativeTimeRange.to:
                yield f"{name}: {query.refId} needs a time range from > to"
            try:
                sql = expand_macros(model.rawSql, Range(0, 600))
            except AssertionError as error:
                yield f"{name}: {error}"
                continue
            if "$" in sql:
                yield f"{name}: {query.refId} has a variable, which only a dashboard fills in"


def notification_faults(files: list[Alerting], environment: dict[str, str]) -> Iterator[str]:
    points = [point for file in files for point in file.contactPoints]
    names = {point.name for point in points}
    mutes = {mute.name for file in files for mute in file.muteTimes}
    policies = [policy for file in files for policy in file.policies]
    if len(policies) > 1:
        yield "there is one policy tree: the second would replace the first in silence"
    for policy in policies:
        routes: list[Policy | Route] = [policy, *policy.routes]
        for route in routes:
            if route.receiver not in names:
                yield f"the policy names {route.receiver}, which is no contact point"
            if isinstance(route, Route):
                yield from (f"no mute time {mute}" for mute in route.mute_time_intervals if mute not in mutes)
        if literal_dollar(policy.model_dump_json()):
            yield "a $ in the policy is written $$"
    for point in points:
        for receiver in point.receivers:
            for setting in RECEIVERS[receiver.type].split():
                value = interpolated(receiver.settings.get(setting, ""), environment)
                if not isinstance(value, str) or not value:
                    yield f"{receiver.uid}: {setting} is {value!r}, and Grafana would not start"


def faults(folder: Path, environment: dict[str, str] | None = None) -> list[str]:
    """Return what is wrong with a provisioning folder, nothing if all is well."""
    found: list[str] = []
    files: list[Alerting] = []
    models: dict[str, type[Strict]] = {"alerting": Alerting, "datasources": Sources, "dashboards": Providers}
    for path in sorted(folder.glob("*/*.yaml")):
        try:
            content = models[path.parent.name].model_validate(yaml.safe_load(path.read_text()), strict=False)
        except ValidationError as error:
            found += [f"{path.name}: {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
            continue
        if isinstance(content, Alerting):
            files.append(content)
        if isinstance(content, Sources):
            sources = {source.uid: source.type for source in content.datasources}
            if sources != DATA_SOURCES or [s.isDefault for s in content.datasources].count(True) != 1:
                found.append(f"data sources are {sources}: expected {DATA_SOURCES}, one of them the default")
    rules = [rule for file in files for group in file.groups for rule in group.rules]
    titles, uids = [rule.title for rule in rules], [rule.uid for rule in rules]
    for rule in rules:
        found += rule_faults(rule, titles, uids)
    return found + list(notification_faults(files, environment or {}))


PROVISIONING = ROOT / "grafana" / "provisioning"
RULES = Alerting.model_validate(
    yaml.safe_load((PROVISIONING / "alerting" / "rules.yaml").read_text()), strict=False
)
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


def test_grafana_keeps_the_plugins_that_it_has(tmp_path: Path) -> None:
    """It would else renew them in place at its start, and lose those that it cannot write or fetch."""
    service = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["grafana"]
    for environment in (grafana_variables(tmp_path, tmp_path), service["environment"]):
        assert environment["GF_PLUGINS_PREINSTALL_AUTO_UPDATE"] == "false"
    assert not service.get("read_only")
    assert service["image"] == IMAGE


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


def test_the_data_source_is_the_store_of_the_flow(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("PAIRFLOW_")]:
        monkeypatch.delenv(name)
    here = source_variables(Settings(http_port=8200))
    assert (here["CLICKHOUSE_HOST"], here["CLICKHOUSE_PORT"]) == ("127.0.0.1", "8200")
    monkeypatch.setenv("PAIRFLOW_CLICKHOUSE", "clickhouses://me:p%40s@db.example.org/pairs")
    there = source_variables(Settings())
    assert there == {
        "CLICKHOUSE_HOST": "db.example.org",
        "CLICKHOUSE_PORT": "8443",
        "CLICKHOUSE_USER": "me",
        "CLICKHOUSE_PASSWORD": "p@s",
        "CLICKHOUSE_DATABASE": "pairs",
        "CLICKHOUSE_SECURE": "true",
    }
    monkeypatch.delenv("PAIRFLOW_CLICKHOUSE")
    with pytest.raises(StartError, match="PAIRFLOW_HTTP_PORT"):
        source_variables(Settings(http_port=0))


def test_every_variable_of_the_provisioning_is_set_by_the_start(tmp_path: Path) -> None:
    text = "".join(path.read_text() for path in PROVISIONING.glob("[!a]*/*.yaml"))
    named = set(re.findall(r"\$\{(\w+)\}", text))
    assert named <= set(grafana_variables(tmp_path, tmp_path) | source_variables(Settings()))
    assert "CLICKHOUSE_PASSWORD" in named


def _start(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {"PATH": str(folder / "bin"), "PYTHONPATH": str(ROOT), "GF_SERVER_HTTP_PORT": "39871"}
    kept["PAIRFLOW_HTTP_PORT"] = "39872"
    return subprocess.run(
        [sys.executable, "-m", "grafana.start"],
        cwd=folder,
        env=kept | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_without_a_grafana_one_line_says_what_to_install(tmp_path: Path) -> None:
    done = _start(tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "install Grafana" in done.stderr
    assert "GRAFANA_HOME" in _start(tmp_path, GRAFANA_HOME=str(tmp_path)).stderr


def test_a_grafana_on_the_path_is_started_for_this_machine_alone(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "defaults.ini").touch()
    (tmp_path / "grafana-data" / "plugins" / "grafana-clickhouse-datasource").mkdir(parents=True)
    program = tmp_path / "bin" / "grafana"
    program.write_text(f"#!{shutil.which('sh')}\necho $0 $*\n{shutil.which('env')}\n")
    program.chmod(0o755)
    done = _start(tmp_path, ALERT_WEBHOOK_URL="http://127.0.0.1:9/", PROMETHEUS_URL="http://127.0.0.1:9091")
    assert done.returncode == 0, done.stderr
    command, *lines = done.stdout.splitlines()
    assert command == f"{program} server --homepath {tmp_path}"
    environment = dict(line.split("=", 1) for line in lines if "=" in line)
    assert environment["GF_SERVER_HTTP_ADDR"] == "127.0.0.1"
    assert environment["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    assert environment["PROMETHEUS_URL"] == "http://127.0.0.1:9091"
    password = environment["GF_SECURITY_ADMIN_PASSWORD"]
    assert len(password) >= 16
    assert password in done.stderr
    assert "alerts go to: webhook" in done.stderr
    assert "no store answers" in done.stderr
    assert faults(Path(environment["GF_PATHS_PROVISIONING"]), environment) == []
    assert (tmp_path / "grafana-data" / "provisioning" / "plugins").is_dir()
    (tmp_path / "grafana-data" / "grafana.db").touch()  # the second start changes no password
    assert "GF_SECURITY_ADMIN_PASSWORD" not in _start(tmp_path).stdout
    assert CONTACT_POINT == "pairflow"


def test_else_the_pinned_image_is_started_where_docker_runs(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    docker = tmp_path / "bin" / "docker"
    docker.write_text(f"#!{shutil.which('sh')}\necho $*\n")
    docker.chmod(0o755)
    done = _start(tmp_path, SLACK_WEBHOOK_URL="http://127.0.0.1:9/secret")
    assert done.returncode == 0, done.stderr
    words = done.stdout.split()
    assert (words[0], words[-1]) == ("run", IMAGE)
    assert "--network host" in done.stdout
    assert {"GF_SERVER_HTTP_ADDR", "CLICKHOUSE_PASSWORD", "SLACK_WEBHOOK_URL", "DASHBOARDS"} <= set(words)
    assert "secret" not in done.stdout
