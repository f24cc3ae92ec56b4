"""ClickHouse's Native format, framed as servers do for the protocol revision of a client.

chDB writes Native blocks for revision 0. A client that announces ``client_protocol_version`` expects two more
things: from revision 1 a header before each block, and from revision 54454 one byte after the type name of
each column, which says that the column is not sparse. To insert that byte, the end of each column has to be
known: its type tells how many bytes to skip, and no value is decoded.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence

BLOCK_INFO_REVISION = 1
CUSTOM_SERIALIZATION_REVISION = 54454

# Field 1, is_overflows = 0; field 2, bucket_num = -1; end of fields.
_BLOCK_INFO = b"\x01\x00\x02\xff\xff\xff\xff\x00"

_WIDTHS = {
    "Nothing": 1, "Bool": 1, "Int8": 1, "UInt8": 1, "Enum8": 1,
    "Int16": 2, "UInt16": 2, "Enum16": 2, "Date": 2, "BFloat16": 2,
    "Int32": 4, "UInt32": 4, "Float32": 4, "Date32": 4, "DateTime": 4, "IPv4": 4, "Time": 4,
    "Int64": 8, "UInt64": 8, "Float64": 8, "DateTime64": 8, "Time64": 8,
    "Int128": 16, "UInt128": 16, "UUID": 16, "IPv6": 16,
    "Int256": 32, "UInt256": 32,
}  # fmt: skip

_ALIASES = {
    "Point": "Tuple(Float64, Float64)",
    "Ring": "Array(Point)",
    "LineString": "Array(Point)",
    "MultiLineString": "Array(LineString)",
    "Polygon": "Array(Ring)",
    "MultiPolygon": "Array(Polygon)",
}

_KEY_WIDTHS = (1, 2, 4, 8)


class UnknownTypeError(ValueError):
    """The length of a type in the Native format is not known here."""


def reframe(block: bytes, revision: int) -> bytes:
    """Frame Native blocks of revision 0 for another revision.

    :arg block: One or more whole blocks, as chDB writes them.
    :arg revision: The revision that the client announced.
    :returns: The same blocks, framed for it.
    :raises UnknownTypeError: If a column has a type whose length is not known.
    """
    if revision < BLOCK_INFO_REVISION or not block:
        return block
    view = memoryview(block)
    out: list[bytes | memoryview] = []
    at = 0
    while at < len(view):
        out.append(_BLOCK_INFO)
        start = at
        columns, at = _varint(view, at)
        rows, at = _varint(view, at)
        for _ in range(columns):
            length, at = _varint(view, at)
            length, at = _varint(view, at + length)
            type_name = bytes(view[at : at + length]).decode()
            at += length
            if revision >= CUSTOM_SERIALIZATION_REVISION:
                out += (view[start:at], b"\x00")
                start = at
            if rows:
                at = _data(view, _prefix(view, at, type_name), type_name, rows)
        out.append(view[start:at])
    return b"".join(out)


def empty_block(columns: Sequence[tuple[str, str]]) -> bytes:
    """Return the block of revision 0 that a server sends for a result without rows.

    :arg columns: The name and the type of each column.
    """
    parts = [_encode(len(columns)), _encode(0)]
    for text in (text for column in columns for text in column):
        parts += (_encode(len(text.encode())), text.encode())
    return b"".join(parts)


def _encode(number: int) -> bytes:
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _varint(view: memoryview, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = view[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
        shift += 7


def _u64(view: memoryview, at: int) -> int:
    return int(struct.unpack_from("<Q", view, at)[0])


def _split(type_name: str) -> tuple[str, list[str]]:
    """Split a type, as ``Map(String, Array(UInt8))``, into its name and its arguments."""
    name, _, rest = type_name.partition("(")
    arguments: list[str] = []
    depth = start = 0
    body = rest[:-1]
    # Quoted parts (names of enums, time zones, fields) may have commas and brackets in them.
    for found in re.finditer(r"'(?:[^'\\]|\\.|'')*'|`(?:[^`\\]|\\.)*`|[(),]", body):
        if found[0] == "(":
            depth += 1
        elif found[0] == ")":
            depth -= 1
        elif found[0] == "," and depth == 0:
            arguments.append(body[start : found.start()].strip())
            start = found.end()
    if body:
        arguments.append(body[start:].strip())
    return name, arguments


def _element(argument: str) -> str:
    """Return the type of an element of a Tuple or Nested, which may have a name: ``name Type``."""
    found = re.match(r"(?:`(?:[^`\\]|\\.)*`|[A-Za-z_][A-Za-z0-9_]*)\s+(?=[A-Z])", argument)
    return argument[found.end() :] if found else argument


def _inner(type_name: str) -> tuple[str, list[str]]:
    """Return the outer name of a type, and the types inside in the order in which they are written."""
    name, arguments = _split(_ALIASES.get(type_name, type_name))
    if name == "Map":
        return "Array", [f"Tuple({arguments[0]}, {arguments[1]})"]
    if name == "Nested":
        return "Array", [f"Tuple({', '.join(arguments)})"]
    if name == "SimpleAggregateFunction":
        return _inner(arguments[1])
    if name == "Tuple":
        return name, [_element(argument) for argument in arguments]
    if name in ("Array", "Nullable", "LowCardinality"):
        return name, arguments
    return name, []


def _prefix(view: memoryview, at: int, type_name: str) -> int:
    """Skip what comes before the data of a column: a version for each LowCardinality inside."""
    name, inner = _inner(type_name)
    if name == "LowCardinality":
        return at + 8
    for each in inner:
        at = _prefix(view, at, each)
    return at


def _data(view: memoryview, at: int, type_name: str, rows: int) -> int:
    """Skip the data of a column."""
    name, inner = _inner(type_name)
    if name == "Nullable":
        return _data(view, at + rows, inner[0], rows)
    if name == "Array":
        if rows == 0:
            return at
        return _data(view, at + 8 * rows, inner[0], _u64(view, at + 8 * (rows - 1)))
    if name == "Tuple":
        if not inner:
            return at + rows
        for each in inner:
            at = _data(view, at, each, rows)
        return at
    if name == "LowCardinality":
        return _low_cardinality(view, at, inner[0], rows)
    if name == "String":
        for _ in range(rows):
            length, at = _varint(view, at)
            at += length
        return at
    return at + rows * _width(name, type_name)


def _low_cardinality(view: memoryview, at: int, type_name: str, rows: int) -> int:
    """Skip the dictionary and the keys; each block has its own dictionary."""
    if rows == 0:
        return at
    flags, at = _u64(view, at), at + 8
    wrapper, inner = _inner(type_name)
    size, at = _u64(view, at), at + 8
    at = _data(view, at, inner[0] if wrapper == "Nullable" else type_name, size)
    keys, at = _u64(view, at), at + 8
    return at + keys * _KEY_WIDTHS[flags & 0xFF]


def _width(name: str, type_name: str) -> int:
    if name in _WIDTHS:
        return _WIDTHS[name]
    _, arguments = _split(type_name)
    if name == "FixedString":
        return int(arguments[0])
    if name == "Decimal":
        precision = int(arguments[0])
        return next(width for width, digits in ((4, 9), (8, 18), (16, 38), (32, 76)) if precision <= digits)
    if name.startswith("Interval"):
        return 8
    msg = (
        f"a column of type {type_name} cannot be sent in this format: convert it, for example with toString()"
    )
    raise UnknownTypeError(msg)
