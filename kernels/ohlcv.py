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

from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import from_dtype, typeof, types
from numba.extending import intrinsic
from numpy.typing import ArrayLike, NDArray

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
        ("provisional", np.bool_),  # it, or a bar that repeats its close, was emitted as provisional
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
        ("need", np.int64),  # rows that did not fit; 0 while all fits
    ],
    align=True,
)

SYMBOL = np.dtype(
    [
        ("gaps", np.int64),  # open gaps
        ("revision", np.int64),  # times a bar of this symbol was emitted again
        ("time", np.int64),  # latest trade time
        ("begin", np.int64),  # the interval of the pending trades, us; one comparison instead of a division
        ("end", np.int64),
        ("pending", np.bool_),  # trades of this block not yet in the slots
        ("changed", np.bool_),  # some slot is marked changed
        ("holed", np.bool_),  # the next trade follows ids that are lost
    ],
    align=True,
)

EMPTY = -1
_LEAST_RING = 16
"""Intervals kept per symbol at least, so that trades slightly out of time order find their bar."""

_EXACT = 2e7
"""Below it, value * 1e8 is off by less than one half: value * 1e8 * 2**-52 < 0.5."""

CARRY_LIMIT = 10_000
"""Intervals without any trade in the whole market that are filled with repeated closes. A longer silence is a
feed that was away, not a quiet market: bars go on where trades do."""

_BARS = types.Array(from_dtype(BAR), 1, "C")
_TRADES = types.Array(from_dtype(TRADE), 1, "C", readonly=True)
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
    if value < _EXACT:
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
def _next_index(slots: Block, k: int, symbol: int, index: int) -> Any:
    """Return the lowest index above ``index`` in a ring, whose order is by remainder; 2**62 for none."""
    found = np.int64(2**62)
    for r in range(slots.shape[2]):
        if index < slots[k, symbol, r].index < found:
            found = slots[k, symbol, r].index
    return found


@inlined
def _end_of_repeats(slots: Block, newest: int, k: int, symbol: int, index: int, stop: int) -> int:
    """Return the first interval behind ``index``, at most ``stop``, that has trades of its own."""
    size = slots.shape[2]
    for after in range(index + 1, min(stop, newest + 1)):
        if slots[k, symbol, after % size].index == after:
            return after
    return stop


@inlined
def _emit_again(
    clock: Any, state: Any, slot: Any, timeframe: int, symbol: int, stop: int, out: Block, used: int
) -> int:
    """Emit a changed bar, and the repeats of its close before interval ``stop``."""
    version = 1 + state.revision
    slot.changed = False
    slot.provisional = _is_provisional(clock, state, slot, timeframe)
    _write_bar(out[used], slot, timeframe, symbol, version)
    used += 1
    for index in range(slot.index + 1, stop):
        missing = slot.holed or (state.gaps > 0 and (index + 1) * timeframe > state.time)
        slot.provisional = slot.provisional or missing
        _write_repeat(out[used], index * timeframe, timeframe, symbol, slot.close, version, missing)
        used += 1
    return used


@inlined
def _emit_changed(bars: Any, out: Block, used: int) -> int:
    """Emit every closed bar that changed since it was emitted, oldest first; stop where there is no room."""
    clock, symbols, slots, newest = bars.clock[0], bars.symbols, bars.slots, bars.newest
    next_close, timeframes, repeat = bars.next_close, bars.timeframes, bars.repeat
    size = slots.shape[2]
    for s in range(len(symbols)):
        state = symbols[s]
        if not state.changed:
            continue
        rows = 0
        for k in range(len(timeframes)):
            for r in range(size):
                slot = slots[k, s, r]
                if repeat[k] and slot.changed and slot.index < next_close[k]:
                    rows += _end_of_repeats(slots, newest[k, s], k, s, slot.index, next_close[k]) - slot.index
        if used + rows > len(out):
            clock.need = rows
            return used
        state.changed = False
        state.revision += 1
        for k in range(len(timeframes)):
            if not repeat[k]:
                continue
            index = _next_index(slots, k, s, EMPTY)
            while index < next_close[k]:
                slot = slots[k, s, index % size]
                if slot.changed:
                    stop = _end_of_repeats(slots, newest[k, s], k, s, index, next_close[k])
                    used = _emit_again(clock, state, slot, timeframes[k], s, stop, out, used)
                if index > newest[k, s] - size:  # what has left the ring says nothing of the last close
                    bars.last_close[k, s] = slot.close
                index = _next_index(slots, k, s, index)
    return used


