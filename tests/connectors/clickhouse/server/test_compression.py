"""Compressed requests and answers, by HTTP encodings."""

import gzip

import clickhouse_connect
import pytest
from clickhouse_connect.driver.client import Client

from connectors.clickhouse.server import EmbeddedServer
from tests.support.embedded_server import ask


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
