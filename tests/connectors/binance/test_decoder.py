"""Decoded trades against a plain reading of the same frames by a general JSON parser and Python's float."""

import ctypes
import gzip
import math
import mmap
import random
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import orjson
import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.binance.decoder import TradeDecoder
from kernels.records import TRADE, Block
from tests.support.paths import RECORDED

SYMBOLS = [
    "BTCUSDT",
    "ETHUSDT",
    "T",
    "1000SATSUSDT",
    "1000000MOGUSDT",
    "BTCUSDT_260327",
    "币安人生USDT",
    "ABCDEFGH",
    "ABCDEFGHABCDEFGH",
    "ABCDEFGH1BCDEFGH",
    "ABCDEFGH_XX_ABCDEFGH",
    "ABCDEFGH_XY_ABCDEFGH",
    "AB" * 24,
    "LONGERTHANTHETABLEOFNAMESHOLDS" * 3,
    'A"B\\C',
]


def reference(frame: bytes, symbols: Sequence[str] = SYMBOLS) -> tuple[Any, ...] | str:
    """Decode one frame the plain way: its TRADE fields, or what else it is."""
    try:
        message = orjson.loads(frame)
    except orjson.JSONDecodeError:
        return "malformed"
    if not isinstance(message, dict):
        return "other"
    data = message.get("data", message)
    if not isinstance(data, dict) or data.get("e") not in ("trade", "aggTrade"):
        return "other"
    keys = "ttt" if data["e"] == "trade" else "afl"
    integers: list[Any] = [data.get(key) for key in (*keys, "T")]
    texts: list[Any] = [data.get(key) for key in "pq"]
    if not all(type(value) is int and -(2**63) <= value < 2**63 for value in integers):
        return "malformed"
    if not all(isinstance(t, str) and re.fullmatch(r"-?\d+(\.\d+)?([eE][+-]?\d+)?", t, re.A) for t in texts):
        return "malformed"
    price, quantity = map(float, texts)
    if not (math.isfinite(price) and math.isfinite(quantity)):
        return "malformed"
    if not isinstance(data.get("s"), str) or not isinstance(data.get("m"), bool):
        return "malformed"
    if data["s"] not in symbols:
        return "unknown_symbol"
    *ids, time = integers
    if abs(time) < 10**14:
        time *= 1000
    market = ("X" not in data or data["X"] == "MARKET") and price != 0
    return (*ids, time, price, quantity, symbols.index(data["s"]), data["m"], market)


def announces_another_event(frame: bytes) -> bool:
    """Tell whether a frame begins like a book ticker, depth, or the like: nobody looks further into those."""
    event = rb'\{("u":|"e":"(bookTicker|depthUpdate|kline|markPriceUpdate)"|"e":"24hr|"lastUpdateId":)'
    return re.match(rb'(\{"stream":"[^"]*","data":)?' + event, frame) is not None


def check(frames: Sequence[bytes], decoder: TradeDecoder | None = None) -> None:
    """Assert that trades and counts are the reference's, whichever way the frames are handed over."""
    expected = [reference(frame) for frame in frames]
    rows = np.array([row for row in expected if isinstance(row, tuple)], TRADE)
    for trades, counts in both_ways(frames, decoder or TradeDecoder(SYMBOLS)):
        np.testing.assert_array_equal(bits(trades), bits(rows))
        assert counts["frames"] == len(frames)
        assert counts["trades"] == len(rows)
        for outcome in ("other", "malformed", "unknown_symbol"):
            assert counts[outcome] == sum(row == outcome for row in expected), (outcome, frames)


def decode(decoder: TradeDecoder, frames: Sequence[bytes]) -> Block:
    """Decode frames that lie in one buffer, a line feed behind each, as in a recording."""
    lengths = np.array([len(frame) for frame in frames], np.int64)
    ends = np.cumsum(lengths + 1) - 1
    return decoder.decode(b"".join(frame + b"\n" for frame in frames), ends - lengths, ends)


