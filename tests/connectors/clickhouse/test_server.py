"""The embedded server: any ClickHouse client may ask; none may change, read or reach more than the store."""

import contextlib
import gzip
import io
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import clickhouse_connect
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError

from connectors.clickhouse import api, framing
from connectors.clickhouse.native import UnknownTypeError, empty_block, reframe
from connectors.clickhouse.schema import SCHEMA
from connectors.clickhouse.server import EmbeddedServer
from connectors.clickhouse.sink import Columns
from connectors.clickhouse.store import Store, StoreError
from kernels.records import BAR, METRIC, SECOND, TRADE

TRADES = 200_000
SECRET = "a line of a file that is nobody's business"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("server")
    (folder / "secret").write_text(SECRET)
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[EmbeddedServer]:
    trades = np.zeros(TRADES, TRADE)
    trades["id"] = trades["first_id"] = trades["last_id"] = np.arange(TRADES)
    trades["time"] = 1_700_000_000_000_000 + trades["id"] * 1_000
    trades["price"] = 100 + trades["id"] / 64
    columns = Columns(market="spot", source="binance", symbols=["BTCUSDT"], pairs=[])
    with Store.open(f"chdb://{folder}/store", source="binance") as store:
        store.insert("stored_trades", columns("trades", trades))
        # What the REST routes know by name.
        store.record_run(
            source="binance",
            market="spot",
            symbols=["BTCUSDT", "ETHUSDT", "AUSDT", "BUSDT", "币安人生USDT"],
            pairs=["ETHUSDT/BTCUSDT", "BUSDT/AUSDT"],
            settings={"timeframes": [0, SECOND, 60 * SECOND], "windows": [20, 50], "methods": ["ols"]},
        )
        server = EmbeddedServer(store, port=0)
        server.start()
        yield server
        server.stop()


@pytest.fixture
def client(server: EmbeddedServer) -> Iterator[Client]:
    with clickhouse_connect.get_client(host=server.host, port=server.port, database="pairflow") as client:
        yield client


def ask(
    server: EmbeddedServer, sql: str | bytes, headers: dict[str, str] | None = None, **parameters: str | int
) -> tuple[int, dict[str, str], bytes]:
    """Send a query as curl does."""
    url = f"http://{server.host}:{server.port}/?{urllib.parse.urlencode(parameters)}"
    data = sql if isinstance(sql, bytes) else sql.encode()
    request = urllib.request.Request(url, data or None, headers or {})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, dict(response.headers), response.read()
    except urllib.error.HTTPError as ex:
        with ex:
            return ex.code, dict(ex.headers), ex.read()


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


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "zstd", "lz4"])
def test_answers_are_compressed_as_the_client_accepts(
    server: EmbeddedServer, client: Client, encoding: str
) -> None:
    for rows in (10, 400_000):  # one answer sent whole, one as it comes
        _, headers, body = ask(server, f"SELECT * FROM numbers({rows})", {"Accept-Encoding": encoding})
        assert headers["Content-Encoding"] == encoding
        assert len(body) < rows * 7
    with clickhouse_connect.get_client(
        host=server.host, port=server.port, compress=encoding if encoding != "deflate" else True
    ) as packed:
        assert packed.query("SELECT sum(number) FROM (SELECT * FROM numbers(1000))").result_rows == [
            (499_500,)
        ]
        assert len(packed.query_np("SELECT * FROM numbers(400000)")) == 400_000


def test_a_compressed_query_is_understood(server: EmbeddedServer) -> None:
    assert ask(server, gzip.compress(b"SELECT 42"), {"Content-Encoding": "gzip"})[2] == b"42\n"


def test_a_long_answer_comes_in_pieces_and_whole(server: EmbeddedServer) -> None:
    _, headers, body = ask(server, "SELECT id FROM trades ORDER BY id FORMAT CSVWithNamesAndTypes")
    assert headers["Transfer-Encoding"] == "chunked"
    lines = body.splitlines()
    assert lines[:2] == [b'"id"', b'"Int64"']
    assert [int(line) for line in lines[2:]] == list(range(TRADES))


def test_clickhouse_connect_reads_every_kind_of_column(server: EmbeddedServer, client: Client) -> None:
    columns = [
        "'a'", "toLowCardinality('b')", "toNullable(toLowCardinality('c'))", "[toLowCardinality('d')]",
        "CAST('e', 'LowCardinality(Nullable(String))')", "[[1], []]", "map('f', [1])", "(1, 'g')", "true",
        "toDecimal128('1.5', 3)", "toUUID(hex)", "nan", "inf", "NULL", "toDate('2024-01-02')",
        "toIPv4('1.2.3.4')", "toDateTime64('2024-01-02 03:04:05.678901', 6, 'UTC')", "toFixedString('hi', 2)",
        "toInt256(7)", "tuple()",
        "CAST('x', 'Enum8(\\'x\\' = 1, \\'y, (z)\\' = 2)')", "CAST((1, 'p'), 'Tuple(a Int8, `b c` String)')",
    ]  # fmt: skip
    sql = f"WITH '00112233-4455-6677-8899-aabbccddeeff' AS hex SELECT {', '.join(columns)} FROM numbers(3)"
    rows = client.query(sql).result_rows
    assert len(rows) == 3
    assert rows[0][:10] == rows[2][:10]
    assert rows[0][5:8] == ([[1], []], {"f": [1]}, (1, "g"))
    # The same again with the newest framing, whose marks stand between the columns.
    newest = ask(server, f"{sql} FORMAT Native", client_protocol_version=54515)[2]
    oldest = ask(server, f"{sql} FORMAT Native")[2]
    assert len(newest) == len(oldest) + 8 + len(columns)


