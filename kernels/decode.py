"""Turn raw Binance WebSocket frames into TRADE blocks.

    decoder = TradeDecoder(["BTCUSDT", "ETHUSDT"])
    trades = decoder.decode(frames)

Frames are taken as the exchange sends them: bare or wrapped by a combined stream, of spot or USD-M futures,
on `trade` or `aggTrade` streams, in milliseconds or microseconds.

One compiled pass over the joined frames reads those that follow the known layouts to the byte, whole numbers
of up to 16 digits, and decimals that one exact division yields correctly rounded. All others, and only they,
go through a general JSON parser (`DecodeCounts.slow`), with the same result. Frames that begin as some other
event does, such as a book ticker, are not read any further. Figures: benchmarks/bench_decode.py.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite, nan
from typing import Any, TypeVar, cast

import numpy as np
import orjson
import structlog
from llvmlite import ir
from numba import from_dtype, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from kernels.compile import inlined, kernel, warm_up
from kernels.records import MILLISECOND, TRADE, Block

_log = structlog.get_logger()

_T = TypeVar("_T")

_OTHERS = 64
_CONTROL_KEYS = ("result", "error", "code")
_LEAST_MICROSECONDS = 100_000_000_000_000  # March 1973; read as milliseconds, the year 5138
_DECIMAL = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")

# What the compiled pass may make of a frame.
_TRADE, _OTHER, _UNKNOWN, _SLOW = 0, 1, 2, 3

# The pass never looks further than this from where a frame starts: it takes names of at most 64 bytes and
# numbers of at most 33, looks 64 bytes ahead, and no layout has 500 bytes of its own.
_REACH = 1024

_NAME = 48  # longest name the table holds, bytes: 8 first, 32 between, 8 last
_HASH = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio: Fibonacci hashing

_U0, _U1, _U3, _U7, _U8, _U16, _U32, _U64 = (np.uint64(n) for n in (0, 1, 3, 7, 8, 16, 32, 64))
_EXACT = np.uint64(2**53)  # integers up to here are float64 without rounding
_TENS = 10 ** np.arange(20, dtype=np.uint64)
_FLOAT_TENS = np.array([float(10**n) for n in range(20)])  # exact up to 10**22


def _instruction(function: Callable[..., Any]) -> Callable[..., Any]:
    """Declare code that numba has no expression for; literal arguments reach it as literals."""
    return cast(Callable[..., Any], intrinsic(prefer_literal=True)(function))


@_instruction
def _load(typing_context: Any, address: Any) -> Any:
    """Load 8 bytes; the first is the least significant."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(builder.inttoptr(args[0], ir.IntType(64).as_pointer()), align=1)

    return types.uint64(types.uint64), emit


@_instruction
def _byte(typing_context: Any, address: Any) -> Any:
    """Load one byte."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        byte = builder.load(builder.inttoptr(args[0], ir.IntType(8).as_pointer()))
        return builder.zext(byte, ir.IntType(64))

    return types.uint64(types.uint64), emit


def _emit_mask(builder: Any, address: Any, width: int, less: int, relation: str, than: int) -> Any:
    vector = ir.VectorType(ir.IntType(8), width)
    text = builder.load(builder.inttoptr(address, vector.as_pointer()), align=1)
    hit = builder.icmp_unsigned(
        relation, builder.sub(text, ir.Constant(vector, [less] * width)), ir.Constant(vector, [than] * width)
    )
    mask = builder.bitcast(hit, ir.IntType(width))
    return mask if width == 64 else builder.zext(mask, ir.IntType(64))


@_instruction
def _others_than_digits(typing_context: Any, address: Any) -> Any:
    """Tell which of 32 bytes are no decimal digits: bit i stands for byte i."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _emit_mask(builder, args[0], 32, ord("0"), ">", 9)

    return types.uint64(types.uint64), emit


@_instruction
def _where(typing_context: Any, address: Any, character: Any) -> Any:
    """Tell which of 64 bytes equal a literal character: bit i stands for byte i."""
    wanted = ord(character.literal_value)

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _emit_mask(builder, args[0], 64, 0, "==", wanted)

    return types.uint64(types.uint64, character), emit


