"""Turn messages of Binance's streams into TRADE blocks.

    decoder = TradeDecoder(["BTCUSDT", "ETHUSDT"])
    trades = decoder.decode(buffer, starts, ends)

Frames are messages as the exchange sends them: bare or wrapped by a combined stream, of spot or USD-M
futures, of `trade` or `aggTrade` streams, in milliseconds or microseconds. A compiled pass (`kernels.decode`)
decodes those of the usual layouts. A general JSON parser decodes all others, with the same result.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, nan
from typing import Any, Final, TypeVar

import numpy as np
import orjson
import structlog
from numpy.typing import NDArray

from kernels import decode
from kernels.compile import warm_up
from kernels.records import MILLISECOND, TRADE, Block

_LOG = structlog.get_logger()

_T = TypeVar("_T")

_MOST_CONTROLS: Final = 64
_CONTROL_KEYS: Final = ("result", "error", "code")
_DECIMAL = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")


@dataclass(slots=True)
class DecodeCounts:
    """How many frames there were so far, and what they were.

    ``frames == trades + other + malformed + unknown_symbol``.
    """

    frames: int = 0
    trades: int = 0
    other: int = 0
    """No trade: book tickers, depth, klines, answers to requests, any other JSON."""
    slow: int = 0
    """Frames of any kind that a general JSON parser decoded, because their layout is not a usual one."""
    malformed: int = 0
    """Not JSON, or a trade that lacks a field or has one of a wrong type; each kind is logged once."""
    unknown_symbol: int = 0
    """Trades of a symbol that is not in the table."""


class TradeDecoder:
    """Turns frames into TRADE blocks. One thread at a time may use it; decoding releases the GIL.

    :arg symbols: The run's symbol table, upper case as in the frames; the index becomes ``TRADE["symbol"]``.
    :raises ValueError: If a symbol is in the table twice.
    """

    counts: DecodeCounts
    """Running totals."""
    others: list[bytes]
    """Control frames of the last call, at most 64: answers to requests, errors, ``serverShutdown``."""

    def __init__(self, symbols: Sequence[str]) -> None:
        self._symbols = {symbol: i for i, symbol in enumerate(symbols)}
        if len(self._symbols) < len(symbols):
            twice = sorted({symbol for symbol in symbols if symbols.count(symbol) > 1})
            message = f"each symbol may be in the symbol table once, but {', '.join(twice)} is there twice"
            raise ValueError(message)
        warm_up(decode.decode, decode.fill_name_table)
        self._names, self._slots = _name_table(symbols)
        self._scratch = np.zeros(decode.REACH, np.uint8)
        self._reported: set[str] = set()
        self.counts = DecodeCounts()
        self.others = []

    def decode(
        self,
        buffer: bytes | memoryview | NDArray[np.uint8],
        starts: NDArray[np.int64],
        ends: NDArray[np.int64],
    ) -> Block:
        """Decode frames that lie in one buffer.

        :arg buffer: Bytes that hold the frames.
        :arg starts: Offset of each frame's first byte, int64.
        :arg ends: Offset behind each frame's last byte, int64.
        :returns: TRADE block in the frames' order.
        :raises ValueError: If a frame does not lie in the buffer, or lacks its start or end.
        """
        self.others = []
        data = np.frombuffer(buffer, np.uint8)
        starts, ends = np.ascontiguousarray(starts, np.int64), np.ascontiguousarray(ends, np.int64)
        if starts.shape != ends.shape:
            message = f"each frame needs a start and an end, but there are {len(starts)} and {len(ends)}"
            raise ValueError(message)
        rows = np.zeros(len(starts), TRADE)
        slow = np.empty((2, len(starts)), np.int64)
        outcomes = np.zeros(4, np.int64)
        used = decode.decode(
            data, starts, ends, self._names, self._slots, self._scratch, rows, slow, outcomes
        )
        if used < 0:
            i = -1 - used
            message = f"frame {i} spans bytes {starts[i]} to {ends[i]}, but the buffer has {len(data)}"
            raise ValueError(message)
        counts = self.counts
        counts.frames += len(starts)
        counts.other += int(outcomes[decode.OTHER])
        counts.unknown_symbol += int(outcomes[decode.UNKNOWN_SYMBOL])
        rows = rows[:used]
        vacant = []
        for i, row in slow[:, : outcomes[decode.SLOW]].T.tolist():
            trade = self._decode_slowly(data[starts[i] : ends[i]].tobytes())
            if trade is None:
                vacant.append(row)
            else:
                rows[row] = trade
        if vacant:
            rows = np.delete(rows, vacant)
        counts.trades += len(rows)
        return rows

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
                _LOG.warning(
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
                self.others = [*self.others, frame][:_MOST_CONTROLS]
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
        row = self._symbols.get(symbol, -1)
        return id_, first_id, last_id, microseconds(time), price, quantity, row, buyer_is_maker, in_bars


def microseconds(time: int) -> int:
    """Return a time of the exchange in microseconds, which may be in milliseconds."""
    return time if abs(time) >= decode.LEAST_MICROSECONDS else time * MILLISECOND


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


def _name_table(symbols: Sequence[str]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Make the table by which the compiled pass finds symbols."""
    # As in a message: JSON escapes some characters.
    spellings = [orjson.dumps(name)[1:-1] for symbol in symbols for name in (symbol.lower(), symbol)]
    text = np.frombuffer(bytes(8) + b"".join(spellings), np.uint8)
    lengths = np.array([len(name) for name in spellings], np.int64)
    ends = 8 + np.cumsum(lengths)
    names, slots = decode.new_name_table(len(symbols))
    decode.fill_name_table(text, (ends - lengths).reshape(-1, 2), ends.reshape(-1, 2), names, slots)
    return names, slots
