"""The provisioning files, as Grafana reads them when it starts."""

import json
import re
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import pytest
import yaml

from grafana.notifications import CHANNELS, ChannelError, notifications
from grafana.start import write_provisioning
from tests.support.grafana_provisioning import Alerting, faults

SECRETS = {
    "ALERT_WEBHOOK_URL": "http://127.0.0.1:9/hook",
    "TELEGRAM_BOT_TOKEN": "123:secret$HOME",
    "TELEGRAM_CHAT_ID": "-1001234567890",
    "SLACK_WEBHOOK_URL": "http://127.0.0.1:9/slack",
    "ALERT_EMAIL_TO": "desk@example.org",
    "GF_SMTP_HOST": "127.0.0.1:25",
}


def in_use(*kinds: str) -> dict[str, str]:
    names = [name for kind in kinds for name in CHANNELS[kind].variables]
    return {name: SECRETS[name] for name in names}


@pytest.mark.parametrize("number", range(len(CHANNELS) + 1))
def test_provisioning_has_no_faults_with_any_channels_in_use(tmp_path: Path, number: int) -> None:
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


def test_a_channel_that_is_half_set_names_the_missing_variable() -> None:
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


@pytest.mark.parametrize(("mistake", "file", "change", "message"), BROKEN, ids=[case[0] for case in BROKEN])
def test_each_mistake_is_found(
    tmp_path: Path, mistake: str, file: str, change: Callable[[str], str], message: str
) -> None:
    write_provisioning(tmp_path / "p", {})
    (path,) = (tmp_path / "p").glob(f"*/{file}.yaml")
    path.write_text(change(path.read_text()))
    found = faults(tmp_path / "p")
    assert re.search(message, "\n".join(found)), f"{mistake}: {found}"


def test_a_recovery_threshold_outside_the_condition_is_found(tmp_path: Path) -> None:
    write_provisioning(tmp_path / "p", {})
    path = tmp_path / "p" / "alerting" / "rules.yaml"
    content = yaml.safe_load(path.read_text())
    (rule,) = (r for g in content["groups"] for r in g["rules"] if r["uid"] == "pairflow-lag")
    rule["condition"] = "A"
    path.write_text(yaml.safe_dump(content))
    assert any("only allowed in the condition" in fault for fault in faults(tmp_path / "p"))


def test_a_second_policy_tree_is_found(tmp_path: Path) -> None:
    write_provisioning(tmp_path / "p", {})
    second = {key: notifications({})[key] for key in ("apiVersion", "policies")}
    (tmp_path / "p" / "alerting" / "second.yaml").write_text(json.dumps(second))
    assert any("one policy tree" in fault for fault in faults(tmp_path / "p"))


def test_a_variable_that_looks_like_a_number_is_found(tmp_path: Path) -> None:
    environment = in_use("telegram")
    write_provisioning(tmp_path / "p", environment)
    path = tmp_path / "p" / "alerting" / "notifications.yaml"
    path.write_text(path.read_text().replace(SECRETS["TELEGRAM_CHAT_ID"], "${TELEGRAM_CHAT_ID}"))
    assert any("chatid is -1001234567890" in fault for fault in faults(tmp_path / "p", environment))
