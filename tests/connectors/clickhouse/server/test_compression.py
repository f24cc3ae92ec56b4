"""Compressed requests and answers, by HTTP encodings."""

import gzip

import clickhouse_connect
import pyarrow as pa
import pytest
from clickhouse_connect.driver.client import Client

from connectors.clickhouse.server import EmbeddedServer
from tests.support.embedded_server import ask


def lz4(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "lz4") as stream:
        stream.write(data)
    return bytes(sink.getvalue())


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
    assert ask(server, lz4(b"SELECT 42"), {"Content-Encoding": "lz4"})[2] == b"42\n"


@pytest.mark.parametrize("encoding", ["gzip", "lz4"])
def test_a_query_that_is_too_long_is_not_cut_off(server: EmbeddedServer, encoding: str) -> None:
    query = b"SELECT 42 -- " + b"-" * 2_000_000
    body = gzip.compress(query) if encoding == "gzip" else lz4(query)
    assert ask(server, body, {"Content-Encoding": encoding})[0] == 413