@inlined
def _flush(bars: Any, s: int, out: Block, used: int) -> int:
    """Merge the pending trades of one symbol, all of one shortest interval, into every timeframe.

    The ring holds the intervals up to the newest of the symbol. Changed bars that a newer one pushes out, in
    a long back-fill, are emitted now. Where there is no room for them, nothing is done.
    """
    clock, slots, newest = bars.clock[0], bars.slots, bars.newest
    next_close, timeframes, repeat = bars.next_close, bars.timeframes, bars.repeat
    state, part = bars.symbols[s], bars.pending[s]
    base = part.index * timeframes[0]
    size = slots.shape[2]
    if state.changed:
        rows = 0
        for k in range(len(timeframes)):
            index = base // timeframes[k]
            if repeat[k] and index > newest[k, s]:
                stop = min(index, next_close[k])
                old = _next_index(slots, k, s, EMPTY)
                while old <= index - size:
                    if slots[k, s, old % size].changed:
                        rows += _end_of_repeats(slots, newest[k, s], k, s, old, stop) - old
                    old = _next_index(slots, k, s, old)
        if used + rows > len(out):
            clock.need = rows
            return used
        if rows > 0:
            state.revision += 1
    state.pending = False
    for k in range(len(timeframes)):
        index = base // timeframes[k]
        if index <= newest[k, s] - size:
            clock.too_late += 1
            continue
        slot = slots[k, s, index % size]
        if slot.index == index:
            _merge(slot, part)
        else:
            if state.changed and repeat[k] and index > newest[k, s]:
                stop = min(index, next_close[k])
                old = _next_index(slots, k, s, EMPTY)
                while old <= index - size:
                    older = slots[k, s, old % size]
                    if older.changed:
                        end = _end_of_repeats(slots, newest[k, s], k, s, old, stop)
                        used = _emit_again(clock, state, older, timeframes[k], s, end, out, used)
                    if newest[k, s] - size < old < next_close[k]:
                        bars.last_close[k, s] = older.close
                    old = _next_index(slots, k, s, old)
            _start(slot, index, part)
            newest[k, s] = max(newest[k, s], index)
        slot.holed = slot.holed or state.holed
        if index < next_close[k]:
            slot.changed = True
            state.changed = True
    state.holed = False
    return used


@inlined
def _settle_older(bars: Any, s: int) -> None:
    """Mark the bars emitted as provisional that the latest trade of their symbol has left behind."""
    slots, next_close, timeframes, newest = bars.slots, bars.next_close, bars.timeframes, bars.newest
    state = bars.symbols[s]
    for k in range(len(timeframes)):
        for r in range(slots.shape[2]):
            slot = slots[k, s, r]
            if (
                slot.index > newest[k, s] - slots.shape[2]
                and slot.index != EMPTY
                and slot.provisional
                and not slot.holed
                and slot.index < next_close[k]
                and (state.gaps == 0 or (slot.index + 1) * timeframes[k] <= state.time)
            ):
                slot.changed = True
                state.changed = True


@inlined
def _next_due(bars: Any) -> None:
    due = np.int64(2**62)
    for k in range(len(bars.timeframes)):
        due = min(due, (bars.next_close[k] + 1) * bars.timeframes[k] + bars.lateness)
    bars.clock[0].due = due


