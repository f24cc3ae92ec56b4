"""How a harness compares what a program stored with the reference."""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tests.reference.exact import ROUNDING
from tests.reference.pairs import ACCURACY

RELATIVE = 1e-9
"""Statistics are right to this much, also in the hard regimes."""

KEYS = {
    "bars": ["symbol", "timeframe", "open_time"],
    "ticks": ["pair", "time"],
    "pair_metrics": ["pair", "timeframe", "window", "method", "time"],
    "signals": ["pair", "timeframe", "window", "method", "time"],
    "gaps": ["symbol", "first_id"],
}
"""Columns that identify a row of each table."""

SHOWN = 5
"""So many differences of a column are shown."""

_REST_ON_BETA = ("hedge_ratio", "intercept", "spread", "spread_mean", "spread_std")

Floats = NDArray[np.float64]


def differences(table: str, found: pl.DataFrame, expected: pl.DataFrame) -> list[str]:
    """Compare a table with the reference's.

    Rows, names, times, ids, prices, volumes and marks are equal exactly, and so is whether a statistic is
    defined. Statistics are equal to RELATIVE, and where doubles cannot know them as well, to what doubles can
    know; see `tolerances`.

    :arg table: A name of KEYS.
    :arg found: Columns of the table; others are not looked at.
    :arg expected: The reference's.
    :returns: A line for each kind of difference; none when the tables are equal.
    """
    key = KEYS[table]
    lines = []
    if found.n_unique(key) < len(found):
        lines.append(f"{table}: {len(found) - found.n_unique(key)} rows whose key is there before")
        found = found.unique(key, keep="last")
    for name, here, there in (("missing", expected, found), ("unexpected", found, expected)):
        rows = here.join(there, on=key, how="anti").select(key)
        if len(rows):
            lines.append(f"{table}: {len(rows)} of {len(here)} rows {name}: {rows.rows()[:SHOWN]}")
    both = expected.join(found, on=key, suffix=" found", maintain_order="left")
    allowed = tolerances(both) if table == "pair_metrics" else {}
    for column in expected.columns:
        if column in key or column in ACCURACY:
            continue
        if column not in found.columns:
            lines.append(f"{table}.{column}: there is no such column")
            continue
        right, seen = both[column], both[f"{column} found"]
        if right.dtype != pl.Float64:
            wrong = (right != seen).to_numpy()
        elif table == "signals":  # they repeat rows of pair_metrics, where the digits are looked at
            wrong = _wrong(right.to_numpy(), seen.to_numpy(), 1e-6 * (1 + np.abs(right.to_numpy())))
            wrong &= (both["method"] != "rls").to_numpy() | (column not in _REST_ON_BETA)
        elif column == "half_life":
            wrong = _wrong(_phi(right.to_numpy()), _phi(seen.to_numpy()), allowed[column])
        else:
            wrong = _wrong(right.to_numpy(), seen.to_numpy(), allowed.get(column, np.zeros(len(right))))
        if table == "pair_metrics" and column in _REST_ON_BETA:
            wrong &= ~_forgotten(both)
        if wrong.any():
            shown = both.filter(wrong).head(SHOWN).select(*key, column, f"{column} found").rows()
            lines.append(
                f"{table}.{column}: {wrong.sum()} of {len(both)} rows differ (.., expected, found): {shown}"
            )
    return lines


