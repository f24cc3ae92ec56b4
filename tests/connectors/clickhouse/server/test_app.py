"""SQL over HTTP: a client is answered as by a ClickHouse server. Start, stop, and a port that is taken."""

import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError

from connectors.clickhouse.server import EmbeddedServer
from connectors.clickhouse.store import Store, StoreError
from tests.support.embedded_server import SLOW, TRADES, ask, wait_for_queries
from tests.support.processes import finish, running, store_statements, wait_for_line


def test_curl_asks_by_get_and_by_post(server: EmbeddedServer) -> None:
    assert ask(server, "SELECT count() FROM trades")[2] == b"200000\n"
    assert ask(server, b"", query="SELECT count() FROM pairflow.trades")[2] == b"200000\n"
    assert ask(server, "FROM trades", query="SELECT count()")[2] == b"200000\n"


def test_parameters_are_bound_by_name(server: EmbeddedServer) -> None:
    sql = "SELECT price FROM trades WHERE symbol = {s:String} AND id = {id:Int64}"
    assert ask(server, sql, param_s="BTCUSDT", param_id=64)[2] == b"101\n"
    assert ask(server, "SELECT {a:Array(String)}", param_a="['it\\'s','x']")[2] == b"['it\\'s','x']\n"


@pytest.mark.parametrize("form", ["TabSeparated", "JSON", "Native", "CSVWithNames", "JSONEachRow", "Parquet"])
@pytest.mark.parametrize(
    ("sql", "part"),
    [
        ("SHOW TABLES", b"trades"),
        ("SHOW DATABASES", b"pairflow"),
        ("SHOW CREATE TABLE trades", b"FINAL"),
        ("SHOW COLUMNS FROM trades", b"buyer_is_maker"),
        ("DESCRIBE trades", b"buyer_is_maker"),
        ("EXPLAIN SELECT 1", b"ReadFromSystemOne"),
        ("(SELECT 1 AS one) UNION ALL (SELECT 2)", b""),
        ("WITH 1 AS x SELECT x AS one", b""),
        ("(SELECT 1 AS one) EXCEPT (SELECT 2)", b""),
    ],
)
def test_everything_that_only_looks_is_answered(
    server: EmbeddedServer, sql: str, part: bytes, form: str
) -> None:
    status, _, body = ask(server, sql, default_format=form, client_protocol_version=54460)
    assert status == 200, body
    assert part in body or form == "Parquet"
    assert ask(server, "EXISTS TABLE trades", default_format=form)[0] == 200


def test_the_query_names_its_format_or_the_client_does(server: EmbeddedServer) -> None:
    status, headers, body = ask(server, "SELECT 1 AS x FORMAT CSVWithNames", default_format="JSON")
    assert (status, body) == (200, b'"x"\n1\n')
    assert headers["X-ClickHouse-Format"] == "CSVWithNames"
    assert headers["Content-Type"].startswith("text/csv")
    _, headers, body = ask(server, "SELECT 1 AS x -- the end", default_format="JSONEachRow")
    assert body == b'{"x":1}\n'
    assert headers["X-ClickHouse-Query-Id"]
    assert headers["X-ClickHouse-Timezone"]


def test_health_is_answered_like_a_server(server: EmbeddedServer) -> None:
    for path in ("/ping", "/replicas_status", "/"):
        with urllib.request.urlopen(f"http://{server.host}:{server.port}{path}") as response:
            assert response.read() == b"Ok.\n"


@pytest.mark.parametrize(
    ("sql", "status", "code"),
    [("SELEC 1", 400, 62), ("SELECT nope FROM trades", 404, 47), ("SELECT * FROM nope", 404, 60)],
)
def test_errors_carry_the_code_of_clickhouse(
    server: EmbeddedServer, sql: str, status: int, code: int
) -> None:
    got, headers, body = ask(server, sql)
    assert (got, headers["X-ClickHouse-Exception-Code"]) == (status, str(code))
    assert body.decode().startswith(f"Code: {code}. DB::Exception: ")
    assert b"formatQuery" not in body


