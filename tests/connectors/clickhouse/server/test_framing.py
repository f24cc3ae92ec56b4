"""ClickHouse's own compressed blocks."""

import struct
from pathlib import Path

import numpy as np
import pytest

from connectors.clickhouse.server import EmbeddedServer, framing
from tests.support.embedded_server import ask


def test_checksums_are_those_of_files_that_clickhouse_wrote(server: EmbeddedServer) -> None:
    """Columns of tables are stored in the same blocks, of many sizes and methods."""
    paths = ask(server, "SELECT path FROM system.parts WHERE database = 'pairflow' AND active")[2]
    files = [file for path in paths.decode().split() for file in Path(path).glob("*.bin")]
    sizes = set()
    for file in files:
        data = file.read_bytes()
        at = 0
        while at < len(data):
            (size,) = struct.unpack_from("<I", data, at + 17)
            block = data[at + 16 : at + 16 + size]
            assert framing.checksum(block) == data[at : at + 16]
            sizes.add(len(block))
            at += 16 + size
    assert len(sizes) > 10
    assert max(sizes) > 1_000


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
