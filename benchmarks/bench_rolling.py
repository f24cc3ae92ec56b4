"""Time rolling pair statistics beside their peers, with the error beside the time.

Run ``python -m benchmarks.bench_rolling``; peers that are not installed are left out by name
(`pip install -r benchmarks/requirements.txt` brings them).
"""

import warnings
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from importlib import import_module
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.report import Row, interleaved, report
from kernels.compile import warm_up
from kernels.descriptive import DESCRIPTION, new_windows, update_descriptive
from kernels.hedge_ratios import (
    kalman_noise,
    new_kalman_state,
    new_rls_state,
    update_kalman,
    update_rls,
    update_tls,
)
from kernels.records import METRIC
from kernels.rolling_ols import (
    depth_needed,
    new_matrix,
    new_state,
    roll_pair,
    update_all_pairs,
    update_pairs,
)
from kernels.signals import update_signals
from tests.support.regimes import REGIMES, exact

Floats = NDArray[np.float64]
Rolling = Callable[[Floats], Any]

COMMAND = "python -m benchmarks.bench_rolling"
PACKAGES = ("numba", "numpy", "pandas", "polars", "numbagg", "csp", "polars-ols", "river", "statsmodels")
WINDOW, Z_WINDOW = 300, 20
LONG, SHORT = 1_000_000, 10_000
SAMPLES = 150


def ours(legs: Floats) -> dict[str, Floats]:
    """Measure hedge ratio, spread, z-score and correlation in one pass."""
    beta, spread, z_score, correlation = np.empty((4, legs.shape[1]))
    state = new_state(1, [WINDOW])
    roll_pair(legs, 0, 1, WINDOW, Z_WINDOW, beta, spread, z_score, correlation, state)
    return {"hedge_ratio": beta, "spread": spread, "z_score": z_score, "correlation": correlation}


def numbagg_correlation(legs: Floats) -> Any:
    """Measure the rolling correlation by numbagg."""
    return import_module("numbagg").move_corr(*legs, window=WINDOW)


def pandas_correlation(legs: Floats) -> Any:
    """Measure the rolling correlation by pandas."""
    pandas = import_module("pandas")
    return pandas.Series(legs[0]).rolling(WINDOW).corr(pandas.Series(legs[1])).to_numpy()


def polars_correlation(legs: Floats) -> Any:
    """Measure the rolling correlation by polars."""
    polars = import_module("polars")
    frame = polars.DataFrame({"y": legs[0], "x": legs[1]})
    return frame.select(polars.rolling_corr("y", "x", window_size=WINDOW)).to_series().to_numpy()


def csp_correlation(legs: Floats) -> Any:
    """Measure the rolling correlation by csp, in its fastest mode: curves in, numpy out."""
    csp, stats = import_module("csp"), import_module("csp.stats")
    length = legs.shape[1]
    times = np.datetime64("2020-01-01", "ns") + np.arange(length).astype("timedelta64[ms]")

    def graph() -> None:
        curves = (csp.curve(float, (times, leg)) for leg in legs)
        csp.add_graph_output("correlation", stats.corr(*curves, interval=WINDOW))

    start = datetime(2020, 1, 1)  # noqa: DTZ001 csp's times are UTC, and do not say so
    result = csp.run(csp.graph(graph), starttime=start, endtime=timedelta(days=1), output_numpy=True)
    values = result["correlation"][1]
    return np.concatenate([np.full(length - len(values), np.nan), values])


def river_correlation(legs: Floats) -> Any:
    """Measure the rolling correlation by river."""
    stats, utils = import_module("river.stats"), import_module("river.utils")
    rolling = utils.Rolling(stats.PearsonCorr, window_size=WINDOW)
    values = []
    for y, x in zip(*legs.tolist()):
        rolling.update(y, x)
        values.append(rolling.get())
    return np.array(values)


def polars_ols_hedge_ratio(legs: Floats) -> Any:
    """Measure the rolling hedge ratio by polars-ols."""
    polars = import_module("polars")
    import_module("polars_ols")  # registers the namespace
    fit = polars.col("y").least_squares.rolling_ols(
        polars.col("x"), window_size=WINDOW, mode="coefficients", add_intercept=True
    )
    frame = polars.DataFrame({"y": legs[0], "x": legs[1]})
    return frame.select(fit.alias("fit")).unnest("fit")["x"].to_numpy()


def statsmodels_hedge_ratio(legs: Floats) -> Any:
    """Measure the rolling hedge ratio by statsmodels."""
    model = import_module("statsmodels.regression.rolling").RollingOLS
    return (
        model(legs[0], np.column_stack([np.ones(legs.shape[1]), legs[1]]), WINDOW)
        .fit(params_only=True)
        .params[:, 1]
    )