def tolerances(rows: pl.DataFrame) -> dict[str, Floats]:
    """Return how far each statistic may be from the reference's.

    A program that works on doubles subtracts a value near the legs first, and so knows y - beta x over a
    window to the last digits of the legs' moves, not of the legs. Where the spread hardly moves beside them,
    that limits its z-score and its unit-root statistics. A hedge ratio is known relative to the moves of y
    over those of x.

    `rls` forgets the moves of x in a long silence: the weights leave almost nothing of them. `kalman` has a
    covariance matrix with a condition of the square of what x has moved, which matters after a print that is
    absurd.

    :arg rows: Rows of the reference's pair_metrics, with the columns of ACCURACY.
    :returns: Statistics with their absolute tolerances. Half-life: of phi.
    """

    def get(name: str) -> Floats:
        return np.asarray(np.abs(rows[name].to_numpy()))

    beta, y, x, sy, sx = (
        get(name) for name in ("hedge_ratio", "value_y", "value_x", "deviation_y", "deviation_x")
    )
    method, weighted = rows["method"].to_numpy(), get("weighted_deviation_x")
    with np.errstate(divide="ignore", invalid="ignore"):
        lost = np.where(method == "rls", 8 * ROUNDING * x / weighted, 0)
        relative = RELATIVE + lost + np.where(method == "kalman", 8 * ROUNDING * get("farthest_x") ** 2, 0)
        of_beta = relative * (beta + np.where(sx > 0, sy / sx, 0))
        of_beta += np.where(
            method == "rls", (relative * get("weighted_deviation_y") + ROUNDING * y) / weighted, 0
        )
        of_beta += np.where(method == "tls", _of_tls(beta, np.nan_to_num(get("correlation")), sy, sx), 0)
        of_beta += np.where((method == "kalman") & (x > 0), 8 * ROUNDING * y / x, 0)
        noise = 8 * ROUNDING * (sy + beta * sx) + lost * beta * sx
        of_spread = noise + of_beta * x + 4 * ROUNDING * (y + beta * x)
        share = _share(noise, get("spread_std"))
        of_moves = _share(noise, get("spread_deviation"))
        in_window = relative + 100 * of_moves
        of_adf = relative + 10 * _share(noise, get("adf_smallest"))
        of_coint = RELATIVE + 160 * _share(ROUNDING * sy, get("coint_smallest"))
        of_returns = RELATIVE + 4 * ROUNDING / np.fmin(get("volatility_y"), get("volatility_x"))
        result = {
            "hedge_ratio": of_beta,
            "intercept": relative * get("intercept") + of_spread,
            "hedge_ratio_stderr": RELATIVE * get("hedge_ratio_stderr") + noise / sx,
            "intercept_stderr": RELATIVE * get("intercept_stderr") + noise * (1 + x / sx),
            "r_squared": np.full(len(rows), RELATIVE),
            "spread": relative * get("spread") + of_spread,
            "spread_mean": relative * get("spread_mean") + of_spread,
            "spread_std": relative * get("spread_std") + noise,
            "z_score": (1 + get("z_score")) * (4 * relative + share),
            "correlation": np.full(len(rows), RELATIVE),
            "return_correlation": of_returns,
            "volatility_y": RELATIVE * get("volatility_y") + ROUNDING,
            "volatility_x": RELATIVE * get("volatility_x") + ROUNDING,
            "half_life": in_window,
            "hurst": in_window,
            "variance_ratio": in_window * (1 + get("variance_ratio")),
            "variance_ratio_z": in_window * (1 + get("variance_ratio_z"))
            + of_moves * get("variance_ratio_z") ** 2,
        }
        for test, known in (("adf", of_adf), ("coint", of_coint)):
            t = get(f"{test}_statistic")
            # A regression that fits almost perfectly has residuals of the last digits, and a t that is huge.
            result[f"{test}_statistic"] = known * (1 + t) + 8 * ROUNDING * t**2
            result[f"{test}_p_value"] = np.fmin(result[f"{test}_statistic"], 1)
    return result


def unfilled(gaps: pl.DataFrame) -> pl.DataFrame:
    """Return the ranges of ids that never came, as the reference has them: adjacent rows are joined.

    :arg gaps: Rows of the table `gaps`: symbol, first_id, last_id and repair.
    """
    never = gaps.filter(pl.col("repair").is_in(["open", "unavailable"])).sort("symbol", "first_id")
    begins = (pl.col("first_id") != pl.col("last_id").shift(1) + 1).fill_null(value=True)
    ranges = never.with_columns(part=begins.cum_sum().over("symbol"))
    joined = ranges.group_by("symbol", "part", maintain_order=True).agg(
        pl.col("first_id").min(), pl.col("last_id").max()
    )
    return joined.drop("part")


def _forgotten(rows: pl.DataFrame) -> NDArray[np.bool_]:
    """Tell where weights of `rls` left too little of the moves of x for doubles: it has not moved for long.

    The z-score rests on no hedge ratio there, as x does not move.
    """
    weighted = rows["weighted_deviation_x"].to_numpy()
    little = np.isnan(weighted) | (8 * ROUNDING * np.abs(rows["value_x"].to_numpy()) > 1e-7 * weighted)
    return np.asarray((rows["method"] == "rls").to_numpy() & (rows["deviation_x"] == 0).to_numpy() & little)


def _share(part: Floats, of: Floats) -> Floats:
    """Divide; 0 where there is nothing to divide by, as the statistic is not defined there."""
    return np.asarray(part / np.where(of > 0, of, np.inf))


def _of_tls(beta: Floats, correlation: Floats, sy: Floats, sx: Floats) -> Floats:
    """Return how far the slope of total least squares is known.

    Twice its angle is that of (sx**2 - sy**2, 2 covariance), which means little where both are small.
    """
    length = np.hypot(2 * correlation * sy * sx, sx**2 - sy**2)
    sine = 2 * beta / (1 + beta**2)
    return RELATIVE * (1 + beta**2) * (2 * sx * sy + sine * (sx**2 + sy**2)) / length


def _phi(half_life: Floats) -> Floats:
    """Return what a half-life was made from, |phi|; 1 where it is infinite."""
    with np.errstate(divide="ignore"):
        return np.asarray(0.5 ** (1 / half_life))


def _wrong(right: Floats, seen: Floats, allowed: Floats) -> NDArray[np.bool_]:
    with np.errstate(invalid="ignore"):
        near = (np.abs(right - seen) <= allowed) | (right == seen)
    return np.asarray(~(near | (np.isnan(right) & np.isnan(seen))))
