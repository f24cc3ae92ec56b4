"""Sums over windows in exact integers.

Prices of 60,000 that move by 0.01, or of 1 that move by 1e-7, lose half of their digits in sums of doubles,
and a wrong print of 6e8 loses more. A double is an integer times a power of two, so here sums are integers,
which lose nothing. A statistic is rounded to a double at its end.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate
from math import sqrt

ROUNDING = 2.0**-52
"""A double is known to half of this, relative to itself."""


@dataclass(frozen=True)
class Moments:
    """Sums over n observations of two variables, which are integers in units of 2**-bits.

    The moments about the means are n**2 times covariance and variances, in units of 2**(-2 bits).
    """

    n: int
    y: int
    x: int
    yy: int
    xy: int
    xx: int
    bits: int

    @property
    def cyy(self) -> int:
        return self.n * self.yy - self.y * self.y

    @property
    def cxy(self) -> int:
        return self.n * self.xy - self.y * self.x

    @property
    def cxx(self) -> int:
        return self.n * self.xx - self.x * self.x

    @property
    def deviation_y(self) -> float:
        return root(self.cyy, self.n * self.n << 2 * self.bits)

    @property
    def deviation_x(self) -> float:
        return root(self.cxx, self.n * self.n << 2 * self.bits)

    def rounding(self, beta: float) -> float:
        """Return how far y - beta x is known, as y and x are doubles: the last digit of their magnitude."""
        size = self.n << 2 * self.bits
        return ROUNDING * (root(self.yy, size) + abs(beta) * root(self.xx, size))


class Sums:
    """Sums of two variables over any range of their observations.

    :arg y: Values of the first variable.
    :arg x: Values of the second.
    """

    def __init__(self, y: Iterable[float], x: Iterable[float]) -> None:
        ratios = [[float(value).as_integer_ratio() for value in values] for values in (y, x)]
        denominators = [denominator for leg in ratios for _, denominator in leg]
        self.bits = max(denominators, default=1).bit_length() - 1
        self.y, self.x = ([top * (2**self.bits // bottom) for top, bottom in leg] for leg in ratios)
        products = (
            self.y,
            self.x,
            [y * y for y in self.y],
            [x * y for x, y in zip(self.x, self.y)],
            [x * x for x in self.x],
        )
        self._totals = [list(accumulate(values, initial=0)) for values in products]

    def over(self, begin: int, end: int) -> Moments:
        """Return the moments of observations `begin` up to `end`, which is not among them."""
        y, x, yy, xy, xx = (total[end] - total[begin] for total in self._totals)
        return Moments(end - begin, y, x, yy, xy, xx, self.bits)


def root(top: int, bottom: int) -> float:
    """Return the square root of a ratio of integers of any size."""
    return sqrt(top / bottom)
