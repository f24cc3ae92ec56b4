"""Download the files of Binance's daily archives, verify them by their checksums, and keep them in a folder.

A download that was interrupted continues where it ended, in this run or a later one. Two processes that want
the same file share one download.
"""

import asyncio
import errno
import fcntl
import hashlib
import os
import re
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import BinaryIO, Final, TypeVar

import aiohttp
import structlog

from connectors.binance.archive_files import ArchiveError, ArchiveLayout

_LOG = structlog.get_logger()

_T = TypeVar("_T")

_CONNECTIONS: Final = 4
_PIECE: Final = 1 << 18  # bytes written at once
_TRIES: Final = 12  # without a byte of progress: some 4 minutes
_FIRST_TRIES: Final = 3  # before the replay starts, while the user waits
_BACKOFF = 0.5  # s after the first failure, doubled after each
_LONGEST_BACKOFF: Final = 30.0
_PROGRESS: Final = 5.0  # s between two lines about a download


@dataclass
class DownloadStatus:
    """How far downloads are. Read it from any thread."""

    downloading: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Files on their way: bytes that are there, and bytes in all (0 where not known)."""
    downloaded: int = 0
    """Bytes downloaded."""


@dataclass(frozen=True)
class Archive:
    """An archive's server, and the folder where its files are kept.

    :arg layout: Where files are.
    :arg base_url: Address of the server, without a slash at its end.
    :arg status: Receives how far downloads are.
    """

    layout: ArchiveLayout
    base_url: str
    status: DownloadStatus

    def url(self, symbol: str, day: date) -> str:
        """Return the address of a file."""
        return f"{self.base_url}/{self.layout.place(symbol, day)}"


class _RetryError(Exception):
    """The server's answer is of no use, but another attempt may succeed."""