def both_ways(frames: Sequence[bytes], decoder: TradeDecoder) -> Iterable[tuple[Block, dict[str, int]]]:
    before = totals(decoder)
    trades = decode(decoder, frames)
    after = totals(decoder)
    yield trades, {name: after[name] - before[name] for name in after}
    # In one buffer, each frame right behind a copy of its own beginning and in front of one of its end.
    pieces = [piece for frame in frames for piece in (frame[:-1], frame, frame[1:])]
    ends = np.cumsum([len(piece) for piece in pieces], dtype=np.int64)[1::3]
    starts = ends - np.array([len(frame) for frame in frames], np.int64)
    trades = decoder.decode(b"".join(pieces), starts, ends)
    yield trades, {name: total - after[name] for name, total in totals(decoder).items()}


def totals(decoder: TradeDecoder) -> dict[str, int]:
    names = ("frames", "trades", "other", "slow", "malformed", "unknown_symbol")
    return {name: getattr(decoder.counts, name) for name in names}


def bits(trades: Block) -> np.ndarray[Any, Any]:
    """All fields as integers, so that equal means bit-equal and -0.0 is not 0.0."""
    columns = (trades[name] for name in TRADE.names or ())
    return np.stack([c.view(np.int64) if c.dtype == np.float64 else c.astype(np.int64) for c in columns])


# Frames of all known layouts, as the exchange sends or sent them.
LAYOUTS = {
    "spot trade": '{"e":"trade","E":1723161255343,"s":"BTCUSDT","t":3735683259,"p":"61837.63000000",'
    '"q":"0.02000000","T":1723161255342,"m":true,"M":true}',
    "spot trade with order ids": '{"e":"trade","E":1672515782136,"s":"ETHUSDT","t":12345,"p":"0.00100000",'
    '"q":"100.00000000","b":88,"a":5057899,"T":1672515782136,"m":false,"M":true}',
    "spot trade in microseconds": '{"e":"trade","E":1723161255343123,"s":"BTCUSDT","t":3735683259,'
    '"p":"61837.63000000","q":"123456789012.00000000","T":1723161255342999,"m":true,"M":false}',
    "usdm trade": '{"e":"trade","E":1723161256322,"T":1723161256322,"s":"BTCUSDT","t":5266583935,'
    '"p":"61800.30","q":"0.006","X":"MARKET","m":false}',
    "usdm insurance fund": '{"e":"trade","E":1723161256322,"T":1723161256322,"s":"BTCUSDT","t":5266583935,'
    '"p":"61800.30","q":"1500","X":"INSURANCE_FUND","m":false}',
    "usdm empty": '{"e":"trade","E":1723161256322,"T":1723161256322,"s":"BTCUSDT","t":5266583935,'
    '"p":"0","q":"0.006","X":"","m":true}',
    "spot aggTrade": '{"e":"aggTrade","E":1672515782136,"s":"币安人生USDT","a":12345,"p":"0.001","q":"100",'
    '"f":100,"l":105,"T":1672515782136,"m":true,"M":true}',
    "usdm aggTrade": '{"e":"aggTrade","E":1672515782136,"s":"1000SATSUSDT","a":5933014,"p":"0.0001234",'
    '"q":"1000000","f":100,"l":105,"T":1672515782136,"m":false}',
    "usdm aggTrade with normal quantity": '{"e":"aggTrade","E":1672515782136,"s":"1000SATSUSDT","a":5933014,'
    '"p":"0.0001234","q":"1000000","nq":"999.5","f":100,"l":105,"T":1672515782136,"m":false}',
}


def combined(payload: str) -> str:
    """Wrap a payload as a combined stream does."""
    data = orjson.loads(payload)
    return f'{{"stream":"{data["s"].lower()}@{data["e"]}","data":{payload}}}'


EXAMPLES = [text.encode() for payload in LAYOUTS.values() for text in (payload, combined(payload))]


@pytest.mark.parametrize("frame", EXAMPLES)
def test_a_frame_of_a_known_layout_is_decoded_in_the_compiled_pass(frame: bytes) -> None:
    decoder = TradeDecoder(SYMBOLS)
    check([frame], decoder)
    assert decoder.counts.trades == 2
    assert decoder.counts.slow == 0


