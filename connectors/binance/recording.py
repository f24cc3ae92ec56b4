"""Replay recorded raw messages of Binance's streams.

    from connectors.binance.recording import RecordingSource

    source = RecordingSource(["recordings/btcusdt_20240808.gz"], ["BTCUSDT"])

A recording is a text file, plain or gzip, with one message a line: the local time of its arrival in
nanoseconds, a space, and the message as it came. Several files, for example one for each symbol and day, are
merged by that time. Messages that are no trades of a wanted symbol are passed over.
"""

import gzip
import threading
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

import numpy as np
import structlog
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from numpy.typing import NDArray
from typing_extensions import override

from connectors.binance.clock import Pace
from connectors.binance.continuity import NO_TRADES, Continuity
from connectors.binance.decoder import TradeDecoder
from connectors.binance.gap_book import GapRow, lost
from kernels.compile import warm_up
from kernels.frames import split_recorded_lines
from kernels.records import GAP, Block, Trades

_LOG = structlog.get_logger()

_CHUNK = 1 << 20
_MOST_HELD = 10_000  # trades of one symbol that wait for lower ids; in one file those come soon or never
_STOPPED = 2**62


class RecordingError(Exception):
    """A recording that cannot be read: one line that says which one, and what was expected."""


class _Position(TypedDict):
    """Up to where a replay was handed out."""

    offsets: dict[str, int]  # by file, bytes, uncompressed
    last: dict[str, int]  # last id handed out, by symbol
    watermark: int


@dataclass
class RecordingStatus:
    """How far a replay is. Read it from any thread."""

    frames: int = 0
    malformed: int = 0
    """Lines that do not begin with a time, or whose message is no valid message of any kind."""
    trades: int = 0
    bytes: int = 0
    """Bytes of messages read, uncompressed."""
    done: bool = False


