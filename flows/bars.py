"""Step: trade blocks in, closed bars out.

```python
trades = op.input("trades", flow, source)  # (shard, Trades)
bars = op.stateful_batch("bars", trades, partial(BarLogic, symbols=symbols, timeframes=[SECOND], lateness=0))
```

One key holds all symbols of a shard, its state in arrays, and one kernel call takes a whole block. Out come
`Rows("bars", BAR block)` and, for the tick timeframe, `Rows(TICKS, BAR block)`: the last price of each symbol
that traded in an interval of 100 ms, for the pair metrics alone.
"""

import pickle
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from bytewax.operators import StatefulBatchLogic
from numpy.typing import NDArray
from typing_extensions import override

from connectors.telemetry import LATE_TRADES
from kernels import ohlcv
from kernels.compile import warm_up
from kernels.records import GAP_REPAIRS, MILLISECOND, Block, Rows, Trades

TICKS = "ticks"
TICK_INTERVAL = 100 * MILLISECOND

_LEAST_RING = 16  # intervals kept per symbol, so that trades slightly out of time order find their bar
_ROOM = 4_096  # rows a kernel call can give
_LOST = GAP_REPAIRS.index("unavailable")


class _State(NamedTuple):
    """What is kept between runs."""

    names: list[str]
    lengths: NDArray[np.int64]
    clock: Block
    symbols: Block
    slots: Block
    next_close: NDArray[np.int64]
    last_close: NDArray[np.float64]
    gaps: set[tuple[str, int]]


class BarLogic(StatefulBatchLogic[Trades, Rows, bytes]):
    """Bars of every symbol of a shard, in every timeframe."""

    def __init__(
        self, resume: bytes | None, *, symbols: Sequence[str], timeframes: Sequence[int], lateness: int
    ) -> None:
        """Init.

        :arg resume: what `snapshot` returned, or None. Symbols and timeframes may have changed since: those
            that are still there go on.
        :arg symbols: the symbol table.
        :arg timeframes: lengths in us, ascending; 0 is tick.
        :arg lateness: us that a bar stays open after its end.
        """
        warm_up(ohlcv.add_trades, ohlcv.apply_gap)
        self._names = list(symbols)
        self._lengths = np.array([length or TICK_INTERVAL for length in timeframes], np.int64)
        self._repeat = np.array([length > 0 for length in timeframes])
        self._lateness = lateness
        ring = max(_LEAST_RING, 2 * (lateness // int(self._lengths[0]) + 2))
        self._clock = np.zeros(1, ohlcv.CLOCK)
        self._symbols = np.zeros(len(symbols), ohlcv.SYMBOL)
        self._slots = np.zeros((len(timeframes), len(symbols), ring), ohlcv.SLOT)
        self._slots["index"] = ohlcv.EMPTY
        self._next_close = np.full(len(timeframes), ohlcv.EMPTY, np.int64)
        self._last_close = np.full((len(timeframes), len(symbols)), np.nan)
        self._gaps: set[tuple[str, int]] = set()
        self._pending = np.zeros(len(symbols), ohlcv.SLOT)
        self._newest = np.full((len(timeframes), len(symbols)), ohlcv.EMPTY, np.int64)
        self._out = ohlcv.empty_bars(max(_ROOM, len(symbols)))
        if resume is not None:
            self._restore(_State(*pickle.loads(resume)))  # noqa: S301 - from the user's own recovery folder

    @override
    def on_batch(self, values: list[Trades]) -> tuple[list[Rows], bool]:
        out: list[Rows] = []
        for block in values:
            if len(block.bars):
                self._begin_after(block.bars)
                out.append(Rows("bars", block.bars))
            self._apply(block.gaps)
            too_late = self._clock["too_late"][0]
            first = 0
            while first <= len(block.trades):
                first, rows = ohlcv.add_trades(
                    block.trades,
                    first,
                    block.watermark,
                    self._clock,
                    self._symbols,
                    self._pending,
                    self._slots,
                    self._next_close,
                    self._lengths,
                    self._newest,
                    self._repeat,
                    self._last_close,
                    self._lateness,
                    self._out,
                )
                bars = self._out[:rows]
                is_tick = bars["timeframe"] == TICK_INTERVAL
                if not is_tick.all():
                    out.append(Rows("bars", bars[~is_tick]))
                if is_tick.any():
                    out.append(Rows(TICKS, bars[is_tick]))
                if self._clock["need"][0] > len(self._out):
                    self._out = ohlcv.empty_bars(2 * int(self._clock["need"][0]))
            LATE_TRADES.inc(int(self._clock["too_late"][0] - too_late))
        return out, self.RETAIN

    @override
    def snapshot(self) -> bytes:
        # Bytes, because the engine stores a snapshot after the next blocks have changed the arrays.
        state = _State(
            self._names,
            self._lengths,
            self._clock,
            self._symbols,
            self._slots,
            self._next_close,
            self._last_close,
            self._gaps,
        )
        return pickle.dumps(tuple(state))

    def _restore(self, old: _State) -> None:
        self._clock = old.clock
        ring = self._slots.shape[2]
        symbols = [(i, old.names.index(name)) for i, name in enumerate(self._names) if name in old.names]
        for i, j in symbols:
            self._symbols[i] = old.symbols[j]
        for k, length in enumerate(self._lengths):
            at = np.flatnonzero(old.lengths == length)
            if not len(at):
                if old.next_close[0] != ohlcv.EMPTY:
                    self._next_close[k] = int(self._clock["watermark"][0]) // length
                continue
            self._next_close[k] = old.next_close[at[0]]
            for i, j in symbols:
                self._last_close[k, i] = old.last_close[at[0], j]
                for slot in np.sort(old.slots[at[0], j], order="index"):
                    if slot["index"] != ohlcv.EMPTY:
                        self._slots[k, i, slot["index"] % ring] = slot
        self._newest[:] = self._slots["index"].max(axis=2)
        if old.next_close[0] != ohlcv.EMPTY:
            self._clock["due"] = ((self._next_close + 1) * self._lengths).min() + self._lateness
        self._gaps = {(name, first) for name, first in old.gaps if name in self._names}

    def _begin_after(self, bars: Block) -> None:
        """Let symbols that do not trade yet repeat the close of the last bar before."""
        for k, length in enumerate(self._lengths):
            mine = bars[bars["timeframe"] == length]
            self._last_close[k, mine["symbol"]] = mine["close"]  # the last of each symbol stays

    def _apply(self, gaps: Block) -> None:
        for gap in gaps:
            symbol = int(gap["symbol"])
            name = self._names[symbol], int(gap["first_id"])
            opened = bool(gap["repaired"] == 0)
            lost = bool(gap["repair"] == _LOST)
            change = int(opened) - int(name in self._gaps)  # a row told again changes nothing
            if opened:
                self._gaps.add(name)
            else:
                self._gaps.discard(name)
            if change or lost:
                ohlcv.apply_gap(
                    symbol,
                    change,
                    lost,
                    self._symbols,
                    self._slots,
                    self._next_close,
                    self._lengths,
                    self._newest,
                )
