"""The exchange's REST: endpoints, limits and errors as Binance documents them (rest-api.md, errors.md)."""

import asyncio
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, NoReturn

import orjson
from aiohttp import web

from connectors.simulator.faults import Fault
from connectors.simulator.frames import Text
from connectors.simulator.klines import INTERVALS, MINUTE, Klines, next_open, open_time
from connectors.simulator.market import Market, MarketName, Symbol
from kernels.records import SECOND

BAN_AFTER = 20
"""Requests answered with 429 in one minute before the ban; Binance says "repeatedly"."""
BAN_SECONDS = (120.0, 3 * 86_400.0)


class ApiError(Exception):
    """An answer with one of Binance's error bodies (errors.md)."""

    def __init__(self, code: int, text: str, status: int = 400, wait: float | None = None) -> None:
        super().__init__(text)
        self.code, self.text, self.status, self.wait = code, text, status, wait


class _Endpoint(NamedTuple):
    weight: int
    parameters: frozenset[str]
    limit: int = 500
    most: int = 1000


class _Api(NamedTuple):
    prefix: str
    weight_limit: int
    endpoints: Mapping[str, _Endpoint]


_PAGE = frozenset({"symbol", "limit"})
_FROM_ID = _PAGE | {"fromId"}
_AGGREGATES = _FROM_ID | {"startTime", "endTime"}
_KLINES = _PAGE | {"interval", "startTime", "endTime"}
_INFO = frozenset({"symbol", "symbols", "permissions", "showPermissionSets", "symbolStatus"})

_APIS: dict[MarketName, _Api] = {
    # rest-api.md of 2026-07.
    "spot": _Api(
        "/api/v3",
        6_000,
        {
            "ping": _Endpoint(1, frozenset()),
            "time": _Endpoint(1, frozenset()),
            "exchangeInfo": _Endpoint(20, _INFO),
            "trades": _Endpoint(25, _PAGE),
            "historicalTrades": _Endpoint(25, _FROM_ID),
            "aggTrades": _Endpoint(4, _AGGREGATES),
            "klines": _Endpoint(2, _KLINES | {"timeZone"}),
            "uiKlines": _Endpoint(2, _KLINES | {"timeZone"}),
        },
    ),
    # USD-M: klines weigh by limit; old trades need a key, and cost 200 since 2026-07-29 by ccxt's table.
    "usdm": _Api(
        "/fapi/v1",
        2_400,
        {
            "ping": _Endpoint(1, frozenset()),
            "time": _Endpoint(1, frozenset()),
            "exchangeInfo": _Endpoint(1, frozenset()),
            "trades": _Endpoint(5, _PAGE),
            "historicalTrades": _Endpoint(200, _FROM_ID, 100, 500),
            "aggTrades": _Endpoint(20, _AGGREGATES),
            "klines": _Endpoint(0, _KLINES, 500, 1500),
        },
    ),
}
_SYMBOL_RANGE = r"^[\w\-._&&[^a-z]]{1,50}$"
_LIST_RANGE = r'^\[("[\w\-._&&[^a-z]]{1,50}"(,"[\w\-._&&[^a-z]]{1,50}"){0,})?\]$'
_NUMBER_RANGE = "^[0-9]{1,20}$"