class _Reader:
    """One file, in chunks of whole lines."""

    def __init__(self, path: Path, offset: int, status: RecordingStatus) -> None:
        self._path = path
        self._status = status
        self._rest = b""
        self._times = np.empty(0, np.int64)
        try:
            with path.open("rb") as raw:
                is_gzip = raw.read(2) == b"\x1f\x8b"
            self._file = gzip.GzipFile(path, "rb") if is_gzip else path.open("rb")
            self._file.seek(offset)
        except OSError as error:
            msg = f"cannot read the recording {path}: {error.strerror or error}"
            raise RecordingError(msg) from None
        self.offset = offset
        self._begin = offset  # of the chunk at hand
        self._next = 0
        self._warned = False
        self.fill()

    def fill(self) -> None:
        """Read the next chunk once all lines of this one are taken."""
        if self._next < len(self._times) or self._file.closed:
            return
        pieces, size = [self._rest], len(self._rest)
        while not self._file.closed and (size < _CHUNK or b"\n" not in pieces[-1]):
            more = self._read()
            pieces.append(more)
            size += len(more)
        chunk = b"".join(pieces)
        if self._file.closed and chunk and not chunk.endswith(b"\n"):
            chunk += b"\n"
        cut = chunk.rfind(b"\n") + 1
        self._rest = chunk[cut:]
        self._begin = self.offset
        self.chunk = chunk[:cut]
        data = np.frombuffer(self.chunk, np.uint8)
        most = self.chunk.count(b"\n")
        self._starts, self._ends, self._times = (np.empty(most, np.int64) for _ in range(3))
        split_recorded_lines(data, self._starts, self._ends, self._times)
        bad = self._times < 0
        if bad.any():
            self._status.malformed += int(bad.sum())
            if not self._warned:
                self._warned = True
                _LOG.warning(
                    "passed over a line that is not '<receive ns> <message>'; more are only counted",
                    file=str(self._path),
                    line=self.chunk[self._starts[bad][0] : self._ends[bad][0]][:200],
                )
            good = np.flatnonzero(~bad)
            self._starts, self._ends, self._times = self._starts[good], self._ends[good], self._times[good]
        # Files are merged by ascending times, but a recorder's clock may step back.
        np.maximum.accumulate(self._times, out=self._times)
        self._next = 0
        if not len(self._times):
            self.offset = self._begin + cut
            self.fill()

    def _read(self) -> bytes:
        """Read a piece of the file; close it at its end, or where it is damaged."""
        more = b""
        try:
            more = self._file.read1(_CHUNK)  # of a damaged file, read() would throw away the readable part
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            _LOG.warning(
                "the recording is damaged; replaying what is whole", file=str(self._path), why=str(error)
            )
        if not more:
            self._file.close()
        return more

    @property
    def first(self) -> int:
        """Time of the next line, ns; behind all others at the end of the file."""
        return int(self._times[self._next]) if self._next < len(self._times) else _STOPPED

    @property
    def horizon(self) -> int:
        """Time, ns, up to which every line is at hand."""
        return int(self._times[-1]) if self._next < len(self._times) else _STOPPED

    def take(self, until: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Take the lines that came up to a time: their starts and ends in the chunk, and when they came."""
        stop = int(np.searchsorted(self._times, until, side="right"))
        taken = slice(self._next, stop)
        self._next = max(stop, self._next)
        if self._next == len(self._times):
            self.offset = self._begin + len(self.chunk)
        elif taken.stop > taken.start:
            line = self.chunk.rfind(b"\n", 0, int(self._starts[self._next])) + 1
            self.offset = self._begin + line
        return self._starts[taken], self._ends[taken], self._times[taken]

    def close(self) -> None:
        self._file.close()


@dataclass
class _Replay:
    """The settings of a replay."""

    files: list[Path]
    symbols: list[str]
    speed: float
    grace: int
    stop: threading.Event
    status: RecordingStatus = field(default_factory=RecordingStatus)


class _RecordingPartition(StatefulSourcePartition[tuple[str, Trades], _Position]):
    def __init__(self, key: str, replay: _Replay, resume: _Position | None) -> None:
        self._key = key
        self._replay = replay
        self._decoder = TradeDecoder(replay.symbols)
        self._gaps: list[GapRow] = []
        offsets = resume["offsets"] if resume else {}
        last = resume["last"] if resume else {}
        self._continuity = Continuity(
            len(replay.symbols), [last.get(symbol, -1) for symbol in replay.symbols], _MOST_HELD
        )
        self._watermark = resume["watermark"] if resume else 0
        self._readers = [_Reader(path, offsets.get(path.name, 0), replay.status) for path in replay.files]
        self._pace = Pace(replay.speed, 1_000_000_000)
        self._done = False
        self._safe = self._offsets()  # no trade before these offsets waits for lower ids

    @override
    def next_batch(self) -> list[tuple[str, Trades]]:
        if self._done or self._replay.stop.is_set():
            raise StopIteration
        for reader in self._readers:
            reader.fill()
        until = min(reader.horizon for reader in self._readers)
        if until == _STOPPED:
            return self._finish()
        if self._replay.speed:
            until = min(until, self._pace.reached(min(reader.first for reader in self._readers)))
        out = self._continuity.push(self._decode([(r, *r.take(until)) for r in self._readers]))
        if self._continuity.held > _MOST_HELD // 2:
            out = np.concatenate([out, self._give_up()])
        if not self._continuity.held:
            self._safe = self._offsets()
        return self._emit(out)

    def _decode(
        self, taken: Sequence[tuple[_Reader, NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]]
    ) -> Block:
        """Decode lines of all files in the order of their arrival."""
        taken = [part for part in taken if len(part[1])]
        if not taken:
            return NO_TRADES
        pieces, starts, ends, at = [], [], [], 0
        for reader, first, last, _ in taken:
            pieces.append(memoryview(reader.chunk)[first[0] : last[-1]])
            starts.append(first + (at - first[0]))
            ends.append(last + (at - first[0]))
            at += len(pieces[-1])
        order = np.argsort(np.concatenate([part[3] for part in taken]), kind="stable")
        counts, status = self._decoder.counts, self._replay.status
        malformed = counts.malformed
        trades = self._decoder.decode(
            pieces[0] if len(pieces) == 1 else b"".join(pieces),
            np.concatenate(starts)[order],
            np.concatenate(ends)[order],
        )
        status.frames += len(order)
        status.malformed += counts.malformed - malformed
        status.bytes += at
        return trades

    def _give_up(self) -> Block:
        """Go on without the ids that did not come: they cannot be asked for anywhere else."""
        parts = [NO_TRADES]
        for symbol in self._continuity.blocked:
            for first, last in self._continuity.missing(symbol):
                parts.append(self._continuity.skip(symbol, last))
                found = int(parts[-1]["time"][0])
                self._gaps.append(lost(symbol, first, last, found))
        return np.concatenate(parts)

    def _finish(self) -> list[tuple[str, Trades]]:
        """Hand out what waited, and close every bar that is over: no trade can be late any more."""
        self._done = True
        items = self._emit(self._give_up())
        self._safe = self._offsets()
        self._replay.status.done = True
        return [
            *items,
            (self._key, Trades(NO_TRADES, self._watermark + self._replay.grace, np.empty(0, GAP))),
        ]

    def _emit(self, trades: Block) -> list[tuple[str, Trades]]:
        gaps = np.array(self._gaps, GAP)
        self._gaps.clear()
        if not len(trades):
            return []
        self._watermark = max(self._watermark, int(trades["time"].max()))
        self._replay.status.trades += len(trades)
        return [(self._key, Trades(trades, self._watermark, gaps))]

    def _offsets(self) -> dict[str, int]:
        readers = zip(self._replay.files, self._readers, strict=True)
        return {path.name: reader.offset for path, reader in readers}

    @override
    def snapshot(self) -> _Position:
        return {
            "offsets": self._safe,
            "last": dict(zip(self._replay.symbols, self._continuity.last.tolist(), strict=True)),
            "watermark": self._watermark,
        }

    @override
    def close(self) -> None:
        for reader in self._readers:
            reader.close()


def find_recordings(paths: Sequence[str | Path]) -> Iterator[Path]:
    """List the files of a recording, those of a folder by name.

    :arg paths: Files or folders.
    :returns: The files.
    :raises RecordingError: If one does not exist, or a folder is empty.
    """
    for path in map(Path, paths):
        if path.is_dir():
            files = sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith("."))
            if not files:
                msg = f"the recording {path} is an empty folder; expected files of recorded messages"
                raise RecordingError(msg)
            yield from files
        elif path.is_file():
            yield path
        else:
            msg = f"there is no recording {path}; expected a file, or a folder of files"
            raise RecordingError(msg)


class RecordingSource(FixedPartitionedSource[tuple[str, Trades], _Position]):
    """Trades of recorded files, merged by the time of their arrival.

    :arg paths: Files or folders.
    :arg symbols: The run's symbol table.
    :arg speed: How many times the recorded speed; 0 for as fast as possible.
    :arg grace: By how many us the watermark moves on at the end: the flow's allowed lateness.
    :arg stop: Ends the replay gracefully when set.
    :raises RecordingError: If there is nothing to read.
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        symbols: Sequence[str],
        *,
        speed: float = 0.0,
        grace: int = 0,
        stop: threading.Event | None = None,
    ) -> None:
        warm_up(split_recorded_lines)
        files = list(find_recordings(paths))
        if len({path.name for path in files}) < len(files):
            msg = "two files of the recording have the same name; expected different ones"
            raise RecordingError(msg)
        self._replay = _Replay(files, list(symbols), speed, grace, stop or threading.Event())

    @property
    def status(self) -> RecordingStatus:
        """How far the replay is."""
        return self._replay.status

    @override
    def list_parts(self) -> list[str]:
        return ["recording"]

    @override
    def build_part(self, step_id: str, for_part: str, resume_state: _Position | None) -> _RecordingPartition:
        return _RecordingPartition(for_part, self._replay, resume_state)
