"""One model of an alert rule, which the table with its checks and defaults, REST and OpenAPI follow."""

import json
import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from connectors.clickhouse.alert_rules import CONDITIONS, FIELDS, LONGEST_SECONDS, SQL_TYPES, AlertRule
from connectors.clickhouse.server.openapi import openapi
from connectors.clickhouse.store import Store
from kernels.records import STATISTICS


@pytest.fixture
def dsn(tmp_path: Path) -> str:
    return f"chdb://{tmp_path}/store"


def test_the_table_has_a_column_for_each_field_with_its_type_and_default(dsn: str) -> None:
    columns = "SELECT name, type FROM system.columns WHERE database = 'pairflow' AND table = 'alert_rules'"
    with Store.open(dsn, source="binance") as store:
        types = dict(store.query(columns))
        assert set(types) == {"id", "created", *FIELDS, "origin"}
        choices = ", ".join(f"'{condition}' = {number}" for number, condition in enumerate(CONDITIONS, 1))
        expected = SQL_TYPES | {"condition": f"Enum8({choices})"}
        assert {name: types[name] for name in FIELDS} == expected
        store.client.command("INSERT INTO alert_rules (origin) VALUES ('user')")
        (row,) = store.query(f"SELECT {', '.join(FIELDS)} FROM alert_rules")
        assert dict(zip(FIELDS, row, strict=True)) == AlertRule().model_dump()


def test_the_table_takes_what_the_model_takes(dsn: str) -> None:
    constraints = "SELECT name, expression FROM system.constraints WHERE table = 'alert_rules'"
    with Store.open(dsn, source="binance") as store:
        checks = dict(store.query(constraints))
        assert re.findall(r"'(\w+)'", checks.pop("known_metric")) == list(STATISTICS)
        assert checks == {"at_most_an_hour": f"for_seconds <= {LONGEST_SECONDS}"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"metric": "zscore"},
        {"condition": "="},
        {"window": -1},
        {"window": True},
        {"window": 2**32},
        {"threshold": "2"},
        {"threshold": float("inf")},
        {"for_seconds": LONGEST_SECONDS + 1},
        {"enabled": 1},
        {"treshold": 2},
    ],
)
def test_the_model_takes_no_other_values(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        AlertRule.model_validate(wrong)


def test_rest_describes_each_field() -> None:
    post = openapi()["paths"]["/api/v1/alerts"]["post"]
    body = post["requestBody"]["content"]["application/json"]
    properties = body["schema"]["properties"]
    assert tuple(properties) == FIELDS
    assert properties["metric"]["enum"] == list(STATISTICS)
    assert properties["condition"]["enum"] == list(CONDITIONS)
    assert all(each["description"] and "default" in each for each in properties.values())
    AlertRule.model_validate(body["example"])
    assert json.loads(json.dumps(properties)) == properties


def test_a_rule_of_the_settings_keeps_its_id() -> None:
    rule = AlertRule(pair="B/A", threshold=2.5)
    assert rule.settings_id == AlertRule(threshold=2.5, pair="B/A").settings_id
    assert rule.settings_id != AlertRule(pair="B/A", threshold=2.0).settings_id
    # As stores have it that an earlier version wrote.
    assert str(AlertRule().settings_id) == "e2adfa66-d715-566b-922b-890306d7218c"
