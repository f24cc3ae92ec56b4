"""Step: trade blocks in, closed bars out.

```python
trades = op.input("trades", flow, source)  # (shard, Trades)
bars = op.stateful_batch("bars", trades, partial(BarLogic, symbols=2, timeframes=(0, SECOND), lateness=0))
```

One key holds all symbols of a shard, its state in arrays, and one kernel call takes a whole block. Out come
`Rows("bars", BAR block)` and, for the tick timeframe, `Rows(TICKS, BAR block)`: the last price of each symbol
that traded in an interval of 100 ms, for the pair metrics alone.
"""

import pickle
from collections.abc import Sequence

import numpy as np
from bytewax.operators import StatefulBatchLogic
from typing_extensions import override

from connectors.telemetry import LATE_TRADES
from kernels import ohlcv
from kernels.compile import warm_up
from kernels.records import GAP_REPAIRS, MILLISECOND, Block, Rows, Trades

TICKS = "ticks"
TICK_INTERVAL = 100 * MILLISECOND

_LEAST_RING = 16  # intervals kept per symbol, so that trades slightly out of time order find their bar
_LOST = GAP_REPAIRS.index("unavailable")


class BarLogic(StatefulBatchLogic[Trades, Rows, bytes]):
    """Bars of every symbol of a shard, in every timeframe."""

    def __init__(
        self, resume: bytes | None, *, symbols: int, timeframes: Sequence[int], lateness: int
    ) -> None:
        """Init.

        :arg resume: what `snapshot` returned, or None.
        :arg symbols: number of symbols.
        :arg timeframes: lengths in us, ascending; 0 is tick.
        :arg lateness: us that a bar stays open after its end.
        """
        warm_up(ohlcv.add_trades, ohlcv.apply_gap)
        self._lengths = np.array([length or TICK_INTERVAL for length in timeframes], np.int64)
        self._repeat = np.array([length > 0 for length in timeframes])
        self._lateness = lateness
        if resume is None:
            ring = max(_LEAST_RING, 2 * (lateness // int(self._lengths[0]) + 2))
            self._clock = np.zeros(1, ohlcv.CLOCK)
            self._symbols = np.zeros(symbols, ohlcv.SYMBOL)
            self._slots = np.zeros((len(timeframes), symbols, ring), ohlcv.SLOT)
            self._slots["index"] = ohlcv.EMPTY
            self._next_close = np.full(len(timeframes), ohlcv.EMPTY, np.int64)
            self._last_close = np.full((len(timeframes), symbols), np.nan)
            self._gaps: set[tuple[int, int]] = set()
        else:
            (
                self._clock,
                self._symbols,
                self._slots,
                self._next_close,
                self._last_close,
                self._gaps,
            ) = pickle.loads(resume)  # noqa: S301 - written by snapshot below, into the user's own folder
        self._pending = np.zeros(symbols, ohlcv.SLOT)
        self._out = ohlcv.empty_bars(4 * symbols * len(timeframes))

    @override
    def on_batch(self, values: list[Trades]) -> tuple[list[Rows], bool]:
        out: list[Rows] = []
        for block in values:
            self._apply(block.gaps)
            too_late = self._clock["too_late"][0]
            self._out, rows = ohlcv.add_trades(
                block.trades,
                block.watermark,
                self._clock,
                self._symbols,
                self._pending,
                self._slots,
                self._next_close,
                self._lengths,
                self._repeat,
                self._last_close,
                self._lateness,
                self._out,
            )
            LATE_TRADES.inc(int(self._clock["too_late"][0] - too_late))
            bars = self._out[:rows]
            is_tick = bars["timeframe"] == TICK_INTERVAL
            if not is_tick.all():
                out.append(Rows("bars", bars[~is_tick]))
            if is_tick.any():
                out.append(Rows(TICKS, bars[is_tick]))
        return out, self.RETAIN

    @override
    def snapshot(self) -> bytes:
        # Bytes, because the engine stores a snapshot after the next blocks have changed the arrays.
        return pickle.dumps(
            (self._clock, self._symbols, self._slots, self._next_close, self._last_close, self._gaps)
        )

    def _apply(self, gaps: Block) -> None:
        for gap in gaps:
            name = int(gap["symbol"]), int(gap["first_id"])
            opened = gap["repaired"] == 0
            lost = bool(gap["repair"] == _LOST)
            change = int(opened) - int(name in self._gaps)  # a row told again changes nothing
            if opened:
                self._gaps.add(name)
            else:
                self._gaps.discard(name)
            if change or lost:
                ohlcv.apply_gap(
                    name[0],
                    change,
                    lost,
                    self._symbols,
                    self._slots,
                    self._next_close,
                    self._lengths,
                )
