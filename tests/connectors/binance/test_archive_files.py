"""Files of the archive in every spelling, whole, damaged and foreign."""

import io
import zipfile
import zlib
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from connectors.binance.archive import ArchiveSource
from connectors.binance.archive_files import ArchiveError, parse_line, parse_lines
from tests.support.archives import (
    DAY,
    DAY_US,
    HEADERS,
    Frames,
    Recorded,
    Server,
    all_gaps,
    chosen,
    csv,
    day_of,
    joined,
    made,
    place,
    replay,
    source,
    zipped,
)
from tests.support.paths import CASES


@pytest.mark.parametrize("header", [False, True])
@pytest.mark.parametrize("capital", [False, True])
@pytest.mark.parametrize("microseconds", [False, True])
def test_trades_equal_those_of_the_stream_in_every_style_of_the_archive(
    server: Server,
    tmp_path: Path,
    frames: Frames,
    recorded: Recorded,
    header: bool,
    capital: bool,
    microseconds: bool,
) -> None:
    trades = [t for t in frames("spot")["BTCUSDT"] if day_of(t) == DAY]
    text = csv(trades, header=header, capital=capital, microseconds=microseconds)
    server.add(place("BTCUSDT", DAY), zipped(text))
    items, _ = replay(source(server, tmp_path))
    assert np.array_equal(joined(items), chosen(recorded("spot"), "BTCUSDT"))


def test_futures_trades_equal_those_of_the_stream(
    server: Server, tmp_path: Path, frames: Frames, recorded: Recorded
) -> None:
    text = csv(frames("usdm")["BTCUSDT"], header=True, capital=False, best=False)
    server.add(place("BTCUSDT", DAY, market="usdm"), zipped(text))
    items, _ = replay(source(server, tmp_path, market="usdm"))
    assert np.array_equal(joined(items), chosen(recorded("usdm"), "BTCUSDT"))


@pytest.mark.parametrize("market", ["spot", "usdm"])
def test_aggregates_equal_the_trades_that_they_are_made_of(
    server: Server, tmp_path: Path, frames: Frames, recorded: Recorded, market: str
) -> None:
    lines = [HEADERS["aggTrades"] + "\n"] if market == "usdm" else []
    for trade in frames(market)["BTCUSDT"]:
        if day_of(trade) == DAY:  # each stands for three trades, so that no id equals another
            first = 3 * trade["t"]
            maker = f"{trade['m']},True" if market == "spot" else str(trade["m"]).lower()
            head = f"{trade['t']},{trade['p']},{trade['q']},{first},{first + 2}"
            lines.append(f"{head},{trade['T']},{maker}\n")
    server.add(place("BTCUSDT", DAY, "aggTrades", market), zipped("".join(lines)))
    items, _ = replay(source(server, tmp_path, market=market, stream="aggTrade"))
    rows = chosen(recorded(market), "BTCUSDT")
    rows["first_id"] = 3 * rows["id"]
    rows["last_id"] = 3 * rows["id"] + 2
    assert np.array_equal(joined(items), rows)


number = st.one_of(
    st.decimals(0, 10**9, places=8, allow_nan=False, allow_infinity=False).map(lambda d: f"{d:f}"),
    st.decimals(0, 10**17, places=12, allow_nan=False, allow_infinity=False).map(lambda d: f"{d:f}"),
    st.floats(0, allow_nan=False, allow_infinity=False).map(repr),
    # More digits than a float64 holds, where a parser that rounds twice shows.
    st.tuples(
        st.text("0123456789", min_size=1, max_size=40), st.text("0123456789", min_size=1, max_size=40)
    ).map(".".join),
    st.tuples(
        st.integers(0, 10**25), st.text("0123456789", min_size=1, max_size=30), st.integers(-340, 270)
    ).map(lambda parts: f"{parts[0]}.{parts[1]}e{parts[2]}"),
    # Half-way between two float64, and one digit beside it.
    st.tuples(
        st.integers(2**52, 2**53 - 1), st.sampled_from(["5", "50000000000000000001", "49999999999999999"])
    ).map(lambda parts: f"{parts[0]}.{parts[1]}"),
    st.sampled_from(["0", "0.00000000", "1000000000.00000000", "9007199254740993", "5e-8", "00012.50"]),
)


