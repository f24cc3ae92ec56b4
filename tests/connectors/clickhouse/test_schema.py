"""The schema as the SQL files declare it, with one list of statistics."""

from pathlib import Path

import pytest

from connectors.clickhouse.schema import FILES, FOLDER, Column, Kind, Statement, load, statements
from connectors.clickhouse.store import Store
from kernels.records import STATISTICS


def test_comments_strings_and_semicolons_are_told_apart() -> None:
    text = "-- one; two\nSELECT 'a;b -- c', 'it''s', 1 - 2; -- end\n\nSELECT 3;\n"
    assert list(statements(text)) == ["SELECT 'a;b -- c', 'it''s', 1 - 2", "SELECT 3"]


def test_every_file_of_the_folder_is_applied() -> None:
    assert {file.name for file in FOLDER.glob("*.sql")} == set(FILES)


def test_each_table_and_view_is_declared_once() -> None:
    made = (Kind.TABLE, Kind.VIEW, Kind.MATERIALIZED)
    names = [each.name for each in load().statements if each.kind in made]
    assert len(names) == len(set(names)) == len(load().objects)


def test_a_statement_uses_only_what_stands_before_it() -> None:
    known: set[str] = set()
    for statement in load().statements:
        if statement.kind is Kind.VIEW:
            assert set(load().views[statement.name]) <= known
            assert load().views[statement.name] or "system.tables" in statement.text
        elif statement.kind is not Kind.DROP:
            assert {statement.other} - {""} <= known
        known.add(statement.name)


def test_a_column_is_read_part_by_part() -> None:
    text = "a Enum8('x, (y)' = 1) DEFAULT 'x, (y)' COMMENT 'it''s; CODEC(x)' CODEC(Delta, ZSTD(1))"
    column = Column.read(text)
    assert (column.name, column.type, column.default) == ("a", "Enum8('x, (y)' = 1)", "'x, (y)'")
    assert (column.comment, column.codec) == ("it's; CODEC(x)", "Delta, ZSTD(1)")
    assert Column.read("b Bool COMMENT 'b'") == Column("b Bool COMMENT 'b'", "b", "Bool", "", "b", "")
    with pytest.raises(ValueError, match="not declared as name, type, DEFAULT, COMMENT, CODEC: c Bool"):
        Column.read("c Bool")


def test_a_statement_of_no_known_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="a statement that the schema does not use: OPTIMIZE TABLE bars"):
        Statement.read("OPTIMIZE TABLE bars")


def test_the_statistics_of_the_records_are_those_of_the_tables(tmp_path: Path) -> None:
    """A list of statistics is in `kernels.records`; test_alert_rules compares the checks with it."""
    kinds = "SELECT name FROM system.columns WHERE database = 'pairflow' AND table = {t:String}"
    with Store.open(f"chdb://{tmp_path}/store", source="binance") as store:
        for table in (
            "stored_pair_metrics",
            "stored_latest_pair_metrics",
            "pair_metrics",
            "latest_pair_metrics",
        ):
            found = store.query(f"{kinds} AND type = 'Float64'", {"t": table})
            assert sorted(name for (name,) in found) == sorted(STATISTICS)