@pytest.mark.parametrize("index", range(len(SYMBOLS)))
def test_every_symbol_is_found(index: int) -> None:
    payload = LAYOUTS["spot trade"].replace("BTCUSDT", orjson.dumps(SYMBOLS[index]).decode()[1:-1])
    frames = [payload.encode()]
    if index < 13:
        frames.append(combined(payload).encode())
    decoder = TradeDecoder(SYMBOLS)
    check(frames, decoder)
    assert decode(decoder, frames)["symbol"].tolist() == [index] * len(frames)
    assert (decoder.counts.slow == 0) == (index < 13)


def test_hundreds_of_symbols_are_told_apart() -> None:
    symbols = [
        f"{a}{b}{quote}"
        for quote in ("USDT", "BTC", "USDC")
        for a in "ABCDEFGHIJKLM"
        for b in "NOPQRSTUVWXYZ"
    ]
    payloads = [LAYOUTS["spot trade"].replace("BTCUSDT", symbol) for symbol in symbols]
    decoder = TradeDecoder(symbols)
    for frames in ([text.encode() for text in payloads], [combined(text).encode() for text in payloads]):
        assert decode(decoder, frames)["symbol"].tolist() == list(range(len(symbols)))
    assert decoder.counts.slow == 0


def test_a_symbol_that_stands_twice_in_the_table_is_refused() -> None:
    with pytest.raises(ValueError, match="ETHUSDT"):
        TradeDecoder(["ETHUSDT", "BTCUSDT", "ETHUSDT"])


def test_a_trade_of_a_symbol_not_in_the_table_is_counted_and_left_out() -> None:
    decoder = TradeDecoder(["ETHUSDT"])
    frames = [
        combined(LAYOUTS[name]).encode() for name in ("spot trade", "spot trade with order ids", "usdm trade")
    ]
    assert decode(decoder, frames)["symbol"].tolist() == [0]
    assert decoder.counts.unknown_symbol == 2
    assert decoder.counts.slow == decoder.counts.malformed == 0


def test_trades_that_are_not_in_the_klines_are_marked() -> None:
    frames = [
        LAYOUTS[name].encode() for name in ("usdm trade", "usdm insurance fund", "usdm empty", "spot trade")
    ]
    zero = LAYOUTS["spot trade"].replace("61837.63000000", "0.00000000").encode()
    spaced = frames[1].replace(b",", b", ")
    trades = decode(TradeDecoder(SYMBOLS), [*frames, zero, spaced])
    assert trades["in_bars"].tolist() == [True, False, False, True, False, False]


def test_times_become_microseconds() -> None:
    frames = [LAYOUTS[name].encode() for name in ("spot trade", "spot trade in microseconds")]
    assert decode(TradeDecoder(SYMBOLS), frames)["time"].tolist() == [1723161255342000, 1723161255342999]


@pytest.mark.parametrize(
    "text",
    [
        "0", "0.0", "00.5", "9007199254740992", "9007199254740993", "9007199254.740993", "0.1", "0.10000000",
        "90071992547409.93000000", "123456789012345678.00000000", "1234567890123456.5", "12345678901234567",
        "0.000000000000001", "0.0000000000000000001", "4.35", "1.7976931348623157e308", "5e-324", "1E5",
        "-1.5", "-0.0", "0.30000000000000004", "8.41", "2.2250738585072011e-308", "9" * 19, "9" * 40,
        "0." + "1" * 40, "100000000.00000001", "99999999.99999999",
        f"{2**48}.0000000000000001",  # its digits, as a 64-bit integer, wrap round to 1
    ],
)  # fmt: skip
def test_a_decimal_is_read_as_python_reads_it(text: str) -> None:
    frame = combined(
        LAYOUTS["spot trade"].replace("61837.63000000", text).replace("0.02000000", text)
    ).encode()
    check([frame])
    assert decode(TradeDecoder(SYMBOLS), [frame])["price"].tolist() == [float(text)]


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        ".5",
        "5.",
        "1_000",
        " 1",
        "1 ",
        "+1",
        "nan",
        "inf",
        "1e999",
        "1..5",
        "1.5.",
        "0x10",
        "\u0661",
        "1,5",
    ],
)
def test_a_decimal_that_is_none_makes_its_frame_malformed(text: str) -> None:
    frame = LAYOUTS["spot trade"].replace("0.02000000", text).encode()
    check([frame])
    assert reference(frame) == "malformed"


