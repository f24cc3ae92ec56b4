"""Older stores are upgraded when they are opened, to what a new one has, however an earlier upgrade ended."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import chdb
import numpy as np
import pytest
from clickhouse_connect.driver._backendclient import SyncBackendClient as Client

from connectors.clickhouse import schema
from connectors.clickhouse.schema import FOLDER, VERSION, load, statements
from connectors.clickhouse.sink import Columns
from connectors.clickhouse.store import Store, StoreError
from kernels.records import METRIC
from tests.support.older_schema import older_schema
from tests.support.paths import ROOT

SCHEMA_11 = ROOT / "tests" / "support" / "schema_11.sql"

COLUMNS = Columns(market="spot", source="binance", symbols=["BTCUSDT", "ETHUSDT"], pairs=["ETHUSDT/BTCUSDT"])


def metrics(second: int, **values: float) -> Any:
    rows = np.zeros(1, METRIC)
    rows["time"] = 1_700_000_000_000_000 + second * 1_000_000
    for name, value in values.items():
        rows[name] = value
    return COLUMNS("pair_metrics", rows)


def definitions(store: Store) -> dict[str, Any]:
    """Everything that is declared, as ClickHouse has it."""
    where = "WHERE database = 'pairflow'"
    columns = "name, type, default_expression, compression_codec, comment, position"
    asked = {
        "columns": f"table, {columns} FROM system.columns {where}",
        "tables": f"name, engine, sorting_key, partition_key, as_select, comment FROM system.tables {where}",
        "constraints": f"table, name, expression FROM system.constraints {where}",
        "settings": f"name, engine_full FROM system.tables {where}",
    }
    return {name: sorted(store.query(f"SELECT {sql}")) for name, sql in asked.items()}


@pytest.fixture
def new(tmp_path: Path) -> dict[str, Any]:
    with Store.open(f"chdb://{tmp_path}/new", source="binance") as store:
        return definitions(store)


@pytest.fixture
def dsn(tmp_path: Path) -> str:
    return f"chdb://{tmp_path}/store"


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every statement that is sent to a store."""
    found: list[str] = []
    send: Callable[..., Any] = Client.command

    def command(self: Client, text: str, *more: Any, **options: Any) -> Any:
        found.append(text)
        return send(self, text, *more, **options)

    monkeypatch.setattr(Client, "command", command)
    return found


def test_a_new_store_is_declared_as_clickhouse_prints_it(dsn: str, sent: list[str]) -> None:
    """Else each upgrade would change columns that are as they should be."""
    with Store.open(dsn, source="binance") as store:
        store.client.command("TRUNCATE TABLE schema_version")
    sent.clear()
    Store.open(dsn, source="binance").close()
    changed = {text.split()[2] for text in sent if text.startswith("ALTER") and "MODIFY QUERY" not in text}
    assert changed <= set(load().views)


def test_a_store_that_is_up_to_date_is_sent_no_statement(dsn: str, sent: list[str]) -> None:
    Store.open(dsn, source="binance").close()
    sent.clear()
    Store.open(dsn, source="binance").close()
    assert [text for text in sent if not text.startswith(("EXISTS", "SELECT"))] == []


def test_a_store_of_schema_11_is_upgraded_in_place(tmp_path: Path, dsn: str, new: dict[str, Any]) -> None:
    connection = chdb.connect(f"{tmp_path}/store")  # type: ignore[no-untyped-call]
    for text in ("CREATE DATABASE pairflow", "USE pairflow", *statements(SCHEMA_11.read_text())):
        connection.query(text)
    values = "(metric, threshold, for_seconds) VALUES ('adf_lag', 3, 60)"
    connection.query(f"INSERT INTO alert_rules {values}")
    connection.query(
        "INSERT INTO stored_pair_metrics (market, pair, time, adf_lag) SELECT 'spot', 'B/A', '2024-08-09', 4"
    )
    connection.close()
    for _ in range(2):
        with Store.open(dsn, source="binance") as store:
            assert definitions(store) == new
            versions = store.query("SELECT version, fingerprint FROM schema_version ORDER BY version")
            assert versions[-2:] == [(11, ""), (VERSION, load().fingerprint)]
            assert store.query("SELECT adf_lag FROM pair_metrics") == [(4.0,)]
            assert store.query("SELECT metric, value, firing FROM alert_states") == [("adf_lag", 4.0, True)]