@settings(max_examples=500)
@given(st.lists(st.tuples(number, number), min_size=1, max_size=20))
def test_numbers_are_those_that_python_reads(numbers: list[tuple[str, str]]) -> None:
    text = "".join(f"{i},{p},{q},0.1,1723161255208,False,True\r\n" for i, (p, q) in enumerate(numbers))
    rows, malformed = parse_lines(text.encode(), "trade")
    assert malformed == []
    assert rows["price"].tobytes() == np.array([float(p) for p, _ in numbers]).tobytes()
    assert rows["quantity"].tobytes() == np.array([float(q) for _, q in numbers]).tobytes()
    assert rows["in_bars"].tolist() == [float(p) != 0 for p, _ in numbers]


@settings(max_examples=300)
@given(
    st.sampled_from(["trade", "aggTrade"]),
    st.lists(
        st.tuples(
            st.sampled_from(
                [b"7,1.50,0.2,8,1723161255208,True,False", b"7,1.5,2,8,9,1723161255208123,false"]
            ),
            st.integers(0, 45),
            st.integers(0, 3),
            st.binary(max_size=3) | st.text('0123456789.,-eTrueFalse\r"', max_size=3).map(str.encode),
        ),
        max_size=8,
    ),
)
def test_a_damaged_line_is_read_by_polars_as_by_python(
    stream: str, damages: list[tuple[bytes, int, int, bytes]]
) -> None:
    lines = [line[:at] + extra + line[at + gone :] for line, at, gone, extra in damages]
    lines = [part for line in lines for part in line.split(b"\n") if part]
    rows, malformed = parse_lines(b"".join(line + b"\n" for line in lines), stream)
    plain = [parse_line(line, stream) for line in lines]
    assert rows.tolist() == [row for row in plain if row is not None]
    assert malformed == [line for line, row in zip(lines, plain, strict=True) if row is None]


@pytest.mark.parametrize(
    "line",
    [
        "x,1.0,1.0,1.0,1723161255208,True,True",
        "5,1.0,1.0,1.0,1723161255208,yes,True",
        "5,1.0,1.0,1.0,1723161255208",
        "5,1.0,1.0,1.0,1723161255208,True,True,True",
        "5,nan,1.0,1.0,1723161255208,True,True",
        "5,1.0.0,1.0,1.0,1723161255208,True,True",
        "5,1.0,1e999,1.0,1723161255208,True,True",
        "5,1.0,-,1.0,1723161255208,True,True",
        "5,-1.0,1.0,1.0,1723161255208,True,True",
        "-5,1.0,1.0,1.0,1723161255208,True,True",
        "5,1.0,inf,1.0,1723161255208,True,True",
        "9223372036854775808,1.0,1.0,1.0,1723161255208,True,True",
        "5,1.0,1.0,1.0,172316125520.8,True,True",
        "5,1.0,1.0,1.0,1723161255208,Trueish,True",
        "5,1.0,1.0,1.0,1523161255208,True,True",
        "\x005,1.0",
        ",,,,,,",
    ],
)
def test_a_line_that_is_no_trade_of_the_day_is_counted_and_its_id_missing(
    server: Server, tmp_path: Path, line: str
) -> None:
    text = made(range(1, 5)) + line + "\n" + made(range(6, 9))
    server.add(place("BTCUSDT", DAY), zipped(text))
    archive = source(server, tmp_path)
    with capture_logs() as logs:
        items, _ = replay(archive)
    assert joined(items)["id"].tolist() == [1, 2, 3, 4, 6, 7, 8]
    assert all_gaps(items) == [(5, 5)]
    assert archive.status.malformed == 1
    assert sum("no trades of the day" in log["event"] for log in logs) == 1


