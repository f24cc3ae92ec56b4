"""Recorded trades as the exchange sent them, a server of archives, and an exchange with its readers."""

import gzip
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import orjson
import pytest

from connectors.binance import archive_download
from tests.support.archives import SYMBOLS, Server
from tests.support.exchange import Exchange, Reader


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """An empty archive; failed downloads are tried again after milliseconds."""
    monkeypatch.setattr(archive_download, "_BACKOFF", 0.01)
    made = Server()
    yield made
    made.close()


@cache
def _frames(folder: Path) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {symbol: [] for symbol in SYMBOLS}
    for path in sorted(folder.glob("*.gz")):
        with gzip.open(path) as file:
            for line in file:
                if b'"e":"trade"' in line:
                    data = orjson.loads(line[line.index(b" ") :])["data"]
                    found[data["s"]].append(data)
    return found


@pytest.fixture(scope="session")
def frames(data: Path) -> Callable[[str], dict[str, list[dict[str, Any]]]]:
    """Recorded trades of a market by symbol, as the exchange sent them."""
    return lambda market: _frames(data / "recorded" / market)


@pytest.fixture
def exchange() -> Iterator[Exchange]:
    """An exchange without any trades yet."""
    exchange = Exchange()
    yield exchange
    exchange.close()


@pytest.fixture
def readers() -> Iterator[list[Reader]]:
    """Readers that are closed after the test."""
    readers: list[Reader] = []
    yield readers
    for reader in readers:
        reader.partition.close()
