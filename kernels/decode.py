"""Decode Binance's trade messages in one compiled pass over the bytes that hold them.

A frame is one message of a stream, as the exchange sends it. The pass decodes frames that follow a known
layout to the byte, with whole numbers of up to 16 digits, and decimals that one exact division yields
correctly rounded. It says which frames are others, so that a general JSON parser can decode them. Frames that
begin like another event, such as a book ticker, are only counted. Figures: benchmarks/bench_decode.py.
"""

from collections.abc import Callable
from typing import Any, Final, cast

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from kernels.compile import inlined, kernel
from kernels.records import MILLISECOND, Block
from kernels.signatures import BYTES, INTEGERS, READ_ONLY_INTEGERS, TRADES

DECODED, OTHER, UNKNOWN_SYMBOL, SLOW = range(4)
"""What the pass makes of a frame: a trade; another event; a trade of a symbol that is not in the table; or a
frame that has to be decoded by a general parser."""

REACH: Final = 1024
"""Bytes behind the start of a frame that the pass may read: it takes names of at most 64 bytes and numbers of
at most 33, looks 64 bytes ahead, and no layout has 500 bytes of its own."""

LEAST_MICROSECONDS: Final = 100_000_000_000_000
"""Lower times are milliseconds: as microseconds, this is March 1973; as milliseconds, the year 5138."""

