"""What bars cost, beside polars and pandas, with the error of their sums beside the time.

python -m benchmarks.bench_ohlcv
"""

from collections.abc import Callable
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np

from benchmarks.report import Row, interleaved, report
from kernels import ohlcv
from kernels.compile import warm_up
from kernels.records import MILLISECOND, SECOND, TRADE, Block

TRADES = 1_000_000
_TICK, _MINUTE = 100 * MILLISECOND, 60 * SECOND


def _market(gap: int) -> Block:
    """Return trades of one symbol, ``gap`` us apart, at prices and quantities of five places."""
    rng = np.random.default_rng(7)
    trades = np.zeros(TRADES, TRADE)
    trades["id"] = trades["first_id"] = trades["last_id"] = np.arange(1, TRADES + 1)
    trades["time"] = 1_700_000_000 * SECOND + np.arange(TRADES) * gap
    trades["price"] = np.round(60_000 + np.cumsum(rng.normal(0, 0.1, TRADES)), 2)
    trades["quantity"] = np.round(rng.exponential(0.1, TRADES) + 1e-5, 5)
    trades["buyer_is_maker"] = rng.random(TRADES) < 0.5
    trades["in_bars"] = True
    return trades


def _ours(trades: Block, *lengths: int) -> Block:
    """Return closed bars of every length."""
    state = ohlcv.new_bar_state(1, lengths, [length >= SECOND for length in lengths], 0)
    out = ohlcv.empty_bars(TRADES)
    _, rows = ohlcv.add_trades(trades, 0, int(trades["time"][-1]) + 10 * _MINUTE, state, out)
    return out[:rows]


def _polars(trades: Block) -> Any:
    import polars as pl

    frame = pl.DataFrame({name: trades[name] for name in ("time", "price", "quantity", "buyer_is_maker")})
    value = pl.col("price") * pl.col("quantity")
    taker = ~pl.col("buyer_is_maker")
    return (
        frame.lazy()
        .group_by(pl.col("time") // SECOND, maintain_order=True)
        .agg(
            pl.col("price").first().alias("open"),
            pl.col("price").max().alias("high"),
            pl.col("price").min().alias("low"),
            pl.col("price").last().alias("close"),
            pl.col("quantity").sum().alias("volume"),
            value.sum().alias("quote_volume"),
            pl.col("quantity").filter(taker).sum().alias("taker_buy_volume"),
            value.filter(taker).sum().alias("taker_buy_quote_volume"),
            pl.len().alias("trades"),
        )
        .collect()
    )


def _pandas(trades: Block) -> Any:
    import pandas as pd

    frame = pd.DataFrame({name: trades[name] for name in ("time", "price", "quantity")})
    frame["value"] = frame["price"] * frame["quantity"]
    for name in ("quantity", "value"):
        frame[f"taker_{name}"] = np.where(trades["buyer_is_maker"], 0.0, frame[name])
    groups = frame.groupby(frame["time"] // SECOND, sort=False)
    sums = groups[["quantity", "value", "taker_quantity", "taker_value"]].sum()
    return groups["price"].agg(["first", "max", "min", "last", "count"]).join(sums)


def _inexact(found: Any, exact: list[float]) -> int:
    return sum(float(mine) != right for mine, right in zip(found, exact, strict=False))


def rows() -> list[Row]:
    """Time the candidates on dense and on sparse trades."""
    warm_up(ohlcv.add_trades)
    table: list[Row] = []
    for name, gap in (("10,000 trades/s", 100), ("100 trades/s", 10_000)):
        trades = _market(gap)
        seconds = trades["time"] // SECOND
        cuts = np.flatnonzero(np.diff(seconds)) + 1
        exact = [
            float(sum(Fraction(repr(float(p))) * Fraction(repr(float(q))) for p, q in part))
            for part in np.split(trades[["price", "quantity"]][: cuts[49]], cuts[:49])
        ]
        candidates: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
            "pairflow, 1 s": (partial(_ours, trades, SECOND), lambda bars: bars["quote_volume"]),
            "pairflow, 100 ms, 1 s, 1 m and 5 m at once": (
                partial(_ours, trades, _TICK, SECOND, _MINUTE, 5 * _MINUTE),
                lambda bars: bars["quote_volume"][bars["timeframe"] == SECOND],
            ),
            "polars, 1 s, all cores": (partial(_polars, trades), lambda bars: bars["quote_volume"]),
            "pandas, 1 s": (partial(_pandas, trades), lambda bars: bars["value"]),
        }
        best = interleaved({title: run for title, (run, _) in candidates.items()}, rounds=5)
        for title, (run, column) in candidates.items():
            table.append(
                {
                    "market": name,
                    "bars": title,
                    "ns a trade": best[title] / TRADES * 1e9,
                    "of 50 quote volumes, not exact": _inexact(column(run()), exact),
                }
            )
    return table


def main() -> None:
    """Print the table."""
    note = (
        f"{TRADES:,} trades of one symbol, one block, all kline fields. Exact: the decimal sum, rounded once."
    )
    packages = ["numba", "numpy", "polars", "pandas"]
    print(report("Bars, ns a trade", "python -m benchmarks.bench_ohlcv", rows(), packages, note))


if __name__ == "__main__":
    main()