def test_an_empty_answer_still_names_its_columns(client: Client) -> None:
    result = client.query("SELECT symbol, price FROM trades WHERE symbol = 'none'")
    assert (result.result_rows, result.column_names) == ([], ("symbol", "price"))


def test_an_empty_answer_asked_again_names_its_own_columns(server: EmbeddedServer) -> None:
    """What is remembered of the first must not be taken for the second."""
    for sql in (
        "SELECT toDateTime({}) WHERE 0",
        'SELECT 1 AS "{}" WHERE 0',
        'SELECT id AS "{}, a name whose length is that of a letter\'s code" FROM trades WHERE 0',
    ):
        for at in (1_700_000_000, 1_700_000_001):
            body = ask(server, sql.format(at), default_format="Native")[2]
            assert str(at).encode() in body
    typed = "SELECT toDateTime64({}, {}) AS t WHERE 0"
    for at, digits in ((1_700_000_000, 3), (1_700_000_001, 3), (1_700_000_000, 6)):
        body = ask(server, typed.format(at, digits), default_format="Native")[2]
        assert f"DateTime64({digits})".encode() in body


def test_a_long_answer_after_a_short_one_to_the_same_question_is_whole(server: EmbeddedServer) -> None:
    sql = "SELECT id FROM trades ORDER BY id LIMIT {}"
    short = ask(server, sql.format(2), default_format="Native")[2]
    assert ask(server, sql.format(2), default_format="Native")[2] == short
    for settings in ({}, {"result_overflow_mode": "break"}, {"max_result_bytes": 100_000_000}):
        status, _, body = ask(server, sql.format(TRADES), default_format="Native", **settings)
        assert status == 200
        assert len(body) > 8 * TRADES
        assert ask(server, sql.format(2), default_format="Native")[2] == short


def test_a_setting_of_one_query_is_not_the_next_ones(server: EmbeddedServer) -> None:
    sql = "SELECT timezone(), toString(toDateTime(0))"
    utc = ask(server, sql)[2]
    for _ in range(2):
        assert ask(server, sql, session_timezone="Asia/Tokyo")[2] == b"Asia/Tokyo\t1970-01-01 09:00:00\n"
        assert ask(server, sql)[2] == utc
        assert ask(server, "SELECT {a:Int8}", param_a=1)[2] == b"1\n"
        assert ask(server, "SELECT {a:Int8}")[0] != 200
        assert ask(server, "SELECT currentDatabase()", database="default")[2] == b"default\n"
        assert ask(server, "SELECT currentDatabase()")[2] == b"pairflow\n"


def test_an_error_in_the_middle_of_an_answer_is_not_taken_for_its_end(client: Client) -> None:
    sql = "SELECT throwIf(number = 3000000, 'on the way') FROM numbers(5000000)"
    with pytest.raises(ClickHouseError, match="on the way"), client.query_row_block_stream(sql) as blocks:
        for _ in blocks:
            pass


SLOW = "SELECT sum(sipHash64(number)) FROM numbers(100000000000)"


def wait_for_queries(server: EmbeddedServer, count: int) -> None:
    """Wait until so many queries run, this one not counted."""
    deadline = time.monotonic() + 30
    while int(ask(server, "SELECT value FROM system.metrics WHERE metric = 'Query'")[2]) != count + 1:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_slow_query_holds_up_no_other(server: EmbeddedServer) -> None:
    with ThreadPoolExecutor() as pool:
        slow = [pool.submit(ask, server, SLOW, max_execution_time=4) for _ in range(3)]
        wait_for_queries(server, 3)
        assert ask(server, "SELECT 1")[2] == b"1\n"
        assert not any(each.done() for each in slow)
        assert [each.result()[1]["X-ClickHouse-Exception-Code"] for each in slow] == ["159"] * 3


