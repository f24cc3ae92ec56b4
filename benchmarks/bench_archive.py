"""How many trades a second the whole flow takes from the exchange's daily archives, beside polars alone.

    python -m benchmarks.bench_archive [--trades 4000000]

The files are generated, as none may be downloaded here: two days of spot trades of two symbols, with the
columns, the spelling and the number of digits of real files, zipped as these are.
"""

import argparse
import logging
import resource
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
import structlog

from benchmarks.bench_flow import measure_flow
from benchmarks.report import Row, report
from connectors.binance.archive import ArchiveSource

COMMAND = "python -m benchmarks.bench_archive"
PACKAGES = ["bytewax", "numba", "numpy", "polars", "chdb"]
DAYS = (date(2024, 8, 8), date(2024, 8, 9))
SYMBOLS = {"BTCUSDT": 61_837.63, "ETHUSDT": 2_683.40}
"""Symbols, and the price of their first trade."""
COLUMNS = {
    "id": pl.Int64,
    "price": pl.Float64,
    "quantity": pl.Float64,
    "quote_quantity": pl.Float64,
    "time": pl.Int64,
    "buyer_is_maker": pl.Boolean,
    "best_match": pl.Boolean,
}


def files(folder: Path) -> Iterator[tuple[str, date, Path]]:
    """Name the files of the archive below a folder."""
    for symbol in SYMBOLS:
        for day in DAYS:
            name = f"{symbol}-trades-{day}.zip"
            yield symbol, day, folder / "data" / "spot" / "daily" / "trades" / symbol / name


def generate(folder: Path, trades: int) -> None:
    """Write the files, with as many trades in all."""
    rng = np.random.default_rng(1)
    count = trades // (len(SYMBOLS) * len(DAYS))
    for number, (symbol, day, path) in enumerate(files(folder)):
        midnight = (day - date(1970, 1, 1)).days * 86_400_000  # ms
        price = SYMBOLS[symbol] * np.exp(np.cumsum(rng.normal(0, 2e-6, count)))
        quantity = rng.exponential(0.02, count).round(5) + 1e-5
        rows = pl.DataFrame(
            {
                "id": 3_735_683_259 + number % len(DAYS) * count + np.arange(count),
                "price": price.round(2),
                "quantity": quantity,
                "quote_quantity": price.round(2) * quantity,
                "time": midnight + np.sort(rng.integers(0, 86_400_000, count)),
                "buyer_is_maker": np.where(rng.random(count) < 0.5, "True", "False"),
                "best_match": np.full(count, "True"),
            }
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr(f"{path.stem}.csv", rows.write_csv(include_header=False, float_precision=8))


def read_by_source(folder: Path) -> int:
    """Read all files by the source alone: TRADE blocks of both symbols, merged by time."""
    source = ArchiveSource(*DAYS, list(SYMBOLS), market="spot", stream="trade", folder=folder)
    partition = source.build_part("trades", "archive", None)
    try:
        while True:
            partition.next_batch()
    except StopIteration:
        return source.status.trades
    finally:
        partition.close()


def read_by_polars(folder: Path) -> int:
    """Unzip and read all files by polars, each as a whole: columns of numbers, nothing merged."""
    trades = 0
    for *_, path in files(folder):
        with zipfile.ZipFile(path) as file:
            text = file.read(file.namelist()[0])
        trades += len(pl.read_csv(text, has_header=False, schema=COLUMNS))
    return trades


def _timed(read: Callable[[Path], int], folder: Path) -> tuple[int, float, float]:
    before = resource.getrusage(resource.RUSAGE_SELF)
    began = time.perf_counter()
    trades = read(folder)
    wall = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_SELF)
    return trades, wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def rows(trades: int, rounds: int) -> list[Row]:
    """Measure everything in turns; each row has the medians."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print(f"writing {trades:,} trades", file=sys.stderr)
        generate(folder / "archive", trades)
        generate(folder / "start", len(SYMBOLS) * len(DAYS))
        source = f"archive:{DAYS[0]}..{DAYS[-1]}"
        measured: dict[str, list[tuple[float, float]]] = {}
        starts = []
        for turn in range(rounds):
            print(f"round {turn + 1} of {rounds}", file=sys.stderr)
            for title, stored in (("trades stored", "true"), ("trades not stored", "false")):
                settings = {"ARCHIVE_FOLDER": str(folder / "archive"), "STORE_TRADES": stored}
                wall, cpu, _ = measure_flow(source, folder / f"{turn} {title}", **settings)
                measured.setdefault(f"the whole flow, {title}", []).append((wall, cpu))
            settings = {"ARCHIVE_FOLDER": str(folder / "start")}
            starts.append(measure_flow(source, folder / f"{turn} start", **settings)[0])
            for title, read in (
                ("the source alone: read, in order, merged", read_by_source),
                ("polars alone: unzip and read, whole files", read_by_polars),
            ):
                found, wall, cpu = _timed(read, folder / "archive")
                assert found == trades
                measured.setdefault(title, []).append((wall, cpu))
    start = float(np.median(starts))
    found_rows: list[Row] = []
    for title, figures in measured.items():
        wall, cpu = np.median(figures, axis=0).tolist()
        of_it = start if "flow" in title else 0.0
        found_rows.append(
            {
                "what": title,
                "wall s": wall,
                "CPU s": cpu,
                "of it start s": of_it,
                "trades/s": int(trades / (wall - of_it)),
                "ns a trade": 1e9 * (wall - of_it) / trades,
            }
        )
    return found_rows


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trades", type=int, default=4_000_000)
    parser.add_argument("--rounds", type=int, default=3, help="how often each is run (%(default)s)")
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    files_in_all = len(SYMBOLS) * len(DAYS)
    trades = options.trades // files_in_all * files_in_all
    note = (
        f"{trades:,} generated spot trades of {len(SYMBOLS)} symbols and {len(DAYS)} days in the archive's "
        f"format. Medians of {options.rounds} runs, taken in turns. Start: the same flow over files of one "
        "trade each."
    )
    command = f"{COMMAND} --trades {trades} --rounds {options.rounds}"
    print(report("Replay daily archives", command, rows(trades, options.rounds), PACKAGES, note))


if __name__ == "__main__":
    main()
