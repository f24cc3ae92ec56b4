"""Fetch trades, klines and the exchange's time over REST, within the exchange's weight limits.

No key is needed. Hosts are tried in turn. The client obeys what the exchange says of its limits
(``X-MBX-USED-WEIGHT-1M``, ``Retry-After``, 429, 418) for all hosts together, as the limit is per IP address:

>>> async def last_trades() -> Block:
...     async with RestClient("spot", ["https://api.binance.com"]) as rest:
...         return await rest.trades("BTCUSDT", from_id=4_000_000_000)
"""

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import aiohttp
import numpy as np
import orjson
import structlog

from connectors.binance.decoder import microseconds
from kernels.records import MILLISECOND, TRADE, Block

_LOG = structlog.get_logger()

_T = TypeVar("_T")

PAGE: Final = 1000
"""Most trades or klines that one request returns."""

KLINE_COLUMNS: Final = {
    "open": 1,
    "high": 2,
    "low": 3,
    "close": 4,
    "volume": 5,
    "quote_volume": 7,
    "trades": 8,
    "taker_buy_volume": 9,
    "taker_buy_quote_volume": 10,
}
"""Where a kline has the fields of a BAR; column 0 is its open time."""

_SHORTEST_BAR: Final = 0.5  # s without requests to a host that barred this address; doubles each time
_LONGEST_BAR: Final = 120.0
_BARRED_NOTICE: Final = 5  # answers of 403 or 451 in a row after which this is logged


@dataclass(frozen=True)
class _Api:
    """What differs between the markets."""

    prefix: str
    weight_limit: int  # per minute and IP
    weights: Mapping[str, int]
    microseconds: bool
    trades_page: int = PAGE  # most rows of historicalTrades


_APIS: Final = {
    "spot": _Api(
        "/api/v3",
        6000,
        {"aggTrades": 4, "historicalTrades": 25, "klines": 2, "exchangeInfo": 20, "time": 1},
        microseconds=True,
    ),
    "usdm": _Api(
        "/fapi/v1",
        2400,
        {"aggTrades": 20, "historicalTrades": 200, "klines": 5, "exchangeInfo": 1, "time": 1},
        microseconds=False,
        trades_page=500,
    ),
}


class RestError(Exception):
    """The exchange refused a request for good."""


class UnavailableError(RestError):
    """None of the hosts serves this kind of request."""