def test_a_client_that_goes_away_ends_its_query(server: EmbeddedServer) -> None:
    body = SLOW.encode()
    with socket.create_connection((server.host, server.port)) as connection:
        connection.sendall(
            b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        wait_for_queries(server, 1)
    wait_for_queries(server, 0)


def test_clients_that_go_away_leave_no_query_behind(server: EmbeddedServer) -> None:
    body = SLOW.encode()
    message = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    with contextlib.ExitStack() as stack:
        for _ in range(20):  # more than there are threads
            stack.enter_context(socket.create_connection((server.host, server.port))).sendall(message)
        time.sleep(1)
    wait_for_queries(server, 0)  # long before their time limit of a minute


def test_memory_and_result_are_limited(server: EmbeddedServer) -> None:
    big = "SELECT groupArray(number) FROM numbers(1000000000)"
    assert ask(server, big, max_memory_usage=50_000_000)[1]["X-ClickHouse-Exception-Code"] == "241"
    # A format that cannot be sent in pieces is made in memory.
    whole = "SELECT * FROM numbers(100000000) FORMAT JSON"
    assert ask(server, whole, max_result_bytes=1_000_000)[1]["X-ClickHouse-Exception-Code"] == "396"
    assert ask(server, "SELECT 1" + " " * 2_000_000)[0] == 413


def test_settings_of_form_may_change_and_limits_may_not_grow(server: EmbeddedServer) -> None:
    sql = "SELECT toDateTime(0, 'UTC') AS t FORMAT JSONEachRow SETTINGS date_time_output_format = 'iso'"
    assert ask(server, sql)[2] == b'{"t":"1970-01-01T00:00:00Z"}\n'
    sql = "SELECT value FROM system.settings WHERE name = {name:String}"
    assert ask(server, sql, param_name="max_execution_time", max_execution_time=10)[2] == b"10\n"
    assert ask(server, sql, param_name="max_execution_time", max_execution_time=0)[2] == b"300\n"
    assert ask(server, sql, param_name="max_memory_usage", max_memory_usage=10**15)[2] <= b"1000000000\n"


def test_a_setting_may_be_named_with_the_value_it_has(server: EmbeddedServer) -> None:
    assert ask(server, "SELECT 1", async_insert=1, allow_ddl="true")[2] == b"1\n"
    assert ask(server, "SELECT 1", allow_ddl=0)[1]["X-ClickHouse-Exception-Code"] == "164"
    assert ask(server, "SELECT 1", no_such_setting=1)[1]["X-ClickHouse-Exception-Code"] == "115"


def test_filters_of_grafana_are_applied(server: EmbeddedServer) -> None:
    filters = "{'pairflow.stored_trades': 'id < 10'}"
    assert ask(server, "SELECT count() FROM stored_trades", additional_table_filters=filters)[2] == b"10\n"
    sql = f"SELECT count() FROM stored_trades SETTINGS additional_table_filters = {filters}"
    assert ask(server, sql)[2] == b"10\n"


HARMFUL = """
SELECT file('{secret}')
SELECT `file`('{secret}')
SELECT FILE('{secret}')
SELECT arrayMap(x -> file(x), ['{secret}'])
SELECT (SELECT file('{secret}'))
WITH (SELECT file('{secret}')) AS x SELECT x
SELECT 1 WHERE file('{secret}') != ''
SELECT 1 ORDER BY file('{secret}')
SELECT count() FROM trades HAVING file('{secret}') != ''
SELECT file($${secret}$$)
SELECT $$'$$ AS a, file('{secret}') AS b, $$'$$ AS c
SELECT file('{secret}') FORMAT Null
SELECT file('{secret}') FORMAT JSON SETTINGS max_threads = 1
DESCRIBE file('{secret}', 'CSV') FORMAT Null
EXPLAIN SELECT file('{secret}') FORMAT Null
SELECT * FROM file('{secret}', 'LineAsString')
SELECT * FROM file('{secret}', LineAsString, 'x String')
DESCRIBE file('{secret}', 'CSV')
DESCRIBE (SELECT * FROM file('{secret}', 'CSV'))
EXPLAIN SELECT file($${secret}$$)
SELECT $$'$$ AS a, file('{secret}') AS b, $$'$$ AS c
SELECT file('{secret}') FORMAT Null
SELECT file('{secret}') FORMAT JSON SETTINGS max_threads = 1
DESCRIBE file('{secret}', 'CSV') FORMAT Null
EXPLAIN SELECT file('{secret}') FORMAT Null
SELECT * FROM file('{secret}', 'LineAsString')
EXPLAIN ESTIMATE SELECT file('{secret}')
EXPLAIN QUERY TREE SELECT file('{secret}')
EXPLAIN SYNTAX SELECT file('{secret}')
SELECT * FROM view(SELECT file('{secret}'))
SELECT 1 UNION ALL SELECT file('{secret}')
(SELECT file('{secret}')) INTERSECT (SELECT file('{secret}'))
SELECT * FROM trades WHERE symbol IN (SELECT file('{secret}'))
SELECT * FROM url('http://127.0.0.1:1/', 'LineAsString')
SELECT * FROM url('file://{secret}', 'LineAsString')
SELECT * FROM s3('http://127.0.0.1:1/bucket/key', 'LineAsString')
SELECT * FROM s3Cluster('default', 'http://127.0.0.1:1/bucket/key')
SELECT * FROM gcs('http://127.0.0.1:1/bucket/key')
SELECT * FROM deltaLake('http://127.0.0.1:1/bucket/key')
SELECT * FROM deltaLakeLocal('/etc')
SELECT * FROM iceberg('http://127.0.0.1:1/bucket/key')
SELECT * FROM icebergLocal('/etc')
SELECT * FROM hudi('http://127.0.0.1:1/bucket/key')
SELECT * FROM azureBlobStorage('x', 'y', 'z')
SELECT * FROM hdfs('hdfs://127.0.0.1:1/a', 'CSV', 'a Int8')
SELECT * FROM remote('127.0.0.1:1', 'system.one')
SELECT * FROM remoteSecure('127.0.0.1:1', 'system.one')
SELECT * FROM cluster('default', system.one)
SELECT * FROM mysql('127.0.0.1:1', 'a', 'b', 'c', 'd')
SELECT * FROM postgresql('127.0.0.1:1', 'a', 'b', 'c', 'd')
SELECT * FROM mongodb('127.0.0.1:1', 'a', 'b', 'c', 'd', 'e Int8')
SELECT * FROM redis('127.0.0.1:1', 'a', 'a Int8, b Int8')
SELECT * FROM sqlite('{folder}/x.db', 'a')
SELECT * FROM odbc('a', 'b', 'c')
SELECT * FROM jdbc('a', 'b', 'c')
SELECT * FROM bigquery('a', 'b', 'c')
SELECT * FROM executable('cat {secret}', 'LineAsString', 'a String')
SELECT * FROM filesystem('/etc')
SELECT * FROM eval('SELECT 1')
SELECT * FROM Python(os)
SELECT * FROM python(server)
SELECT * FROM merge('system', 'processes')
SELECT * FROM loop(trades)
SELECT * FROM dictionary('x')
SELECT dictGet('x', 'y', 1)
SELECT catboostEvaluate('{secret}', 1)
SELECT sleep(3)
SELECT sleepEachRow(1) FROM numbers(3)
SELECT logTrace('x')
SELECT getServerSetting('path')
SELECT aiGenerate('x')
SELECT * FROM system.processes
SELECT * FROM `system`.`processes`
SELECT * FROM system.stack_trace
SELECT * FROM system.user_query_log
SELECT 1 IN system.processes
SELECT (SELECT query FROM system.processes LIMIT 1)
SELECT * FROM system.server_settings
SELECT * FROM system.disks
SELECT * FROM system.named_collections
SELECT * FROM system.users
SELECT * FROM system.jemalloc_profile_text
SHOW PROCESSLIST
SHOW GRANTS
SELECT 1 INTO OUTFILE '{folder}/out'
SELECT 1 INTO/**/OUTFILE '{folder}/out'
SELECT $$'$$ INTO OUTFILE '{folder}/out'
SELECT 1 INTO OUTFILE $${folder}/out$$ FORMAT Null
SHOW TABLES INTO OUTFILE '{folder}/out' FORMAT Null
SELECT 1 into
outfile '{folder}/out' -- comment
SELECT 1 INTO OUTFILE '{folder}/out' TRUNCATE AND STDOUT FORMAT CSV
(SELECT 1) INTO OUTFILE '{folder}/out'
SELECT 1 UNION ALL SELECT 2 INTO OUTFILE '{folder}/out'
EXPLAIN SELECT 1 INTO OUTFILE '{folder}/out'
EXPLAIN AST SELECT 1 INTO OUTFILE '{folder}/out'
SHOW TABLES INTO OUTFILE '{folder}/out'
SHOW CREATE TABLE stored_trades INTO OUTFILE '{folder}/out'
SHOW COLUMNS FROM stored_trades INTO OUTFILE '{folder}/out'
SHOW SETTINGS LIKE 'max%' INTO OUTFILE '{folder}/out'
DESCRIBE trades INTO OUTFILE '{folder}/out'
EXISTS TABLE trades INTO OUTFILE '{folder}/out'
SELECT 1; SELECT 2 INTO OUTFILE '{folder}/out'
SELECT 1; DROP TABLE stored_trades
SELECT 1;;SELECT 2
INSERT INTO stored_trades (id) VALUES (1)
INSERT INTO FUNCTION file('{folder}/out', 'CSV', 'x Int8') SELECT 1
INSERT INTO FUNCTION url('http://127.0.0.1:1/', 'CSV', 'x Int8') SELECT 1
CREATE TABLE x (a Int8) ENGINE = Memory
CREATE TABLE x ENGINE = Memory AS SELECT 1
CREATE TEMPORARY TABLE x (a Int8)
CREATE VIEW x AS SELECT 1
CREATE DATABASE x
CREATE FUNCTION x AS (a) -> a
CREATE HANDLER x URL '/x' AS SELECT 1
CREATE DICTIONARY x (a UInt64) PRIMARY KEY a SOURCE(FILE(path '{secret}' format 'CSV')) LAYOUT(FLAT())
CREATE USER x
CREATE NAMED COLLECTION x AS a = 1
GRANT ALL ON *.* TO default
ALTER TABLE stored_trades DELETE WHERE 1
ALTER TABLE stored_trades DROP PARTITION ALL
DELETE FROM stored_trades WHERE 1
UPDATE stored_trades SET price = 0 WHERE 1
DROP DATABASE pairflow
TRUNCATE TABLE stored_trades
DETACH TABLE stored_trades
RENAME TABLE stored_trades TO x
EXCHANGE TABLES stored_trades AND stored_bars
OPTIMIZE TABLE stored_trades FINAL
CHECK TABLE stored_trades
KILL QUERY WHERE 1
KILL MUTATION WHERE 1
BACKUP DATABASE pairflow TO File('{folder}/out')
RESTORE DATABASE pairflow FROM File('{folder}/out')
SYSTEM SHUTDOWN
SYSTEM STOP MERGES
SYSTEM RELOAD CONFIG
SET readonly = 0
SET max_execution_time = 0
USE system
BEGIN TRANSACTION
SELECT 1 SETTINGS readonly = 0
SELECT 1 SETTINGS max_execution_time = 100000
SELECT 1 SETTINGS allow_introspection_functions = 1
SELECT 1 SETTINGS user_files_path = '/'
SELECT * FROM (SELECT 1 SETTINGS readonly = 0)
SELECT 1 SETTINGS dialect = 'prql'
SELECT 1 SETTINGS output_format_schema = '{folder}/out'
SELECT 1 SETTINGS format_template_row = '{secret}'
SELECT 1 SETTINGS additional_table_filters = {{'system.one': 'file(\\'{secret}\\') = 1'}}
SELECT 1 FORMAT Template
SELECT 1 FORMAT CapnProto
SELECT 1 FORMAT MySQLWire
SELECT 1 FORMAT ArrowTable
"""


def harmful() -> list[str]:
    lines: list[str] = []
    for line in HARMFUL.strip().splitlines():
        if line.startswith("outfile"):
            lines[-1] += "\n" + line
        else:
            lines.append(line)
    return lines


@pytest.mark.parametrize("sql", harmful())
def test_nothing_but_reading_the_store_is_possible(server: EmbeddedServer, folder: Path, sql: str) -> None:
    sql = sql.format(secret=folder / "secret", folder=folder)
    before = sorted(os.listdir(folder))
    status, _, body = ask(server, sql)
    assert status >= 400, body
    assert SECRET.encode() not in body
    assert sorted(os.listdir(folder)) == before
    # As a form, in the URL and as part of either, it is the same query.
    assert ask(server, b"", query=sql)[0] >= 400
    half = len(sql) // 2 if "\n" in sql else sql.index(" ") if " " in sql else 0
    assert ask(server, sql[half + 1 :], query=sql[:half])[0] >= 400


@pytest.mark.parametrize(
    ("sql", "parameters"),
    [
        ("SELECT * FROM {t:Identifier}", {"param_t": "system.processes"}),
        ("SELECT * FROM {d:Identifier}.{t:Identifier}", {"param_d": "system", "param_t": "processes"}),
        ("SELECT * FROM processes", {"database": "system"}),
        ("SELECT {x:String} x INTO OUTFILE {x:String}", {"param_x": "/tmp/x"}),
        ("SELECT 1", {"readonly_": "0"}),
        ("SELECT 1", {"allow_ddl": "0"}),
        ("SELECT 1", {"format_schema": "/etc/passwd"}),
        ("SELECT 1", {"output_format_schema": "/tmp/x"}),
        ("SELECT 1", {"dialect": "kusto"}),
        ("SELECT 1", {"max_execution_time": "1; DROP TABLE stored_trades"}),
        ("SELECT 1", {"extremes": "1', readonly = '0"}),
        ("SELECT * FROM trades", {"additional_table_filters": "{'x': 'file(\\'/etc/passwd\\') = 1'}"}),
        ("SELECT 1 AS x", {"additional_result_filter": "file('/etc/passwd') = ''"}),
        ("SELECT 1 AS x", {"additional_result_filter": "1 INTO OUTFILE '/tmp/x'"}),
        ("SELECT 1", {"default_format": "Template"}),
        ("SELECT 1", {"database": "x`; DROP TABLE stored_trades"}),
    ],
)  # fmt: skip
def test_parameters_open_no_door(server: EmbeddedServer, sql: str, parameters: dict[str, str | int]) -> None:
    status, _, body = ask(server, sql, None, **parameters)
    assert status >= 400, body
    assert b"root:" not in body


def test_readonly_of_the_client_changes_nothing(server: EmbeddedServer) -> None:
    assert ask(server, "SELECT getSetting('readonly')", readonly=0)[2] == b"1\n"
    assert ask(server, "DROP TABLE stored_trades", readonly=0)[0] == 403


def test_what_looks_harmful_in_a_string_is_harmless(server: EmbeddedServer) -> None:
    assert ask(server, "SELECT 'INTO OUTFILE; DROP TABLE x', '/*' AS `FORMAT CSV`")[0] == 200
    assert ask(server, "SELECT id AS file FROM trades ORDER BY file LIMIT 1")[2] == b"0\n"


def test_the_store_is_intact_after_all_this(server: EmbeddedServer) -> None:
    assert ask(server, "SELECT count() FROM trades")[2] == b"200000\n"


def test_web_pages_are_not_answered(server: EmbeddedServer) -> None:
    assert ask(server, "SELECT 1", {"Host": "rebound.example"})[0] == 403
    assert ask(server, "SELECT 1", {"Origin": "https://page.example"})[0] == 403
    assert ask(server, "SELECT 1", {"Origin": "http://localhost:3000"})[0] == 200


def test_an_open_address_needs_a_password(folder: Path, server: EmbeddedServer) -> None:
    with Store.open(f"chdb://{folder}/store") as store:
        with pytest.raises(StoreError, match="PAIRFLOW_SERVER_PASSWORD"):
            EmbeddedServer(store, host="0.0.0.0")
        guarded = EmbeddedServer(store, port=0, password="open sesame")
        guarded.start()
        try:
            assert ask(guarded, "SELECT 1")[0] == 403
            assert ask(guarded, "SELECT 1", {"X-ClickHouse-Key": "open sesame"})[2] == b"1\n"
            with clickhouse_connect.get_client(
                host=guarded.host, port=guarded.port, username="default", password="open sesame"
            ) as client:
                assert client.command("SELECT 1") == 1
            address = f"{guarded.host}:{guarded.port}/pairflow"
            with Store.open(f"clickhouse://reader:open%20sesame@{address}", create=False) as reader:
                assert reader.query("SELECT count() FROM trades") == [(TRADES,)]
            with pytest.raises(StoreError, match="refused user 'reader': check user and password"):
                Store.open(f"clickhouse://reader:open@{address}")
        finally:
            guarded.stop()


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
    make = "import sys; from connectors.clickhouse.store import Store; Store.open(sys.argv[1]).close()"
    subprocess.run([sys.executable, "-c", make, f"chdb://{path}"], check=True)
    line = [sys.executable, "-m", "connectors.clickhouse", "serve", path, "--port", "0"]
    with subprocess.Popen(line, stderr=subprocess.PIPE, text=True) as serving:
        assert serving.stderr is not None
        found = re.search(r"on (http://127\.0\.0\.1:\d+)", serving.stderr.readline())
        assert found is not None
        with urllib.request.urlopen(f"{found[1]}/?query=SELECT+count()+FROM+bars") as response:
            assert response.read() == b"0\n"
        serving.send_signal(signal.SIGTERM)
        assert serving.wait(20) == 0


def test_a_query_that_differs_from_one_before_in_numbers_alone_is_still_its_own(
    server: EmbeddedServer,
) -> None:
    for number in (1, 2):
        assert ask(server, f"SELECT 40 + {number} AS x FORMAT CSVWithNames")[2] == b'"x"\n%d\n' % (
            40 + number
        )
        assert ask(server, f"SELECT id FROM trades WHERE id = {number}")[2] == b"%d\n" % number
        assert json.loads(ask(server, f"SELECT {number} AS x FORMAT JSON")[2])["data"] == [{"x": number}]
        parquet = ask(server, f"SELECT {number} AS x FORMAT Parquet")[2]
        assert pq.read_table(io.BytesIO(parquet))["x"].to_pylist() == [number]
        assert b"trades" in ask(server, "SHOW TABLES FORMAT JSONEachRow")[2]


@pytest.mark.parametrize(
    ("passes", "refused", "parameters"),
    [
        ("SELECT * FROM {t:Identifier} LIMIT 1", "", ({"param_t": "trades"}, {"param_t": "system.users"})),
        ("SELECT 1 SETTINGS max_threads = 1", "SELECT 1 SETTINGS allow_ddl = 1", ({}, {})),
        ("SELECT 1", "", ({}, {"allow_ddl": 0})),
        ("SELECT 1", "SELECT 1; SELECT 1", ({}, {})),
        ("SELECT count() FROM numbers(1)", "SELECT count() FROM numbers(1), system.users", ({}, {})),
        ("SELECT name FROM tables LIMIT 1", "SELECT name FROM users LIMIT 1", ({"database": "system"},) * 2),
        ("SELECT count() > 0 FROM users", "", ({"database": "none"}, {"database": "system"})),
    ],
)
def test_what_passed_once_opens_no_door(
    server: EmbeddedServer, passes: str, refused: str, parameters: tuple[dict[str, Any], dict[str, Any]]
) -> None:
    for _ in range(2):
        ask(server, passes, **parameters[0])
        status, headers, body = ask(server, refused or passes, **parameters[1])
        assert status >= 400, body
        assert headers["X-ClickHouse-Exception-Code"] in ("62", "164", "497")


def test_limits_hold_though_the_query_was_asked_before(server: EmbeddedServer) -> None:
    sql = (
        "SELECT value FROM system.settings WHERE name = 'max_execution_time' SETTINGS max_execution_time = {}"
    )
    assert ask(server, sql.format(10))[2] == b"10\n"
    assert ask(server, sql.format(100_000))[1]["X-ClickHouse-Exception-Code"] == "164"


def test_native_blocks_are_walked_to_the_last_byte() -> None:
    block = empty_block([("a", "LowCardinality(String)"), ("b", "Tuple(x Int8, y Array(String))")])
    assert reframe(block, 0) == block
    assert reframe(block, 54405) == b"\x01\x00\x02\xff\xff\xff\xff\x00" + block
    two = reframe(block + block, 54460)
    assert two.count(b"\x01\x00\x02\xff\xff\xff\xff\x00") == 2
    assert len(two) == 2 * (len(block) + 8 + 2)
    unknown = b"\x01\x01\x01a\x07Dynamic" + struct.pack("<Q", 1)
    with pytest.raises(UnknownTypeError, match="toString"):
        reframe(unknown, 54460)


# REST.


def rest(server: EmbeddedServer, path: str, *, method: str = "GET", body: object = None) -> tuple[int, Any]:
    url = f"http://{server.host}:{server.port}/api/v1{path}"
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request) as response:
            text = response.read()
            return response.status, json.loads(text) if text else None
    except urllib.error.HTTPError as ex:
        with ex:
            return ex.code, json.loads(ex.read())