NUMBERS = st.one_of(
    st.integers(0, 10**17).map(str),
    st.decimals(0, 10**9, places=8, allow_nan=False).map(lambda d: f"{d:f}"),
    st.decimals(0, 10**7, places=2, allow_nan=False).map(lambda d: f"{d:f}"),
    st.floats(0, 1e15, allow_nan=False).map(repr),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.tuples(st.integers(0, 10**20), st.text("0123456789", min_size=1, max_size=25)).map(
        lambda parts: f"{parts[0]}.{parts[1]}"
    ),
    st.sampled_from(["61837.63000000", "0.00017000", "20.004", "1500", "0.00000000"]),
)
IDS = st.one_of(
    st.integers(0, 10**10),
    st.integers(10**15, 10**17),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(-5, 2**70),
)
TIMES = st.one_of(st.integers(16 * 10**11, 2 * 10**12), st.integers(16 * 10**14, 2 * 10**15), IDS)
NAMES = st.one_of(st.sampled_from(SYMBOLS), st.text(max_size=20), st.text("ABCXYZ019", max_size=60))
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
    st.sampled_from(["trade", "aggTrade", "MARKET", "BTCUSDT", "1.5"]),
)
KEYS = st.one_of(st.sampled_from([*"eEstapqflTmMX", "data", "stream", "nq"]), st.text(max_size=3))
JUNK: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=12)),
    max_leaves=12,
)


@st.composite
def trade_frames(draw: st.DrawFn) -> bytes:
    """Frames of all layouts with any values, some with shuffled keys, more keys, spaces or other junk."""
    aggregate, usdm = draw(st.booleans()), draw(st.booleans())
    data: dict[str, Any] = {"e": "aggTrade" if aggregate else "trade", "E": draw(TIMES)}
    time, symbol = draw(TIMES), draw(NAMES)
    if usdm and not aggregate:
        data["T"] = time
    data["s"] = symbol
    data["a" if aggregate else "t"] = draw(IDS)
    data["p"], data["q"] = draw(NUMBERS), draw(NUMBERS)
    if aggregate:
        if usdm and draw(st.booleans()):
            data["nq"] = draw(NUMBERS)
        data["f"], data["l"] = draw(IDS), draw(IDS)
    elif usdm:
        if draw(st.booleans()):
            data["X"] = draw(
                st.sampled_from(["MARKET", "INSURANCE_FUND", "ADL", "NA", "", "MARKETS", 'M"', "é"])
            )
    elif draw(st.booleans()):
        data["b"], data["a"] = draw(IDS), draw(IDS)
    data["T"] = time
    data["m"] = draw(st.booleans())
    if not usdm:
        data["M"] = draw(st.booleans())
    twist = draw(
        st.sampled_from(["none"] * 6 + ["shuffle", "drop", "replace", "add", "space", "escape", "twice"])
    )
    if twist == "shuffle":
        data = dict(draw(st.permutations(list(data.items()))))
    elif twist == "drop":
        del data[draw(st.sampled_from(list(data)))]
    elif twist == "replace":
        data[draw(st.sampled_from(list(data)))] = draw(JUNK)
    elif twist == "add":
        data[draw(st.sampled_from(["st", "X", "nq", "zz", "e "]))] = draw(JUNK)
    text = dump(data)
    if twist == "space":
        at = draw(st.sampled_from([match.end() for match in re.finditer("[,:{]", text)]))
        text = text[:at] + draw(st.sampled_from([" ", "\n", "\t", "\r\n"])) + text[at:]
    elif twist == "escape":
        at = draw(st.integers(0, len(text) - 1))
        text = text[:at] + f"\\u{ord(text[at]) & 0xFFFF:04x}" + text[at + 1 :]
    elif twist == "twice":
        key = draw(st.sampled_from(list(data)))
        text = text[:-1] + f',"{key}":{dump(draw(st.just(data[key]) | JUNK))}}}'
    if draw(st.booleans()):
        stream = draw(st.one_of(st.just(symbol.lower()), NAMES))
        name = f"{stream}@{data.get('e')}"
        text = f'{{"stream":{dump(name)},"data":{text}}}'
    return text.encode("utf-8", "surrogatepass")


