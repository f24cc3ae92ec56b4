"""Files with rows in any order, rows that stand there twice, and rows that are missing."""

from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from connectors.binance import archive_order
from connectors.binance.archive import ArchiveSource
from tests.support.archives import (
    DAY,
    NEXT,
    SYMBOLS,
    Server,
    all_gaps,
    joined,
    made,
    place,
    replay,
    source,
    zipped,
)


def test_ids_that_no_file_has_are_a_gap_right_before_the_next_trade(server: Server, tmp_path: Path) -> None:
    ids = [i for i in range(1, 2_000) if i not in (500, 501, 502, 900)]
    server.add(place("BTCUSDT", DAY), zipped(made(ids)))
    server.add(place("BTCUSDT", NEXT), zipped(made(range(2_010, 2_100), day=NEXT)))
    server.add(place("ETHUSDT", DAY), zipped(made(range(1, 2_000), start=5)))
    server.add(place("ETHUSDT", NEXT), zipped(made(range(2_000, 2_100), day=NEXT)))
    archive = source(server, tmp_path, last=NEXT, symbols=SYMBOLS)
    items, _ = replay(archive)
    assert all_gaps(items) == [(500, 502), (900, 900), (2_000, 2_009)]
    for item in items:
        if len(item.gaps):
            assert item.gaps["symbol"].tolist() == [0]
            assert item.trades["symbol"][0] == 0
            assert item.trades["id"][0] == item.gaps["last_id"][0] + 1
            assert item.gaps["detected"][0] == item.gaps["repaired"][0] == item.trades["time"][0]
            assert item.gaps["restored"][0] == 0
    assert archive.status.missing == 14
    trades = joined(items)
    assert (np.diff(trades["time"]) >= 0).all()


def test_a_gap_is_told_once_when_the_replay_is_resumed(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_order, "_CHUNK", 1 << 12)
    ids = [i for i in range(1, 3_000) if i % 300]
    server.add(place("BTCUSDT", DAY), zipped(made(ids)))
    whole, _ = replay(source(server, tmp_path))
    gaps = all_gaps(whole)
    assert gaps == [(i, i) for i in range(300, 3_000, 300)]
    for stop_after in range(100, 3_000, 250):
        first, state = replay(source(server, tmp_path), until=lambda n, m=stop_after: n >= m)  # type: ignore[misc]
        second, _ = replay(source(server, tmp_path), state)
        assert all_gaps([*first, *second]) == gaps
        assert np.array_equal(joined([*first, *second]), joined(whole))


def test_a_file_that_holds_everything_twice_counts_once(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_order, "_CHUNK", 1 << 12)
    ids = [*range(1, 1_001), *range(1, 1_001)]
    server.add(place("BTCUSDT", DAY), zipped(made(ids)))
    archive = source(server, tmp_path)
    items, _ = replay(archive)
    assert joined(items)["id"].tolist() == list(range(1, 1_001))
    assert archive.status.duplicates == 1_000
    assert not all_gaps(items)


def test_two_ranges_of_ids_in_turns_are_sorted(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As in BTCUSDT-aggTrades of futures, 2023-10: each second line is of another range of ids.
    monkeypatch.setattr(archive_order, "_CHUNK", 1 << 12)
    ids = [i for pair in zip(range(1, 2_001), range(2_001, 4_001), strict=True) for i in pair]
    server.add(place("BTCUSDT", DAY), zipped(made(ids)))
    items, _ = replay(source(server, tmp_path))
    assert joined(items)["id"].tolist() == list(range(1, 4_001))
    assert (np.diff(joined(items)["time"]) >= 0).all()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), chunk=st.sampled_from([100, 300, 2_000, 1 << 20]))