def test_rest_gives_the_last_rows_oldest_first(server: EmbeddedServer) -> None:
    _, ticks = rest(server, "/ticks/BTCUSDT?market=spot&limit=2")
    assert [tick["id"] for tick in ticks] == [TRADES - 2, TRADES - 1]
    assert ticks[0]["time"] == "2023-11-14T22:16:39.998000Z"
    path = "/ticks/BTCUSDT?market=spot&from=2023-11-14T22:13:20Z&to=2023-11-14T22:13:20.003Z"
    assert [tick["id"] for tick in rest(server, path)[1]] == [0, 1, 2]
    assert rest(server, "/ticks/ETHUSDT?market=spot") == (200, [])
    assert rest(server, f"/ticks/{urllib.parse.quote('币安人生USDT')}") == (200, [])


def test_rest_says_how_the_run_is_doing(server: EmbeddedServer, folder: Path) -> None:
    status = rest(server, "/status")[1]
    assert (status["status"], status["updated"], status["lag_seconds"]) == ("stopped", None, None)
    names = ["pairflow_frames_total", "pairflow_frames_total", "pairflow_connection", "pairflow_held_trades"]
    labels = [[("kind", "trades")], [("kind", "other")], [("name", "ws0"), ("state", "live")], []]
    now = time.time_ns() // 1_000_000
    samples = pa.table(
        {
            "time": pa.array([now] * 4, pa.timestamp("ms", "UTC")),
            "name": names,
            "labels": pa.array(labels, pa.map_(pa.string(), pa.string())),
            "value": [40.0, 2.0, 1.0, 7.0],
        }
    )
    with Store.open(f"chdb://{folder}/store") as store:
        store.insert("pipeline_metrics", samples)
    for path in ("", "/", "/status"):
        status = rest(server, path)[1]
        assert (status["status"], status["market"], status["messages_received"]) == ("running", "spot", 42)
        assert status["symbols"][:2] == ["BTCUSDT", "ETHUSDT"]
        assert status["timeframes"] == ["tick", "1s", "1m"]
        assert status["feed"]["connections"] == {"ws0": "live"}
        assert status["buffers"]["held_trades"] == 7
        assert status["stored_rows"]["trades"] == TRADES


