"""What the feed's thread and the dataflow's thread tell each other."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from connectors.binance.rest import RestError
from kernels.records import Block


@dataclass(frozen=True)
class Frames:
    """Messages of a group of symbols, in the bytes that the socket gave."""

    group: int
    buffer: bytes
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    received: int  # us, local


class Arrived(NamedTuple):
    """The trades of some frames."""

    group: int
    trades: Block
    exchange: int | None  # us: event time of the last frame, if it has one
    local: int  # us: when that frame was received


@dataclass(frozen=True)
class Up:
    """A group of symbols has a connection again, and is subscribed."""

    group: int


@dataclass(frozen=True)
class Down:
    """A group of symbols has no connection any more, or messages of it were dropped."""

    group: int
    cause: str  # of GAP_CAUSES


@dataclass(frozen=True)
class Liveness:
    """What the exchange sent to a group before a local time, us, was received before this event."""

    group: int
    time: int
    silent: float  # s since the group's last message


@dataclass(frozen=True)
class Page:
    """The answer to a request for trades."""

    symbol: int
    first: int  # id asked for
    trades: Block
    error: RestError | None = None


@dataclass(frozen=True)
class ClockReading:
    """The exchange's clock showed at least ``exchange`` us at local time ``local`` us."""

    exchange: int
    local: int


@dataclass(frozen=True)
class Request:
    """A request for a page of trades of a symbol, from an id on."""

    symbol: int
    first: int
    urgency: int
    """Requests of lower urgency go first."""


Notice = Up | Down | Liveness | Page | ClockReading
"""What is of use as it is."""

Event = Frames | Notice
"""What the feed's thread puts into its inbox."""


def joined(frames: Sequence[Frames]) -> Frames:
    """Join frames of one group that came one behind the other."""
    newest = frames[-1]
    if len(frames) == 1:
        return newest
    buffer = b"".join([event.buffer for event in frames])
    sizes = np.array([len(event.buffer) for event in frames])
    offsets = np.repeat(np.cumsum(sizes) - sizes, [len(event.starts) for event in frames])
    starts = np.concatenate([event.starts for event in frames]) + offsets
    ends = np.concatenate([event.ends for event in frames]) + offsets
    return Frames(newest.group, buffer, starts, ends, newest.received)