def dump(value: object) -> str:
    """Write compact JSON; orjson itself writes no integers beyond 64 bits."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{dump(key)}:{dump(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(dump, value)) + "]"
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return orjson.dumps(value).decode()


@settings(max_examples=600, deadline=None)
@given(st.lists(trade_frames(), min_size=1, max_size=8))
def test_any_trade_is_decoded_as_by_a_general_parser(frames: list[bytes]) -> None:
    check(frames)


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(
        JUNK.map(lambda value: dump(value).encode()), st.binary(max_size=300), st.text().map(str.encode)
    )
)
def test_junk_is_what_a_general_parser_takes_it_for(frame: bytes) -> None:
    if not announces_another_event(frame):
        check([frame])


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_damaged_frame_is_what_a_general_parser_takes_it_for(data: st.DataObject) -> None:
    frame = bytearray(data.draw(st.one_of(st.sampled_from(EXAMPLES), trade_frames())))
    for _ in range(data.draw(st.integers(1, 3))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    check([bytes(frame)])


@pytest.mark.parametrize("frame", EXAMPLES)
def test_every_single_byte_counts(frame: bytes) -> None:
    """Every frame that is cut short at either end, or has one byte changed, lost or doubled."""
    source = random.Random(frame)
    damaged = [frame[:n] for n in range(len(frame))] + [frame[n:] for n in range(1, len(frame))]
    for at in range(len(frame)):
        damaged += [frame[:at] + frame[at + 1 :], frame[:at] + frame[at : at + 1] + frame[at:]]
        for byte in {
            ord('"'),
            ord("0"),
            ord("}"),
            ord("e"),
            ord(" "),
            0,
            frame[at] ^ 0x20,
            source.randrange(256),
        }:
            damaged.append(frame[:at] + bytes([byte]) + frame[at + 1 :])
    check(damaged)


COUNTS = {
    "usdm/btcusdt_20240808": 21_313,
    "usdm/ethusdt_20240808": 14_076,
    "spot/btcusdt_20240808": 9_757,
    "spot/btcusdt_20240809": 10_147,
    "spot/ethusdt_20240808": 6_106,
    "spot/ethusdt_20240809": 8_409,
}


@pytest.mark.skipif(not RECORDED.exists(), reason=f"no recordings at {RECORDED}")
@pytest.mark.parametrize("name", COUNTS)
def test_a_recording_is_decoded_as_by_a_general_parser(name: str) -> None:
    content = gzip.decompress((RECORDED / f"{name}.gz").read_bytes())
    frames = [line.split(b" ", 1)[1] for line in content.splitlines()]
    expected = np.array([row for frame in frames if isinstance(row := reference(frame), tuple)], TRADE)
    decoder = TradeDecoder(SYMBOLS)
    assert len(expected) == COUNTS[name]

    trades = decode(decoder, frames)
    np.testing.assert_array_equal(bits(trades), bits(expected))
    assert totals(decoder) == {
        "frames": len(frames),
        "trades": len(expected),
        "other": len(frames) - len(expected),
        "slow": 0,
        "malformed": 0,
        "unknown_symbol": 0,
    }

    buffer = np.frombuffer(content, np.uint8)
    ends = np.flatnonzero(buffer == ord("\n"))
    starts = np.concatenate([[0], ends[:-1] + 1]) + len("1723161253937085768 ")
    np.testing.assert_array_equal(bits(decoder.decode(content, starts, ends)), bits(expected))
    np.testing.assert_array_equal(bits(decoder.decode(memoryview(content), starts, ends)), bits(expected))
    np.testing.assert_array_equal(bits(decoder.decode(buffer, starts, ends)), bits(expected))


def test_trades_keep_the_order_of_their_frames_whichever_way_each_was_decoded() -> None:
    def frame(id_: int, space: str) -> bytes:
        return LAYOUTS["spot trade"].replace("3735683259", f"{space}{id_}").encode()

    frames = [frame(i, " " if i % 3 == 0 else "") for i in range(100)]
    frames[50:50] = [b"junk", b'{"u":1}', b"{}"]
    decoder = TradeDecoder(SYMBOLS)
    assert decode(decoder, frames)["id"].tolist() == list(range(100))
    assert decoder.counts.slow == 34 + 3


def test_no_frames_are_no_trades() -> None:
    decoder = TradeDecoder(SYMBOLS)
    assert len(decode(decoder, [])) == 0
    nothing = np.zeros(0, np.int64)
    assert decoder.decode(b"", nothing, nothing).dtype == TRADE
    check([b"", b"\n", b"", b"\n\n"])


@pytest.mark.parametrize(("start", "end"), [(-1, 5), (0, 11), (8, 3), (2**62, 2**62 + 5)])
def test_a_frame_that_does_not_lie_in_the_buffer_is_refused(start: int, end: int) -> None:
    with pytest.raises(ValueError, match=rf"frame 1 .*{start}.*{end}.*10"):
        TradeDecoder(SYMBOLS).decode(bytes(10), np.array([0, start]), np.array([5, end]))


@pytest.mark.skipif(sys.platform != "linux", reason="guards memory by Linux's mprotect")
def test_nothing_outside_the_buffer_is_read() -> None:
    page = mmap.PAGESIZE
    memory = mmap.mmap(-1, 3 * page)
    inner = np.frombuffer(memory, np.uint8)[page : 2 * page]
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    for neighbour in (inner.ctypes.data - page, inner.ctypes.data + page):
        assert protect(ctypes.c_void_p(neighbour), ctypes.c_size_t(page), 0) == 0  # whoever touches it dies
    decoder = TradeDecoder(SYMBOLS)
    for frame in EXAMPLES:
        for cut in range(len(frame)):
            for piece in (frame[cut:], frame[: len(frame) - cut]):
                size = len(piece)
                inner[:size] = inner[page - size :] = np.frombuffer(piece, np.uint8)
                for start in (0, page - size):
                    trades = decoder.decode(inner, np.array([start]), np.array([start + size]))
                    assert len(trades) == isinstance(reference(piece), tuple)


def test_offsets_that_do_not_match_are_refused() -> None:
    with pytest.raises(ValueError, match="2 and 1"):
        TradeDecoder(SYMBOLS).decode(bytes(10), np.array([0, 5]), np.array([5]))


def test_control_frames_are_handed_over() -> None:
    control = [
        b'{"result":null,"id":1}',
        b'{"code":2,"msg":"Invalid request: unknown variant"}',
        b'{"error":{"code":2,"msg":"Invalid request"},"id":2}',
        b'{"e":"serverShutdown","E":1770123456789}',
        b'{"stream":"!serverShutdown","data":{"e":"serverShutdown","E":1770123456789}}',
    ]
    ticker = b'{"stream":"btcusdt@bookTicker","data":{"u":1,"s":"BTCUSDT","b":"1","B":"2","a":"3","A":"4"}}'
    decoder = TradeDecoder(SYMBOLS)
    assert len(decode(decoder, [EXAMPLES[0], *control, ticker, b"[1]", b'{"x":1}'])) == 1
    assert decoder.others == control
    assert decoder.counts.other == len(control) + 3
    decode(decoder, [control[0]] * 1000)
    assert decoder.others == [control[0]] * 64
    decode(decoder, EXAMPLES)
    assert decoder.others == []


def test_a_frame_cut_short_is_malformed_whatever_it_was() -> None:
    ticker = b'{"e":"bookTicker","u":5123107839020,"s":"BTCUSDT","b":"61800.20","B":"2.507"}'
    decoder = TradeDecoder(SYMBOLS)
    wrapped = b'{"stream":"btcusdt@bookTicker","data":' + ticker + b"}"
    decode(decoder, [ticker, ticker[:-1], wrapped, wrapped[:-2]])
    assert (decoder.counts.other, decoder.counts.malformed) == (2, 2)


def test_malformed_frames_are_reported_once_for_each_kind() -> None:
    frames = [
        b'{"e":"trade"}',
        b'{"e":"trade","s":"BTCUSDT"}',
        b"not JSON",
        b"{",
        *[f[:-5] for f in EXAMPLES],
    ]
    decoder = TradeDecoder(SYMBOLS)
    with structlog.testing.capture_logs() as logs:
        decode(decoder, frames)
        decode(decoder, frames)
    assert decoder.counts.malformed == 2 * len(frames)
    assert [(entry["log_level"], entry["reason"]) for entry in logs] == [
        ("warning", "a trade without key 't'"),
        ("warning", "not JSON"),
    ]