def test_rest_gives_bars_and_statistics(server: EmbeddedServer, client: Client, folder: Path) -> None:
    bars, metrics = np.zeros(3, BAR), np.zeros(3, METRIC)
    bars["open_time"] = metrics["time"] = 1_700_000_040_000_000 + np.arange(3) * 60_000_000
    bars["timeframe"] = metrics["timeframe"] = 60_000_000
    bars["close"], metrics["z_score"], metrics["window"] = [1, 2, 3], [0.5, np.nan, np.inf], [20, 20, 50]
    symbols = ["BTCUSDT", "ETHUSDT"]
    columns = Columns(market="spot", source="binance", symbols=symbols, pairs=["ETHUSDT/BTCUSDT"])
    with Store.open(f"chdb://{folder}/store") as store:
        store.insert("stored_bars", columns("bars", bars))
        store.insert("stored_pair_metrics", columns("pair_metrics", metrics))
    assert [bar["close"] for bar in rest(server, "/bars/BTCUSDT/1m?limit=2")[1]] == [2, 3]
    rows = rest(server, "/analytics/BTCUSDT/ETHUSDT/1m")[1]
    assert [(row["pair"], row["z_score"]) for row in rows] == [
        ("ETHUSDT/BTCUSDT", 0.5),
        ("ETHUSDT/BTCUSDT", None),
        ("ETHUSDT/BTCUSDT", None),
    ]
    assert len(rest(server, "/analytics/BTCUSDT/ETHUSDT/1m?window=20")[1]) == 2
    assert rest(server, "/analytics/BTCUSDT/ETHUSDT/1s") == (200, [])
    assert [row["pair"] for row in rest(server, "/ranking")[1]] == ["ETHUSDT/BTCUSDT"] * 2
    stored = rest(server, "/status")[1]["stored_rows"]
    assert (stored["trades"], stored["bars"]) == (TRADES, 3)


