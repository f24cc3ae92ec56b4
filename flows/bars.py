"""Step: trade blocks in, closed bars out.

```python
trades = op.input("trades", flow, source)  # (shard, Trades)
bars = op.stateful_batch("bars", trades, partial(BarLogic, symbols=symbols, timeframes=[SECOND], lateness=0))
```

One key holds all symbols, its state in arrays, and one kernel call takes a whole block. The step emits
`TableRows("bars", BAR block)` and, for the tick timeframe, `TableRows(TICKS, BAR block)`: the last price of
each symbol that traded in an interval of 100 ms, for the pair metrics alone.
"""

import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np
from bytewax.operators import StatefulBatchLogic
from typing_extensions import override

from connectors.telemetry import LATE_TRADES
from kernels import ohlcv
from kernels.compile import warm_up
from kernels.records import GAP_REPAIRS, MILLISECOND, Block, TableRows, Trades

TICKS = "ticks"
TICK_INTERVAL = 100 * MILLISECOND

_ROOM = 4_096  # rows a kernel call can give
_LOST = GAP_REPAIRS.index("unavailable")


class BarLogic(StatefulBatchLogic[Trades, TableRows, bytes]):
    """Bars of every symbol, in every timeframe."""

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
        lengths = [length or TICK_INTERVAL for length in timeframes]
        self._bars = ohlcv.new_bar_state(len(symbols), lengths, np.array(timeframes) > 0, lateness)
        self._gaps: set[tuple[str, int]] = set()
        self._out = ohlcv.empty_bars(max(_ROOM, len(symbols)))
        if resume is not None:
            self._restore(*pickle.loads(resume))  # noqa: S301 - from the user's own recovery folder

    @override
    def on_batch(self, values: list[Trades]) -> tuple[list[TableRows], bool]:
        out: list[TableRows] = []
        for block in values:
            if len(block.bars):
                self._begin_after(block.bars)
                out.append(TableRows("bars", block.bars))
            self._apply(block.gaps)
            clock = self._bars.clock[0]
            too_late = int(clock["too_late"])
            first = 0
            while first <= len(block.trades):
                first, rows = ohlcv.add_trades(block.trades, first, block.watermark, self._bars, self._out)
                bars = self._out[:rows]
                is_tick = bars["timeframe"] == TICK_INTERVAL
                if not is_tick.all():
                    out.append(TableRows("bars", bars[~is_tick]))
                if is_tick.any():
                    out.append(TableRows(TICKS, bars[is_tick]))
                if clock["need"] > len(self._out):
                    self._out = ohlcv.empty_bars(2 * int(clock["need"]))
            LATE_TRADES.inc(int(clock["too_late"]) - too_late)
        return out, self.RETAIN

    @override
    def snapshot(self) -> bytes:
        # Bytes, because the engine stores a snapshot after the next blocks have changed the arrays.
        return pickle.dumps((self._names, self._bars._asdict(), self._gaps))

    def _restore(self, names: list[str], old: dict[str, Any], gaps: set[tuple[str, int]]) -> None:
        mine = self._bars
        mine.clock[:] = old["clock"]
        ring = mine.slots.shape[2]
        symbols = [(i, names.index(name)) for i, name in enumerate(self._names) if name in names]
        for i, j in symbols:
            mine.symbols[i] = old["symbols"][j]
        begun = old["next_close"][0] != ohlcv.EMPTY
        for k, length in enumerate(mine.timeframes):
            at = np.flatnonzero(old["timeframes"] == length)
            if not len(at):
                if begun:
                    mine.next_close[k] = int(mine.clock["watermark"][0]) // length
                continue
            mine.next_close[k] = old["next_close"][at[0]]
            for i, j in symbols:
                mine.last_close[k, i] = old["last_close"][at[0], j]
                for slot in np.sort(old["slots"][at[0], j], order="index"):
                    if slot["index"] != ohlcv.EMPTY:
                        mine.slots[k, i, slot["index"] % ring] = slot
        mine.newest[:] = mine.slots["index"].max(axis=2)
        if begun:
            mine.clock["due"] = ((mine.next_close + 1) * mine.timeframes).min() + mine.lateness
        self._gaps = {(name, first) for name, first in gaps if name in self._names}

    def _begin_after(self, bars: Block) -> None:
        """Let symbols that do not trade yet repeat the close of the last bar before."""
        for k, length in enumerate(self._bars.timeframes):
            mine = bars[bars["timeframe"] == length]
            self._bars.last_close[k, mine["symbol"]] = mine["close"]  # the last of each symbol stays

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
                ohlcv.apply_gap(symbol, change, lost, self._bars)
