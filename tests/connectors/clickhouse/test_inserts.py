"""Inserts: repeated blocks change no row that readers see, and a server confirms what is stored."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pyarrow as pa
import pytest

from connectors.clickhouse.store import Dsn, Store
from tests.support.paths import ROOT


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(f"chdb://{tmp_path / 'data'}", source="binance")
    yield opened
    opened.close()


def test_a_block_that_is_stored_twice_shows_once(store: Store) -> None:
    """Target tables of views do not deduplicate blocks by default: here equal rows replace each other."""
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
    """A client that records the settings of inserts instead of sending them."""

    settings: dict[str, str]

    def insert_arrow(self, table: str, rows: Any, *, database: str, settings: dict[str, str]) -> None:
        self.settings = settings


def test_a_server_answers_an_insert_once_its_rows_are_stored() -> None:
    """Since version 26.3 a server by default collects rows first and inserts them later."""
    client = _Client()
    Store(Dsn.parse("clickhouse://h/pairflow"), client, "").insert("bars", pa.table({"a": [1]}))  # type: ignore[arg-type]
    assert client.settings["async_insert"] == "0"
    users = ElementTree.parse(ROOT / "clickhouse" / "users.d" / "pairflow.xml")
    assert users.findtext("profiles/pairflow_writer/async_insert") == "0"
