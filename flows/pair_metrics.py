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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from bytewax.operators import StatefulBatchLogic
from numpy.typing import NDArray
from typing_extensions import override

from flows.bars import TICKS
from kernels.comoments import depth_needed, new_state, rebuild_pairs, update_pairs
from kernels.compile import warm_up
from kernels.records import METHODS, METRIC, SIGNAL, Block, Rows
from kernels.regression import (
    kalman_noise,
    new_kalman_state,
    new_rls_state,
    update_kalman,
    update_rls,
    update_tls,
)
from kernels.signals import NO_SIGNAL, update_signals
from kernels.stationarity import fill_stationarity

REVISIONS = 128
"""Bars back from the newest for which a late bar still changes the pair statistics."""


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


def _matches(new: Sequence[Any], old: Sequence[Any]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return where the elements that both have stand in each."""
    places = {element: place for place, element in enumerate(old)}
    both = [(i, places[element]) for i, element in enumerate(new) if element in places]
    return tuple(np.array(both, np.intp).reshape(-1, 2).T)  # type: ignore[return-value]


_UNIT_ROOT_FIELDS = ("adf_statistic", "adf_p_value", "adf_lag", "half_life", "hurst", "variance_ratio")


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
        self.filters = {
            "rls": new_rls_state(len(self.y), self.windows),
            "kalman": new_kalman_state(len(self.y), self.windows),
        }
        q, r = kalman_noise(self.windows, options.kalman_r)
        self._noise = np.full_like(q, options.kalman_q) if options.kalman_q else q, r
        self.ols = self._rows("ols")
        self.rows = {
            method: self.ols if method == "ols" else self._rows(method) for method in options.methods
        }

    def _rows(self, method: str) -> Block:
        rows = np.zeros((len(self.y), len(self.windows)), METRIC)
        rows["pair"] = np.arange(len(self.y))[:, None]
        rows["window"] = self.windows
        rows["timeframe"] = self.timeframe
        rows["method"] = METHODS.index(method)
        return rows

    def fill_returns(self, step: NDArray[np.int64] | int, rows: NDArray[np.intp] | slice) -> None:
        """Set the returns at an observation from the values there and before."""
        depth = self.values.shape[1]
        now, before = self.values[rows, step % depth], self.values[rows, (step - 1) % depth]
        self.returns[rows, step % depth] = now - before if self.options.log_prices else now / before - 1.0

    def measure(self, steps: NDArray[np.int64], revised: bool) -> Iterator[Block]:
        """Roll pairs on to their newest observation (-1: leave) and give METRIC[P, W] of each method.

        The filters' memory has no edge behind which a revision would be forgotten: they go on as they are.
        """
        y, x, windows, z_window = self.y, self.x, self.windows, self.options.z_window
        update_pairs(self.values, self.returns, steps, y, x, windows, z_window, self.state, self.ols)
        for method, rows in self.rows.items():
            if revised and method in self.filters:
                continue
            if method == "rls":
                update_rls(self.values, steps, y, x, windows, z_window, self.filters["rls"], self.ols, rows)
            elif method == "kalman":
                q, r = self._noise
                update_kalman(
                    self.values,
                    steps,
                    y,
                    x,
                    windows,
                    z_window,
                    q,
                    r,
                    self.filters["kalman"],
                    self.ols,
                    rows,
                )
            elif method == "tls":
                update_tls(self.values, steps, y, x, windows, z_window, self.state, self.ols, rows)
            yield rows

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
        self._grid = _Grid(options, timeframe, len(options.symbols), options.legs, depth)
        self._prices = np.full((len(options.symbols), depth), np.nan)
        self._latest = -1
        self._revision = 0
        shape = len(options.pairs), len(options.windows)
        self._positions = {method: np.zeros(shape, np.int8) for method in options.methods}

    def state(self) -> tuple[Any, ...]:
        return self._prices, self._latest, self._revision, self._positions, self._grid.filters

    def restore(self, state: tuple[Any, ...], old: PairOptions) -> None:
        prices, self._latest, self._revision, positions, filters = state
        grid, options = self._grid, self._grid.options
        rows, old_rows = _matches(options.symbols, old.symbols)
        depth, old_depth = self._prices.shape[1], prices.shape[1]
        steps = np.arange(max(self._latest - min(depth, old_depth) + 1, 0), self._latest + 1)
        self._prices[np.ix_(rows, steps % depth)] = prices[np.ix_(old_rows, steps % old_depth)]
        grid.values[:] = self._scaled(self._prices)
        for step in steps[1:]:
            grid.fill_returns(step, slice(None))
        pairs, old_pairs = _matches(options.pairs, old.pairs)
        windows, old_windows = _matches(options.windows, old.windows)
        for method, position in self._positions.items():
            if method in positions:
                position[np.ix_(pairs, windows)] = positions[method][np.ix_(old_pairs, old_windows)]
        for method, state_of in grid.filters.items():
            state_of[np.ix_(pairs, windows)] = filters[method][np.ix_(old_pairs, old_windows)]
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
        at = step % self._prices.shape[1]
        for out in grid.measure(steps, revised=version > 1):
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
        positions = self._positions[METHODS[out["method"][0, 0]]]
        events = np.empty_like(positions)
        update_signals(z_scores, options.z_entry, options.z_exit, positions, events)
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
        self._legs = options.legs
        rows = np.arange(2 * len(self._legs), dtype=np.int32).reshape(-1, 2)
        self._grid = _Grid(options, 0, 2 * len(self._legs), rows, depth)
        self._prices = np.full(len(options.symbols), np.nan)
        self._steps = np.full(len(self._legs), -1, np.int64)

    def state(self) -> tuple[Any, ...]:
        return self._grid.values, self._prices, self._steps, self._grid.filters

    def restore(self, state: tuple[Any, ...], old: PairOptions) -> None:
        values, prices, steps, filters = state
        grid, options = self._grid, self._grid.options
        rows, old_rows = _matches(options.symbols, old.symbols)
        self._prices[rows] = prices[old_rows]
        pairs, old_pairs = _matches(options.pairs, old.pairs)
        self._steps[pairs] = steps[old_pairs]
        windows, old_windows = _matches(options.windows, old.windows)
        for method, state_of in grid.filters.items():
            state_of[np.ix_(pairs, windows)] = filters[method][np.ix_(old_pairs, old_windows)]
        depth, old_depth = grid.values.shape[1], values.shape[1]
        for pair, old_pair in zip(pairs, old_pairs, strict=True):
            last = int(self._steps[pair])
            kept = np.arange(max(last - min(depth, old_depth) + 1, 0), last + 1)
            for leg in (0, 1):
                grid.values[2 * pair + leg, kept % depth] = values[2 * old_pair + leg, kept % old_depth]
            for step in kept[1:]:
                grid.fill_returns(step, np.array([2 * pair, 2 * pair + 1]))
        grid.rebuild(self._steps)

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
                yield from self._measure(int(part["open_time"][0]), active)

    def _measure(self, time: int, active: NDArray[np.intp]) -> Iterator[Rows]:
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
        for rows_of in grid.measure(steps, revised=False):
            out = rows_of[active]
            out["time"] = time
            out["version"] = 1
            out["price_y"], out["price_x"] = prices[:, :1], prices[:, 1:]
            for name in _UNIT_ROOT_FIELDS:
                out[name] = np.nan
            yield Rows("pair_metrics", out.reshape(-1))


class PairLogic(StatefulBatchLogic[Rows, Rows, bytes]):
    """Statistics and signals of every pair of a shard, in every timeframe."""

    def __init__(self, resume: bytes | None, *, options: PairOptions, timeframes: Sequence[int]) -> None:
        """Init.

        :arg resume: what `snapshot` returned, or None. Symbols, pairs, windows and timeframes may have
            changed since: those that are still there go on.
        :arg options: the pairs, and what to compute.
        :arg timeframes: lengths in us; 0 is tick.
        """
        warm_up(update_pairs, rebuild_pairs, fill_stationarity, update_signals)
        chosen: dict[str, Callable[..., Any]]
        chosen = {"rls": update_rls, "kalman": update_kalman, "tls": update_tls}
        warm_up(*(kernel for method, kernel in chosen.items() if method in options.methods))
        self._parts: dict[int, _Bars | _Ticks] = {
            length: _Bars(options, length) if length else _Ticks(options) for length in timeframes
        }
        self._options = options
        if resume is not None:
            old, states = pickle.loads(resume)  # noqa: S301 - from the user's own recovery folder
            for length, part in self._parts.items():
                if length in states and (length or old.log_prices == options.log_prices):
                    part.restore(states[length], old)

    @override
    def on_batch(self, values: list[Rows]) -> tuple[list[Rows], bool]:
        found: dict[str, list[Block]] = {}
        for table, block in values:
            for length, part in self._parts.items():
                mine = block if table == TICKS else block[block["timeframe"] == length]
                if (table == TICKS) == (length == 0) and len(mine):
                    for name, rows in part.add(mine):
                        found.setdefault(name, []).append(rows)
        return [Rows(name, np.concatenate(blocks)) for name, blocks in found.items()], self.RETAIN

    @override
    def snapshot(self) -> bytes:
        # Prices alone: the rolling state follows from them, to the bit.
        return pickle.dumps((self._options, {length: part.state() for length, part in self._parts.items()}))