@inlined
def _close_due(bars: Any, out: Block, used: int) -> int:
    """Emit what changed, then every bar that ended more than the lateness before the watermark.

    Stops where there is no room, and goes on from there when called again.
    """
    clock, symbols, slots, newest = bars.clock[0], bars.symbols, bars.slots, bars.newest
    next_close, timeframes, repeat = bars.next_close, bars.timeframes, bars.repeat
    last_close = bars.last_close
    for s in range(len(symbols)):
        if symbols[s].pending:
            used = _flush(bars, s, out, used)
            if clock.need > 0:
                return used
    used = _emit_changed(bars, out, used)
    if clock.need > 0:
        return used
    size = slots.shape[2]
    for k in range(len(timeframes)):
        timeframe = timeframes[k]
        end = (clock.watermark - bars.lateness) // timeframe  # bars before this one are over
        while next_close[k] < end:
            index = next_close[k]
            if used + len(symbols) > len(out):
                clock.need = len(symbols)
                return used
            for s in range(len(symbols)):
                slot = slots[k, s, index % size]
                if slot.index == index:
                    slot.provisional = _is_provisional(clock, symbols[s], slot, timeframe)
                    _write_bar(out[used], slot, timeframe, s, 1)
                    last_close[k, s] = slot.close
                    used += 1
                elif repeat[k] and not np.isnan(last_close[k, s]):
                    state = symbols[s]
                    missing = state.gaps > 0 and (index + 1) * timeframe > state.time
                    if missing and newest[k, s] != EMPTY:
                        # Then no trade came since: settled with the bar whose close it repeats.
                        slots[k, s, newest[k, s] % size].provisional = True
                    _write_repeat(out[used], index * timeframe, timeframe, s, last_close[k, s], 1, missing)
                    used += 1
            next_close[k] = index + 1
            if not repeat[k] or end - index > CARRY_LIMIT:
                last = EMPTY
                for s in range(len(symbols)):
                    last = max(last, newest[k, s])
                if last <= index:
                    next_close[k] = end  # nothing to close: ticks are not repeated, a feed was away
    _next_due(bars)
    return used


class BarState(NamedTuple):
    """Bars of N symbols in K timeframes; arrays are changed in place.

    :arg clock: CLOCK[1].
    :arg symbols: SYMBOL[N].
    :arg pending: SLOT[N]; scratch: the trades of a block that are not yet in the slots.
    :arg slots: SLOT[K, N, R]; ring of R intervals per timeframe and symbol.
    :arg next_close: int64[K]; first interval not closed yet; EMPTY before the first trade.
    :arg timeframes: int64[K]; lengths in us, ascending, each a multiple of the first.
    :arg newest: int64[K, N]; highest index in the slots of each timeframe and symbol.
    :arg repeat: bool[K]; whether an interval without trades repeats the last close.
    :arg last_close: float64[K, N]; close of the last closed bar; NaN before the first.
    :arg lateness: us that a bar stays open after its end.
    """

    clock: Block
    symbols: Block
    pending: Block
    slots: Block
    next_close: NDArray[np.int64]
    timeframes: NDArray[np.int64]
    newest: NDArray[np.int64]
    repeat: NDArray[np.bool_]
    last_close: NDArray[np.float64]
    lateness: int


