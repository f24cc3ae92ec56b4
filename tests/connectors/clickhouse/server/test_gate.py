"""The gate: a query may read the store and do nothing else."""

import io
import json
import os
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from connectors.clickhouse.server import EmbeddedServer
from tests.support.embedded_server import SECRET, ask


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
def test_parameters_allow_nothing_that_a_query_may_not(
    server: EmbeddedServer, sql: str, parameters: dict[str, str | int]
) -> None:
    status, _, body = ask(server, sql, None, **parameters)
    assert status >= 400, body
    assert b"root:" not in body


def test_readonly_of_the_client_changes_nothing(server: EmbeddedServer) -> None:
    assert ask(server, "SELECT getSetting('readonly')", readonly=0)[2] == b"1\n"
    assert ask(server, "DROP TABLE stored_trades", readonly=0)[0] == 403


def test_a_string_that_looks_harmful_is_allowed(server: EmbeddedServer) -> None:
    assert ask(server, "SELECT 'INTO OUTFILE; DROP TABLE x', '/*' AS `FORMAT CSV`")[0] == 200
    assert ask(server, "SELECT id AS file FROM trades ORDER BY file LIMIT 1")[2] == b"0\n"


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
def test_a_query_like_one_that_passed_is_checked_all_the_same(
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


def test_the_store_is_intact_after_all_this(server: EmbeddedServer) -> None:
    assert ask(server, "SELECT count() FROM trades")[2] == b"200000\n"
