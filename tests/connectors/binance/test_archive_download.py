"""Downloads that break, stall, are refused, or bring something else."""

import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from connectors.binance import archive_download, archive_order
from connectors.binance.archive import ArchiveSource
from connectors.binance.archive_files import ArchiveError
from tests.support.archives import DAY, SYMBOLS, Server, drain, joined, made, place, replay, source, zipped


def test_files_of_the_folder_need_no_network(tmp_path: Path) -> None:
    path = tmp_path / place("BTCUSDT", DAY)
    path.parent.mkdir(parents=True)
    path.write_bytes(zipped(made(range(1, 100))))
    archive = ArchiveSource(
        DAY,
        DAY,
        ["BTCUSDT"],
        market="spot",
        stream="trade",
        folder=tmp_path,
        base_url="http://127.0.0.1:1",
    )
    items, _ = replay(archive)
    assert len(joined(items)) == 99
    assert sorted(p.name for p in path.parent.iterdir()) == [path.name]


def test_downloads_are_kept_with_their_checksum_and_used_again(server: Server, tmp_path: Path) -> None:
    server.add(place("BTCUSDT", DAY), zipped(made(range(1, 100))))
    replay(source(server, tmp_path))
    path = tmp_path / place("BTCUSDT", DAY)
    assert path.read_bytes() == server.files[place("BTCUSDT", DAY)]
    assert (tmp_path / (place("BTCUSDT", DAY) + ".CHECKSUM")).read_bytes() == server.files[
        place("BTCUSDT", DAY) + ".CHECKSUM"
    ]
    assert len(list(path.parent.iterdir())) == 2
    server.requests.clear()
    items, _ = replay(source(server, tmp_path))
    assert len(joined(items)) == 99
    assert server.requests == []


def test_a_kept_file_that_was_changed_is_downloaded_again(server: Server, tmp_path: Path) -> None:
    server.add(place("BTCUSDT", DAY), zipped(made(range(1, 100))))
    replay(source(server, tmp_path))
    path = tmp_path / place("BTCUSDT", DAY)
    path.write_bytes(path.read_bytes()[:-50])
    with capture_logs() as logs:
        items, _ = replay(source(server, tmp_path))
    assert len(joined(items)) == 99
    assert any("checksum" in log["event"] for log in logs)


def test_a_broken_download_goes_on_where_it_stopped(server: Server, tmp_path: Path) -> None:
    data = zipped(made(range(1, 20_000)))
    server.add(place("BTCUSDT", DAY), data)
    server.cut[place("BTCUSDT", DAY)] = [1_000, 0, 2_000]
    server.status[place("BTCUSDT", DAY) + ".CHECKSUM"] = [503, 429]
    with capture_logs():
        items, _ = replay(source(server, tmp_path))
    assert len(joined(items)) == 19_999
    assert server.got(place("BTCUSDT", DAY)) == ["", "bytes=1000-", "bytes=1000-", "bytes=3000-"]


@pytest.mark.parametrize("there", [0, 777, -1])
def test_a_part_of_an_earlier_run_is_continued(server: Server, tmp_path: Path, there: int) -> None:
    data = zipped(made(range(1, 20_000)))
    server.add(place("BTCUSDT", DAY), data)
    there = there if there >= 0 else len(data)
    part = tmp_path / (place("BTCUSDT", DAY) + ".part")
    part.parent.mkdir(parents=True)
    part.write_bytes(data[:there])
    items, _ = replay(source(server, tmp_path))
    assert len(joined(items)) == 19_999
    assert server.got(place("BTCUSDT", DAY)) == ([f"bytes={there}-"] if there else [""])


def test_a_server_that_knows_no_ranges_sends_all_again(server: Server, tmp_path: Path) -> None:
    server.add(place("BTCUSDT", DAY), zipped(made(range(1, 20_000))))
    server.cut[place("BTCUSDT", DAY)] = [1_000]
    server.ranges = False
    with capture_logs():
        items, _ = replay(source(server, tmp_path))
    assert len(joined(items)) == 19_999
    assert server.got(place("BTCUSDT", DAY)) == ["", "bytes=1000-"]


@pytest.mark.parametrize("size", [500, 1_000_000])
def test_a_part_of_another_file_is_found_out(server: Server, tmp_path: Path, size: int) -> None:
    server.add(place("BTCUSDT", DAY), zipped(made(range(1, 20_000))))
    part = tmp_path / (place("BTCUSDT", DAY) + ".part")
    part.parent.mkdir(parents=True)
    part.write_bytes(bytes(size))
    with capture_logs():
        items, _ = replay(source(server, tmp_path))
    assert len(joined(items)) == 19_999
    assert server.got(place("BTCUSDT", DAY)) == [f"bytes={size}-", ""]


def test_a_wrong_checksum_is_an_error_only_the_second_time(server: Server, tmp_path: Path) -> None:
    path = place("BTCUSDT", DAY)
    server.add(path, zipped(made(range(1, 100))))
    server.files[path + ".CHECKSUM"] = b"0" * 64 + b"  x.zip\n"
    with capture_logs() as logs, pytest.raises(ArchiveError, match="published checksum") as error:
        replay(source(server, tmp_path))
    assert "\n" not in str(error.value)
    assert len(server.got(path)) == 2
    assert sum("wrong checksum" in log["event"] for log in logs) == 1
    assert not (tmp_path / path).exists()


