"""Archives replayed: recorded trades, in the archive's own format."""

import threading
import time
from collections.abc import Sequence
from datetime import date, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import bytewax.operators as op
import numpy as np
import orjson
import pytest
from bytewax.dataflow import Dataflow
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import TestingSink, run_main

from connectors.binance import archive_order
from connectors.binance.archive import ArchiveSource
from connectors.binance.archive_files import ArchiveError
from flows.bars import BarLogic
from kernels.records import GAP, SECOND, TRADE, Block, Trades
from tests.support.archives import (
    DAY,
    DAY_US,
    NEXT,
    SYMBOLS,
    Frames,
    Recorded,
    Server,
    all_gaps,
    csv,
    day_of,
    joined,
    made,
    place,
    replay,
    source,
    zipped,
)


@pytest.fixture
def both_days(server: Server, frames: Frames, recorded: Recorded) -> Block:
    """Both symbols and days of the recordings, published, by time, symbol, id."""
    for symbol in SYMBOLS:
        for day in (DAY, NEXT):
            trades = [t for t in frames("spot")[symbol] if day_of(t) == day]
            server.add(place(symbol, day), zipped(csv(trades)))
    rows = np.concatenate([recorded("spot")[recorded("spot")["symbol"] == i] for i in (0, 1)])
    latest = np.concatenate([np.maximum.accumulate(rows["time"][rows["symbol"] == i]) for i in (0, 1)])
    sorted_rows: Block = rows[np.argsort(latest, kind="stable")]
    return sorted_rows


def test_symbols_and_days_are_merged_by_time_and_nothing_is_late(
    server: Server, tmp_path: Path, both_days: Block, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_order, "_CHUNK", 1 << 15)
    items, _ = replay(source(server, tmp_path, last=NEXT, symbols=SYMBOLS, grace=250_000))
    assert len(items) > 20
    assert np.array_equal(joined(items), both_days)
    for before, item in pairwise(items):
        assert before.watermark <= item.watermark
        assert not len(item.trades) or item.trades["time"].min() >= before.watermark
    assert items[-1].watermark == ((NEXT - date(1970, 1, 1)).days + 1) * DAY_US + 250_000


@pytest.mark.parametrize("chunk", [1 << 14, 1 << 21])
def test_a_resumed_replay_goes_on_with_the_very_next_trade(
    server: Server, tmp_path: Path, both_days: Block, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    options = {"last": NEXT, "symbols": SYMBOLS}
    for stop_after in (0, 1, 5_000, 16_000, 30_000, 1_000_000):
        monkeypatch.setattr(archive_order, "_CHUNK", 1 << 14)
        first, state = replay(source(server, tmp_path, **options), until=lambda n, m=stop_after: n >= m)  # type: ignore[misc]
        monkeypatch.setattr(archive_order, "_CHUNK", chunk)
        second, _ = replay(source(server, tmp_path, **options), orjson.loads(orjson.dumps(state)))
        assert np.array_equal(joined([*first, *second]), both_days)
        assert not all_gaps([*first, *second])


def test_a_flow_runs_it_to_the_end(server: Server, tmp_path: Path, both_days: Block) -> None:
    out: list[tuple[str, Trades]] = []
    flow = Dataflow("archive")
    stream = op.input("in", flow, source(server, tmp_path, last=NEXT, symbols=SYMBOLS))
    op.output("out", stream, TestingSink(out))
    run_main(flow)  # type: ignore[no-untyped-call]
    assert {key for key, _ in out} == {"archive"}
    assert np.array_equal(joined([item for _, item in out]), both_days)


def test_bars_close_at_their_time_and_none_is_opened_again(
    server: Server, tmp_path: Path, both_days: Block, recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With no lateness allowed at all; those of the recordings, in order of arrival, are the same."""
    monkeypatch.setattr(archive_order, "_CHUNK", 1 << 15)
    end = int(both_days["time"].max()) + 60 * SECOND

    def bars_of(items: Sequence[Trades], lateness: int) -> Block:
        logic = BarLogic(None, symbols=SYMBOLS, timeframes=(SECOND, 60 * SECOND), lateness=lateness)
        out, _ = logic.on_batch([*items, Trades(np.empty(0, TRADE), end + lateness, np.empty(0, GAP))])
        bars = np.concatenate([rows for table, rows in out if table == "bars"])
        bars = bars[bars["open_time"] < end - 60 * SECOND]
        ordered: Block = bars[np.argsort(bars[["timeframe", "open_time", "symbol"]], kind="stable")]
        return ordered

    items, _ = replay(source(server, tmp_path, last=NEXT, symbols=SYMBOLS))
    bars = bars_of(items[:-1], 0)
    assert len(bars) > 1_000
    assert (bars["version"] == 1).all()
    arrived = [Trades(recorded("spot"), 0, np.empty(0, GAP))]
    assert np.array_equal(bars, bars_of(arrived, 5 * SECOND))


def test_the_speed_is_that_of_the_market_when_asked_for(server: Server, tmp_path: Path) -> None:
    server.add(place("BTCUSDT", DAY), zipped(made(range(100))))  # 10 ms apart: 0.99 s
    archive = source(server, tmp_path, speed=2.0)
    began = time.monotonic()
    items, _ = replay(archive)
    assert time.monotonic() - began >= 0.495
    assert len(joined(items)) == 100
    assert len(items) > 3


def test_a_flow_that_is_stopped_goes_on_by_its_recovery_state(
    server: Server, tmp_path: Path, both_days: Block, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_order, "_CHUNK", 1 << 15)
    store = tmp_path / "recovery"
    store.mkdir()
    init_db_dir(store, 1)  # type: ignore[no-untyped-call]
    out: list[tuple[str, Trades]] = []
    for most in (5_000, 20_000, 1_000_000):
        stop = threading.Event()
        flow = Dataflow("archive")
        stream = op.input("in", flow, source(server, tmp_path, last=NEXT, symbols=SYMBOLS, stop=stop))

        def count(item: tuple[str, Trades], stop: threading.Event = stop, most: int = most) -> Any:
            if sum(len(before.trades) for _, before in out) > most:
                stop.set()
            return item

        op.output("out", op.map("count", stream, count), TestingSink(out))
        run_main(flow, epoch_interval=timedelta(0), recovery_config=RecoveryConfig(store))  # type: ignore[no-untyped-call]
        assert stop.is_set() == (most < len(both_days))
    assert np.array_equal(joined([item for _, item in out]), both_days)


@pytest.mark.parametrize(("name", "value"), [("market", "coinm"), ("stream", "trades")])
def test_an_unknown_market_or_stream_is_named(tmp_path: Path, name: str, value: str) -> None:
    options: dict[str, Any] = {"market": "spot", "stream": "trade", "folder": tmp_path} | {name: value}
    with pytest.raises(ValueError, match=f"unknown {name} '{value}'"):
        ArchiveSource(DAY, DAY, ["BTCUSDT"], **options)


def test_days_in_the_wrong_order_are_told(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="earlier day first"):
        ArchiveSource(NEXT, DAY, ["BTCUSDT"], market="spot", stream="trade", folder=tmp_path)
