"""ClickHouse's own compressed blocks."""

import numpy as np
import pytest

from connectors.clickhouse.server import EmbeddedServer, framing
from tests.support.embedded_server import ask


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