def test_the_routes_of_a_clickhouse_server_are_these(server: EmbeddedServer, folder: Path) -> None:
    text = (SCHEMA / "config.d" / "http_handlers.xml").read_text()
    assert text == api.http_handlers("pairflow"), "python -m connectors.clickhouse handlers makes it anew"
    bars, metrics = np.zeros(9, BAR), np.zeros(9, METRIC)
    bars["open_time"] = metrics["time"] = 1_700_000_000_000_000 + np.arange(9) * 60_000_000
    bars["timeframe"] = metrics["timeframe"] = 60_000_000
    columns = Columns(market="spot", source="binance", symbols=["AUSDT", "BUSDT"], pairs=["BUSDT/AUSDT"])
    with Store.open(f"chdb://{folder}/store") as store:
        store.insert("stored_bars", columns("bars", bars))
        store.insert("stored_pair_metrics", columns("pair_metrics", metrics))
    handlers = ElementTree.fromstring(text).find("http_handlers")
    assert handlers is not None
    assert handlers[-1].tag == "defaults", "else the server answers nothing but these routes"
    answered = []
    for route in api.ROUTES:
        path = api.PREFIX + route.path.format(
            symbol="AUSDT" if "bars" in route.path else "BTCUSDT",
            timeframe="1m",
            symbol_x="AUSDT",
            symbol_y="BUSDT",
        )
        for query in {"", "?limit=2" if any(p.name == "limit" for p in route.parameters) else ""}:
            for rule in handlers.iter("rule"):
                url = rule.findtext("url", "").removeprefix("regex:")
                fits = re.fullmatch(url, path) if rule.findtext("methods") == "GET" else None
                if fits and (rule.find("empty_query_string") is None) == bool(query):
                    break
            else:
                pytest.fail(f"no handler for {path}{query}")
            given: dict[str, str | int] = {f"param_{name}": value for name, value in fits.groupdict().items()}
            given |= {"param_limit": "2"} if query else {}
            status, _, body = ask(server, rule.findtext("handler/query", ""), None, **given)
            rows = json.loads(body or b"[]")  # of no rows the embedded engine makes nothing, when streamed
            assert (status, rows) == rest(server, path.removeprefix(api.PREFIX) + query)
            answered.append(len(rows))
    assert answered.count(2) == 3
    assert max(answered) == 1000


