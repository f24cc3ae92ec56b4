"""Step: closed bars in, pair statistics and signals out.

```python
options = PairOptions(["BTCUSDT", "ETHUSDT"], ["ETHUSDT/BTCUSDT"], windows=[60, 300], z_window=20)
logic = partial(PairLogic, options=options, timeframes=[0, SECOND])
metrics = op.stateful_batch("pair_metrics", bars, logic)
```

One key holds all pairs of a shard. Bars are filed in a (time, symbol) grid, a ring; when the bars of an
interval are there, kernels run over all pairs at once. The number of an observation is its open time over its
timeframe, so that what a row says depends on the event times and prices before it, and on nothing else.

A bar that comes again, because late trades changed it, replaces its cell, and the rows from there on are
computed and emitted again with a higher version, as far back as the grid reaches. Signals are not: what was
signalled was signalled.

The tick timeframe has no bars: whenever a leg traded in an interval of 100 ms, the last prices of both legs
are the pair's next observation. Unit-root statistics and signals are for bars alone.
"""

import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from bytewax.operators import StatefulBatchLogic
from numpy.typing import NDArray
from typing_extensions import override

from flows.bars import TICKS
from kernels.compile import warm_up
from kernels.pair_state import (
    PairParameters,
    PairState,
    measure_bars,
    new_pair_state,
    put_prices,
    roll_bars,
    roll_ticks,
)
from kernels.records import METHODS, METRIC, SIGNAL, Block, TableRows
from kernels.rolling_ols import depth_needed, rebuild_pairs

REVISIONS = 128
"""Bars back from the newest for which a late bar still changes the pair statistics."""


_ROOM = 4_096  # rows a kernel call can give


@dataclass(frozen=True)
class PairOptions:
    """What the pair statistics are computed with.

    :arg symbols: the symbol table.
    :arg pairs: the pair table, ``Y/X``.
    :arg windows: rolling windows, in observations, ascending.
    :arg z_window: window of the z-score, in observations.
    :arg log_prices: whether statistics are of log prices.
    :arg z_entry: z-score beyond which the spread is entered.
    :arg z_exit: z-score within which it is left.
    :arg adf_lag: lags of the augmented Dickey-Fuller test; -1 by AIC, -2 by BIC.
    :arg methods: estimators of the hedge ratio, by name.
    :arg kalman_q: variance of a step of the Kalman filter's hedge ratio; 0 for what makes it remember about
        as long as the window.
    :arg kalman_r: variance of its noise, in squares of Y's first price.
    """

    symbols: Sequence[str]
    pairs: Sequence[str]
    windows: Sequence[int]
    z_window: int
    log_prices: bool = False
    z_entry: float = 2.0
    z_exit: float = 0.5
    adf_lag: int = 1
    methods: Sequence[str] = ("ols",)
    kalman_q: float = 0.0
    kalman_r: float = 1e-6

    @property
    def legs(self) -> NDArray[np.int32]:
        """Legs (Y, X) of each pair, as symbols: int32[P, 2]."""
        names = [leg for pair in self.pairs for leg in pair.split("/")]
        return np.array([self.symbols.index(name) for name in names], np.int32).reshape(-1, 2)

    @cached_property
    def parameters(self) -> PairParameters:
        """What the kernels are told."""
        return PairParameters(
            self.z_window, self.log_prices, self.adf_lag, float(self.z_entry), float(self.z_exit)
        )

    def new_state(self, rows: int, depth: int, legs: NDArray[np.int32], timeframe: int) -> PairState:
        """Return the state of these pairs; legs are rows of its rings."""
        return new_pair_state(
            rows,
            depth,
            *legs.T,
            windows=np.array(self.windows, np.int64),
            methods=np.array([METHODS.index(method) for method in self.methods], np.int64),
            timeframe=timeframe,
            kalman_q=self.kalman_q,
            kalman_r=self.kalman_r,
        )

    def rebuild(self, state: PairState, steps: NDArray[np.int64]) -> None:
        """Take the sums anew as of some observations, -1 for pairs that stay as they are."""
        rebuild_pairs(
            state.values, state.returns, steps, state.y, state.x, state.windows, self.z_window, state.sums
        )

    def buffer_for(self, dtype: np.dtype[np.void]) -> Block:
        """Return a block with room for the rows of an interval, or of many."""
        interval = len(self.methods) * len(self.pairs) * len(self.windows)
        return np.empty(max(interval, _ROOM), dtype)

    def restore_filters(self, state: PairState, rls: Block, kalman: Block, old: "PairOptions") -> None:
        """Take over the filters of an earlier run."""
        pairs, old_pairs = _matches(self.pairs, old.pairs)
        windows, old_windows = _matches(self.windows, old.windows)
        state.rls[np.ix_(pairs, windows)] = rls[np.ix_(old_pairs, old_windows)]
        state.kalman[np.ix_(pairs, windows)] = kalman[np.ix_(old_pairs, old_windows)]