@pytest.mark.parametrize(
    "line",
    [
        '"5","1.5","0.2","0.3","1723161255208","True","True"',
        '5,"1.5",0.2,0.3,1723161255208,"true",TRUE\r',
        "5,1.5,0.2,0.3,1723161255208,True",
        " 5, 1.5, 0.2, 0.3, 1723161255208, True, True ",
        "+5,+1.5,.2,,1723161255208000,tRUE,false",
        "5,15e-1,0.20,x,1723161255208,true,True",
    ],
)
@pytest.mark.parametrize(
    "around", ["4,1.5,0.2,0.3,1723161255208,False,False", "4,1.5,0.2,0.3,1723161255208,false"]
)
def test_an_unusual_line_is_read_whatever_the_other_lines_are_like(line: str, around: str) -> None:
    rows, malformed = parse_lines(f"{around}\n{line}\n{around}\n".encode(), "trade")
    assert malformed == []
    assert rows["id"].tolist() == [4, 5, 4]
    assert rows[1].tolist() == (5, 5, 5, 1723161255208000, 1.5, 0.2, 0, True, True)


def test_a_quote_that_is_never_closed_damages_its_own_line_only() -> None:
    good = b"5,1.5,0.2,0.3,1723161255208,True,True\n"
    rows, malformed = parse_lines(good + b'6,"1.5,0.2,0.3,1723161255208\n' + good, "trade")
    assert rows["id"].tolist() == [5, 5]
    assert malformed == [b'6,"1.5,0.2,0.3,1723161255208']


@pytest.mark.parametrize(
    "damage", [b"\x1f\x8b", zlib.compress(b"9,1,1,1,1,True"), b"\x28\xb5\x2f\xfd", b"\xef\xbb\xbf"]
)
def test_a_damaged_line_that_looks_like_another_format_is_one_damaged_line(damage: bytes) -> None:
    good = b"5,1.5,0.2,0.3,1723161255208,True,True\n"
    damage = damage.replace(b"\n", b"")
    rows, malformed = parse_lines(damage + b"x\n" + good, "trade")
    assert rows["id"].tolist() == [5]
    assert malformed == [damage + b"x"]


def test_a_zip_that_was_made_on_macos_is_read() -> None:
    day = date(2021, 12, 14)
    folder = CASES / "mac"
    if not folder.is_dir():
        pytest.skip(f"no such file in {folder}")
    archive = ArchiveSource(day, day, ["BTCUSDT"], market="spot", stream="trade", folder=folder)
    items, _ = replay(archive)
    assert len(joined(items)) == 1
    assert archive.status.malformed == 0


@pytest.mark.parametrize("text", ["", HEADERS["trades"] + "\n", "\n", made([1])[:-1]])
def test_a_day_with_few_or_no_trades_is_fine(server: Server, tmp_path: Path, text: str) -> None:
    server.add(place("BTCUSDT", DAY), zipped(text))
    items, _ = replay(source(server, tmp_path))
    assert joined(items)["id"].tolist() == ([1] if text.startswith("1,") else [])
    assert items[-1].watermark == ((DAY - date(1970, 1, 1)).days + 1) * DAY_US


def test_a_file_of_another_kind_says_what_was_expected(server: Server, tmp_path: Path) -> None:
    server.add(place("BTCUSDT", DAY), zipped(made(range(9))))
    server.add(place("BTCUSDT", DAY, "aggTrades"), zipped(made(range(9))))
    with pytest.raises(ArchiveError, match="expected lines of id, price, quantity, first id"):
        replay(source(server, tmp_path, stream="aggTrade"))


@pytest.mark.parametrize("damage", ["cut", "flipped", "text", "two"])
def test_a_damaged_file_says_what_to_do(server: Server, tmp_path: Path, damage: str) -> None:
    data = bytearray(zipped(made(range(1, 20_000))))
    if damage == "cut":
        del data[len(data) // 2 :]
    elif damage == "flipped":
        data[len(data) // 2] ^= 0xFF
    elif damage == "text":
        data[:] = b"<html>"
    else:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("a.csv", "")
            archive.writestr("b.csv", "")
        data[:] = file.getvalue()
    path = tmp_path / place("BTCUSDT", DAY)
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    with capture_logs(), pytest.raises(ArchiveError, match=str(path)) as error:
        replay(source(server, tmp_path))
    assert "\n" not in str(error.value)
