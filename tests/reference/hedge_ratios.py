"""Hedge ratios, by the section of that name of docs/statistics.md."""

from bisect import bisect_right
from collections.abc import Callable
from decimal import Context, Decimal, localcontext
from fractions import Fraction
from math import nan
from typing import NamedTuple

from tests.reference.exact import ROUNDING, Moments, Sums, root


class Line(NamedTuple):
    """The line y = beta x + intercept.

    :arg beta: The hedge ratio, not yet rounded to a double.
    :arg weighted_deviation_y: Deviation of y, weighted as `rls` does; its accuracy rests on it.
    :arg weighted_deviation_x: That of x.
    """

    beta: Fraction
    intercept: float
    hedge_ratio_stderr: float = nan
    intercept_stderr: float = nan
    r_squared: float = nan
    weighted_deviation_y: float = nan
    weighted_deviation_x: float = nan


class Observations(NamedTuple):
    """Complete observations of a pair.

    :arg place: Number of each observation; incomplete ones between them are left out.
    :arg sums: Their values, and sums of them.
    """

    place: list[int]
    sums: Sums

    def window(self, k: int, length: int) -> Moments:
        """Return the moments of the last `length` places up to observation k."""
        return self.sums.over(bisect_right(self.place, self.place[k] - length), k + 1)


def ols(m: Moments) -> Line | None:
    """Regress y on x and a constant, by ordinary least squares."""
    n, cxx = m.n, m.cxx
    if n < 3 or cxx == 0:
        return None
    beta = Fraction(m.cxy, cxx)
    intercept = (m.y * cxx - m.cxy * m.x) / (n * cxx << m.bits)
    residuals = m.cyy * cxx - m.cxy**2  # their sum of squares, times n cxx
    degrees = n * (n - 2) * cxx
    return Line(
        beta,
        intercept,
        root(residuals * n, degrees * cxx),
        root(residuals * m.xx, degrees * cxx << 2 * m.bits),
        m.cxy**2 / (cxx * m.cyy) if m.cyy else nan,
    )


def tls(m: Moments) -> Line | None:
    """Fit the line with the least sum of squared perpendicular distances.

    A line that is vertical, or any line through the mean, has no hedge ratio.
    """
    n, cxx, cyy = m.n, m.cxx, m.cyy
    if n < 3 or cxx == 0:
        return None
    size = n << 2 * m.bits
    known = ROUNDING * (root(m.yy, size) * m.deviation_x + root(m.xx, size) * m.deviation_y)
    if abs(m.cxy) / (n * n << 2 * m.bits) <= known:  # no covariance, up to rounding of the prices
        flat = m.deviation_x**2 - m.deviation_y**2 > 2 * known
        return _through_means(Fraction(0), m) if flat else None
    with localcontext(prec=200):
        difference = Decimal(cyy - cxx)
        slope = (difference + (difference**2 + 4 * Decimal(m.cxy) ** 2).sqrt()) / (2 * Decimal(m.cxy))
    return _through_means(Fraction(slope), m)


def rls(observations: Observations, window: int) -> list[Line | None]:
    """Fit by least squares in which an observation of age k counts (1 - 1/window)**k.

    An x whose deviation, so weighted, is below the last digit of x does not move any more.
    """
    lines: list[Line | None] = []
    place, sums = observations.place, observations.sums
    with localcontext(prec=120):
        forget, unit = 1 - 1 / Decimal(window), Decimal(2) ** -sums.bits
        totals = [Decimal(0)] * 6
        for k in range(len(place)):
            y, x = Decimal(sums.y[k]) * unit, Decimal(sums.x[k]) * unit
            weight = forget ** (place[k] - place[k - 1]) if k else Decimal(1)
            totals = [weight * old + new for old, new in zip(totals, (Decimal(1), y, x, y * y, x * y, x * x))]
            mean_y, mean_x, mean_yy, mean_xy, mean_xx = (total / totals[0] for total in totals[1:])
            variances = (mean_yy - mean_y**2, mean_xx - mean_x**2)
            deviation_y, deviation_x = (float(max(variance, Decimal(0)).sqrt()) for variance in variances)
            if k < 2 or deviation_x <= ROUNDING * abs(float(x)):
                lines.append(None)
                continue
            beta = (mean_xy - mean_x * mean_y) / variances[1]
            intercept = float(mean_y - beta * mean_x)
            deviations = {"weighted_deviation_y": deviation_y, "weighted_deviation_x": deviation_x}
            lines.append(Line(Fraction(beta), intercept, **deviations))
    return lines


def kalman(observations: Observations, window: int, q: float | None, r: float) -> list[Line | None]:
    """Follow level and slope by a Kalman filter.

    :arg q: Variance of a step of level and slope; None: r / window**2.
    :arg r: Variance of the noise.
    """
    place, sums = observations.place, observations.sums
    if not place:
        return []
    lines: list[Line | None] = [None] * len(place)
    with localcontext(Context(prec=60)):
        noise = Decimal(r)
        step = noise / window**2 if q is None else Decimal(q)
        unit = Decimal(2) ** -sums.bits
        y0, x0 = sums.y[0] * unit, sums.x[0] * unit
        unit_y, unit_x = abs(y0) or Decimal(1), abs(x0) or Decimal(1)
        v = [(y * unit - y0) / unit_y for y in sums.y]
        u = [(x * unit - x0) / unit_x for x in sums.x]
        start = next(
            (k for k in range(window - 1, len(u)) if any(value != u[0] for value in u[: k + 1])), None
        )
        if start is None:
            return lines
        n = start + 1
        su, sv = sum(u[:n]), sum(v[:n])
        suu, suv = sum(a * a for a in u[:n]), sum(a * b for a, b in zip(u[:n], v[:n]))
        determinant = n * suu - su * su
        b = (n * suv - su * sv) / determinant
        level = (sv - b * su) / n
        # The covariance of (level, b) is r (H'H)^-1, where H'H is ((n, su), (su, suu)).
        p_ll, p_lb, p_bb = noise * suu / determinant, -noise * su / determinant, noise * n / determinant
        for k in range(start, len(u)):
            if k > start:
                steps = place[k] - place[k - 1]
                p_ll, p_bb = p_ll + steps * step, p_bb + steps * step
                gain_l, gain_b = p_ll + p_lb * u[k], p_lb + p_bb * u[k]
                variance = gain_l + gain_b * u[k] + noise
                error = v[k] - level - b * u[k]
                level, b = level + gain_l * error / variance, b + gain_b * error / variance
                p_ll = p_ll - gain_l * gain_l / variance
                p_lb = p_lb - gain_l * gain_b / variance
                p_bb = p_bb - gain_b * gain_b / variance
            beta = b * unit_y / unit_x
            intercept = float(y0 + unit_y * level - beta * x0)
            lines[k] = Line(Fraction(beta), intercept)
    return lines


def lines(
    method: str, observations: Observations, window: int, q: float | None, r: float
) -> list[Line | None]:
    """Return the line at each complete observation; None where the method has none yet."""
    if method == "rls":
        return rls(observations, window)
    if method == "kalman":
        return kalman(observations, window, q, r)
    over_window: dict[str, Callable[[Moments], Line | None]] = {"ols": ols, "tls": tls}
    return [over_window[method](observations.window(k, window)) for k in range(len(observations.place))]


def _through_means(beta: Fraction, m: Moments) -> Line:
    return Line(beta, float((m.y - beta * m.x) / (m.n << m.bits)))