class _Client:
    """Asks the archive's server, and retries until there is an answer."""

    def __init__(self, archive: Archive, session: aiohttp.ClientSession) -> None:
        self._archive = archive
        self._session = session

    async def has(self, symbol: str, day: date) -> bool:
        """Tell whether the archive has a file."""

        async def attempt() -> bool:
            async with self._session.head(self._archive.url(symbol, day), allow_redirects=True) as response:
                return self._is_there(response)

        return await self._until_answered(symbol, day, attempt, tries=_FIRST_TRIES)

    async def fetch(self, symbol: str, day: date) -> Path | None:
        """Download and verify a file unless the folder has it; return its path, None if there is none."""
        path = self._archive.layout.path(symbol, day)
        try:
            if path.exists() and await asyncio.to_thread(_is_whole, path):
                return path
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.with_name(path.name + ".part").open("ab", buffering=0) as part:
                while not _locked(part):  # another process downloads this file
                    await asyncio.sleep(0.5)
                if path.exists() and await asyncio.to_thread(_is_whole, path):
                    if os.fstat(part.fileno()).st_size == 0:  # created after the other process was done
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
                    f"{self._archive.url(symbol, day)} does not have its published checksum, nor had it when "
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
            async with self._session.get(self._archive.url(symbol, day) + ".CHECKSUM") as response:
                if not self._is_there(response):
                    return ""
                digest = (await response.content.read(1024)).decode("ascii", "replace")[:64].lower()
            if re.fullmatch(r"[0-9a-f]{64}", digest) is None:
                msg = "its CHECKSUM is not a SHA-256"
                raise _RetryError(msg)
            return digest

        return await self._until_answered(symbol, day, attempt)

    async def _fill(self, symbol: str, day: date, part: BinaryIO) -> bool:
        """Download the rest of a part; False if the archive has no such file."""
        name = self._archive.layout.path(symbol, day).name
        status = self._archive.status

        async def attempt() -> bool:
            have = os.fstat(part.fileno()).st_size
            headers = {"Range": f"bytes={have}-"} if have else {}
            async with self._session.get(self._archive.url(symbol, day), headers=headers) as response:
                if response.status == 416:  # nothing is left to send: the part is whole, or of another file
                    if response.headers.get("Content-Range") == f"bytes */{have}":
                        return True
                    part.truncate(0)
                    msg = "its size has changed"
                    raise _RetryError(msg)
                if not self._is_there(response):
                    return False
                if response.status == 200 and have:  # the server sends the whole file, not the rest
                    part.truncate(0)
                    have = 0
                total = have + int(response.headers.get("Content-Length", 0))
                _LOG.info("downloading", file=name, megabytes=round(total / 1e6, 1), resumed_at=have)
                told = time.monotonic()
                async for piece in response.content.iter_chunked(_PIECE):
                    _write(part, piece)
                    have += len(piece)
                    status.downloaded += len(piece)
                    # A new dict each time, because other threads iterate over it.
                    status.downloading = {**status.downloading, name: (have, total)}
                    if total and time.monotonic() - told > _PROGRESS:
                        told = time.monotonic()
                        _LOG.info("downloading", file=name, percent=round(100 * have / total))
            return True

        try:
            return await self._until_answered(
                symbol, day, attempt, reached=lambda: os.fstat(part.fileno()).st_size
            )
        finally:
            status.downloading = {n: done for n, done in status.downloading.items() if n != name}

    def _is_there(self, response: aiohttp.ClientResponse) -> bool:
        if response.status in (200, 206):
            return True
        if response.status == 404:
            return False
        msg = f"{response.status} {response.reason}"
        if response.status in (408, 425, 429) or response.status >= 500:
            raise _RetryError(msg)
        msg = f"{self._archive.base_url} refuses {response.url.path}: {msg}; is it blocked where you are?"
        raise ArchiveError(msg)

    async def _until_answered(
        self,
        symbol: str,
        day: date,
        attempt: Callable[[], Awaitable[_T]],
        *,
        reached: Callable[[], int] = lambda: 0,
        tries: int = _TRIES,
    ) -> _T:
        """Retry until there is an answer.

        :arg attempt: The request.
        :arg reached: Tells how far attempts came, in bytes; only attempts without progress are counted.
        :arg tries: How many attempts in a row may fail.
        :raises ArchiveError: If as many attempts failed.
        """
        failures = 0
        before = reached()
        while True:
            try:
                return await attempt()
            except (aiohttp.ClientError, OSError, _RetryError) as error:
                why = str(error) or type(error).__name__
            now = reached()
            failures = 1 if now > before else failures + 1
            before = now
            if failures == tries:
                msg = (
                    f"cannot download {self._archive.url(symbol, day)}: {why}; check the network, "
                    f"or put the file at {self._archive.layout.path(symbol, day)}"
                )
                raise ArchiveError(msg)
            pause = min(_BACKOFF * 2 ** (failures - 1), _LONGEST_BACKOFF)
            log = _LOG.warning if failures == 1 else _LOG.debug
            log(
                "download interrupted; trying again",
                file=self._archive.layout.path(symbol, day).name,
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
    # Errors of the network are OSErrors too, so those of the disk are caught here.
    try:
        view = memoryview(piece)
        while view:
            view = view[part.write(view) :]
    except OSError as error:
        raise _unwritable(Path(part.name), error) from None


def _locked(part: BinaryIO) -> bool:
    """Try to lock a part for this process; a file system without locks counts as locked."""
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
    """Tell whether a file has the checksum that is kept beside it, if there is one."""
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


async def check_days(archive: Archive, symbols: Sequence[str], days: Sequence[date]) -> None:
    """Make sure that the first and the last day of every symbol exist, before a replay starts.

    :arg archive: The archive.
    :arg symbols: The symbols of the replay.
    :arg days: Its days, ascending.
    :raises ArchiveError: If the archive does not have one of the files, or cannot be reached.
    """
    limit = asyncio.Semaphore(_CONNECTIONS)
    ends = dict.fromkeys((days[-1], days[0]))
    wanted = [(symbol, day) for day in ends for symbol in symbols]
    wanted = [file for file in wanted if not archive.layout.path(*file).exists()]
    if not wanted:
        return
    async with _session() as session:
        client = _Client(archive, session)

        async def check(symbol: str, day: date) -> None:
            async with limit:
                if not await client.has(symbol, day):
                    raise _missing(archive.layout, symbol, day)

        tasks = [asyncio.create_task(check(*file)) for file in wanted]
        try:
            for task in tasks:
                await task
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def _missing(layout: ArchiveLayout, symbol: str, day: date) -> ArchiveError:
    what = f"the archive has no {layout.kind} of {symbol} ({layout.market}) for {day}"
    if day >= datetime.now(UTC).date() - timedelta(days=2):
        return ArchiveError(f"{what} yet: the file of a day is published on the next day, UTC")
    return ArchiveError(f"{what}: expected a symbol, and days, that were traded there")


class Downloads:
    """A thread that downloads files in the order of the replay, one day ahead of it.

    :arg archive: The archive.
    :arg files: Symbol and day of each file, in the order in which they are needed.
    """

    def __init__(self, archive: Archive, files: Sequence[tuple[str, date]]) -> None:
        self.day = min((day for _, day in files), default=date.min)
        """The day that is replayed now."""
        self._archive = archive
        self._files: dict[tuple[str, date], Future[Path | None]] = {file: Future() for file in files}
        self._loop = asyncio.new_event_loop()
        self._task: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._run, name="archive", daemon=True)
        self._thread.start()

    def get(self, symbol: str, day: date) -> Future[Path | None]:
        """Return where a file is, once it is there; None if the archive has none."""
        return self._files[symbol, day]

    def _run(self) -> None:
        self._task = self._loop.create_task(self._work())
        try:
            self._loop.run_until_complete(self._task)
        except asyncio.CancelledError:
            pass
        except Exception as error:  # the flow raises it; it would wait for ever otherwise
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
        """Stop. Partly downloaded files stay, and the next run continues them."""

        def cancel() -> None:
            if self._task is not None:
                self._task.cancel()

        try:
            self._loop.call_soon_threadsafe(cancel)
        except RuntimeError:  # the loop is closed: everything is downloaded
            return
        self._thread.join()