def test_a_file_without_a_published_checksum_is_used_with_a_warning(server: Server, tmp_path: Path) -> None:
    server.files[place("BTCUSDT", DAY)] = zipped(made(range(1, 100)))
    with capture_logs() as logs:
        items, _ = replay(source(server, tmp_path))
    assert len(joined(items)) == 99
    assert any("no checksum is published" in log["event"] for log in logs)


def test_a_day_that_is_not_published_yet_says_so_before_anything_is_downloaded(
    server: Server, tmp_path: Path
) -> None:
    today = datetime.now(UTC).date()
    yesterday = today - timedelta(days=1)
    for symbol in SYMBOLS:
        server.add(place(symbol, yesterday), zipped(made(range(9), day=yesterday)))
    server.add(place("BTCUSDT", today), zipped(made(range(9, 20), day=today)))
    with pytest.raises(ArchiveError, match=f"no trades of ETHUSDT .* for {today} yet: .* next day"):
        source(server, tmp_path, first=yesterday, last=today, symbols=SYMBOLS)
    assert not list(tmp_path.iterdir())


def test_a_symbol_that_the_archive_does_not_have_is_named(server: Server, tmp_path: Path) -> None:
    server.add(place("BTCUSDT", DAY), zipped(made(range(9))))
    with pytest.raises(ArchiveError, match=r"no trades of TYPOUSDT \(spot\) for 2024-08-08: expected"):
        source(server, tmp_path, symbols=["BTCUSDT", "TYPOUSDT"])


def test_without_network_there_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_download, "_BACKOFF", 0.01)
    nowhere = "http://127.0.0.1:1"
    with capture_logs() as logs, pytest.raises(ArchiveError, match="check the network, or put the") as error:
        ArchiveSource(DAY, DAY, ["BTCUSDT"], market="spot", stream="trade", folder=tmp_path, base_url=nowhere)
    assert "\n" not in str(error.value)
    assert str(tmp_path / place("BTCUSDT", DAY)) in str(error.value)
    assert {log["event"] for log in logs} == {"download interrupted; trying again"}


def test_a_refusal_is_not_tried_again(server: Server, tmp_path: Path) -> None:
    server.add(place("BTCUSDT", DAY), zipped(made(range(9))))
    server.status[place("BTCUSDT", DAY)] = [451] * 9
    with pytest.raises(ArchiveError, match=r"refuses .* 451"):
        source(server, tmp_path)
    assert len(server.requests) == 1


def test_a_full_disk_is_told(server: Server, tmp_path: Path) -> None:
    server.add(place("BTCUSDT", DAY), zipped(made(range(1, 20_000))))
    part = tmp_path / (place("BTCUSDT", DAY) + ".part")
    part.parent.mkdir(parents=True)
    part.symlink_to("/dev/full")
    with pytest.raises(ArchiveError, match="No space left on device; free some space"):
        replay(source(server, tmp_path))


def test_a_folder_that_is_none_is_told(server: Server, tmp_path: Path) -> None:
    server.add(place("BTCUSDT", DAY), zipped(made(range(9))))
    (tmp_path / "data").write_text("")
    with pytest.raises(ArchiveError, match=r"cannot write .* choose another folder"):
        replay(source(server, tmp_path))


def test_two_replays_share_one_download(server: Server, tmp_path: Path) -> None:
    path = place("BTCUSDT", DAY)
    server.add(path, zipped(made(range(1, 50_000))))
    server.slow.add(path)
    partitions = [source(server, tmp_path).build_part("step", "archive", None) for _ in range(2)]
    while not server.got(path):
        time.sleep(0.001)
    server.released.set()
    for partition in partitions:
        assert len(joined(drain(partition))) == 49_999
    assert server.got(path) == [""]


def test_days_are_downloaded_one_ahead_of_the_replay_and_no_more(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_order, "_CHUNK", 1 << 12)
    days = [DAY + timedelta(days=i) for i in range(4)]
    for i, day in enumerate(days):
        server.add(place("BTCUSDT", day), zipped(made(range(i * 1_000, i * 1_000 + 1_000), day=day)))
    archive = source(server, tmp_path, last=days[-1])
    partition = archive.build_part("step", "archive", None)
    while not partition.next_batch():
        pass
    while not server.got(place("BTCUSDT", days[1])):
        time.sleep(0.001)
    time.sleep(0.3)  # the next file would be asked for within 0.1 s
    assert server.got(place("BTCUSDT", days[2])) == []
    partition.close()
    items, _ = replay(archive)
    assert joined(items)["id"].tolist() == list(range(4_000))
    assert archive.status.done


def test_a_stop_ends_it_at_once_even_in_a_download(server: Server, tmp_path: Path) -> None:
    stop = threading.Event()
    path = place("BTCUSDT", DAY)
    server.add(path, zipped(made(range(1, 50_000))))
    server.slow.add(path)
    archive = source(server, tmp_path, stop=stop)
    partition = archive.build_part("step", "archive", None)
    deadline = time.monotonic() + 10
    while not archive.status.downloading and time.monotonic() < deadline:
        assert partition.next_batch() == []
    have, total = archive.status.downloading[path.rpartition("/")[2]]
    assert 0 < have < total == len(server.files[path])
    stop.set()
    began = time.monotonic()
    with pytest.raises(StopIteration):
        partition.next_batch()
    assert partition.snapshot() == {}
    partition.close()
    assert time.monotonic() - began < 5  # the server would go on in 10
    assert (tmp_path / (path + ".part")).stat().st_size == have