def test_a_long_answer_comes_in_pieces_and_whole(server: EmbeddedServer) -> None:
    _, headers, body = ask(server, "SELECT id FROM trades ORDER BY id FORMAT CSVWithNamesAndTypes")
    assert headers["Transfer-Encoding"] == "chunked"
    lines = body.splitlines()
    assert lines[:2] == [b'"id"', b'"Int64"']
    assert [int(line) for line in lines[2:]] == list(range(TRADES))


def test_an_error_in_the_middle_of_an_answer_is_not_taken_for_its_end(client: Client) -> None:
    sql = "SELECT throwIf(number = 3000000, 'on the way') FROM numbers(5000000)"
    with pytest.raises(ClickHouseError, match="on the way"), client.query_row_block_stream(sql) as blocks:
        for _ in blocks:
            pass


def test_a_taken_port_is_one_clear_line(folder: Path, server: EmbeddedServer) -> None:
    with Store.open(f"chdb://{folder}/store") as store:
        second = EmbeddedServer(store, port=server.port)
        with pytest.raises(StoreError, match=rf"{server.port}.*another program may be using the port"):
            second.start()
        second.stop()
    assert ask(server, "SELECT 1")[2] == b"1\n"


def test_a_server_stops_at_once_in_the_middle_of_a_query(folder: Path, server: EmbeddedServer) -> None:
    with Store.open(f"chdb://{folder}/store") as store, ThreadPoolExecutor() as pool:
        other = EmbeddedServer(store, port=0)
        other.start()
        pool.submit(ask, other, SLOW)
        wait_for_queries(server, 1)
        start = time.monotonic()
        other.stop()
        assert time.monotonic() - start < 30  # the query's own limit is a minute


def test_commands_ask_the_process_that_has_the_folder_open(
    server: EmbeddedServer, folder: Path, tmp_path: Path
) -> None:
    def command(*arguments: str, url: str = f"http://{server.host}:{server.port}") -> tuple[int, str, str]:
        line = [
            sys.executable,
            "-m",
            "connectors.clickhouse",
            *arguments,
            "--store",
            f"chdb://{folder}/store",
        ]
        environment = {**os.environ, "PAIRFLOW_SERVER_URL": url}
        done = subprocess.run(line, capture_output=True, text=True, env=environment, check=False)
        return done.returncode, done.stdout, done.stderr

    assert command("sql", "SELECT count() AS n FROM trades") == (0, f"n\n{TRADES}\n", "")
    assert command("sql", "INSERT INTO alert_rules (note, threshold) VALUES ('by command', 3)") == (0, "", "")
    assert command("sql", "SELECT threshold FROM alert_rules") == (0, "threshold\n3\n", "")
    assert command("sql", "DELETE FROM alert_rules WHERE note = 'by command'") == (0, "", "")
    assert command("sql", "SELECT count() AS n FROM alert_rules") == (0, "n\n0\n", "")
    code, _, line = command("sql", "INSERT INTO runs (source) VALUES ('x')")
    assert (code, "INSERT is not allowed, save of literals into alert_rules" in line, line.count("\n")) == (
        1,
        True,
        1,
    )
    file = tmp_path / "trades.parquet"
    assert command("export", "trades", "--symbol", "BTCUSDT", "-o", str(file))[0] == 0
    assert pq.read_table(file)["id"].to_pylist() == list(range(TRADES))
    code, _, line = command("sql", "SELECT 1", url="http://127.0.0.1:1")
    assert (code, "in use by another process" in line, line.count("\n")) == (1, True, 1)


def test_a_store_is_served_without_the_flow(tmp_path: Path) -> None:
    path = str(tmp_path / "store")
    store_statements(tmp_path / "store")  # makes an empty store
    line = [sys.executable, "-m", "connectors.clickhouse", "serve", path, "--port", "0"]
    with running(*line) as serving:
        found = re.search(r"on (http://127\.0\.0\.1:\d+)", wait_for_line(serving))
        assert found is not None
        with urllib.request.urlopen(f"{found[1]}/?query=SELECT+count()+FROM+bars") as response:
            assert response.read() == b"0\n"
        serving.terminate()
        finish(serving)