def test_rest_exports_other_formats(server: EmbeddedServer) -> None:
    url = f"http://{server.host}:{server.port}/api/v1/ticks/BTCUSDT?market=spot&limit=3&format="
    with urllib.request.urlopen(url + "csv") as response:
        assert response.read().count(b"\n") == 4
    with urllib.request.urlopen(url + "parquet") as response:
        assert pq.read_table(io.BytesIO(response.read()))["id"].to_pylist() == list(range(TRADES - 3, TRADES))
    with urllib.request.urlopen(url + "json") as response:
        assert response.headers["Content-Type"] == "application/json; charset=UTF-8"
    with urllib.request.urlopen(url + "ndjson") as response:
        assert response.headers["Content-Type"] == "application/x-ndjson; charset=UTF-8"
        assert len([json.loads(line) for line in response]) == 3


@pytest.mark.parametrize(
    ("path", "word"),
    [
        ("/ticks/BTC'USDT", "symbol"),
        ("/ticks/BTCUSDT?limt=1", "unknown parameter 'limt'"),
        ("/ticks/BTCUSDT?limit=x", "number of rows"),
        ("/ticks/BTCUSDT?limit=1000000", "at most 100000"),
        ("/ticks/BTCUSDT?from=yesterday", "2024-08-09T12:00:00Z"),
        ("/ticks/BTCUSDT?from=2024-99-99", "2024-99-99"),
        ("/ticks/BTCUSDT?format=xls", "json, ndjson, csv, parquet"),
        ("/bars/BTCUSDT/hour", "tick, 1s, 1m, 5m"),
        ("/bars/BTCUSDT/1m?market=futures", "spot or usdm"),
        ("/analytics/BTCUSDT/ETHUSDT/1m?window=-1", "rolling window"),
    ],
)
def test_rest_says_what_it_expected(server: EmbeddedServer, path: str, word: str) -> None:
    status, answer = rest(server, path)
    assert status == 400
    assert word in answer["error"]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/ticks/NOPE", "no symbol NOPE is watched: expected one of AUSDT, BTCUSDT"),
        ("/bars/NOPE/1m", "no symbol NOPE is watched"),
        ("/bars/BTCUSDT/7m", "no bars of 7m are made: expected one of 1s, 1m"),
        ("/bars/BTCUSDT/tick", "no bars of tick are made: expected one of 1s, 1m"),
        (
            "/analytics/ETHUSDT/BTCUSDT/1m",
            "no pair BTCUSDT/ETHUSDT (Y/X) is watched: expected one of BUSDT/AUSDT",
        ),
        ("/analytics/BTCUSDT/ETHUSDT/5m", "no statistics of 5m are made: expected one of tick, 1s, 1m"),
        ("/analytics/BTCUSDT/ETHUSDT/1m?window=7", "no window of 7 bars is computed: expected one of 20, 50"),
        (
            "/analytics/BTCUSDT/ETHUSDT/1m?method=tls",
            "no hedge ratio by tls is computed: expected one of ols",
        ),
    ],
)
@pytest.mark.parametrize("form", ["json", "csv"])
def test_rest_says_what_there_is_instead(server: EmbeddedServer, path: str, words: str, form: str) -> None:
    status, answer = rest(server, f"{path}{'&' if '?' in path else '?'}format={form}")
    assert status == 404
    assert answer["error"].startswith(words)
    assert "throwIf" not in answer["error"]


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
        ("INSERT INTO alert_rules (treshold) VALUES (1)", "unknown field 'treshold'"),
        ("INSERT INTO alert_rules (metric) VALUES ('zscore')", "metric='zscore' is not known"),
        ("INSERT INTO alert_rules (threshold) VALUES ('2')", "wrong type"),
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
def test_rules_by_sql_open_no_door(server: EmbeddedServer, folder: Path, sql: str, words: str) -> None:
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