def test_a_column_that_the_files_add_is_added_to_an_older_store(
    tmp_path: Path, dsn: str, new: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "FOLDER", older_schema(tmp_path / "older"))
    with Store.open(dsn, source="binance") as store:
        assert definitions(store) != new
        store.insert("stored_pair_metrics", metrics(1, z_score=2).drop_columns("hurst"))
        store.client.command("INSERT INTO alert_rules (threshold) VALUES (1)")
    monkeypatch.setattr(schema, "FOLDER", FOLDER)
    with Store.open(dsn, source="binance") as store:
        assert definitions(store) == new
        store.insert("stored_pair_metrics", metrics(2, z_score=3, hurst=0.5))
        assert store.query("SELECT z_score, hurst FROM pair_metrics ORDER BY time") == [(2, 0), (3, 0.5)]
        assert store.query("SELECT z_score, hurst FROM latest_pair_metrics") == [(3, 0.5)]
        assert store.query("SELECT value, firing FROM alert_states") == [(3, True)]


def test_what_users_added_stays(dsn: str, new: dict[str, Any]) -> None:
    ttl = "MODIFY TTL toDateTime(time) + INTERVAL 90 DAY"
    with Store.open(dsn, source="binance") as store:
        store.client.command("ALTER TABLE stored_trades ADD COLUMN mine Int8 COMMENT 'mine'")
        store.client.command(f"ALTER TABLE stored_trades {ttl}")
        store.client.command("CREATE VIEW my_view AS SELECT 1 AS one")
        store.client.command("TRUNCATE TABLE schema_version")
    with Store.open(dsn, source="binance") as store:
        sql = "SELECT create_table_query FROM system.tables WHERE name IN ('stored_trades', 'my_view')"
        (view,), (table,) = store.query(f"{sql} ORDER BY name")
        assert "one" in view
        assert "`mine` Int8" in table
        assert "toIntervalDay(90)" in table
        added = ("stored_trades", "mine", "Int8", "", "", "mine", 12)
        assert [row for row in definitions(store)["columns"] if row[0] != "my_view"] == sorted(
            [*new["columns"], added]
        )


def test_a_view_that_is_gone_is_made_again(dsn: str, new: dict[str, Any]) -> None:
    with Store.open(dsn, source="binance") as store:
        store.client.command("DROP VIEW pair_ranking")
    with Store.open(dsn, source="binance") as store:
        assert definitions(store) == new


def test_rows_from_before_a_table_of_newest_rows_are_in_it(dsn: str, tmp_path: Path) -> None:
    with Store.open(dsn, source="binance") as store:
        for view in ("fill_latest_pair_metrics", "stored_latest_pair_metrics"):
            store.client.command(f"DROP TABLE {view}")
        store.insert("stored_pair_metrics", metrics(1, z_score=2))
    with Store.open(dsn, source="binance") as store:
        assert store.query("SELECT z_score FROM latest_pair_metrics") == [(2,)]


@pytest.mark.parametrize("older", [False, True])
def test_an_upgrade_that_ends_at_any_statement_is_done_again(
    tmp_path: Path, new: dict[str, Any], monkeypatch: pytest.MonkeyPatch, older: bool
) -> None:
    send: Callable[..., Any] = Client.command
    left = 0

    def command(self: Client, text: str, *more: Any, **options: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError("the end")  # noqa: EM101
        return send(self, text, *more, **options)

    monkeypatch.setattr(schema, "FOLDER", older_schema(tmp_path / "older") if older else FOLDER)
    ended, count = 0, 0
    while ended == count:
        dsn = f"chdb://{tmp_path}/store-{count}"
        if older:
            with Store.open(dsn, source="binance") as store:
                store.insert("stored_pair_metrics", metrics(1, z_score=2).drop_columns("hurst"))
        count += 1
        left = 13 * count
        with monkeypatch.context() as patch:
            patch.setattr(Client, "command", command)
            patch.setattr(schema, "FOLDER", FOLDER)
            try:
                Store.open(dsn, source="binance").close()
            except StoreError:
                ended += 1
        with monkeypatch.context() as patch:
            patch.setattr(schema, "FOLDER", FOLDER)
            with Store.open(dsn, source="binance") as store:
                assert definitions(store) == new
                if older:
                    assert store.query("SELECT z_score FROM latest_pair_metrics") == [(2,)]
    assert ended > 3


def test_a_newer_database_is_refused(dsn: str) -> None:
    with Store.open(dsn, source="binance") as store:
        store.client.command("INSERT INTO schema_version (version) VALUES (99)")
    with pytest.raises(
        StoreError, match=r"schema 99, newer than schema \d+ of this program: update the program"
    ):
        Store.open(dsn, source="binance")