LONGEST_NAME: Final = 48
"""Bytes of a name in the table of symbols, at most: 8 first, 32 between, 8 last."""

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
    """Tell which of 32 bytes are not decimal digits: bit i is set for byte i."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _emit_mask(builder, args[0], 32, ord("0"), ">", 9)

    return types.uint64(types.uint64), emit


@_instruction
def _where(typing_context: Any, address: Any, character: Any) -> Any:
    """Tell which of 64 bytes equal a literal character: bit i is set for byte i."""
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
    """Tell whether a literal text is at an address; compares whole words, of which the last two overlap."""
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
    """Value of a JSON integer of 1 to 16 digits, and the address behind it, or 0 if there is none."""
    others = _others_than_digits(at)
    leading_zero = _byte(at) == np.uint64(ord("0"))
    # Most times have 13 digits. To test for that first, and not to wait for the count, saves 6 of 38 ns a
    # frame: everything that follows depends on where this number ends.
    if others & np.uint64(0x3FFF) == np.uint64(0x2000) and not leading_zero:
        return _digits(at, np.uint64(13)), at + np.uint64(13)
    digits = _first(others)
    if digits == _U0 or digits > _U16 or (leading_zero and digits > _U1):
        return _U0, _U0
    return _digits(at, digits), at + digits


@inlined
def _scan_decimal(at: np.uint64) -> tuple[np.float64, np.uint64]:
    """Value of a decimal, and the address behind it, or 0 if one exact division does not yield it."""
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
        if whole + places > np.uint64(15):  # maybe more than float64 holds, but the last ones may be zeros
            while places != _U0 and fraction % np.uint64(10) == _U0:
                fraction //= np.uint64(10)
                places -= _U1
            if whole + places > np.uint64(19):  # it would overflow below
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
def _slot(head: np.uint64, last: np.uint64, last_slot: np.uint64) -> np.uint64:
    """Slot of the table where the search for a name begins."""
    mixed = head ^ (last << np.uint64(23)) ^ (last >> np.uint64(41))
    return ((mixed * _HASH) >> _U32) & last_slot


@inlined
def _find(at: np.uint64, length: np.uint64, names: np.uint64, slots: np.uint64, last_slot: np.uint64) -> int:
    """Index of the symbol of a name, by the slots of its case, or -1 if the table does not have it."""
    if length == _U0 or length > np.uint64(LONGEST_NAME):
        return -1
    head, last = _ends(at, length)
    slot = _slot(head, last, last_slot)
    while True:
        index = np.int64(_load(slots + (slot << _U3)))
        if index < 0 or _is_name(at, length, head, last, names + (np.uint64(index) << _U7)):
            return int(index)
        slot = (slot + _U1) & last_slot


@inlined
def _is_other(at: np.uint64) -> bool:
    """Tell whether a payload begins like one of the usual events that are no trades."""
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
def _begin(at: np.uint64, end: np.uint64) -> tuple[int, np.uint64, np.uint64, np.uint64, bool]:
    """Read the beginning of a frame, up to its event time.

    :returns: DECODED for a trade, OTHER or SLOW; where the event time begins; where the name of a combined
        stream begins, 0 without one, and its length; whether it is an aggregate trade.
    """
    if not _at(at, '{"stream":"'):
        if _at(at, '{"e":"trade","E":'):
            return DECODED, at + np.uint64(17), _U0, _U0, False
        if _at(at, '{"e":"aggTrade","E":'):
            return DECODED, at + np.uint64(20), _U0, _U0, True
        return OTHER if _is_other(at) and at + _U32 < end else SLOW, at, _U0, _U0, False
    name = at + np.uint64(11)
    length = _first(_where(name, "@"))
    name_end = name + length
    if _at(name_end, '@trade","data":{"e":"trade","E":'):
        return DECODED, name_end + np.uint64(32), name, length, False
    if _at(name_end, '@aggTrade","data":{"e":"aggTrade","E":'):
        return DECODED, name_end + np.uint64(38), name, length, True
    quote = name_end + _first(_where(name_end, '"'))
    if _at(quote, '","data":') and _is_other(quote + np.uint64(9)) and quote + _U32 < end:
        return OTHER, at, name, length, False
    return SLOW, at, name, length, False


@inlined
def _scan_aggregate(at: np.uint64) -> tuple[np.uint64, np.uint64, np.uint64]:
    """First and last id of an aggregate trade, behind its quantity, and the address behind them, or 0."""
    if _at(at, '","nq":"'):  # USD-M since 2026: the quantity without retail price improvement orders
        _, at = _scan_decimal(at + np.uint64(8))
        if at == _U0:
            return _U0, _U0, _U0
    if not _at(at, '","f":'):
        return _U0, _U0, _U0
    first_id, at = _scan_integer(at + np.uint64(6))
    if at == _U0 or not _at(at, ',"l":'):
        return _U0, _U0, _U0
    last_id, at = _scan_integer(at + np.uint64(5))
    return first_id, last_id, at


@inlined
def _scan_kind(at: np.uint64, usdm: bool) -> tuple[bool, np.uint64]:
    """Whether a trade was made on the market, behind its quantity, and the address behind that, or 0."""
    if _at(at, '","b":'):  # order ids, until June 2024
        _, at = _scan_integer(at + np.uint64(6))
        if at == _U0 or not _at(at, ',"a":'):
            return True, _U0
        _, at = _scan_integer(at + np.uint64(5))
        return True, at
    if usdm and _at(at, '","X":"MARKET"'):
        return True, at + np.uint64(14)
    if usdm and _at(at, '","X":"'):
        at += _U7
        length = _first(_where(at, '"'))
        if length > _U32 or not _plain(at, length):
            return False, _U0
        return False, at + length + _U1
    if _at(at, '"'):
        return True, at + _U1
    return True, _U0


@inlined
def _ending(at: np.uint64, end: np.uint64, combined: bool) -> tuple[bool, bool]:
    """Read the end of a frame: whether it is as the layout says, and whether the buyer is the maker."""
    # Whether the buyer was the maker is random: no branch on it, as a wrongly predicted one costs 5 ns.
    maker = _at(at, ',"m":true')
    taker = _at(at, ',"m":false')
    if not (maker | taker):
        return False, False
    at += np.uint64(9) + np.uint64(taker)
    if _at(at, ',"M":true'):
        at += np.uint64(9)
    elif _at(at, ',"M":false'):
        at += np.uint64(10)
    closed = _at(at, "}}") if combined else _at(at, "}")
    return closed and at + _U1 + np.uint64(combined) == end, maker


@inlined
def _frame(
    at: np.uint64, end: np.uint64, names: np.uint64, slots: np.uint64, last_slot: np.uint64, trade: Any
) -> int:
    """Decode one frame of a known layout into a row.

    Each step checks that the text is what the layout says before the next one begins. So when the last step
    ends at the frame's end, all of the frame was checked, and nothing else was read as a part of it.

    :returns: DECODED, OTHER, UNKNOWN_SYMBOL or SLOW.
    """
    kind, at, stream, length, aggregate = _begin(at, end)
    if kind != DECODED:
        return kind
    symbol = -1
    if stream != _U0:
        symbol = _find(stream, length, names, slots, last_slot)
        if symbol < 0 and not _plain(stream, length):
            return SLOW
    _, at = _scan_integer(at)
    if at == _U0:
        return SLOW
    time = _U0
    early_time = _at(at, ',"T":')  # of USD-M trades; all others have it near the end
    if early_time:
        time, at = _scan_integer(at + np.uint64(5))
        if at == _U0:
            return SLOW

    if not _at(at, ',"s":"'):
        return SLOW
    at += np.uint64(6)
    if symbol >= 0:
        head, last = _ends(at, length)
        if not _is_name(at, length, head, last, names + (np.uint64(symbol) << _U7) + _U64):
            return SLOW
    else:
        length = _first(_where(at, '"'))
        symbol = _find(at, length, names + _U64, slots + ((last_slot + _U1) << _U3), last_slot)
        if symbol < 0 and (length > np.uint64(LONGEST_NAME) or not _plain(at, length)):
            return SLOW
    at += length

    if not (_at(at, '","a":') if aggregate else _at(at, '","t":')):
        return SLOW
    identity, at = _scan_integer(at + np.uint64(6))
    if at == _U0 or not _at(at, ',"p":"'):
        return SLOW
    price, at = _scan_decimal(at + np.uint64(6))
    if at == _U0 or not _at(at, '","q":"'):
        return SLOW
    quantity, at = _scan_decimal(at + np.uint64(7))
    if at == _U0:
        return SLOW

    first_id, last_id = identity, identity
    market = True
    if aggregate:
        first_id, last_id, at = _scan_aggregate(at)
    else:
        market, at = _scan_kind(at, early_time)
    if at == _U0:
        return SLOW
    if not early_time:
        if not _at(at, ',"T":'):
            return SLOW
        time, at = _scan_integer(at + np.uint64(5))
        if at == _U0:
            return SLOW
    whole, maker = _ending(at, end, stream != _U0)
    if not whole:
        return SLOW
    if symbol < 0:
        return UNKNOWN_SYMBOL

    trade.id = identity
    trade.first_id = first_id
    trade.last_id = last_id
    trade.time = time * np.uint64(MILLISECOND) if time < np.uint64(LEAST_MICROSECONDS) else time
    trade.price = price
    trade.quantity = quantity
    trade.symbol = symbol
    trade.buyer_is_maker = maker
    trade.in_bars = market and price != 0.0
    return DECODED


@kernel(
    types.int64(
        BYTES,
        READ_ONLY_INTEGERS,
        READ_ONLY_INTEGERS,
        types.uint64[:, ::1],
        types.int64[:, ::1],
        types.uint8[::1],
        TRADES,
        types.int64[:, ::1],
        INTEGERS,
    )
)
def decode(
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
    """Decode frames, and leave a row free for each one that a general parser has to decode.

    :arg buffer: The bytes that hold the frames.
    :arg starts: Offset of the first byte of each.
    :arg ends: Offset behind its last byte.
    :arg names: Names of symbols, see `new_name_table`.
    :arg slots: Slots of the names, see `new_name_table`.
    :arg scratch: REACH bytes, for frames so near the buffer's end that looking ahead would leave it.
    :arg rows: Receives the trades: a TRADE block with room for every frame.
    :arg slow: Receives the index of each frame that is left, and of its row; 2 x frames.
    :arg outcomes: Counts DECODED, OTHER, UNKNOWN_SYMBOL and SLOW; is added to.
    :returns: How many rows are taken, or -1 - i if frame i does not lie in the buffer.
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
        if start + REACH > size:
            kept = min(end - start, REACH)
            for j in range(kept):
                scratch[j] = buffer[start + j]
            for j in range(kept, REACH):
                scratch[j] = 0
            at, stop = scratch_at, scratch_at + np.uint64(end - start)
        outcome = SLOW
        if end > start and buffer[end - 1] == ord("}"):
            outcome = _frame(at, stop, names_at, slots_at, last_slot, rows[row])
        outcomes[outcome] += 1
        if outcome == SLOW:
            slow[0, left] = i
            slow[1, left] = row
            left += 1
        row += outcome in (SLOW, DECODED)
    return row


