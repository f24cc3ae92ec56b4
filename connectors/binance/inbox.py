"""Take what the feed's thread has received, and decode it."""

import re
from collections.abc import Iterator, Sequence
from typing import Final

import structlog

from connectors.binance.decoder import TradeDecoder
from connectors.binance.events import Arrived, Frames, Notice, joined
from connectors.binance.feed import Feed, FeedStatus
from kernels.records import SECOND

_LOG = structlog.get_logger()

_FRAMES_PER_BATCH: Final = 65_536  # some 20 ms of work; more would delay snapshots
_EVENT_TIME = re.compile(rb'"E":([0-9]{13,16})')


class Inbox:
    """Takes events out of a feed's inbox, and decodes the frames among them.

    :arg feed: The feed.
    :arg symbols: The run's symbol table.
    :arg status: Receives the delay of the last trade, and what became of the frames.
    """

    def __init__(self, feed: Feed, symbols: Sequence[str], status: FeedStatus) -> None:
        self._feed = feed
        self._status = status
        self._decoder = TradeDecoder(symbols)
        status.decode = self._decoder.counts

    def events(self) -> Iterator[Arrived | Notice]:
        """Take what is there, but not many more frames than one batch should have.

        Frames of a group that come one behind the other are decoded at once.
        """
        inbox = self._feed.inbox
        frames: list[Frames] = []
        count = 0
        for _ in range(len(inbox)):
            event = inbox.popleft()
            if frames and not (isinstance(event, Frames) and event.group == frames[0].group):
                yield from self._decoded(frames)
                frames = []
            if not isinstance(event, Frames):
                yield event
                continue
            frames.append(event)
            count += len(event.starts)
            if count >= _FRAMES_PER_BATCH:
                break
        if frames:
            yield from self._decoded(frames)

    def _decoded(self, events: list[Frames]) -> Iterator[Arrived]:
        frames = joined(events)
        trades = self._decoder.decode(frames.buffer, frames.starts, frames.ends)
        self._feed.taken_bytes += len(frames.buffer)
        for frame in self._decoder.others:
            if b'"code"' in frame or b'"error"' in frame:
                _LOG.warning("the exchange refused a request", answer=frame[:300].decode("utf-8", "replace"))
        if len(trades) == 0:
            return
        exchange = None
        match = _EVENT_TIME.search(frames.buffer, int(frames.starts[-1]), int(frames.ends[-1]))
        if match is not None:
            exchange = int(match[1]) * (1 if len(match[1]) > 13 else 1_000)
            self._status.lag = (frames.received - exchange) / SECOND
        yield Arrived(frames.group, trades, exchange, frames.received)
