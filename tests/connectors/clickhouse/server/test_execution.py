"""Queries side by side: none delays, ends or changes another, and each stays within its limits."""

import contextlib
import socket
import time
from concurrent.futures import ThreadPoolExecutor

from clickhouse_connect.driver.client import Client

from connectors.clickhouse.server import EmbeddedServer
from tests.support.embedded_server import SLOW, TRADES, ask, wait_for_queries


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
