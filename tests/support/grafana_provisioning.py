"""Grafana's provisioning files as strict models, and the faults that models cannot express."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, field_validator

from grafana.versions import PLUGIN_VERSION
from tests.support.grafana_data_source import DATA_SOURCES, Range, expand_macros
from tests.support.grafana_schema import Strict
from tests.support.paths import ROOT

DURATION = r"^(0|(\d+(ms|s|m|h|d|w|y))+)$"
SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800, "y": 31536000}
EXPRESSION = "__expr__"
RECEIVERS = {"webhook": "url", "telegram": "bottoken chatid", "slack": "url", "email": "addresses"}
"""Settings that Grafana requires of a receiver, by its type (grafana/alerting, receivers/*/v1/config.go)."""


def seconds(duration: str) -> float:
    return sum(float(n) * SECONDS[unit] for n, unit in re.findall(r"(\d+)(ms|s|m|h|d|w|y)", duration))


# The models have the keys that Grafana's loader reads (services/provisioning). It ignores other keys.


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
    pluginVersion: str = Field(pattern=f"^{re.escape(PLUGIN_VERSION)}$")  # noqa: N815
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
    """Return whether Grafana would take a part of the text for a variable."""
    return re.search(r"\$", text.replace("$$", "")) is not None


def interpolated(value: str | bool, environment: dict[str, str]) -> Any:
    """Replace variables as Grafana does in settings (provisioning/values, interpolateIfaceValue)."""
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
    """Find the faults of an alert rule.

    :arg titles: of all rules.
    :arg uids: of all rules.
    """
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
            yield from (f"{name}: {fault}" for fault in _threshold_faults(rule, query, model))
        else:
            yield from (f"{name}: {fault}" for fault in _sql_faults(query, model))


def _threshold_faults(rule: Rule, query: Query, model: Threshold) -> Iterator[str]:
    known = [each.refId for each in rule.data]
    if query.datasourceUid != EXPRESSION or model.expression not in known:
        yield f"{query.refId} judges {model.expression}, which is none of {known}"
    if model.conditions[0].unloadEvaluator is None:
        return
    if rule.condition != query.refId:
        yield "a recovery threshold is only allowed in the condition"
    judged = [each.model for each in rule.data if each.refId == model.expression]
    if not all("isFinite" in each.rawSql for each in judged if isinstance(each, Sql)):
        yield "a NaN would never recover: the query must leave it out with isFinite"


def _sql_faults(query: Query, model: Sql) -> Iterator[str]:
    if DATA_SOURCES.get(query.datasourceUid) != model.datasource.type:
        yield f"{query.refId} asks a data source that is not provisioned"
    if query.relativeTimeRange is None or query.relativeTimeRange.from_ <= query.relativeTimeRange.to:
        yield f"{query.refId} needs a time range from > to"
    try:
        sql = expand_macros(model.rawSql, Range(0, 600))
    except AssertionError as error:
        yield str(error)
        return
    if "$" in sql:
        yield f"{query.refId} has a variable, which only a dashboard fills in"


def notification_faults(files: list[Alerting], environment: dict[str, str]) -> Iterator[str]:
    """Find the faults of contact points and policies.

    :arg files: all files about alerts.
    :arg environment: variables that Grafana fills into settings.
    """
    names = {point.name for file in files for point in file.contactPoints}
    mutes = {mute.name for file in files for mute in file.muteTimes}
    policies = [policy for file in files for policy in file.policies]
    if len(policies) > 1:
        yield "there is one policy tree: the second would replace the first in silence"
    for policy in policies:
        yield from _policy_faults(policy, names, mutes)
    for receiver in (each for file in files for point in file.contactPoints for each in point.receivers):
        for setting in RECEIVERS[receiver.type].split():
            value = interpolated(receiver.settings.get(setting, ""), environment)
            if not isinstance(value, str) or not value:
                yield f"{receiver.uid}: {setting} is {value!r}, and Grafana would not start"


def _policy_faults(policy: Policy, names: set[str], mutes: set[str]) -> Iterator[str]:
    for receiver in (policy.receiver, *(route.receiver for route in policy.routes)):
        if receiver not in names:
            yield f"the policy names {receiver}, which is no contact point"
    for route in policy.routes:
        yield from (f"no mute time {mute}" for mute in route.mute_time_intervals if mute not in mutes)
    if literal_dollar(policy.model_dump_json()):
        yield "a $ in the policy is written $$"


def faults(folder: Path, environment: dict[str, str] | None = None) -> list[str]:
    """Return the faults of a provisioning folder.

    :arg environment: variables that Grafana fills into settings.
    """
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
