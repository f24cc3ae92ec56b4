"""A WebSocket connection that hands over messages in bulk, as they lie in the bytes that the socket gave."""

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override
from websockets.asyncio.client import ClientConnection, connect
from websockets.client import ClientProtocol
from websockets.frames import DATA_OPCODES, Frame
from websockets.protocol import Event as ProtocolEvent
from websockets.protocol import State

from kernels.frames import split_websocket

MAX_MESSAGE: Final = 1 << 20
"""Bytes of a message, at most: a longer one ends the connection."""

Sink = Callable[[bytes, NDArray[np.int64], NDArray[np.int64]], None]


async def open_connection(url: str, sink: Sink) -> ClientConnection:
    """Connect without compression. The caller sends pings, and has compiled `split_websocket` before.

    :arg url: Address of the stream.
    :arg sink: Receives bytes, and where the messages in them begin and end.
    :raises OSError: If there is no connection.
    :raises InvalidHandshake: If the server refuses it.
    """

    def create(protocol: ClientProtocol, **options: Any) -> ClientConnection:
        return BulkConnection(sink, protocol, **options)

    return await connect(
        url,
        compression=None,
        ping_interval=None,
        max_size=MAX_MESSAGE,
        close_timeout=1,
        create_connection=create,  # type: ignore[arg-type]
    )


class BulkConnection(ClientConnection):
    """A WebSocket connection that hands over text messages in bulk.

    ``websockets`` spends about 5 us a message on frames, events and queues. Messages of an exchange are
    short, whole and uncompressed, so this class cuts them out itself, many at a time. Everything else goes
    through the library: the handshake, pings, pongs, fragments and the close.

    :arg sink: Receives bytes, and where the messages in them begin and end.
    :arg protocol: Of the library.
    :arg options: Of the library.
    """

    def __init__(self, sink: Sink, protocol: ClientProtocol, **options: Any) -> None:
        super().__init__(protocol, **options)
        self._sink = sink
        self._tail = b""
        self._in_handshake = True
        self._fragments: list[bytes] = []

    @override
    def data_received(self, data: bytes) -> None:
        data = self._tail + data if self._tail else bytes(data)
        self._tail = b""
        if self._in_handshake:
            end = data.find(b"\r\n\r\n") + 4
            if end < 4 and len(data) <= MAX_MESSAGE:
                self._tail = data
                return
            self._in_handshake = False
            super().data_received(data[:end])
            data = data[end:]
        while data:
            if self.protocol.state is not State.OPEN:
                super().data_received(data)
                return
            # A trade takes 100 bytes and more. Shorter messages need another round of this loop.
            starts = np.empty(len(data) // 64 + 1, np.int64)
            ends = np.empty_like(starts)
            n, consumed = split_websocket(np.frombuffer(data, np.uint8), starts, ends)
            if n:
                self._sink(data, starts[:n], ends[:n])
                data = data[consumed:]
                continue
            size = _frame_size(data)
            if size > MAX_MESSAGE:
                super().data_received(data)  # the library ends the connection
                return
            if size == 0 or len(data) < size:
                self._tail = data
                return
            super().data_received(data[:size])
            data = data[size:]

    @override
    def process_event(self, event: ProtocolEvent) -> None:
        if not isinstance(event, Frame) or event.opcode not in DATA_OPCODES:
            super().process_event(event)
            return
        self._fragments.append(bytes(event.data))
        if event.fin:
            message = b"".join(self._fragments)
            self._fragments.clear()
            self._sink(message, np.zeros(1, np.int64), np.full(1, len(message), np.int64))


def _frame_size(data: bytes) -> int:
    """Return the size of the frame at the head of the data; 0 if its header is incomplete."""
    if len(data) < 2:
        return 0
    length = data[1] & 0x7F
    extra = {126: 2, 127: 8}.get(length, 0)
    if len(data) < 2 + extra:
        return 0
    if extra:
        length = int.from_bytes(data[2 : 2 + extra], "big")
    return 2 + extra + (4 if data[1] & 0x80 else 0) + length
