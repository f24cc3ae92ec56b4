"""Messages in a byte stream that is cut anywhere."""

import asyncio
import base64
import contextlib
import hashlib
import random
import re
import threading

import orjson
import pytest

from connectors.binance.endpoints import Endpoints
from connectors.binance.stream import BinanceSource
from tests.support.exchange import Reader


def _frame(payload: bytes, opcode: int = 1, fin: bool = True) -> bytes:
    """Build a WebSocket frame as a server sends it."""
    head = bytes([(0x80 if fin else 0) | opcode])
    size = len(payload)
    if size < 126:
        return head + bytes([size]) + payload
    if size < 65536:
        return head + bytes([126]) + size.to_bytes(2, "big") + payload
    return head + bytes([127]) + size.to_bytes(8, "big") + payload


@pytest.mark.parametrize("seed", range(4))
def test_messages_survive_any_cut_of_the_byte_stream(seed: int, readers: list[Reader]) -> None:
    draw = random.Random(seed)
    ids = range(1, 301)
    sent = bytearray()
    pings = 0
    for id_ in ids:
        trade = {
            "e": "trade",
            "E": id_,
            "s": "AAAUSDT",
            "t": id_,
            "p": "1",
            "q": "1",
            "T": id_,
            "m": True,
            "M": True,
        }
        payload = orjson.dumps({"stream": "aaausdt@trade", "data": trade})
        kind = draw.random()
        if kind < 0.1:
            cut = draw.randrange(len(payload))
            sent += _frame(payload[:cut], fin=False) + _frame(b"?", 9) + _frame(payload[cut:], 0)
            pings += 1
        else:
            sent += _frame(payload)
        if kind > 0.95:
            sent += _frame(b'{"e":"' + b"x" * draw.choice([10, 200, 70_000]) + b'"}')
        elif kind > 0.9:
            sent += _frame(b"?", 9)
            pings += 1
    answers = bytearray()

    async def serve(incoming: asyncio.StreamReader, outgoing: asyncio.StreamWriter) -> None:
        head = await incoming.readuntil(b"\r\n\r\n")
        key = re.search(rb"Sec-WebSocket-Key: (\S+)", head)
        assert key is not None
        accept = base64.b64encode(hashlib.sha1(key[1] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
        response = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        response += b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
        rest = response + bytes(sent)
        while rest:
            size = draw.choice([1, 2, 3, 50, 1000, 100_000])
            outgoing.write(rest[:size])
            rest = rest[size:]
            await outgoing.drain()
            if draw.random() < 0.5:
                await asyncio.sleep(0)
        with contextlib.suppress(ConnectionError):
            while data := await incoming.read(4096):
                answers.extend(data)
        outgoing.close()

    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(asyncio.start_server(serve, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    port = server.sockets[0].getsockname()[1]
    nowhere = ("http://127.0.0.1:9",)
    source = BinanceSource(
        ["AAAUSDT"], endpoints=Endpoints((f"ws://127.0.0.1:{port}",), nowhere), stop=threading.Event()
    )
    reader = Reader(source)
    try:
        reader.wait_for(*ids)
        assert reader.gaps() == []
        assert reader.status.decode.malformed == 0
        # Each ping was answered: 2 bytes of header, 4 of mask, 1 of payload.
        reader.until(lambda: len(answers) >= 7 * pings)
    finally:
        reader.partition.close()
        loop.call_soon_threadsafe(server.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.run_until_complete(asyncio.sleep(0.05))
        loop.close()
