"""Replay Binance's public daily archives: every trade of whole days, all symbols merged by time.

    from datetime import date
    from pathlib import Path

    from connectors.binance.archive import ArchiveSource

    days = date(2024, 8, 1), date(2024, 8, 3)
    source = ArchiveSource(
        *days, ["BTCUSDT", "ETHUSDT"], market="spot", stream="trade", folder=Path("archives")
    )

Files are downloaded while the replay goes on, a day ahead of it, and kept. The folder has the layout of
https://data.binance.vision, so files that came there in another way, say by Binance's own download script,
are used as they are, without any network:
``data/spot/daily/trades/BTCUSDT/BTCUSDT-trades-2024-08-01.zip``.

What is known to be wrong with the archives is put right or told: rows out of order are sorted, rows that
stand there twice count once, and ids that are missing are a row in ``gaps``.
"""

import asyncio
import errno
import fcntl
import hashlib
import os
import re
import threading
import time
import zipfile
import zlib
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from itertools import accumulate
from math import isfinite
from pathlib import Path
from typing import Any, BinaryIO, Final, TypedDict, TypeVar, cast

import aiohttp
import numpy as np
import structlog
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from llvmlite import ir
from numba import from_dtype, types
from numba.extending import intrinsic
from numpy.typing import NDArray
from typing_extensions import override

from connectors.binance.continuity import NONE, Continuity
from kernels.compile import inlined, kernel, warm_up
from kernels.records import GAP, GAP_CAUSES, GAP_REPAIRS, MILLISECOND, SECOND, TRADE, Block, Trades

_LOG = structlog.get_logger()

_T = TypeVar("_T")

_FOLDERS: Final = {"spot": "data/spot/daily", "usdm": "data/futures/um/daily"}
_KINDS: Final = {"trade": "trades", "aggTrade": "aggTrades"}
_COLUMNS: Final = {
    "trade": "id, price, quantity, quote quantity, time, buyer is maker",
    "aggTrade": "id, price, quantity, first id, last id, time, buyer is maker",
}

_CONNECTIONS = 4
_PIECE = 1 << 18  # bytes written at once
_TRIES = 12  # without a byte of progress: some 4 minutes
_FIRST_TRIES = 3  # before the replay starts: somebody waits
_BACKOFF = 0.5  # s after the first failure, doubled after each
_LONGEST_BACKOFF = 30.0
_PROGRESS = 5.0  # s between two lines about a download

_PATIENCE = 0.01  # s that one batch waits for a reader

_CHUNK = 1 << 21  # bytes of text parsed at once: some 28,000 trades
_LEAST_CHUNK = 1 << 16
_CHUNKS = 1 << 26  # bytes of text of all symbols; with what is parsed and read ahead three times that
_MOST_ROWS = 1 << 16  # in one item
_MOST_WAITING = 8_000_000  # rows of one symbol that wait for lower ids: 450 MB, two days of BTCUSDT
_WORDS = TRADE.itemsize // 8
_DAY = 86_400 * SECOND
_STRAY = 3_600 * SECOND  # by which a trade may lie outside of its file's day
_MOST_MILLISECONDS = 100_000_000_000_000  # the year 5138; as microseconds, March 1973
_END = 2**62
_HOLE = GAP_CAUSES.index("hole")
_UNAVAILABLE = GAP_REPAIRS.index("unavailable")