def new_bar_state(symbols: int, timeframes: ArrayLike, repeat: ArrayLike, lateness: int) -> BarState:
    """Return the state of symbols that have not traded.

    :arg symbols: how many.
    :arg timeframes: lengths in us, ascending, each a multiple of the first.
    :arg repeat: for each, whether an interval without trades repeats the last close.
    :arg lateness: us that a bar stays open after its end; the ring holds what can still change, and more.
    """
    lengths = np.array(timeframes, np.int64)
    ring = max(_LEAST_RING, 2 * (lateness // int(lengths[0]) + 2))
    slots = np.zeros((len(lengths), symbols, ring), SLOT)
    slots["index"] = EMPTY
    return BarState(
        clock=np.zeros(1, CLOCK),
        symbols=np.zeros(symbols, SYMBOL),
        pending=np.zeros(symbols, SLOT),
        slots=slots,
        next_close=np.full(len(lengths), EMPTY, np.int64),
        timeframes=lengths,
        newest=np.full((len(lengths), symbols), EMPTY, np.int64),
        repeat=np.array(repeat, np.bool_),
        last_close=np.full((len(lengths), symbols), np.nan),
        lateness=lateness,
    )


_type_of: Any = typeof
_STATE = _type_of(new_bar_state(1, [1], [True], 0))


@kernel(_tuple((types.int64, types.int64))(_TRADES, types.int64, types.int64, _STATE, _BARS), allocates=False)
def add_trades(trades: Block, first: int, watermark: int, bars: BarState, out: Block) -> tuple[int, int]:
    """Add a block of trades and emit the bars that close or change.

    What is emitted depends on the sequence of trades alone, not on how it is cut into blocks.

    :arg trades: TRADE block, per symbol in id order.
    :arg first: where to begin in it: 0, or what the call before returned.
    :arg watermark: event time, us, that the source vouches for after this block; 0 for none.
    :arg bars: what the calls before left.
    :arg out: BAR block to write to.
    :returns: where to go on, ``len(trades) + 1`` when all is done, and the rows written. When it is not done
        the rows must be taken out, and ``bars.clock[0].need`` tells how many the next ones are.
    """
    clock, symbols, pending = bars.clock[0], bars.symbols, bars.pending
    next_close, timeframes = bars.next_close, bars.timeframes
    clock.need = 0
    base = timeframes[0]
    used = 0
    for i in range(first, len(trades)):
        trade = trades[i]
        if not trade.in_bars:
            continue
        time = trade.time
        if next_close[0] == EMPTY:
            clock.start = time
            for k in range(len(timeframes)):
                next_close[k] = time // timeframes[k]
            _next_due(bars)
        if time > clock.watermark:
            clock.watermark = time
        if clock.watermark >= clock.due:
            used = _close_due(bars, out, used)
            if clock.need > 0:
                return i, used
        s = trade.symbol
        state, part = symbols[s], pending[s]
        inside = state.begin <= time < state.end
        if state.pending and not inside:
            used = _flush(bars, s, out, used)
            if clock.need > 0:
                return i, used
        if time > state.time:
            state.time = time
            if state.gaps > 0 and not inside:
                _settle_older(bars, s)
        price, quantity = trade.price, trade.quantity
        if not state.pending:
            part.index = time // base
            state.begin = part.index * base
            state.end = state.begin + base
            state.pending = True
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
        if price < _EXACT and quantity < _EXACT:
            low = np.uint64(np.int64(np.rint(price * 1e8)))
            q_low, q_high = np.uint64(np.int64(np.rint(quantity * 1e8))), np.uint64(0)
            v_low, v_high = _multiply(low, np.uint64(0), q_low, np.uint64(0))
        else:
            low, high = _units(price)
            q_low, q_high = _units(quantity)
            v_low, v_high = _multiply(low, high, q_low, q_high)
        part.volume[0], part.volume[1] = _add(part.volume[0], part.volume[1], q_low, q_high)
        part.quote_volume[0], part.quote_volume[1] = _add(
            part.quote_volume[0], part.quote_volume[1], v_low, v_high
        )
        # Who took is a coin toss that no branch predictor knows: add 0 instead of branching.
        taken = np.uint64(0) if trade.buyer_is_maker else np.uint64(0xFFFFFFFFFFFFFFFF)
        part.taker_buy_volume[0], part.taker_buy_volume[1] = _add(
            part.taker_buy_volume[0], part.taker_buy_volume[1], q_low & taken, q_high & taken
        )
        part.taker_buy_quote_volume[0], part.taker_buy_quote_volume[1] = _add(
            part.taker_buy_quote_volume[0], part.taker_buy_quote_volume[1], v_low & taken, v_high & taken
        )
    for s in range(len(symbols)):
        if symbols[s].pending:
            used = _flush(bars, s, out, used)
            if clock.need > 0:
                return len(trades), used
    if next_close[0] != EMPTY:
        clock.watermark = max(clock.watermark, watermark)
        if clock.watermark >= clock.due:
            used = _close_due(bars, out, used)
            if clock.need > 0:
                return len(trades), used
    return len(trades) + 1, used


@kernel(types.void(types.int64, types.int64, types.boolean, _STATE), allocates=False)
def apply_gap(s: int, change: int, lost: bool, bars: BarState) -> None:
    """Note what happened to a gap in the ids of one symbol.

    :arg s: symbol.
    :arg change: 1 when a gap was found, -1 when it ended, 0 when only a part of it is known to be lost.
    :arg lost: trades that cannot be had: the bars around them stay provisional.
    :arg bars: what the calls before left.
    """
    state, slots, newest = bars.symbols[s], bars.slots, bars.newest
    state.gaps += change
    if lost:
        state.holed = True
        for k in range(len(bars.timeframes)):
            if newest[k, s] != EMPTY:
                slots[k, s, newest[k, s] % slots.shape[2]].holed = True
    if change < 0:
        _settle_older(bars, s)


def empty_bars(rows: int) -> Block:
    """Return an uninitialised BAR block of ``rows`` rows."""
    return np.empty(rows, BAR)
