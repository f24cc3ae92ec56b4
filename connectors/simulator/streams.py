"""One WebSocket connection: subscriptions, control messages, limits, and the faults of what it sends."""

import asyncio
import re
import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import unquote

import orjson
from aiohttp import web

from connectors.simulator.frames import frame
from connectors.simulator.klines import INTERVALS, MINUTE

MAX_STREAMS = 1024
MESSAGES_PER_SECOND = 5

_STREAM = re.compile(
    r"(?P<symbol>[^@]+)@(?P<kind>trade|aggTrade|kline_(?P<interval>\w+)(?P<zone>@\+08:00)?)",
)
_METHODS = ("SUBSCRIBE", "UNSUBSCRIBE", "LIST_SUBSCRIPTIONS", "SET_PROPERTY", "GET_PROPERTY")


class KlineStream(NamedTuple):
    """A kline stream subscribed to."""

    stream: str
    symbol: int
    interval: str
    offset: int  # time zone, us east of UTC


@dataclass
class FrameFault:
    """A fault that hits the next trade frames of one connection.

    :arg symbol: hit this symbol only; None: all.
    :arg left: how many frames it still hits.
    """

    kind: str
    symbol: str | None
    left: int
    held: list[tuple[str, bytes]] = field(default_factory=list)

    def hit(self, symbol: str, payload: bytes) -> list[tuple[str, bytes]]:
        """Return what is sent in place of a trade frame."""
        sent = [(symbol, payload)]
        if not self.left or self.symbol not in (None, symbol):
            return sent
        self.left -= 1
        if self.kind == "duplicate":
            return sent * 2
        if self.kind == "truncate":
            return [(symbol, payload[: len(payload) // 2])]
        if self.kind == "hole":
            return []
        self.held += sent
        return [] if self.left else self.held[::-1]


@dataclass(eq=False)
class Connection:
    """A client's connection.

    :arg number: counted from 0 since the opening of the exchange.
    :arg combined: whether payloads are wrapped with their stream's name.
    :arg micro: whether times are in us, not ms.
    :arg opened: monotonic seconds.
    """

    number: int
    socket: web.WebSocketResponse
    transport: asyncio.Transport
    combined: bool
    micro: bool
    opened: float
    next_ping: float
    streams: dict[str, None] = field(default_factory=dict)
    # What the streams stand for, by `resolve`.
    trades: frozenset[int] = frozenset()
    aggregates: frozenset[int] = frozenset()
    klines: tuple[KlineStream, ...] = ()
    # Messages received within a second; pings not yet answered, and when they were sent.
    received: deque[float] = field(default_factory=deque)
    pings: dict[bytes, float] = field(default_factory=dict)
    ending: bool = False  # whether its end has been announced
    # Faults under way, and what they hold back: when it is due, and what.
    silent: bool = False
    delay: float = 0.0
    bytes_per_second: float = 0.0
    frame_faults: list[FrameFault] = field(default_factory=list)
    waiting: deque[tuple[float, bytes]] = field(default_factory=deque)
    waiting_size: int = 0

    @property
    def unsent(self) -> int:
        """How many bytes wait to be sent."""
        return self.waiting_size + self.transport.get_write_buffer_size()

    def send(self, data: bytes, now: float) -> None:
        """Send frames, or hold them back where a fault says so."""
        if not data or self.silent or self.transport.is_closing():
            return
        if not (self.delay or self.bytes_per_second or self.waiting):
            self.transport.write(data)
            return
        due = max(now + self.delay, self.waiting[-1][0] if self.waiting else 0.0)
        # In pieces of a tenth of a second, each due when the line has become free.
        rate = self.bytes_per_second
        piece = max(1, int(rate / 10)) if rate else len(data)
        for at in range(0, len(data), piece):
            part = data[at : at + piece]
            due += len(part) / rate if rate else 0.0
            self.waiting.append((due, part))
            self.waiting_size += len(part)

    def release(self, now: float) -> None:
        """Send what was held back and is due."""
        while self.waiting and self.waiting[0][0] <= now and not self.silent:
            part = self.waiting.popleft()[1]
            self.waiting_size -= len(part)
            if not self.transport.is_closing():  # a write may find that the client has gone
                self.transport.write(part)

    def tamper(self, payloads: Iterable[tuple[str, bytes]]) -> bytes:
        """Return trade frames as the frame faults under way leave them.

        :arg payloads: symbol and payload of each.
        """
        for fault in self.frame_faults:
            payloads = [sent for symbol, payload in payloads for sent in fault.hit(symbol, payload)]
        self.frame_faults = [fault for fault in self.frame_faults if fault.left]
        return b"".join(frame(payload) for _, payload in payloads)

    def over_limit(self) -> bool:
        """Count a message received, and say whether that was one too many in a second."""
        now = time.monotonic()
        self.received.append(now)
        while self.received[0] <= now - 1.0:
            self.received.popleft()
        return len(self.received) > MESSAGES_PER_SECOND

    def ponged(self, payload: bytes) -> None:
        """Take a pong: a copy of a ping's payload answers it and those before; others keep nothing alive."""
        sent = self.pings.get(payload)
        if sent is not None:
            self.pings = {p: at for p, at in self.pings.items() if at > sent}

    def resolve(self, listed: Mapping[str, int]) -> None:
        """Look up what the streams stand for; that of an unknown symbol stays silent, as Binance's do.

        :arg listed: index of each symbol that is known.
        """
        trades, aggregates, klines = set(), set(), []
        for name in self.streams:
            match = _STREAM.fullmatch(name)
            index = listed.get(match["symbol"].upper()) if match else None
            if match is None or index is None or match["symbol"] != match["symbol"].lower():
                continue
            if match["kind"] == "trade":
                trades.add(index)
            elif match["kind"] == "aggTrade":
                aggregates.add(index)
            elif match["interval"] in INTERVALS:
                offset = 8 * 60 * MINUTE if match["zone"] else 0
                klines.append(KlineStream(name, index, match["interval"], offset))
        self.trades, self.aggregates = frozenset(trades), frozenset(aggregates)
        self.klines = tuple(klines)

    def control(self, text: str | bytes, listed: Mapping[str, int]) -> dict[str, Any]:
        """Obey a control message and return its answer, by web-socket-streams.md and its error table.

        :arg listed: index of each symbol that is known.
        """
        text = text if isinstance(text, str) else text.decode(errors="replace")
        try:
            body = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            return {
                "code": 3,
                "msg": f"Invalid JSON: expected value at line {error.lineno} column {error.colno}",
            }
        end = f"at line 1 column {len(text)}"
        if not isinstance(body, dict):
            return _invalid(f"expected an object {end}")
        if "method" not in body:
            return _invalid(f"missing field `method` {end}")
        method, number, params = body["method"], body.get("id"), body.get("params", [])
        if method not in _METHODS:
            token = orjson.dumps(method).decode()
            shown = method if isinstance(method, str) else token
            names = ", ".join(f"`{known}`" for known in _METHODS)
            column = text.find(token) + len(token)
            return _invalid(f"unknown variant `{shown}`, expected one of {names} at line 1 column {column}")
        if "id" not in body or not _is_request_id(number):
            return _invalid("request ID must be an unsigned integer")
        if not isinstance(params, list):
            return _invalid(f"params must be an array {end}")
        if method.endswith("PROPERTY"):
            return self._property(method, params, number)
        if method == "LIST_SUBSCRIPTIONS":
            if params:
                return _invalid("too many parameters")
            return {"result": list(self.streams), "id": number}
        if not all(isinstance(name, str) for name in params):
            return _invalid("stream name must be a string")
        if method == "SUBSCRIBE":
            streams = {**self.streams, **dict.fromkeys(params)}
        else:
            streams = {name: None for name in self.streams if name not in params}
        if len(streams) > MAX_STREAMS:
            # Not in the documentation; observed, as is its form.
            return {"error": {"code": 4, "msg": "Too many subscriptions"}, "id": number}
        self.streams = streams
        self.resolve(listed)
        return {"result": None, "id": number}

    def _property(self, method: str, params: list[Any], number: object) -> dict[str, Any]:
        wanted = 2 if method == "SET_PROPERTY" else 1
        if not params or not isinstance(params[0], str):
            return _invalid("property name must be a string")
        if len(params) > wanted:
            return _invalid("too many parameters")
        if params[0] != "combined":
            return {"code": 0, "msg": "Unknown property", "id": number}
        if method == "GET_PROPERTY":
            return {"result": self.combined, "id": number}
        if len(params) < wanted or not isinstance(params[1], bool):
            return {"code": 1, "msg": "Invalid value type: expected Boolean"}
        self.combined = params[1]
        return {"result": None, "id": number}


def stream_names(request: web.Request) -> list[str]:
    """Return the streams that a URL asks for, raw (``/ws/a/b``) or combined (``/stream?streams=a/b``)."""
    names = request.match_info.get("streams", "")
    for part in request.rel_url.raw_query_string.split("&"):
        # Not by the parsed query: its plus sign is a space, and that of ``@+08:00`` is none.
        name, _, value = part.partition("=")
        if name == "streams":
            names = unquote(value)
    return [name for name in names.split("/") if name]


def _invalid(text: str) -> dict[str, Any]:
    return {"code": 2, "msg": f"Invalid request: {text}"}


def _is_request_id(value: object) -> bool:
    if isinstance(value, str):
        return len(value) <= 36 and value.isalnum()
    whole = isinstance(value, int) and not isinstance(value, bool)
    return value is None or (whole and -(2**63) <= value < 2**63)  # type: ignore[operator]


NONSENSE = (
    frame(b'{"e":"somethingNew","E":1770123456789,"s":"BTCUSDT","x":{"y":[1,2,3]}}'),
    frame(b'{"stream":"btcusdt@somethingNew","data":{"e":"somethingNew","E":1770123456789}}'),
    frame(b"[]"),
    frame(b"null"),
    frame(b'"text"'),
    frame(b""),
    frame(b"\x00\x01\x02\xff", 2),
    frame(b'{"e":"trade"}'),
    frame(b'{"stream":"btcusdt@trade"}'),
)
"""Frames that no documentation knows."""
