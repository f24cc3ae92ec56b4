"""The local clocks, the pace of a replay, and how far the exchange's clock is ahead of the local one."""

import time
from typing import Protocol

from kernels.records import SECOND


def now_us() -> int:
    """Return the local time, us since the epoch."""
    return time.time_ns() // 1_000


class Clock(Protocol):
    """The local clocks: the system's, or those of a simulation."""

    def monotonic(self) -> float:
        """Return a time that never steps back, s."""

    def now(self) -> int:
        """Return the local time, us since the epoch."""


class SystemClock:
    """The clocks of this machine."""

    def monotonic(self) -> float:
        """Return a time that never steps back, s."""
        return time.monotonic()

    def now(self) -> int:
        """Return the local time, us since the epoch."""
        return now_us()


class Pace:
    """How far a replay may go, at a multiple of the speed of what it replays. The first call starts it.

    :arg speed: The multiple.
    :arg unit: Ticks a second of the times of the replay.
    """

    def __init__(self, speed: float, unit: int) -> None:
        self._rate = speed * unit
        self._begin: tuple[float, int] | None = None

    def reached(self, first: int) -> int:
        """Return the time up to which the replay may go now.

        :arg first: Time of the first thing to be replayed; only the first call uses it.
        """
        now = time.monotonic()
        if self._begin is None:
            self._begin = now, first
        began, first = self._begin
        return first + int((now - began) * self._rate)


class ClockOffset:
    """How far the exchange's clock is ahead of the local one, at least.

    Each reading is too low by the time that it took to arrive, so the highest one of the last minute or two
    is the best.

    :arg period: Time, us, after which readings begin to be forgotten.
    """

    def __init__(self, period: int = 60 * SECOND) -> None:
        self._period = period
        self._began: int | None = None
        self._current = 0
        self._previous: int | None = None

    def add(self, exchange: int, local: int) -> None:
        """Note a reading.

        :arg exchange: Time of the exchange, us.
        :arg local: Local time, us, at which the exchange's clock showed at least that.
        """
        offset = exchange - local
        if self._began is None:
            self._began, self._current = local, offset
        elif local - self._began >= self._period:
            self._began, self._previous, self._current = local, self._current, offset
        else:
            self._current = max(self._current, offset)

    @property
    def value(self) -> int | None:
        """Offset, us; None before the first reading."""
        if self._began is None or self._previous is None:
            return None if self._began is None else self._current
        return max(self._current, self._previous)
