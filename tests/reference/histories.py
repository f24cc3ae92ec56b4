"""Random histories of a market as plain data: what was traded, and how it came.

`history(seed)` draws settings, trades and the order of their arrival; the same seed draws the same history.
`cut` cuts it into blocks, and `trades_of` makes a block by hand.

The events of a history keep the contract of a source:

* Trades of a symbol come in id order, each id once. Ids of a hole may be left out when the trades behind it
  come. They come later, by id within their hole, between newer trades, in pages; or some of them; or none.
* An open gap is announced right before the first trade behind it. Rows that close it cover it, or part of it,
  without overlap, and all trades of a row come before it. An id that the exchange used up without a trade is
  in a row `rest`.
* The watermark never goes back. It may run ahead of trades that are still to come. The last one closes every
  bar.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kernels.records import METHODS, MILLISECOND, SECOND, TRADE, Block
from tests.reference.bars import REPEAT_LIMIT, STEP_BACK_LIMIT
from tests.reference.tables import ReferenceSettings

MINUTE, HOUR, DAY = 60 * SECOND, 3_600 * SECOND, 86_400 * SECOND

SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT", "XRPUSDT")

ADF_LAGS: tuple[int | str, ...] = (0, 1, 1, 2, 4, "aic", "bic")

REGIMES = ("random walk", "quiet", "stablecoins", "collinear legs", "absurd print")
"""How prices move."""


class TradesEvent(NamedTuple):
    """Trades, in the order in which they came."""

    kind: Literal["trades"]
    trades: Block


class GapEvent(NamedTuple):
    """A gap was noticed, or is settled, or a part of it is."""

    kind: Literal["gap"]
    symbol: int
    first_id: int
    last_id: int
    repair: Literal["open", "rest", "unavailable"]


class WatermarkEvent(NamedTuple):
    """The source has seen the market up to a time, us."""

    kind: Literal["watermark"]
    time: int


Event = TradesEvent | GapEvent | WatermarkEvent


@dataclass(frozen=True, eq=False)
class History:
    """A history.

    :arg seed: What it was drawn from.
    :arg regime: How prices move, one of REGIMES.
    :arg settings: With the last watermark, starts and unused ids: what `tables` takes.
    :arg trades: All trades that ever came, in order of arrival: what `tables` takes.
    :arg events: What a source would say, in order.
    """

    seed: int
    regime: str
    settings: ReferenceSettings
    trades: Block
    events: tuple[Event, ...]


class Cut(NamedTuple):
    """A history in blocks.

    :arg blocks: The same events in the same order, with trades cut apart anywhere.
    :arg restarts: Before which blocks the flow is stopped, and resumed from what it kept.
    """

    blocks: list[list[Event]]
    restarts: list[int]


def trade(
    number: int,
    time: int,
    price: float,
    quantity: float = 1.0,
    *,
    symbol: int = 0,
    buyer_is_maker: bool = False,
    in_bars: bool = True,
    ids: tuple[int, int] | None = None,
) -> tuple[float, ...]:
    """Make a trade for `trades_of`.

    :arg number: Its id.
    :arg time: us.
    :arg ids: First and last trade id of an aggregate.
    """
    first, last = ids or (number, number)
    return (number, first, last, time, price, quantity, symbol, buyer_is_maker, in_bars)


def trades_of(rows: Sequence[tuple[float, ...]]) -> Block:
    """Make a TRADE block of results of `trade`."""
    return np.array(list(rows), TRADE)


def history(
    seed: int,
    *,
    trades: int = 300,
    symbols: int | None = None,
    regime: str | None = None,
    methods: tuple[str, ...] | None = None,
    holes: bool = True,
    lags: bool = True,
    steps_back: bool = True,
    pauses: bool = True,
) -> History:
    """Draw a history.

    :arg seed: What it is drawn from.
    :arg trades: About how many trades.
    :arg symbols: How many symbols, 2 to 4; None: drawn.
    :arg regime: One of REGIMES; None: drawn.
    :arg methods: Hedge ratios; None: drawn.
    :arg holes: Whether trades are lost, or come late.
    :arg lags: Whether symbols lag behind one another by more than milliseconds.
    :arg steps_back: Whether times of trades go back.
    :arg pauses: Whether all symbols are silent together for long.
    """
    rng = np.random.default_rng(seed)
    regime = regime or str(rng.choice(REGIMES))
    number = symbols or int(rng.integers(2, 5))
    unit = int(rng.choice([SECOND, SECOND, MINUTE]))
    clock = _Clock(rng, unit, trades, pauses=pauses)
    if regime == "collinear legs":  # all trade together, as no pair is collinear with a leg that is behind
        (times,) = _times(rng, clock, trades // number, 1, steps_back=steps_back)
        market = _prices(rng, regime, [times] * number)
    else:
        market = _prices(rng, regime, _times(rng, clock, trades, number, steps_back=steps_back))
    blocks = [_block(rng, symbol, times, prices) for symbol, (times, prices) in enumerate(market)]
    timed = [item for block in blocks for item in _arrivals(rng, block, clock, holes=holes, lags=lags)]
    timed.sort(key=lambda item: item.clock)
    settings = _settings(rng, clock, blocks, methods)
    events = tuple(_joined(_with_watermarks(rng, timed, number, settings.watermark)))
    came = [event.trades for event in events if isinstance(event, TradesEvent)]
    return History(seed, regime, settings, np.concatenate([np.empty(0, TRADE), *came]), events)


def cut(history: History, seed: int, *, longest: int = 50, restarts: int = 2) -> Cut:
    """Cut a history into blocks at random.

    :arg seed: What the cut is drawn from.
    :arg longest: Trades in a block, at most.
    :arg restarts: How often the flow is stopped, at most.
    """
    rng = np.random.default_rng([history.seed, seed])
    blocks: list[list[Event]] = [[]]
    room = int(rng.integers(1, longest + 1))
    for event in history.events:
        rest = event
        while isinstance(rest, TradesEvent) and len(rest.trades) > room:
            blocks[-1].append(TradesEvent("trades", rest.trades[:room]))
            rest = TradesEvent("trades", rest.trades[room:])
            blocks.append([])
            room = int(rng.integers(1, longest + 1))
        blocks[-1].append(rest)
        room -= len(rest.trades) if isinstance(rest, TradesEvent) else 0
        if room <= 0 or rng.random() < 0.1:
            blocks.append([])
            room = int(rng.integers(1, longest + 1))
    blocks = [block for block in blocks if block]
    points = rng.integers(1, max(len(blocks), 2), int(rng.integers(0, restarts + 1)))
    return Cut(blocks, sorted({int(point) for point in points if point < len(blocks)}))


class _Clock:
    """Time in which the market is active, and the time of day with its pauses."""

    def __init__(self, rng: np.random.Generator, unit: int, trades: int, *, pauses: bool) -> None:
        self.unit = unit
        self.span = int(trades * unit * rng.uniform(0.3, 0.8))  # active time, us
        self.start = 1_700_000_000 * SECOND + int(rng.integers(0, DAY))
        self.resolution = int(rng.choice([1, MILLISECOND]))
        number = int(rng.integers(0, 3)) if pauses else 0
        self.at = np.sort(rng.integers(0, self.span, number))
        lengths = np.exp(rng.uniform(np.log(20), np.log(1_000), number))
        self.long = number > 0 and rng.random() < 0.05
        if self.long:  # longer than closes are repeated
            lengths[0] = REPEAT_LIMIT * rng.uniform(1.01, 1.5)
        self.pauses = (lengths * unit).astype(np.int64)

    def times(self, active: NDArray[np.float64]) -> list[int]:
        """Turn active time into times of the exchange, us."""
        before = np.concatenate(([0], np.cumsum(self.pauses)))[np.searchsorted(self.at, active)]
        times = self.start + active.astype(np.int64) + before
        return [int(time) for time in times // self.resolution * self.resolution]


def _times(
    rng: np.random.Generator, clock: _Clock, trades: int, number: int, *, steps_back: bool
) -> list[list[int]]:
    """Draw the times of each symbol's trades: dense or sparse, silent for long, from late on, until early."""
    shares = rng.dirichlet(np.full(number, 1.5))
    steps_back = steps_back and rng.random() < 0.5
    found = []
    for share in shares:
        count = max(int(trades * share), 5)
        begin = rng.uniform(0.1, 0.5) * clock.span if rng.random() < 0.25 else rng.uniform(0, 3) * clock.unit
        end = rng.uniform(0.6, 0.9) * clock.span if rng.random() < 0.2 else clock.span
        waits = rng.exponential(1.0, count)
        waits[rng.random(count) < 0.15] = 0  # in the same microsecond as the trade before
        waits[rng.random(count) < 0.01] += count * rng.uniform(0.05, 0.3)  # silent
        waits[0] = 0
        times = clock.times(begin + np.cumsum(waits) * max(end - begin, 0) / max(waits.sum(), 1))
        found.append(_step_back(rng, times) if steps_back else times)
    return found


