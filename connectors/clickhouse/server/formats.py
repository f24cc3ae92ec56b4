"""Answers of chDB in each format, piece by piece where the format allows it.

chDB writes each block of a streamed result as a document of its own. Blocks of formats that have a row on
each line are joined after the names that each block repeats are cut off. Arrow and Parquet are written again
from the blocks. All other formats (JSON, XML, pretty tables) have to be made as a whole, in memory.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from typing import Any

from connectors.clickhouse.server.connections import Connection
from connectors.clickhouse.server.native import reframe

# Formats whose blocks can be joined, with the number of lines of names and types at the start of each block.
_LINES = dict.fromkeys(
    (
        *("Native", "RowBinary", "TSKV", "JSONEachRow", "NDJSON", "JSONLines", "JSONL", "JSONStringsEachRow"),
        *("JSONCompactEachRow", "JSONCompactStringsEachRow", "CSV", "TSV", "TSVRaw", "TabSeparated"),
        *("TabSeparatedRaw", "Raw", "LineAsString"),
    ),
    0,
)
for _name in ("CSV", "TSV", "TSVRaw", "TabSeparated", "TabSeparatedRaw", "Raw", "JSONCompactEachRow"):
    _LINES.update({f"{_name}WithNames": 1, f"{_name}WithNamesAndTypes": 2})

_ARROW = frozenset({"Arrow", "ArrowStream", "Parquet"})

STREAMED = frozenset(_LINES) | _ARROW
"""Formats that are made piece by piece; the others are made as a whole."""


def pieces(
    connection: Connection, sql: str, form: str, parameters: Mapping[str, str], revision: int = 0
) -> Iterator[bytes]:
    """Run a query and yield its answer.

    :arg connection: Where it runs, alone.
    :arg sql: One query; if it has a FORMAT clause, it names ``form``.
    :arg form: Name of a ClickHouse format.
    :arg parameters: Values of ``{name:Type}`` in the query.
    :arg revision: Protocol revision for which Native blocks are framed.
    :yields: Parts of the answer. A streamed result without rows has none, or the names if the format has any.
    """
    if form in _ARROW:
        yield from _arrow(connection, sql, form, parameters)
    elif form in _LINES:
        yield from _lines(connection, sql, form, parameters, revision)
    else:
        yield connection.query(sql, form, params=parameters).bytes()


def _blocks(connection: Connection, sql: str, form: str, parameters: Mapping[str, str]) -> Iterator[bytes]:
    stream = connection.send_query(sql, form, params=parameters)
    try:
        for chunk in stream:
            if block := chunk.bytes():
                yield block
    finally:
        stream.close()


def _lines(
    connection: Connection, sql: str, form: str, parameters: Mapping[str, str], revision: int
) -> Iterator[bytes]:
    header: bytes | None = None
    for block in _blocks(connection, sql, form, parameters):
        if form == "Native":
            header = b""
            yield reframe(block, revision)
        elif header is None:
            end = 0
            for _ in range(_LINES[form]):
                end = block.index(b"\n", end) + 1
            header = block[:end]
            yield block
        else:
            yield block.removeprefix(header)
    if header is None and _LINES[form]:
        # No block came. If it is made as a whole, an answer without rows has its names.
        yield connection.query(sql, form, params=parameters).bytes()


def _arrow(connection: Connection, sql: str, form: str, parameters: Mapping[str, str]) -> Iterator[bytes]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = Pipe()
    writer: Any = None
    for block in _blocks(connection, sql, "ArrowStream", parameters):
        with pa.ipc.open_stream(block) as reader:
            for batch in reader:
                if writer is None:
                    file = pa.PythonFile(sink, mode="w")
                    make = {
                        "Arrow": pa.ipc.new_file,
                        "ArrowStream": pa.ipc.new_stream,
                        "Parquet": pq.ParquetWriter,
                    }
                    writer = make[form](file, reader.schema)
                writer.write_batch(batch)
        if taken := sink.take():
            yield taken
    if writer is None:
        yield connection.query(sql, form, params=parameters).bytes()
        return
    writer.close()
    yield sink.take()


class Pipe(io.RawIOBase):
    """A file that is written to, and whose bytes are taken out as they come.

    `tell` counts all bytes that were ever written.
    """

    def __init__(self) -> None:
        super().__init__()
        self._parts: list[bytes] = []
        self._written = 0

    def writable(self) -> bool:
        """Return true."""
        return True

    def write(self, data: Any) -> int:
        """Add bytes."""
        self._parts.append(bytes(data))
        self._written += len(self._parts[-1])
        return len(self._parts[-1])

    def tell(self) -> int:
        """Return how many bytes were ever written."""
        return self._written

    def close(self) -> None:
        """Stay open, as a stream on top writes its end when it is closed, and that is still to be taken."""

    def take(self) -> bytes:
        """Return the bytes that were written since the last call."""
        parts, self._parts = self._parts, []
        return b"".join(parts)