_DECIMAL = re.compile(r"[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_HEADER = re.compile(rb'"?[A-Za-z_]')
_U0, _U1, _NINE, _TEN, _MOST_DIGITS = (np.uint64(n) for n in (0, 1, 9, 10, 18))
_ZERO, _POINT, _COMMA, _LINE_FEED, _RETURN = (np.uint64(ord(c)) for c in "0.,\n\r")
_EXACT = np.uint64(2**53)  # integers up to here are float64 without rounding
_WHOLE_TENS = 10 ** np.arange(19, dtype=np.uint64)
_TENS = np.array([float(10**n) for n in range(19)])  # exact, as all up to 10**22


def _instruction(function: Callable[..., Any]) -> Callable[..., Any]:
    """Declare code that numba has no expression for."""
    return cast(Callable[..., Any], intrinsic(function))


class ArchiveError(Exception):
    """Days that cannot be replayed: one line that says which file, and what to do."""


@_instruction
def _byte(typing_context: Any, address: Any) -> Any:
    """Load one byte: helpers that take an address, not the array, cost no reference counts, 80 ns a trade."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        byte = builder.load(builder.inttoptr(args[0], ir.IntType(8).as_pointer()))
        return builder.zext(byte, ir.IntType(64))

    return types.uint64(types.uint64), emit


@inlined
def _digits(at: np.uint64) -> tuple[np.uint64, np.uint64]:
    """Read digits: their value, if there are no more than 18, and the place behind them."""
    value = _U0
    digit = _byte(at) - _ZERO
    while digit <= _NINE:
        value = _TEN * value + digit
        at += _U1
        digit = _byte(at) - _ZERO
    return value, at


@inlined
def _integer(at: np.uint64) -> tuple[np.uint64, np.uint64]:
    """Read a whole number and the comma behind it: its value and the place of the next field, 0 if none."""
    value, end = _digits(at)
    if end == at or end - at > _MOST_DIGITS or _byte(end) != _COMMA:
        return _U0, _U0
    return value, end + _U1


@inlined
def _decimal(at: np.uint64) -> tuple[float, np.uint64]:
    """Read a decimal and the comma behind it; 0 for the place if it needs more than one exact division."""
    value, end = _digits(at)
    digits = end - at
    places = _U0
    if digits == _U0:
        return 0.0, _U0
    if _byte(end) == _POINT:
        point = end + _U1
        fraction, end = _digits(point)
        places = end - point
        digits += places
        if places == _U0 or digits > _MOST_DIGITS:
            return 0.0, _U0
        value = value * _WHOLE_TENS[places] + fraction
    if digits > _MOST_DIGITS or _byte(end) != _COMMA:
        return 0.0, _U0
    while value > _EXACT and places > _U0 and value % _TEN == _U0:
        value //= _TEN
        places -= _U1
    if value > _EXACT:
        return 0.0, _U0
    # Both are exact, so the division rounds once, as float(text) does (Clinger 1990, the fast path).
    return float(np.int64(value)) / _TENS[places], end + _U1


@inlined
def _truth(at: np.uint64) -> tuple[bool, np.uint64]:
    """Read True, true, False or false: its value and the place behind it, 0 if it is none of them."""
    lower = _byte(at) | np.uint64(0x20)
    if (
        lower == np.uint64(ord("t"))
        and _byte(at + _U1) == np.uint64(ord("r"))
        and _byte(at + np.uint64(2)) == np.uint64(ord("u"))
        and _byte(at + np.uint64(3)) == np.uint64(ord("e"))
    ):
        return True, at + np.uint64(4)
    if (
        lower == np.uint64(ord("f"))
        and _byte(at + _U1) == np.uint64(ord("a"))
        and _byte(at + np.uint64(2)) == np.uint64(ord("l"))
        and _byte(at + np.uint64(3)) == np.uint64(ord("s"))
        and _byte(at + np.uint64(4)) == np.uint64(ord("e"))
    ):
        return False, at + np.uint64(5)
    return False, _U0


@inlined
def _trade(at: np.uint64, aggregate: bool, trade: Any) -> np.uint64:
    """Read one line into a row; return the place of its line feed, or 0 when the layout is another.

    Nothing is read behind the first byte that is not as expected, so never anything behind the line feed.
    """
    identity, at = _integer(at)
    if at == _U0:
        return _U0
    price, at = _decimal(at)
    if at == _U0:
        return _U0
    quantity, at = _decimal(at)
    if at == _U0:
        return _U0
    first_id, last_id = identity, identity
    if aggregate:
        first_id, at = _integer(at)
        if at == _U0:
            return _U0
        last_id, at = _integer(at)
        if at == _U0:
            return _U0
    else:  # the quote quantity is price * quantity
        while _byte(at) != _COMMA and _byte(at) != _LINE_FEED:
            at += _U1
        if _byte(at) != _COMMA:
            return _U0
        at += _U1
    moment, at = _integer(at)
    if at == _U0:
        return _U0
    maker, at = _truth(at)
    if at == _U0:
        return _U0
    if _byte(at) == _COMMA:  # spot: best match
        _, at = _truth(at + _U1)
        if at == _U0:
            return _U0
    if _byte(at) == _RETURN:
        at += _U1
    if _byte(at) != _LINE_FEED:
        return _U0
    trade.id = identity
    trade.first_id = first_id
    trade.last_id = last_id
    trade.time = moment if moment > np.uint64(_MOST_MILLISECONDS) else moment * np.uint64(MILLISECOND)
    trade.price = price
    trade.quantity = quantity
    trade.symbol = 0
    trade.buyer_is_maker = maker
    trade.in_bars = price != 0.0
    return at


@kernel(
    (
        types.Array(types.uint8, 1, "C", readonly=True),
        types.boolean,
        from_dtype(TRADE)[::1],
        types.int64[:, ::1],
    )
)
def _parse(text: NDArray[np.uint8], aggregate: bool, rows: Block, slow: NDArray[np.int64]) -> tuple[int, int]:
    """Parse lines; leave a row free for each one that differs from the usual layout.

    :arg text: whole lines, the last one with its line feed too.
    :arg aggregate: aggTrades, not trades.
    :arg rows: out: one for each line.
    :arg slow: out: start, end and row of each line left, 3 x lines.
    :returns: how many rows are taken, and how many of them are left free.
    """
    start = np.uint64(text.ctypes.data)
    stop = start + np.uint64(len(text))
    at = start
    row = 0
    left = 0
    while at < stop:
        if _byte(at) == _LINE_FEED:
            at += _U1
            continue
        end = _trade(at, aggregate, rows[row])
        if end == _U0:
            end = at
            while _byte(end) != _LINE_FEED:
                end += _U1
            slow[0, left] = np.int64(at - start)
            slow[1, left] = np.int64(end - start)
            slow[2, left] = row
            left += 1
        row += 1
        at = end + _U1
    return row, left


def _parse_slowly(line: bytes, stream: str) -> tuple[Any, ...] | None:
    """Parse one line in Python: the fields of a TRADE, or None where it is no trade."""
    fields = [part.strip().strip('"') for part in line.decode("ascii", "replace").split(",")]
    aggregate = stream == "aggTrade"
    moment, maker = (5, 6) if aggregate else (4, 5)
    if len(fields) not in (maker + 1, maker + 2):
        return None
    whole = [0, 3, 4, moment] if aggregate else [0, moment]
    if not all(re.fullmatch(r"[0-9]{1,18}", fields[i]) for i in whole):
        return None
    if not all(_DECIMAL.fullmatch(fields[i]) and isfinite(float(fields[i])) for i in (1, 2)):
        return None
    if any(word.lower() not in ("true", "false") for word in fields[maker:]):
        return None
    identity, price, stamp = int(fields[0]), float(fields[1]), int(fields[moment])
    first_id, last_id = (int(fields[3]), int(fields[4])) if aggregate else (identity, identity)
    stamp = stamp if stamp > _MOST_MILLISECONDS else stamp * MILLISECOND
    is_maker = fields[maker].lower() == "true"
    return identity, first_id, last_id, stamp, price, float(fields[2]), 0, is_maker, price != 0


@dataclass
class ArchiveStatus:
    """How far a replay is, and its downloads. Read it from any thread."""

    files: int = 0
    """Files to be replayed."""
    files_done: int = 0
    """Files read to their end."""
    day: str = ""
    """The day that is replayed now."""
    downloading: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Files on their way: bytes that are there, and bytes in all (0 where not known)."""
    downloaded: int = 0
    """Bytes downloaded."""
    trades: int = 0
    """Trades handed out."""
    malformed: int = 0
    """Lines that are no trade of their file's day."""
    duplicates: int = 0
    """Rows dropped because their id had come before."""
    missing: int = 0
    """Ids that no file has."""
    done: bool = False


@dataclass
class _Archive:
    """The settings of a replay."""

    days: list[date]
    symbols: list[str]
    market: str
    stream: str
    base_url: str
    folder: Path
    speed: float
    grace: int
    stop: threading.Event
    status: ArchiveStatus = field(default_factory=ArchiveStatus)

    def place(self, symbol: str, day: date) -> str:
        """Path of a file, below the address of the archive and below the folder."""
        kind = _KINDS[self.stream]
        return f"{_FOLDERS[self.market]}/{kind}/{symbol}/{symbol}-{kind}-{day}.zip"

    def path(self, symbol: str, day: date) -> Path:
        """Where a file is kept."""
        return self.folder / self.place(symbol, day)


class _RefusedError(Exception):
    """An answer, or none, after which another try may do."""


class _Client:
    """Ask the archive's server, patiently."""

    def __init__(self, archive: _Archive, session: aiohttp.ClientSession) -> None:
        self._archive = archive
        self._session = session

    async def has(self, symbol: str, day: date) -> bool:
        """Tell whether the archive has a file."""

        async def attempt() -> bool:
            async with self._session.head(self._url(symbol, day), allow_redirects=True) as response:
                return self._is_there(response)

        return await self._patiently(symbol, day, attempt, tries=_FIRST_TRIES)

    async def fetch(self, symbol: str, day: date) -> Path | None:
        """Have a file in the folder, verified; None if the archive has none."""
        path = self._archive.path(symbol, day)
        try:
            if path.exists() and await asyncio.to_thread(_is_whole, path):
                return path
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.with_name(path.name + ".part").open("ab", buffering=0) as part:
                while not _locked(part):  # another process downloads it
                    await asyncio.sleep(0.5)
                if path.exists() and await asyncio.to_thread(_is_whole, path):
                    if os.fstat(part.fileno()).st_size == 0:  # begun just after the other was done
                        Path(part.name).unlink(missing_ok=True)
                    return path
                return await self._download(symbol, day, path, part)
        except OSError as error:
            raise _unwritable(path, error) from None

    async def _download(self, symbol: str, day: date, path: Path, part: BinaryIO) -> Path | None:
        began = time.monotonic()
        for is_last in (False, True):
            expected = await self._checksum(symbol, day)
            if not await self._fill(symbol, day, part):
                os.unlink(part.name)
                return None
            found = await asyncio.to_thread(_sha256, Path(part.name))
            if expected in (found, ""):
                break
            part.truncate(0)
            if is_last:
                msg = (
                    f"{self._url(symbol, day)} does not have its published checksum, nor had it when "
                    f"downloaded again; try later, or put a good file at {path}"
                )
                raise ArchiveError(msg)
            _LOG.warning("wrong checksum; downloading again", file=path.name, expected=expected, found=found)
        size = os.fstat(part.fileno()).st_size
        if expected:
            path.with_name(path.name + ".CHECKSUM").write_text(f"{expected}  {path.name}\n")
        else:
            _LOG.warning("no checksum is published; going by that of the zip alone", file=path.name)
        os.replace(part.name, path)
        seconds = round(time.monotonic() - began, 1)
        _LOG.info("downloaded", file=path.name, megabytes=round(size / 1e6, 1), seconds=seconds)
        return path

    async def _checksum(self, symbol: str, day: date) -> str:
        """Return the published SHA-256 of a file, or nothing if there is none."""

        async def attempt() -> str:
            async with self._session.get(self._url(symbol, day) + ".CHECKSUM") as response:
                if not self._is_there(response):
                    return ""
                digest = (await response.content.read(1024)).decode("ascii", "replace")[:64].lower()
            if re.fullmatch(r"[0-9a-f]{64}", digest) is None:
                msg = "its CHECKSUM is no SHA-256"
                raise _RefusedError(msg)
            return digest

        return await self._patiently(symbol, day, attempt)

    async def _fill(self, symbol: str, day: date, part: BinaryIO) -> bool:
        """Download what a part lacks; False if the archive has no such file."""
        name = self._archive.path(symbol, day).name
        status = self._archive.status

        async def attempt() -> bool:
            have = os.fstat(part.fileno()).st_size
            headers = {"Range": f"bytes={have}-"} if have else {}
            async with self._session.get(self._url(symbol, day), headers=headers) as response:
                if response.status == 416:  # there is nothing behind it: it is whole, or of another file
                    if response.headers.get("Content-Range") == f"bytes */{have}":
                        return True
                    part.truncate(0)
                    msg = "its size has changed"
                    raise _RefusedError(msg)
                if not self._is_there(response):
                    return False
                if response.status == 200 and have:  # from the beginning, though asked for the rest
                    part.truncate(0)
                    have = 0
                total = have + int(response.headers.get("Content-Length", 0))
                _LOG.info("downloading", file=name, megabytes=round(total / 1e6, 1), resumed_at=have)
                told = time.monotonic()
                async for piece in response.content.iter_chunked(_PIECE):
                    _write(part, piece)
                    have += len(piece)
                    status.downloaded += len(piece)
                    # A new dict each time: others iterate over it.
                    status.downloading = {**status.downloading, name: (have, total)}
                    if total and time.monotonic() - told > _PROGRESS:
                        told = time.monotonic()
                        _LOG.info("downloading", file=name, percent=round(100 * have / total))
            return True

        try:
            return await self._patiently(
                symbol, day, attempt, reached=lambda: os.fstat(part.fileno()).st_size
            )
        finally:
            status.downloading = {n: done for n, done in status.downloading.items() if n != name}

    def _url(self, symbol: str, day: date) -> str:
        return f"{self._archive.base_url}/{self._archive.place(symbol, day)}"

    def _is_there(self, response: aiohttp.ClientResponse) -> bool:
        if response.status in (200, 206):
            return True
        if response.status == 404:
            return False
        msg = f"{response.status} {response.reason}"
        if response.status in (408, 425, 429) or response.status >= 500:
            raise _RefusedError(msg)
        msg = f"{self._archive.base_url} refuses {response.url.path}: {msg}; is it blocked where you are?"
        raise ArchiveError(msg)

    async def _patiently(
        self,
        symbol: str,
        day: date,
        attempt: Callable[[], Awaitable[_T]],
        *,
        reached: Callable[[], int] = lambda: 0,
        tries: int = _TRIES,
    ) -> _T:
        """Try until there is an answer, or nothing more is reached for several times."""
        failures = 0
        before = reached()
        while True:
            try:
                return await attempt()
            except (aiohttp.ClientError, OSError, _RefusedError) as error:
                why = str(error) or type(error).__name__
            now = reached()
            failures = 1 if now > before else failures + 1
            before = now
            if failures == tries:
                msg = (
                    f"cannot download {self._url(symbol, day)}: {why}; check the network, "
                    f"or put the file at {self._archive.path(symbol, day)}"
                )
                raise ArchiveError(msg)
            pause = min(_BACKOFF * 2 ** (failures - 1), _LONGEST_BACKOFF)
            tell = _LOG.warning if failures == 1 else _LOG.debug
            tell(
                "download interrupted; trying again",
                file=self._archive.path(symbol, day).name,
                why=why,
                seconds=pause,
            )
            await asyncio.sleep(pause)


def _unwritable(path: Path, error: OSError) -> ArchiveError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        advice = "free some space, or choose another folder; what is downloaded stays"
    else:
        advice = "choose another folder"
    return ArchiveError(f"cannot write {path}: {error.strerror or error}; {advice}")


def _write(part: BinaryIO, piece: bytes) -> None:
    # Told apart from errors of the network here, which are OSErrors too.
    try:
        view = memoryview(piece)
        while view:
            view = view[part.write(view) :]
    except OSError as error:
        raise _unwritable(Path(part.name), error) from None


def _locked(part: BinaryIO) -> bool:
    """Take the lock of a part, for this process alone; on a file system without locks go ahead."""
    try:
        fcntl.flock(part, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_whole(path: Path) -> bool:
    """Compare a file with the checksum beside it, if there is one."""
    beside = path.with_name(path.name + ".CHECKSUM")
    if not beside.exists() or beside.read_text(errors="replace")[:64].lower() == _sha256(path):
        return True
    _LOG.warning("the file does not have the checksum beside it; downloading it again", file=str(path))
    return False


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        headers={"Accept-Encoding": "identity"},
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=30),
        trust_env=True,
    )