def _step_back(rng: np.random.Generator, times: list[int]) -> list[int]:
    """Set some trades back in time, most of them by so little that they still count."""
    latest = times[0]
    result = [latest]
    for time in times[1:]:
        latest = max(latest, time)
        back = 0
        if rng.random() < 0.03:
            back = int(rng.integers(1, STEP_BACK_LIMIT)) if rng.random() < 0.5 else STEP_BACK_LIMIT
        elif rng.random() < 0.004:
            back = STEP_BACK_LIMIT + (int(rng.integers(1, 80 * SECOND)) if rng.random() < 0.5 else 1)
        result.append(latest - back if back else time)
    return result


def _prices(
    rng: np.random.Generator, regime: str, times: list[list[int]]
) -> list[tuple[list[int], list[float]]]:
    """Draw prices, decimals of at most 8 places.

    All symbols follow one common walk over all trades, and each a walk of its own.
    """
    if regime == "collinear legs":  # a residual of 1e-4 on a price of 60,000
        walk = 60_000 + np.round(10 * np.cumsum(rng.normal(0, 1, len(times[0]))), 2)
        slopes = (1.0, 0.9, 0.5, 0.05)[: len(times)]
        legs = [np.round(10**4 * slope * walk) + rng.integers(-2, 3, len(walk)) for slope in slopes]
        return [(of, [int(tick) / 10**4 for tick in leg]) for of, leg in zip(times, legs)]
    merged = sorted(
        (time, symbol, k) for symbol, of_symbol in enumerate(times) for k, time in enumerate(of_symbol)
    )
    common = np.cumsum(rng.normal(0, 1, len(merged)))
    market = []
    for symbol, of_symbol in enumerate(times):
        at = [position for position, (_, of, _) in enumerate(merged) if of == symbol]
        own = np.cumsum(rng.normal(0, 1, len(at)))
        noise = rng.integers(-2, 3, len(at))
        if regime == "stablecoins":  # 1 +- 1e-7
            digits, ticks = 8, 10**8 + np.round(3 * common[at] + own + noise)
        elif regime == "quiet":  # one price or the next
            digits, ticks = 2, int(rng.choice([6_000_000, 300_000])) + np.round(common[at] / 5) + noise // 2
        else:
            scale, digits = [(60_000, 2), (3_000, 2), (150, 3), (0.5, 5), (0.00001234, 8), (1, 8)][
                rng.integers(6)
            ]
            moves = 1 + 2e-4 * rng.uniform(0.5, 2) * common[at] + 4e-4 * rng.uniform(0.1, 2) * own
            ticks = np.maximum(np.round(10**digits * scale * moves), 1)
        whole = [int(tick) for tick in ticks]
        if regime == "absurd print" and rng.random() < 0.7:
            whole[rng.integers(len(whole))] *= 10_000
        market.append((of_symbol, [tick / 10**digits for tick in whole]))
    return market


