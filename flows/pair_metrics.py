"""Step: closed bars in, pair statistics and signals out.

```python
logic = partial(PairLogic, symbols=3, pairs=[(1, 0), (2, 0)], timeframes=(0, SECOND), windows=(60, 300))
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
from typing import Any

import numpy as np
from bytewax.operators import StatefulBatchLogic
from numpy.typing import NDArray
from typing_extensions import override

from flows.bars import TICKS
from kernels.comoments import depth_needed, new_state, rebuild_pairs, update_pairs
from kernels.compile import warm_up
from kernels.records import METRIC, SIGNAL, Block, Rows
from kernels.signals import NO_SIGNAL, update_signals
from kernels.stationarity import fill_stationarity

REVISIONS = 128
"""Bars back from the newest for which a late bar still changes the pair statistics."""


@dataclass(frozen=True)
class PairOptions:
    """What the pair statistics are computed with.

    :arg symbols: number of symbols.
    :arg pairs: legs (Y, X) of each pair, as symbols.
    :arg windows: rolling windows, in observations.
    :arg z_window: window of the z-score, in observations.
    :arg log_prices: whether statistics are of log prices.
    :arg z_entry: z-score beyond which the spread is entered.
    :arg z_exit: z-score within which it is left.
    :arg adf_lag: lags of the augmented Dickey-Fuller test; -1 by AIC, -2 by BIC.
    """

    symbols: int
    pairs: Sequence[tuple[int, int]]
    windows: Sequence[int]
    z_window: int
    log_prices: bool = False
    z_entry: float = 2.0
    z_exit: float = 0.5
    adf_lag: int = 1


class _Grid:
    """Rings of prices and returns, and the rolling state of all pairs over them."""

    def __init__(
        self, options: PairOptions, timeframe: int, rows: int, legs: NDArray[np.int32], depth: int
    ) -> None:
        self.options = options
        self.timeframe = timeframe
        self.windows = np.array(options.windows, np.int64)
        self.y, self.x = (np.ascontiguousarray(leg) for leg in legs.T)
        self.values = np.full((rows, depth), np.nan)
        self.returns = np.full((rows, depth), np.nan)
        self.state = new_state(len(self.y), self.windows)
        self.out = np.zeros((len(self.y), len(self.windows)), METRIC)
        self.out["pair"] = np.arange(len(self.y))[:, None]
        self.out["window"] = self.windows
        self.out["timeframe"] = timeframe

    def fill_returns(self, step: NDArray[np.int64] | int, rows: NDArray[np.intp] | slice) -> None:
        """Set the returns at an observation from the values there and before."""
        depth = self.values.shape[1]
        now, before = self.values[rows, step % depth], self.values[rows, (step - 1) % depth]
        self.returns[rows, step % depth] = now - before if self.options.log_prices else now / before - 1.0

    def measure(self, steps: NDArray[np.int64]) -> Block:
        """Roll pairs on to their newest observation (-1: leave) and return METRIC[P, W]."""
        update_pairs(
            self.values,
            self.returns,
            steps,
            self.y,
            self.x,
            self.windows,
            self.options.z_window,
            self.state,
            self.out,
        )
        return self.out

    def rebuild(self, steps: NDArray[np.int64]) -> None:
        """Take the state of pairs anew from the rings."""
        rebuild_pairs(
            self.values,
            self.returns,
            steps,
            self.y,
            self.x,
            self.windows,
            self.options.z_window,
            self.state,
        )


class _Bars:
    """The pairs of one timeframe."""

    def __init__(self, options: PairOptions, timeframe: int) -> None:
        depth = depth_needed(options.windows, options.z_window) + REVISIONS
        legs = np.array(options.pairs, np.int32).reshape(-1, 2)
        self._grid = _Grid(options, timeframe, options.symbols, legs, depth)
        self._prices = np.full((options.symbols, depth), np.nan)
        self._latest = -1
        self._revision = 0
        self._positions = np.zeros((len(legs), len(options.windows)), np.int8)

    def state(self) -> tuple[Any, ...]:
        return self._prices, self._latest, self._revision, self._positions

    def restore(self, state: tuple[Any, ...]) -> None:
        self._prices, self._latest, self._revision, self._positions = state
        grid, depth = self._grid, self._prices.shape[1]
        grid.values[:] = self._scaled(self._prices)
        for step in range(max(self._latest - depth + 2, 1), self._latest + 1):
            grid.fill_returns(step, slice(None))
        grid.rebuild(self._steps(self._latest))

    def add(self, bars: Block) -> Iterator[Rows]:
        """File bars, oldest first per interval, and measure every interval that is complete."""
        timeframe = self._grid.timeframe
        cuts = np.flatnonzero(np.diff(bars["open_time"])) + 1
        changed = -1
        symbols: set[int] = set()
        for start, stop in zip([0, *cuts.tolist()], [*cuts.tolist(), len(bars)], strict=True):
            part = bars[start:stop]
            step = int(part["open_time"][0]) // timeframe
            if step > self._latest:
                yield from self._revise(changed, symbols)
                changed = -1
                symbols = set()
                self._begin(step)
                self._file(step, part)
                yield from self._measure(step, self._steps(step), 1)
            elif step > self._latest - REVISIONS:
                self._file(step, part)
                changed = step if changed < 0 else min(changed, step)
                symbols.update(part["symbol"].tolist())
        yield from self._revise(changed, symbols)

    def _begin(self, step: int) -> None:
        """Empty the cells of an interval, and of those between that never were."""
        depth = self._prices.shape[1]
        gone = np.arange(max(self._latest + 1, step - depth + 1), step + 1) % depth
        for ring in (self._prices, self._grid.values, self._grid.returns):
            ring[:, gone] = np.nan
        self._latest = step

    def _file(self, step: int, bars: Block) -> None:
        at, symbols = step % self._prices.shape[1], bars["symbol"]
        self._prices[symbols, at] = bars["close"]
        self._grid.values[symbols, at] = self._scaled(bars["close"])
        self._grid.fill_returns(step, symbols)
        if step < self._latest:
            self._grid.fill_returns(step + 1, symbols)

    def _scaled(self, prices: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.log(prices) if self._grid.options.log_prices else prices

    def _steps(self, step: int) -> NDArray[np.int64]:
        """Return the number of the observation for pairs that have both prices, -1 for the others."""
        known = np.isfinite(self._prices[:, step % self._prices.shape[1]])
        return np.where(known[self._grid.y] & known[self._grid.x], step, -1)

    def _measure(self, step: int, steps: NDArray[np.int64], version: int) -> Iterator[Rows]:
        active = np.flatnonzero(steps >= 0)
        if not len(active):
            return
        grid, options = self._grid, self._grid.options
        out = grid.measure(steps)
        at = step % self._prices.shape[1]
        out["time"] = step * grid.timeframe
        out["version"] = version
        out["price_y"] = self._prices[grid.y, at][:, None]
        out["price_x"] = self._prices[grid.x, at][:, None]
        fill_stationarity(grid.values, steps, grid.y, grid.x, grid.windows, options.adf_lag, out)
        yield Rows("pair_metrics", out[active].reshape(-1))
        if version == 1:
            yield from self._signal(out, steps)

    def _signal(self, out: Block, steps: NDArray[np.int64]) -> Iterator[Rows]:
        full = (out["observations"] == self._grid.windows) & (steps >= 0)[:, None]
        z_scores = np.where(full, out["z_score"], np.nan)  # a window that is not full says nothing yet
        options = self._grid.options
        events = np.empty_like(self._positions)
        update_signals(z_scores, options.z_entry, options.z_exit, self._positions, events)
        found = events != NO_SIGNAL
        if found.any():
            signals = np.zeros(int(found.sum()), SIGNAL)
            for name in signals.dtype.names or ():
                signals[name] = events[found] if name == "signal" else out[name][found]
            yield Rows("signals", signals)

    def _revise(self, changed: int, symbols: set[int]) -> Iterator[Rows]:
        """Measure again from a changed interval on, the pairs of the symbols that changed."""
        if changed < 0:
            return
        self._revision += 1
        touched = np.isin(self._grid.y, list(symbols)) | np.isin(self._grid.x, list(symbols))
        self._grid.rebuild(np.where(touched, self._steps(changed - 1), -1))
        for step in range(changed, self._latest + 1):
            yield from self._measure(step, np.where(touched, self._steps(step), -1), 1 + self._revision)


class _Ticks:
    """The pairs at every 100 ms in which a leg traded. Each pair counts its own observations."""

    def __init__(self, options: PairOptions) -> None:
        depth = depth_needed(options.windows, options.z_window)
        self._legs = np.array(options.pairs, np.int32).reshape(-1, 2)
        rows = np.arange(2 * len(self._legs), dtype=np.int32).reshape(-1, 2)
        self._grid = _Grid(options, 0, 2 * len(self._legs), rows, depth)
        self._prices = np.full(options.symbols, np.nan)
        self._steps = np.full(len(self._legs), -1, np.int64)

    def state(self) -> tuple[Any, ...]:
        return self._grid.values, self._prices, self._steps

    def restore(self, state: tuple[Any, ...]) -> None:
        self._grid.values, self._prices, self._steps = state
        depth = self._grid.values.shape[1]
        for back in range(depth - 2, -1, -1):
            rows = np.flatnonzero(np.repeat(self._steps - back > 0, 2))
            self._grid.fill_returns(np.repeat(self._steps - back, 2)[rows], rows)
        self._grid.rebuild(self._steps)

    def add(self, ticks: Block) -> Iterator[Rows]:
        """Take the last prices of each interval and measure the pairs that moved."""
        cuts = np.flatnonzero(np.diff(ticks["open_time"])) + 1
        for start, stop in zip([0, *cuts.tolist()], [*cuts.tolist(), len(ticks)], strict=True):
            part = ticks[start:stop]
            traded = np.zeros(len(self._prices), np.bool_)
            traded[part["symbol"]] = True
            self._prices[part["symbol"]] = part["close"]
            y, x = self._legs.T
            known = np.isfinite(self._prices)
            active = np.flatnonzero((traded[y] | traded[x]) & known[y] & known[x])
            if len(active):
                yield self._measure(int(part["open_time"][0]), active)

    def _measure(self, time: int, active: NDArray[np.intp]) -> Rows:
        grid = self._grid
        self._steps[active] += 1
        steps = np.full(len(self._steps), -1, np.int64)
        steps[active] = self._steps[active]
        rows = (2 * active[:, None] + (0, 1)).ravel()
        numbers = np.repeat(self._steps[active], 2)
        prices = self._prices[self._legs[active]]
        values = np.log(prices) if grid.options.log_prices else prices
        grid.values[rows, numbers % grid.values.shape[1]] = values.ravel()
        grid.fill_returns(numbers, rows)
        out = grid.measure(steps)[active]
        out["time"] = time
        out["version"] = 1
        out["price_y"], out["price_x"] = prices[:, :1], prices[:, 1:]
        for name in ("adf_statistic", "adf_p_value", "adf_lag", "half_life", "hurst", "variance_ratio"):
            out[name] = np.nan
        return Rows("pair_metrics", out.reshape(-1))


class PairLogic(StatefulBatchLogic[Rows, Rows, bytes]):
    """Statistics and signals of every pair of a shard, in every timeframe."""

    def __init__(self, resume: bytes | None, *, options: PairOptions, timeframes: Sequence[int]) -> None:
        """Init.

        :arg resume: what `snapshot` returned, or None.
        :arg options: the pairs, and what to compute.
        :arg timeframes: lengths in us; 0 is tick.
        """
        warm_up(update_pairs, rebuild_pairs, fill_stationarity, update_signals)
        self._parts: dict[int, _Bars | _Ticks] = {
            length: _Bars(options, length) if length else _Ticks(options) for length in timeframes
        }
        if resume is not None:
            states = pickle.loads(resume)  # noqa: S301 - written by snapshot below, into the user's own folder
            for length, part in self._parts.items():
                if length in states:
                    part.restore(states[length])

    @override
    def on_batch(self, values: list[Rows]) -> tuple[list[Rows], bool]:
        out: list[Rows] = []
        for table, block in values:
            if table == TICKS:
                out += self._parts[0].add(block)
                continue
            for length, part in self._parts.items():
                bars = block[block["timeframe"] == length]
                if len(bars):
                    out += part.add(bars)
        return out, self.RETAIN

    @override
    def snapshot(self) -> bytes:
        # Prices alone: the rolling state follows from them, to the bit.
        return pickle.dumps({length: part.state() for length, part in self._parts.items()})