def test_any_disorder_duplicates_and_holes_give_each_id_once_in_order_or_a_gap(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, chunk: int
) -> None:
    days = (DAY, NEXT)
    kept = [data.draw(st.sets(st.integers(1 + 60 * i, 60 + 60 * i), min_size=1)) for i in range(2)]
    files = []
    for day, ids in zip(days, kept, strict=True):
        rows = data.draw(st.permutations(sorted(ids))) if data.draw(st.booleans()) else sorted(ids)
        extra = data.draw(st.lists(st.sampled_from(sorted(ids)), max_size=8))
        at = data.draw(st.integers(0, len(rows)))
        rows = [*rows[:at], *extra, *rows[at:]]
        if day == DAY:  # what follows upon the first row is known by its id; what is before it is not
            rows = [min(ids), *rows]
        files.append(rows)
    folder = tmp_path_factory.mktemp("folder")
    for day, rows in zip(days, files, strict=True):
        path = folder / place("BTCUSDT", day)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(zipped(made(rows, day=day)))
    with pytest.MonkeyPatch.context() as patch, capture_logs():
        patch.setattr(archive_order, "_CHUNK", chunk)
        patch.setattr(archive_order, "_LEAST_CHUNK", chunk)
        archive = ArchiveSource(*days, ["BTCUSDT"], market="spot", stream="trade", folder=folder)
        items, _ = replay(archive)
        there = sorted(kept[0] | kept[1])
        assert joined(items)["id"].tolist() == there
        lost = {i for first, last in all_gaps(items) for i in range(first, last + 1)}
        assert lost == set(range(there[0], there[-1] + 1)) - set(there)
        assert archive.status.duplicates == sum(map(len, files)) - len(there)
        at = data.draw(st.integers(0, len(there)))
        first, state = replay(archive, until=lambda n: n >= at)
        second, _ = replay(archive, state)
        assert np.array_equal(joined([*first, *second]), joined(items))
        assert all_gaps([*first, *second]) == all_gaps(items)


def test_ids_that_begin_anew_are_told(server: Server, tmp_path: Path) -> None:
    server.add(place("BTCUSDT", DAY), zipped(made(range(1_000, 2_000))))
    server.add(place("BTCUSDT", NEXT), zipped(made(range(100), day=NEXT)))
    archive = source(server, tmp_path, last=NEXT)
    with capture_logs() as logs:
        items, _ = replay(archive)
    assert len(joined(items)) == 1_000
    assert archive.status.duplicates == 100
    assert sum("anew" in log["event"] for log in logs) == 1


def test_rows_too_far_out_of_order_leave_a_gap_not_an_endless_wait(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_order, "_CHUNK", 1 << 12)
    monkeypatch.setattr(archive_order, "_LEAST_CHUNK", 1 << 12)
    monkeypatch.setattr(archive_order, "_MOST_WAITING", 500)
    server.add(place("BTCUSDT", DAY), zipped(made([1, *range(3, 2_000), 2])))
    with capture_logs() as logs:
        items, _ = replay(source(server, tmp_path))
    assert joined(items)["id"].tolist() == [1, *range(3, 2_000)]
    assert all_gaps(items) == [(2, 2)]
    assert any("too far out of order" in log["event"] for log in logs)


def test_a_missing_day_between_others_is_a_gap(server: Server, tmp_path: Path) -> None:
    last = DAY + timedelta(days=2)
    server.add(place("BTCUSDT", DAY), zipped(made(range(1, 100))))
    server.add(place("BTCUSDT", last), zipped(made(range(200, 300), day=last)))
    with capture_logs() as logs:
        items, _ = replay(source(server, tmp_path, last=last))
    assert all_gaps(items) == [(100, 199)]
    assert [log["day"] for log in logs if "no file of this day" in log["event"]] == [str(NEXT)]


@pytest.mark.parametrize("text", [None, "", "id,price\n"])
def test_a_symbol_that_rests_for_days_holds_nobody_up(
    server: Server, tmp_path: Path, text: str | None
) -> None:
    days = [DAY + timedelta(days=i) for i in range(5)]
    for i, day in enumerate(days):
        server.add(place("BTCUSDT", day), zipped(made(range(10 * i, 10 * i + 10), day=day)))
    for day in days[1:4]:
        if text is not None:
            server.add(place("ETHUSDT", day), zipped(text))
    server.add(place("ETHUSDT", days[0]), zipped(made(range(10))))
    server.add(place("ETHUSDT", days[4]), zipped(made(range(10, 20), day=days[4])))
    with capture_logs():
        items, _ = replay(source(server, tmp_path, last=days[4], symbols=SYMBOLS))
    trades = joined(items)
    assert trades["id"][trades["symbol"] == 0].tolist() == list(range(50))
    assert trades["id"][trades["symbol"] == 1].tolist() == list(range(20))
    assert (np.diff(trades["time"]) >= 0).all()