@_instruction
def _first(typing_context: Any, mask: Any) -> Any:
    """Count trailing zeros: the index of the first hit in a mask, 64 without any."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 0))

    return types.uint64(types.uint64), emit


@_instruction
def _at(typing_context: Any, address: Any, text: Any) -> Any:
    """Tell whether a literal text stands at an address; compares whole words, the last ones overlapping."""
    wanted = text.literal_value.encode()

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        size = next(size for size in (8, 4, 2, 1) if size <= len(wanted))
        word = ir.IntType(8 * size)
        differs = ir.Constant(word, 0)
        for offset in [*range(0, len(wanted) - size, size), len(wanted) - size]:
            place = builder.add(args[0], ir.Constant(ir.IntType(64), offset))
            found = builder.load(builder.inttoptr(place, word.as_pointer()), align=1)
            expected = ir.Constant(word, int.from_bytes(wanted[offset : offset + size], "little"))
            differs = builder.or_(differs, builder.xor(found, expected))
        return builder.icmp_unsigned("==", differs, ir.Constant(word, 0))

    return types.boolean(types.uint64, text), emit


@inlined
def _eight_digits(word: np.uint64) -> np.uint64:
    """Value of eight digits 0..9, the first in the lowest byte: merges neighbours, 1 + 1, 2 + 2, 4 + 4."""
    word = word * np.uint64(10) + (word >> _U8)
    pairs = np.uint64(0x000000FF000000FF)
    upper = (word & pairs) * np.uint64(100 + (1_000_000 << 32))
    lower = ((word >> _U16) & pairs) * np.uint64(1 + (10_000 << 32))
    return (upper + lower) >> _U32


@inlined
def _few_digits(at: np.uint64, digits: np.uint64) -> np.uint64:
    """Value of 1 to 8 digits; the shift drops what follows them and puts zeros in front."""
    return _eight_digits((_load(at) & np.uint64(0x0F0F0F0F0F0F0F0F)) << (_U64 - (digits << _U3)))


@inlined
def _digits(at: np.uint64, digits: np.uint64) -> np.uint64:
    """Value of 1 to 16 digits."""
    if digits <= _U8:
        return _few_digits(at, digits)
    return _few_digits(at, digits - _U8) * np.uint64(100_000_000) + _few_digits(at + digits - _U8, _U8)


@inlined
def _scan_integer(at: np.uint64) -> tuple[np.uint64, np.uint64]:
    """Value of a JSON integer of 1 to 16 digits, and the address behind it; 0 where there is none such."""
    others = _others_than_digits(at)
    leading_zero = _byte(at) == np.uint64(ord("0"))
    # Times have 13 digits. To assume it until checked, instead of to wait for the count, took a decoded frame
    # from 38 to 32 ns: all that follows depends on where this ends.
    if others & np.uint64(0x3FFF) == np.uint64(0x2000) and not leading_zero:
        return _digits(at, np.uint64(13)), at + np.uint64(13)
    digits = _first(others)
    if digits == _U0 or digits > _U16 or (leading_zero and digits > _U1):
        return _U0, _U0
    return _digits(at, digits), at + digits


@inlined
def _scan_decimal(at: np.uint64) -> tuple[np.float64, np.uint64]:
    """Value of a decimal, and the address behind it; 0 where there is none that one exact division yields."""
    others = _others_than_digits(at)
    whole = _first(others)
    if whole == _U0 or whole > _U16:
        return np.float64(0.0), _U0
    mantissa = _digits(at, whole)
    length, places = whole, _U0
    if _byte(at + whole) == np.uint64(ord(".")):
        length = _first(others & (others - _U1))
        places = length - whole - _U1
        if places == _U0 or places > _U16:
            return np.float64(0.0), _U0
        fraction = _digits(at + whole + _U1, places)
        if whole + places > np.uint64(15):  # maybe more than float64 holds, unless it only ends in zeros
            while places != _U0 and fraction % np.uint64(10) == _U0:
                fraction //= np.uint64(10)
                places -= _U1
            if whole + places > np.uint64(19):  # nor may it overflow here
                return np.float64(0.0), _U0
        mantissa = mantissa * _TENS[places] + fraction
    if mantissa > _EXACT:
        return np.float64(0.0), _U0
    # Both are exact, so the division rounds once, as float(text) does (Clinger 1990, the fast path).
    return np.float64(np.int64(mantissa)) / _FLOAT_TENS[places], at + length


@inlined
def _plain(at: np.uint64, length: np.uint64) -> bool:
    """Tell whether a text is printable ASCII without quotes and escapes, hence a valid JSON string."""
    for i in range(length):
        byte = _byte(at + np.uint64(i))
        if (
            byte < np.uint64(0x20)
            or byte > np.uint64(0x7E)
            or byte == np.uint64(0x22)
            or byte == np.uint64(0x5C)
        ):
            return False
    return True


@inlined
def _ends(at: np.uint64, length: np.uint64) -> tuple[np.uint64, np.uint64]:
    """First and last 8 bytes of a name, both the same where it is shorter; reads up to 7 bytes before it."""
    last = _load(at + length - _U8)
    if length < _U8:
        last >>= _U64 - (length << _U3)
        return last, last
    return _load(at), last


@inlined
def _is_name(at: np.uint64, length: np.uint64, head: np.uint64, last: np.uint64, name: np.uint64) -> bool:
    """Compare a text with a row of the name table: first bytes, last bytes, length, and what is between."""
    if _load(name) != head or _load(name + _U8) != last or _load(name + _U16) != length:
        return False
    offset = _U8
    while offset + _U8 < length:
        if _load(at + offset) != _load(name + _U16 + offset):
            return False
        offset += _U8
    return True


@inlined
def _find(at: np.uint64, length: np.uint64, names: np.uint64, slots: np.uint64, last_slot: np.uint64) -> int:
    """Index of a symbol by its name in one of both cases, -1 where the table has none such."""
    if length == _U0 or length > np.uint64(_NAME):
        return -1
    head, last = _ends(at, length)
    slot = (((head ^ (last << np.uint64(23)) ^ (last >> np.uint64(41))) * _HASH) >> _U32) & last_slot
    while True:
        index = np.int64(_load(slots + (slot << _U3)))
        if index < 0 or _is_name(at, length, head, last, names + (np.uint64(index) << _U7)):
            return int(index)
        slot = (slot + _U1) & last_slot


@inlined
def _is_other(at: np.uint64) -> bool:
    """Tell whether a payload announces itself as one of the usual events that are no trades."""
    return bool(
        _at(at, '{"u":')
        or _at(at, '{"e":"bookTicker"')
        or _at(at, '{"e":"depthUpdate"')
        or _at(at, '{"e":"kline"')
        or _at(at, '{"e":"markPriceUpdate"')
        or _at(at, '{"e":"24hr')
        or _at(at, '{"lastUpdateId":')
    )


@inlined
def _frame(
    at: np.uint64, end: np.uint64, names: np.uint64, slots: np.uint64, last_slot: np.uint64, trade: Any
) -> int:
    """Decode one frame of a known layout into a row.

    Every step checks that the text is what the layout says before it goes on, so when the last one stops at
    the frame's end, all of the frame was checked, and nothing else.
    """
    symbol = -1
    length = _U0
    aggregate = False
    combined = _at(at, '{"stream":"')
    if combined:
        at += np.uint64(11)
        length = _first(_where(at, "@"))
        name_end = at + length
        if _at(name_end, '@trade","data":{"e":"trade","E":'):
            payload = name_end + np.uint64(32)
        elif _at(name_end, '@aggTrade","data":{"e":"aggTrade","E":'):
            payload = name_end + np.uint64(38)
            aggregate = True
        else:
            quote = name_end + _first(_where(name_end, '"'))
            if _at(quote, '","data":') and _is_other(quote + np.uint64(9)) and quote + _U32 < end:
                return _OTHER
            return _SLOW
        symbol = _find(at, length, names, slots, last_slot)
        if symbol < 0 and not _plain(at, length):
            return _SLOW
        at = payload
    elif _at(at, '{"e":"trade","E":'):
        at += np.uint64(17)
    elif _at(at, '{"e":"aggTrade","E":'):
        at += np.uint64(20)
        aggregate = True
    else:
        if _is_other(at) and at + _U32 < end:
            return _OTHER
        return _SLOW

    _, at = _scan_integer(at)
    if at == _U0:
        return _SLOW
    time = _U0
    early_time = _at(at, ',"T":')  # of USD-M trades; all others have it near the end
    if early_time:
        time, at = _scan_integer(at + np.uint64(5))
        if at == _U0:
            return _SLOW

    if not _at(at, ',"s":"'):
        return _SLOW
    at += np.uint64(6)
    if symbol >= 0:
        head, last = _ends(at, length)
        if not _is_name(at, length, head, last, names + (np.uint64(symbol) << _U7) + _U64):
            return _SLOW
    else:
        length = _first(_where(at, '"'))
        symbol = _find(at, length, names + _U64, slots + ((last_slot + _U1) << _U3), last_slot)
        if symbol < 0 and (length > np.uint64(_NAME) or not _plain(at, length)):
            return _SLOW
    at += length

    if not (_at(at, '","a":') if aggregate else _at(at, '","t":')):
        return _SLOW
    identity, at = _scan_integer(at + np.uint64(6))
    if at == _U0 or not _at(at, ',"p":"'):
        return _SLOW
    price, at = _scan_decimal(at + np.uint64(6))
    if at == _U0 or not _at(at, '","q":"'):
        return _SLOW
    quantity, at = _scan_decimal(at + np.uint64(7))
    if at == _U0:
        return _SLOW

    first_id, last_id = identity, identity
    market = True
    if aggregate:
        if _at(at, '","nq":"'):  # USD-M since 2026: the quantity without retail price improvement orders
            _, at = _scan_decimal(at + np.uint64(8))
            if at == _U0:
                return _SLOW
        if not _at(at, '","f":'):
            return _SLOW
        first_id, at = _scan_integer(at + np.uint64(6))
        if at == _U0 or not _at(at, ',"l":'):
            return _SLOW
        last_id, at = _scan_integer(at + np.uint64(5))
        if at == _U0:
            return _SLOW
    elif _at(at, '","b":'):  # order ids, until June 2024
        _, at = _scan_integer(at + np.uint64(6))
        if at == _U0 or not _at(at, ',"a":'):
            return _SLOW
        _, at = _scan_integer(at + np.uint64(5))
        if at == _U0:
            return _SLOW
    elif early_time and _at(at, '","X":"MARKET"'):
        at += np.uint64(14)
    elif early_time and _at(at, '","X":"'):
        at += _U7
        length = _first(_where(at, '"'))
        if length > _U32 or not _plain(at, length):
            return _SLOW
        at += length + _U1
        market = False
    elif _at(at, '"'):
        at += _U1
    else:
        return _SLOW

    if not early_time:
        if not _at(at, ',"T":'):
            return _SLOW
        time, at = _scan_integer(at + np.uint64(5))
        if at == _U0:
            return _SLOW

    # Whether the buyer was the maker is a toss-up: no branch on it, a wrongly predicted one costs 5 ns.
    maker = _at(at, ',"m":true')
    taker = _at(at, ',"m":false')
    if not (maker | taker):
        return _SLOW
    at += np.uint64(9) + np.uint64(taker)
    if _at(at, ',"M":true'):
        at += np.uint64(9)
    elif _at(at, ',"M":false'):
        at += np.uint64(10)
    if not (_at(at, "}}") if combined else _at(at, "}")) or at + _U1 + np.uint64(combined) != end:
        return _SLOW
    if symbol < 0:
        return _UNKNOWN

    trade.id = identity
    trade.first_id = first_id
    trade.last_id = last_id
    trade.time = time * np.uint64(MILLISECOND) if time < np.uint64(_LEAST_MICROSECONDS) else time
    trade.price = price
    trade.quantity = quantity
    trade.symbol = symbol
    trade.buyer_is_maker = maker
    trade.in_bars = market and price != 0.0
    return _TRADE


_BYTES = types.Array(types.uint8, 1, "C", readonly=True)
_OFFSETS = types.Array(types.int64, 1, "C", readonly=True)


@kernel(
    types.int64(
        _BYTES,
        _OFFSETS,
        _OFFSETS,
        types.uint64[:, ::1],
        types.int64[:, ::1],
        types.uint8[::1],
        from_dtype(TRADE)[::1],
        types.int64[:, ::1],
        types.int64[::1],
    )
)
def _decode(
    buffer: NDArray[np.uint8],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    names: NDArray[np.uint64],
    slots: NDArray[np.int64],
    scratch: NDArray[np.uint8],
    rows: Block,
    slow: NDArray[np.int64],
    outcomes: NDArray[np.int64],
) -> int:
    """Decode frames; leave a row free for each one that is to be decoded slowly.

    :arg scratch: _REACH bytes, for frames so near the buffer's end that looking ahead would leave it.
    :arg rows: Out, one for each frame.
    :arg slow: Out, frame and row of each one left, 2 x frames.
    :arg outcomes: Out, how many frames had each outcome.
    :returns: Number of rows taken, or -1 - i when frame i does not lie in the buffer.
    """
    size = len(buffer)
    base = np.uint64(buffer.ctypes.data)
    scratch_at = np.uint64(scratch.ctypes.data)
    names_at, slots_at = np.uint64(names.ctypes.data), np.uint64(slots.ctypes.data)
    last_slot = np.uint64(slots.shape[1] - 1)
    row = 0
    left = 0
    for i in range(len(starts)):
        start, end = starts[i], ends[i]
        if start < 0 or end < start or end > size:
            return -1 - i
        at, stop = base + np.uint64(start), base + np.uint64(end)
        if start + _REACH > size:
            kept = min(end - start, _REACH)
            for j in range(kept):
                scratch[j] = buffer[start + j]
            for j in range(kept, _REACH):
                scratch[j] = 0
            at, stop = scratch_at, scratch_at + np.uint64(end - start)
        outcome = _SLOW
        if end > start and buffer[end - 1] == ord("}"):
            outcome = _frame(at, stop, names_at, slots_at, last_slot, rows[row])
        outcomes[outcome] += 1
        if outcome == _SLOW:
            slow[0, left] = i
            slow[1, left] = row
            left += 1
        row += outcome in (_SLOW, _TRADE)
    return row


@kernel(types.int64(_BYTES, types.int64[::1], types.int64[::1]))
def _split(buffer: NDArray[np.uint8], starts: NDArray[np.int64], ends: NDArray[np.int64]) -> int:
    """Find where the lines of a buffer start and end; the last line needs no line feed.

    :returns: Number of lines, or -1 where it is not that of the offsets asked for.
    """
    base = np.uint64(buffer.ctypes.data)
    size = len(buffer)
    line = 0
    starts[0] = 0
    for block in range(0, size, 64):
        if block + 64 <= size:
            mask = _where(base + np.uint64(block), "\n")
        else:
            mask = _U0
            for i in range(block, size):
                if buffer[i] == ord("\n"):
                    mask |= _U1 << np.uint64(i - block)
        while mask != _U0:
            if line + 1 == len(starts):
                return -1
            place = block + np.int64(_first(mask))
            ends[line] = place
            line += 1
            starts[line] = place + 1
            mask &= mask - _U1
    ends[line] = size
    return line + 1 if line + 1 == len(starts) else -1


@dataclass(slots=True)
class DecodeCounts:
    """What became of all frames so far: ``frames == trades + other + malformed + unknown_symbol``."""

    frames: int = 0
    trades: int = 0
    other: int = 0
    """No trade: book tickers, depth, klines, answers to requests, any other JSON."""
    slow: int = 0
    """Frames, of whatever outcome, that differ from the usual layouts and were parsed as general JSON."""
    malformed: int = 0
    """Not JSON, or a trade that lacks a field or has one of the wrong type; each kind is logged once."""
    unknown_symbol: int = 0
    """Trades of a symbol that is not in the table."""


class TradeDecoder:
    """Turn raw frames into TRADE blocks. One thread at a time may use it; decoding holds no GIL.

    :arg symbols: The run's symbol table, upper case as in the frames; the index becomes ``TRADE["symbol"]``.
    :raises ValueError: A symbol stands twice in the table.
    """

    counts: DecodeCounts
    """Running totals."""
    others: list[bytes]
    """Control frames of the last call, at most 64: answers to requests, errors, ``serverShutdown``."""

    def __init__(self, symbols: Sequence[str]) -> None:
        self._symbols = {symbol: i for i, symbol in enumerate(symbols)}
        if len(self._symbols) < len(symbols):
            twice = sorted({symbol for symbol in symbols if symbols.count(symbol) > 1})
            message = (
                f"each symbol may stand in the symbol table once, but {', '.join(twice)} stands there again"
            )
            raise ValueError(message)
        self._names, self._slots = _name_table(symbols)
        self._scratch = np.zeros(_REACH, np.uint8)
        self._reported: set[str] = set()
        self.counts = DecodeCounts()
        self.others = []
        warm_up(_decode, _split)

    def decode(self, frames: Sequence[bytes]) -> Block:
        """Decode frames.

        :arg frames: Raw messages, UTF-8.
        :returns: TRADE block in the frames' order.
        """
        if not frames:
            self.others = []
            return np.zeros(0, TRADE)
        joined = b"\n".join(frames)
        starts, ends = np.empty((2, len(frames)), np.int64)
        if _split(np.frombuffer(joined, np.uint8), starts, ends) < 0:  # a frame has line feeds of its own
            lengths = np.fromiter(map(len, frames), np.int64, len(frames))
            np.cumsum(lengths + 1, out=ends)
            ends -= 1
            np.subtract(ends, lengths, out=starts)
        return self.decode_buffer(joined, starts, ends)

    def decode_buffer(
        self,
        buffer: bytes | memoryview | NDArray[np.uint8],
        starts: NDArray[np.int64],
        ends: NDArray[np.int64],
    ) -> Block:
        """Decode frames that lie in one buffer, as a recording holds them.

        :arg buffer: Bytes that hold the frames.
        :arg starts: Offset of each frame's first byte, int64.
        :arg ends: Offset behind each frame's last byte, int64.
        :returns: TRADE block in the frames' order.
        :raises ValueError: A frame does not lie in the buffer, or lacks its start or end.
        """
        self.others = []
        data = np.frombuffer(buffer, np.uint8)
        starts, ends = np.ascontiguousarray(starts, np.int64), np.ascontiguousarray(ends, np.int64)
        if starts.shape != ends.shape:
            message = f"each frame needs a start and an end, but there are {len(starts)} and {len(ends)}"
            raise ValueError(message)
        rows = np.zeros(len(starts), TRADE)
        slow = np.empty((2, len(starts)), np.int64)
        outcomes = np.zeros(4, np.int64)
        used = _decode(data, starts, ends, self._names, self._slots, self._scratch, rows, slow, outcomes)
        if used < 0:
            i = -1 - used
            message = f"frame {i} spans bytes {starts[i]} to {ends[i]}, but the buffer has {len(data)}"
            raise ValueError(message)
        counts = self.counts
        counts.frames += len(starts)
        counts.other += int(outcomes[_OTHER])
        counts.unknown_symbol += int(outcomes[_UNKNOWN])
        rows = rows[:used]
        vacant = []
        for i, row in slow[:, : outcomes[_SLOW]].T.tolist():
            trade = self._decode_slowly(data[starts[i] : ends[i]].tobytes())
            if trade is None:
                vacant.append(row)
            else:
                rows[row] = trade
        if vacant:
            rows = np.delete(rows, vacant)
        counts.trades += len(rows)
        return rows

    def _decode_slowly(self, frame: bytes) -> tuple[Any, ...] | None:
        """Decode one frame by a general JSON parser.

        :returns: Fields of a TRADE, or None; what else it was is counted.
        """
        self.counts.slow += 1
        try:
            row = self._parse(frame)
        except ValueError as error:
            self.counts.malformed += 1
            reason = str(error)
            if reason not in self._reported:
                self._reported.add(reason)
                _log.warning(
                    "malformed frame; more of this kind are only counted", reason=reason, frame=frame[:300]
                )
            return None
        if row is not None and row[6] < 0:
            self.counts.unknown_symbol += 1
            return None
        return row

    def _parse(self, frame: bytes) -> tuple[Any, ...] | None:
        message = _loads(frame)
        if not isinstance(message, dict):
            self.counts.other += 1
            return None
        data = message.get("data", message)
        event = data.get("e") if isinstance(data, dict) else None
        if event != "trade" and event != "aggTrade":
            self.counts.other += 1
            if event == "serverShutdown" or not message.keys().isdisjoint(_CONTROL_KEYS):
                self.others = [*self.others, frame][:_OTHERS]
            return None
        try:
            if event == "trade":
                id_ = first_id = last_id = _integer(data, "t")
            else:
                id_, first_id, last_id = _integer(data, "a"), _integer(data, "f"), _integer(data, "l")
            time, price, quantity = _integer(data, "T"), _decimal(data, "p"), _decimal(data, "q")
            symbol, buyer_is_maker = _typed(data, "s", str), _typed(data, "m", bool)
            in_bars = data.get("X", "MARKET") == "MARKET" and price != 0.0
        except KeyError as error:
            reason = f"a trade without key {error}"
            raise ValueError(reason) from None
        if abs(time) < _LEAST_MICROSECONDS:
            time *= MILLISECOND
        row = self._symbols.get(symbol, -1)
        return id_, first_id, last_id, time, price, quantity, row, buyer_is_maker, in_bars


def _loads(frame: bytes) -> Any:
    try:
        return orjson.loads(frame)
    except orjson.JSONDecodeError:
        reason = "not JSON"
        raise ValueError(reason) from None


def _typed(data: dict[str, Any], key: str, kind: type[_T]) -> _T:
    value = data[key]
    if type(value) is not kind:
        reason = f"a trade whose {key!r} is not of type {kind.__name__}"
        raise ValueError(reason)
    return value


def _integer(data: dict[str, Any], key: str) -> int:
    value = _typed(data, key, int)
    if not -(2**63) <= value < 2**63:
        reason = f"a trade whose {key!r} has more than 64 bits"
        raise ValueError(reason)
    return value


def _decimal(data: dict[str, Any], key: str) -> float:
    text = _typed(data, key, str)
    number = float(text) if _DECIMAL.fullmatch(text) else nan
    if not isfinite(number):
        reason = f"a trade whose {key!r} is not a finite decimal number"
        raise ValueError(reason)
    return number


def _name_table(symbols: Sequence[str]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Lay out the names of all symbols for `_find`.

    :returns: Names: a symbol's lower case name (of its streams), then its upper case one, 8 words each: first
        8 bytes, last 8, length, bytes 8 to 48. And slots: by case and hash, index of a symbol, or -1.
    """
    names = np.zeros((max(len(symbols), 1), 16), np.uint64)
    slots = np.full((2, 1 << (4 * len(symbols) + 64).bit_length()), -1, np.int64)
    mask = slots.shape[1] - 1
    for index, symbol in enumerate(symbols):
        spellings = [orjson.dumps(spelling)[1:-1] for spelling in (symbol.lower(), symbol)]  # as in a frame
        if not all(0 < len(name) <= _NAME for name in spellings):
            continue
        for case, name in enumerate(spellings):
            head = int.from_bytes(name[:8], "little")
            last = int.from_bytes(name[-8:], "little")
            words = names[index, 8 * case : 8 * case + 8]
            words[:3] = head, last, len(name)
            words[3:] = np.frombuffer(name[8:].ljust(40, b"\0"), "<u8")
            mixed = (head ^ (last << 23) ^ (last >> 41)) & 0xFFFFFFFFFFFFFFFF
            slot = ((mixed * int(_HASH) & 0xFFFFFFFFFFFFFFFF) >> 32) & mask
            while slots[case, slot] >= 0:
                slot = (slot + 1) & mask
            slots[case, slot] = index
    return names, slots