def _block(rng: np.random.Generator, symbol: int, times: list[int], prices: list[float]) -> Block:
    """Give trades their ids, quantities and sides."""
    n = len(times)
    kind = str(rng.choice(["plain", "plain", "aggregates", "unused ids", "not in bars"]))
    skipped = (
        rng.integers(1, 4, n) * (rng.random(n) < 0.03) if kind == "unused ids" else np.zeros(n, np.int64)
    )
    skipped[0] = 0
    ids = int(rng.choice([0, 1, 5_000_000_000])) + np.arange(n) + np.cumsum(skipped)
    sizes = rng.integers(1, 6, n) if kind == "aggregates" else np.ones(n, np.int64)
    digits = int(rng.integers(0, 9))
    block = np.empty(n, TRADE)
    block["id"] = block["first_id"] = block["last_id"] = ids
    if kind == "aggregates":
        block["last_id"] = 10 * ids[0] + np.cumsum(sizes)
        block["first_id"] = block["last_id"] - sizes + 1
    block["time"], block["price"], block["symbol"] = times, prices, symbol
    block["quantity"] = [int(lots) / 10**digits for lots in np.exp(rng.uniform(0, 12, n))]
    block["buyer_is_maker"] = rng.random(n) < 0.5
    block["in_bars"] = (rng.random(n) > 0.05) if kind == "not in bars" else True
    return block