async def _check(archive: _Archive) -> None:
    """See that first and last day can be had, before anything else is done."""
    limit = asyncio.Semaphore(_CONNECTIONS)
    ends = dict.fromkeys((archive.days[-1], archive.days[0]))
    wanted = [(s, day) for day in ends for s in archive.symbols if not archive.path(s, day).exists()]
    if not wanted:
        return
    async with _session() as session:
        client = _Client(archive, session)

        async def check(symbol: str, day: date) -> None:
            async with limit:
                if not await client.has(symbol, day):
                    raise _missing(archive, symbol, day)

        tasks = [asyncio.create_task(check(*file)) for file in wanted]
        try:
            for task in tasks:
                await task
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def _missing(archive: _Archive, symbol: str, day: date) -> ArchiveError:
    what = f"the archive has no {_KINDS[archive.stream]} of {symbol} ({archive.market}) for {day}"
    if day >= datetime.now(UTC).date() - timedelta(days=2):
        return ArchiveError(f"{what} yet: the file of a day is published on the next day, UTC")
    return ArchiveError(f"{what}: expected a symbol, and days, that were traded there")


class _Downloads:
    """Bring files into the folder, in a thread of its own, in the order of the replay, a day ahead of it."""

    def __init__(self, archive: _Archive, files: Sequence[tuple[str, date]]) -> None:
        self.day = min((day for _, day in files), default=date.min)
        """The day that is replayed now."""
        self._archive = archive
        self._files: dict[tuple[str, date], Future[Path | None]] = {file: Future() for file in files}
        self._loop = asyncio.new_event_loop()
        self._task: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._run, name="archive", daemon=True)
        self._thread.start()

    def get(self, symbol: str, day: date) -> Future[Path | None]:
        """Tell where a file is, once it is there; None where the archive has none."""
        return self._files[symbol, day]

    def _run(self) -> None:
        self._task = self._loop.create_task(self._work())
        try:
            self._loop.run_until_complete(self._task)
        except asyncio.CancelledError:
            pass
        except Exception as error:  # handed over to the flow, which would wait for ever
            for future in self._files.values():
                if not future.done():
                    future.set_exception(error)
        finally:
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()

    async def _work(self) -> None:
        files = iter(self._files.items())
        async with _session() as session, asyncio.TaskGroup() as group:
            client = _Client(self._archive, session)
            for _ in range(_CONNECTIONS):
                group.create_task(self._take(client, files))

    async def _take(
        self, client: _Client, files: Iterator[tuple[tuple[str, date], Future[Path | None]]]
    ) -> None:
        for (symbol, day), future in files:
            while day > self.day + timedelta(days=1):
                await asyncio.sleep(0.1)
            try:
                future.set_result(await client.fetch(symbol, day))
            except ArchiveError as error:
                future.set_exception(error)

    def close(self) -> None:
        """Stop; what is downloaded in part stays, and is continued the next time."""

        def cancel() -> None:
            if self._task is not None:
                self._task.cancel()

        try:
            self._loop.call_soon_threadsafe(cancel)
        except RuntimeError:  # all is downloaded
            return
        self._thread.join()


