"""Definitions that a full disk left empty or cut off: made again without loss, or named in one line."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clickhouse_connect.driver._backendclient import SyncBackendClient as Client

from connectors.clickhouse import schema
from connectors.clickhouse.metadata import damaged_files
from connectors.clickhouse.schema import load
from connectors.clickhouse.sink import Columns
from connectors.clickhouse.store import Store, StoreBusyError, StoreError
from kernels.records import METRIC, SIGNAL, TRADE
from tests.support.older_schema import older_schema

COLUMNS = Columns(market="spot", source="binance", symbols=["BTCUSDT", "ETHUSDT"], pairs=["ETHUSDT/BTCUSDT"])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with rows."""
    folder = tmp_path_factory.mktemp("whole") / "store"
    with Store.open(f"chdb://{folder}", source="binance") as store:
        trades = np.zeros(10, TRADE)
        trades["id"], trades["price"] = np.arange(10), 2.5
        store.insert("stored_trades", COLUMNS("trades", trades))
        store.insert("stored_pair_metrics", COLUMNS("pair_metrics", np.zeros(1, METRIC)))
        store.insert("stored_signals", COLUMNS("signals", np.zeros(1, SIGNAL)))
        store.client.command("INSERT INTO alert_rules (note) VALUES ('kept')")
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(whole, tmp_path / "store", symlinks=True)


def contents(folder: Path) -> dict[str, Any]:
    """Open a store and read rows, and how each table and view is defined."""
    names = ("trades", "pair_metrics", "latest_pair_metrics", "latest_signals", "alert_rules", "alert_states")
    with Store.open(f"chdb://{folder}", source="binance") as store:
        found: dict[str, Any] = {
            name: store.query(f"SELECT toString(tuple(*)) AS row FROM {name} ORDER BY row") for name in names
        }
        sql = "SELECT name, create_table_query FROM system.tables WHERE database = 'pairflow'"
        return {**found, "definitions": sorted(store.query(sql))}


def damaged(folder: Path) -> list[Path]:
    return damaged_files(folder, "pairflow", load())


@pytest.mark.parametrize("size", [0, 60])
@pytest.mark.parametrize(
    "names",
    [
        ["pairflow/trades", "pairflow/schema_version"],
        ["pairflow/stored_gaps", "pairflow/stored_trades", "pairflow/alert_rules"],
        ["pairflow/fill_latest_pair_metrics"],
        ["pairflow/stored_latest_pair_metrics", "pairflow/fill_latest_pair_metrics"],
        ["pairflow/stored_pair_metrics", "pairflow/stored_latest_signals", "pairflow/alert_states"],
    ],
    ids=" ".join,
)
def test_a_definition_is_made_again_over_its_rows(folder: Path, names: list[str], size: int) -> None:
    before = contents(folder)
    for name in names:
        os.truncate(folder / "metadata" / f"{name}.sql", size)
    assert len(damaged(folder)) == len(names)
    assert contents(folder) == before
    assert damaged(folder) == []


def test_a_database_is_made_again_over_its_tables(folder: Path) -> None:
    before = contents(folder)
    os.truncate(folder / "metadata" / "pairflow.sql", 0)
    assert contents(folder) == before


def test_a_table_that_was_never_made_is_made(folder: Path) -> None:
    """As after a disk that was full when the store was first made: neither rows nor a link to them."""
    with Store.open(f"chdb://{folder}", source="binance") as store:
        store.client.command("DROP TABLE stored_gaps SYNC")
    (folder / "metadata" / "pairflow" / "stored_gaps.sql").touch()
    with Store.open(f"chdb://{folder}", source="binance") as store:
        assert store.query("SELECT count() FROM gaps") == [(0,)]
        assert store.query("SELECT count() FROM trades") == [(10,)]


def test_a_table_is_not_taken_for_empty_while_rows_belong_to_none(folder: Path) -> None:
    os.truncate(folder / "metadata" / "pairflow" / "stored_trades.sql", 0)
    link = folder / "data" / "pairflow" / "stored_trades"
    rows = link.resolve()
    link.unlink()
    with pytest.raises(
        StoreError, match=rf"its rows may be those in {rows}, which belong to no table: restore"
    ):
        Store.open(f"chdb://{folder}")
    link.symlink_to(rows)
    with Store.open(f"chdb://{folder}") as store:
        assert store.query("SELECT count() FROM trades") == [(10,)]


def test_a_definition_that_is_not_ours_is_named(folder: Path) -> None:
    file = folder / "metadata" / "pairflow" / "my_view.sql"
    file.touch()
    with pytest.raises(
        StoreError, match=rf"the definition of my_view in {file} is empty, .* or delete it"
    ) as caught:
        Store.open(f"chdb://{folder}")
    assert "\n" not in str(caught.value)
    file.unlink()
    Store.open(f"chdb://{folder}").close()


@pytest.mark.parametrize("at", [0, 10, 40])
def test_a_disk_that_is_full_in_the_middle_of_an_upgrade_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """The engine then writes empty files, also over whole ones, and reports no error."""
    dsn, definitions = f"chdb://{tmp_path}/store", tmp_path / "store" / "metadata" / "pairflow"
    with monkeypatch.context() as patch:
        patch.setattr(schema, "FOLDER", older_schema(tmp_path / "older"))
        with Store.open(dsn, source="binance") as store:
            store.client.command("INSERT INTO stored_pair_metrics (pair, time, z_score) SELECT 'B/A', 1, 2.5")
            store.client.command("INSERT INTO alert_rules (note) VALUES ('kept')")
    send: Callable[..., Any] = Client.command
    count = 0

    def command(self: Client, text: str, *more: Any, **options: Any) -> Any:
        nonlocal count
        before = {file: file.stat().st_ino for file in definitions.glob("*.sql")}
        answer = send(self, text, *more, **options)
        count += 1
        for file in definitions.glob("*.sql") if count > at else ():
            if file.stat().st_ino != before.get(file):
                os.truncate(file, 0)
        return answer

    with monkeypatch.context() as patch:
        patch.setattr(Client, "command", command)
        with pytest.raises(StoreBusyError, match="no space left on the disk of"):
            Store.open(dsn, source="binance")
    assert damaged(tmp_path / "store")
    for _ in range(2):
        with Store.open(dsn, source="binance") as store:
            assert store.query("SELECT pair, z_score, hurst FROM latest_pair_metrics") == [("B/A", 2.5, 0)]
            assert store.query("SELECT pair, z_score, hurst FROM pair_metrics") == [("B/A", 2.5, 0)]
            assert store.query("SELECT note, value FROM alert_rules, alert_states") == [("kept", 2.5)]


def test_nothing_begins_on_a_disk_that_is_nearly_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.statvfs(tmp_path)
    full = os.statvfs_result((*real[:4], 100, *real[5:]))
    with monkeypatch.context() as patch:
        patch.setattr(os, "statvfs", lambda _: full)
        with pytest.raises(StoreBusyError, match="no space left on the disk of"):
            Store.open(f"chdb://{tmp_path}/store", source="binance")
    Store.open(f"chdb://{tmp_path}/store", source="binance").close()