class _Timed(NamedTuple):
    """Events that come together, and when: us of the receiver's clock."""

    clock: float
    events: list[Event]


def _arrivals(
    rng: np.random.Generator, block: Block, clock: _Clock, *, holes: bool, lags: bool
) -> Iterator[_Timed]:
    """Let the trades of one symbol come."""
    clocks = np.maximum.accumulate(block["time"]) + _lags(rng, len(block), clock, lags=lags)
    clocks = np.maximum.accumulate(clocks)
    in_stream = np.ones(len(block), bool)
    lost = np.zeros(len(block), bool)
    for _ in range(int(rng.integers(0, 4)) if holes and len(block) > 4 else 0):
        first = int(rng.integers(1, len(block) - 1))
        last = min(first + int(rng.integers(1, 20)), len(block) - 1)
        in_stream[first:last] = False
        if rng.random() < 0.5:  # some of the hole, or all of it, never comes
            lost[first : int(rng.integers(first, last + 1))] = True
    streamed = np.flatnonzero(in_stream)
    for before, k in zip([None, *streamed], streamed):
        behind: list[Event] = [TradesEvent("trades", block[k : k + 1])]
        first, last = int(block["id"][k if before is None else before]) + 1, int(block["id"][k]) - 1
        if before is not None and first <= last:
            gap = GapEvent("gap", int(block["symbol"][k]), first, last, "open")
            behind.insert(0, gap)
            between = slice(before + 1, k)
            yield from _settling(rng, gap, block[between], lost[between], float(clocks[k]), clock)
        yield _Timed(float(clocks[k]), behind)


def _lags(rng: np.random.Generator, n: int, clock: _Clock, *, lags: bool) -> NDArray[np.float64]:
    """Draw how long trades of a symbol are under way, us."""
    result = rng.uniform(0, 100 * MILLISECOND, n)
    if lags and n > 1 and rng.random() < 0.4:  # from some trade on, up to some other
        begin, end = np.sort(rng.integers(0, n + 1, 2))
        result[begin:end] += np.exp(rng.uniform(np.log(MILLISECOND), np.log(min(clock.span, 4 * HOUR))))
    return result


def _settling(
    rng: np.random.Generator,
    gap: GapEvent,
    late: Block,
    lost: NDArray[np.bool_],
    noticed: float,
    clock: _Clock,
) -> Iterator[_Timed]:
    """Settle a gap by id: trades come in pages; ids that never come are unavailable, or stay open."""
    never = set(late["id"][lost].tolist())
    now = noticed + np.exp(rng.uniform(np.log(MILLISECOND), np.log(clock.span)))
    for is_lost, run in groupby(range(gap.first_id, gap.last_id + 1), never.__contains__):
        ids = list(run)
        if is_lost:
            if rng.random() < 0.7:
                yield _Timed(now, [GapEvent("gap", gap.symbol, ids[0], ids[-1], "unavailable")])
            continue
        row_first = ids[0]
        while ids:
            size = int(rng.integers(1, 11))
            page, ids = ids[:size], ids[size:]
            now += np.exp(rng.uniform(np.log(MILLISECOND), np.log(clock.span / 10)))
            trades = late[np.isin(late["id"], page)]
            events: list[Event] = [TradesEvent("trades", trades)] if len(trades) else []
            if not ids or rng.random() < 0.5:  # a row for this page and those before it
                events.append(GapEvent("gap", gap.symbol, row_first, page[-1], "rest"))
                row_first = page[-1] + 1
            yield _Timed(now, events)


