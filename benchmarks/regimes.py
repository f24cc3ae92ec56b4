"""Price histories of two legs that break rolling statistics, each in its own way."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Legs = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Prices of leg Y and of leg X."""


def random_walk(length: int, rng: np.random.Generator) -> Legs:
    """Two legs like ETH and BTC: x a random walk, y half of its moves and a walk of its own."""
    steps = rng.normal(0.0, 30.0, length)
    x = 60_000.0 + np.abs(np.cumsum(steps))
    y = 3_000.0 + np.abs(np.cumsum(0.025 * steps + rng.normal(0.0, 0.75, length)))
    return np.round(y, 2), np.round(x, 2)


def quiet(length: int, rng: np.random.Generator) -> Legs:
    """Quiet ticks: prices near 60,000 that move by one tick of 0.01."""
    ticks = rng.integers(-1, 2, length)
    return (
        np.round(3_000.0 + 0.01 * (ticks + rng.integers(-1, 2, length)), 2),
        np.round(60_000.0 + 0.01 * ticks, 2),
    )


def absurd_print(length: int, rng: np.random.Generator) -> Legs:
    """A random walk with one wrong print of 6e8, in either leg at a time of its own."""
    y, x = random_walk(length, rng)
    x[length // 3] = 6e8
    y[length // 2] = 6e8
    return y, x


def stablecoin(length: int, rng: np.random.Generator) -> Legs:
    """Two stablecoins at 1 +- 1e-7."""
    common = rng.normal(0.0, 1e-7, length)
    return 1.0 + common + rng.normal(0.0, 1e-7, length), 1.0 + common


def nearly_constant(length: int, rng: np.random.Generator) -> Legs:
    """A leg that moves by one tick, twice per 500 observations, beside a random walk."""
    y, x = random_walk(length, rng)
    y[:] = 1.0001
    y[::250] = 1.0002
    return y, x


def collinear(length: int, rng: np.random.Generator) -> Legs:
    """A good pair: y follows x with a residual of 1e-4 on a price of 60,000."""
    x = 60_000.0 + np.abs(np.cumsum(rng.normal(0.0, 10.0, length)))
    return 0.9 * x + 100.0 + rng.normal(0.0, 1e-4, length), x


REGIMES: dict[str, Callable[[int, np.random.Generator], Legs]] = {
    "random walk": random_walk,
    "quiet ticks": quiet,
    "one absurd print": absurd_print,
    "stablecoins": stablecoin,
    "nearly constant leg": nearly_constant,
    "nearly collinear legs": collinear,
}
