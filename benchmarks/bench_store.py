"""Write trades to an embedded store and read them back, beside the other ways there are.

    python -m benchmarks.bench_store [--many 100000000]

``--many`` stores so many synthetic trades, some of them twice, and asks the table, where these count twice,
and the view, where no row does.

Tried, and left out:

* chDB's table function ``Python(table)`` instead of the file that clickhouse-connect hands over: a tenth
  faster into a table with an order, and it looks for the table by name in the caller's variables.
* The same file in ``/dev/shm``: no faster, as ordering and compressing take most of the time.
* TableRows sorted by symbol before they are handed over: no faster, ClickHouse sorts them in no time.
* Gorilla for prices and quantities, as ClickHouse's guides have it: larger than plain ZSTD on real trades.
"""

import argparse
import shutil
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import chdb
import numpy as np

from benchmarks.report import Row, interleaved, report
from connectors.clickhouse.server import EmbeddedServer
from connectors.clickhouse.sink import Columns
from connectors.clickhouse.store import Store
from kernels.records import TRADE, Block
from tests.support.processes import finish, running, wait_for_line

COMMAND = "python -m benchmarks.bench_store"
PACKAGES = ["chdb", "clickhouse-connect", "pyarrow", "numpy"]
BLOCK = 100_000
"""Rows of an insert: the sink's largest."""

SYMBOLS = [f"S{i}USDT" for i in range(10)]


def trades(first: int = 0) -> Block:
    """Make trades of ten symbols, one after another, whose prices wander in steps of a cent."""
    source = np.random.default_rng(first)
    rows = np.zeros(BLOCK, TRADE)
    rows["id"] = rows["first_id"] = rows["last_id"] = first + np.arange(BLOCK) // len(SYMBOLS)
    rows["symbol"] = np.arange(BLOCK) % len(SYMBOLS)
    rows["time"] = 1_700_000_000_000_000 + rows["id"] * 30_000
    rows["price"] = np.round(50_000 + source.standard_normal(BLOCK).cumsum(), 2)
    rows["quantity"] = np.round(source.exponential(size=BLOCK), 5)
    rows["buyer_is_maker"] = source.random(BLOCK) < 0.5
    return rows


