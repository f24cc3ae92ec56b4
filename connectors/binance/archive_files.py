"""Read the files of Binance's daily archives into TRADE blocks.

A file is a zip that holds one CSV file: the trades, or aggregate trades, of one symbol and day. Its spelling
has changed over the years, and all spellings are read: with or without a header, times in milliseconds or
microseconds, ``True`` or ``true``, quoted fields, line ends of Windows. Spot files have a last column (best
match) that futures files lack.

polars parses the lines. A line that it cannot parse, or that has an impossible value, is parsed again in
Python, so an unusual spelling costs time but never a trade. A line that is no trade even then is passed over
and counted.
"""

import re
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from itertools import takewhile
from math import inf, isfinite
from pathlib import Path
from typing import Any, Final

import numpy as np
import structlog
from numpy.typing import NDArray

from connectors.binance.decoder import microseconds
from kernels.decode import LEAST_MICROSECONDS
from kernels.records import MILLISECOND, SECOND, TRADE, Block

_LOG = structlog.get_logger()

FOLDERS: Final = {"spot": "data/spot/daily", "usdm": "data/futures/um/daily"}
"""Where the archive keeps the files of each market."""

KINDS: Final = {"trade": "trades", "aggTrade": "aggTrades"}
"""What the archive calls the trades of each stream."""

_COLUMNS: Final[dict[str, dict[str, type]]] = {
    "trade": {
        "id": int,
        "price": float,
        "quantity": float,
        "quote quantity": str,
        "time": int,
        "buyer is maker": bool,
    },
    "aggTrade": {
        "id": int,
        "price": float,
        "quantity": float,
        "first id": int,
        "last id": int,
        "time": int,
        "buyer is maker": bool,
    },
}
_BEST_MATCH: Final = "best match"
_SURPLUS: Final = "surplus"  # a field more than there are columns
_UNUSED: Final = "quote quantity"  # it is price * quantity

DAY: Final = 86_400 * SECOND
"""Length of a day, us."""

_STRAY: Final = 3_600 * SECOND  # by which a trade may lie outside of its file's day

_COMPRESSED: Final = (b"\x1f\x8b", b"x", b"\x28\xb5\x2f\xfd")  # how gzip, zlib and zstd begin

_HEADER = re.compile(rb'"?[A-Za-z_]')
_INTEGER = re.compile(r"[+-]?[0-9]{1,19}")
_DECIMAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


def midnight(day: date) -> int:
    """Return the time at which a day begins, us."""
    return (day - date(1970, 1, 1)).days * DAY


class ArchiveError(Exception):
    """Days that cannot be replayed: one line that says which file, and what to do."""


@dataclass(frozen=True)
class ArchiveLayout:
    """Where files are, both on the archive's server and in the folder where they are kept.

    :arg market: ``spot`` or ``usdm``.
    :arg stream: ``trade`` or ``aggTrade``.
    :arg folder: The folder where files are kept.
    """

    market: str
    stream: str
    folder: Path

    @property
    def kind(self) -> str:
        """What the archive calls these trades."""
        return KINDS[self.stream]

    def place(self, symbol: str, day: date) -> str:
        """Return the path of a file below the address of the archive, and below the folder."""
        return f"{FOLDERS[self.market]}/{self.kind}/{symbol}/{symbol}-{self.kind}-{day}.zip"

    def path(self, symbol: str, day: date) -> Path:
        """Return where a file is kept."""
        return self.folder / self.place(symbol, day)


class DayFile:
    """The trades of one symbol and day.

    :arg path: The zip.
    :arg day: Its day, UTC. Trades that lie more than an hour outside of it are passed over.
    :arg stream: ``trade`` or ``aggTrade``.
    :arg chunk: How many bytes of text to parse at once.
    """

    def __init__(self, path: Path, day: date, stream: str, chunk: int) -> None:
        self.malformed = 0
        """Lines passed over so far, as no trades of the day."""
        self._path = path
        self._day = day
        self._stream = stream
        self._chunk = chunk
        self._sample = b""

    def blocks(self) -> Iterator[Block]:
        """Read the file from its beginning to its end.

        :returns: TRADE blocks in the order of the lines, symbol 0.
        :raises ArchiveError: If the file cannot be read, or has lines and none of them is a trade of the day.
        """
        begin = midnight(self._day)
        found = 0
        is_first = True
        for text in _read_text(self._path, self._chunk):
            if is_first and _HEADER.match(text):
                text = text[text.find(b"\n") + 1 :]  # noqa: PLW2901  without the header
            is_first = False
            rows, malformed = parse_lines(text, self._stream)
            stray = (rows["time"] < begin - _STRAY) | (rows["time"] >= begin + DAY + _STRAY)
            if stray.any():
                malformed += [b"trade %d at %d us" % (row["id"], row["time"]) for row in rows[stray]]
                rows = rows[~stray]
            self._sample = self._sample or b"".join(malformed[:1])
            self.malformed += len(malformed)
            found += len(rows)
            yield rows
        if self.malformed and not found:
            columns = ", ".join(_COLUMNS[self._stream])
            msg = (
                f"{self._path} has no {KINDS[self._stream]} of {self._day}: expected lines of {columns}, "
                f"found {self._sample[:100].decode('ascii', 'replace')!r}"
            )
            raise ArchiveError(msg)

    def report_malformed(self) -> None:
        """Log how many lines were passed over, and the first of them, if there were any."""
        if self.malformed:
            _LOG.warning(
                "lines that are no trades of the day are passed over",
                file=self._path.name,
                lines=self.malformed,
                first=self._sample[:200].decode("ascii", "replace"),
            )


