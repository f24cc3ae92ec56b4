"""Turn raw Binance WebSocket frames into TRADE blocks.

    decoder = TradeDecoder(["BTCUSDT", "ETHUSDT"])
    trades = decoder.decode(frames)

Frames are taken as the exchange sends them: bare or wrapped by a combined stream, of spot or USD-M futures,
on `trade` or `aggTrade` streams, in milliseconds or microseconds.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, nan
from typing import Any, TypeVar

import numpy as np
import orjson
import structlog
from numpy.typing import NDArray

from kernels.records import MILLISECOND, TRADE, Block

_log = structlog.get_logger()

_T = TypeVar("_T")

_OTHERS = 64
_CONTROL_KEYS = ("result", "error", "code")
_LEAST_MICROSECONDS = 100_000_000_000_000  # March 1973; read as milliseconds, the year 5138
_DECIMAL = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")


@dataclass(slots=True)
class DecodeCounts:
    """What became of all frames so far: ``frames == trades + other + malformed + unknown_symbol``."""

    frames: int = 0
    trades: int = 0
    other: int = 0
    """Valid, but no trade: book tickers, depth, klines, answers to requests."""
    slow: int = 0
    """Frames, of whatever outcome, that differ from the usual layouts and were parsed as general JSON."""
    malformed: int = 0
    """Neither a trade nor anything else that is valid."""
    unknown_symbol: int = 0
    """Trades of a symbol that is not in the table."""


class TradeDecoder:
    """Turn raw frames into TRADE blocks.

    :arg symbols: The run's symbol table, upper case as in the frames; the index becomes ``TRADE["symbol"]``.
    """

    counts: DecodeCounts
    """Running totals."""
    others: list[bytes]
    """Control frames of the last call, at most 64: answers to requests, errors, ``serverShutdown``."""

    def __init__(self, symbols: Sequence[str]) -> None:
        self._symbols = {symbol: i for i, symbol in enumerate(symbols)}
        self._reported: set[str] = set()
        self.counts = DecodeCounts()
        self.others = []

    def decode(self, frames: Sequence[bytes]) -> Block:
        """Decode frames.

        :arg frames: Raw messages, UTF-8.
        :returns: TRADE block in the frames' order.
        """
        self.others = []
        rows = [row for frame in frames if (row := self._decode_slowly(frame)) is not None]
        self.counts.frames += len(frames)
        self.counts.trades += len(rows)
        return np.array(rows, TRADE)

    def decode_buffer(
        self,
        buffer: bytes | memoryview | NDArray[np.uint8],
        starts: NDArray[np.int64],
        ends: NDArray[np.int64],
    ) -> Block:
        """Decode frames that lie in one buffer, as a recording does.

        :arg buffer: Bytes that hold the frames.
        :arg starts: Offset of each frame's first byte, int64.
        :arg ends: Offset behind each frame's last byte, int64.
        :returns: TRADE block in the frames' order.
        """
        view = memoryview(buffer)  # type: ignore[arg-type]
        return self.decode([bytes(view[start:end]) for start, end in zip(starts.tolist(), ends.tolist())])

    def _decode_slowly(self, frame: bytes) -> tuple[Any, ...] | None:
        """Decode one frame by a general JSON parser.

        :returns: Fields of a TRADE, or None; what else it was is counted.
        """
        self.counts.slow += 1
        try:
            row = self._parse(frame)
        except ValueError as error:
            self.counts.malformed += 1
            reason = str(error)
            if reason not in self._reported:
                self._reported.add(reason)
                _log.warning(
                    "malformed frame; more of this kind are only counted", reason=reason, frame=frame[:300]
                )
            return None
        if row is not None and row[6] < 0:
            self.counts.unknown_symbol += 1
            return None
        return row

    def _parse(self, frame: bytes) -> tuple[Any, ...] | None:
        message = _loads(frame)
        if not isinstance(message, dict):
            self.counts.other += 1
            return None
        data = message.get("data", message)
        event = data.get("e") if isinstance(data, dict) else None
        if event != "trade" and event != "aggTrade":
            self.counts.other += 1
            if event == "serverShutdown" or not message.keys().isdisjoint(_CONTROL_KEYS):
                self.others = [*self.others, frame][:_OTHERS]
            return None
        try:
            if event == "trade":
                id_ = first_id = last_id = _integer(data, "t")
            else:
                id_, first_id, last_id = _integer(data, "a"), _integer(data, "f"), _integer(data, "l")
            time, price, quantity = _integer(data, "T"), _decimal(data, "p"), _decimal(data, "q")
            symbol, buyer_is_maker = _typed(data, "s", str), _typed(data, "m", bool)
            in_bars = data.get("X", "MARKET") == "MARKET" and price != 0.0
        except KeyError as error:
            reason = f"a trade without key {error}"
            raise ValueError(reason) from None
        if abs(time) < _LEAST_MICROSECONDS:
            time *= MILLISECOND
        row = self._symbols.get(symbol, -1)
        return id_, first_id, last_id, time, price, quantity, row, buyer_is_maker, in_bars


def _loads(frame: bytes) -> Any:
    try:
        return orjson.loads(frame)
    except orjson.JSONDecodeError:
        reason = "not JSON"
        raise ValueError(reason) from None


def _typed(data: dict[str, Any], key: str, kind: type[_T]) -> _T:
    value = data[key]
    if type(value) is not kind:
        reason = f"a trade whose {key!r} is not of type {kind.__name__}"
        raise ValueError(reason)
    return value


def _integer(data: dict[str, Any], key: str) -> int:
    value = _typed(data, key, int)
    if not -(2**63) <= value < 2**63:
        reason = f"a trade whose {key!r} has more than 64 bits"
        raise ValueError(reason)
    return value


def _decimal(data: dict[str, Any], key: str) -> float:
    text = _typed(data, key, str)
    number = float(text) if _DECIMAL.fullmatch(text) else nan
    if not isfinite(number):
        reason = f"a trade whose {key!r} is not a finite decimal number"
        raise ValueError(reason)
    return number
