"""Time and check the stationarity kernels beside statsmodels.

    OPENBLAS_NUM_THREADS=1 python -m benchmarks.bench_stationarity

One BLAS thread is kinder to statsmodels: more of them wait for each other where the machine is busy.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from statsmodels.tsa.stattools import adfuller
from statsmodels.tsa.stattools import coint as statsmodels_coint
from statsmodels.tsa.vector_ar.vecm import coint_johansen

from benchmarks.report import Row, interleaved, report
from kernels.compile import warm_up
from kernels.records import METRIC
from kernels.unit_root import (
    AIC,
    KERNELS,
    adf,
    coint,
    engle_granger_all,
    fill_stationarity,
    johansen,
)

Floats = NDArray[np.float64]
Pair = tuple[Floats, Floats]

COMMAND = "OPENBLAS_NUM_THREADS=1 python -m benchmarks.bench_stationarity"
PACKAGES = ("numba", "numpy", "statsmodels")
PAIRS = 12
REPEATS = 20


def cointegrated(random: np.random.Generator, n: int) -> Pair:
    """Draw two prices whose spread reverts with a half-life of 14 bars."""
    x = 60_000 + 20 * np.cumsum(random.normal(size=n))
    spread = np.zeros(n)
    for t in range(1, n):
        spread[t] = 0.95 * spread[t - 1] + random.normal()
    return 0.05 * x + spread, x


def compare(
    name: str,
    n: int,
    pairs: Sequence[Pair],
    ours: Callable[[Pair], tuple[float, float]],
    theirs: Callable[[Pair], tuple[float, float]],
) -> Row:
    """Time both on the same pairs, and take the largest differences in statistic and p-value."""
    times = interleaved(
        {
            "ours": lambda: [ours(pair) for _ in range(REPEATS) for pair in pairs],
            "theirs": lambda: [theirs(pair) for pair in pairs],
        },
        rounds=5,
    )
    mine = times["ours"] / (REPEATS * len(pairs)) * 1e6
    other = times["theirs"] / len(pairs) * 1e6
    a = np.array([ours(pair) for pair in pairs])
    b = np.array([theirs(pair) for pair in pairs])
    return {
        "test": name,
        "n": n,
        "ours, us": mine,
        "statsmodels, us": other,
        "times faster": other / mine,
        "statistic, relative difference": f"{np.max(np.abs(a[:, 0] / b[:, 0] - 1)):.0e}",
        "p-value, difference": f"{np.max(np.abs(a[:, 1] - b[:, 1])):.0e}",
    }


def single_tests() -> list[Row]:
    """Measure one test of one series or pair, through the public Python functions."""

    def their_adf(pair: Pair, **options: Any) -> tuple[float, float]:
        result = adfuller(pair[0], result_object=True, **options)
        return result.statistic, result.pvalue

    def their_johansen(pair: Pair) -> tuple[float, float]:
        result = coint_johansen(np.column_stack(pair), 0, 1)
        return result.trace_stat[0], result.max_eig_stat[0]

    def our_johansen(pair: Pair) -> tuple[float, float]:
        result = johansen(*pair)
        return result.trace[0], result.max_eigenvalue[0]

    rows = []
    random = np.random.default_rng(1)
    for n in (120, 300, 1000):
        pairs = [cointegrated(random, n) for _ in range(PAIRS)]
        spreads = [(y - 0.05 * x, x) for y, x in pairs]
        rows += [
            compare(
                "adf, lag 1",
                n,
                spreads,
                lambda pair: adf(pair[0], 1)[:2],
                lambda pair: their_adf(pair, maxlag=1, autolag=None),
            ),
            compare("adf, AIC", n, spreads, lambda pair: adf(pair[0], AIC)[:2], their_adf),
            compare(
                "coint, lag 1",
                n,
                pairs,
                lambda pair: coint(*pair, 1)[:2],
                lambda pair: statsmodels_coint(*pair, maxlag=1, autolag=None)[:2],
            ),
            compare(
                "coint, AIC",
                n,
                pairs,
                lambda pair: coint(*pair, AIC)[:2],
                lambda pair: statsmodels_coint(*pair)[:2],
            ),
            compare("johansen (trace, max)", n, pairs, our_johansen, their_johansen),
        ]
    return rows


def batches() -> list[Row]:
    """Measure what one bar, and one scan of a market, cost; statsmodels from a sample of their tests."""
    random = np.random.default_rng(2)
    symbols, n, pairs = 400, 300, 2000
    values = 100 + np.cumsum(random.normal(size=(symbols, n)), axis=1)
    y = random.integers(0, symbols, pairs).astype(np.int32)
    x = ((y + random.integers(1, symbols, pairs)) % symbols).astype(np.int32)
    step = np.full(pairs, n - 1, np.int64)
    windows = np.array([n], np.int64)
    out = np.zeros((pairs, 1), METRIC)
    out["hedge_ratio"], out["observations"] = 0.7, n
    sample = [(values[a], values[b]) for a, b in zip(y[:PAIRS], x[:PAIRS])]
    times = interleaved(
        {
            "fill": lambda: fill_stationarity(values, step, y, x, windows, 1, out),
            "fill_aic": lambda: fill_stationarity(values, step, y, x, windows, AIC, out),
            "all": lambda: engle_granger_all(values, 1),
            "all_aic": lambda: engle_granger_all(values, AIC),
            "adf": lambda: [
                adfuller(a - 0.7 * b, maxlag=1, autolag=None, result_object=True) for a, b in sample
            ],
            "adf_aic": lambda: [adfuller(a - 0.7 * b, result_object=True) for a, b in sample],
            "coint": lambda: [statsmodels_coint(a, b, maxlag=1, autolag=None) for a, b in sample],
            "coint_aic": lambda: [statsmodels_coint(a, b) for a, b in sample],
        },
        rounds=3,
    )
    both_ways = symbols * (symbols - 1)

    def row(name: str, tests: int, ours: float, theirs: float) -> Row:
        return {
            "work": name,
            "tests": tests,
            "ours, s": ours,
            "us a test": ours / tests * 1e6,
            "statsmodels, s": theirs / len(sample) * tests,
            "times faster": theirs / len(sample) * tests / ours,
        }

    return [
        row("fill_stationarity, lag 1", pairs, times["fill"], times["adf"]),
        row("fill_stationarity, AIC", pairs, times["fill_aic"], times["adf_aic"]),
        row("engle_granger_all, lag 1", both_ways, times["all"], times["coint"]),
        row("engle_granger_all, AIC", both_ways, times["all_aic"], times["coint_aic"]),
    ]


def main() -> None:
    """Print both tables."""
    warnings.simplefilter("ignore")
    warm_up(*KERNELS)
    note = (
        "Called from Python, on cointegrated pairs at prices of 60,000. Of the differences in `coint`, up to "
        "2e-9 is statsmodels' own: `tests/kernels/test_unit_root.py` compares with exact arithmetic."
    )
    print(report("Stationarity tests, one at a time", COMMAND, single_tests(), PACKAGES, note))
    note = (
        "`fill_stationarity`: one core; ADF, half-life, Hurst exponent and variance ratio of each spread, "
        "against statsmodels' ADF alone. `engle_granger_all`: all pairs of 400 series both ways, on all "
        f"cores. statsmodels' times are those of {PAIRS} tests, multiplied."
    )
    print(report("Stationarity of many pairs, windows of 300", COMMAND, batches(), PACKAGES, note))


if __name__ == "__main__":
    main()
