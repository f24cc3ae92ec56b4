"""Handlers of the REST routes, which `api` declares."""

from __future__ import annotations

import uuid
from functools import partial

from aiohttp import web

from connectors.clickhouse.server import api
from connectors.clickhouse.server.access import authorize
from connectors.clickhouse.server.alert_rules import RuleWriter, read_rule
from connectors.clickhouse.server.answers import CONTENT_TYPES, Answers
from connectors.clickhouse.server.connections import escape
from connectors.clickhouse.server.errors import READONLY, THROWN, QueryError
from connectors.clickhouse.server.openapi import openapi
from connectors.clickhouse.server.query import Query


class Rest:
    """The REST routes of one store.

    :arg answers: Sends rows.
    :arg rules: Writes alert rules.
    :arg database: Of the store.
    :arg password: Expected of every client; "" for none.
    """

    def __init__(self, answers: Answers, rules: RuleWriter, database: str, password: str) -> None:
        self._answers = answers
        self._rules = rules
        self._database = database
        self._password = password

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Add the routes.

        :arg router: Of the application.
        """
        for route in api.ROUTES:
            path = api.PREFIX + route.path
            for each in {path, path.removesuffix("/")}:
                router.add_get(each, partial(self._rows, route))
        router.add_post(f"{api.PREFIX}/alerts", self._add_alert)
        router.add_delete(f"{api.PREFIX}/alerts/{{id}}", self._remove_alert)
        router.add_get(f"{api.PREFIX}/openapi.json", self._openapi)
        router.add_get("/docs", self._docs)
        router.add_get(f"{api.PREFIX}/docs", self._docs)

    async def _rows(self, route: api.Route, request: web.Request) -> web.StreamResponse:
        try:
            authorize(request, self._password)
            form = request.query.get("format", "json")
            if form not in api.FORMATS:
                return _problem(400, f"format={form!r} is not known: expected {', '.join(api.FORMATS)}")
            query = Query(route.sql, self._database, api.FORMATS[form])
            values = route.bind(request.match_info, request.query)
            query.parameters = {name: escape(value) for name, value in values.items()}
            query.settings = dict(route.settings(form))
            if form == "json":
                query.whole = True
                query.content_type = CONTENT_TYPES["JSON"]
            return await self._answers.answer(request, query)
        except api.RequestError as ex:
            return _problem(400, str(ex))
        except QueryError as ex:
            if ex.code == THROWN:
                # The view says that what the path names does not exist.
                return _problem(404, ex.text.partition(": while executing")[0])
            return _problem(ex.status, ex.text)

    async def _add_alert(self, request: web.Request) -> web.Response:
        try:
            authorize(request, self._password)
            # A browser lets a web page send this type to another origin only if that origin allows it.
            if request.content_type != "application/json":
                return _problem(415, "expected Content-Type: application/json")
            made = await self._rules.insert(read_rule(await request.read()))
        except api.RequestError as ex:
            return _problem(400, str(ex))
        except QueryError as ex:
            return _problem(403 if ex.code == READONLY else 400, ex.text)
        return web.json_response(made, status=201)

    async def _remove_alert(self, request: web.Request) -> web.Response:
        try:
            authorize(request, self._password)
            rule_id = str(uuid.UUID(request.match_info["id"]))
            if not await self._rules.delete(rule_id):
                return _problem(404, f"there is no alert rule {rule_id}")
        except ValueError:
            return _problem(400, f"{request.match_info['id']!r} is not the id of an alert rule")
        except QueryError as ex:
            return _problem(403 if ex.code == READONLY else 400, ex.text)
        return web.Response(status=204)

    async def _openapi(self, request: web.Request) -> web.Response:
        return web.json_response(openapi())

    async def _docs(self, request: web.Request) -> web.Response:
        return web.Response(text=api.DOCS.read_text(), content_type="text/html")


def _problem(status: int, text: str) -> web.Response:
    return web.json_response({"error": text}, status=status)
