"""An answer on its way to the client: whole or in pieces, compressed, with the headers of a server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import uuid

from aiohttp import web

from connectors.clickhouse.server.compression import (
    BlockCompressor,
    Compressor,
    accepted_encoding,
    compressor,
)
from connectors.clickhouse.server.cursor import Cursor
from connectors.clickhouse.server.errors import BUSY, QueryError, fail
from connectors.clickhouse.server.execution import Execution
from connectors.clickhouse.server.query import Query

CONTENT_TYPES = {
    "CSV": "text/csv; charset=UTF-8",
    "JSON": "application/json; charset=UTF-8",
    "NDJSON": "application/x-ndjson; charset=UTF-8",
    "Native": "application/octet-stream",
    "RowBinary": "application/octet-stream",
    "Parquet": "application/octet-stream",
    "Arrow": "application/octet-stream",
    "XML": "application/xml; charset=UTF-8",
    "Markdown": "text/markdown; charset=UTF-8",
}
"""Content types of formats; the others have that of their family."""

_FAMILIES = re.compile(r"(JSONEachRow|JSONCompactEachRow|JSONStringsEachRow|ND|JSONL)|(JSON)|(CSV)|(TSV|Tab)")
_FAMILY_TYPES = ("application/x-ndjson", "application/json", "text/csv", "text/tab-separated-values")

# No counts are known before a streamed answer ends, but clients expect the header.
_SUMMARY = json.dumps(
    dict.fromkeys(
        ("read_rows", "read_bytes", "written_rows", "written_bytes", "total_rows_to_read", "result_rows"), "0"
    ),
    separators=(",", ":"),
)

_MOST_RUNNING = 100

SERVER_NAME = {"X-ClickHouse-Server-Display-Name": "pairflow"}
"""Header by which a client sees which server it talks to."""


class Answers:
    """Answers requests with the results of queries.

    :arg execution: Runs the queries.
    """

    def __init__(self, execution: Execution) -> None:
        self._execution = execution
        self._running: dict[str, Query] = {}

    @property
    def running(self) -> list[str]:
        """The ids of the queries that are being answered."""
        return list(self._running)

    async def answer(self, request: web.Request, query: Query) -> web.StreamResponse:
        """Run a query and send its answer.

        :arg request: That asked.
        :arg query: As it came in.
        :raises QueryError: If it is refused, or fails before a part of its answer is sent.
        """
        if len(self._running) >= _MOST_RUNNING:
            fail(BUSY, f"Too many simultaneous queries: {_MOST_RUNNING}. Try again")
        if query.id in self._running:
            query.id = str(uuid.uuid4())
        self._running[query.id] = query
        unfinished: Cursor | None = None
        try:
            begun = await self._execution.begin(query)
            unfinished = None if begun.is_whole else begun.cursor
            headers = self.headers(query)
            packer: Compressor | None = None
            if query.packed:
                packer = BlockCompressor()
            elif begun.pieces and (encoding := accepted_encoding(request)):
                headers["Content-Encoding"] = encoding
                packer = compressor(encoding)
            if begun.is_whole:
                data = b"".join(begun.pieces)
                if packer is not None:
                    data = await self._execution.in_thread(packer.compress, data) + packer.flush()
                return web.Response(body=data, headers=headers)
            return await self._stream(request, begun.cursor, begun.pieces, headers, packer)
        except asyncio.CancelledError:
            # The client went away. The worker thread still waits for chDB, so the query has to be ended.
            self._execution.abandon(query)
            raise
        finally:
            self._running.pop(query.id, None)
            if unfinished is not None:
                self._execution.close_later(unfinished)

    def headers(self, query: Query) -> dict[str, str]:
        """Return the headers of a query's answer.

        :arg query: Checked.
        """
        kind = query.content_type or CONTENT_TYPES.get(query.format)
        if kind is None:
            family = _FAMILIES.match(query.format)
            kind = f"{_FAMILY_TYPES[(family.lastindex or 1) - 1] if family else 'text/plain'}; charset=UTF-8"
        return {
            "Content-Type": kind,
            "X-ClickHouse-Query-Id": query.id,
            "X-ClickHouse-Format": query.format,
            "X-ClickHouse-Timezone": self._execution.timezone,
            **SERVER_NAME,
            "X-ClickHouse-Summary": _SUMMARY,
            "X-Content-Type-Options": "nosniff",
        }

    async def _stream(
        self,
        request: web.Request,
        cursor: Cursor,
        pieces: list[bytes],
        headers: dict[str, str],
        packer: Compressor | None,
    ) -> web.StreamResponse:
        in_thread = self._execution.in_thread
        tag = uuid.uuid4().hex[:16]
        response = web.StreamResponse(headers={**headers, "X-ClickHouse-Exception-Tag": tag})
        if request.version >= (1, 1):
            response.enable_chunked_encoding()
        await response.prepare(request)
        piece: bytes | None = b"".join(pieces)
        try:
            while piece is not None:
                await response.write(await in_thread(packer.compress, piece) if packer else piece)
                piece = await in_thread(cursor.next_piece)
        except QueryError as ex:
            # Part of the answer is sent already. As a server does, write the error behind it, between marks,
            # and close the connection, so that no client takes the part for the whole.
            text = ex.body(self._execution.version)
            mark = (
                f"\r\n__exception__\r\n{tag}\r\n{text}\n{len(text) + 1} {tag}\r\n__exception__\r\n".encode()
            )
            with contextlib.suppress(ConnectionError):
                await response.write(packer.compress(mark) + packer.flush() if packer else mark)
            if request.transport is not None:
                request.transport.close()
            return response
        if packer:
            await response.write(packer.flush())
        await response.write_eof()
        return response