def _with_watermarks(
    rng: np.random.Generator, timed: list[_Timed], number: int, last: int
) -> Iterator[Event]:
    """Put watermarks between the events of so many symbols, and the last one at the end."""
    ahead = int(rng.choice([0, 2 * SECOND]))  # a source whose clock runs fast
    careful = rng.random() < 0.5  # a source that waits for the symbol that is behind
    every = rng.uniform(0.02, 0.5)
    latest = [0] * number
    watermark = 0
    for item in timed:
        yield from item.events
        for event in item.events:
            if isinstance(event, TradesEvent):
                symbol, time = int(event.trades["symbol"][0]), int(event.trades["time"].max())
                latest[symbol] = max(latest[symbol], time)
        if rng.random() < every:
            watermark = max(watermark, (min(latest) if careful else max(latest) + ahead))
            if watermark > 0:  # careful sources wait until every symbol has traded
                yield WatermarkEvent("watermark", min(watermark, last))
    yield WatermarkEvent("watermark", last)


def _joined(events: Iterator[Event]) -> Iterator[Event]:
    """Join trades that come one after another to one block."""
    for are_trades, run in groupby(events, lambda event: isinstance(event, TradesEvent)):
        if are_trades:
            blocks = [event.trades for event in run if isinstance(event, TradesEvent)]
            yield TradesEvent("trades", np.concatenate(blocks))
        else:
            yield from run


def _settings(
    rng: np.random.Generator, clock: _Clock, blocks: list[Block], methods: tuple[str, ...] | None
) -> ReferenceSettings:
    """Draw settings; starts, unused ids and the last watermark fit the trades.

    No z-score is exactly at the limits drawn, as it may be at 2: one of five observations that differs has
    that.
    """
    unit = clock.unit
    timeframes = [(unit,), (unit, 5 * unit), (0, unit), (0, unit, 5 * unit)][rng.integers(4)]
    symbols = SYMBOLS[: len(blocks)]
    pairs = [f"{y}/{x}" for y in symbols for x in symbols if y != x]
    windows = rng.choice([5, 8, 12, 20, 30, 60], int(rng.integers(1, 3)), replace=False)
    if methods is None:
        methods = tuple(rng.permutation(METHODS)[: rng.integers(1, 5)].tolist())
    if clock.long:  # many rows
        pairs, windows, methods, timeframes = pairs[:1], windows[:1], methods[:2], (unit,)
    lateness = int(rng.choice([0, 250 * MILLISECOND, SECOND]))
    latest = max(int(block["time"].max()) for block in blocks)
    start, unused_ids = {}, {}
    for symbol, block in zip(symbols, blocks):
        first = int(block["time"][0])
        if rng.random() < 0.3:
            start[symbol] = int(rng.choice([first // DAY * DAY, first - first % unit, first]))
        ids = block["id"].tolist()
        unused_ids[symbol] = tuple(sorted(set(range(ids[0], ids[-1])) - set(ids)))
    return ReferenceSettings(
        symbols=symbols,
        pairs=tuple(rng.permutation(pairs)[: rng.integers(1, 4)].tolist()),
        timeframes=timeframes,
        windows=tuple(sorted(int(window) for window in windows)),
        watermark=latest + max(timeframes) + lateness + int(rng.integers(0, 5 * unit)),
        z_window=int(rng.choice([2, 5, 10, 20, 40])),
        methods=methods,
        log_prices=bool(rng.random() < 0.3),
        z_entry=float(rng.choice([0.83, 1.37, 2.03])),
        z_exit=float(rng.choice([-0.21, 0.17, 0.53])),
        adf_lag=ADF_LAGS[rng.integers(len(ADF_LAGS))],
        kalman_q=None if rng.random() < 0.5 else float(rng.choice([1e-10, 1e-7])),
        kalman_r=float(rng.choice([1e-6, 1e-4])),
        lateness=lateness,
        start=start,
        unused_ids=unused_ids,
    )