@dataclass
class WeightBudget:
    """How much request weight may still be used this minute. No clock: the caller says what time it is.

    :arg limit: Weight per minute and IP address that the exchange allows.
    :arg share: Part of the limit that is used; the rest is for other programs behind the same address.
    """

    limit: int
    share: float = 0.8
    used: int = 0
    """Weight used in the running minute, by all programs behind this address."""
    _minute: int = field(default=-1, repr=False)
    _paused_until: float = field(default=0.0, repr=False)

    def delay(self, weight: int, now: float) -> float:
        """Return for how many seconds a request must wait; if 0, the request counts as sent.

        :arg weight: Weight of the request.
        :arg now: Local time, s since the epoch.
        """
        if now < self._paused_until:
            return self._paused_until - now
        self._roll(now)
        if self.used > 0 and self.used + weight > self.limit * self.share:
            # A quarter of a second more, as the exchange's minute does not begin exactly with ours.
            return 60 - now % 60 + 0.25
        self.used += weight
        return 0.0

    def report(self, used: int, now: float) -> None:
        """Note the weight that was used this minute, as the exchange reports it."""
        self._roll(now)
        self.used = max(self.used, used)

    def pause(self, seconds: float, now: float) -> None:
        """Allow no request for some seconds, as the exchange demanded."""
        self._paused_until = max(self._paused_until, now + seconds)

    def _roll(self, now: float) -> None:
        minute = int(now // 60)
        if minute != self._minute:
            self._minute = minute
            self.used = 0


class RestClient:
    """Asks the exchange. Every method retries until there is an answer, or a refusal for good.

    Wrap calls in ``asyncio.timeout`` to give up earlier. A client belongs to one event loop.

    :arg market: ``spot`` or ``usdm``.
    :arg endpoints: Base URLs, tried in turn.
    :arg timeout: Seconds after which a request counts as failed.
    :arg clock: Local time, s since the epoch.
    """

    def __init__(
        self,
        market: str,
        endpoints: Sequence[str],
        *,
        timeout: float = 10.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._api = _APIS[market]
        self.market = market
        self.endpoints = tuple(url.rstrip("/") for url in endpoints)
        self.budget = WeightBudget(self._api.weight_limit)
        self.requests = 0
        """Requests sent."""
        self.failures = 0
        """Requests that failed or were refused for now (429, 418, 403, 5xx, no answer, no connection)."""
        self.waits_until = 0.0
        """Local time, s since the epoch, until which a request waits, or waited, for the weight limit."""
        self.problem = ""
        """Why the last failed request failed."""
        self._timeout = timeout
        self._clock = clock
        self._current = 0
        self._refused: set[tuple[str, str]] = set()
        self._barred: dict[str, tuple[float, float]] = {}  # host: until when it is left alone, and how long
        self._bars = 0  # answers of 403 or 451 since the last good one
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        headers = {"X-MBX-TIME-UNIT": "MICROSECOND"} if self._api.microseconds else {}
        self._session = aiohttp.ClientSession(
            headers=headers, timeout=aiohttp.ClientTimeout(total=self._timeout), trust_env=True
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._session is not None:
            await self._session.close()

    @property
    def endpoint(self) -> str:
        """The host that is asked first."""
        return self.endpoints[self._current]

    async def time(self) -> int:
        """Return the exchange's time, us."""
        return await self._get("time", {}, lambda body: microseconds(int(body["serverTime"])))

    async def trades(self, symbol: str, from_id: int, *, aggregate: bool = False, limit: int = PAGE) -> Block:
        """Return up to ``limit`` trades (or aggregate trades) with ids from ``from_id`` on, ascending.

        :returns: TRADE block with ``symbol`` 0.
        :raises UnavailableError: If no host serves this without a key.
        :raises RestError: If the exchange knows no such symbol.
        """
        path = "aggTrades" if aggregate else "historicalTrades"
        limit = limit if aggregate else min(limit, self._api.trades_page)
        params = {"symbol": symbol, "fromId": str(from_id), "limit": str(limit)}
        return await self._get(path, params, lambda rows: _trades(rows, aggregate=aggregate))

    async def klines(
        self,
        symbol: str,
        interval: str,
        *,
        start: int | None = None,
        end: int | None = None,
        limit: int = PAGE,
    ) -> list[list[Any]]:
        """Return klines as the exchange sends them: 12 columns, times in the market's unit.

        :arg start: Earliest open time, us.
        :arg end: Latest open time, us.
        :raises RestError: If the exchange knows no such symbol or interval.
        """
        unit = 1 if self._api.microseconds else MILLISECOND
        params = {"symbol": symbol, "interval": interval, "limit": str(limit)}
        if start is not None:
            params["startTime"] = str(start // unit)
        if end is not None:
            params["endTime"] = str(end // unit)
        return await self._get("klines", params, lambda rows: [list(row) for row in rows])

    async def symbols(self, names: Sequence[str]) -> dict[str, str]:
        """Return the status of those symbols that the exchange knows; ``TRADING`` is the usual one."""
        wanted = set(names)

        def states(body: Any) -> dict[str, str]:
            return {row["symbol"]: row["status"] for row in body["symbols"] if row["symbol"] in wanted}

        params = {"showPermissionSets": "false"} if self.market == "spot" else {}
        if self.market == "spot" and len(names) <= 100:
            # The exchange refuses the request if it does not know one of the names. The whole list is some
            # MB.
            with contextlib.suppress(RestError):
                some = {**params, "symbols": orjson.dumps(names).decode()}
                return await self._get("exchangeInfo", some, states)
        return await self._get("exchangeInfo", params, states)

    async def _get(self, path: str, params: Mapping[str, str], parse: Callable[[Any], _T]) -> _T:
        backoff = 0.25
        while True:
            hosts = [url for url in self._in_turn() if (url, path) not in self._refused]
            if not hosts:
                msg = f"none of {', '.join(self.endpoints)} serves {path} without a key"
                if path == "historicalTrades":
                    msg += "; aggregate trades need none, and their bars are equal: PAIRFLOW_STREAM=aggTrade"
                raise UnavailableError(msg)
            for host in hosts:
                if self._clock() < self._barred.get(host, (0.0, 0.0))[0]:
                    continue
                while delay := self.budget.delay(self._api.weights[path], self._clock()):
                    self.waits_until = self._clock() + delay
                    await asyncio.sleep(delay)
                body = await self._try(host, path, params)
                if body is None:
                    continue
                try:
                    answer = parse(orjson.loads(body))
                except (KeyError, TypeError, ValueError) as error:  # cut short, or not from the exchange
                    self._fail(host, path, f"an answer of no sense, {error!r}")
                    continue
                self._current = self.endpoints.index(host)
                self._barred.pop(host, None)
                self._bars = 0
                return answer
            await asyncio.sleep(backoff * random.uniform(0.5, 1.5))  # noqa: S311
            backoff = min(backoff * 2, 30.0)

    def _in_turn(self) -> Sequence[str]:
        return self.endpoints[self._current :] + self.endpoints[: self._current]

    async def _try(self, host: str, path: str, params: Mapping[str, str]) -> bytes | None:
        """Ask one host once; None if another host, or the same one later, may answer."""
        assert self._session is not None
        self.requests += 1
        try:
            async with self._session.get(f"{host}{self._api.prefix}/{path}", params=params) as response:
                status, headers, body = response.status, response.headers, await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self._fail(host, path, str(error) or type(error).__name__)
            return None
        now = self._clock()
        if (used := headers.get("X-MBX-USED-WEIGHT-1M", "")).isdecimal():
            self.budget.report(int(used), now)
        if status == 200:
            return body
        code, message = _error(body)
        self._fail(host, path, f"HTTP {status} {message}".strip())
        if status in (418, 429):
            asked = headers.get("Retry-After", "")
            wait = float(asked) if asked.isdecimal() else 60.0
            self.budget.pause(wait, now)
            _LOG.warning("the exchange asks for a pause", host=host, status=status, seconds=wait)
            return None
        if status in (403, 451):
            self._bar(host, now)
            return None
        # A key is missing, or the host does not have this path: it will never answer this.
        if status in (401, 404) or code in (-2014, -2015, -1002):
            self._refused.add((host, path))
            return None
        if status == 400:
            msg = f"{host} refused {path} {dict(params)}: {message} ({code})"
            raise RestError(msg)
        return None

    def _bar(self, host: str, now: float) -> None:
        """Send nothing to a host for a while, longer each time: its firewall counts these requests too."""
        length = min(2 * self._barred.get(host, (0.0, _SHORTEST_BAR / 2))[1], _LONGEST_BAR)
        self._barred[host] = now + length, length
        self._bars += 1
        if self._bars == max(_BARRED_NOTICE, len(self.endpoints)):
            _LOG.warning(
                f"Binance's REST refuses this address ({host}: {self.problem}): its firewall, or a region it "
                "does not serve. Missed trades cannot be fetched until it relents; trying on, every "
                f"{_LONGEST_BAR:.0f} s at last. Send fewer requests from this address, use another network, "
                "or name hosts that answer: PAIRFLOW_REST_URL"
            )

    def _fail(self, host: str, path: str, problem: str) -> None:
        self.failures += 1
        self.problem = problem
        _LOG.debug("REST request failed", host=host, path=path, problem=problem)


def _error(body: bytes) -> tuple[int, str]:
    try:
        parsed = orjson.loads(body)
        return int(parsed["code"]), str(parsed["msg"])
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        page = body.lstrip().startswith(b"<")  # the page of a firewall or a proxy is too long for one line
        return 0, "" if page else body[:200].decode("utf-8", "replace")


def _trades(rows: Sequence[Mapping[str, Any]], *, aggregate: bool) -> Block:
    block = np.zeros(len(rows), TRADE)
    if not rows:
        return block
    names = ("a", "T", "p", "q", "m") if aggregate else ("id", "time", "price", "qty", "isBuyerMaker")
    identity, stamp, price, quantity, maker = names
    block["id"] = [row[identity] for row in rows]
    block["first_id"] = [row["f"] for row in rows] if aggregate else block["id"]
    block["last_id"] = [row["l"] for row in rows] if aggregate else block["id"]
    block["time"] = [microseconds(row[stamp]) for row in rows]
    block["price"] = [float(row[price]) for row in rows]
    block["quantity"] = [float(row[quantity]) for row in rows]
    block["buyer_is_maker"] = [row[maker] for row in rows]
    block["in_bars"] = block["price"] != 0
    return block[np.argsort(block["id"], kind="stable")]
