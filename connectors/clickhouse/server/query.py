"""A query as it came in, read from an HTTP request."""

from __future__ import annotations

import contextlib
import io
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aiohttp import web

from connectors.clickhouse.server import framing
from connectors.clickhouse.server.errors import SYNTAX, TOO_LARGE, QueryError, fail, refuse
from connectors.clickhouse.server.policy import TRANSPORT_PARAMETERS

if TYPE_CHECKING:
    from aiohttp.multipart import BodyPartReader

LONGEST_QUERY_BYTES = 1_000_000
"""A longer request is refused."""

Shape = tuple[str, str]
"""The text of a query with every whole number replaced by 0, and its database."""


@dataclass
class Query:
    """A query as it came in.

    :arg sql: Its text.
    :arg database: Where its tables are looked up.
    :arg format: Name of the format of the answer.
    :arg parameters: Values of ``{name:Type}`` in the text.
    :arg settings: Settings that the client sent.
    :arg revision: Protocol revision that the client announced, for blocks of the Native format.
    :arg packed: Whether the answer is sent in ClickHouse's own compressed blocks.
    :arg whole: Whether the answer is made as a whole even if its format could be made piece by piece.
    :arg content_type: Of the answer; "" for that of the format.
    :arg shape: Under which the gate remembers the query; None for a query that it does not remember.
    :arg id: By which a running query is found.
    """

    sql: str
    database: str
    format: str = "TabSeparated"
    parameters: dict[str, str] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)
    revision: int = 0
    packed: bool = False
    whole: bool = False
    content_type: str = ""
    shape: Shape | None = None
    id: str = field(default_factory=lambda: str(uuid.uuid4()))


async def read_query(request: web.Request, database: str) -> Query:
    """Read a query from the URL of a request, from its body or from a form.

    :arg request: What the client sent.
    :arg database: Used where the client names none.
    :returns: The query.
    :raises QueryError: If the body cannot be read or is too long.
    """
    given = dict(request.query)
    body = ""
    if request.method == "POST":
        if request.content_type == "multipart/form-data":
            given.update(await _form(request))
        else:
            body = await _body(request, given)
    sql = "\n".join(part for part in (given.get("query", ""), body) if part)
    database = given.get("database") or request.headers.get("X-ClickHouse-Database") or database
    query = Query(sql, database, packed=given.get("compress", "0") not in ("0", "false"))
    query.format = given.get("default_format") or request.headers.get("X-ClickHouse-Format") or query.format
    with contextlib.suppress(ValueError):
        query.revision = int(given.get("client_protocol_version", "0"))
    if re.fullmatch(r"[\w.:-]{1,100}", given.get("query_id", "")):
        query.id = given["query_id"]
    for name, value in given.items():
        if name.startswith("param_"):
            query.parameters[name.removeprefix("param_")] = value
        elif name not in TRANSPORT_PARAMETERS:
            query.settings[name] = value
    return query


async def _body(request: web.Request, given: Mapping[str, str]) -> str:
    try:
        data = await request.read()
        if given.get("decompress", "0") not in ("0", "false"):
            return framing.decompress(data, LONGEST_QUERY_BYTES).decode()
        return _decompressed(data, request.headers.get("Content-Encoding", "")).decode()
    except web.HTTPRequestEntityTooLarge:
        raise QueryError(TOO_LARGE, f"The query is longer than {LONGEST_QUERY_BYTES} bytes") from None
    except (ValueError, OSError, RuntimeError, web.HTTPException) as ex:
        raise QueryError(SYNTAX, f"The body cannot be read as a query: {ex}") from None


async def _form(request: web.Request) -> dict[str, str]:
    """Read a form, which clients send when the parameters are too long for a URL."""
    fields: dict[str, str] = {}
    size = 0
    async for part in await request.multipart():
        reader: BodyPartReader = part  # type: ignore[assignment]
        if reader.filename is not None:
            refuse("A table sent along with the query is not allowed")
        text = await reader.text()
        size += len(text)
        if size > LONGEST_QUERY_BYTES:
            fail(TOO_LARGE, f"The query is longer than {LONGEST_QUERY_BYTES} bytes")
        fields[reader.name or ""] = text
    return fields


def _decompressed(body: bytes, encoding: str) -> bytes:
    """Decode a Content-Encoding that aiohttp does not decode."""
    if encoding == "lz4":
        import pyarrow as pa

        with pa.CompressedInputStream(io.BytesIO(body), "lz4") as stream:
            data = bytes(stream.read(LONGEST_QUERY_BYTES + 1))
        if len(data) > LONGEST_QUERY_BYTES:
            # Cut off, it could be another query.
            fail(TOO_LARGE, f"The query is longer than {LONGEST_QUERY_BYTES} bytes")
        return data
    return body
