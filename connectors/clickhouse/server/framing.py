"""ClickHouse's own compressed blocks, which the JDBC driver and others ask for by ``compress=1``.

A block is a checksum (CityHash128 in its version 1.0.2, to which ClickHouse keeps), one byte for the method,
the size of the header and the compressed data, the size of the data before compression, and the compressed
data.
"""

from __future__ import annotations

import struct

from clickhouse_cityhash.cityhash import CityHash128

# Size of a block before compression; ClickHouse writes no larger ones.
_BLOCK_BYTES = 1 << 20
_NONE, _LZ4, _ZSTD = 0x02, 0x82, 0x90
_HEADER = struct.Struct("<BII")
_CHECKSUM = struct.Struct("<QQ")

_LOWER = (1 << 64) - 1


def compress(data: bytes) -> bytes:
    """Write data as compressed blocks.

    :arg data: Any bytes.
    :returns: The blocks; none for no data.
    """
    import pyarrow as pa

    codec = pa.Codec("lz4_raw")
    out = []
    for start in range(0, len(data), _BLOCK_BYTES):
        plain = data[start : start + _BLOCK_BYTES]
        packed = codec.compress(plain, asbytes=True)
        block = _HEADER.pack(_LZ4, len(packed) + _HEADER.size, len(plain)) + packed
        out += [checksum(block), block]
    return b"".join(out)


def decompress(data: bytes, most: int) -> bytes:
    """Read compressed blocks.

    :arg data: Whole blocks.
    :arg most: Number of bytes that they may hold.
    :returns: The bytes that they hold.
    :raises ValueError: If they are damaged, cut off, too long or of an unknown method.
    """
    import pyarrow as pa

    out = []
    at = size = 0
    while at < len(data):
        if at + _CHECKSUM.size + _HEADER.size > len(data):
            msg = "a compressed block is cut off"
            raise ValueError(msg)
        expected = data[at : at + _CHECKSUM.size]
        at += _CHECKSUM.size
        method, packed_size, plain_size = _HEADER.unpack_from(data, at)
        block = data[at : at + packed_size]
        size += plain_size
        if size > most or packed_size < _HEADER.size:
            msg = f"compressed blocks hold more than {most} bytes"
            raise ValueError(msg)
        if checksum(block) != expected:
            msg = "the checksum of a compressed block is wrong"
            raise ValueError(msg)
        packed = block[_HEADER.size :]
        if method == _NONE:
            out.append(packed)
        elif method in (_LZ4, _ZSTD):
            codec = pa.Codec("lz4_raw" if method == _LZ4 else "zstd")
            out.append(codec.decompress(packed, decompressed_size=plain_size, asbytes=True))
        else:
            msg = f"method {method:#x} of a compressed block is not known"
            raise ValueError(msg)
        at += packed_size
    return b"".join(out)


def checksum(block: bytes) -> bytes:
    """Return the checksum of a block.

    :arg block: Header and compressed data.
    :returns: Its 128-bit hash, in 16 bytes as ClickHouse writes them.
    """
    hashed = CityHash128(block)
    # The package returns the first 64 bits of the hash as the upper half of its integer.
    return _CHECKSUM.pack(hashed >> 64, hashed & _LOWER)