class Rest:
    """Answer REST requests about a market.

    :arg market: what is traded.
    :arg klines: its klines.
    :arg listed: index of each symbol that is known.
    :arg status: status of each symbol: TRADING, HALT or BREAK.
    :arg now: the exchange's time, us.
    :arg published: exchange time, us, up to which trades exist.
    :arg weight_limit: request weight per minute; None: the market's own.
    :arg latency: real seconds that each answer takes beyond its own work.
    :arg hits: counts the requests that each kind of fault hit.
    """

    def __init__(
        self,
        market: Market,
        klines: Klines,
        listed: dict[str, int],
        status: list[str],
        now: Callable[[], int],
        published: Callable[[], int],
        weight_limit: int | None,
        latency: float,
        hits: Counter[str],
    ) -> None:
        self._market, self._klines, self._index, self._status = market, klines, listed, status
        self._now, self._published = now, published
        self._latency, self._hits = latency, hits
        self._text = Text(market)
        self._api = _APIS[market.name]
        self._weight_limit = weight_limit or self._api.weight_limit
        self._faults: list[tuple[Fault, list[int]]] = []
        self._minute, self._weight, self._refused = 0, 0, 0
        self._bans, self._banned_until = 0, 0.0

    def routes(self) -> list[web.RouteDef]:
        """Return the paths to serve."""
        # Clients such as ccxt ask every market what it lists, and the others list nothing here.
        others = sorted({"/api/v3", "/fapi/v1", "/dapi/v1"} - {self._api.prefix})
        return [
            web.get(self._api.prefix + "/{endpoint}", self._serve),
            *(web.get(prefix + "/exchangeInfo", self._nothing_listed) for prefix in others),
        ]

    def inject(self, fault: Fault) -> None:
        """Let a fault hit the next requests."""
        self._faults.append((fault, [fault.count]))

    async def _nothing_listed(self, request: web.Request) -> web.Response:
        body = {"timezone": "UTC", "serverTime": self._now() // 1_000, "rateLimits": [], "symbols": []}
        return web.json_response(body)

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["endpoint"]
        endpoint = self._api.endpoints.get(name)
        if endpoint is None:
            return web.Response(status=404, text="")
        short = None
        headers: dict[str, str] = {}
        if self._latency:
            await asyncio.sleep(self._latency)
        try:
            self._charge(endpoint, request.query, headers)
            for fault in self._hit(name):
                if fault.kind == "short":
                    short = int(fault.value)
                elif fault.kind == "timeout":
                    await asyncio.sleep(fault.value)
                    raise ApiError(-1007, _TIMEOUT, 408)
                else:
                    _fail(int(fault.value), self._now())
            unit = time_unit(request.headers.get("X-MBX-TIME-UNIT")) if self._market.name == "spot" else 1_000
            body = await self._answer(name, endpoint, request, unit, short)
        except ApiError as error:
            response = refusal(error)
            response.headers.update(headers)
            return response
        return web.Response(body=orjson.dumps(body), content_type="application/json", headers=headers)

    def _hit(self, endpoint: str) -> list[Fault]:
        """Return the REST faults that hit a request, and count them down."""
        hit = []
        for fault, left in self._faults:
            if fault.endpoint in (None, endpoint) and left[0] > 0:
                left[0] -= 1
                hit.append(fault)
                self._hits[f"error {fault.value:.0f}" if fault.kind == "error" else fault.kind] += 1
        self._faults = [(f, left) for f, left in self._faults if left[0] > 0]
        return hit

    def _charge(self, endpoint: _Endpoint, query: Mapping[str, str], headers: dict[str, str]) -> None:
        """Count a request's weight, in real minutes.

        :raises ApiError: 429 past the limit, 418 for a client that goes on regardless.
        """
        now = time.time()
        if now < self._banned_until:
            raise self._ban_error(now)
        if int(now // 60) != self._minute:
            self._minute, self._weight, self._refused = int(now // 60), 0, 0
        weight = endpoint.weight
        if not weight:  # USD-M klines
            asked = query.get("limit", "")
            limit = int(asked) if asked.isdecimal() and len(asked) < 20 else endpoint.limit
            weight = next(w for most, w in ((99, 1), (499, 2), (1_000, 5), (10**20, 10)) if limit <= most)
        self._weight += weight
        headers["X-MBX-USED-WEIGHT"] = headers["X-MBX-USED-WEIGHT-1M"] = str(self._weight)
        limit = self._weight_limit
        if self._weight > limit:
            self._refused += 1
            if self._refused > BAN_AFTER:
                self._banned_until = now + min(BAN_SECONDS[0] * 2**self._bans, BAN_SECONDS[1])
                self._bans += 1
                raise self._ban_error(now)
            text = (
                f"Too much request weight used; current limit is {limit} request weight per 1 MINUTE. "
                "Please use WebSocket Streams for live updates to avoid polling the API."
            )
            raise ApiError(-1003, text, 429, 60 - now % 60)

    def _ban_error(self, now: float) -> ApiError:
        text = (
            f"Way too much request weight used; IP banned until {int(self._banned_until * 1_000)}. "
            "Please use WebSocket Streams for live updates to avoid bans."
        )
        return ApiError(-1003, text, 418, self._banned_until - now)

    async def _answer(
        self, name: str, endpoint: _Endpoint, request: web.Request, unit: int, short: int | None
    ) -> Any:
        query = _Query(request.query)
        query.check(endpoint.parameters)
        if name == "ping":
            return {}
        if name == "time":
            return {"serverTime": self._now() // unit}
        if name == "exchangeInfo":
            return self._exchange_info(query, unit)
        index = self._symbol(query.symbol())
        spot = self._market.name == "spot"
        limit = query.number("limit")
        if limit is None:
            limit = endpoint.limit
        if limit < 1 or (limit > endpoint.most and not spot):
            raise ApiError(-1130, "Data sent for parameter 'limit' is not valid.")
        limit = min(limit, endpoint.most)
        if short is not None:
            limit = min(limit, max(short, 1))
        if name in ("klines", "uiKlines"):
            return await self._kline_rows(index, query, limit, unit)
        if name == "aggTrades":
            return self._aggregate_rows(index, query, limit, unit)
        if name == "historicalTrades" and not spot and "X-MBX-APIKEY" not in request.headers:
            raise ApiError(-2014, "API-key format invalid.", 401)
        return self._trade_rows(
            index, query.number("fromId") if name == "historicalTrades" else None, limit, unit
        )

    def _symbol(self, name: str) -> int:
        index = self._index.get(name)
        if index is None:
            raise ApiError(-1121, "Invalid symbol.")
        return index

    def _trade_rows(self, index: int, first: int | None, limit: int, unit: int) -> list[dict[str, Any]]:
        stop = self._market.ids_at(index, self._published())[0]
        # A few more than asked for: fills that are no market trades are left out.
        more = limit + 50
        if first is None:
            ticks = self._market.trades(index, stop - more, stop)
            ticks = ticks.take(ticks.market).take(slice(-limit, None))
        else:
            ticks = self._market.trades(index, first, min(first + more, stop))
            if ticks.id.size < limit and first + more <= stop:
                first = max(first, self._market.ids_at(index, self._market.earliest(index))[0])
                ticks = self._market.trades(index, first, min(first + more, stop))
            ticks = ticks.take(ticks.market).take(slice(0, limit))
        spot = self._market.name == "spot"
        return [
            {
                "id": number,
                "price": self._text.price(index, price),
                "qty": self._text.quantity(index, quantity),
                "quoteQty": self._text.quote(index, price * quantity),
                "time": at // unit,
                "isBuyerMaker": maker,
                **({"isBestMatch": True} if spot else {"isRPITrade": False}),
            }
            for _, number, _, at, price, quantity, maker, _ in zip(*(c.tolist() for c in ticks))
        ]

    def _aggregate_rows(self, index: int, query: "_Query", limit: int, unit: int) -> list[dict[str, Any]]:
        first, (begin, end) = query.number("fromId"), query.times()
        if first is not None and (begin is not None or end is not None):
            raise ApiError(-1128, "Combination of optional parameters invalid.")
        hour = 3_600 * SECOND
        if self._market.name == "usdm" and begin is not None and end is not None and end - begin > hour:
            raise ApiError(-1127, "More than 1 hours between startTime and endTime.")
        now = self._published()
        stop = self._market.ids_at(index, now if end is None else min(end + 1, now))[1]
        if begin is not None:
            first = self._market.ids_at(index, min(begin, now))[1]
        if first is None:
            first = stop - limit
        rows = self._market.aggregates(index, first, min(first + limit, stop))
        if rows.id.size < limit and first + limit <= stop:
            first = max(first, self._market.ids_at(index, self._market.earliest(index))[1])
            rows = self._market.aggregates(index, first, min(first + limit, stop))
        spot = self._market.name == "spot"
        return [
            {
                "a": number,
                "p": self._text.price(index, price),
                "q": self._text.quantity(index, quantity),
                "f": low,
                "l": high,
                "T": at // unit,
                "m": maker,
                **({"M": True} if spot else {}),
            }
            for _, number, low, high, at, price, quantity, maker in zip(*(c.tolist() for c in rows))
        ]

    async def _kline_rows(self, index: int, query: "_Query", limit: int, unit: int) -> list[list[Any]]:
        interval = query.text("interval")
        if interval not in INTERVALS or (interval == "1s" and self._market.name == "usdm"):
            raise ApiError(-1120, "Invalid interval.")
        offset, (begin, end) = query.zone(), query.times()
        earliest, now = self._market.earliest(index), self._published()
        last = open_time(now - 1 if end is None else min(end, now - 1), interval, offset)
        opened: list[int] = []
        if begin is not None and begin >= now:
            return []
        if begin is None:
            at = last
            while at >= open_time(earliest, interval, offset) and len(opened) < limit:
                opened.append(at)
                at = open_time(at - 1, interval, offset)
            opened.reverse()
        else:
            at = open_time(max(begin, earliest), interval, offset)
            if at < begin:
                at = next_open(at, interval, offset)
            while at <= last and len(opened) < limit:
                opened.append(at)
                at = next_open(at, interval, offset)
        for _ in self._klines.prepare(index, interval, offset, opened, now):
            await asyncio.sleep(0)
        text = self._text
        return [
            [
                k.open_time // unit,
                text.price(index, k.open),
                text.price(index, k.high),
                text.price(index, k.low),
                text.price(index, k.close),
                text.quantity(index, k.volume),
                (k.close_time - 1) // unit,
                text.quote(index, k.quote),
                k.trades,
                text.quantity(index, k.taker_volume),
                text.quote(index, k.taker_quote),
                "0",
            ]
            for k in self._klines.query(index, interval, offset, opened, now)
        ]

    def _exchange_info(self, query: "_Query", unit: int) -> dict[str, Any]:
        spot = self._market.name == "spot"
        names = list(self._index)
        if "symbol" in query.values and "symbols" in query.values:
            raise ApiError(-1128, "Combination of optional parameters invalid.")
        if "symbol" in query.values:
            names = [query.symbol()]
        elif "symbols" in query.values:
            names = query.names("symbols")
        elif "permissions" in query.values:
            raw = query.text("permissions")
            wanted = query.names("permissions") if raw.startswith("[") else [raw]
            names = names if {"SPOT", "MARGIN"} & set(wanted) else []
        if "symbolStatus" in query.values:
            if "symbol" in query.values or "symbols" in query.values:
                raise ApiError(-1128, "Combination of optional parameters invalid.")
            status = query.text("symbolStatus")
            if status not in ("TRADING", "HALT", "BREAK"):
                raise ApiError(-1122, "Invalid symbolStatus.")
            names = [n for n in names if self._status[self._index[n]] == status]
        limits = [("REQUEST_WEIGHT", "MINUTE", 1, self._weight_limit)]
        if spot:
            limits += [
                ("ORDERS", "SECOND", 10, 100),
                ("ORDERS", "DAY", 1, 200_000),
                ("RAW_REQUESTS", "MINUTE", 5, 61_000),
            ]
        else:
            limits += [("ORDERS", "MINUTE", 1, 1_200), ("ORDERS", "SECOND", 10, 300)]
        keys = ("rateLimitType", "interval", "intervalNum", "limit")
        show = query.values.get("showPermissionSets", "true") != "false"
        describe = (
            (lambda i: _spot_symbol(self._market.symbols[i], self._status[i], show))
            if spot
            else self._usdm_symbol
        )
        body: dict[str, Any] = {
            "timezone": "UTC",
            "serverTime": self._now() // unit,
            "rateLimits": [dict(zip(keys, limit)) for limit in limits],
            "exchangeFilters": [],
            "symbols": [describe(self._symbol(n)) for n in names],
        }
        if not spot:
            body["futuresType"] = "U_MARGINED"
            assets = sorted({s.quote for s in self._market.symbols})
            body["assets"] = [{"asset": a, "marginAvailable": True, "autoAssetExchange": "0"} for a in assets]
        return body

    def _usdm_symbol(self, index: int) -> dict[str, Any]:
        spec = self._market.symbols[index]
        return {
            "symbol": spec.name,
            "pair": spec.name,
            "contractType": "PERPETUAL",
            "deliveryDate": 4_133_404_800_000,
            "onboardDate": self._market.earliest(index) // 1_000,
            "status": {"TRADING": "TRADING", "HALT": "PENDING_TRADING", "BREAK": "SETTLING"}[
                self._status[index]
            ],
            "maintMarginPercent": "2.5000",
            "requiredMarginPercent": "5.0000",
            "baseAsset": spec.base,
            "quoteAsset": spec.quote,
            "marginAsset": spec.quote,
            "pricePrecision": spec.price_decimals,
            "quantityPrecision": spec.quantity_decimals,
            "baseAssetPrecision": 8,
            "quotePrecision": 8,
            "underlyingType": "COIN",
            "underlyingSubType": [],
            "triggerProtect": "0.0500",
            "liquidationFee": "0.012500",
            "marketTakeBound": "0.05",
            "maxMoveOrderLimit": 10_000,
            "filters": _filters(spec, "usdm"),
            "orderTypes": ["LIMIT", "MARKET", "STOP", "STOP_MARKET", "TAKE_PROFIT", "TAKE_PROFIT_MARKET"],
            "timeInForce": ["GTC", "IOC", "FOK", "GTX", "GTD"],
        }


class _Query:
    """A request's parameters, read as Binance reads them.

    :raises ApiError: from every method, for what errors.md has a code for.
    """

    def __init__(self, values: Mapping[str, str]) -> None:
        self.values = values

    def check(self, allowed: frozenset[str]) -> None:
        names = [name for name, _ in self.values.items()]  # a MultiDict's items repeat, its keys may not
        if len(names) != len(set(names)):
            raise ApiError(-1101, "Duplicate values for a parameter detected.")
        if not set(names) <= allowed:
            read = len(set(names) & allowed)
            raise ApiError(
                -1104,
                f"Not all sent parameters were read; read '{read}' parameter(s) but was sent '{len(names)}'.",
            )

    def text(self, name: str) -> str:
        value = self.values.get(name, "")
        if not value:
            raise ApiError(-1102, f"Mandatory parameter '{name}' was not sent, was empty/null, or malformed.")
        return value

    def symbol(self) -> str:
        name = self.text("symbol")
        if not re.fullmatch(r"[\w\-.]{1,50}", name) or any("a" <= c <= "z" for c in name):
            _illegal("symbol", _SYMBOL_RANGE)
        return name

    def names(self, name: str) -> list[str]:
        try:
            values = orjson.loads(self.text(name))
        except orjson.JSONDecodeError:
            values = None
        if not isinstance(values, list) or not values or not all(isinstance(v, str) for v in values):
            _illegal(name, _LIST_RANGE)
        if len(set(values)) < len(values):
            raise ApiError(-1151, "Symbol is present multiple times in the list.")
        return values

    def number(self, name: str) -> int | None:
        if name not in self.values:
            return None
        value = self.values[name]
        if not value:
            raise ApiError(-1105, f"Parameter '{name}' was empty.")
        if not (value.isascii() and value.isdecimal() and len(value) <= 20):
            _illegal(name, _NUMBER_RANGE)
        if int(value) >= 2**63:
            raise ApiError(-1108, f"Parameter '{name}' overflowed.")
        return int(value)

    def times(self) -> tuple[int | None, int | None]:
        """Return start and end time, us, both inclusive; they come in ms or us."""
        begin, end = self.number("startTime"), self.number("endTime")
        if begin is not None and begin < _MICRO:
            begin *= 1_000
        if end is not None and end < _MICRO:
            end = end * 1_000 + 999
        return begin, end

    def zone(self) -> int:
        """Return the time zone, us east of UTC."""
        value = self.values.get("timeZone", "0")
        match = re.fullmatch(r"(?P<sign>[+-]?)(?P<hours>\d{1,2})(:(?P<minutes>[0-5]\d))?", value)
        minutes = 0
        if match:
            minutes = int(match["hours"]) * 60 + int(match["minutes"] or 0)
            minutes = -minutes if match["sign"] == "-" else minutes
        if not match or not -12 * 60 <= minutes <= 14 * 60:
            raise ApiError(-1130, "Data sent for parameter 'timeZone' is not valid.")
        return minutes * MINUTE


_TIMEOUT = "Timeout waiting for response from backend server. Send status unknown; execution status unknown."

_MICRO = 10**14
"""A time of this size or more is in us: in ms it would lie after the year 5138."""


def _illegal(name: str, legal: str) -> NoReturn:
    raise ApiError(-1100, f"Illegal characters found in parameter '{name}'; legal range is '{legal}'.")


def time_unit(text: str | None) -> int:
    """Return the us in a time unit."""
    if text in (None, "MILLISECOND", "millisecond"):
        return 1_000
    if text in ("MICROSECOND", "microsecond"):
        return 1
    raise ApiError(-1194, "Invalid value for time unit; expected either MICROSECOND or MILLISECOND.")


def refusal(error: ApiError) -> web.Response:
    """Return the response of an error."""
    headers = {} if error.wait is None else {"Retry-After": str(max(1, int(error.wait + 0.999)))}
    body = orjson.dumps({"code": error.code, "msg": error.text})
    return web.Response(status=error.status, body=body, content_type="application/json", headers=headers)


def _fail(status: int, now: int) -> NoReturn:
    """Answer as Binance does with an HTTP status of its own accord."""
    if status == 429:
        raise ApiError(-1003, "Too many requests queued.", 429, 1.0)
    if status == 418:
        text = f"Way too much request weight used; IP banned until {now // 1_000 + 2_000}."
        raise ApiError(-1003, text, 418, 2.0)
    if status == 403:
        raise web.HTTPForbidden(text="<html><body>403 Forbidden</body></html>", content_type="text/html")
    if status == 503:
        raise ApiError(
            -1008,
            "Server is currently overloaded with other requests. Please try again in a few minutes.",
            503,
        )
    raise ApiError(-1000, "An unknown error occurred while processing the request.", status)


def _filters(spec: Symbol, market: MarketName) -> list[dict[str, Any]]:
    """Return price, lot and notional filters, decimals written as the market writes them."""
    shown = 8 if market == "spot" else spec.price_decimals
    tick, step = spec.tick * 10.0**-spec.price_decimals, 10.0**-spec.quantity_decimals
    digits = 8 if market == "spot" else spec.quantity_decimals

    def price(value: float) -> str:
        return f"{value:.{shown}f}"

    def lot(value: float) -> str:
        return f"{value:.{digits}f}"

    largest = float(f"{max(9000 * step, 9e6 / spec.price):.1g}")
    lots = {"minQty": lot(step), "maxQty": lot(largest), "stepSize": lot(step)}
    filters: list[dict[str, Any]] = [
        {
            "filterType": "PRICE_FILTER",
            "minPrice": price(tick),
            "maxPrice": price(float(f"{spec.price * 15:.1g}")),
            "tickSize": price(tick),
        },
        {"filterType": "LOT_SIZE", **lots},
    ]
    if market == "spot":
        filters += [
            {"filterType": "ICEBERG_PARTS", "limit": 10},
            {
                "filterType": "MARKET_LOT_SIZE",
                "minQty": lot(0),
                "maxQty": lot(largest / 10),
                "stepSize": lot(0),
            },
            {
                "filterType": "NOTIONAL",
                "minNotional": "5.00000000",
                "applyMinToMarket": True,
                "maxNotional": "9000000.00000000",
                "applyMaxToMarket": False,
                "avgPriceMins": 5,
            },
            {"filterType": "MAX_NUM_ORDERS", "maxNumOrders": 200},
            {"filterType": "MAX_NUM_ALGO_ORDERS", "maxNumAlgoOrders": 5},
        ]
    else:
        filters += [
            {"filterType": "MARKET_LOT_SIZE", **lots},
            {"filterType": "MAX_NUM_ORDERS", "limit": 200},
            {"filterType": "MIN_NOTIONAL", "notional": "5"},
            {
                "filterType": "PERCENT_PRICE",
                "multiplierUp": "1.0500",
                "multiplierDown": "0.9500",
                "multiplierDecimal": "4",
            },
        ]
    return filters


def _spot_symbol(spec: Symbol, status: str, show_permissions: bool) -> dict[str, Any]:
    return {
        "symbol": spec.name,
        "status": status,
        "baseAsset": spec.base,
        "baseAssetPrecision": 8,
        "quoteAsset": spec.quote,
        "quotePrecision": 8,
        "quoteAssetPrecision": 8,
        "baseCommissionPrecision": 8,
        "quoteCommissionPrecision": 8,
        "orderTypes": [
            "LIMIT",
            "LIMIT_MAKER",
            "MARKET",
            "STOP_LOSS",
            "STOP_LOSS_LIMIT",
            "TAKE_PROFIT",
            "TAKE_PROFIT_LIMIT",
        ],
        "icebergAllowed": True,
        "ocoAllowed": True,
        "otoAllowed": True,
        "opoAllowed": True,
        "quoteOrderQtyMarketAllowed": True,
        "allowTrailingStop": True,
        "cancelReplaceAllowed": True,
        "amendAllowed": True,
        "pegInstructionsAllowed": True,
        "isSpotTradingAllowed": True,
        "isMarginTradingAllowed": True,
        "filters": _filters(spec, "spot"),
        "permissions": [],
        "permissionSets": [["SPOT", "MARGIN"]] if show_permissions else [],
        "defaultSelfTradePreventionMode": "EXPIRE_MAKER",
        "allowedSelfTradePreventionModes": ["EXPIRE_TAKER", "EXPIRE_MAKER", "EXPIRE_BOTH", "DECREMENT"],
    }
