"""Price histories that break rolling statistics, each in its own way, and the exact values to judge by."""

from collections.abc import Callable, Iterable
from decimal import Decimal, localcontext

import numpy as np
from numpy.typing import NDArray

Legs = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Prices of leg Y and of leg X."""


def random_walk(length: int, rng: np.random.Generator) -> Legs:
    """Make two legs like ETH and BTC: x a random walk, y half of its moves and a walk of its own."""
    steps = rng.normal(0.0, 30.0, length)
    x = 60_000.0 + np.abs(np.cumsum(steps))
    y = 3_000.0 + np.abs(np.cumsum(0.025 * steps + rng.normal(0.0, 0.75, length)))
    return np.round(y, 2), np.round(x, 2)


def quiet(length: int, rng: np.random.Generator) -> Legs:
    """Make quiet ticks: prices near 60,000 that move by one tick of 0.01."""
    ticks = rng.integers(-1, 2, length)
    return (
        np.round(3_000.0 + 0.01 * (ticks + rng.integers(-1, 2, length)), 2),
        np.round(60_000.0 + 0.01 * ticks, 2),
    )


def absurd_print(length: int, rng: np.random.Generator) -> Legs:
    """Make a random walk with one wrong print of 6e8, in either leg at a time of its own."""
    y, x = random_walk(length, rng)
    x[length // 3] = 6e8
    y[length // 2] = 6e8
    return y, x


def stablecoin(length: int, rng: np.random.Generator) -> Legs:
    """Make two stablecoins at 1 +- 1e-7."""
    common = rng.normal(0.0, 1e-7, length)
    return 1.0 + common + rng.normal(0.0, 1e-7, length), 1.0 + common


def nearly_constant(length: int, rng: np.random.Generator) -> Legs:
    """Make a leg that moves by one tick, twice per 500 observations, beside a random walk."""
    y, x = random_walk(length, rng)
    y[:] = 1.0001
    y[::250] = 1.0002
    return y, x


def collinear(length: int, rng: np.random.Generator) -> Legs:
    """Make a good pair: y follows x with a residual of 1e-4 on a price of 60,000."""
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


def exact(
    y: Iterable[float], x: Iterable[float], z_y: Iterable[float], z_x: Iterable[float]
) -> dict[str, Decimal]:
    """Return the statistics of a pair at its newest observation, from integer arithmetic, to 60 digits.

    :arg y: Prices of leg Y over the window, newest last; complete observations only.
    :arg x: Prices of leg X, likewise.
    :arg z_y: Prices of leg Y over the z window, newest last; empty where it is not full.
    :arg z_x: Prices of leg X, likewise.
    :returns: The fields of METRIC that are defined, and residual_std, the standard error of the regression.
    """
    result: dict[str, Decimal] = {}
    ys, xs, z_ys, z_xs = map(_whole, (y, x, z_y, z_x))
    n = len(xs)
    if n < 3:
        return result
    sum_x, sum_y = sum(xs), sum(ys)
    sxx = n * sum(v * v for v in xs) - sum_x * sum_x
    syy = n * sum(v * v for v in ys) - sum_y * sum_y
    sxy = n * sum(a * b for a, b in zip(ys, xs)) - sum_x * sum_y
    if sxx == 0:
        return result
    with localcontext() as context:
        context.prec = 60
        unit = Decimal(2) ** -_DIGITS
        result["hedge_ratio"] = Decimal(sxy) / sxx
        result["intercept"] = Decimal(sum_y * sxx - sxy * sum_x) / (n * sxx) * unit
        variance = Decimal(syy * sxx - sxy * sxy) / sxx / (n * (n - 2))
        result["residual_std"] = variance.sqrt() * unit
        result["hedge_ratio_stderr"] = (variance * n / sxx).sqrt()
        result["intercept_stderr"] = (variance * (sxx + sum_x * sum_x) / (n * sxx)).sqrt() * unit
        if syy:
            result["r_squared"] = Decimal(sxy * sxy) / (sxx * syy)
            result["correlation"] = sxy / Decimal(sxx * syy).sqrt()
        newest = ys[-1] * sxx - sxy * xs[-1]  # the spread, times sxx
        result["spread"] = Decimal(newest) / sxx * unit
        if z_xs:
            m = len(z_xs)
            spreads = [a * sxx - sxy * b for a, b in zip(z_ys, z_xs)]
            total = sum(spreads)
            squares = m * sum(v * v for v in spreads) - total * total
            result["spread_mean"] = Decimal(total) / (m * sxx) * unit
            result["spread_std"] = Decimal(squares).sqrt() / (m * sxx) * unit
            if squares:
                result["z_score"] = (m * newest - total) / Decimal(squares).sqrt()
    return result


_DIGITS = 160
"""Binary digits behind the point: enough for any price above 1e-32, exactly."""


def _whole(values: Iterable[float]) -> list[int]:
    """Scale floats to integers, exactly."""
    scaled = []
    for value in values:
        numerator, denominator = float(value).as_integer_ratio()
        quotient, rest = divmod(numerator << _DIGITS, denominator)
        assert rest == 0, f"{value!r} has too many digits"
        scaled.append(quotient)
    return scaled
