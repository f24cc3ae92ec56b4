"""Alert rules come and go by REST and by SQL, and nothing else can be written."""

import json
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from connectors.clickhouse.server import EmbeddedServer
from tests.support.embedded_server import SECRET, ask, rest


def test_alert_rules_come_and_go_by_rest(server: EmbeddedServer) -> None:
    rule = {
        "pair": "ETHUSDT/BTCUSDT",
        "threshold": 2.5,
        "condition": "abs >=",
        "note": "it's\n\\x",
        "enabled": True,
    }
    status, made = rest(server, "/alerts", method="POST", body=rule)
    assert status == 201
    (kept,) = rest(server, "/alerts")[1]
    assert {name: kept[name] for name in made} == made
    assert (kept["metric"], kept["window"]) == ("z_score", 0)
    assert rest(server, f"/alerts/{made['id']}", method="DELETE") == (204, None)
    assert rest(server, "/alerts") == (200, [])
    assert rest(server, f"/alerts/{made['id']}", method="DELETE")[0] == 404
    wrong: list[object] = [{"metric": "x"}, {"condition": "="}, {"window": "20"}, {"window": True}, [], {}]
    for body in (*wrong, {"treshold": 1}):
        assert rest(server, "/alerts", method="POST", body=body)[0] == 400
    assert rest(server, "/alerts/1", method="DELETE")[0] == 400
    page = urllib.request.Request(f"http://{server.host}:{server.port}/api/v1/alerts", b"{}")
    with pytest.raises(urllib.error.HTTPError, match="415"):
        urllib.request.urlopen(page)
    assert rest(server, "/alerts") == (200, [])


def test_alert_rules_come_and_go_by_sql(server: EmbeddedServer) -> None:
    def rules(columns: str = "pair, threshold, condition, enabled, note") -> list[list[Any]]:
        status, _, body = ask(
            server, f"SELECT {columns} FROM alert_rules ORDER BY threshold FORMAT JSONCompact"
        )
        assert status == 200
        rows: list[list[Any]] = json.loads(body)["data"]
        return rows

    values = r"('ETHUSDT/BTCUSDT', 2.5, '>', false, 'it\'s ''so''\n'), ('', -3e0, 'abs <', TRUE, '');"
    sql = f"insert into pairflow.alert_rules (pair, `threshold`, condition, enabled, note)\n values {values}"
    assert ask(server, sql)[::2] == (200, b"")
    kept = [["", -3, "abs <", True, ""], ["ETHUSDT/BTCUSDT", 2.5, ">", False, "it's 'so'\n"]]
    assert rules() == kept
    assert (
        ask(server, "DELETE FROM alert_rules WHERE note != '' AND pair LIKE {p:String}", param_p="ETH%")[0]
        == 200
    )
    assert rules() == kept[:1]
    lines = "\n".join(json.dumps({"threshold": value, "metric": "adf_lag"}) for value in (7, 8))
    assert ask(server, f"INSERT INTO alert_rules FORMAT JSONEachRow {lines}")[0] == 200
    assert rules("threshold, metric, origin") == [
        [-3, "z_score", "user"], [7, "adf_lag", "user"], [8, "adf_lag", "user"]
    ]  # fmt: skip
    ask(server, "DELETE FROM alert_rules WHERE 1")
    assert rules() == []


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("INSERT INTO alert_rules (threshold) VALUES (1), (sleep(1))", "expected literals"),
        (
            "INSERT INTO alert_rules (threshold) VALUES ((SELECT count() FROM file('{folder}/secret')))",
            "literals",
        ),
        (
            "INSERT INTO alert_rules (note) SELECT * FROM file('{folder}/secret', 'LineAsString')",
            "not allowed",
        ),
        ("INSERT INTO alert_rules (threshold) VALUES (1); DROP TABLE runs", "expected literals"),
        ("INSERT INTO alert_rules (threshold) VALUES (1) SETTINGS async_insert = 1", "expected literals"),
        ("INSERT INTO alert_rules VALUES (1)", "name the columns"),
        ("INSERT INTO alert_rules (threshold, note) VALUES (1)", "expected rows of 2 literals"),
        ("INSERT INTO alert_rules (threshold) VALUES", "expected rows of 1 literal"),
        ("INSERT INTO alert_rules (threshold) VALUES (1..2)", "1..2"),
        ("INSERT INTO alert_rules (treshold) VALUES (1)", "treshold: no such field; did you mean threshold?"),
        ("INSERT INTO alert_rules (metric) VALUES ('zscore')", "metric='zscore': expected one of price_y, "),
        ("INSERT INTO alert_rules (threshold) VALUES ('2')", "threshold='2': expected a number"),
        ("INSERT INTO alert_rules (threshold, window) VALUES (1, 1), (1, -1)", ""),
        ("INSERT INTO alert_rules FORMAT Native abc", "not as Native"),
        ("INSERT INTO alert_rules FORMAT JSONEachRow {nothing", "not JSON"),
        ("INSERT INTO other.alert_rules (threshold) VALUES (1)", "not allowed"),
        (
            "DELETE FROM alert_rules WHERE note = (SELECT * FROM file('{folder}/secret', 'LineAsString'))",
            "file",
        ),
        ("DELETE FROM alert_rules WHERE 1) UNION ALL (SELECT name FROM system.users", "not allowed"),
        ("DELETE FROM runs WHERE 1", "not allowed"),
        ("ALTER TABLE alert_rules DELETE WHERE 1", "not allowed"),
        ("TRUNCATE TABLE alert_rules", "not allowed"),
    ],
)
def test_a_statement_on_alert_rules_allows_nothing_else(
    server: EmbeddedServer, folder: Path, sql: str, words: str
) -> None:
    kept = {"threshold": 9.0}
    _, made = rest(server, "/alerts", method="POST", body=kept)
    status, _, answer = ask(server, sql.replace("{folder}", str(folder)))
    assert 400 <= status < 600
    assert words in answer.decode()
    assert SECRET not in answer.decode()
    assert [rule["id"] for rule in rest(server, "/alerts")[1]] == [made["id"]]
    url = f"http://{server.host}:{server.port}/?" + urllib.parse.urlencode(
        {"query": "DELETE FROM alert_rules WHERE 1"}
    )
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(url)
    assert rest(server, f"/alerts/{made['id']}", method="DELETE") == (204, None)