def test_rest_describes_itself(server: EmbeddedServer) -> None:
    _, document = rest(server, "/openapi.json")
    assert document["openapi"].startswith("3.")
    assert {"get", "post"} == set(document["paths"]["/api/v1/alerts"])
    for path, operations in document["paths"].items():
        for operation in operations.values():
            named = {p["name"] for p in operation.get("parameters", ()) if p["in"] == "path"}
            assert named == set(re.findall(r"\{(\w+)\}", path))
    with urllib.request.urlopen(f"http://{server.host}:{server.port}/docs") as response:
        page = response.read().decode()
    assert "/api/v1/openapi.json" in page
    assert not re.search(r"https?://|@import|<img|src=", page), "the page works without a network"


# ClickHouse's own framing. The hashes are those of the package clickhouse-cityhash, which wraps its code.


@pytest.mark.parametrize(
    ("length", "low", "high"),
    [
        (0, 0x3DF09DFC64C09A2B, 0x3CB540C392E51E29),
        (3, 0x10DC1926B0850AC2, 0x80C20DAD5CDD0E6F),
        (5, 0xC04E19B992BE3D5E, 0xD9F575AA43CA0102),
        (9, 0x62DBDC607C89633A, 0x854D59C6F348DD9B),
        (16, 0x17CEADE677C2F945, 0x579ED60675C8FEDC),
        (17, 0x8112E830FB310FF1, 0xC972AD09C64FD737),
        (100, 0x836AD9510A7189D4, 0x92D5FDF90B6D0EF9),
        (127, 0x6E9CEFA0ACCAEEC6, 0x56818BBA66E6A718),
        (128, 0x7DEF035B54925590, 0xDE34765C4ACA9038),
        (144, 0xA6BDECEEC903D0FC, 0xC56B79626912C1BC),
        (161, 0xBCF88CF8E30499B1, 0xE7C0278D2EE95FF9),
        (300, 0x8F4AD51C9A584560, 0xA8F4769716BB690A),
        (512, 0xA9D316949838A8CB, 0xB655B74BA300BBB1),
    ],
)
def test_the_checksum_is_that_of_clickhouse(length: int, low: int, high: int) -> None:
    assert framing.city_hash_128((bytes(range(256)) * 2)[:length]) == (low, high)


@pytest.mark.parametrize("size", [0, 1, 100, 3_000_000])
def test_compressed_blocks_give_back_what_was_put_in(size: int) -> None:
    data = bytes(np.random.default_rng(1).integers(0, 4, size, np.uint8))
    packed = framing.compress(data)
    assert framing.decompress(packed, size) == data
    assert len(packed) < 100 + size


def test_a_damaged_block_is_not_taken() -> None:
    packed = framing.compress(b"SELECT 1")
    for wrong in (packed[:-1], packed[:5], packed[:-1] + b"x", packed[:16] + b"\x99" + packed[17:]):
        with pytest.raises(ValueError, match="block"):
            framing.decompress(wrong, 1_000)
    with pytest.raises(ValueError, match="more than 4 bytes"):
        framing.decompress(packed, 4)


def test_queries_and_answers_may_come_in_compressed_blocks(server: EmbeddedServer) -> None:
    body = framing.compress(b"SELECT * FROM numbers(500000) FORMAT RowBinary")
    answer = ask(server, body, decompress=1, compress=1)[2]
    assert framing.decompress(answer, 4_000_000) == np.arange(500_000, dtype="<u8").tobytes()
    assert ask(server, body[:-1], decompress=1)[0] == 400
