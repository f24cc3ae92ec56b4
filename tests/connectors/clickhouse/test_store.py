"""The store: created, upgraded, refused with one clear line; every row counted once."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import chdb
import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from connectors.clickhouse import __main__ as commands
from connectors.clickhouse.alert_rules import CONDITIONS, AlertRule
from connectors.clickhouse.sink import Columns
from connectors.clickhouse.store import Dsn, Store, StoreError, StoreInUseError
from kernels.records import BAR, GAP, METRIC, SECOND, SIGNAL, STATISTICS, TRADE
from tests.support.processes import finish, running, wait_for_line

COLUMNS = Columns(market="spot", source="binance", symbols=["BTCUSDT", "ETHUSDT"], pairs=["ETHUSDT/BTCUSDT"])


@pytest.fixture
def dsn(tmp_path: Path) -> str:
    return f"chdb://{tmp_path}/store"


def trades(count: int, *, first: int = 0) -> pa.Table:
    rows = np.zeros(count, TRADE)
    rows["id"] = rows["first_id"] = rows["last_id"] = np.arange(first, first + count)
    rows["time"] = 1_700_000_000_000_000 + rows["id"] * 1_000
    rows["price"] = 100 + rows["id"] / 64
    return COLUMNS("trades", rows)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("chdb:///var/lib/pairflow", Dsn("pairflow", path="/var/lib/pairflow")),
        ("chdb:///no%20such/folder", Dsn("pairflow", path="/no such/folder")),
        ("chdb:///with%20escape", Dsn("pairflow", path="/with%20escape")),
        ("chdb:///it's #1/data", Dsn("pairflow", path="/it's #1/data")),
        ("clickhouse://h", Dsn("pairflow", host="h", port=8123)),
        ("clickhouse://u:p%40@h:9/db", Dsn("db", host="h", port=9, user="u", password="p@")),
        ("clickhouses://h/db", Dsn("db", host="h", port=8443, secure=True)),
    ],
)
def test_a_dsn_is_read(text: str, expected: Dsn) -> None:
    assert Dsn.parse(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "data", "chdb://data", "chdb:///", "chdb://memory", "chdb:///a?x=1", "postgres://h/db", "clickhouse:///db",
     "clickhouse://h:port/db", "clickhouse://h/db; DROP DATABASE x"],
)  # fmt: skip
def test_a_wrong_dsn_is_one_clear_line(text: str) -> None:
    with pytest.raises(StoreError, match=r"expected chdb:///path/to/folder or clickhouse://") as caught:
        Dsn.parse(text)
    assert "\n" not in str(caught.value)


def test_a_password_is_shown_nowhere() -> None:
    assert "hush" not in str(Dsn.parse("clickhouse://u:hush@h/db"))
    with pytest.raises(StoreError) as caught:
        Store.open("clickhouse://u:hush@127.0.0.1:1/db")
    assert "hush" not in str(caught.value)


def test_a_new_store_has_every_table_and_every_column_is_explained(dsn: str) -> None:
    with Store.open(dsn, source="binance") as store:
        names = {
            name for (name,) in store.query("SELECT name FROM system.tables WHERE database = 'pairflow'")
        }
        assert {"trades", "bars", "pair_metrics", "signals", "gaps", "alert_rules", "runs"} <= names
        for named in ("table, name FROM system.columns", "name, engine FROM system.tables"):
            sql = f"SELECT {named} WHERE database = 'pairflow' AND comment = ''"
            # Users do not read the views that fill tables.
            assert [row for row in store.query(sql) if not row[0].startswith("fill_")] == []


def test_names_that_users_rely_on_are_there(dsn: str) -> None:
    with Store.open(dsn, source="binance") as store:
        for sql in (
            "market, symbol, id, time, price, quantity, buyer_is_maker FROM trades",
            "market, symbol, timeframe, open_time, open, high, low, close, volume, quote_volume, trades,"
            " taker_buy_volume, taker_buy_quote_volume, first_id, last_id FROM bars",
            "market, pair, timeframe, window, method, time, hedge_ratio, intercept, spread, z_score,"
            " correlation, return_correlation, adf_statistic, adf_p_value, half_life FROM pair_metrics",
            "market, pair, timeframe, window, method, time, signal, z_score, hedge_ratio FROM signals",
            "* FROM gaps",
            "* FROM alert_rules",
        ):
            assert store.query(f"SELECT {sql}") == []
        times = {"trades": "time", "bars": "open_time", "pair_metrics": "time", "signals": "time"}
        for table, time in times.items():
            sql = "SELECT type FROM system.columns WHERE database = 'pairflow'"
            sql += " AND table = {t:String} AND name = {n:String}"
            assert store.query(sql, {"t": table, "n": time}) == [("DateTime64(6, 'UTC')",)]


def test_every_field_of_the_records_is_stored(dsn: str) -> None:
    renamed = {"pair", "symbol", "method", "signal", "cause", "repair"}
    with Store.open(dsn, source="binance") as store:
        for table, dtype in (
            ("trades", TRADE), ("bars", BAR), ("pair_metrics", METRIC), ("signals", SIGNAL), ("gaps", GAP)
        ):  # fmt: skip
            rows = np.zeros(1, dtype)
            store.insert(f"stored_{table}", COLUMNS(table, rows))
            stored = dict(zip(*_row(store, table), strict=True))
            assert set(dtype.names or ()) <= set(stored)
            assert all(isinstance(stored[name], str) for name in renamed & set(stored))
        assert set(COLUMNS("pair_metrics", np.zeros(1, METRIC)).column_names) == set(
            _row(store, "pair_metrics")[0]
        )


def _row(store: Store, table: str) -> tuple[tuple[str, ...], tuple[object, ...]]:
    result = store.client.query(f"SELECT * FROM {table} LIMIT 1")
    return result.column_names, tuple(result.result_rows[0])


def test_numbers_come_back_bit_for_bit(dsn: str) -> None:
    rows = np.zeros(6, METRIC)
    rows["time"] = np.arange(6)
    rows["z_score"] = [0.1 + 0.2, -0.0, np.nan, np.inf, -np.inf, 5e-324]
    with Store.open(dsn, source="binance") as store:
        store.insert("stored_pair_metrics", COLUMNS("pair_metrics", rows))
        back = [z for (z,) in store.query("SELECT z_score FROM pair_metrics ORDER BY time")]
    assert np.array(back).tobytes() == rows["z_score"].tobytes()


def test_no_reader_ever_counts_a_row_twice(dsn: str, tmp_path: Path) -> None:
    with Store.open(dsn, source="binance") as store:
        store.client.command("SYSTEM STOP MERGES")
        for first in (0, 500, 0):
            store.insert("stored_trades", trades(1_000, first=first))
        assert store.query("SELECT count(), uniqExact(id), sum(id) FROM trades") == [
            (1500, 1500, 1500 * 1499 // 2)
        ]
        # Any other client of the folder, too.
        connection = chdb.connect(f"{tmp_path}/store")  # type: ignore[no-untyped-call]
        assert connection.query("SELECT count() FROM pairflow.trades", "TSV").bytes() == b"1500\n"
        assert (
            connection.query("SELECT count() FROM pairflow.trades WHERE id >= 500", "TSV").bytes()
            == b"1000\n"
        )
        connection.close()


@pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="this system has no such scheduling")
def test_merges_run_where_a_core_is_idle(dsn: str) -> None:
    with Store.open(dsn, source="binance") as store:
        store.insert("stored_trades", trades(10))
        names = {int(task.name): (task / "comm").read_text() for task in Path("/proc/self/task").iterdir()}
        merging = [thread for thread, name in names.items() if name.startswith("MergeMutate")]
        assert merging
        assert {os.sched_getscheduler(thread) for thread in merging} == {os.SCHED_IDLE}


def test_a_later_version_replaces_and_an_earlier_one_does_not(dsn: str) -> None:
    bars = np.zeros(3, BAR)
    bars["open_time"], bars["timeframe"] = 60_000_000, 60_000_000
    bars["version"], bars["close"] = [2, 3, 1], [20, 30, 10]
    with Store.open(dsn, source="binance") as store:
        for i in range(3):
            store.insert("stored_bars", COLUMNS("bars", bars[i : i + 1]))
        assert store.query("SELECT close, version, timeframe FROM bars") == [(30.0, 3, "1m")]


def test_the_newest_statistics_are_whole_rows(dsn: str) -> None:
    """A column added to one table and not to the other, or not to the view between, would be empty there."""
    listed = "SELECT name, type, position FROM system.columns WHERE table = {t:String} ORDER BY position"
    with Store.open(dsn, source="binance") as store:
        columns, newest = (
            store.query(listed, {"t": table})
            for table in ("stored_pair_metrics", "stored_latest_pair_metrics")
        )
        assert columns == newest
        structure = ", ".join(f"`{name}` {kind}" for name, kind, _ in columns)
        store.client.command(
            "INSERT INTO stored_pair_metrics SELECT * FROM generateRandom({s:String}, 1, 9) LIMIT 5",
            {"s": structure},
        )
        rows = "SELECT toString(tuple(*)) AS row FROM {} ORDER BY row"
        stored = store.query(rows.format("stored_pair_metrics"))
        assert len(stored) == 5
        assert store.query(rows.format("stored_latest_pair_metrics")) == stored


def test_of_an_insert_the_newest_row_in_its_newest_version_is_the_latest(dsn: str) -> None:
    metrics = np.zeros(6, METRIC)
    metrics["window"] = [60, 60, 60, 60, 300, 300]
    metrics["time"] = 1_700_000_000_000_000 + SECOND * np.array([1, 3, 3, 2, 2, 1])
    metrics["version"] = [9, 1, 2, 5, 1, 2]
    metrics["z_score"] = [1, 2, 3, 4, 5, 6]
    with Store.open(dsn, source="binance") as store:
        for start in (0, 3):
            store.insert("stored_pair_metrics", COLUMNS("pair_metrics", metrics[start : start + 3]))
        latest = "SELECT window, z_score, version FROM latest_pair_metrics ORDER BY window"
        assert store.query(latest) == [(60, 3.0, 2), (300, 5.0, 1)]
        (written,) = store.query(
            "SELECT sum(rows) FROM system.parts WHERE table = 'stored_latest_pair_metrics'"
        )
        assert written[0] <= 3
        assert store.query("SELECT count() FROM pair_metrics") == [(5,)]


def test_a_gap_that_closed_stays_closed(dsn: str) -> None:
    gap = np.zeros(1, GAP)
    gap["first_id"], gap["last_id"], gap["detected"] = 10, 19, 1_700_000_000_000_000
    closed = gap.copy()
    closed["repaired"], closed["restored"], closed["repair"] = 1_700_000_001_000_000, 10, 1
    with Store.open(dsn, source="binance") as store:
        store.insert("stored_gaps", COLUMNS("gaps", gap))
        assert store.query("SELECT missing, restored, repair, repaired IS NULL FROM gaps") == [
            (10, 0, "open", 1)
        ]
        for rows in (closed, gap):  # the open one once more, as after a restart
            store.insert("stored_gaps", COLUMNS("gaps", rows))
        assert store.query("SELECT missing, restored, repair, repaired IS NULL FROM gaps") == [
            (10, 10, "rest", 0)
        ]


def test_conditions_on_the_key_reach_the_index_through_the_view(dsn: str) -> None:
    with Store.open(dsn, source="binance") as store:
        for first in range(0, 100_000, 20_000):
            store.insert("stored_trades", trades(20_000, first=first))
        sql = "EXPLAIN indexes = 1 SELECT price FROM trades"
        sql += " WHERE market = 'spot' AND symbol = 'BTCUSDT' AND id = 70000"
        plan = "\n".join(line for (line,) in store.query(sql))
        assert "Granules: 1/" in plan


def test_a_store_holds_real_or_simulated_prices_never_both(dsn: str) -> None:
    with Store.open(dsn, source="simulator") as store:
        columns = Columns(market="spot", source="simulator", symbols=["BTCUSDT"], pairs=[])
        store.insert("stored_bars", columns("bars", np.zeros(1, BAR)))
    with pytest.raises(StoreError, match=r"simulated prices.*'binance'.*real prices.*PAIRFLOW_CLICKHOUSE"):
        Store.open(dsn, source="binance")
    with Store.open(dsn, source="simulator") as store:
        assert store.query("SELECT count() FROM bars") == [(1,)]
    Store.open(dsn).close()  # reading asks no source


def test_live_recorded_and_archived_prices_may_be_together(dsn: str) -> None:
    with Store.open(dsn, source="archive") as store:
        store.insert("stored_trades", trades(10))
    for source in ("binance", "recording"):
        Store.open(dsn, source=source).close()


def test_what_does_not_exist_is_not_created_for_a_reader(dsn: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no store in"):
        Store.open(dsn, create=False)
    assert not (tmp_path / "store").exists()


def test_a_folder_in_use_is_one_clear_line_and_free_after_close(dsn: str) -> None:
    code = "import sys; from connectors.clickhouse.store import Store; Store.open(sys.argv[1]).close()"
    other = [sys.executable, "-c", code, dsn]
    with Store.open(dsn, source="binance"):
        done = subprocess.run(other, capture_output=True, text=True, check=False)
        assert "StoreInUseError" in done.stderr
        assert "in use by another process" in done.stderr.splitlines()[-1]
        Store.open(dsn).close()  # this process may open it again
    assert subprocess.run(other, capture_output=True, check=False).returncode == 0


@contextmanager
def held_by_another_process(dsn: str) -> Iterator[None]:
    """Let another process have a store open while the block runs."""
    code = (
        "import sys; from connectors.clickhouse.store import Store\n"
        "with Store.open(sys.argv[1]): print('open', flush=True); sys.stdin.read()"
    )
    with running(sys.executable, "-c", code, dsn, piped=True) as other:
        wait_for_line(other, "open")
        yield
        finish(other)


def test_a_folder_held_by_another_process_is_refused(dsn: str) -> None:
    with held_by_another_process(dsn), pytest.raises(StoreInUseError):
        Store.open(dsn)
    Store.open(dsn).close()


def test_a_path_that_is_no_folder_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="is a file"):
        Store.open(f"chdb://{tmp_path}/file")
    with pytest.raises(StoreError, match="cannot be written"):
        Store.open("chdb:///proc/nowhere")


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(StoreError, match="cannot be written"):
        Store.open(f"chdb://{tmp_path}/locked")


def test_an_unreachable_server_is_one_clear_line() -> None:
    with pytest.raises(StoreError, match=r"no answer from ClickHouse at 127\.0\.0\.1:1/db") as caught:
        Store.open("clickhouse://u@127.0.0.1:1/db")
    assert "\n" not in str(caught.value)


def test_a_run_is_written_down(dsn: str) -> None:
    with Store.open(dsn, source="binance") as store:
        run = store.record_run(
            source="binance",
            market="spot",
            symbols=["BTCUSDT"],
            pairs=[],
            settings={"windows": [20], "x": None},
        )
        sql = "SELECT toString(run), symbols, JSONExtractString(settings, 'windows'), pid FROM runs"
        assert store.query(sql)[0][:2] == (run, ["BTCUSDT"])


def test_views_answer_common_questions(dsn: str) -> None:
    minute = 60_000_000
    bars = np.zeros(4, BAR)
    bars["open_time"], bars["timeframe"] = 1_700_000_040_000_000 + np.arange(4) * minute, minute
    bars["open"] = bars["high"] = bars["low"] = bars["close"] = [100, 110, 99, 99]
    bars["trades"], bars["volume"], bars["quote_volume"] = [2, 3, 1, 0], [1, 1, 2, 0], [100, 110, 198, 0]
    bars["first_id"], bars["last_id"] = [1, 3, 7, -1], [2, 5, 7, -1]  # id 6 is missing
    metrics = np.zeros(4, METRIC)
    metrics["time"], metrics["timeframe"] = bars["open_time"], minute
    metrics["z_score"] = [9, 1, 3, -2.5]
    metrics["window"] = [20, 20, 50, 20]
    with Store.open(dsn, source="binance") as store:
        store.insert("stored_bars", COLUMNS("bars", bars))
        for order in ([3, 1, 2], [0]):  # the last to come is not the latest
            store.insert("stored_pair_metrics", COLUMNS("pair_metrics", metrics[order]))
        assert store.query(
            "SELECT window, z_score, behind_seconds FROM latest_pair_metrics ORDER BY window"
        ) == [
            (20, -2.5, 0),
            (50, 3.0, 60),
        ]
        assert store.query("SELECT return FROM bar_returns WHERE symbol = 'BTCUSDT' ORDER BY open_time") == [
            (None,),
            (110 / 100 - 1,),
            (99 / 110 - 1,),
            (0.0,),
        ]
        sql = "SELECT bars, last_price, trade_count, vwap FROM symbol_statistics"
        assert store.query(sql) == [(4, 99.0, 6, 408 / 4)]
        sql = "SELECT bars, bars_without_trades, lowest_id, highest_id, missing_ids FROM data_quality"
        assert store.query(sql) == [(4, 1, 1, 7, 1)]
        assert store.query("SELECT window, rank FROM pair_ranking ORDER BY window") == [(20, 1), (50, 1)]


def test_statistics_of_a_symbol_are_those_of_scipy(dsn: str) -> None:
    close = 100 * np.exp(np.random.default_rng(1).standard_t(4, 500).cumsum() / 100)
    bars = np.zeros(500, BAR)
    bars["open_time"], bars["timeframe"] = 1_700_006_400_000_000 + np.arange(500) * 60_000_000, 60_000_000
    bars["open"] = bars["high"] = bars["low"] = bars["close"] = close
    older = bars[:1].copy()
    older["open_time"] -= 86_400_000_000 * 2  # before the last 24 hours
    returns = np.diff(np.log(close))
    expected = (
        *(500, returns.mean(), returns.std(ddof=1), stats.skew(returns), stats.kurtosis(returns)),
        *(np.expm1(returns.min()), np.expm1(returns.max()), 100 * (close[-1] / close[0] - 1)),
    )
    columns = "bars, mean_log_return, volatility, skewness, excess_kurtosis, worst_return, best_return"
    with Store.open(dsn, source="binance") as store:
        for rows in (bars, older):
            store.insert("stored_bars", COLUMNS("bars", rows))
        (row,) = store.query(f"SELECT {columns}, price_change_percent FROM symbol_statistics")
        assert row == pytest.approx(expected, rel=1e-9)
        # The price of the older bar is that of the first: no return between them.
        sql = "SELECT sum(realised_volatility * realised_volatility) FROM daily_statistics"
        assert store.query(sql)[0][0] == pytest.approx((returns**2).sum())


def test_alert_rules_are_written_with_sql_and_judged_by_a_view(dsn: str) -> None:
    metrics = np.zeros(5, METRIC)
    metrics["time"], metrics["timeframe"] = 1_700_000_000_000_000 + np.arange(5) * 1_000_000, 1_000_000
    metrics["window"], metrics["z_score"] = 20, [1, -3, -3, -3, -3]
    metrics["correlation"] = np.nan
    with Store.open(dsn, source="binance") as store:
        store.insert("stored_pair_metrics", COLUMNS("pair_metrics", metrics))
        for row in (
            "(name, threshold) VALUES ('now', 2.5)",
            "(name, threshold, for_seconds) VALUES ('three seconds', 2.5, 3)",
            "(name, threshold, for_seconds) VALUES ('four seconds', 2.5, 4)",
            "(name, pair, threshold) VALUES ('other pair', 'A/B', 2.5)",
            "(name, condition, threshold) VALUES ('above', '>', 2.5)",
            "(name, metric, condition, threshold) VALUES ('undefined', 'correlation', '<', 0.5)",
            "(name, threshold, enabled) VALUES ('off', 2.5, false)",
        ):
            store.client.command(f"INSERT INTO alert_rules {row}")
        firing = dict(store.query("SELECT name, firing FROM alert_states"))
        assert firing == {"now": 1, "three seconds": 1, "four seconds": 0, "above": 0, "undefined": 0}
        assert store.query("SELECT DISTINCT value FROM alert_states WHERE name = 'now'") == [(-3.0,)]
        for wrong in ("(metric) VALUES ('zscore')", "(condition) VALUES ('!')"):
            with pytest.raises(Exception, match=r"known_metric|Unknown element"):
                store.client.command(f"INSERT INTO alert_rules {wrong}")


def test_rules_of_the_settings_come_and_go_and_leave_those_of_users(dsn: str) -> None:
    first = AlertRule(pair="B/A", metric="hedge_ratio_stderr", condition=">", threshold=0.5)
    second = AlertRule(pair="B/A", threshold=2.5)

    def kept() -> dict[float, Any]:
        return dict(store.query("SELECT threshold, id FROM alert_rules WHERE origin = 'settings'"))

    with Store.open(dsn, source="binance") as store:
        store.client.command("INSERT INTO alert_rules (threshold) VALUES (1)")
        store.keep_rules([first, second])
        both = kept()
        assert sorted(both) == [0.5, 2.5]
    with Store.open(dsn, source="binance") as store:
        store.keep_rules([AlertRule(threshold=2.5, pair="B/A")])
        assert kept() == {2.5: both[2.5]}
        store.keep_rules([second, first])
        assert kept() == both
        store.keep_rules([])
        assert store.query("SELECT threshold, origin FROM alert_rules") == [(1.0, "user")]


def test_every_statistic_can_be_watched(dsn: str) -> None:
    metrics = np.zeros(1, METRIC)
    metrics["timeframe"] = 1_000_000
    for number, name in enumerate(STATISTICS):
        metrics[name] = number
    with Store.open(dsn, source="binance") as store:
        store.insert("stored_pair_metrics", COLUMNS("pair_metrics", metrics))
        store.keep_rules(
            [AlertRule(metric=name, condition=condition) for name in STATISTICS for condition in CONDITIONS]
        )
        found = store.query("SELECT DISTINCT metric, value FROM alert_states")
        assert dict(found) == {name: number for number, name in enumerate(STATISTICS)}


def test_commands_answer_from_a_folder(
    dsn: str, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    with Store.open(dsn, source="binance") as store:
        store.insert("stored_trades", trades(1_000))
    assert commands.main(["sql", "--store", dsn, "SELECT count() AS n FROM trades"]) == 0
    assert capsysbinary.readouterr().out == b"n\n1000\n"
    assert commands.main(["sql", "--store", dsn, "SELECT nope"]) == 1
    assert b"Unknown expression identifier `nope`" in capsysbinary.readouterr().err
    export = ["export", "trades", "--store", dsn, "--symbol", "BTCUSDT", "--from", "2023-11-14T22:13:20.5"]
    assert commands.main([*export, "-o", f"{tmp_path}/out.csv"]) == 0
    lines = (tmp_path / "out.csv").read_text().splitlines()
    assert lines[0].startswith('"market","symbol","id","time","price"')
    assert [int(line.split(",")[2]) for line in lines[1:]] == list(range(500, 1000))
    assert commands.main([*export, "-o", f"{tmp_path}/out.parquet"]) == 0
    pq = pytest.importorskip("pyarrow.parquet")
    assert pq.read_table(tmp_path / "out.parquet")["id"].to_pylist() == list(range(500, 1000))
    assert commands.main(["export", "trades", "--store", dsn, "--timeframe", "1m"]) == 1
    assert commands.main(["export", "trades", "--store", dsn, "--from", "yesterday"]) == 1
    assert not list(tmp_path.glob("*.part"))


def test_commands_find_the_store_of_the_demo_where_there_is_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PAIRFLOW_CLICKHOUSE", raising=False)
    sql = "SELECT extract(data_paths[1], '/(data[^/]*)/') FROM system.tables WHERE name = 'runs'"
    for name in ("data-demo", "data"):
        Store.open(f"chdb://{tmp_path}/{name}", source="binance").close()
        assert commands.main(["sql", "--format", "TSV", sql]) == 0
        assert capsysbinary.readouterr().out.decode().strip() == name
    # The flow that runs is meant, which here has no server.
    with held_by_another_process(f"chdb://{tmp_path}/data-demo"):
        monkeypatch.setenv("PAIRFLOW_SERVER_URL", "http://127.0.0.1:9")
        assert commands.main(["sql", "SELECT 1"]) == 1
    assert f"the folder {tmp_path}/data-demo is in use" in capsysbinary.readouterr().err.decode()


def test_commands_find_the_store_of_the_flow(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    Store.open(dsn, source="binance").close()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PAIRFLOW_CLICKHOUSE", raising=False)
    assert commands.main(["sql", "SELECT 1 AS x"]) == 1
    assert f"no store in {tmp_path}/data".encode() in capsysbinary.readouterr().err
    (tmp_path / "pairflow.toml").write_text(f'clickhouse = "{dsn}"\n')
    assert commands.main(["sql", "SELECT 1 AS x"]) == 0
    assert capsysbinary.readouterr().out == b"x\n1\n"
    monkeypatch.setenv("PAIRFLOW_CLICKHOUSE", f"chdb://{tmp_path}/other")
    assert commands.main(["sql", "SELECT 1 AS x"]) == 1