def _matches(new: Sequence[Any], old: Sequence[Any]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return where the elements that both have stand in each."""
    places = {element: place for place, element in enumerate(old)}
    both = [(i, places[element]) for i, element in enumerate(new) if element in places]
    return tuple(np.array(both, np.intp).reshape(-1, 2).T)  # type: ignore[return-value]


class _Bars:
    """The pairs of one timeframe."""

    def __init__(self, options: PairOptions, timeframe: int) -> None:
        self._options = options
        self._timeframe = timeframe
        depth = depth_needed(options.windows, options.z_window) + REVISIONS
        self._pairs = options.new_state(len(options.symbols), depth, options.legs, timeframe)
        self._prices = np.full((len(options.symbols), depth), np.nan)
        self._now = np.full(len(options.symbols), np.nan)
        self._latest = np.full(1, -1, np.int64)
        self._revision = 0
        self._out = options.buffer_for(METRIC)
        self._signals = options.buffer_for(SIGNAL)

    def state(self) -> tuple[Any, ...]:
        state = self._pairs
        return self._prices, int(self._latest[0]), self._revision, state.positions, state.rls, state.kalman

    def restore(self, saved: tuple[Any, ...], old: PairOptions) -> None:
        prices, latest, self._revision, positions, rls, kalman = saved
        self._latest[0] = latest
        options, state = self._options, self._pairs
        rows, old_rows = _matches(options.symbols, old.symbols)
        depth, old_depth = self._prices.shape[1], prices.shape[1]
        steps = np.arange(max(latest - min(depth, old_depth) + 1, 0), latest + 1)
        self._prices[np.ix_(rows, steps % depth)] = prices[np.ix_(old_rows, steps % old_depth)]
        for row in rows:
            self._put(row, steps)
        options.restore_filters(state, rls, kalman, old)
        methods, old_methods = _matches(options.methods, old.methods)
        pairs, old_pairs = _matches(options.pairs, old.pairs)
        windows, old_windows = _matches(options.windows, old.windows)
        known = positions[np.ix_(old_methods, old_pairs, old_windows)]
        state.positions[np.ix_(methods, pairs, windows)] = known
        self._options.rebuild(self._pairs, self._steps(latest))

    def add(self, bars: Block) -> Iterator[TableRows]:
        """File bars, those of an interval one behind the other, and measure every interval."""
        changed = -1
        symbols: set[int] = set()
        while len(bars):
            taken, rows, signals = roll_bars(
                bars,
                self._timeframe,
                self._pairs,
                self._options.parameters,
                self._prices,
                self._now,
                self._latest,
                self._out,
                self._signals,
            )
            if rows:
                yield TableRows("pair_metrics", self._out[:rows].copy())
            if signals:
                yield TableRows("signals", self._signals[:signals].copy())
            bars = bars[taken:]
            is_new = bars["open_time"] // self._timeframe > self._latest[0]
            late = int(is_new.argmax()) if is_new.any() else len(bars)
            if late:
                for bar in bars[:late]:
                    step = int(bar["open_time"]) // self._timeframe
                    if step > self._latest[0] - REVISIONS:
                        self._correct(step, int(bar["symbol"]), bar["close"])
                        changed = step if changed < 0 else min(changed, step)
                        symbols.add(int(bar["symbol"]))
                yield from self._measure_again(changed, symbols)
                changed = -1
                symbols = set()
                bars = bars[late:]

    def _correct(self, step: int, symbol: int, price: float) -> None:
        self._prices[symbol, step % self._prices.shape[1]] = price
        self._put(symbol, np.arange(step, min(step + 1, int(self._latest[0])) + 1))

    def _put(self, symbol: int, steps: NDArray[np.int64]) -> None:
        """Write the prices of a symbol at some intervals into the rings, too."""
        prices = self._prices[symbol, steps % self._prices.shape[1]]
        put_prices(self._pairs, self._options.parameters, np.full(len(steps), symbol), steps, prices)

    def _steps(self, step: int) -> NDArray[np.int64]:
        """Return the number of the observation for pairs that have both prices, -1 for the others."""
        known = np.isfinite(self._prices[:, step % self._prices.shape[1]])
        return np.where(known[self._pairs.y] & known[self._pairs.x], step, -1)

    def _measure_again(self, changed: int, symbols: set[int]) -> Iterator[TableRows]:
        """Measure from a changed interval on, the pairs of the symbols that changed."""
        if changed < 0:
            return
        state = self._pairs
        self._revision += 1
        touched = np.isin(state.y, list(symbols)) | np.isin(state.x, list(symbols))
        self._options.rebuild(self._pairs, np.where(touched, self._steps(changed - 1), -1))
        for step in range(changed, int(self._latest[0]) + 1):
            state.steps[:] = np.where(touched, self._steps(step), -1)
            prices = np.ascontiguousarray(self._prices[:, step % self._prices.shape[1]])
            time = step * self._timeframe
            version = 1 + self._revision
            rows = measure_bars(state, self._options.parameters, prices, time, version, 1, self._out, 0)
            if rows:
                yield TableRows("pair_metrics", self._out[:rows].copy())


class _Ticks:
    """The pairs at every 100 ms in which a leg traded. Each pair counts its own observations."""

    def __init__(self, options: PairOptions) -> None:
        self._options = options
        self._legs = options.legs
        pairs = len(self._legs)
        rows = np.arange(2 * pairs, dtype=np.int32).reshape(-1, 2)
        depth = depth_needed(options.windows, options.z_window)
        self._pairs = options.new_state(2 * pairs, depth, rows, 0)
        self._last = np.full(len(options.symbols), np.nan)
        self._counts = np.full(pairs, -1, np.int64)
        self._traded = np.zeros(len(options.symbols), np.bool_)
        self._out = options.buffer_for(METRIC)

    def state(self) -> tuple[Any, ...]:
        return self._pairs.values, self._last, self._counts, self._pairs.rls, self._pairs.kalman

    def restore(self, saved: tuple[Any, ...], old: PairOptions) -> None:
        values, last, counts, rls, kalman = saved
        options, state = self._options, self._pairs
        if options.log_prices != old.log_prices:
            return
        rows, old_rows = _matches(options.symbols, old.symbols)
        self._last[rows] = last[old_rows]
        pairs, old_pairs = _matches(options.pairs, old.pairs)
        self._counts[pairs] = counts[old_pairs]
        options.restore_filters(state, rls, kalman, old)
        depth, old_depth = state.values.shape[1], values.shape[1]
        for pair, old_pair in zip(pairs, old_pairs, strict=True):
            newest = int(self._counts[pair])
            kept = np.arange(max(newest - min(depth, old_depth) + 1, 0), newest + 1)
            for leg in (0, 1):
                prices = values[2 * old_pair + leg, kept % old_depth]
                state.values[2 * pair + leg, kept % depth] = prices
                steps = np.diff(prices) if options.log_prices else prices[1:] / prices[:-1] - 1.0
                state.returns[2 * pair + leg, kept[1:] % depth] = steps
        options.rebuild(state, self._counts)

    def add(self, ticks: Block) -> Iterator[TableRows]:
        """Take the last prices of each interval and measure the pairs that moved."""
        while len(ticks):
            taken, rows = roll_ticks(
                ticks,
                self._pairs,
                self._options.parameters,
                self._last,
                self._legs,
                self._counts,
                self._traded,
                self._out,
            )
            if rows:
                yield TableRows("pair_metrics", self._out[:rows].copy())
            ticks = ticks[taken:]


class PairLogic(StatefulBatchLogic[TableRows, TableRows, bytes]):
    """Statistics and signals of every pair of a shard, in every timeframe."""

    def __init__(self, resume: bytes | None, *, options: PairOptions, timeframes: Sequence[int]) -> None:
        """Init.

        :arg resume: what `snapshot` returned, or None. Symbols, pairs, windows and timeframes may have
            changed since: those that are still there go on.
        :arg options: the pairs, and what to compute.
        :arg timeframes: lengths in us; 0 is tick.
        """
        warm_up(roll_bars, roll_ticks, measure_bars, put_prices, rebuild_pairs)
        self._parts: dict[int, _Bars | _Ticks] = {
            length: _Bars(options, length) if length else _Ticks(options) for length in timeframes
        }
        self._options = options
        if resume is not None:
            old, states = pickle.loads(resume)  # noqa: S301 - from the user's own recovery folder
            for length, part in self._parts.items():
                if length in states:
                    part.restore(states[length], old)

    @override
    def on_batch(self, values: list[TableRows]) -> tuple[list[TableRows], bool]:
        found: dict[str, list[Block]] = {}
        for table, block in values:
            for length, part in self._parts.items():
                mine = block if table == TICKS else block[block["timeframe"] == length]
                if (table == TICKS) == (length == 0) and len(mine):
                    for name, rows in part.add(mine):
                        found.setdefault(name, []).append(rows)
        return [TableRows(name, np.concatenate(blocks)) for name, blocks in found.items()], self.RETAIN

    @override
    def snapshot(self) -> bytes:
        # Prices alone: the rolling state follows from them, to the bit.
        return pickle.dumps((self._options, {length: part.state() for length, part in self._parts.items()}))
