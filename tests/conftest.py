"""Recorded data, read by general tools: the tests' own view of it, independent of the code under test."""

import csv
import gzip
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import settings

from kernels.records import TRADE, Block
from tests.support.paths import DATA

settings.register_profile("pairflow", deadline=None)  # the first example may wait for a compiler
settings.load_profile("pairflow")

SYMBOLS = ["BTCUSDT", "ETHUSDT"]


@cache
def _recorded(market: str) -> Block:
    lines = []
    for file in sorted((DATA / "recorded" / market).glob("*.gz")):
        with gzip.open(file) as stream:
            lines += [line.split(b" ", 1) for line in stream if b"@trade" in line[:60]]
    lines.sort(key=lambda line: int(line[0]))
    rows = []
    for _, message in lines:
        data: dict[str, Any] = orjson.loads(message)["data"]
        price, quantity = float(data["p"]), float(data["q"])
        symbol, in_bars = SYMBOLS.index(data["s"]), data.get("X", "MARKET") == "MARKET"
        identity = (data["t"],) * 3
        rows.append((*identity, data["T"] * 1000, price, quantity, symbol, data["m"], in_bars))
    trades = np.array(rows, TRADE)
    trades.flags.writeable = False
    return trades


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of recorded data; tests that need it are skipped where it is absent."""
    if not DATA.is_dir():
        pytest.skip(f"no recorded data in {DATA}")
    return DATA


@pytest.fixture(scope="session")
def recorded(data: Path) -> Callable[[str], Block]:
    """Trades of a market's recordings, by a general JSON parser, in order of arrival."""
    return _recorded


@pytest.fixture(scope="session")
def klines(data: Path) -> dict[str, list[dict[str, str]]]:
    """The exchange's own 1m klines of USD-M futures, as printed."""
    names = ["open_time", "open", "high", "low", "close", "volume", "close_time", "quote_volume", "trades"]
    names += ["taker_buy_volume", "taker_buy_quote_volume", "ignore"]
    found = {}
    for symbol in SYMBOLS:
        with (data / "klines" / f"{symbol}-1m-2024-08-08.usdm.csv").open() as stream:
            found[symbol] = list(csv.DictReader(stream, names))
    return found
