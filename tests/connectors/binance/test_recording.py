"""Recordings: everything that was recorded, once, in order, whatever state the files are in."""

import gzip
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import structlog

from connectors.binance.recording import RecordingError, RecordingSource
from kernels.records import GAP_CAUSES, GAP_REPAIRS, SECOND, TRADE, Block, Trades

SYMBOLS = ["BTCUSDT", "ETHUSDT"]


def read(source: RecordingSource, resume: Any = None, batches: int = 1_000_000) -> tuple[list[Trades], Any]:
    """Return what comes out, and the last snapshot."""
    (name,) = source.list_parts()
    part = source.build_part("step", name, resume)
    out: list[Trades] = []
    try:
        for _ in range(batches):
            out += [item for _, item in part.next_batch()]
    except StopIteration:
        pass
    position = part.snapshot()
    part.close()
    return out, position


def trades_of(items: Sequence[Trades]) -> Block:
    return np.concatenate([np.empty(0, TRADE), *(item.trades for item in items)])


def line(number: int, symbol: str = "BTCUSDT", at: int | None = None) -> bytes:
    """Make the recorded frame of a trade."""
    ms = 1_700_000_000_000 + 10 * number
    data = {
        "e": "trade",
        "E": ms,
        "s": symbol,
        "t": number,
        "p": "10.5",
        "q": "1.0",
        "T": ms,
        "m": True,
        "M": True,
    }
    message = orjson.dumps({"stream": f"{symbol.lower()}@trade", "data": data})
    return b"%d %s\n" % ((ms if at is None else at) * 1_000_000, message)


@pytest.mark.parametrize("market", ["spot", "usdm"])
def test_recorded_files_come_out_whole_and_merged_by_their_time_of_arrival(
    data: Path, recorded: Callable[[str], Block], market: str
) -> None:
    items, _ = read(RecordingSource([data / "recorded" / market], SYMBOLS))
    block = trades_of(items)
    assert block.tolist() == recorded(market).tolist()
    for symbol in (0, 1):
        ids = block["id"][block["symbol"] == symbol]
        assert (np.diff(ids) == 1).all()  # across midnight too
    watermarks = [item.watermark for item in items]
    assert watermarks == sorted(watermarks)


def test_the_end_moves_the_watermark_on_by_the_grace(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(line(1))
    items, _ = read(RecordingSource([tmp_path / "a"], SYMBOLS, grace=7))
    assert items[-1].watermark == trades_of(items)["time"][0] + 7


def test_only_the_symbols_asked_for_come_out(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(line(1) + line(1, "ETHUSDT") + line(2))
    items, _ = read(RecordingSource([tmp_path], ["ETHUSDT"]))
    assert trades_of(items)[["id", "symbol"]].tolist() == [(1, 0)]


def test_duplicates_are_dropped_and_trades_out_of_order_put_in_order(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(
        b"".join(line(i, at=1_700_000_000_000 + n) for n, i in enumerate([1, 3, 2, 2, 5, 4]))
    )
    items, _ = read(RecordingSource([tmp_path], SYMBOLS))
    assert trades_of(items)["id"].tolist() == [1, 2, 3, 4, 5]
    assert sum(len(item.gaps) for item in items) == 0


def test_ids_that_were_not_recorded_are_a_gap(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(line(1) + line(5) + line(6))
    items, _ = read(RecordingSource([tmp_path], SYMBOLS))
    assert trades_of(items)["id"].tolist() == [1, 5, 6]
    (gap,) = np.concatenate([item.gaps for item in items])
    assert gap[["first_id", "last_id", "restored", "symbol"]].tolist() == (2, 4, 0, 0)
    assert GAP_CAUSES[gap["cause"]] == "hole"
    assert GAP_REPAIRS[gap["repair"]] == "unavailable"


def test_a_truncated_gzip_file_is_replayed_as_far_as_it_is_whole(tmp_path: Path) -> None:
    whole = gzip.compress(b"".join(line(i) for i in range(1, 2_001)))
    (tmp_path / "a.gz").write_bytes(whole[: len(whole) // 2])
    with structlog.testing.capture_logs() as logs:
        items, _ = read(RecordingSource([tmp_path], SYMBOLS))
    assert 100 < len(trades_of(items)) < 2_000
    assert logs[0]["event"].startswith("the recording is damaged")


def test_lines_that_are_no_recording_are_counted_and_named_once(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(
        b"hello\n\n" + line(1) + b"123\n" + line(2) + b'17 {"e":"trade"}\r\n' + line(3)[:-1]
    )
    source = RecordingSource([tmp_path], SYMBOLS)
    with structlog.testing.capture_logs() as logs:
        items, _ = read(source)
    assert trades_of(items)["id"].tolist() == [1, 2, 3]
    assert source.status.malformed == 4
    assert len(logs) == 2  # no time; no trade


def test_nothing_to_replay_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match=r"no recording .*nowhere"):
        RecordingSource([tmp_path / "nowhere"], SYMBOLS)
    with pytest.raises(RecordingError, match="empty folder"):
        RecordingSource([tmp_path], SYMBOLS)


@pytest.mark.parametrize("batches", [1, 3, 17])
def test_a_replay_goes_on_where_its_snapshot_was_taken(
    data: Path, recorded: Callable[[str], Block], batches: int
) -> None:
    paths = [data / "recorded" / "usdm"]
    before, position = read(RecordingSource(paths, SYMBOLS), batches=batches)
    after, _ = read(RecordingSource(paths, SYMBOLS), resume=position)
    assert trades_of([*before, *after]).tolist() == recorded("usdm").tolist()


def test_a_snapshot_taken_while_trades_wait_for_lower_ids_forgets_none(tmp_path: Path) -> None:
    lines = [line(i) for i in (1, 2, 4, 5)] + [line(1, "ETHUSDT")] * 40_000 + [line(3), line(6)]
    (tmp_path / "a").write_bytes(b"".join(lines))
    before, position = read(RecordingSource([tmp_path], SYMBOLS), batches=2)
    after, _ = read(RecordingSource([tmp_path], SYMBOLS), resume=position)
    block = trades_of([*before, *after])
    assert block["id"][block["symbol"] == 0].tolist() == [1, 2, 3, 4, 5, 6]
    assert len(block) == 7


def test_recorded_speed_keeps_the_time_between_messages(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(line(1) + line(41))  # 0.4 s apart
    source = RecordingSource([tmp_path], SYMBOLS, speed=2.0)
    part = source.build_part("step", "recording", None)
    began = time.monotonic()
    seen = []
    try:
        while True:
            seen += [time.monotonic() - began for _, item in part.next_batch() for _ in item.trades]
    except StopIteration:
        pass
    assert seen[0] < 0.15
    assert 0.19 < seen[1] < 0.5


def test_a_stopped_replay_ends_at_once_and_can_go_on(data: Path) -> None:
    stop = threading.Event()
    stop.set()
    items, position = read(RecordingSource([data / "recorded" / "usdm"], SYMBOLS, stop=stop))
    assert items == []
    rest, _ = read(RecordingSource([data / "recorded" / "usdm"], SYMBOLS), resume=position)
    assert len(trades_of(rest)) == 21_313 + 14_076
    assert rest[-1].watermark > rest[0].watermark + 5 * SECOND