@dataclass(frozen=True)
class _Piece:
    """Trades of one symbol: consecutive ids, each once."""

    day: date
    trades: Block
    times: NDArray[np.int64]
    """By what they are merged: the latest trade time so far, us, so that it never steps back."""
    gap: tuple[int, int] | None
    """First and last of the ids that are missing before them."""

    def cut(self, at: int) -> tuple["_Piece", "_Piece"]:
        """Cut before a row."""
        return (
            _Piece(self.day, self.trades[:at], self.times[:at], self.gap),
            _Piece(self.day, self.trades[at:], self.times[at:], None),
        )


class _Position(TypedDict):
    """Where a symbol stands: what was handed out, and nothing else."""

    day: str
    last: int  # id
    time: int  # latest trade time, us


class _Reader:
    """One symbol: trades in id order, each once, from its files, the next ones read ahead by a pool."""

    def __init__(self, archive: _Archive, symbol: int, resume: _Position | None) -> None:
        self._archive = archive
        self._symbol = symbol
        self._name = archive.symbols[symbol]
        self._resume = resume["last"] if resume else NONE
        self._continuity = Continuity(1, [self._resume])
        self._time = resume["time"] if resume else 0
        from_day = date.fromisoformat(resume["day"]) if resume else date.min
        self._days = [day for day in archive.days if day >= from_day]
        self._chunk = min(max(_CHUNKS // len(archive.symbols), _LEAST_CHUNK), _CHUNK)
        self._file: Iterator[list[_Piece]] | None = None
        self._next: Future[list[_Piece] | None] | None = None
        self._pieces: deque[_Piece] = deque()
        self._hungry = True
        self._begin = 0 if resume else NONE  # first id of the replay
        self._told = False

    @property
    def files(self) -> list[tuple[str, date]]:
        """Files to be read yet."""
        return [(self._name, day) for day in self._days]

    @property
    def day(self) -> date:
        """The day that is read now; after the last one, none."""
        return self._days[0] if self._days else date.max

    @property
    def is_done(self) -> bool:
        """Whether all is taken."""
        return not self._days and not self._pieces

    @property
    def first(self) -> int:
        """Time of the next trade at hand, us."""
        return int(self._pieces[0].times[0]) if self._pieces else _END

    @property
    def horizon(self) -> int:
        """Time before which the trades at hand are all there are, us."""
        return _END if self._hungry else int(self._pieces[-1].times[-1])

    def fill(self, pool: ThreadPoolExecutor, downloads: _Downloads) -> "Future[Any] | None":
        """Have trades at hand, or know that there are no more.

        :returns: What is to be waited for, if anything.
        :raises ArchiveError: when a file cannot be downloaded or read.
        """
        while self._hungry and self._days:
            if self._file is None:
                download = downloads.get(self._name, self.day)
                if not download.done():
                    return download
                path = download.result()
                if path is None:
                    _LOG.warning(
                        "the archive has no file of this day; its trades are missing",
                        symbol=self._name,
                        day=str(self.day),
                    )
                    self._days.pop(0)
                    continue
                self._file = self._read(path, self.day)
            if self._next is None:
                self._next = pool.submit(next, self._file, None)
            if not self._next.done():
                return self._next
            pieces = self._next.result()
            self._next = None
            if pieces is None:
                self._file = None
                self._days.pop(0)
                self._archive.status.files_done += 1
                continue
            self._pieces.extend(pieces)
            self._hungry = not pieces
            self._next = pool.submit(next, self._file, None)
        return None

    def take(self, until: int) -> list[_Piece]:
        """Take what was traded before a time; the reader who set it has to read on."""
        taken = []
        while self._pieces and self._pieces[0].times[0] < until:
            piece = self._pieces.popleft()
            at = int(np.searchsorted(piece.times, until))
            if at < len(piece.times):
                piece, rest = piece.cut(at)
                self._pieces.appendleft(rest)
            taken.append(piece)
        if not self._pieces or self._pieces[-1].times[-1] <= until:
            self._hungry = True
        return taken

    def close(self) -> None:
        """Close the file; nothing may be reading it any more."""
        self._file = None
        self._next = None

    def _read(self, path: Path, day: date) -> Iterator[list[_Piece]]:
        """Read a file, some pieces at a time.

        Most files are in order. The first row of one that does not follow upon the row before it means that
        ids are missing, or come later: a look through the file tells the lowest id from each chunk on. Rows
        below it can go on, sorted; what is still missing among them is nowhere.
        """
        lowest: list[int] | None = None
        waiting: list[tuple[int, Block]] = []  # lowest id of each, so that most need not be looked at
        is_empty = True
        before = self._continuity.last[0]
        for number, rows in enumerate(self._chunks(path, day, count=True)):
            last = int(self._continuity.last[0])
            is_empty &= not len(rows)
            rows = rows[rows["id"] > self._resume] if self._resume != NONE else rows  # noqa: PLW2901
            if not len(rows):
                continue
            if not waiting and _follow(rows["id"], last):
                yield self._pass_on(rows, day)
                continue
            if lowest is None:
                lowest = self._look_through(path, day, last)
            safe = lowest[number + 1]
            waiting.append((int(rows["id"].min()), rows))
            if sum(len(block) for _, block in waiting) > _MOST_WAITING:
                _LOG.warning("rows are too far out of order; going on without some", file=path.name)
                safe, lowest = _END, None
            ready = [block[block["id"] < safe] for first, block in waiting if first < safe]
            later = [block[block["id"] >= safe] if first < safe else block for first, block in waiting]
            waiting = [(int(block["id"].min()), block) for block in later if len(block)]
            if ready:
                rows = np.concatenate(ready)  # noqa: PLW2901
                rows = rows[np.argsort(rows["id"], kind="stable")]  # noqa: PLW2901
                for at in range(0, len(rows), _MOST_ROWS):
                    yield self._pass_on(rows[at : at + _MOST_ROWS], day)
        if not is_empty and self._continuity.last[0] == before and self._resume == NONE:
            _LOG.warning("all ids of the file came before: does it count them anew?", file=path.name)
        self._resume = NONE

    def _pass_on(self, rows: Block, day: date) -> list[_Piece]:
        """Cut rows in id order where ids are missing, and drop those that came before."""
        continuity, status = self._continuity, self._archive.status
        if self._begin == NONE:
            self._begin = int(rows["id"][0])
        elif not self._told and int(rows["id"][0]) < self._begin:
            self._told = True
            _LOG.warning("trades before the first one of the replay come too late", symbol=self._name)
        duplicates = continuity.duplicates
        pieces = []
        # Run by run: were they pushed as one block, what follows would wait, and be copied, 300 us a gap.
        for run in np.split(rows, np.flatnonzero(np.diff(rows["id"]) > 1) + 1):
            first, last = int(run["id"][0]), int(continuity.last[0])
            gap = None
            if first > last + 1 and last != NONE:
                gap = last + 1, first - 1
                status.missing += first - last - 1
                continuity.skip(0, first - 1)
            trades = continuity.push(run)
            if not len(trades):
                continue
            trades["symbol"] = self._symbol
            times = np.maximum.accumulate(trades["time"])
            np.maximum(times, self._time, out=times)
            self._time = int(times[-1])
            pieces.append(_Piece(day, trades, times, gap))
        status.duplicates += continuity.duplicates - duplicates
        return pieces

    def _look_through(self, path: Path, day: date, last: int) -> list[int]:
        """Find the lowest id, above the last one handed on, from each chunk of a file on."""
        lowest = []
        for rows in self._chunks(path, day, count=False):
            ids = rows["id"][rows["id"] > last]
            lowest.append(int(ids.min()) if len(ids) else _END)
        lowest.append(_END)
        return list(accumulate(reversed(lowest), min))[::-1]

    def _chunks(self, path: Path, day: date, *, count: bool) -> Iterator[Block]:
        """Read and parse a file, rows as they come; lines that are no trades are left out, and counted."""
        start = (day - date(1970, 1, 1)).days * _DAY
        good = bad = 0
        sample = b""
        is_first = True
        for text in _read_text(path, self._chunk):
            if is_first and _HEADER.match(text):
                text = text[text.find(b"\n") + 1 :]  # noqa: PLW2901 - without its header
            is_first = False
            rows, malformed = _parse_text(text, self._archive.stream)
            stray = (rows["time"] < start - _STRAY) | (rows["time"] >= start + _DAY + _STRAY)
            if stray.any():
                malformed += [b"trade %d at %d us" % (row["id"], row["time"]) for row in rows[stray]]
                rows = rows[~stray]
            bad += len(malformed)
            good += len(rows)
            sample = sample or b"".join(malformed[:1])
            if count:
                self._archive.status.malformed += len(malformed)
            yield rows
        if bad and not good:
            msg = (
                f"{path} has no {_KINDS[self._archive.stream]} of {day}: expected lines of "
                f"{_COLUMNS[self._archive.stream]}, found {sample[:100].decode('ascii', 'replace')!r}"
            )
            raise ArchiveError(msg)
        if bad and count:
            _LOG.warning(
                "lines that are no trades of the day are passed over",
                file=path.name,
                lines=bad,
                first=sample[:200].decode("ascii", "replace"),
            )


def _follow(ids: NDArray[np.int64], last: int) -> bool:
    """Tell whether ids are consecutive, and follow upon a last one if there is any."""
    if last != NONE and ids[0] != last + 1:
        return False
    return bool(ids[-1] - ids[0] == len(ids) - 1 and (ids[1:] > ids[:-1]).all())


def _read_text(path: Path, size: int) -> Iterator[bytes]:
    """Read the text in a zip, in chunks of whole lines."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(".csv")]
            if len(names) != 1:
                msg = f"{path} holds {len(names)} .csv files; expected one"
                raise ArchiveError(msg)
            with archive.open(names[0]) as file:
                rest = b""
                while data := file.read(size):
                    cut = data.rfind(b"\n") + 1
                    if cut:
                        yield b"".join((rest, memoryview(data)[:cut]))
                        rest = data[cut:]
                    else:
                        rest += data
                if rest:
                    yield rest + b"\n"
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError) as error:
        msg = f"cannot read {path}: {error}; delete it, and it will be downloaded again"
        raise ArchiveError(msg) from None


def _parse_text(text: bytes, stream: str) -> tuple[Block, list[bytes]]:
    """Parse whole lines.

    :arg text: lines, each with its line feed.
    :arg stream: trade or aggTrade.
    :returns: TRADE block in the lines' order, symbol 0, and the lines that are no trades.
    """
    data = np.frombuffer(text, np.uint8)
    lines = np.count_nonzero(data == ord("\n"))  # four times as fast as bytes.count
    rows = np.zeros(lines, TRADE)
    slow = np.empty((3, lines), np.int64)
    used, left = _parse(data, stream == "aggTrade", rows, slow)
    rows = rows[:used]
    malformed, vacant = [], []
    for start, end, row in slow[:, :left].T.tolist():
        trade = _parse_slowly(text[start:end], stream)
        if trade is None:
            malformed.append(text[start:end])
            vacant.append(row)
        else:
            rows[row] = trade
    return (np.delete(rows, vacant) if vacant else rows), malformed


class _ArchivePartition(StatefulSourcePartition[tuple[str, Trades], dict[str, _Position]]):
    def __init__(self, key: str, archive: _Archive, resume: dict[str, _Position] | None) -> None:
        self._key = key
        self._archive = archive
        self._position = dict(resume or {})
        self._readers = [
            _Reader(archive, i, self._position.get(symbol)) for i, symbol in enumerate(archive.symbols)
        ]
        # By day, then symbol: the order in which they are needed.
        files = sorted((file for r in self._readers for file in r.files), key=lambda file: file[1])
        archive.status.files = len(files)
        self._watermark = 0
        self._words = np.empty((0, _WORDS), np.int64)
        self._begin: tuple[float, int] | None = None
        self._done = False
        self._downloads = _Downloads(archive, files)
        self._pool = ThreadPoolExecutor(min(len(self._readers), os.cpu_count() or 1), "archive")

    @override
    def next_batch(self) -> list[tuple[str, Trades]]:
        if self._done or self._archive.stop.is_set():
            raise StopIteration
        while True:
            pending = [r.fill(self._pool, self._downloads) for r in self._readers]
            day = min(r.day for r in self._readers)
            if day != date.max:
                # A symbol without any trades for some days is ahead of the others, who wait for it.
                ahead = [r.day - timedelta(days=1) for r, future in zip(self._readers, pending) if future]
                self._downloads.day = max([day, *ahead])
                if self._archive.status.day != str(day):
                    self._archive.status.day = str(day)
                    _LOG.info("replaying", day=str(day))
            missing = [future for future in pending if future is not None]
            if missing:
                if wait(missing, timeout=_PATIENCE).not_done:
                    return []
                continue
            if all(r.is_done for r in self._readers):
                return self._finish()
            until = min(r.horizon for r in self._readers)
            if self._archive.speed:
                until = min(until, self._paced())
            pieces = [piece for r in self._readers for piece in r.take(until)]
            if pieces:
                return self._merge(pieces, until)
            if self._archive.speed:
                return []

    def _paced(self) -> int:
        now = time.monotonic()
        if self._begin is None:
            self._begin = now, min(r.first for r in self._readers)
        began, first = self._begin
        return first + int((now - began) * self._archive.speed * SECOND)

    def _merge(self, pieces: list[_Piece], until: int) -> list[tuple[str, Trades]]:
        """Merge by time, then symbol, then id: an order that does not depend on how the files were cut."""
        trades = pieces[0].trades
        times = pieces[0].times
        starts = np.zeros(len(pieces), np.int64)
        if len(pieces) > 1:
            sizes = [len(piece.times) for piece in pieces]
            starts[1:] = np.cumsum(sizes[:-1])
            times = np.concatenate([piece.times for piece in pieces])
            order = np.argsort(times, kind="stable")
            trades, times = self._in_order([piece.trades for piece in pieces], order), times[order]
            if any(piece.gap for piece in pieces):
                place = np.empty(len(order), np.int64)
                place[order] = np.arange(len(order))
                starts = place[starts]
        # A gap goes out right before the trade behind it.
        gaps: dict[int, list[tuple[int, ...]]] = {0: []}
        for piece, start in zip(pieces, starts.tolist(), strict=True):
            if piece.gap is not None:
                found, symbol = piece.trades[["time", "symbol"]][0].tolist()
                row = (*piece.gap, found, found, 0, symbol, _HOLE, _UNAVAILABLE)
                gaps.setdefault(start, []).append(row)
        cuts = sorted(gaps)
        items = []
        for cut, end in zip(cuts, [*cuts[1:], len(trades)], strict=True):
            # Before the horizon all is known; up to the last trade, when no file has any more.
            seen = until if end == len(trades) and until < _END else int(times[min(end, len(times) - 1)])
            self._watermark = max(self._watermark, seen)
            items.append((self._key, Trades(trades[cut:end], self._watermark, np.array(gaps[cut], GAP))))
        for piece in pieces:
            name = self._archive.symbols[int(piece.trades["symbol"][0])]
            self._position[name] = {
                "day": piece.day.isoformat(),
                "last": int(piece.trades["id"][-1]),
                "time": int(piece.times[-1]),
            }
        self._archive.status.trades += len(trades)
        return items

    def _in_order(self, parts: list[Block], order: NDArray[np.int64]) -> Block:
        """Join parts and put the rows in another order.

        By way of memory that is kept, and as plain words: 5 ns a trade, where new memory and structured
        rows made it 110.
        """
        if len(self._words) < len(order):
            self._words = np.empty((len(order), _WORDS), np.int64)
        words = self._words[: len(order)]
        np.concatenate([part.view(np.int64).reshape(-1, _WORDS) for part in parts], out=words)
        out = np.empty(len(order), TRADE)
        words.take(order, axis=0, out=out.view(np.int64).reshape(-1, _WORDS), mode="clip")
        return out

    def _finish(self) -> list[tuple[str, Trades]]:
        """Close every bar of the last day: it is over."""
        self._done = True
        self._archive.status.done = True
        end = ((self._archive.days[-1] - date(1970, 1, 1)).days + 1) * _DAY
        watermark = max(self._watermark, end) + self._archive.grace
        return [(self._key, Trades(np.empty(0, TRADE), watermark, np.empty(0, GAP)))]

    @override
    def snapshot(self) -> dict[str, _Position]:
        return dict(self._position)

    @override
    def close(self) -> None:
        self._downloads.close()
        self._pool.shutdown(cancel_futures=True)
        for reader in self._readers:
            reader.close()


class ArchiveSource(FixedPartitionedSource[tuple[str, Trades], dict[str, _Position]]):
    """Trades of Binance's daily archives, all symbols merged by time."""

    def __init__(
        self,
        first: date,
        last: date,
        symbols: Sequence[str],
        *,
        market: str,
        stream: str,
        base_url: str = "https://data.binance.vision",
        folder: Path,
        speed: float = 0.0,
        grace: int = 0,
        stop: threading.Event | None = None,
    ) -> None:
        """Init.

        Asks the archive for the first and the last day, unless the folder has them.

        :arg first: first day.
        :arg last: last day, inclusive.
        :arg symbols: the run's symbol table.
        :arg market: spot or usdm.
        :arg stream: trade or aggTrade.
        :arg base_url: address of the archive.
        :arg folder: where files are kept, in the archive's layout.
        :arg speed: how many times the speed of the market; 0 for as fast as it goes.
        :arg grace: us by which the watermark moves on at the end: the flow's allowed lateness.
        :arg stop: ends the replay gracefully when set.
        :raises ArchiveError: when the first or the last day cannot be had.
        :raises ValueError: when there is no such market or stream.
        """
        for what, value, known in (("market", market, _FOLDERS), ("stream", stream, _KINDS)):
            if value not in known:
                msg = f"unknown {what} {value!r}: expected one of {', '.join(known)}"
                raise ValueError(msg)
        if first > last:
            msg = f"there is no day from {first} to {last}: expected the earlier day first"
            raise ArchiveError(msg)
        warm_up(_parse)
        days = [first + timedelta(days=i) for i in range((last - first).days + 1)]
        self._archive = _Archive(
            days,
            list(symbols),
            market,
            stream,
            base_url.rstrip("/"),
            folder,
            speed,
            grace,
            stop or threading.Event(),
        )
        with ThreadPoolExecutor(1) as pool:  # for there may be a loop in this thread
            pool.submit(asyncio.run, _check(self._archive)).result()

    @property
    def status(self) -> ArchiveStatus:
        """How far the replay is."""
        return self._archive.status

    @override
    def list_parts(self) -> list[str]:
        return ["archive"]

    @override
    def build_part(
        self, step_id: str, for_part: str, resume_state: dict[str, _Position] | None
    ) -> _ArchivePartition:
        return _ArchivePartition(for_part, self._archive, resume_state)
