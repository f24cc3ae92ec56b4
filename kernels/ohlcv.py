"""OHLCV bars from trades: exact sums, closing by event time, and late trades that reopen their bar.

Every trade passes through once. Its price and quantity, decimal numbers of at most eight places, are turned
back into integers of 1e-8, and sums are kept in 128-bit integers: volume in 1e-8, quote volume in 1e-16,
up to 3.4e22 a bar.
Integer sums neither round nor depend on the order of their terms, so a bar built from trades, from
aggregates, in one block or in many, in order or with late ones, has the same bits, and prints as the
exchange prints it: each sum is rounded once, when its bar is emitted.

Bars of each timeframe and symbol live in a ring of the most recent intervals. A bar closes when the market's
event time passes its end plus the allowed lateness. A trade of a closed bar marks the bar; it is emitted
again, with a higher version, at the next closing of any bar, and so are the bars without trades behind it
that repeat its close.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import from_dtype, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from kernels.compile import inlined, kernel
from kernels.records import BAR, TRADE, Block

SLOT = np.dtype(
    [
        ("index", np.int64),  # open time / timeframe; EMPTY where the slot holds no bar
        ("open", np.float64),
        ("high", np.float64),
        ("low", np.float64),
        ("close", np.float64),
        ("first_id", np.int64),
        ("last_id", np.int64),
        ("trades", np.int64),
        ("volume", np.uint64, (2,)),  # 128-bit two's complement, low word first, unit 1e-8
        ("quote_volume", np.uint64, (2,)),  # unit 1e-16
        ("taker_buy_volume", np.uint64, (2,)),
        ("taker_buy_quote_volume", np.uint64, (2,)),
        ("changed", np.bool_),  # closed, and a trade came since it was emitted
        ("provisional", np.bool_),  # emitted as provisional
        ("holed", np.bool_),  # ids inside it are lost for good: provisional for ever
    ],
    align=True,
)

CLOCK = np.dtype(
    [
        ("watermark", np.int64),  # highest event time seen, us
        ("due", np.int64),  # event time at which the next bar closes
        ("start", np.int64),  # event time of the first trade: bars that opened before it are provisional
        ("too_late", np.int64),  # trades whose bar had left the ring, counted once per timeframe
    ],
    align=True,
)

SYMBOL = np.dtype(
    [
        ("gaps", np.int64),  # open gaps
        ("revision", np.int64),  # times a bar of this symbol was emitted again
        ("time", np.int64),  # latest trade time
        ("pending", np.bool_),  # trades of this block not yet in the slots
        ("changed", np.bool_),  # some slot is marked changed
        ("holed", np.bool_),  # the next trade follows ids that are lost
    ],
    align=True,
)

EMPTY = -1
CARRY_LIMIT = 10_000
"""Intervals without any trade in the whole market that are filled with repeated closes. A longer silence is a
feed that was away, not a quiet market: bars go on where trades do."""

_BARS = types.Array(from_dtype(BAR), 1, "C")
_TRADES = types.Array(from_dtype(TRADE), 1, "C", readonly=True)
_CLOCKS = types.Array(from_dtype(CLOCK), 1, "C")
_SYMBOLS = types.Array(from_dtype(SYMBOL), 1, "C")
_PARTS = types.Array(from_dtype(SLOT), 1, "C")
_SLOTS = types.Array(from_dtype(SLOT), 3, "C")
_INTS = types.Array(types.int64, 1, "C")
_FLAGS = types.Array(types.boolean, 1, "C")
_CLOSES = types.Array(types.float64, 2, "C")
_BARS = types.Array(from_dtype(BAR), 1, "C")
_TRADES = types.Array(from_dtype(TRADE), 1, "C", readonly=True)
_CLOCKS = types.Array(from_dtype(CLOCK), 1, "C")
_SYMBOLS = types.Array(from_dtype(SYMBOL), 1, "C")
_PARTS = types.Array(from_dtype(SLOT), 1, "C")
_SLOTS = types.Array(from_dtype(SLOT), 3, "C")
_INTS = types.Array(types.int64, 1, "C")
_FLAGS = types.Array(types.boolean, 1, "C")
_CLOSES = types.Array(types.float64, 2, "C")
_I64, _I128 = ir.IntType(64), ir.IntType(128)
_tuple: Any = types.Tuple  # untyped in numba
_WORDS = _tuple((types.uint64, types.uint64))


def _join(builder: Any, low: Any, high: Any) -> Any:
    wide = builder.shl(builder.zext(high, _I128), ir.Constant(_I128, 64))
    return builder.or_(wide, builder.zext(low, _I128))


def _split(context: Any, builder: Any, value: Any) -> Any:
    low = builder.trunc(value, _I64)
    high = builder.trunc(builder.lshr(value, ir.Constant(_I128, 64)), _I64)
    return context.make_tuple(builder, _WORDS, (low, high))


def _sum(_context: Any, _a_low: Any, _a_high: Any, _b_low: Any, _b_high: Any) -> Any:
    def generate(context: Any, builder: Any, _signature: Any, words: Any) -> Any:
        return _split(context, builder, builder.add(_join(builder, *words[:2]), _join(builder, *words[2:])))

    return _WORDS(types.uint64, types.uint64, types.uint64, types.uint64), generate


def _product(_context: Any, _a_low: Any, _a_high: Any, _b_low: Any, _b_high: Any) -> Any:
    def generate(context: Any, builder: Any, _signature: Any, words: Any) -> Any:
        return _split(context, builder, builder.mul(_join(builder, *words[:2]), _join(builder, *words[2:])))

    return _WORDS(types.uint64, types.uint64, types.uint64, types.uint64), generate


_add: Any = intrinsic(_sum)
_multiply: Any = intrinsic(_product)


@inlined
def _units(value: float) -> Any:
    """Return the 128-bit integer ``value * 1e8`` of a decimal number with at most 15 significant digits.

    The product with a power of ten is off by less than value * 2**-52, so rounding recovers the integer while
    that is below one half; larger numbers have fewer places and are scaled in two steps.
    """
    if value < 2e7:
        return np.uint64(np.int64(np.rint(value * 1e8))), np.uint64(0)
    if value < 2e9:
        return _multiply(
            np.uint64(np.int64(np.rint(value * 1e6))), np.uint64(0), np.uint64(100), np.uint64(0)
        )
    if value < 2e11:
        return _multiply(
            np.uint64(np.int64(np.rint(value * 1e4))), np.uint64(0), np.uint64(10_000), np.uint64(0)
        )
    if value < 2e13:
        return _multiply(
            np.uint64(np.int64(np.rint(value * 1e2))), np.uint64(0), np.uint64(1_000_000), np.uint64(0)
        )
    return _multiply(np.uint64(np.int64(np.rint(value))), np.uint64(0), np.uint64(100_000_000), np.uint64(0))


@inlined
def _ratio(words: NDArray[np.uint64], divisor: float) -> Any:
    """Return the non-negative 128-bit integer over ``divisor`` (an exact float64), rounded once.

    One Newton step on the quotient: the remainder is formed exactly by Dekker's product (T. J. Dekker,
    "A floating-point technique for extending the available precision", 1971).
    """
    # Four parts of 32 bits, each exact.
    a: Any = np.float64(words[1] >> np.uint64(32)) * 79228162514264337593543950336.0
    b = np.float64(words[1] & np.uint64(0xFFFFFFFF)) * 18446744073709551616.0
    c = np.float64(words[0] >> np.uint64(32)) * 4294967296.0
    d = np.float64(words[0] & np.uint64(0xFFFFFFFF))
    quotient = (((a + b) + c) + d) / divisor
    split = 134217729.0 * quotient
    q_high = split - (split - quotient)
    q_low = quotient - q_high
    split = 134217729.0 * divisor
    d_high = split - (split - divisor)
    d_low = divisor - d_high
    product = quotient * divisor
    error = ((q_high * d_high - product) + q_high * d_low + q_low * d_high) + q_low * d_low
    remainder = (((a - product) + b) + c) + d - error
    return quotient + remainder / divisor


@inlined
def _add_to(field: NDArray[np.uint64], other: NDArray[np.uint64]) -> None:
    field[0], field[1] = _add(field[0], field[1], other[0], other[1])


@inlined
def _merge(slot: Any, part: Any) -> None:
    if part.first_id < slot.first_id:
        slot.first_id = part.first_id
        slot.open = part.open
    if part.last_id > slot.last_id:
        slot.last_id = part.last_id
        slot.close = part.close
    slot.high = max(slot.high, part.high)
    slot.low = min(slot.low, part.low)
    slot.trades += part.trades
    _add_to(slot.volume, part.volume)
    _add_to(slot.quote_volume, part.quote_volume)
    _add_to(slot.taker_buy_volume, part.taker_buy_volume)
    _add_to(slot.taker_buy_quote_volume, part.taker_buy_quote_volume)


@inlined
def _start(slot: Any, index: int, part: Any) -> None:
    slot.index = index
    slot.open = part.open
    slot.high = part.high
    slot.low = part.low
    slot.close = part.close
    slot.first_id = part.first_id
    slot.last_id = part.last_id
    slot.trades = part.trades
    for word in range(2):
        slot.volume[word] = part.volume[word]
        slot.quote_volume[word] = part.quote_volume[word]
        slot.taker_buy_volume[word] = part.taker_buy_volume[word]
        slot.taker_buy_quote_volume[word] = part.taker_buy_quote_volume[word]
    slot.changed = False
    slot.provisional = False
    slot.holed = False


@inlined
def _reserve(out: Block, used: int, rows: int) -> Block:
    if used + rows <= len(out):
        return out
    larger = np.empty(max(2 * len(out), used + rows), BAR)
    larger[:used] = out[:used]
    return larger


@inlined
def _write_bar(row: Any, slot: Any, timeframe: int, symbol: int, version: int) -> None:
    row.open_time = slot.index * timeframe
    row.timeframe = timeframe
    row.open = slot.open
    row.high = slot.high
    row.low = slot.low
    row.close = slot.close
    row.volume = _ratio(slot.volume, 1e8)
    row.quote_volume = _ratio(slot.quote_volume, 1e16)
    row.taker_buy_volume = _ratio(slot.taker_buy_volume, 1e8)
    row.taker_buy_quote_volume = _ratio(slot.taker_buy_quote_volume, 1e16)
    row.trades = slot.trades
    row.first_id = slot.first_id
    row.last_id = slot.last_id
    row.version = version
    row.symbol = symbol
    row.provisional = slot.provisional


@inlined
def _write_repeat(
    row: Any, open_time: int, timeframe: int, symbol: int, close: float, version: int, provisional: bool
) -> None:
    row.open_time = open_time
    row.timeframe = timeframe
    row.open = close
    row.high = close
    row.low = close
    row.close = close
    row.volume = 0.0
    row.quote_volume = 0.0
    row.taker_buy_volume = 0.0
    row.taker_buy_quote_volume = 0.0
    row.trades = 0
    row.first_id = -1
    row.last_id = -1
    row.version = version
    row.symbol = symbol
    row.provisional = provisional


@inlined
def _is_provisional(clock: Any, state: Any, slot: Any, timeframe: int) -> bool:
    """Tell whether trades of a bar are missing: lost for good, before the feed began, or in an open gap.

    Trades of a symbol come in the order of their ids, so what lies before its latest trade is whole.
    """
    if slot.holed or slot.index * timeframe < clock.start:
        return True
    return bool(state.gaps > 0 and (slot.index + 1) * timeframe > state.time)


@inlined
def _emit_again(
    clock: Any, state: Any, slot: Any, k: int, symbol: int, stop: int, timeframes: NDArray[np.int64],
    repeat: NDArray[np.bool_], last_close: NDArray[np.float64], out: Block, used: int,
) -> tuple[Block, int]:  # fmt: skip
    """Emit a changed bar and the repeats of its close up to interval ``stop``."""
    timeframe = timeframes[k]
    version = 1 + state.revision
    slot.changed = False
    slot.provisional = _is_provisional(clock, state, slot, timeframe)
    rows = 1 + (stop - slot.index - 1 if repeat[k] else 0)
    out = _reserve(out, used, rows)
    _write_bar(out[used], slot, timeframe, symbol, version)
    for offset in range(1, rows):
        index = slot.index + offset
        missing = slot.holed or (state.gaps > 0 and (index + 1) * timeframe > state.time)
        _write_repeat(out[used + offset], index * timeframe, timeframe, symbol, slot.close, version, missing)
    return out, used + rows


@inlined
def _emit_changed(
    clock: Any, symbols: Block, slots: Block, next_close: NDArray[np.int64], timeframes: NDArray[np.int64],
    repeat: NDArray[np.bool_], last_close: NDArray[np.float64], out: Block, used: int,
) -> tuple[Block, int]:  # fmt: skip
    """Emit every closed bar that changed since it was emitted, oldest first."""
    size = slots.shape[2]
    for s in range(len(symbols)):
        state = symbols[s]
        if not state.changed:
            continue
        state.changed = False
        state.revision += 1
        for k in range(len(timeframes)):
            if not repeat[k]:
                continue
            newest = EMPTY
            for r in range(size):
                newest = max(newest, slots[k, s, r].index)
            latest = EMPTY
            for index in range(max(newest - size + 1, 0), min(newest + 1, next_close[k])):
                if slots[k, s, index % size].index == index:
                    latest = index
            for index in range(max(newest - size + 1, 0), min(newest + 1, next_close[k])):
                slot = slots[k, s, index % size]
                if slot.index != index or not slot.changed:
                    continue
                stop = index + 1
                while stop < next_close[k] and (stop > newest or slots[k, s, stop % size].index != stop):
                    stop += 1
                out, used = _emit_again(
                    clock, state, slot, k, s, stop, timeframes, repeat, last_close, out, used
                )
            if latest != EMPTY:
                last_close[k, s] = slots[k, s, latest % size].close
    return out, used


@inlined
def _flush(
    clock: Any, symbols: Block, s: int, pending: Block, slots: Block, next_close: NDArray[np.int64],
    timeframes: NDArray[np.int64], repeat: NDArray[np.bool_], last_close: NDArray[np.float64],
    out: Block, used: int,
) -> tuple[Block, int]:  # fmt: skip
    """Merge the pending trades of one symbol, all of one shortest interval, into every timeframe."""
    state, part = symbols[s], pending[s]
    state.pending = False
    base = part.index * timeframes[0]
    size = slots.shape[2]
    for k in range(len(timeframes)):
        index = base // timeframes[k]
        slot = slots[k, s, index % size]
        if slot.index == index:
            _merge(slot, part)
        elif slot.index > index:
            clock.too_late += 1
            continue
        else:
            if slot.changed and repeat[k]:
                # The bar leaves the ring before its turn: a long back-fill. The next one ends it.
                stop = slot.index + 1
                while stop < min(index, next_close[k]) and slots[k, s, stop % size].index != stop:
                    stop += 1
                out, used = _emit_again(
                    clock, state, slot, k, s, stop, timeframes, repeat, last_close, out, used
                )
            _start(slot, index, part)
        slot.holed = slot.holed or state.holed
        if index < next_close[k]:
            slot.changed = True
            state.changed = True
    state.holed = False
    return out, used


@inlined
def _settle_older(
    symbols: Block, s: int, slots: Block, next_close: NDArray[np.int64], timeframes: NDArray[np.int64]
) -> None:
    """Mark the bars emitted as provisional that the latest trade of their symbol has left behind."""
    state = symbols[s]
    for k in range(len(timeframes)):
        for r in range(slots.shape[2]):
            slot = slots[k, s, r]
            if (
                slot.index != EMPTY
                and slot.provisional
                and not slot.holed
                and slot.index < next_close[k]
                and (state.gaps == 0 or (slot.index + 1) * timeframes[k] <= state.time)
            ):
                slot.changed = True
                state.changed = True


@inlined
def _next_due(
    clock: Any, next_close: NDArray[np.int64], timeframes: NDArray[np.int64], lateness: int
) -> None:
    due = np.int64(2**62)
    for k in range(len(timeframes)):
        due = min(due, (next_close[k] + 1) * timeframes[k] + lateness)
    clock.due = due


@inlined
def _close_due(
    clock: Any, symbols: Block, slots: Block, next_close: NDArray[np.int64], timeframes: NDArray[np.int64],
    repeat: NDArray[np.bool_], last_close: NDArray[np.float64], lateness: int, out: Block, used: int,
) -> tuple[Block, int]:  # fmt: skip
    """Emit what changed, then every bar that ended more than the lateness before the watermark."""
    out, used = _emit_changed(clock, symbols, slots, next_close, timeframes, repeat, last_close, out, used)
    size = slots.shape[2]
    for k in range(len(timeframes)):
        timeframe = timeframes[k]
        end = (clock.watermark - lateness) // timeframe  # bars before this one are over
        while next_close[k] < end:
            index = next_close[k]
            out = _reserve(out, used, len(symbols))
            newest = EMPTY
            for s in range(len(symbols)):
                for r in range(size):
                    newest = max(newest, slots[k, s, r].index)
                slot = slots[k, s, index % size]
                if slot.index == index:
                    slot.provisional = _is_provisional(clock, symbols[s], slot, timeframe)
                    _write_bar(out[used], slot, timeframe, s, 1)
                    last_close[k, s] = slot.close
                    used += 1
                elif repeat[k] and not np.isnan(last_close[k, s]):
                    state = symbols[s]
                    missing = state.gaps > 0 and (index + 1) * timeframe > state.time
                    _write_repeat(out[used], index * timeframe, timeframe, s, last_close[k, s], 1, missing)
                    used += 1
            next_close[k] = index + 1
            if newest <= index and (not repeat[k] or end - index > CARRY_LIMIT):
                next_close[k] = end  # nothing more to close: ticks are not repeated, a feed was away
    _next_due(clock, next_close, timeframes, lateness)
    return out, used


@kernel(
    _tuple((_BARS, types.int64))(
        _TRADES,
        types.int64,
        _CLOCKS,
        _SYMBOLS,
        _PARTS,
        _SLOTS,
        _INTS,
        _INTS,
        _FLAGS,
        _CLOSES,
        types.int64,
        _BARS,
    )
)
def add_trades(
    trades: Block, watermark: int, clocks: Block, symbols: Block, pending: Block, slots: Block,
    next_close: NDArray[np.int64], timeframes: NDArray[np.int64], repeat: NDArray[np.bool_],
    last_close: NDArray[np.float64], lateness: int, out: Block,
) -> tuple[Block, int]:  # fmt: skip
    """Add a block of trades and emit the bars that close or change.

    What is emitted depends on the sequence of trades alone, not on how it is cut into blocks.

    :arg trades: TRADE block, per symbol in id order.
    :arg watermark: event time, us, that the source vouches for after this block; 0 for none.
    :arg clocks: CLOCK[1].
    :arg symbols: SYMBOL[N].
    :arg pending: SLOT[N], scratch.
    :arg slots: SLOT[K, N, R]: ring of R intervals per timeframe and symbol.
    :arg next_close: int64[K]: first interval not closed yet; EMPTY before the first trade.
    :arg timeframes: int64[K]: lengths in us, ascending, each a multiple of the first.
    :arg repeat: bool[K]: whether an interval without trades repeats the last close.
    :arg last_close: float64[K, N]: close of the last closed bar; NaN before the first.
    :arg lateness: us that a bar stays open after its end.
    :arg out: BAR block to write to, of at least one row; a larger one is returned when it is too small.
    :returns: BAR block and the number of rows in it.
    """
    clock = clocks[0]
    base = timeframes[0]
    used = 0
    for i in range(len(trades)):
        trade = trades[i]
        if not trade.in_bars:
            continue
        time = trade.time
        if next_close[0] == EMPTY:
            clock.start = time
            for k in range(len(timeframes)):
                next_close[k] = time // timeframes[k]
            _next_due(clock, next_close, timeframes, lateness)
        if time > clock.watermark:
            clock.watermark = time
            if time >= clock.due:
                for other in range(len(symbols)):
                    if symbols[other].pending:
                        out, used = _flush(
                            clock, symbols, other, pending, slots, next_close, timeframes, repeat,
                            last_close, out, used,
                        )  # fmt: skip
                out, used = _close_due(
                    clock, symbols, slots, next_close, timeframes, repeat, last_close, lateness, out, used
                )
        s = trade.symbol
        state, part = symbols[s], pending[s]
        index = time // base
        if state.pending and part.index != index:
            out, used = _flush(
                clock, symbols, s, pending, slots, next_close, timeframes, repeat, last_close, out, used
            )
        if time > state.time:
            passed = state.time // base != index
            state.time = time
            if passed and state.gaps > 0:
                _settle_older(symbols, s, slots, next_close, timeframes)
        price, quantity = trade.price, trade.quantity
        if not state.pending:
            state.pending = True
            part.index = index
            part.open = price
            part.high = price
            part.low = price
            part.close = price
            part.first_id = trade.first_id
            part.last_id = trade.last_id
            part.trades = 0
            for word in range(2):
                part.volume[word] = 0
                part.quote_volume[word] = 0
                part.taker_buy_volume[word] = 0
                part.taker_buy_quote_volume[word] = 0
        elif trade.last_id > part.last_id:
            part.last_id = trade.last_id
            part.close = price
        elif trade.first_id < part.first_id:
            part.first_id = trade.first_id
            part.open = price
        part.high = max(part.high, price)
        part.low = min(part.low, price)
        part.trades += trade.last_id - trade.first_id + 1
        p_low, p_high = _units(price)
        q_low, q_high = _units(quantity)
        v_low, v_high = _multiply(p_low, p_high, q_low, q_high)
        part.volume[0], part.volume[1] = _add(part.volume[0], part.volume[1], q_low, q_high)
        part.quote_volume[0], part.quote_volume[1] = _add(
            part.quote_volume[0], part.quote_volume[1], v_low, v_high
        )
        if not trade.buyer_is_maker:
            part.taker_buy_volume[0], part.taker_buy_volume[1] = _add(
                part.taker_buy_volume[0], part.taker_buy_volume[1], q_low, q_high
            )
            part.taker_buy_quote_volume[0], part.taker_buy_quote_volume[1] = _add(
                part.taker_buy_quote_volume[0], part.taker_buy_quote_volume[1], v_low, v_high
            )
    for s in range(len(symbols)):
        if symbols[s].pending:
            out, used = _flush(
                clock, symbols, s, pending, slots, next_close, timeframes, repeat, last_close, out, used
            )
    if watermark > clock.watermark and next_close[0] != EMPTY:
        clock.watermark = watermark
        if watermark >= clock.due:
            out, used = _close_due(
                clock, symbols, slots, next_close, timeframes, repeat, last_close, lateness, out, used
            )
    return out, used


@kernel(types.void(types.int64, types.int64, types.boolean, _SYMBOLS, _SLOTS, _INTS, _INTS))
def apply_gap(
    s: int, change: int, lost: bool, symbols: Block, slots: Block, next_close: NDArray[np.int64],
    timeframes: NDArray[np.int64],
) -> None:  # fmt: skip
    """Note what happened to a gap in the ids of one symbol.

    :arg s: symbol.
    :arg change: 1 when a gap was found, -1 when it ended, 0 when only a part of it is known to be lost.
    :arg lost: trades that cannot be had: the bars around them stay provisional.
    :arg symbols: SYMBOL[N].
    :arg slots: SLOT[K, N, R].
    :arg next_close: int64[K].
    :arg timeframes: int64[K].
    """
    state = symbols[s]
    state.gaps += change
    if lost:
        state.holed = True
        for k in range(len(timeframes)):
            newest = 0
            for r in range(1, slots.shape[2]):
                if slots[k, s, r].index > slots[k, s, newest].index:
                    newest = r
            if slots[k, s, newest].index != EMPTY:
                slots[k, s, newest].holed = True
    if change < 0:
        _settle_older(symbols, s, slots, next_close, timeframes)


def empty_bars(rows: int) -> Block:
    """Return an uninitialised BAR block of ``rows`` rows."""
    return np.empty(rows, BAR)
