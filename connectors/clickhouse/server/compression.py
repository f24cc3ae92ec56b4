"""Compression of answers: by the HTTP encodings that clients accept, and in ClickHouse's own blocks."""

from __future__ import annotations

import re
import zlib
from typing import TYPE_CHECKING, Protocol

from connectors.clickhouse.server import framing
from connectors.clickhouse.server.formats import Pipe

if TYPE_CHECKING:
    from aiohttp import web


class Compressor(Protocol):
    """Compresses an answer piece by piece."""

    def compress(self, data: bytes) -> bytes:
        """Take a piece; return what can be sent of it now."""

    def flush(self) -> bytes:
        """Return the rest; no piece follows."""


def compressor(encoding: str) -> Compressor:
    """Make a compressor for a Content-Encoding, at its fastest level, as most clients are on this machine.

    :arg encoding: lz4, zstd, gzip or deflate.
    """
    if encoding in ("lz4", "zstd"):
        return _ArrowCompressor(encoding)
    return zlib.compressobj(1, zlib.DEFLATED, 31 if encoding == "gzip" else 15)


def accepted_encoding(request: web.Request) -> str | None:
    """Choose the encoding that costs least of those that a client accepts.

    :arg request: With its Accept-Encoding.
    :returns: An encoding that `compressor` takes, or None for none.
    """
    if request.query.get("enable_http_compression", "1") in ("0", "false"):
        return None
    parts = [part.strip() for part in request.headers.get("Accept-Encoding", "").split(",")]
    offered = {part.split(";")[0] for part in parts if not re.search(r"q=0(\.0*)?$", part)}
    return next((name for name in ("lz4", "zstd", "gzip", "deflate") if name in offered), None)


class BlockCompressor:
    """Writes ClickHouse's own compressed blocks."""

    def compress(self, data: bytes) -> bytes:
        """Take a piece; return its blocks."""
        return framing.compress(data)

    def flush(self) -> bytes:
        """Return nothing: each piece is complete."""
        return b""


class _ArrowCompressor:
    """Arrow's codecs, as Python 3.11 has neither lz4 nor zstd."""

    def __init__(self, name: str) -> None:
        import pyarrow as pa

        self._packed = Pipe()
        self._stream = pa.CompressedOutputStream(pa.PythonFile(self._packed, mode="w"), name)

    def compress(self, data: bytes) -> bytes:
        self._stream.write(data)
        self._stream.flush()
        return self._packed.take()

    def flush(self) -> bytes:
        self._stream.close()
        return self._packed.take()