def new_name_table(symbols: int) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Make an empty table of symbols' names, for `fill_name_table`.

    :arg symbols: How many there will be.
    :returns: Names, symbols x 16: 8 words for a symbol's lower case name (in the names of streams), then 8
        for its upper case one: first 8 bytes, last 8 bytes, length, bytes 8 to 48. And slots, 2 x a power of
        two: by case and by hash of the name, the index of a symbol, or -1.
    """
    names = np.zeros((max(symbols, 1), 16), np.uint64)
    slots = np.full((2, 1 << (4 * symbols + 64).bit_length()), -1, np.int64)
    return names, slots


@kernel(
    types.void(BYTES, types.int64[:, ::1], types.int64[:, ::1], types.uint64[:, ::1], types.int64[:, ::1])
)
def fill_name_table(
    text: NDArray[np.uint8],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    names: NDArray[np.uint64],
    slots: NDArray[np.int64],
) -> None:
    """Enter symbols into an empty table; `decode` does not find those of which a name is too long.

    :arg text: All names as they are spelled in a frame. 8 bytes of anything stand before the first one.
    :arg starts: Offset of the lower case name and of the upper case name of each symbol, symbols x 2.
    :arg ends: Offset behind each name, likewise.
    :arg names: Names of a `new_name_table`. Is filled.
    :arg slots: Slots of it. Is filled.
    """
    base = np.uint64(text.ctypes.data)
    last_slot = np.uint64(slots.shape[1] - 1)
    for index in range(len(starts)):
        lengths = ends[index] - starts[index]
        if lengths.min() < 1 or lengths.max() > LONGEST_NAME:
            continue
        for case in range(2):
            start, length = starts[index, case], lengths[case]
            head, last = _ends(base + np.uint64(start), np.uint64(length))
            word = 8 * case
            names[index, word], names[index, word + 1], names[index, word + 2] = head, last, np.uint64(length)
            for i in range(8, length):
                byte = np.uint64(text[start + i])
                names[index, word + 3 + (i - 8) // 8] |= byte << np.uint64(8 * (i % 8))
            slot = _slot(head, last, last_slot)
            while slots[case, slot] >= 0:
                slot = (slot + _U1) & last_slot
            slots[case, slot] = index
