"""The whole flow, as users run it: in a process of its own, on recordings and on the simulated exchange."""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import clickhouse_connect
import pytest

from tests.support.processes import finish, run_flow, running_flow, wait_for_line

TABLES = {
    "trades": "market, symbol, id",
    "bars": "market, symbol, timeframe, open_time",
    "pair_metrics": "market, pair, timeframe, window, method, time",
    "signals": "market, pair, timeframe, window, method, time",
}


@contextmanager
def opened(folder: Path) -> Iterator[Callable[[str], list[Any]]]:
    """Open the store of a run that has ended, as any program would."""
    client = clickhouse_connect.get_client(dsn=f"chdb://{folder}")
    try:
        client.database = "pairflow"
        yield lambda sql: list(client.query(sql).result_rows)
    finally:
        client.close()


def contents(folder: Path) -> dict[str, list[Any]]:
    """Return every row that a reader sees, NaN as text so that rows compare."""
    with opened(folder) as query:
        return {
            table: query(f"SELECT toString(tuple(*)) FROM {table} ORDER BY {key}")
            for table, key in TABLES.items()
        }


@pytest.fixture(scope="session")
def replayed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over the USD-M recordings, from beginning to end."""
    folder = tmp_path_factory.mktemp("replayed") / "data"
    rules = '[{"metric": "adf_p_value", "condition": ">", "threshold": 0.1, "window": 60}]'
    source = f"recording:{data / 'recorded' / 'usdm'}"
    run_flow(folder, SOURCE=source, MARKET="usdm", ALERT_RULES=rules)
    return folder


def test_a_recording_is_stored_whole_and_the_flow_ends_by_itself(
    replayed: Path, klines: dict[str, list[dict[str, str]]]
) -> None:
    with opened(replayed) as query:
        counts = query(
            "SELECT symbol, count(), uniqExact(id), max(id) - min(id) + 1 FROM trades GROUP BY 1 ORDER BY 1"
        )
        assert counts == [("BTCUSDT", 21_313, 21_313, 21_313), ("ETHUSDT", 14_076, 14_076, 14_076)]
        for symbol, rows in klines.items():
            whole = rows[2:7]  # 23:55 to 23:59
            bars = query(
                "SELECT toUnixTimestamp64Milli(open_time), open, high, low, close, volume, quote_volume,"
                " trades, taker_buy_volume, taker_buy_quote_volume FROM bars"
                f" WHERE symbol = '{symbol}' AND timeframe = '1m' AND NOT provisional ORDER BY open_time"
            )
            names = ["open", "high", "low", "close", "volume", "quote_volume", "trades"]
            names += ["taker_buy_volume", "taker_buy_quote_volume"]
            assert bars == [(int(row["open_time"]), *(float(row[name]) for name in names)) for row in whole]
        assert query("SELECT count() FROM bars WHERE timeframe = '5m'") == [(4,)]
        assert query("SELECT DISTINCT source, market FROM pair_metrics") == [("recording", "usdm")]
        rules = query("SELECT metric, toString(condition), threshold, window, origin FROM alert_rules")
        assert rules == [("adf_p_value", ">", 0.1, 60, "settings")]


def test_the_same_run_again_changes_no_row(data: Path, replayed: Path) -> None:
    before = contents(replayed)
    run_flow(replayed, SOURCE=f"recording:{data / 'recorded' / 'usdm'}", MARKET="usdm")
    assert contents(replayed) == before
    with opened(replayed) as query:
        assert query("SELECT count() FROM alert_rules") == [(0,)], "the settings have no rules any more"
    assert all(before.values())


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_was_ended_half_way_resumes_to_the_rows_of_one_that_was_not(
    data: Path, replayed: Path, tmp_path: Path, ending: signal.Signals
) -> None:
    recovery = ["-r", str(tmp_path / "state"), "-s", "1", "-b", "0"]
    (tmp_path / "state").mkdir()
    subprocess.run([sys.executable, "-m", "bytewax.recovery", tmp_path / "state", "1"], check=True)
    settings = {"SOURCE": f"recording:{data / 'recorded' / 'usdm'}", "MARKET": "usdm"}
    store = tmp_path / "data"
    paced = {"REPLAY_SPEED": "60", "STATUS_INTERVAL": "100ms"}
    with running_flow(store, *recovery, **paced, **settings) as process:
        wait_for_line(process, "23:57")  # market time, in the status line
        process.send_signal(ending)
        finish(process, 0 if ending == signal.SIGTERM else -ending)
    half = contents(store)
    whole = contents(replayed)
    for table, rows in half.items():
        assert set(rows) <= set(whole[table]), table  # no open bar was emitted as if closed
        assert len(rows) < len(whole[table]), table
    run_flow(store, *recovery, **settings)
    resumed = contents(store)
    for table, rows in whole.items():
        assert resumed[table] == rows, table


def test_simulated_prices_are_stored_as_such_and_never_beside_real_ones(data: Path, tmp_path: Path) -> None:
    settings = {"SYMBOLS": "BTCUSDT,ETHUSDT,SOLUSDT", "TIMEFRAMES": "tick,1s"}
    settings |= {"SOURCE": "simulator", "STATUS_INTERVAL": "200ms", "Z_WINDOW": "2", "WINDOWS": "3"}
    store = tmp_path / "data"
    with running_flow(store, **settings) as process:
        lines = wait_for_line(process, " z ").splitlines()
        assert all(line.startswith("SIMULATED PRICES") for line in lines), lines
        process.send_signal(signal.SIGINT)
        finish(process)
    with opened(store) as query:
        assert query("SELECT DISTINCT source FROM trades") == [("simulator",)]
        counts = query("SELECT count(), uniqExact(id), max(id) - min(id) + 1 FROM trades GROUP BY symbol")
        assert len(counts) == 3
        assert all(rows == ids == span for rows, ids, span in counts)
        assert query("SELECT uniqExact(pair) FROM pair_metrics WHERE timeframe = '1s'") == [(3,)]
    with running_flow(store, SOURCE=f"recording:{data / 'recorded' / 'usdm'}") as process:
        told = finish(process, 1)
    assert "simulated" in told.splitlines()[-1]


def test_without_a_network_the_flow_says_so_keeps_trying_and_names_the_demo(tmp_path: Path) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        settings = {"WS_URL": f"ws://{address}", "REST_URL": f"http://{address}", "STATUS_INTERVAL": "0"}
        with running_flow(tmp_path / "data", **settings) as process:
            wait_for_line(process, "make demo")
            time.sleep(2)
            assert process.poll() is None
            process.send_signal(signal.SIGTERM)
            assert finish(process).count("make demo") == 0  # said once


@pytest.mark.parametrize(
    ("settings", "code", "said"),
    [
        (
            {"Z_ENTRY": "low", "MARKET": "moon"},
            2,
            ["PAIRFLOW_MARKET=moon: expected", "PAIRFLOW_Z_ENTRY=low: expected"],
        ),
        ({"SOURCE": "recording:/nowhere"}, 1, ["there is no recording /nowhere"]),
        ({"CLICKHOUSE": "clickhouse://me:secret@127.0.0.1:9/db"}, 1, ["127.0.0.1:9"]),
        ({"CLICKHOUSE": "chdb:///proc/nowhere"}, 1, ["/proc/nowhere"]),
    ],
)
def test_a_mistake_of_the_user_is_answered_in_a_line_each(
    tmp_path: Path, settings: dict[str, str], code: int, said: list[str]
) -> None:
    if "SOURCE" not in settings:
        (tmp_path / "empty").write_bytes(b"")
        settings = {"SOURCE": f"recording:{tmp_path / 'empty'}", **settings}
    with running_flow(tmp_path / "data", **settings) as process:
        told = finish(process, code)
    lines = [line for line in told.splitlines() if not line.startswith("compiling kernels")]
    assert len(lines) == len(said), told
    assert all(line.startswith("pairflow: ") for line in lines)
    assert all(part in line for part, line in zip(said, lines, strict=True))
    assert "secret" not in told


def test_a_folder_that_another_process_uses_is_named(data: Path, tmp_path: Path) -> None:
    store = tmp_path / "data"
    with running_flow(store, SOURCE="simulator", STATUS_INTERVAL="100ms") as first:
        wait_for_line(first, "SIMULATED")
        with running_flow(store, SOURCE="simulator") as second:
            assert "in use by another process" in finish(second, 1)
        first.send_signal(signal.SIGTERM)
        finish(first)
