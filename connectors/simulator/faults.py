"""Faults that the simulated exchange shows on command or by a seeded schedule.

>>> fault_of({"kind": "abort"})
Fault(kind='abort', at=None, duration=0.0, count=1, amount=None, symbol=None, connection=None, endpoint=None)
>>> take(3, schedule(1, ("BTCUSDT",))) == take(3, schedule(1, ("BTCUSDT",)))
True
"""

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import islice
from typing import Any, TypeVar

T = TypeVar("T")

KINDS: dict[str, str] = {
    "abort": "the TCP connection is reset without a close frame (a client sees 1006)",
    "silence": "half-open: the connection stays, nothing is sent or answered, for `duration` (0: for ever)",
    "slow": "at most `amount` bytes a second are sent (default 10,000), for `duration`",
    "delay": "everything is sent `amount` seconds late (default 1), for `duration`",
    "shutdown": "a serverShutdown event, and the end of the connection `amount` seconds later (default 5)",
    "expire": "the end of a connection's life, as after 24 hours",
    "refuse": "no one listens on the port, for `duration`; open connections stay",
    "hang": "the WebSocket handshake is never answered, for `duration`",
    "duplicate": "the next `count` trade frames are sent twice",
    "reorder": "the next `count` trade frames are sent in reverse order",
    "truncate": "the next `count` trade frames are cut in the middle of their JSON",
    "hole": "the next `count` trade frames are not sent; REST has their trades",
    "unknown": "`count` frames of unknown events, or of no sense at all, are sent",
    "error": "the next `count` REST requests are answered with HTTP status `amount` (default 503)",
    "timeout": "the next `count` REST requests get no answer for `amount` seconds (default 10), then 408",
    "short": "the next `count` REST pages hold at most `amount` rows (default 1)",
    "clock": "the exchange's clock jumps by `amount` seconds (default 1.5), back after `duration` (0: never)",
    "halt": "`symbol` (or every symbol) does not trade for `duration` (0: for ever) and has status HALT",
    "delist": "`symbol` does not trade any more and has status BREAK; its past stays",
    "remove": "`symbol` is unknown from now on",
}
"""Every kind of fault, and what it does."""

FRAME_KINDS = frozenset({"duplicate", "reorder", "truncate", "hole"})
CONNECTION_KINDS = (
    frozenset({"abort", "silence", "slow", "delay", "shutdown", "expire", "unknown"}) | FRAME_KINDS
)
REST_KINDS = frozenset({"error", "timeout", "short"})
SYMBOL_KINDS = frozenset({"halt", "delist", "remove"})

_DEFAULT_AMOUNT = {
    "slow": 10_000.0,
    "delay": 1.0,
    "shutdown": 5.0,
    "error": 503.0,
    "timeout": 10.0,
    "short": 1.0,
}
_DEFAULT_AMOUNT["clock"] = 1.5


@dataclass(frozen=True)
class Fault:
    """One fault.

    A fault of connections hits those that are open at its time; a fault of REST waits for its requests.

    :arg kind: a key of `KINDS`.
    :arg at: seconds of exchange time since the opening; None: now.
    :arg duration: seconds of exchange time that the fault lasts.
    :arg count: how many frames or requests it hits.
    :arg amount: what `KINDS` says; None: the default.
    :arg symbol: hit this symbol only; None: all.
    :arg connection: hit the connection of this number only, counted from 0 since the opening; None: all open.
    :arg endpoint: hit this REST endpoint only, such as ``aggTrades``; None: all.
    :raises ValueError: for an unknown kind or a value that makes no sense.
    """

    kind: str
    at: float | None = None
    duration: float = 0.0
    count: int = 1
    amount: float | None = None
    symbol: str | None = None
    connection: int | None = None
    endpoint: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            msg = f"fault {self.kind!r}: expected one of {', '.join(KINDS)}"
            raise ValueError(msg)
        numbers = (
            ("at", self.at),
            ("duration", self.duration),
            ("amount", self.amount),
            ("count", self.count),
        )
        for name, value in numbers:
            if value is None and name in ("at", "amount"):
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                msg = f"fault {self.kind}: {name} {value!r}: expected a number"
                raise ValueError(msg)
            if value < 0 and not (self.kind == "clock" and name == "amount"):
                msg = f"fault {self.kind}: {name} {value}: expected 0 or more"
                raise ValueError(msg)
        if self.kind in ("delist", "remove") and not self.symbol:
            msg = f"fault {self.kind}: expected a symbol"
            raise ValueError(msg)
        if self.kind in ("refuse", "hang") and self.duration <= 0:
            msg = f"fault {self.kind}: duration {self.duration}: expected more than 0, or it would never end"
            raise ValueError(msg)
        if self.kind == "error" and not 400 <= self.value <= 599:
            msg = f"fault error: amount {self.amount}: expected an HTTP status of 400 to 599"
            raise ValueError(msg)

    @property
    def value(self) -> float:
        """`amount`, or the kind's default."""
        return _DEFAULT_AMOUNT.get(self.kind, 0.0) if self.amount is None else self.amount


def fault_of(values: Mapping[str, Any]) -> Fault:
    """Read a fault from a JSON object.

    :raises ValueError: for a key or value that is not a fault's.
    """
    known = {f.name for f in fields(Fault)}
    if not isinstance(values, Mapping) or not set(values) <= known or "kind" not in values:
        msg = (
            f"fault {values!r}: expected an object with kind and any of {', '.join(sorted(known - {'kind'}))}"
        )
        raise ValueError(msg)
    return Fault(**values)


def schedule(seed: int, symbols: Sequence[str], mean: float = 20.0) -> Iterator[Fault]:
    """Yield an endless schedule of faults, the same for the same seed.

    Every kind but `delist`, `remove` and `halt` occurs, so that every symbol goes on; each lasts seconds.

    :arg seed: any integer.
    :arg symbols: the symbols traded.
    :arg mean: mean seconds of exchange time between two faults.
    """
    draw = random.Random(seed)  # noqa: S311
    kinds = [k for k in KINDS if k not in SYMBOL_KINDS]
    at = 0.0
    while True:
        at += draw.expovariate(1 / mean)
        kind = draw.choice(kinds)
        change: dict[str, Any] = {}
        if kind in ("silence", "slow", "delay", "refuse", "hang"):
            change["duration"] = round(draw.uniform(1.0, 15.0), 3)
        elif kind in FRAME_KINDS or kind == "unknown":
            change["count"] = draw.randint(1, 200)
        elif kind in REST_KINDS:
            change["count"] = draw.randint(1, 5)
        if kind == "error":
            change["amount"] = draw.choice((403, 418, 429, 500, 502, 503, 504))
        elif kind == "short":
            change["amount"] = draw.randint(1, 100)
        elif kind == "clock":
            change = {"amount": draw.choice((-1.5, 1.5)), "duration": round(draw.uniform(5.0, 60.0), 3)}
        if kind in FRAME_KINDS and draw.random() < 0.5:
            change["symbol"] = draw.choice(symbols)
        yield Fault(kind, at=round(at, 3), **change)


def take(count: int, items: Iterator[T]) -> list[T]:
    """Return the first items."""
    return list(islice(items, count))