def _read_text(path: Path, size: int) -> Iterator[bytes]:
    """Read the text in a zip, in chunks of whole lines."""
    try:
        with zipfile.ZipFile(path) as archive:
            # A zip made on macOS has a second file for each file, with its attributes, in this folder.
            names = [
                name
                for name in archive.namelist()
                if name.endswith(".csv") and not name.startswith("__MACOSX/")
            ]
            if len(names) != 1:
                msg = f"{path} holds {len(names)} .csv files; expected one"
                raise ArchiveError(msg)
            with archive.open(names[0]) as file:
                rest = b""
                while data := file.read(size):
                    cut = data.rfind(b"\n") + 1
                    if cut:
                        yield b"".join((rest, memoryview(data)[:cut]))
                        rest = data[cut:]
                    else:
                        rest += data
                if rest:
                    yield rest + b"\n"
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError) as error:
        msg = f"cannot read {path}: {error}; delete it, and it will be downloaded again"
        raise ArchiveError(msg) from None


def parse_lines(text: bytes, stream: str) -> tuple[Block, list[bytes]]:
    """Parse whole lines. Prices and quantities are bit-equal to ``float`` of their text.

    :arg text: The lines, each with its line feed.
    :arg stream: ``trade`` or ``aggTrade``.
    :returns: A TRADE block in the lines' order, symbol 0, and the lines that are no trades.
    """
    rows, doubtful = _parse_quickly(text, stream)
    if not doubtful.any():
        return rows, []
    lines = text.split(b"\n")
    malformed, vacant = [], []
    for row in np.flatnonzero(doubtful).tolist():
        trade = parse_line(lines[row], stream)
        if trade is not None:
            rows[row] = trade
            continue
        vacant.append(row)
        if lines[row]:
            malformed.append(lines[row])
    return np.delete(rows, vacant), malformed


def _parse_quickly(text: bytes, stream: str) -> tuple[Block, NDArray[np.bool_]]:
    """Parse lines by polars.

    :returns: A TRADE block with one row a line, and which rows do not hold what their line says.
    """
    import polars as pl  # here, as it costs 70 ms and 26 MB, which a live run does not need

    columns = dict(_COLUMNS[stream])
    # Each line of a chunk has as many columns as the first, or is doubtful.
    if text.count(b",", 0, text.find(b"\n")) + 1 != len(columns):
        columns[_BEST_MATCH] = bool
    columns[_SURPLUS] = str
    if text.startswith(_COMPRESSED):
        text = b"?" + text[1:]  # its first line is damaged; polars would take all of it for compressed
    table = pl.read_csv(
        text,
        has_header=False,
        schema=pl.Schema(columns),
        columns=[i for i, name in enumerate(columns) if name != _UNUSED],
        ignore_errors=True,  # what cannot be parsed becomes null
        quote_char=None,  # a quote that is never closed would swallow the lines behind it
        missing_columns="insert",
        extra_columns="ignore",
        truncate_ragged_lines=True,
        encoding="utf8-lossy",
    )
    doubtful = table[_SURPLUS].is_not_null().to_numpy(writable=True)
    values: dict[str, NDArray[Any]] = {}
    for name in table.columns[:-1]:
        column = table[name]
        if column.null_count():
            doubtful |= column.is_null().to_numpy()
            column = column.fill_null(False) if columns[name] is bool else column.fill_null(0)
        numbers = column.to_numpy()
        if columns[name] is int:
            doubtful |= numbers < 0
        elif columns[name] is float:
            doubtful |= ~((numbers >= 0.0) & (numbers < inf))
        values[name] = numbers
    identity, time, price = values["id"], values["time"], values["price"]
    rows = np.zeros(len(table), TRADE)
    rows["id"] = identity
    rows["first_id"] = values.get("first id", identity)
    rows["last_id"] = values.get("last id", identity)
    rows["time"] = np.where(time >= LEAST_MICROSECONDS, time, time * MILLISECOND)
    rows["price"] = price
    rows["quantity"] = values["quantity"]
    rows["buyer_is_maker"] = values["buyer is maker"]
    rows["in_bars"] = price != 0.0
    return rows, doubtful


def parse_line(line: bytes, stream: str) -> tuple[Any, ...] | None:
    """Parse one line in Python.

    :arg line: The line, without its line feed.
    :arg stream: ``trade`` or ``aggTrade``.
    :returns: The fields of a TRADE, symbol 0, or None where the line is no trade.
    """
    columns = list(_COLUMNS[stream])
    fields = [part.strip().strip('"') for part in line.decode("ascii", "replace").split(",")]
    rest = list(takewhile(bool, fields[len(columns) :]))  # best match, if anything
    if len(fields) < len(columns) or len(rest) > 1:
        return None
    values = dict(zip(columns, fields))
    integers = {"id", "first id", "last id", "time"} & values.keys()
    if not all(_INTEGER.fullmatch(values[name]) and 0 <= int(values[name]) < 2**63 for name in integers):
        return None
    for name in ("price", "quantity"):
        if (
            not _DECIMAL.fullmatch(values[name])
            or not isfinite(float(values[name]))
            or float(values[name]) < 0
        ):
            return None
    if any(word.lower() not in ("true", "false") for word in (values["buyer is maker"], *rest)):
        return None
    identity, time, price = int(values["id"]), microseconds(int(values["time"])), float(values["price"])
    first_id, last_id = int(values.get("first id", identity)), int(values.get("last id", identity))
    is_maker = values["buyer is maker"].lower() == "true"
    return identity, first_id, last_id, time, price, float(values["quantity"]), 0, is_maker, price != 0