PEERS: dict[str, tuple[Rolling, str, int]] = {
    "numbagg": (numbagg_correlation, "correlation", LONG),
    "pandas": (pandas_correlation, "correlation", LONG),
    "polars": (polars_correlation, "correlation", LONG),
    "csp": (csp_correlation, "correlation", LONG),
    "polars-ols": (polars_ols_hedge_ratio, "hedge_ratio", LONG),
    "river": (river_correlation, "correlation", SHORT),
    "statsmodels": (statsmodels_hedge_ratio, "hedge_ratio", SHORT),
}


def truth(legs: Floats) -> dict[int, dict[str, float]]:
    """Return exact statistics at steps spread over a history, and at those around its prints."""
    length = legs.shape[1]
    steps = set(np.linspace(2 * WINDOW, length - 1, SAMPLES).astype(int).tolist())
    for turn in (length // 3, length // 2):
        steps |= {turn + k for k in (0, 1, Z_WINDOW, WINDOW - 1, WINDOW, WINDOW + 1, 2 * WINDOW)}
    return {
        step: {
            name: float(value)
            for name, value in exact(
                *(leg[step + 1 - n : step + 1] for n in (WINDOW, Z_WINDOW) for leg in legs)
            ).items()
        }
        for step in sorted(steps)
    }


def worst(values: Floats, field: str, right: dict[int, dict[str, float]]) -> str:
    """Describe the largest error: relative of hedge ratio and spread, absolute of z-score and correlation."""
    error = 0.0
    for step, want in right.items():
        if field in want:
            if not np.isfinite(values[step]):
                return "no value"
            scale = 1.0 if field in {"z_score", "correlation"} else abs(want[field])
            error = max(error, abs(values[step] - want[field]) / scale)
    beyond = ", abs(r) > 1" if field == "correlation" and np.nanmax(np.abs(values)) > 1.0 else ""
    return f"{error:.0e}{beyond}"


def rolling() -> str:
    """Compare speed on a random walk and errors in every regime."""
    legs = {
        (regime, length): np.array(make(length, np.random.default_rng(1)))
        for regime, make in REGIMES.items()
        for length in (LONG, SHORT)
    }
    right = {key: truth(pair) for key, pair in legs.items()}
    libraries: dict[str, tuple[Rolling, list[str], int]] = {
        "pairflow, all four at once": (ours, ["correlation", "hedge_ratio", "spread", "z_score"], LONG)
    }
    missing = []
    for name, (run, field, length) in PEERS.items():
        try:
            run(legs["quiet ticks", SHORT])
            libraries[name] = run, [field], length
        except ImportError:
            missing.append(name)
    seconds = interleaved(
        {name: partial(run, legs["random walk", length]) for name, (run, _, length) in libraries.items()},
        rounds=4,
    )
    rows: list[Row] = []
    for name, (run, fields, length) in libraries.items():
        results = {regime: run(legs[regime, length]) for regime in REGIMES}
        for field in fields:
            row: dict[str, object] = {
                "library": name,
                "statistic": field.replace("_", " "),
                "ns": seconds[name] / length * 1e9,
            }
            for regime, result in results.items():
                values = result[field] if isinstance(result, dict) else result
                row[regime] = worst(values, field, right[regime, length])
            rows.append(row)
    note = (
        f"Window {WINDOW}, z window {Z_WINDOW}, one core. Time per observation on a random walk; then the "
        f"worst error against exact integer arithmetic at {SAMPLES} steps and around the prints: absolute of "
        f"correlation and z-score, relative of hedge ratio and spread. {LONG:,} observations, of river and "
        f"statsmodels {SHORT:,}."
    )
    if missing:
        note += f" Not installed: {', '.join(missing)}."
    return report(
        "Rolling pair statistics, ns per observation and worst error", COMMAND, rows, PACKAGES, note
    )


def every_pair(symbols: int = 400, bars: int = 400) -> str:
    """Compare the ways to measure every pair of many symbols at each bar."""
    rng = np.random.default_rng(2)
    moves = rng.normal(0.0, 1e-3, (symbols, bars + 2 * WINDOW)) + rng.normal(0.0, 1e-3, bars + 2 * WINDOW)
    prices = np.exp(np.cumsum(moves, 1) + rng.normal(0.0, 3.0, (symbols, 1)))
    windows = np.array([WINDOW])
    depth = depth_needed(windows, Z_WINDOW)
    ring, returns = np.full((symbols, depth), np.nan), np.full((symbols, depth), np.nan)
    y, x = (index.astype(np.int32) for index in np.triu_indices(symbols, 1))
    pairs = len(y)
    table, products = new_matrix(symbols)
    beta, spread, z_score, correlation = np.empty((4, pairs))
    state, rows = new_state(pairs, windows), np.zeros((pairs, 1), METRIC)
    times: dict[str, list[float]] = {"matrix": [], "rows": [], "numpy": []}
    for step in range(prices.shape[1]):
        ring[:, step % depth] = prices[:, step]
        steps = np.full(pairs, step)
        runs: dict[str, Callable[[], object]] = {
            "matrix": partial(
                update_all_pairs,
                *(ring, step, WINDOW, Z_WINDOW, table, products, beta, spread, z_score, correlation),
            ),
            "rows": partial(update_pairs, ring, returns, steps, y, x, windows, Z_WINDOW, state, rows),
            "numpy": partial(np.corrcoef, prices[:, max(0, step + 1 - WINDOW) : step + 1]),
        }
        for name, run in runs.items():
            if name != "numpy" or step % 20 == 19:
                start = perf_counter()
                run()
                if step >= 2 * WINDOW:
                    times[name].append(perf_counter() - start)
    np.testing.assert_allclose(z_score, rows["z_score"][:, 0], atol=1e-9)
    names = {
        "matrix": "pairflow update_all_pairs: hedge ratio, spread, z-score, correlation",
        "rows": "pairflow update_pairs: rows of METRIC",
        "numpy": "numpy corrcoef of the window, BLAS: correlation",
    }
    found: list[Row] = [
        {
            "every pair": names[name],
            "best ms": min(took) * 1e3,
            "median ms": float(np.median(took)) * 1e3,
            "worst ms": max(took) * 1e3,
        }
        for name, took in times.items()
    ]
    note = (
        f"{symbols} symbols, {pairs:,} pairs, window {WINDOW}, z window {Z_WINDOW}, {bars} bars, one thread."
    )
    return report("Every pair of many symbols, ms per bar", COMMAND, found, ("numba", "numpy"), note)


def each_kernel(pairs: int = 1_000, bars: int = 40) -> str:
    """Time the other kernels, per pair and window."""
    rng = np.random.default_rng(3)
    windows = np.array([WINDOW])
    depth = depth_needed(windows, Z_WINDOW)
    ring = 100.0 * np.exp(np.cumsum(rng.normal(0.0, 1e-3, (64, depth)), 1))
    returns = np.diff(np.log(ring), prepend=np.nan)
    y, x = (rng.integers(0, 64, pairs).astype(np.int32) for _ in range(2))
    x[x == y] += 1
    x %= 64
    state, rls, kalman = (
        new_state(pairs, windows),
        new_rls_state(pairs, windows),
        new_kalman_state(pairs, windows),
    )
    ols, other = np.zeros((pairs, 1), METRIC), np.zeros((pairs, 1), METRIC)
    q, r = kalman_noise(windows)
    descriptive, ordered = new_windows(64, windows)
    descriptions, quantiles = np.zeros((64, 1), DESCRIPTION), np.zeros((64, 1, 3))
    positions, events = np.zeros((pairs, 1), np.int8), np.zeros((pairs, 1), np.int8)
    probabilities = np.array([0.05, 0.5, 0.95])
    clock = {"update_pairs": 2 * WINDOW - 1}  # observations wrap around: the ring is one long history

    def bars_of(name: str, run: Callable[[NDArray[np.int64]], object]) -> Callable[[], None]:
        def go() -> None:
            for _ in range(bars):
                clock[name] = clock.get(name, clock["update_pairs"]) + 1
                run(np.full(pairs, clock[name]))

        return go

    kernels: dict[str, tuple[Callable[[NDArray[np.int64]], object], int]] = {
        "update_pairs": (
            lambda s: update_pairs(ring, returns, s, y, x, windows, Z_WINDOW, state, ols),
            pairs,
        ),
        "update_rls": (lambda s: update_rls(ring, s, y, x, windows, Z_WINDOW, rls, ols, other), pairs),
        "update_kalman": (
            lambda s: update_kalman(ring, s, y, x, windows, Z_WINDOW, q, r, kalman, ols, other),
            pairs,
        ),
        "update_tls": (lambda s: update_tls(ring, s, y, x, windows, Z_WINDOW, state, ols, other), pairs),
        "update_signals": (lambda _: update_signals(ols["z_score"], 2.0, 0.5, positions, events), pairs),
        "update_descriptive, with 3 quantiles": (
            lambda s: update_descriptive(
                returns, s[:64], windows, probabilities, descriptive, ordered, descriptions, quantiles
            ),
            64,
        ),
    }
    seconds = interleaved({name: bars_of(name, run) for name, (run, _) in kernels.items()}, rounds=9)
    rows: list[Row] = [
        {"kernel": name, "ns": seconds[name] / bars / count * 1e9} for name, (_, count) in kernels.items()
    ]
    note = f"One observation of one pair (or row) in one window of {WINDOW}; z window {Z_WINDOW}; one core."
    return report("Each kernel, ns per pair and window", COMMAND, rows, ("numba", "numpy"), note)


def main() -> None:
    """Print every table."""
    warnings.simplefilter("ignore")  # of peers, about their own insides
    warm_up(update_pairs, roll_pair, update_all_pairs, update_rls, update_kalman, update_tls)
    warm_up(update_descriptive, update_signals)
    for section in (rolling, every_pair, each_kernel):
        print(section(), flush=True)


if __name__ == "__main__":
    main()
