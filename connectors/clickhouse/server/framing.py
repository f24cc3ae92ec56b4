"""ClickHouse's own compressed blocks, as the JDBC driver and others ask for by ``compress=1``.

A block is a checksum (CityHash128 in its version 1.0.2, which ClickHouse froze), a byte for the method, the
sizes of what follows and of what it was, and the data in LZ4.
"""

from __future__ import annotations

import struct

# Of the data before compression; ClickHouse writes at most so much at once.
_BLOCK = 1 << 20
_NONE, _LZ4, _ZSTD = 0x02, 0x82, 0x90
_HEADER = struct.Struct("<BII")
_CHECKSUM = struct.Struct("<QQ")

_MASK = (1 << 64) - 1
_K0, _K1, _K2, _K3 = 0xC3A5C85C97CB3127, 0xB492B66FBE98F273, 0x9AE16A3B2F90404F, 0xC949D7C7509E6557
_MULTIPLIER = 0x9DDFEA08EB382D69


def compress(data: bytes) -> bytes:
    """Write data as compressed blocks.

    :arg data: Any bytes.
    :returns: The blocks; none for no data.
    """
    import pyarrow as pa

    codec = pa.Codec("lz4_raw")
    out = []
    for start in range(0, len(data), _BLOCK):
        plain = data[start : start + _BLOCK]
        packed = codec.compress(plain, asbytes=True)
        block = _HEADER.pack(_LZ4, len(packed) + _HEADER.size, len(plain)) + packed
        out += [_CHECKSUM.pack(*city_hash_128(block)), block]
    return b"".join(out)


def decompress(data: bytes, most: int) -> bytes:
    """Read compressed blocks.

    :arg data: Whole blocks.
    :arg most: Bytes to make of them at most.
    :returns: What they hold.
    :raises ValueError: If they are damaged, cut off, too long or of an unknown method.
    """
    import pyarrow as pa

    out = []
    at = size = 0
    while at < len(data):
        if at + _CHECKSUM.size + _HEADER.size > len(data):
            msg = "a compressed block is cut off"
            raise ValueError(msg)
        checksum = _CHECKSUM.unpack_from(data, at)
        at += _CHECKSUM.size
        method, packed_size, plain_size = _HEADER.unpack_from(data, at)
        block = data[at : at + packed_size]
        size += plain_size
        if size > most or packed_size < _HEADER.size:
            msg = f"compressed blocks hold more than {most} bytes"
            raise ValueError(msg)
        if city_hash_128(block) != checksum:
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


def city_hash_128(data: bytes) -> tuple[int, int]:
    """Hash bytes by CityHash128 1.0.2 (Pike and Alakuijala, 2011).

    :arg data: Any bytes.
    :returns: The lower and the upper 64 bits.
    """
    length = len(data)
    if length >= 16:
        low, high = struct.unpack_from("<QQ", data)
        return _with_seed(data[16:], low ^ _K3, high)
    if length >= 8:
        (low,) = struct.unpack_from("<Q", data)
        (high,) = struct.unpack_from("<Q", data, length - 8)
        return _murmur(b"", low ^ (length * _K0 & _MASK), high ^ _K1)
    return _murmur(data, _K0, _K1)


def _u64(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 8], "little")


def _rotate(value: int, shift: int) -> int:
    value &= _MASK
    return (value >> shift | value << (64 - shift)) & _MASK


def _mix(value: int) -> int:
    value &= _MASK
    return value ^ value >> 47


def _fold(low: int, high: int) -> int:
    """Hash 128 bits down to 64."""
    a = _mix(((low ^ high) & _MASK) * _MULTIPLIER)
    b = _mix(((high & _MASK) ^ a) * _MULTIPLIER)
    return b * _MULTIPLIER & _MASK


def _weak(words: tuple[int, ...], at: int, a: int, b: int) -> tuple[int, int]:
    """Take in 32 bytes, quickly and weakly."""
    w, x, y, z = words[at : at + 4]
    a = a + w & _MASK
    b = _rotate(b + a + z, 21)
    c = a
    a = a + x + y & _MASK
    b += _rotate(a, 44)
    return a + z & _MASK, b + c & _MASK


def _short(data: bytes) -> int:
    """Hash up to 16 bytes."""
    length = len(data)
    if length > 8:
        first, last = _u64(data, 0), _u64(data, length - 8)
        return _fold(first, _rotate(last + length, length)) ^ last
    if length >= 4:
        first = int.from_bytes(data[:4], "little")
        return _fold(length + (first << 3), int.from_bytes(data[-4:], "little"))
    if length > 0:
        y = data[0] + (data[length >> 1] << 8)
        z = length + (data[-1] << 2)
        return _mix(y * _K2 ^ z * _K3) * _K2 & _MASK
    return _K2


def _murmur(data: bytes, a: int, b: int) -> tuple[int, int]:
    """Hash fewer than 128 bytes."""
    length = len(data)
    if length <= 16:
        a = _mix(a * _K1) * _K1 & _MASK
        c = b * _K1 + _short(data) & _MASK
        d = _mix(a + (_u64(data, 0) if length >= 8 else c))
    else:
        c = _fold(_u64(data, length - 8) + _K1, a)
        d = _fold(b + length, c + _u64(data, length - 16))
        a = a + d & _MASK
        for at in range(0, length - 16, 16):
            a = (a ^ _mix(_u64(data, at) * _K1) * _K1 & _MASK) * _K1 & _MASK
            b ^= a
            c = (c ^ _mix(_u64(data, at + 8) * _K1) * _K1 & _MASK) * _K1 & _MASK
            d ^= c
    a = _fold(a, c)
    b = _fold(d, b)
    return a ^ b, _fold(b, a)


def _with_seed(data: bytes, x: int, y: int) -> tuple[int, int]:
    length = len(data)
    if length < 128:
        return _murmur(data, x, y)
    rounds, left = divmod(length, 128)
    words = struct.unpack_from(f"<{rounds * 16}Q", data)
    z = length * _K1 & _MASK
    v0 = _rotate(y ^ _K1, 49) * _K1 + words[0] & _MASK
    v1 = _rotate(v0, 42) * _K1 + words[1] & _MASK
    w0 = _rotate(y + z, 35) * _K1 + x & _MASK
    w1 = _rotate(x + words[11], 53) * _K1 & _MASK
    for at in range(0, rounds * 16, 8):
        x = _rotate(x + y + v0 + words[at + 2], 37) * _K1 & _MASK
        y = _rotate(y + v1 + words[at + 6], 42) * _K1 & _MASK
        x ^= w1
        y ^= v0
        z = _rotate(z ^ w0, 33)
        v0, v1 = _weak(words, at, v1 * _K1, x + w0)
        w0, w1 = _weak(words, at + 4, z + w1, y)
        x, z = z, x
    y = y + _rotate(w0, 37) * _K0 + z & _MASK
    x = x + _rotate(v0 + z, 49) * _K0 & _MASK
    # The rest, 32 bytes a time, from the end; the last step reaches back into what was hashed above.
    for done in range(32, left + 32, 32):
        tail = struct.unpack_from("<4Q", data, length - done)
        y = _rotate(y - x, 42) * _K0 + v1 & _MASK
        w0 = w0 + tail[2] & _MASK
        x = _rotate(x, 49) * _K0 + w0 & _MASK
        w0 = w0 + v0 & _MASK
        v0, v1 = _weak(tail, 0, v0, v1)
    x = _fold(x, v0)
    y = _fold(y, w0)
    return _fold(x + v1, w1) + y & _MASK, _fold(x + w1, y + v1)
