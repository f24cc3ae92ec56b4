"""Find the messages in bytes: in those of a WebSocket, and in those of a recording."""

import numpy as np
from numba import types
from numpy.typing import NDArray

from kernels.compile import kernel
from kernels.signatures import BYTES, INTEGERS

_FULL_TEXT_FRAME = 0x81  # final fragment, no extension, text
_LONGER = 126  # in place of a length: the next two bytes hold it; above: longer than 64 KiB, or masked
_ZERO, _NINE, _SPACE, _LINE_FEED, _RETURN = (ord(c) for c in "09 \n\r")
_MOST_DIGITS = 19


@kernel((BYTES, INTEGERS, INTEGERS))
def split_websocket(
    buffer: NDArray[np.uint8], starts: NDArray[np.int64], ends: NDArray[np.int64]
) -> tuple[int, int]:
    """Find the complete, unfragmented, uncompressed, unmasked text frames at the head of a byte stream.

    Frame layout: RFC 6455, section 5.2. The search ends at the first frame of another kind.

    :arg buffer: The bytes.
    :arg starts: Receives the offset of each payload; as many frames are found at most.
    :arg ends: Receives the offset behind it.
    :returns: How many frames there are, and the offset of the first byte behind them.
    """
    n = 0
    at = 0
    size = len(buffer)
    while n < len(starts) and at + 2 <= size and buffer[at] == _FULL_TEXT_FRAME:
        length = int(buffer[at + 1])
        payload = at + 2
        if length == _LONGER:
            if at + 4 > size:
                break
            length = (int(buffer[at + 2]) << 8) | int(buffer[at + 3])
            payload = at + 4
        elif length > _LONGER:
            break
        if payload + length > size:
            break
        starts[n] = payload
        ends[n] = payload + length
        n += 1
        at = payload + length
    return n, at


@kernel(types.int64(BYTES, INTEGERS, INTEGERS, INTEGERS))
def split_recorded_lines(
    chunk: NDArray[np.uint8],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    times: NDArray[np.int64],
) -> int:
    """Find the lines ``<receive time> <message>`` of a recording.

    :arg chunk: The bytes of whole lines, the last one with its line feed too.
    :arg starts: Receives where each message begins: the whole line if it has no time.
    :arg ends: Receives where it ends, exclusive, without a carriage return.
    :arg times: Receives when it arrived, ns; -1 if the line has no time.
    :returns: How many lines there are.
    """
    lines = 0
    at = 0
    while at < len(chunk):
        first = at
        when = 0
        while _ZERO <= chunk[at] <= _NINE and at - first < _MOST_DIGITS:
            when = 10 * when + (chunk[at] - _ZERO)
            at += 1
        if at == first or chunk[at] != _SPACE:
            when = -1
        starts[lines] = at + 1 if when >= 0 else first
        while chunk[at] != _LINE_FEED:
            at += 1
        end = at
        if end > first and chunk[end - 1] == _RETURN:
            end -= 1
        ends[lines] = max(end, starts[lines])
        times[lines] = when
        lines += 1
        at += 1
    return lines