def write_rows(store: Store, remote: Store, columns: Columns) -> list[Row]:
    """Time the ways to write a block."""
    rows = trades()
    table = columns("trades", rows)
    numpy_columns = [np.ascontiguousarray(rows[name]) for name in ("id", "time", "price", "quantity")]
    tuples = list(zip(*(column[: BLOCK // 10].tolist() for column in numpy_columns), strict=True))
    names, kinds = ["id", "time", "price", "quantity"], ["Int64", "Int64", "Float64", "Float64"]
    store.client.command(
        "CREATE TABLE raw (id Int64, time Int64, price Float64, quantity Float64) ENGINE = Null"
    )
    connection = chdb.connect(store.dsn.path)  # type: ignore[no-untyped-call]

    remote.client.command(
        "CREATE TABLE raw (id Int64, time Int64, price Float64, quantity Float64) ENGINE = Null"
    )

    def insert(data: Any, *, column_oriented: bool, into: Store = store) -> None:
        into.client.insert(
            "raw",
            data,
            column_names=names,
            column_type_names=kinds,
            column_oriented=column_oriented,
        )

    times = interleaved(
        {
            "to Arrow, names instead of indexes": lambda: columns("trades", rows),
            "store.insert: order, compress, write": lambda: store.insert("stored_trades", table),
            "chDB's Python(table), the same": lambda: connection.query(
                "INSERT INTO pairflow.stored_trades ("
                + ", ".join(table.column_names)
                + ") SELECT * FROM Python(table)"
            ),
            "store.insert over HTTP, thrown away": lambda: remote.insert("thrown_away", table),
            "4 numpy columns over HTTP, thrown away": lambda: insert(
                numpy_columns, column_oriented=True, into=remote
            ),
            "4 numpy columns, thrown away": lambda: insert(numpy_columns, column_oriented=True),
            "4 columns as tuples (a tenth), thrown away": lambda: insert(tuples, column_oriented=False),
        },
        rounds=5,
    )
    connection.close()
    scale = {"4 columns as tuples (a tenth), thrown away": 10}
    return [
        {
            "": name,
            "ns a row": seconds * scale.get(name, 1) / BLOCK * 1e9,
            "million rows/s": BLOCK / scale.get(name, 1) / seconds / 1e6,
        }
        for name, seconds in times.items()
    ]


@contextmanager
def _server(folder: Path) -> Iterator[Store]:
    """Open a store over HTTP, at a process that answers as a server does and throws trades away."""
    program = (
        "import sys; from pathlib import Path; from tests.connectors.clickhouse.test_sink import Server\n"
        "server = Server(Path(sys.argv[1])); print(server.server_address[1], flush=True)\n"
        "sys.stdin.read(); server.stop()"
    )
    folder.mkdir()
    with running(sys.executable, "-c", program, str(folder), piped=True) as process:
        port = int(wait_for_line(process))
        with Store.open(f"clickhouse://127.0.0.1:{port}/pairflow", source="binance") as store:
            store.client.command("CREATE TABLE thrown_away AS stored_trades ENGINE = Null")
            yield store
        finish(process)


def read_many(store: Store, rows: int) -> list[Row]:
    """Time questions to a large table, and to the view that shows each of its rows once."""
    per_symbol = rows // len(SYMBOLS)
    step = per_symbol // 10
    for symbol in SYMBOLS:
        for first in range(0, per_symbol, step):
            # A hundredth is written again, as after a kill.
            for begin, count in ((first, step), (first, step // 100)):
                store.client.command(
                    "INSERT INTO stored_trades (market, symbol, id, time, price, quantity, buyer_is_maker,"
                    " first_id, last_id, in_bars, source) SELECT 'spot', {s:String}, n,"
                    " toDateTime64(1700000000, 6, 'UTC') + toIntervalMillisecond(30 * n),"
                    " round(50000 + 100 * sin(n / 1000) + rand(1) % 100 / 100, 2), rand(2) % 1000 / 1000,"
                    " rand(3) % 2, n, n, 1, 'binance'"
                    f" FROM (SELECT toInt64({begin} + number) AS n FROM numbers({count}))",
                    {"s": symbol},
                )
        print(f"stored {symbol}", file=sys.stderr)
    ((stored, once),) = store.query(
        "SELECT (SELECT count() FROM stored_trades), (SELECT count() FROM trades)"
    )
    middle = per_symbol // 2
    questions = {
        "5,000 trades of a symbol by id": "SELECT avg(price) FROM {t} WHERE symbol = 'S3USDT'"
        f" AND id BETWEEN {middle} AND {middle + 5_000}",
        "an hour of a symbol": "SELECT avg(price) FROM {t} WHERE market = 'spot' AND symbol = 'S3USDT' AND"
        f" time BETWEEN addMilliseconds(toDateTime64(1700000000, 6, 'UTC'), {30 * middle})"
        f" AND addMilliseconds(toDateTime64(1700003600, 6, 'UTC'), {30 * middle})",
        "volume of each symbol, all rows": "SELECT symbol, sum(quantity) FROM {t} GROUP BY symbol",
    }
    lines: list[Row] = []
    for name, sql in questions.items():
        times = interleaved(
            {t: partial(store.query, sql.format(t=t)) for t in ("stored_trades", "trades")}, 3
        )
        lines.append(
            {
                "": name,
                f"table, {stored:,} rows, ms": times["stored_trades"] * 1e3,
                f"view, {once:,} rows, ms": times["trades"] * 1e3,
            }
        )
    return lines


def read_rows(store: Store, columns: Columns) -> list[Row]:
    """Time queries on a connection, on the view that shows each row once, and through the server."""
    for i in range(20):
        store.insert("stored_trades", columns("trades", trades(i * BLOCK)))
    connection = chdb.connect(store.dsn.path)  # type: ignore[no-untyped-call]
    server = EmbeddedServer(store, port=0)
    server.start()
    url = f"http://{server.host}:{server.port}/"

    def ask(sql: str) -> bytes:
        with urllib.request.urlopen(url, sql.encode()) as response:
            return bytes(response.read())

    one = "SELECT avg(price) FROM pairflow.{} WHERE symbol = 'S3USDT' AND id BETWEEN 100000 AND 105000"
    every = "SELECT symbol, avg(price) FROM pairflow.{} GROUP BY symbol"
    many = "SELECT * FROM pairflow.trades LIMIT 200000 FORMAT Native"
    times = interleaved(
        {
            "SELECT 1, connection": lambda: connection.query("SELECT 1"),
            "SELECT 1, server": lambda: ask("SELECT 1"),
            "5,000 trades of a symbol, table (may be double)": lambda: connection.query(
                one.format("stored_trades")
            ),
            "5,000 trades of a symbol, view (each once)": lambda: connection.query(one.format("trades")),
            "2 million trades, table (may be double)": lambda: connection.query(
                every.format("stored_trades")
            ),
            "2 million trades, view (each once)": lambda: connection.query(every.format("trades")),
            "200,000 trades as Native, connection": lambda: connection.query(many),
            "200,000 trades as Native, server": lambda: ask(many),
        },
        rounds=5,
    )
    server.stop()
    connection.close()
    return [{"": name, "ms": seconds * 1e3} for name, seconds in times.items()]


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--many", type=int, default=0, metavar="ROWS")
    many: int = parser.parse_args().many
    columns = Columns(market="spot", source="binance", symbols=SYMBOLS, pairs=[])
    folder = Path(tempfile.mkdtemp())
    try:
        with Store.open(f"chdb://{folder}/store", source="binance") as store:
            note = f"Trades of ten symbols in blocks of {BLOCK:,}, eleven columns."
            with _server(folder / "remote") as remote:
                lines = write_rows(store, remote, columns)
            print(report("Write trades", COMMAND, lines, PACKAGES, note))
            print(report("Read trades", COMMAND, read_rows(store, columns), PACKAGES))
        if many:
            with Store.open(f"chdb://{folder}/many", source="binance") as store:
                command = f"{COMMAND} --many {many}"
                print(report("Read many trades", command, read_many(store, many), PACKAGES))
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
