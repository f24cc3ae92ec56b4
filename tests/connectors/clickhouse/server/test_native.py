"""The Native format, framed for the revision that a client announces."""

import struct

import pytest
from clickhouse_connect.driver.client import Client

from connectors.clickhouse.server import EmbeddedServer
from connectors.clickhouse.server.native import UnknownTypeError, empty_block, reframe
from tests.support.embedded_server import ask


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
