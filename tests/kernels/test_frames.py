"""Messages cut out of bytes, as the `websockets` library frames them, and as Python splits lines."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode

from kernels.compile import warm_up
from kernels.frames import split_recorded_lines, split_websocket

warm_up(split_websocket, split_recorded_lines)

SIZES = st.one_of(st.integers(0, 300), st.sampled_from([125, 126, 65_535, 65_536]))


def split(data: bytes, most: int) -> tuple[list[bytes], int]:
    starts, ends = np.empty((2, most), np.int64)
    count, consumed = split_websocket(np.frombuffer(data, np.uint8), starts, ends)
    return [data[a:b] for a, b in zip(starts[:count].tolist(), ends[:count].tolist())], consumed


@given(st.lists(SIZES, max_size=8), st.integers(0, 10), st.data())
def test_whole_text_frames_are_found_and_the_rest_is_left(
    sizes: list[int], most: int, data: st.DataObject
) -> None:
    payloads = [bytes([65 + i]) * size for i, size in enumerate(sizes)]
    frames = [Frame(Opcode.TEXT, payload).serialize(mask=False) for payload in payloads]
    stream = b"".join(frames)
    cut = data.draw(st.integers(0, len(stream)))
    expected: list[bytes] = []
    consumed = 0
    for payload, frame in zip(payloads, frames):
        if len(expected) == most or consumed + len(frame) > cut or len(payload) > 65_535:
            break
        expected.append(payload)
        consumed += len(frame)
    assert split(stream[:cut], most) == (expected, consumed)


@given(
    st.sampled_from(
        [
            (Opcode.PING, True, False),
            (Opcode.BINARY, True, False),
            (Opcode.TEXT, False, False),
            (Opcode.TEXT, True, True),
        ]
    )
)
def test_the_search_ends_at_a_frame_of_another_kind(kind: tuple[Opcode, bool, bool]) -> None:
    opcode, fin, masked = kind
    text = Frame(Opcode.TEXT, b"one").serialize(mask=False)
    other = Frame(opcode, b"two", fin=fin).serialize(mask=masked)
    assert split(text + other + text, 9) == ([b"one"], len(text))


LINES = st.one_of(
    st.tuples(st.integers(0, 10**19 - 1), st.binary(max_size=20)).map(lambda parts: b"%d %s" % parts),
    st.text("0123456789 x\r", max_size=25).map(str.encode),
    st.binary(max_size=10),
)


@given(st.lists(LINES.map(lambda line: line.replace(b"\n", b""))))
def test_recorded_lines_are_split_as_python_splits_them(lines: list[bytes]) -> None:
    data = b"".join(line + b"\n" for line in lines)
    starts, ends, times = np.empty((3, len(lines)), np.int64)
    found = split_recorded_lines(np.frombuffer(data, np.uint8), starts, ends, times)
    assert found == len(lines)
    for line, start, end, time in zip(lines, starts.tolist(), ends.tolist(), times.tolist(), strict=True):
        stamp, space, message = line.partition(b" ")
        is_timed = bool(space) and stamp.isdigit() and len(stamp) <= 19 and int(stamp) < 2**63
        if is_timed:
            assert (time, data[start:end]) == (int(stamp), message.removesuffix(b"\r"))
        elif time >= 0:  # more than 63 bits: no time of any clock
            assert int(stamp) >= 2**63
        else:
            assert data[start:end] == line.removesuffix(b"\r")
